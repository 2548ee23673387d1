"""What child processes of tests do, in a module that imports little: each child imports it anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import spawn
from multiprocessing.connection import Connection

SECONDS = 600.0
"""Longer than any test runs: who sleeps so long is to be killed."""


def sleep_deaf(told: Connection) -> None:
    """Ignore SIGTERM; tells what the child sees of the plan's environment."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told.send(os.environ.get("QUIRE_TEST_OF_PLANS"))
    print("a word of the engine's process", flush=True)
    time.sleep(SECONDS)


def sleep_with_a_child(told: Connection) -> None:
    """Have a child of its own; tells its process id."""
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({SECONDS})"])
    told.send(child.pid)
    time.sleep(SECONDS)


def sleep_a_little(told: Connection) -> None:
    """End by itself; tells its process id."""
    told.send(os.getpid())
    time.sleep(0.3)


def tell_main_module(told: Connection) -> None:
    """Tell whether this process has run its parent's main module, and exit."""
    told.send(bool(spawn.old_main_modules))
