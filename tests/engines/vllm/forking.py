"""Engines of vLLM that start in seconds: their processes are forked from one that has imported it.

Importing vLLM is most of a start's time, and vLLM spawns a new Python for each engine. Most tests are
about what an engine answers, and start it so; `test_program.py` starts one as users do.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from typing import Any

import pytest

from quire.engines.vllm.launch import environment, import_vllm
from quire.engines.vllm.log import children_write_to_log, logging_environment

PRELOADED = (
    "pytest",  # which this module imports
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen3",
    "quire.engines.vllm.plugin",
)
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
"""What libraries read when they are imported: as in a plan for a small model on a CPU. Compiling vLLM's
few lines that torch would compile, even with `enforce_eager`, takes longer than all tests use them."""


class ForkedProcess(ForkServerProcess):
    """Has the environment variables that its starter has, as a spawned process would."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._environment = dict(os.environ)

    def run(self) -> None:
        """Do what the process is for."""
        os.environ.clear()
        os.environ.update(self._environment)
        # vLLM collects garbage at its end, again and again, through all that was imported.
        gc.collect = lambda generation=2: 0
        super().run()


class ForkingContext(ForkServerContext):
    """A context of `multiprocessing` for vLLM."""

    Process = ForkedProcess


class HangingProcess(ForkedProcess):
    """Starts and then does nothing: an engine that never answers."""

    def run(self) -> None:
        """Sleep longer than any test runs."""
        time.sleep(600)


class HangingContext(ForkServerContext):
    """A context of `multiprocessing` for vLLM whose engines hang."""

    Process = HangingProcess


CONTEXT = ForkingContext()


def start_server() -> None:
    """Start the process that is forked, if it does not run; it imports vLLM while this one goes on."""
    CONTEXT.set_forkserver_preload(list(PRELOADED))
    with environment({**logging_environment(), **ENVIRONMENT}), children_write_to_log():
        ensure_running()


@contextmanager
def forked_engines(context: BaseContext = CONTEXT) -> Generator[None]:
    """Have the processes of the engines that are started inside forked, or made by another context."""
    start_server()
    import_vllm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm.v1.engine.utils.get_mp_context", lambda: context)
        yield
