"""Older tokenizers are converted once for all that a conversion follows from, and whatever the cache is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from transformers import AutoTokenizer

from quire.tokenizer import Tokenizer
from quire.tokenizer import folder as folder_module
from tests.tokenizer.kinds import make_backend

TEXT = "Hello, world  hello"

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folder of each conversion."""
    made: list[str] = []
    plain = AutoTokenizer.from_pretrained

    def counted(path: str, **options: Any) -> Any:
        made.append(path)
        return plain(path, **options)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", counted)
    return made


def write(folder: Path) -> Path:
    """GPT-2's form: vocab.json and merges.txt."""
    folder.mkdir()
    make_backend("byte_bpe").model.save(str(folder))
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|a|>", "unk_token": "<|a|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    return folder


def ids_of(folder: Path) -> list[int]:
    return Tokenizer.from_folder(folder).encode(TEXT)


@pytest.fixture(scope="module")
def pieces() -> bytes:
    """A small SentencePiece model."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world", "Hello, worlds and words", "hello hello"] * 20),
        model_writer=written,
        vocab_size=60,
        model_type="unigram",
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
    )
    return written.getvalue()


def test_folders_with_one_tokenizer_model_share_nothing(tmp_path: Path, pieces: bytes) -> None:
    """How its pieces are read depends on the model's type, which config.json says."""
    found: set[tuple[int, ...]] = set()
    for kind in ("llama", "gemma", "t5"):
        folder = tmp_path / kind
        folder.mkdir()
        name = "spiece.model" if kind == "t5" else "tokenizer.model"
        (folder / name).write_bytes(pieces)
        (folder / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
        theirs = AutoTokenizer.from_pretrained(str(folder))
        for _ in range(2):
            assert ids_of(folder) == theirs.encode(TEXT, add_special_tokens=False)
        found.add(tuple(ids_of(folder)))
    assert len(found) > 1


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
     "vocab.json", "other.model", "chat_template.jinja"],
)  # fmt: skip
def test_each_file_counts(name: str, tmp_path: Path, conversions: list[str]) -> None:
    folder = write(tmp_path / "model")
    ids = ids_of(folder)
    assert ids_of(folder) == ids
    assert len(conversions) == 1
    path = folder / name
    before = path.read_text("utf-8") if path.is_file() else "{}"
    path.write_text(f"{before}\n", encoding="utf-8")
    assert ids_of(folder) == ids
    assert len(conversions) == 2


def test_weights_do_not_count(tmp_path: Path, conversions: list[str]) -> None:
    folder = write(tmp_path / "model")
    ids_of(folder)
    (folder / "model.safetensors").write_bytes(b"new")
    ids_of(folder)
    assert len(conversions) == 1


def test_another_version_of_transformers_converts_anew(
    tmp_path: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "model")
    ids_of(folder)
    monkeypatch.setattr(folder_module, "_version_of", lambda package: "99")
    ids_of(folder)
    assert len(conversions) == 2


def in_the_way(kept: Path) -> None:
    for path in kept.iterdir():
        path.unlink()
    kept.rmdir()
    kept.write_text("in the way")


def damaged(kept: Path) -> None:
    (path,) = kept.iterdir()
    path.write_bytes(path.read_bytes().replace(b"vocab", b"VOCAB"))


def empty(kept: Path) -> None:
    (path,) = kept.iterdir()
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [in_the_way, damaged, empty, lambda kept: kept.chmod(0o777)])
def test_a_cache_that_cannot_be_used_costs_time_alone(
    harm: Callable[[Path], None], tmp_path: Path, own_cache: Path, conversions: list[str]
) -> None:
    folder = write(tmp_path / "model")
    ids = ids_of(folder)
    harm(own_cache)
    assert ids_of(folder) == ids
    assert len(conversions) == 2
