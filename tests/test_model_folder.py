"""What `model_name_or_path` may be, and folders that are given as a model and are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.arguments import ModelArguments
from quire.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from quire.gguf.folder import gguf_file_of
from quire.model_folder import find_model, find_model_folder, is_local, is_on_hub
from tests.gguf.chat_files import write_chat, write_other, write_split
from tests.gguf.ollama_store import OllamaStore


def find(folder: Path) -> Path:
    return find_model_folder(ModelArguments(model_name_or_path=str(folder)))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"base_model_name_or_path": "someone/small"}, "someone/small as model_name_or_path"),
        ({}, "the model that it was trained on as model_name_or_path"),
        ({"base_model_name_or_path": 3}, "the model that it was trained on"),
    ],
)
def test_an_adapter_is_no_model(tmp_path: Path, config: dict[str, object], named: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFoundError, match=named) as caught:
        find(tmp_path)
    assert f"{tmp_path} is an adapter" in str(caught.value)
    (tmp_path / "config.json").write_text("{}")
    assert find(tmp_path) == tmp_path, "a merged model may keep the adapter's config"


# ---- GGUF models


@pytest.mark.parametrize(
    "name", ["m.gguf", "m.GGUF", "sha256-0", "a:b.gguf", "ollama:x", "C:model"]
)
def test_a_gguf_file_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever it is called: names with colons are files where they exist."""
    monkeypatch.chdir(tmp_path)
    write_chat(tmp_path / "m.gguf").rename(tmp_path / name)
    folder = find(Path(name))
    assert gguf_file_of(folder) == tmp_path / name
    assert (folder / "config.json").is_file()
    assert is_local(name)
    assert find_model(ModelArguments(model_name_or_path=name)) == Path(name)


def test_a_folder_with_one_gguf_model(tmp_path: Path) -> None:
    whole = write_chat(tmp_path / "m-Q4_0.gguf")
    write_other(tmp_path / "mmproj-F16.gguf", "mmproj")
    (tmp_path / "config.json").write_text("{}")
    assert gguf_file_of(find(tmp_path)) == whole
    (tmp_path / "model.safetensors").touch()
    assert find(tmp_path) == tmp_path, "safetensors come first"
    assert gguf_file_of(find(Path(f"{tmp_path}:Q4_0"))) == whole
    with pytest.raises(ModelNotFoundError, match=r"no GGUF model Q8_0; it has Q4_0"):
        find(Path(f"{tmp_path}:Q8_0"))


def test_a_folder_with_two(tmp_path: Path) -> None:
    write_chat(tmp_path / "m-Q4_0.gguf")
    second = write_chat(tmp_path / "m-Q8_0.gguf")
    with pytest.raises(ModelNotFoundError, match=r"has 2 GGUF models: Q[48]_0") as caught:
        find(tmp_path)
    assert f"{tmp_path}:Q" in str(caught.value)
    assert gguf_file_of(find(Path(f"{tmp_path}:q8_0"))) == second


def test_a_folder_without_the_quantisation(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no GGUF file, so .*:Q4_0 means none"):
        find(Path(f"{tmp_path}:Q4_0"))


def test_a_model_in_several_files(tmp_path: Path) -> None:
    first, *_ = write_split(tmp_path, "m-Q4_0")
    assert gguf_file_of(find(tmp_path)) == first
    assert gguf_file_of(find(first)) == first


def test_links_to_parts_are_opened_by_their_own_names(tmp_path: Path) -> None:
    """A hub's cache calls the parts by their content."""
    parts = write_split(tmp_path / "there", "m-Q4_0")
    (tmp_path / "here").mkdir()
    (tmp_path / "blobs").mkdir()
    for number, part in enumerate(parts):
        part.rename(tmp_path / "blobs" / str(number))
        (tmp_path / "here" / part.name).symlink_to(tmp_path / "blobs" / str(number))
    assert gguf_file_of(find(tmp_path / "here")).name == parts[0].name


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("adapter", "a LoRA adapter, and quire takes adapters as safetensors"),
        ("mmproj", "the part of a model that sees or hears"),
        ("clip", "the part of a model that sees or hears"),
        ("imatrix", "a list of which weights matter"),
        ("vocabulary", "a vocabulary and no weights"),
    ],
)
def test_files_that_are_no_model_are_refused_by_what_they_are(
    tmp_path: Path, kind: str, text: str
) -> None:
    file = tmp_path / "m.gguf"
    write_other(file, kind)
    for path in (file, tmp_path):
        with pytest.raises(UnsupportedModelError, match=text) as caught:
            find(path)
        assert str(file) in str(caught.value)


def test_other_files_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(ModelNotFoundError, match=r"a folder or a GGUF file, and .* is neither"):
        find(tmp_path / "weights.bin")
    assert not is_local(str(tmp_path / "weights.bin"))
    (tmp_path / "m.gguf").write_bytes(b"1234")
    with pytest.raises(WeightsError, match=r"m.gguf"):
        find(tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["C:/models/x.gguf", "C:\\models\\x.gguf", "x.gguf", "a:Q4_0"])
def test_files_that_are_not_there(name: str) -> None:
    """None of them is asked of a hub."""
    with pytest.raises(ModelNotFoundError, match=r"There is no model folder"):
        find_model_folder(ModelArguments(model_name_or_path=name))


def test_ollamas_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    store = OllamaStore(tmp_path / "models")
    content = write_chat(tmp_path / "m.gguf").read_bytes()
    layers = store.layer("model", content), store.layer("params", {"temperature": 0.5})
    store.name("registry.ollama.ai/library/tiny/latest", store.manifest(*layers))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ollama").mkdir()
    arguments = ModelArguments(model_name_or_path="ollama:tiny")
    folder = find_model_folder(arguments)
    assert json.loads((folder / "generation_config.json").read_text())["temperature"] == 0.5
    assert find_model(arguments) == gguf_file_of(folder)
    assert is_local("ollama:tiny")
    assert not is_on_hub("ollama:tiny")
