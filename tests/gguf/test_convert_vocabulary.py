"""Tokenizers of folders in GGUF files: the same ids, or a refusal by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from quire.convert.vocabulary import FolderVocabulary
from quire.errors import (
    ConfigError,
    UnsupportedModelError,
)
from quire.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from quire.gguf.reader import GgufFile
from quire.tokenizer import Tokenizer
from tests.gguf.converting import END, byte_pairs, run, with_tokenizer
from tests.gguf.model_folders import make_model_folder


@pytest.mark.parametrize(
    "kind", list({id(kind): kind for kind in PRE_TOKENIZERS.values() if not kind.is_raw}.values())
)
def test_each_known_way_of_splitting_is_found(tmp_path: Path, kind: PreTokenizer) -> None:
    content = json.loads(byte_pairs().to_str())
    content |= {"normalizer": kind.normalizer, "pre_tokenizer": kind.to_json()}
    content["model"]["ignore_merges"] = kind.ignores_merges
    with_tokenizer(tmp_path, Backend.from_str(json.dumps(content)))
    name = FolderVocabulary(tmp_path).metadata("none", 300)["tokenizer.ggml.pre"]
    found = dataclasses.replace(PRE_TOKENIZERS[str(name)], adds_bos=kind.adds_bos)  # said apart
    assert found == kind


def test_a_pattern_that_keeps_what_matches(tmp_path: Path) -> None:
    """Some folders say that all but the words is removed, which comes to the same."""
    content = json.loads(byte_pairs().to_str())
    steps = PRE_TOKENIZERS["gpt-4o"].to_json()
    assert steps is not None
    content["pre_tokenizer"] = json.loads(json.dumps(steps))
    content["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    with_tokenizer(tmp_path, Backend.from_str(json.dumps(content)))
    assert FolderVocabulary(tmp_path).metadata("none", 300)["tokenizer.ggml.pre"] == "gpt-4o"


def test_architecture_chooses_among_names(tmp_path: Path) -> None:
    content = json.loads(byte_pairs().to_str())
    content |= {"normalizer": {"type": "NFC"}}
    with_tokenizer(tmp_path, Backend.from_str(json.dumps(content)))
    for architecture, name in (("olmoe", "olmo"), ("mpt", "mpt"), ("llama", "olmo")):
        found = FolderVocabulary(tmp_path).metadata(architecture, 300)
        assert found["tokenizer.ggml.pre"] == name


def test_tokens_and_ends(tmp_path: Path) -> None:
    """The rows of the embeddings, and what ends an answer."""
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"), chat_template="{{ messages }}")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [259, 7, 8], "suppress_tokens": [9, 5, 299, 10**6]})
    )
    metadata = GgufFile(run(folder, tmp_path / "model.gguf")).metadata
    tokens = [text.decode() for text in metadata["tokenizer.ggml.tokens"]]  # pyright: ignore
    types = metadata["tokenizer.ggml.token_type"]
    assert tokens[258:262] == ["Ġthe", END, "[PAD260]", "[PAD261]"]
    assert types[258:262].tolist() == [1, 3, 5, 5]  # pyright: ignore
    assert len(tokens) == 300
    ids = [metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert ids == [259, 7, 8]
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.ggml.suppress_tokens"].tolist() == [9, 5, 299]  # pyright: ignore
    assert metadata["tokenizer.chat_template"] == "{{ messages }}"
    again = run(tmp_path / "model.gguf", tmp_path / "again")
    generation = json.loads((again / "generation_config.json").read_text())
    assert sorted(generation["eos_token_id"]) == [7, 8, 259]
    assert generation["suppress_tokens"] == [9, 5, 299]


PIECES = ["▁", "t", "h", "e", "a", "▁a", "he", "▁the", "th", "the", "▁▁"]
"""In the order of their scores, highest first."""


def sentencepiece(pieces: list[str] = PIECES, *, prefix: bool = True) -> Backend:
    """A tokenizer as transformers converts SentencePiece: all cuts of a token, by its score."""
    special = ["<unk>", "<s>", "</s>"]
    texts = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    vocabulary = {text: number for number, text in enumerate(texts)}
    backend = Backend(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(content=" ", left=1, right=0)])
    backend.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in special]
    )
    return backend


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(tmp_path: Path, prefix: bool) -> None:
    """Scores are made of the order of merges, and give the same ids."""
    backend = sentencepiece(prefix=prefix)
    folder = with_tokenizer(
        make_model_folder(tmp_path, "llama2"), backend, eos_token="</s>", bos_token="<s>"
    )
    file = run(folder, tmp_path / "model.gguf")
    metadata = GgufFile(file).metadata
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    types = metadata["tokenizer.ggml.token_type"]
    assert types[:4].tolist() == [3, 3, 3, 6]  # pyright: ignore
    found = Tokenizer.from_folder(run(file, tmp_path / "again")).backend
    for text in ("the heat ate the hat", "a  the", "  tea", "naïve"):
        assert found.encode(text, add_special_tokens=False).ids == (
            backend.encode(text, add_special_tokens=False).ids
        )


def test_sentencepiece_as_a_pre_tokenizer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Newer folders put no space before a text that begins with one, nor after special tokens."""
    content = json.loads(sentencepiece().to_str())
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    content |= {"normalizer": None, "pre_tokenizer": step}
    backend = Backend.from_str(json.dumps(content))
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"), backend, eos_token="</s>")
    with pytest.raises(UnsupportedModelError, match="pre=default writes it all the same"):
        run(folder, tmp_path / "model.gguf")
    with pytest.raises(ConfigError, match="SentencePiece does not: pre=default alone fits"):
        run(folder, tmp_path / "model.gguf", pre="qwen2")
    file = run(folder, tmp_path / "model.gguf", pre="default")
    assert GgufFile(file).metadata["tokenizer.ggml.add_space_prefix"] is True
    assert "not quite the one that was asked for" in caplog.text


def test_tokens_that_no_merge_makes(tmp_path: Path) -> None:
    """By scores a token is made of any two that are there; this tokenizer has one that is not made."""
    content = json.loads(sentencepiece().to_str())
    content["model"]["merges"] = [
        one for one in content["model"]["merges"] if "".join(one) != "the"
    ]
    backend = Backend.from_str(json.dumps(content))
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"), backend, eos_token="</s>")
    with pytest.raises(UnsupportedModelError, match="cannot hold its tokenizer as it is"):
        run(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf"))


def with_step(**step: Any) -> Backend:
    content = json.loads(byte_pairs().to_str())
    return Backend.from_str(json.dumps({**content, **step}))


def unigram() -> Backend:
    return Backend(models.Unigram([("a", 0.0), ("b", -1.0)], unk_id=0))


def test_tokenizers_that_are_refused(tmp_path: Path) -> None:
    digits = with_step(pre_tokenizer={"type": "Digits", "individual_digits": True})
    lowered = sentencepiece()
    lowered.normalizer = normalizers.Lowercase()
    for number, (backend, text) in enumerate(
        [
            (
                digits,
                r"no name in GGUF files \('Digits'\)\. If a known way is near enough, name it",
            ),
            (unigram(), "of the kind 'Unigram'"),
            (lowered, r"changes texts in a way that a GGUF file cannot say \(Lowercase\)"),
        ]
    ):
        folder = make_model_folder(tmp_path / str(number), "llama2")
        with_tokenizer(folder, backend, eos_token=None)
        with pytest.raises(UnsupportedModelError, match=text):
            run(folder, tmp_path / "model.gguf")


def test_more_tokens_than_embeddings(tmp_path: Path) -> None:
    backend = byte_pairs()
    backend.add_tokens([f"<{number}>" for number in range(100)])
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"), backend)
    with pytest.raises(UnsupportedModelError, match=r"has a token 359 .* embeddings of 300"):
        run(folder, tmp_path / "model.gguf")


def test_a_named_way_of_splitting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"), byte_pairs(("2", "2")))
    with pytest.raises(ConfigError, match="did you mean 'smollm'"):
        run(folder, tmp_path / "model.gguf", pre="smolm")
    file = run(folder, tmp_path / "model.gguf", pre="smollm")
    assert GgufFile(file).metadata["tokenizer.ggml.pre"] == "smollm"
    assert "not quite the one that was asked for" in caplog.text
