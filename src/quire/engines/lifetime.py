"""When and where an engine may end: at `close`, when it is forgotten, at exit; never in a forked child."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from quire.errors import EngineError, OutOfMemoryError

_FORGOTTEN_SECONDS = 10.0
"""How long the collection of a forgotten engine waits for its threads and processes to end."""


class HomeProcess:
    """The process in which an engine was made.

    A forked child has a copy of the engine and none of its threads, so a request would wait for ever;
    and connections and child processes still belong to the parent.
    """

    def __init__(self) -> None:
        self._id = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process, and not a forked child of it."""
        return os.getpid() == self._id

    def check(self) -> None:
        """Raise EngineError in a forked child."""
        if os.getpid() != self._id:
            raise EngineError(
                f"This model was made in process {self._id}, and a forked process has none of its "
                "threads: make the model in the worker itself, after the fork, or start workers "
                'with multiprocessing\'s "spawn".'
            )


class Lifetime(HomeProcess):
    """Ends what belongs to an object: once, when it is closed or forgotten, and in its own process.

    The garbage collector runs in whatever thread it likes, with whatever locks that thread holds. So
    the end of a forgotten object gets a thread of its own. A thread of the user's waits for it, so
    that memory is free after `del model`, but not for ever; one of quire's does not wait, since the
    end may wait for it.

    At exit nothing is ended: threads are daemons, and vLLM ends its processes by itself.
    """

    def __init__(self, owner: object, end: Callable[[], object]) -> None:
        """`end` must not refer to `owner`, which would never be forgotten then."""
        super().__init__()
        self._end = end
        self._finalizer = weakref.finalize(owner, _end_forgotten, end, HomeProcess())
        self._finalizer.atexit = False

    def end(self) -> None:
        """Call the function, unless that was done or this is a forked child."""
        if self.is_here and self._finalizer.detach() is not None:
            self._end()


def _end_forgotten(end: Callable[[], object], home: HomeProcess) -> None:
    if not home.is_here:
        return
    thread = threading.Thread(target=end, name="quire-end", daemon=True)
    thread.start()
    if not threading.current_thread().name.startswith("quire-"):
        thread.join(_FORGOTTEN_SECONDS)


@contextmanager
def scratch_folder(prefix: str) -> Generator[Path]:
    """A temporary folder that is deleted when it is left, at exit at the latest.

    `tempfile.TemporaryDirectory` would also be deleted by a forked child, when that exits.
    """
    folder, home = Path(tempfile.mkdtemp(prefix=prefix)), HomeProcess()

    def delete() -> None:
        if home.is_here:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(delete)
    try:
        yield folder
    finally:
        atexit.unregister(delete)
        delete()


@contextmanager
def memory_is_enough() -> Generator[None]:
    """Raise OutOfMemoryError where the system refuses memory or a thread, which needs some too."""
    try:
        yield
    except MemoryError as error:
        words = f": {error}" if str(error) else ""
        raise OutOfMemoryError(
            f"There is not enough memory for this model{words}. Give the process more (a limit may "
            "be set: ulimit -v), lower vllm_maxlen, or take a smaller model."
        ) from error
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise OutOfMemoryError(
            "No more thread can be started here: give the process more memory or more threads "
            "(ulimit -v, ulimit -u)."
        ) from error


async def in_thread(function: Callable[[], object]) -> None:
    """Call a function that blocks in a thread; in this one once the interpreter exits.

    Then `asyncio.to_thread` takes no more work, but `atexit.register(model.close)` must still work.
    """
    try:
        done = asyncio.get_running_loop().run_in_executor(None, function)
    except RuntimeError:
        function()
        return
    await done
