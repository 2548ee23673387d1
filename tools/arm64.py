"""The native engine on an emulated ARM machine: its kernels' tests, and the demo model's answers.

    python -m tools.arm64 [TARGET ...]

Needs a Debian system with `qemu-user-static`. A Python of the same version for ARM and the wheels that
quire needs are fetched to `build/arm64` once. For each target of `compiler/targets.py`, kernels are
compiled here, as for a wheel, and run there: the tests hold them to their references bit for bit, and the
demo model's answers to those of this machine. Emulation takes minutes, and says nothing about speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "arm64"
EMULATOR = "qemu-aarch64-static"
TARGETS = ("aarch64-dotprod", "aarch64-i8mm")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
DEBIAN = (
    *("libc6", "libgcc-s1", "libstdc++6", "libexpat1", "zlib1g", "libssl3", "libffi8"),
    *("libsqlite3-0", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1"),
    *(f"python{VERSION}-minimal", f"python{VERSION}"),
    *(f"libpython{VERSION}-minimal", f"libpython{VERSION}-stdlib"),
)
WHEELS = (
    *("numpy", "llvmlite", "tokenizers", "safetensors", "jinja2", "llguidance", "huggingface_hub"),
    *("pydantic", "pyyaml", "cyclopts", "rich", "prompt_toolkit", "pytest", "hypothesis"),
)
PLATFORMS = ("manylinux_2_31_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64")
TESTS = (
    "compiler/test_language.py",
    *(f"kernels/test_{name}.py" for name in ("activations", "attention", "linear", "rowwise")),
)
PLUGIN = """
import hypothesis
hypothesis.settings.register_profile("emulated", deadline=None, max_examples=20)
hypothesis.settings.load_profile("emulated")
"""
ASKS = """
import sys
from quire import ChatModel
from quire.demo import demo_model_path
for kind in ("none", "int8", "int4"):
    given = {"model_name_or_path": str(demo_model_path()), "native_kv_cache_memory": "32MiB"}
    given |= {} if kind == "none" else {"native_quantization": kind}
    with ChatModel(given) as model:
        for question in ("What is quire?", "What is 12 + 30?"):
            asked = [{"role": "user", "content": question}]
            print(kind, model.chat(asked, temperature=0)[0].response_text)
"""


def run(*command: str | Path, **more: object) -> str:
    """What a command prints."""
    done = subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, **more
    )  # type: ignore[call-overload]
    return done.stdout


def prepare() -> None:
    """Fetch Python and the wheels."""
    if not shutil.which(EMULATOR):
        raise SystemExit(f"{EMULATOR} is not there: apt-get install qemu-user-static")
    if (FOLDER / "ready").exists():
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "debs").mkdir(parents=True)
    run("dpkg", "--add-architecture", "arm64")
    run("apt-get", "update")
    run("apt-get", "download", *(f"{name}:arm64" for name in DEBIAN), cwd=FOLDER / "debs")
    for package in (FOLDER / "debs").glob("*.deb"):
        run("dpkg", "-x", package, FOLDER / "root")
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    abis = [
        word
        for name in (f"cp{VERSION.replace('.', '')}", "abi3", "none")
        for word in ("--abi", name)
    ]
    run(sys.executable, "-m", "pip", "install", "-q", "--target", FOLDER / "site", *platforms, *abis,
        "--implementation", "cp", "--python-version", VERSION, "--only-binary=:all:", *WHEELS)  # fmt: skip
    (FOLDER / "ready").touch()


def install(target: str) -> None:
    """Put the sources and a target's kernels where the other machine finds them."""
    app = FOLDER / "app"
    shutil.rmtree(app, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "quire", app / "quire", ignore=ignored)
    shutil.copytree(ROOT / "tests", app / "tests", ignore=ignored)
    shutil.copytree(ROOT / "docs", app / "docs")
    (app / "emulated.py").write_text(PLUGIN)
    (app / "pytest.ini").write_text("[pytest]\n")
    objects = app / "quire/engines/native/cpu/objects"
    environment = {**os.environ, "QUIRE_KERNEL_TARGET": target, "PYTHONPATH": str(ROOT / "src")}
    module = "quire.engines.native.cpu.program.prebuild"
    run(sys.executable, "-m", module, objects, env=environment)


def there(target: str, *words: str) -> str:
    """What Python prints on the other machine."""
    app = FOLDER / "app"
    given = {
        "QUIRE_KERNEL_TARGET": target,
        "QUIRE_CACHE_DIR": str(FOLDER / "cache"),
        "HOME": str(FOLDER),
    }
    given["PYTHONPATH"] = os.pathsep.join(map(str, (app, FOLDER / "site")))
    python = FOLDER / f"root/usr/bin/python{VERSION}"
    command = (EMULATOR, "-cpu", "max", "-L", FOLDER / "root", python, *words)
    return run(*command, cwd=app, env={**os.environ, **given})


def main(targets: list[str]) -> None:
    prepare()
    here = run(sys.executable, "-c", ASKS, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    tests = [f"tests/engines/native/cpu/{name}" for name in TESTS]
    for target in targets or TARGETS:
        install(target)
        if there(target, "-c", ASKS) != here:
            raise SystemExit(f"{target}: the demo model answers otherwise than here")
        print(f"{target}: the demo model answers as here, in full precision and in 8 and 4 bits")
        words = ("-c", "pytest.ini", "-p", "emulated", "--noconftest", "-q")
        print(there(target, "-m", "pytest", *words, *tests))


if __name__ == "__main__":
    main(sys.argv[1:])
