"""Folders and files that are given as a model's and are none: each is told what it is."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quire.arguments import ModelArguments
from quire.engines.vllm.model_facts import check_weights
from quire.errors import ModelError, ModelNotFoundError, WeightsError
from quire.model_folder import find_model_folder
from quire.tokenizer.folder import load_backend
from quire.weights.folder import read_json
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import WeightsFolder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FOREIGN = {
    "a pointer": (POINTER, "git-lfs pointer.*git -C .* lfs pull"),
    "a page": (b"<!DOCTYPE html>\n<html><head>", "HTML page.*/resolve/"),
    "a page after blanks": (b"\xef\xbb\xbf \n<HTML lang='en'>", "HTML page"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(40), "GGUF"),
    "a zip": (b"PK\x03\x04" + bytes(40), "pickle"),
    "a pickle": (b"\x80\x02}q\x00(X\x06\x00", "pickle"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "native": WeightsFolder,
    "vllm": check_weights,
}


def write(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("content", "text"), FOREIGN.values(), ids=FOREIGN)
def test_weights_that_are_something_else(
    tmp_path: Path, content: bytes, text: str, read: Callable[[Path], object]
) -> None:
    path = write(tmp_path / "a folder" / "model.safetensors", content)
    with pytest.raises(WeightsError, match=text) as caught:
        read(path.parent)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_an_answer_of_a_server_is_shown(tmp_path: Path, read: Callable[[Path], object]) -> None:
    write(tmp_path / "model.safetensors", b"Access to model x/y is restricted.\n")
    with pytest.raises(WeightsError, match=r"'Access to model x/y is restricted.'"):
        read(tmp_path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_truncated_file_is_no_pickle(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """A header of 640 bytes begins as a pickle does."""
    write(tmp_path / "model.safetensors", (640).to_bytes(8, "little") + b"{")
    with pytest.raises(WeightsError, match=r"truncated"):
        read(tmp_path)


@pytest.mark.parametrize("content", [POINTER, b"<!doctype html>"], ids=["a pointer", "a page"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", HubConfig.read),
        ("generation_config.json", lambda folder: read_json(folder, "generation_config.json")),
        ("tokenizer.json", load_backend),
        ("model.safetensors.index.json", WeightsFolder),
    ],
)
def test_json_that_is_something_else(
    tmp_path: Path, name: str, read: Callable[[Path], object], content: bytes
) -> None:
    write(tmp_path / name, content)
    with pytest.raises(ModelError, match=r"git-lfs pointer|HTML page"):
        read(tmp_path)


# --- folders ---------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        find_model_folder(ModelArguments(model_name_or_path=str(folder)))
    return str(caught.value)


def cached(cache: Path) -> Path:
    """A repository of the hub's cache with two snapshots; `main` is the older one."""
    repository = cache / "models--owner--model"
    for commit in ("aaa", "bbb"):
        write(repository / "snapshots" / commit / "config.json", "{}")
    write(repository / "refs" / "main", "aaa")
    return repository


def test_the_hubs_cache(tmp_path: Path) -> None:
    repository = cached(tmp_path)
    for folder in (repository, repository / "snapshots"):
        text = refused(folder)
        assert f"{repository / 'snapshots' / 'aaa'}" in text
        assert "owner/model" in text
    assert "is the hub's cache" in refused(tmp_path)
    assert find_model_folder(
        ModelArguments(model_name_or_path=str(repository / "snapshots" / "bbb"))
    ).is_dir()


def test_an_output_folder_with_checkpoints_alone(tmp_path: Path) -> None:
    for step in (500, 1000, 90):
        write(tmp_path / f"checkpoint-{step}" / "config.json", "{}")
    write(tmp_path / "trainer_log.jsonl")
    text = refused(tmp_path)
    assert f"{tmp_path / 'checkpoint-1000'} (or one of 2 more" in text


def test_an_output_folder_with_checkpoints_of_adapters(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-500" / "adapter_config.json", "{}")
    text = refused(tmp_path)
    assert f"{tmp_path / 'checkpoint-500'} as adapter_name_or_path" in text


def test_an_output_folder_with_a_model_is_one(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-500" / "config.json", "{}")
    write(tmp_path / "config.json", "{}")
    args = ModelArguments(model_name_or_path=str(tmp_path))
    assert find_model_folder(args) == tmp_path


def test_a_folder_of_models(tmp_path: Path) -> None:
    write(tmp_path / "qwen" / "config.json", "{}")
    assert f"give {tmp_path / 'qwen'}" in refused(tmp_path)


def test_a_file_of_a_model(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors")
    assert f"Give the folder that it is in: {tmp_path}" in refused(path)


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_checkpoint_of_zero(
    tmp_path: Path, read: Callable[[Path], object], with_config: bool
) -> None:
    folder = tmp_path / "it's here"
    write(folder / "zero_to_fp32.py")
    write(folder / "global_step10" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    quoted = shlex.quote(str(folder))
    if with_config:
        write(folder / "config.json", "{}")
        find_model_folder(ModelArguments(model_name_or_path=str(folder)))
    else:
        assert quoted in refused(folder)
    with pytest.raises(ModelNotFoundError, match=r"DeepSpeed's ZeRO.*zero_to_fp32\.py") as caught:
        read(folder)
    words = shlex.split(str(caught.value).split(": ", 1)[1])
    assert words == [
        "python", str(folder / "zero_to_fp32.py"), str(folder), str(folder), "--safe_serialization"
    ]  # fmt: skip


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_checkpoint_of_fsdp(tmp_path: Path, read: Callable[[Path], object]) -> None:
    write(tmp_path / "pytorch_model_fsdp_0" / "__0_0.distcp")
    write(tmp_path / "config.json", "{}")
    with pytest.raises(ModelNotFoundError, match=r"accelerate merge-weights"):
        read(tmp_path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_pickles_are_converted_by_a_command_that_can_be_pasted(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    folder = tmp_path / "my model's; folder"
    write(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"holds pytorch_model.bin, a pickle") as caught:
        read(folder)
    words = shlex.split(str(caught.value).split("installed: ")[1])
    assert words[0] == "python"
    assert words[3] == str(folder)
    compile(words[2], "command", "exec")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("name", "error", "text"),
    [("model-q4.gguf", WeightsError, "llama.cpp"), ("a.txt", ModelNotFoundError, "no weights")],
)
def test_other_folders_without_safetensors(
    tmp_path: Path,
    read: Callable[[Path], object],
    name: str,
    error: type[Exception],
    text: str,
) -> None:
    write(tmp_path / name)
    with pytest.raises(error, match=text):
        read(tmp_path)


@pytest.mark.parametrize("joined", [False, True])
def test_weights_that_zero_left_empty(tmp_path: Path, joined: bool) -> None:
    from quire.engines.native.cpu.weights.decoder import read_tensor
    from quire.engines.native.models.tensors import TensorSpec

    save_file({"model.norm.weight": np.zeros(0, np.float32)}, tmp_path / "model.safetensors")
    if joined:
        write(tmp_path / "zero_to_fp32.py")
    source = WeightsFolder(tmp_path)
    for read in (
        lambda: check_weights(tmp_path),
        lambda: read_tensor(source, TensorSpec("norm", "model.norm.weight", (8,))),
    ):
        with pytest.raises(WeightsError, match=r"no values in model.norm.weight") as caught:
            read()
        assert ("python " in str(caught.value)) == joined


def test_empty_tensors_that_are_no_weights_are_let_be(tmp_path: Path) -> None:
    tensors = {"a.g_idx": np.zeros(0, np.int32), "a.weight": np.ones(2, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    check_weights(tmp_path)
