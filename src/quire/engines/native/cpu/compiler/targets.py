"""The processors that kernels are compiled for: this one, or one of those that wheels bring code for.

A wheel holds the kernels as object files for the `PREBUILT` targets. A process takes one of these if its
processor has all that the target needs and nothing that the kernels would use besides; else it compiles
for its own processor at the first start. The target settles more than instructions: the size of a
register decides how arrays are padded. So it is one for a whole process.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from quire.machine.cache import keep, key_of, read_kept

OBJECTS = Path(__file__).parent.parent / "objects"
"""Where a wheel has object files, in a folder for each target."""

_CHOICE = "QUIRE_KERNEL_TARGET"
_FORMAT = 1  # of what is kept of a processor
_CHANGING = ("cpu MHz", "bogomips", "BogoMIPS", "microcode")


@dataclass(frozen=True, slots=True)
class KernelTarget:
    """A kind of processors, by LLVM's names."""

    name: str
    triple: str
    cpu: str
    features: frozenset[str]
    """What kernels may ask for."""
    flags: str
    """What LLVM is told beside the cpu: features, each with a sign."""
    needs: frozenset[str] = frozenset()
    """What a processor must have."""
    unless: frozenset[str] = frozenset()
    """A processor that has one of these is better served by another target."""

    @property
    def architecture(self) -> str:
        """The first word of the triple: x86_64 or aarch64, for instance."""
        return self.triple.split("-", 1)[0]


_V3 = frozenset({"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "sse4.2"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_NEON = frozenset({"neon"})
_X86, _ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"


def _prebuilt(
    name: str,
    triple: str,
    cpu: str,
    features: frozenset[str],
    *more: str,
    unless: tuple[str, ...] = (),
) -> KernelTarget:
    flags = ",".join(f"+{one}" for one in more)
    whole = features | set(more)
    return KernelTarget(name, triple, cpu, whole, flags, whole, frozenset(unless))


PREBUILT = (
    _prebuilt("x86-64-v3", _X86, "x86-64-v3", _V3, unless=("avxvnni", "avx512f")),
    _prebuilt("x86-64-v3-vnni", _X86, "x86-64-v3", _V3, "avxvnni", unless=("avx512f",)),
    _prebuilt("x86-64-v4-vnni", _X86, "x86-64-v4", _V4, "avx512vnni"),
    _prebuilt("aarch64-dotprod", _ARM, "generic", _NEON, "dotprod", unless=("i8mm",)),
    _prebuilt("aarch64-i8mm", _ARM, "generic", _NEON, "dotprod", "i8mm"),
)
"""What wheels bring code for."""


@functools.cache
def current() -> KernelTarget:
    """The target of this process.

    `QUIRE_KERNEL_TARGET` names one of `PREBUILT`, for which kernels are then compiled wherever they are
    compiled; that is how a wheel's code is made. `QUIRE_SIMD=avx2` hides what came after AVX2, so that an
    AVX-512 machine can test that path.
    """
    by_name = {one.name: one for one in PREBUILT}
    chosen = os.environ.get(_CHOICE)
    if chosen:
        return by_name[chosen]
    host = ask_host()
    if os.environ.get("QUIRE_SIMD") == "avx2":
        newer = {one for one in host.features if one.startswith(("avx512", "avxvnni"))}
        host = replace(host, features=host.features - newer)
    fitting = (one for one in PREBUILT if fits(one, host) and (OBJECTS / one.name).is_dir())
    return next(fitting, host)


def ask_host() -> KernelTarget:
    """This processor, as LLVM sees it.

    What it sees is kept, so that a start with kept code does not load LLVM, which takes 60 MB.
    """
    processor = _processor()
    if not processor:
        return _ask_llvm()
    file = f"host-{key_of(_FORMAT, processor, version('llvmlite'))}.bin"
    kept = read_kept(file)
    if kept is not None:
        name, triple, cpu, flags, *features = bytes(kept).decode().split("\n")
        return KernelTarget(name, triple, cpu, frozenset(features), flags)
    host = _ask_llvm()
    text = "\n".join((host.name, host.triple, host.cpu, host.flags, *sorted(host.features)))
    keep(file, lambda path: path.write_bytes(text.encode()), "facts of processors")
    return host


def _ask_llvm() -> KernelTarget:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    return KernelTarget(
        name="native",
        triple=llvm.get_process_triple(),
        cpu=llvm.get_host_cpu_name(),
        features=frozenset(name for name, has in dict(features).items() if has),
        flags=features.flatten(),
    )


def _processor() -> list[str]:
    """What Linux says of the first processor, without what changes; nothing elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = list(itertools.takewhile(str.strip, file))
    except OSError:
        return []
    return [platform.machine(), *(line for line in lines if not line.startswith(_CHANGING))]


def fits(target: KernelTarget, host: KernelTarget) -> bool:
    """Whether a target's code is the best for a processor."""
    is_linux = sys.platform == "linux" and platform.architecture()[0] == "64bit"
    return (
        is_linux
        and target.architecture == host.architecture
        and target.needs <= host.features
        and not target.unless & host.features
    )
