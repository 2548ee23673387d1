"""vLLM's processes do not run the user's program again, however that was started.

The engine is replaced by one process that is started as vLLM starts its own; `test_program.py` starts
the real one.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from multiprocessing import spawn
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quire.engines.vllm.launch import children_without_main_module
from quire.engines.vllm.plan import make_plan
from quire.errors import ConfigError
from tests.engines.vllm.facts import arguments, cpu, finetuning, qwen

PROGRAM = """
print("the program runs")
from multiprocessing import get_context
from types import SimpleNamespace

from quire.engines.vllm import launch
from quire.engines.vllm.plan import EnginePlan
from tests.engines.vllm.children import tell_main_module

def make(engine_args, stats):
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=tell_main_module, args=(theirs,), name="EngineCore_DP0")
    process.start()
    theirs.close()
    print("imported by the engine:", ours.recv())
    process.join()
    return SimpleNamespace(shutdown=lambda: None)

launch._make_engine = make
launch.stop(launch.start(EnginePlan({"model": "m"}), 100))
"""
GUARDED = 'if __name__ == "__main__":\n' + textwrap.indent(PROGRAM, "    ")
NOTEBOOK = """
import sys, types
main = sys.modules["__main__"] = types.ModuleType("__main__")  # without a file
exec(sys.stdin.read(), vars(main))
"""


def test_only_vllms_processes_go_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own, started meanwhile in another thread, may need it."""
    main = ModuleType("__main__")  # what runs these tests may have none with a file
    main.__file__ = __file__
    monkeypatch.setitem(sys.modules, "__main__", main)
    of_others = spawn.get_preparation_data("Process-1")
    assert {"init_main_from_name", "init_main_from_path"} & set(of_others)
    with children_without_main_module():
        for name in ("EngineCore_DP0", "VllmWorker-1"):
            found = spawn.get_preparation_data(name)
            assert not {"init_main_from_name", "init_main_from_path"} & set(found)
            assert found["sys_path"] == of_others["sys_path"]
        assert spawn.get_preparation_data("Process-1") == of_others


@pytest.mark.parametrize(
    ("command", "source"),
    [
        (["program.py"], PROGRAM),
        (["program.py"], GUARDED),
        (["-m", "program"], PROGRAM),
        (["-c", PROGRAM], ""),
        (["-"], PROGRAM),
        (["-c", NOTEBOOK], PROGRAM),
    ],
    ids=["file", "guarded", "module", "command", "stdin", "notebook"],
)
def test_a_program_runs_once(command: list[str], source: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(source)
    done = subprocess.run(
        [sys.executable, *command],
        input=source,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "the program runs\nimported by the engine: False\n", done.stderr


def environment() -> dict[str, str]:
    """The variables of a program that finds quire and these tests."""
    import os

    root = Path(__file__).parents[3]
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(root / "src"), str(root)))}


class Processor:
    """As a program would define one for vLLM."""


@pytest.mark.parametrize("value", [Processor, Processor(), [Processor], {"x": (Processor,)}])
def test_what_the_program_defines_cannot_be_given_to_vllm(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = arguments(vllm_config={"logits_processors": value})
    make_plan(args, finetuning(), qwen(), cpu())
    monkeypatch.setattr(Processor, "__module__", "__main__")
    with pytest.raises(ConfigError, match="logits_processors holds Processor"):
        make_plan(args, finetuning(), qwen(), cpu())
