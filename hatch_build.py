"""What a wheel holds beside the sources: the native engine's kernels as object files.

`QUIRE_WHEEL_TARGETS` names the targets, by commas, where not all of `compiler/targets.py` are wanted. An
editable installation has none: it compiles what it needs at the first start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULE = "quire.engines.native.cpu.program.prebuild"
_LIST = """
from quire.engines.native.cpu.compiler.targets import PREBUILT
print(*(one.name for one in PREBUILT))
"""


class KernelsHook(BuildHookInterface[Any]):
    """Compiles the kernels, each target in a process of its own: it settles constants of the sources."""

    PLUGIN_NAME = "custom"
    _folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or self.target_name != "wheel":
            return
        path = os.pathsep.join([str(Path(self.root) / "src"), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path}
        listed = [sys.executable, "-c", _LIST]
        targets = subprocess.check_output(listed, env=environment, text=True).split()
        chosen = os.environ.get("QUIRE_WHEEL_TARGETS")
        if chosen is not None:
            targets = [one for one in targets if one in chosen.split(",")]
        self._folder = tempfile.mkdtemp()
        for target in targets:
            command = [sys.executable, "-m", _MODULE, self._folder]
            given = {**environment, "QUIRE_KERNEL_TARGET": target}
            subprocess.run(command, env=given, check=True)
        build_data["force_include"][self._folder] = "quire/engines/native/cpu/objects"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
