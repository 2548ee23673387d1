"""A job knows its model again: its folder, its GGUF file, its name in Ollama's store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quire.batch.arguments import get_batch_args
from quire.batch.binding import settings_of
from tests.gguf.chat_files import write_chat, write_split
from tests.gguf.ollama_store import OllamaStore


def bound(name: str | Path) -> str | None:
    values = {"model_name_or_path": str(name), "output_dir": "out"}
    args = get_batch_args(values, has_rows=True)
    return settings_of(args, {}, {})["the model's files"]


def name_file(tmp_path: Path) -> tuple[str, Path]:
    path = write_chat(tmp_path / "m-Q4_0.gguf")
    return str(path), path


def name_part(tmp_path: Path) -> tuple[str, Path]:
    paths = write_split(tmp_path, "m-Q4_0")
    return str(paths[0]), paths[2]


def name_quant(tmp_path: Path) -> tuple[str, Path]:
    write_chat(tmp_path / "m-Q8_0.gguf")
    return f"{tmp_path}:Q4_0", write_chat(tmp_path / "m-Q4_0.gguf")


@pytest.mark.parametrize("make", [name_file, name_part, name_quant])
def test_a_changed_gguf_file_is_seen(
    tmp_path: Path, make: Callable[[Path], tuple[str, Path]]
) -> None:
    name, path = make(tmp_path)
    before, content = bound(name), path.read_bytes()
    assert before is not None
    assert bound(name) == before
    changed = bytearray(content)
    changed[-100] ^= 1
    path.write_bytes(changed)
    assert bound(name) != before
    path.write_bytes(content)
    assert bound(name) == before


def test_any_byte_of_the_header_counts(tmp_path: Path) -> None:
    template = {"tokenizer.chat_template": "x" * 6_000_000}
    path = write_chat(tmp_path / "m.gguf", template)
    before, content = bound(path), bytearray(path.read_bytes())
    content[content.index(b"x" * 100) + 3_456_789] = ord("y")
    path.write_bytes(content)
    assert bound(path) != before


def test_what_ollama_sets_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    store = OllamaStore(tmp_path / "models")
    layer = store.layer("model", write_chat(tmp_path / "m.gguf").read_bytes())
    name = "registry.ollama.ai/library/a/latest"
    store.name(name, store.manifest(layer))
    before = bound("ollama:a")
    assert before is not None
    store.name(name, store.manifest(layer, store.layer("license", b"MIT")))
    assert bound("ollama:a") == before
    store.name(name, store.manifest(layer, store.layer("params", {"top_k": 3})))
    assert bound("ollama:a") != before


@pytest.mark.parametrize("name", ["owner/name", "owner/name:Q4_K_M", "not-here.gguf"])
def test_models_that_are_elsewhere(name: str) -> None:
    assert bound(name) is None
