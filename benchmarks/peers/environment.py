"""A peer's own environment under `benchmarks/environments/`, installed by pip when first needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "environments"


@dataclass(frozen=True)
class Environment:
    """What pip installs, in order; `settings` are variables of the environment meanwhile."""

    name: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    """Installed last, when all that they really need is there."""
    options: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def python(self) -> Path:
        return FOLDER / self.name / "bin" / "python"

    def install(self) -> None:
        """Create it, unless it is there as declared here.

        Raises:
            CalledProcessError: pip failed.
        """
        folder = FOLDER / self.name
        marker, wanted = folder / ".installed", json.dumps(asdict(self), indent=1)
        if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
            return
        print(f"Installing {self.name} into {folder} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self._pip(*self.options, *self.requirements)
        if self.without_dependencies:
            self._pip("--no-deps", *self.without_dependencies)
        marker.write_text(wanted, encoding="utf-8")

    def _pip(self, *words: str) -> None:
        command = [str(self.python), "-m", "pip", "install", "--quiet", *words]
        subprocess.run(command, check=True, env={**os.environ, **self.settings})
