"""How texts are split, by the names that GGUF files have for it. Ids are compared in `test_tokenizer.py`."""

from __future__ import annotations

import json
import re

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from quire.gguf.pre_tokenizers import PRE_TOKENIZERS, recognise
from tests.gguf.llama_cpp import LLAMA_CPP, llama_cpp

HARD = (
    "",
    " ",
    "  \n\n \r\n\t",
    "I'LL x's CamelCase 1234567 (a)/\n b12 \t",
    "e\u0301 我在apple ²½..\n\n  end",
    "नमस्ते สวัสดี ١٢٣٤ １２ 한국어 ㄅㄆ 「」……",
    "🦙🦙 \u200d \u3000 \x85 <sentinel:12> IMGIMGABZ a_b `c` $1,000.00",
)
DIGITS = list("1234567")


def backend(name: str) -> Tokenizer:
    kind = PRE_TOKENIZERS[name]
    model = {"type": "BPE", "vocab": {}, "merges": []}
    parts = {"normalizer": kind.normalizer, "pre_tokenizer": kind.to_json(), "model": model}
    return Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **parts}))


def pieces(name: str, text: str) -> list[str]:
    """The words, in the letters of bytes where the name has such."""
    tokenizer = backend(name)
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def words(name: str, text: str) -> list[str]:
    return [ByteLevel().decode([piece]) for piece in pieces(name, text)]


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_nothing_is_lost(name: str) -> None:
    """Each name is one that the library takes, and its words are the text."""
    normalizer = backend(name).normalizer
    for text in HARD:
        expected = normalizer.normalize_str(text) if normalizer is not None else text
        if PRE_TOKENIZERS[name].is_raw:
            assert pieces(name, text) == [expected] == [text.replace(" ", "▁")]
        else:
            assert ByteLevel().decode(pieces(name, text)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", ["I", "'", "LL", " x", "'s", " CamelCase", " 1234567", " (", "a", ")/", "\n"]),
        ("smollm", ["I", "'", "LL", " x", "'s", " CamelCase", " ", *DIGITS, " (", "a", ")/", "\n"]),
        ("viking", ["I'LL", " x's", " CamelCase", " ", *DIGITS, " (", "a", ")", "/", "\n"]),
        ("bloom", ["I'LL", " x's", " CamelCase", " 1234567", " (", "a", ")", "/", "\n"]),
        (
            "llama-bpe",
            ["I", "'LL", " x", "'s", " CamelCase", " ", "123", "456", "7", " (", "a", ")/\n"],
        ),
        ("qwen2", ["I", "'LL", " x", "'s", " CamelCase", " ", *DIGITS, " (", "a", ")/\n"]),
        ("seed-coder", ["I", "'LL", " x", "'s", " CamelCase", " ", *DIGITS, " (", "a", ")/", "\n"]),
        ("gpt-4o", ["I'LL", " x's", " Camel", "Case", " ", "123", "456", "7", " (", "a", ")/\n"]),
        ("tekken", ["I", "'LL", " x", "'s", " Camel", "Case", " ", *DIGITS, " (", "a", ")/\n"]),
        ("tiny_aya", ["I'LL", " x's", " Camel", "Case", " ", "1", "234", "567", " (", "a", ")/\n"]),
        ("kimi-k2", ["I'LL", " x's", " Camel", "Case", " ", "123", "456", "7", " (", "a", ")/\n"]),
        (
            "deepseek-v3",
            ["I", "'LL", " x", "'s", " CamelCase", " ", "123", "456", "7", " (", "a", ")/\n"],
        ),
        (
            "deepseek-llm",
            ["I", "'", "LL", " x", "'", "s", " CamelCase", " ", *DIGITS, " (", "a", ")/", "\n"],
        ),
        (
            "afmoe",
            ["I", "'LL", " x", "'s", " CamelCase", " ", "1", "234", "567", " (", "a", ")/\n"],
        ),
        ("superbpe", ["I'LL x's CamelCase ", "1", "234", "567", " (a)/\n"]),
    ],
)
def test_english(name: str, expected: list[str]) -> None:
    assert words(name, "I'LL x's CamelCase 1234567 (a)/\n") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", ["e", "\u0301", " 我在apple", " ²½", "..", "\n\n ", " end"]),
        ("olmo", ["é", " 我在apple", " ²½", "..", "\n\n ", " end"]),
        ("command-r", ["é", " 我在apple", " ", "²", "½", "..", "\n\n ", " end"]),
        ("llama-bpe", ["e", "\u0301", " 我在apple", " ", "²½", "..\n\n", " ", " end"]),
        ("qwen2", ["é", " 我在apple", " ", "²", "½", "..\n\n", " ", " end"]),
        ("gpt-4o", ["e\u0301", " 我在apple", " ", "²½", "..\n\n", " ", " end"]),
        ("kimi-k2", ["e\u0301", " ", "我在", "apple", " ", "²½", "..\n\n", " ", " end"]),
        (
            "deepseek-coder",
            ["e", "\u0301", " ", "我在", "apple", " ", "²", "½", "..", "\n", "\n", " ", " end"],
        ),
    ],
)
def test_other_scripts(name: str, expected: list[str]) -> None:
    assert words(name, "e\u0301 我在apple ²½..\n\n  end") == expected


def test_falcon_looks_for_digits_among_letters_of_bytes() -> None:
    """As its `tokenizer.json` does: ¼ is a letter of a byte that `м` has, and counts as a number."""
    assert pieces("falcon", "м 12345") == ["Ð", "¼", "Ġ", "123", "45"]


def test_names_are_those_of_llama_cpp() -> None:
    """One of its 91 is refused: "whitespace" drops the spaces."""
    folder = llama_cpp()
    if folder is None:
        pytest.skip(f"{LLAMA_CPP} names no folder with the sources of llama.cpp")
    source = (folder / "src" / "llama-vocab.cpp").read_text(encoding="utf-8")
    names = set(re.findall(r'tokenizer_pre == "([^"]+)"', source))
    assert names - set(PRE_TOKENIZERS) == {"whitespace"}
    assert set(PRE_TOKENIZERS) <= names


def test_recognised_by_architecture() -> None:
    assert recognise("llama4", ()) == "llama4"
    assert recognise("qwen3moe", ()) == "qwen2"
    assert recognise("granite", ()) is None  # its models split in several ways
    assert recognise("llama", {"<s>"}) is None
    assert recognise("llama", {"<|begin_of_text|>", "<|eot_id|>"}) == "llama-bpe"
    for architecture in ("gpt2", "olmo2", "gpt-oss", "chatglm", "exaone4", "mistral3"):
        assert recognise(architecture, ()) in PRE_TOKENIZERS
