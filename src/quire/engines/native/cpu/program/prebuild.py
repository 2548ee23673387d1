"""`python -m quire.engines.native.cpu.program.prebuild FOLDER`: all kernels as object files, for a wheel.

They are for the target that `QUIRE_KERNEL_TARGET` names, and go to a folder of its name; see
`compiler.targets`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from quire.engines.native.cpu.compiler.targets import OBJECTS, current
from quire.engines.native.cpu.program.decoder import KERNELS
from quire.engines.native.cpu.program.machine_code import compile_with_progress, prebuilt_file


def prebuild(folder: Path) -> None:
    """Compile all kernels for the current target."""
    for name, code in compile_with_progress(list(KERNELS), lambda _: None):
        file = folder / prebuilt_file(name, current()).relative_to(OBJECTS)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(code)


if __name__ == "__main__":
    prebuild(Path(sys.argv[1]))
