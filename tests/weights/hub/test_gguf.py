"""GGUF models from a hub: `owner/name:QUANT`, what is downloaded of it, and what the cache has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from quire.arguments import ModelArguments
from quire.errors import ModelError, ModelNotFoundError, WeightsError
from quire.gguf.folder import gguf_file_of
from quire.model_folder import (
    find_adapter_folder,
    find_model,
    find_model_folder,
    is_of_gguf,
    is_on_hub,
)
from quire.weights.hub import modelscope
from quire.weights.hub.cache import cached_models, missing_files
from tests.gguf.chat_files import write_chat, write_split
from tests.weights.hub.server import HubServer

MakeArguments = Callable[..., ModelArguments]
NAME = "owner/model"
SMALL = {"README.md": b"# A model", "config.json": b"{}", "params": b"{}"}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.weights.hub.download.RETRY_PAUSE", 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_chat(tmp_path_factory.mktemp("model") / "m.gguf").read_bytes()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model in three files."""
    paths = write_split(tmp_path_factory.mktemp("split"), "m-Q8_0")
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def several(hub: HubServer, model: bytes) -> HubServer:
    """A repository with three models and what goes with them."""
    others = {"mmproj-F16.gguf": b"GGUF", "imatrix.gguf": b"GGUF", "mtp-m-Q8_0.gguf": b"GGUF"}
    quants = {
        "m-Q4_K_M.gguf": model,
        "m-Q8_0.gguf": model + b"8",
        "UD-Q2_K_XL/m-UD-Q2_K_XL.gguf": model,
    }
    hub.add(NAME, {**SMALL, **others, **quants})
    return hub


def loaded(hub: HubServer) -> list[str]:
    return sorted(name for name, _ in hub.loaded())


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


# ---- what is downloaded


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("Q4_K_M", "m-Q4_K_M.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("Q2_K_XL", "UD-Q2_K_XL/m-UD-Q2_K_XL.gguf"),
    ],
)
def test_the_chosen_file_comes_alone(
    several: HubServer, arguments: MakeArguments, quant: str, file: str
) -> None:
    found = find_model(arguments(f"{NAME}:{quant}"))
    assert found.as_posix().endswith(f"/{file}")
    assert loaded(several) == [file]
    several.requests.clear()
    assert find_model(arguments(f"{NAME}:{quant}")) == found
    assert loaded(several) == []


def test_a_file_becomes_a_folder(several: HubServer, arguments: MakeArguments) -> None:
    for weights in (True, False):
        folder = find_model_folder(arguments(f"{NAME}:Q4_K_M"), weights=weights)
        assert gguf_file_of(folder).name == "m-Q4_K_M.gguf"
        assert (folder / "tokenizer.json").is_file()
    assert loaded(several) == ["m-Q4_K_M.gguf"]


def test_all_parts_of_a_model_come(
    hub: HubServer, arguments: MakeArguments, parts: dict[str, bytes], model: bytes
) -> None:
    hub.add(NAME, {**SMALL, **parts, "m-Q4_0.gguf": model})
    found = find_model(arguments(f"{NAME}:Q8_0"))
    assert found.name == "m-Q8_0-00001-of-00003.gguf"
    assert loaded(hub) == sorted(parts)
    assert gguf_file_of(find_model_folder(arguments(f"{NAME}:Q8_0"))) == found


def test_a_repository_that_lacks_a_part(
    hub: HubServer, arguments: MakeArguments, parts: dict[str, bytes]
) -> None:
    hub.add(NAME, {name: content for name, content in parts.items() if "00002" not in name})
    with pytest.raises(ModelNotFoundError, match=r"owner/model lacks m-Q8_0-00002-of-00003.gguf"):
        find_model(arguments(NAME))
    assert loaded(hub) == []


def test_the_only_model_needs_no_quantisation(
    hub: HubServer, arguments: MakeArguments, model: bytes
) -> None:
    hub.add(NAME, {**SMALL, "m-Q4_K_M.gguf": model, "mmproj-Q8_0.gguf": b"GGUF"})
    assert find_model(arguments(NAME)).name == "m-Q4_K_M.gguf"
    assert loaded(hub) == ["m-Q4_K_M.gguf"]


def test_of_several_the_error_lists_them(several: HubServer, arguments: MakeArguments) -> None:
    with pytest.raises(ModelNotFoundError, match=r"owner/model has 3 GGUF models") as caught:
        find_model(arguments(NAME))
    text = str(caught.value)
    assert all(quant in text for quant in ("UD-Q2_K_XL (", "Q4_K_M (", "Q8_0 ("))
    assert "such as owner/model:" in text
    with pytest.raises(ModelNotFoundError, match=r"no GGUF model Q4_0; it has .*:Q4_K_M|:Q8_0\?"):
        find_model(arguments(f"{NAME}:Q4_0"))
    assert loaded(several) == []


def test_safetensors_come_first(hub: HubServer, arguments: MakeArguments, model: bytes) -> None:
    weights = {"model.safetensors": b"1" * 2000, "m-Q8_0.gguf": model}
    hub.add(NAME, {**SMALL, **weights})
    assert find_model(arguments(NAME)).is_dir()
    assert loaded(hub) == ["config.json", "model.safetensors"]
    hub.requests.clear()
    assert find_model(arguments(f"{NAME}:Q8_0")).name == "m-Q8_0.gguf"
    assert loaded(hub) == ["m-Q8_0.gguf"]
    assert find_model(arguments(NAME)).is_dir(), "although a GGUF file is beside them"


def test_pieces_of_a_cut_file(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, {**SMALL, "m.gguf.part1of2": b"GGUF", "m.gguf.part2of2": b"x"})
    for name in (NAME, f"{NAME}:Q8_0"):
        with pytest.raises(WeightsError, match=r"m.gguf.part1of2. Download the pieces"):
            find_model(arguments(name))


def test_a_gguf_file_is_no_adapter(several: HubServer, arguments: MakeArguments) -> None:
    with pytest.raises(WeightsError, match=r"owner/model on the hub has no safetensors"):
        find_adapter_folder(NAME, arguments("demo"))
    with pytest.raises(ModelError, match=r"leave :Q8_0 out"):
        find_adapter_folder(f"{NAME}:Q8_0", arguments("demo"))
    assert loaded(several) == []


def test_the_disk_is_looked_at_first(several: HubServer, arguments: MakeArguments) -> None:
    several.claims["m-Q8_0.gguf"] = 10**18
    with pytest.raises(ModelError, match=r"not enough space"):
        find_model(arguments(f"{NAME}:Q8_0"))
    assert loaded(several) == []
    assert find_model(arguments(f"{NAME}:Q4_K_M")).is_file()


def test_a_broken_download_goes_on(
    several: HubServer, arguments: MakeArguments, model: bytes
) -> None:
    several.breaks["m-Q4_K_M.gguf"] = 5000
    assert find_model(arguments(f"{NAME}:Q4_K_M")).read_bytes() == model
    assert ("m-Q4_K_M.gguf", "bytes=5000-") in several.loaded()


# ---- without a network


def test_what_the_cache_has_serves(
    several: HubServer,
    arguments: MakeArguments,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = find_model(arguments(f"{NAME}:Q4_K_M"))
    offline(monkeypatch)
    with caplog.at_level(logging.WARNING, "quire"):
        assert find_model(arguments(f"{NAME}:Q4_K_M")) == found
        assert find_model(arguments(NAME)) == found
    assert "cannot be reached" in caplog.text
    with pytest.raises(ModelNotFoundError, match=r"lacks the GGUF model Q8_0"):
        find_model(arguments(f"{NAME}:Q8_0"))


def test_offline_asks_nobody(
    several: HubServer, arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_model(arguments(f"{NAME}:Q4_K_M"))
    several.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model(arguments(f"{NAME}:Q4_K_M")) == found
    assert several.requests == []


def test_two_in_the_cache_need_the_quantisation(
    several: HubServer, arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quant in ("Q4_K_M", "Q8_0"):
        find_model(arguments(f"{NAME}:{quant}"))
    offline(monkeypatch)
    with pytest.raises(ModelNotFoundError, match=r"owner/model has 2 GGUF models"):
        find_model(arguments(NAME))
    assert find_model(arguments(f"{NAME}:Q8_0")).name == "m-Q8_0.gguf"


def test_a_part_of_a_model_does_not_serve(
    hub: HubServer,
    arguments: MakeArguments,
    monkeypatch: pytest.MonkeyPatch,
    parts: dict[str, bytes],
) -> None:
    hub.add(NAME, parts)
    found = find_model(arguments(NAME))
    lost = found.with_name("m-Q8_0-00002-of-00003.gguf")
    lost.unlink()
    with monkeypatch.context() as gone:
        offline(gone)
        for name in (NAME, f"{NAME}:Q8_0"):
            with pytest.raises(ModelNotFoundError, match=rf"not finished.*lacks {lost.name}"):
                find_model(arguments(name))
    assert find_model(arguments(NAME)) == found
    assert lost.is_file()


# ---- the cache


def test_a_snapshot_of_gguf_is_whole_without_a_config(
    several: HubServer, arguments: MakeArguments, tmp_path: Path
) -> None:
    found = find_model(arguments(f"{NAME}:Q4_K_M"))
    assert missing_files(found.parent) == ()
    find_model(arguments(f"{NAME}:Q2_K_XL"))
    (model,) = cached_models(tmp_path / "cache")
    (snapshot,) = model.snapshots
    assert (model.is_adapter, snapshot.missing) == (False, ())
    assert set(snapshot.quants) == {"Q4_K_M", "UD-Q2_K_XL"}


# ---- names


def test_a_folder_of_that_name_comes_first(
    several: HubServer, arguments: MakeArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"{NAME}:Q4_0"
    assert is_on_hub(name)
    here = write_chat(tmp_path / "owner" / "model" / "m-Q4_0.gguf")
    assert not is_on_hub(name)
    assert find_model(arguments(name)).resolve() == here
    assert several.requests == []


def test_names_of_gguf_models_are_known_without_the_hub(tmp_path: Path) -> None:
    assert is_of_gguf("owner/model:Q4_K_M")
    assert not is_of_gguf("owner/model")
    assert is_of_gguf("ollama:llama3.2")
    write_chat(tmp_path / "m.gguf")
    assert is_of_gguf(str(tmp_path / "m.gguf"))
    assert is_of_gguf(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    assert not is_of_gguf(str(tmp_path))


# ---- ModelScope


def test_modelscope_gives_the_chosen_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: MakeArguments, model: bytes
) -> None:
    asked: list[Any] = []
    folder = tmp_path / "modelscope" / "owner" / "model"
    sizes = {"Q4_0/m-Q4_0.gguf": 10, "m-Q8_0.gguf": 20, "configuration.json": 2}

    class Client:
        def snapshot_download(self, name: str, *, allow_patterns: list[str], **where: Any) -> str:
            asked.append((name, allow_patterns))
            for path in allow_patterns:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(model)
            return str(folder)

    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    monkeypatch.setattr(modelscope, "_import_client", Client)
    monkeypatch.setattr(modelscope, "_list_files", lambda *_: sizes)
    assert find_model(arguments(f"{NAME}:Q4_0")) == folder / "Q4_0" / "m-Q4_0.gguf"
    assert find_model(arguments(f"{NAME}:Q8_0")) == folder / "m-Q8_0.gguf"
    assert asked == [(NAME, ["Q4_0/m-Q4_0.gguf"]), (NAME, ["m-Q8_0.gguf"])]
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF models: Q4_0 \(10 bytes\)"):
        find_model(arguments(NAME))
