"""How long a model lives: until it is closed, forgotten, or the program ends; not in a forked child."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quire.arguments import get_infer_args
from quire.chat import ChatModel
from quire.chat import native_engine as native_engine_module
from quire.chat.native_engine import NativeEngine
from quire.errors import EngineDeadError, EngineError, EngineStartError, OutOfMemoryError
from quire.weights.safetensors import WeightsFolder
from tests.chat.model_folders import make_model_folder
from tests.forks import HELLO, call_all, check_refused, in_fork

LONG: dict[str, Any] = {"max_new_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model"))


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {"model_name_or_path": str(folder), "vllm_maxlen": 256, "native_num_threads": 2, **more}


def answer(model: ChatModel) -> str:
    return model.chat(HELLO, temperature=0, max_new_tokens=8, ignore_eos=True)[0].response_text


# --- forgotten -----------------------------------------------------------------------------------


def maps(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("used", ["not at all", "chat", "half a stream", "astream"])
def test_a_forgotten_model_frees_its_threads_and_memory(folder: Path, used: str) -> None:
    before = set(threading.enumerate())
    model = ChatModel(settings(folder))
    token_engine = weakref.ref(model.engine.tokens.engine)
    assert maps(folder)
    if used == "chat":
        assert answer(model)
    elif used == "half a stream":
        next(model.stream_chat(HELLO, **LONG))
    elif used == "astream":
        asyncio.run(first_of(model))
    del model
    gc.collect()
    assert token_engine() is None
    assert set(threading.enumerate()) - before == set()
    assert not maps(folder)


async def first_of(model: ChatModel) -> None:
    async for _ in model.astream(HELLO, **LONG):
        break


def test_a_notebooks_cell_run_again_frees_the_first_model(folder: Path) -> None:
    cell = compile("model = ChatModel(settings)\ntext = answer(model)", "<cell>", "exec")
    notebook = {"ChatModel": ChatModel, "settings": settings(folder), "answer": answer}
    exec(cell, notebook)
    once = threading.active_count()
    for _ in range(3):
        exec(cell, notebook)
        gc.collect()
        assert threading.active_count() <= once
    del notebook["model"]


def test_a_forgotten_engine_without_a_model_is_freed(folder: Path) -> None:
    before = set(threading.enumerate())
    engine = NativeEngine(*get_infer_args(settings(folder)))
    asyncio.run(engine.chat(HELLO, max_new_tokens=2))
    del engine
    gc.collect()
    assert set(threading.enumerate()) - before == set()


def test_a_stream_outlives_the_name_of_its_model(folder: Path) -> None:
    stream = ChatModel(settings(folder)).stream(HELLO, **LONG)
    gc.collect()
    assert sum(len(delta.token_ids) for delta in stream) == 200


# --- constructors that fail late -----------------------------------------------------------------


@pytest.mark.parametrize("late", ["Preparation", "TokenChat", "EngineThread", "ConstraintCompiler"])
def test_a_constructor_that_fails_late_leaves_nothing(
    folder: Path, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quire.engines.native import token_engine

    def fail(*given: object) -> None:
        raise ArithmeticError("made up")

    module: Any = native_engine_module if hasattr(native_engine_module, late) else token_engine
    monkeypatch.setattr(module, late, fail)
    before = set(threading.enumerate())
    with pytest.raises(ArithmeticError) as caught:
        ChatModel(settings(folder))
    assert caught.tb is not None  # so that it is not the garbage collector that ends the threads
    assert set(threading.enumerate()) - before == set()


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (MemoryError("unable to allocate 9 MiB"), "not enough memory.*9 MiB"),
        (RuntimeError("can't start new thread"), "No more thread"),
    ],
)
def test_memory_that_the_system_refuses_is_our_error(
    folder: Path, refused: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quire.engines.native import token_engine

    def fail(*given: object) -> None:
        raise refused

    monkeypatch.setattr(token_engine, "EngineThread", fail)
    with pytest.raises(OutOfMemoryError, match=words):
        ChatModel(settings(folder))


def test_a_library_that_cannot_be_loaded_is_our_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unloadable(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise OSError("libllvmlite.so: cannot map it")

    name = native_engine_module.__name__
    monkeypatch.setitem(sys.modules, name, Unloadable(name))
    with pytest.raises(EngineStartError, match=r"too little memory.*libllvmlite\.so"):
        ChatModel(settings(folder))


# --- forked children -----------------------------------------------------------------------------


def test_a_forked_child_is_refused_and_told_what_to_do(folder: Path) -> None:
    with ChatModel(settings(folder)) as model:
        expected = answer(model)
        check_refused(in_fork(lambda: call_all(model)))
        assert answer(model) == expected


def test_a_forked_child_makes_a_model_of_its_own(folder: Path) -> None:
    def work() -> str:
        with ChatModel(settings(folder)) as own:
            return answer(own)

    with ChatModel(settings(folder)) as model:
        assert in_fork(work) == answer(model)


def test_a_stream_that_was_begun_before_a_fork_ends_with_an_error_in_the_child(
    folder: Path,
) -> None:
    with ChatModel(settings(folder)) as model:
        stream = model.stream_chat(HELLO, **LONG)
        next(stream)

        def work() -> str:
            try:
                list(stream)
            except EngineError as error:
                return str(error)
            return ""

        assert "make the model in the worker" in in_fork(work)
        assert list(stream)


# --- the program's end ---------------------------------------------------------------------------

BEGIN = """
import atexit, os, sys
from quire import ChatModel
model = ChatModel({"model_name_or_path": sys.argv[1], "vllm_maxlen": 256})
HELLO = [{"role": "user", "content": "Hello"}]
assert model.chat(HELLO, max_new_tokens=4, ignore_eos=True)
"""
ENDS = {
    "a stream is open": "stream = model.stream_chat(HELLO, ignore_eos=True)\nnext(stream)",
    "atexit and an open stream": "atexit.register(model.close)\n"
    "stream = model.stream_chat(HELLO, ignore_eos=True)\nnext(stream)",
    "children": "if os.fork() == 0: sys.exit()\n"
    "if os.fork() == 0: model.close(); sys.exit()\n"
    "os.wait(), os.wait()\n"
    "assert model.chat(HELLO, max_new_tokens=4)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_without_a_word(folder: Path, end: str) -> None:
    command = [sys.executable, "-c", BEGIN + ENDS[end], str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- weights that are overwritten ----------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"quantization_bit": 8}], ids=["plain", "rounded"])
def test_weights_overwritten_in_place_are_refused_at_the_next_step(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    folder = make_model_folder(tmp_path / "model")
    file = folder / "model.safetensors"
    with ChatModel(settings(folder, **more)) as model:
        assert answer(model)
        with file.open("r+b") as opened:
            opened.seek(-64, os.SEEK_END)
            opened.write(bytes(64))
        moved_on(file)
        with pytest.raises(EngineDeadError, match=r"overwritten.*load the model again"):
            answer(model)
        with pytest.raises(EngineDeadError, match="overwritten"):
            asyncio.run(model.engine.health())


@pytest.mark.parametrize("how", ["replaced", "deleted", "moved"])
def test_weights_that_are_replaced_stay_in_use_as_they_are(tmp_path: Path, how: str) -> None:
    folder = make_model_folder(tmp_path / "model")
    other = make_model_folder(tmp_path / "other", seed=7)
    file = folder / "model.safetensors"
    change: dict[str, Callable[[], object]] = {
        "replaced": lambda: os.replace(other / file.name, file),
        "deleted": file.unlink,
        "moved": lambda: file.rename(tmp_path / "elsewhere"),
    }
    with ChatModel(settings(folder)) as model:
        expected = answer(model)
        change[how]()
        assert answer(model) == expected


def test_only_the_files_of_mapped_tensors_are_watched(folder: Path) -> None:
    source = WeightsFolder(folder)
    mapped = source.stored("model.norm.weight").values
    assert [file.path for file in source.mapped_files([mapped])] == [folder / "model.safetensors"]
    assert source.mapped_files([mapped.copy()]) == ()


def moved_on(file: Path) -> None:
    """Make sure that the file's time has changed, which some systems keep in coarse steps."""
    found = file.stat()
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
