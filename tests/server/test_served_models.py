"""The name under which a model is served, where none is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.server.served_models import default_name


def test_what_is_here_has_the_name_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some-model"
    folder.mkdir()
    for name in ("m-Q4_0.gguf", "m-Q8_0-00001-of-00003.gguf", "sha256-0"):
        (folder / name).write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    for given, name in {
        str(folder): "some-model",
        "some-model/": "some-model",
        f"{folder}/m-Q4_0.gguf": "m-Q4_0",
        "some-model/m-Q8_0-00001-of-00003.gguf": "m-Q8_0",
        f"{folder}/sha256-0": "sha256-0",
        f"{folder}:Q4_0": "some-model:Q4_0",
    }.items():
        assert default_name(given) == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("owner/name", "owner/name"),
        ("owner/name:Q4_K_M", "owner/name:Q4_K_M"),
        ("ollama:llama3.2", "llama3.2"),
        ("ollama:hf.co/bartowski/x:Q4_K_M", "hf.co/bartowski/x:Q4_K_M"),
        ("demo", "demo"),
    ],
)
def test_other_names_stay(given: str, name: str) -> None:
    assert default_name(given) == name
