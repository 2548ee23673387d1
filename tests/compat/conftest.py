"""quire's `llamafactory`: on this process's path for a test, and on those of other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "compat" / "llamafactory" / "src"
PATHS = (SOURCE, SOURCE / "quire_llamafactory" / "path")

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


def _forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("llamafactory", "quire_llamafactory"):
            del sys.modules[name]


@pytest.fixture
def compat(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes `import llamafactory` find quire's package during a test, fresh."""
    _forget()
    for path in reversed(PATHS):
        monkeypatch.syspath_prepend(path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    _forget()


@pytest.fixture
def run_python() -> RunPython:
    """Runs this Python with the package on its path, in the repository's folder."""
    paths = [str(path) for path in (*PATHS, ROOT / "src", ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            input=text,
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            timeout=120,
        )

    return run
