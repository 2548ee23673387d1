"""Tokenizers of GGUF files, loaded as quire loads a folder's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import UnsupportedModelError, WeightsError
from quire.prompt import Span
from tests.gguf.tokenizer_files import (
    BYTES,
    CONTROL,
    GGML,
    LETTERS,
    NORMAL,
    USER_DEFINED,
    byte_pairs,
    load,
    make,
    opened,
    sentencepiece,
    texts,
)

HELLO = ["▁", "h", "e", "l", "o", "w", "r", "d", "ll", "he", "llo", "hello", "▁hello", "▁w", "▁▁"]


def test_sentencepiece(tmp_path: Path) -> None:
    """Spaces, bytes for what is not there, special tokens in a text, and back to text."""
    tokenizer = opened(tmp_path, sentencepiece(HELLO))
    assert texts(tokenizer, "hello  world") == ["▁hello", "▁", "▁w", "o", "r", "l", "d"]
    assert texts(tokenizer, "ä") == ["▁", "<0xC3>", "<0xA4>"]
    assert tokenizer.decode(tokenizer.encode("hello  wörld\n")) == "hello  wörld\n"
    assert tokenizer.encode_whole("hello") == [1, *tokenizer.encode("hello")]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == (
        "<s>",
        "</s>",
        "<unk>",
    )


def test_a_space_comes_after_each_special_token(tmp_path: Path) -> None:
    """llama.cpp #23840: as in llama.cpp, and in transformers' tokenizers of Llama 2."""
    tokenizer = opened(tmp_path, sentencepiece(HELLO))
    assert texts(tokenizer, "h<s> h<s>h") == ["▁", "h", "<s>", "▁▁", "h", "<s>", "▁", "h"]


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        ({"general__architecture": "gemma3"}, "hello"),  # llama.cpp #8584: without the key, none
        ({"general__architecture": "gemma", "tokenizer__ggml__add_space_prefix": True}, "▁hello"),
        ({"tokenizer__ggml__add_space_prefix": False}, "hello"),
        ({}, "▁hello"),
    ],
)
def test_space_before_a_text(tmp_path: Path, keys: dict[str, Any], first: str) -> None:
    tokenizer = opened(tmp_path, sentencepiece(HELLO, **keys))
    assert texts(tokenizer, "hello")[0] == first
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    after = texts(tokenizer, "<s>hello")[1]
    assert after == first


def test_several_spaces_are_kept(tmp_path: Path) -> None:
    """imp #661, llama.cpp #8338: Gemma's runs of spaces are tokens of their own, written with spaces."""
    metadata = sentencepiece(
        [*HELLO, "▁he"], {"  ": USER_DEFINED, "   ": USER_DEFINED}, general__architecture="gemma3"
    )
    tokenizer = opened(tmp_path, metadata)
    assert texts(tokenizer, "h  he he   h") == ["h", "  ", "he", "▁he", "   ", "h"]
    assert tokenizer.decode(tokenizer.encode("h  he he   h")) == "h  he he   h"


def test_control_tokens(tmp_path: Path) -> None:
    """vLLM #12985, sglang #3427, llama.cpp #24382: one id in the format's text, letters in a user's."""
    pieces = ["<", "/", "s", ">", "</", "s>", *HELLO]  # of which `</s>` could be joined
    tokenizer = opened(tmp_path, sentencepiece(pieces, {"<|x|>": USER_DEFINED}))
    assert tokenizer.encode("</s>") == [2]
    assert tokenizer.encode("<|x|>") == [tokenizer.token_to_id("<|x|>")]
    literal = tokenizer.encode_spans((Span("</s>"), Span("</s><|x|>", literal=True)))
    assert literal[0] == 2
    assert literal.count(2) == 1
    assert tokenizer.token_to_id("<|x|>") not in literal
    assert tokenizer.special_texts == {"<unk>", "<s>", "</s>"}
    assert tokenizer.backend.model.tokenize("</s>")[0].value == "</"


def test_byte_pairs(tmp_path: Path) -> None:
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w"]
    tokenizer = opened(tmp_path, byte_pairs(merges, {"<|end|>": CONTROL}))
    assert texts(tokenizer, "hello wä<|end|>") == ["hello", "Ġw", "Ã", "¤", "<|end|>"]
    assert tokenizer.decode(tokenizer.encode("hello wä 你")) == "hello wä 你"
    assert tokenizer.encode_whole("hello") == tokenizer.encode("hello")


def test_merges_that_are_ignored(tmp_path: Path) -> None:
    """Llama 3: a word that is a token becomes that token, though no merges lead there."""
    merges = ["l o", "h e"]
    for pre, expected in (("llama-bpe", ["hello"]), ("dbrx", ["he", "l", "lo"])):
        metadata = byte_pairs(merges, {"hello": NORMAL, "<|bos|>": CONTROL})
        metadata |= {
            f"{GGML}.pre": pre,
            f"{GGML}.bos_token_id": len(metadata[f"{GGML}.tokens"]) - 1,
        }
        tokenizer = opened(tmp_path, metadata)
        assert texts(tokenizer, "hello") == expected
        whole = tokenizer.encode_whole("hello")
        assert (whole[0] == tokenizer.bos_token_id) == (pre == "llama-bpe")


def test_raw_byte_pairs(tmp_path: Path) -> None:
    """llama.cpp #23252: Gemma 4 has texts as they are, and no normal form: `Café` is by its vocabulary."""
    letters = ["▁", "C", "a", "f", "é", "e", "\n"]
    merges = ["C a", "f é", "Ca fé", "▁ Café"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES, *letters, "Ca", "fé", "Café", "▁Café"]
    types = [*[CONTROL] * 4, *BYTES.values(), *[NORMAL] * 11]
    metadata = {
        "general.architecture": "gemma4",
        f"{GGML}.model": "gemma4",
        f"{GGML}.tokens": tokens,
        f"{GGML}.token_type": np.array(types, np.int32),
        f"{GGML}.merges": merges,
        f"{GGML}.bos_token_id": 2,
        f"{GGML}.eos_token_id": 1,
        f"{GGML}.unknown_token_id": 3,
        f"{GGML}.add_bos_token": False,
    }
    tokenizer = opened(tmp_path, metadata)
    assert texts(tokenizer, "Café Café") == ["Café", "▁Café"]
    assert texts(tokenizer, "Cafe\u0301") == ["Ca", "f", "e", "<0xCC>", "<0x81>"]
    assert tokenizer.decode(tokenizer.encode("Café Cafe\u0301\n")) == "Café Cafe\u0301\n"
    assert tokenizer.encode_whole("Café")[0] == 2  # whatever the file says, as llama.cpp has it


# ---- BOS, ends, templates


def test_no_comma_is_bos(tmp_path: Path) -> None:
    """llama.cpp #7898: without keys its BOS of byte pairs is token 11, a comma in many vocabularies."""
    made = make(tmp_path, byte_pairs(["h e"]))
    assert "bos_token" not in made.config
    assert made.end_ids == ()
    assert not made.config["add_bos_token"]
    wrong = byte_pairs(
        ["h e"], tokenizer__ggml__bos_token_id=11, tokenizer__ggml__add_bos_token=True
    )
    made = make(tmp_path, wrong)
    assert wrong[f"{GGML}.tokens"][11] == ","
    assert "bos_token" not in made.config
    assert not made.config["add_bos_token"]
    assert any("add_bos_token" in note for note in made.notes)
    assert "," not in load(tmp_path, made).special_texts


def test_one_bos_where_the_template_writes_it(tmp_path: Path) -> None:
    """llama-cpp-python #1501: a chat is encoded as its template writes it, with nothing put around."""
    template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
    metadata = sentencepiece(HELLO, tokenizer__chat_template=template)
    tokenizer = opened(tmp_path, {**metadata, f"{GGML}.add_bos_token": True})
    assert tokenizer.chat_template == template
    assert tokenizer.encode("<s>hello").count(1) == 1
    assert tokenizer.encode_whole("hello").count(1) == 1


def test_what_a_template_writes_is_kept_without_bos(tmp_path: Path) -> None:
    """llama.cpp #15086: GLM writes `[gMask]<sop>`, which is no BOS to take away."""
    added = {"<|endoftext|>": CONTROL, "[gMask]": CONTROL, "<sop>": CONTROL}
    metadata = byte_pairs(["h e"], added, tokenizer__ggml__pre="glm4")
    first = len(metadata[f"{GGML}.tokens"]) - 2
    metadata |= {f"{GGML}.bos_token_id": first, f"{GGML}.add_bos_token": False}
    tokenizer = opened(tmp_path, metadata)
    assert tokenizer.encode("[gMask]<sop>he")[:2] == [first, first + 1]
    assert tokenizer.encode_whole("he") == tokenizer.encode("he")


def test_eos_after_a_text(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, sentencepiece(HELLO, tokenizer__ggml__add_eos_token=True))
    assert tokenizer.encode_whole("hello") == [1, *tokenizer.encode("hello"), 2]


def ends(tmp_path: Path, added: Mapping[str, int], **keys: Any) -> list[str]:
    metadata = byte_pairs(["h e", "< /", "</ s", "</s >"], added)
    if isinstance(eos := keys.get(f"{GGML}.eos_token_id"), str):
        keys[f"{GGML}.eos_token_id"] = metadata[f"{GGML}.tokens"].index(eos)
    made = make(tmp_path, {**metadata, **keys})
    return [metadata[f"{GGML}.tokens"][number] for number in made.end_ids]


def test_ends(tmp_path: Path) -> None:
    """Named ones and those that are known by their texts, EOS first."""
    added = {"<end_of_turn>": CONTROL, "<eos>": CONTROL, "<|fim_pad|>": CONTROL, "<x>": CONTROL}
    eos = {f"{GGML}.eos_token_id": "<eos>"}
    assert ends(tmp_path, added, **eos) == ["<eos>", "<end_of_turn>", "<|fim_pad|>"]
    chosen = {f"{GGML}.eot_token_id": len(LETTERS) + 7}
    assert ends(tmp_path, added, **eos, **chosen)[-1] == "<x>"


def test_phi3_ends_by_text(tmp_path: Path) -> None:
    """mistral.rs #1012: the file's EOS is `<|endoftext|>`, and answers end with `<|end|>`."""
    added = {"<|endoftext|>": CONTROL, "<|assistant|>": CONTROL, "<|end|>": CONTROL}
    found = ends(tmp_path, added, **{f"{GGML}.eos_token_id": "<|endoftext|>"})
    assert found == ["<|endoftext|>", "<|end|>"]


def test_texts_that_end_something_else(tmp_path: Path) -> None:
    harmony = {"<|return|>": CONTROL, "<|call|>": CONTROL, "<|end|>": CONTROL}
    assert ends(tmp_path, harmony) == ["<|return|>", "<|call|>"]
    solar = {"<|flush|>": CONTROL, "<|calls|>": CONTROL, "<|end|>": CONTROL}
    assert ends(tmp_path, solar) == ["<|flush|>", "<|calls|>"]


def test_html_ends_no_answer(tmp_path: Path) -> None:
    """LM Studio #1143: `</s>` is an end only as a control token. In Qwen 2 and Gemma it is HTML."""
    assert ends(tmp_path, {"<turn|>": CONTROL}) == ["<turn|>"]
    made = make(tmp_path, byte_pairs(["< /", "</ s", "</s >"], {"<turn|>": CONTROL}))
    assert load(tmp_path, made).special_texts == {"<turn|>"}
    assert make(tmp_path, sentencepiece(HELLO)).end_ids == (2,)
    gemma4 = sentencepiece(HELLO, {"<|tool_response>": CONTROL})
    gemma4 |= {f"{GGML}.eos_token_id": 259}
    assert make(tmp_path, gemma4).end_ids == (259,)


def test_ends_become_control_tokens(tmp_path: Path) -> None:
    """A conversion that calls them normal would otherwise never stop."""
    tokenizer = opened(tmp_path, byte_pairs(["h e"], {"<|im_end|>": NORMAL}))
    assert tokenizer.special_texts == {"<|im_end|>"}
    assert len(tokenizer.encode("<|im_end|>")) == 1


def test_white_space_after_phi3_tokens(tmp_path: Path) -> None:
    added = {"<|user|>": CONTROL, "<|endoftext|>": CONTROL}
    phi3 = opened(tmp_path, sentencepiece(HELLO, added, general__name="Phi-3 mini"))
    assert texts(phi3, "<|user|> \n<|endoftext|>") == ["<|user|>", "<|endoftext|>"]
    assert texts(phi3, "<|endoftext|>\n") == ["<|endoftext|>", "▁", "<0x0A>"]
    other = opened(tmp_path, sentencepiece(HELLO, added))
    assert texts(other, "<|user|>\n") == ["<|user|>", "▁", "<0x0A>"]


def test_templates(tmp_path: Path) -> None:
    named = {
        "tokenizer.chat_template": "one",
        "tokenizer.chat_template.tool_use": "two",
        "tokenizer.chat_template.rag": "",
        "tokenizer.chat_templates": ["tool_use", "rag"],
    }
    tokenizer = opened(tmp_path, sentencepiece(HELLO) | named)
    assert tokenizer.chat_template == {"default": "one", "tool_use": "two"}
    assert opened(tmp_path, sentencepiece(HELLO)).chat_template is None


def test_missing_pre(tmp_path: Path) -> None:
    """Split in the usual way, with a note."""
    metadata = byte_pairs(["h e"])
    del metadata[f"{GGML}.pre"]
    made = make(tmp_path, metadata)
    assert len(made.notes) == 1
    assert f"{GGML}.pre is missing" in made.notes[0]
    assert "gguf" not in made.notes[0]
    assert texts(load(tmp_path, made), "1234") == ["1", "2", "3", "4"]


def test_pre_by_architecture(tmp_path: Path) -> None:
    """ollama #17698: llama4 with the name "default" had 8 to 10 % more tokens."""
    merges = ["C a", "Ca s", "Cas e", "1 2", "12 3", "123 4"]
    metadata = byte_pairs(merges, general__architecture="llama4", tokenizer__ggml__pre="default")
    made = make(tmp_path, metadata)
    assert "'llama4'" in made.notes[0]
    tokenizer = load(tmp_path, made)
    assert texts(tokenizer, "aCase1234") == ["a", "Case", "123", "4"]


# ---- what is refused, and what is mended


def refused(tmp_path: Path, metadata: Mapping[str, Any], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        make(tmp_path, metadata)
    assert "model.gguf" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{GGML}.scores": np.zeros(3, np.float32)}, ["scores has 3 numbers", "there are 27"]),
        ({f"{GGML}.token_type": np.zeros(3, np.int32)}, ["token_type has 3 numbers"]),
        ({f"{GGML}.scores": np.zeros(274, np.float64)}, ["scores", "float32 or int32"]),
        ({f"{GGML}.token_type": np.zeros(274, np.float32)}, ["token_type", "int32 or uint32"]),
        ({f"{GGML}.token_type": "x"}, ["token_type", "no list of numbers"]),
        ({f"{GGML}.tokens": np.zeros(274, np.int32)}, ["tokens is no list of texts"]),
        ({f"{GGML}.tokens": None}, ["tokens is missing"]),
        ({f"{GGML}.scores": None}, ["scores is missing"]),
        ({f"{GGML}.bos_token_id": "one"}, ["bos_token_id is 'one'"]),
        ({f"{GGML}.eos_token_id": True}, ["eos_token_id is True"]),
        ({f"{GGML}.add_bos_token": 1}, ["add_bos_token is 1", "true or false"]),
        ({f"{GGML}.add_space_prefix": 0}, ["add_space_prefix is 0"]),
        ({f"{GGML}.suppress_tokens": "x"}, ["suppress_tokens"]),
        ({"tokenizer.chat_template": 1}, ["chat_template is no text"]),
        ({"tokenizer.chat_template.x": "x" * 1_100_000}, ["chat_template.x", "1,100,000"]),
    ],
)
def test_contradictions(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    metadata = {**sentencepiece(HELLO), **change}
    assert len(HELLO) + 259 == 274
    metadata = {key: value for key, value in metadata.items() if value is not None}
    error = refused(tmp_path, metadata, WeightsError)
    assert all(word in error for word in words), error


def test_scores_are_numbers(tmp_path: Path) -> None:
    metadata = sentencepiece(HELLO)
    metadata[f"{GGML}.scores"][3] = np.nan
    assert "finite" in refused(tmp_path, metadata, WeightsError)
    metadata[f"{GGML}.scores"] = (-np.arange(274)).astype(np.int32)  # as old converters wrote them
    assert texts(opened(tmp_path, metadata), "hello") == ["▁hello"]


def test_vocabularies_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made of them would take many times their size."""
    error = refused(tmp_path, sentencepiece([*HELLO, "x" * (1 << 24)]), WeightsError)
    assert "16,777,216 are the most" in error
    monkeypatch.setattr("quire.gguf.token_vocabulary._MOST_TEXTS", 273)
    assert "tokens has 274 texts" in refused(tmp_path, sentencepiece(HELLO), WeightsError)
    empty = {**byte_pairs(["h e"]), f"{GGML}.tokens": ["a"], f"{GGML}.merges": ["a"] * 274}
    del empty[f"{GGML}.token_type"]
    assert "merges has 274 texts" in refused(tmp_path, empty, WeightsError)


@pytest.mark.parametrize("name", ["<0x-1>", "<0x100>", "<0x0G>", "x"])
def test_byte_tokens_are_named_so(tmp_path: Path, name: str) -> None:
    metadata = sentencepiece(HELLO)
    metadata[f"{GGML}.tokens"][3] = name
    assert name in refused(tmp_path, metadata, WeightsError)


@pytest.mark.parametrize("merge", ["h x\u4e00", "h", "he l", "", " h e"])
def test_merges_are_of_tokens(tmp_path: Path, merge: str) -> None:
    metadata = byte_pairs(["h e"])
    metadata[f"{GGML}.merges"] = ["h e", merge]
    error = refused(tmp_path, metadata, WeightsError)
    assert "merge 1" in error
    assert repr(merge) in error


def test_merges_are_there(tmp_path: Path) -> None:
    metadata = byte_pairs(["h e"])
    del metadata[f"{GGML}.merges"]
    assert "merges is missing" in refused(tmp_path, metadata, WeightsError)


def test_kimi_needs_no_merges(tmp_path: Path) -> None:
    """Its vocabulary is tiktoken's, in the order of merges."""
    metadata = byte_pairs(["h e", "l l", "he ll", "hell o"], tokenizer__ggml__pre="kimi-k2")
    del metadata[f"{GGML}.merges"]
    assert texts(opened(tmp_path, metadata), "hello hell") == ["hello", "Ġ", "hell"]


@pytest.mark.parametrize(
    "model", ["bert", "t5", "rwkv", "plamo2", "whitespace", "hybriddna", "x" * 99]
)
def test_other_kinds(tmp_path: Path, model: str) -> None:
    metadata = {**sentencepiece(HELLO), f"{GGML}.model": model}
    error = refused(tmp_path, metadata, UnsupportedModelError)
    assert model[:40] in error
    assert "folder" in error


def test_no_tokenizer(tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama"}
    assert f"{GGML}.model is missing" in refused(tmp_path, metadata, UnsupportedModelError)


@pytest.mark.parametrize("pre", ["whitespace", "of-tomorrow"])
def test_unknown_pre(tmp_path: Path, pre: str) -> None:
    error = refused(tmp_path, byte_pairs(["h e"], tokenizer__ggml__pre=pre), UnsupportedModelError)
    assert repr(pre) in error


def test_ids_that_no_token_has(tmp_path: Path) -> None:
    """Files of 2023 have them. The default holds only where there is such a token."""
    metadata = sentencepiece(HELLO, tokenizer__ggml__padding_token_id=274)
    made = make(tmp_path, {**metadata, f"{GGML}.eos_token_id": 2**32 - 1})
    assert "pad_token" not in made.config
    assert made.config["eos_token"] == "</s>"
    assert [note.split(" is ")[0] for note in made.notes] == [
        f"{GGML}.eos_token_id",
        f"{GGML}.padding_token_id",
    ]
    one = {
        f"{GGML}.model": "llama",
        f"{GGML}.tokens": ["a"],
        f"{GGML}.scores": np.zeros(1, np.float32),
    }
    made = make(tmp_path, one)
    assert made.end_ids == ()
    assert "bos_token" not in made.config


def test_files_without_types(tmp_path: Path) -> None:
    metadata = sentencepiece(HELLO)
    del metadata[f"{GGML}.token_type"]
    made = make(tmp_path, metadata)
    assert made.end_ids == (2,)
    tokenizer = load(tmp_path, made)
    assert tokenizer.special_texts == {"<unk>", "<s>", "</s>"}
    assert texts(tokenizer, "hello</s>") == ["▁hello", "</s>"]


def test_control_tokens_alone(tmp_path: Path) -> None:
    """Nothing to join, and no token that a text could become."""
    only = {
        f"{GGML}.model": "llama",
        f"{GGML}.tokens": ["<unk>", "<s>", "</s>"],
        f"{GGML}.scores": np.zeros(3, np.float32),
        f"{GGML}.token_type": np.full(3, CONTROL, np.int32),
    }
    tokenizer = opened(tmp_path, only)
    assert texts(tokenizer, "<s>x</s>") == ["<s>", "<unk>", "</s>"]


def test_tokens_that_no_text_becomes(tmp_path: Path) -> None:
    """Invalid, empty and repeated tokens keep their ids, under names of their own."""
    metadata = sentencepiece([*HELLO, "x1", "x2", "x3", "x4", "[EMPTY_275]"])
    odd = [b"\xff\xfe", b"", b"hello", b"\xed\xa0\x80"]
    metadata[f"{GGML}.tokens"] = [*(t.encode() for t in metadata[f"{GGML}.tokens"])]
    metadata[f"{GGML}.tokens"][274:278] = odd
    made = make(tmp_path, metadata)
    tokenizer = load(tmp_path, made)
    names = [tokenizer.id_to_token(number) for number in range(274, 279)]
    assert names == [
        "[INVALID_274]",
        "[[EMPTY_275]]",
        "[DUPLICATE_276]",
        "[INVALID_277]",
        "[EMPTY_275]",
    ]
    assert texts(tokenizer, "hello") == ["▁hello"]
    assert [note[:20] for note in made.notes] == ["2 tokens (the first ", "token 276 is there b"]
    assert "274" in made.notes[0]


def test_suppressed_tokens(tmp_path: Path) -> None:
    suppressed = {f"{GGML}.suppress_tokens": np.array([5, -1, 9999, 7], np.int32)}
    assert make(tmp_path, sentencepiece(HELLO) | suppressed).suppressed == (5, 7)
