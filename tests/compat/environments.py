"""Environments to install wheels into, and a tiny wheel in the place of the real LLaMA-Factory."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

from tests.compat.conftest import ROOT

_INFO = "llamafactory-0.9.5.dist-info"
_REAL = {
    "llamafactory/__init__.py": '__version__ = "0.9.5"\n',
    "llamafactory/cli.py": "def main():\n    print('the real one')\n",
    "llamafactory/chat/__init__.py": "class ChatModel:\n    is_real = True\n",
    "llamafactory/train/__init__.py": "",
    f"{_INFO}/METADATA": "Metadata-Version: 2.1\nName: llamafactory\nVersion: 0.9.5\n",
    f"{_INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{_INFO}/entry_points.txt": (
        "[console_scripts]\nllamafactory-cli = llamafactory.cli:main\nlmf = llamafactory.cli:main\n"
    ),
}


def build_real_wheel(folder: Path) -> Path:
    """A wheel with the names of the real package: distribution, package, commands."""
    path = folder / "llamafactory-0.9.5-py3-none-any.whl"
    record = f"{_INFO}/RECORD"
    rows = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in _REAL.items()]
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**_REAL, record: "\n".join([*rows, f"{record},,", ""])}.items():
            wheel.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def build_own_wheel(folder: Path) -> Path:
    """The wheel of compat/llamafactory, built by hatchling: this environment's, or pip fetches it."""
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    _pip("wheel", "--no-deps", *isolation, "-w", str(folder), str(ROOT / "compat" / "llamafactory"))
    (path,) = folder.glob("quire_llamafactory-*.whl")
    return path


def _pip(*words: str, python: str = sys.executable) -> str:
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


class Environment:
    """A virtual environment of its own; quire and what it needs come from this process's."""

    def __init__(self, folder: Path, *, like: Environment | None = None) -> None:
        """Make one; `like` is copied: one to which pip has given no commands."""
        if like is None:
            venv.create(folder, symlinks=True)
        else:
            shutil.copytree(like.scripts.parent, folder, symlinks=True)
        self.scripts = folder / "bin"
        self.python = self.scripts / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        parents = [ROOT / "src", Path(sysconfig.get_path("purelib"))]
        (self.packages / "zz_parent.pth").write_text("".join(f"{path}\n" for path in parents))

    def pip(self, *words: str) -> str:
        """Run pip on this environment; it must succeed."""
        return _pip(*words, python=str(self.python))

    def install(self, wheel: Path) -> str:
        return self.pip("install", "--no-deps", "--no-index", str(wheel))

    def uninstall(self, name: str) -> str:
        return self.pip("uninstall", "--yes", name)

    def run(self, *words: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command, away from any checkout."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [str(word) for word in words],
            input=text,
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.scripts,
            timeout=120,
        )

    def code(self, code: str) -> str:
        """What a few lines of Python print, errors too."""
        result = self.run(self.python, "-c", code)
        return result.stdout + result.stderr

    def whose(self) -> str:
        """`real` or `quire`: whose `llamafactory.chat.ChatModel` is imported; else the error."""
        return self.code(
            "from llamafactory.chat import ChatModel\n"
            "print('real' if hasattr(ChatModel, 'is_real') else 'quire', end='')"
        )

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python -m quire_llamafactory` with these words."""
        return self.run(self.python, "-m", "quire_llamafactory", *words)
