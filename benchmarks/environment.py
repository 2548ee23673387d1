"""The size of a fresh environment with quire in it, and the seconds that its installation takes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import report, seconds, table

ROOT = Path(__file__).parents[1]


def size(folder: Path) -> int:
    """Bytes of all files; a file with two names counts once."""
    seen = {
        (status.st_dev, status.st_ino): status.st_blocks * 512
        for path in folder.rglob("*")
        if not path.is_symlink() and (status := path.stat())
    }
    return sum(seen.values())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", str(ROOT)]
        took = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        packages = sorted(
            ((size(path), path.name) for path in Path(folder).glob("lib/python3*/site-packages/*")),
            reverse=True,
        )
        total = size(Path(folder))
    rows: list[list[object]] = [["all", f"{total / 1e6:.0f}"]]
    rows += [[name, f"{value / 1e6:.0f}"] for value, name in packages[:6]]
    text = table(["", "MB"], rows) + f"\n\nInstalled in {took:.0f} s."
    report("environment", "A fresh environment", text, {"bytes": total, "seconds": took})


if __name__ == "__main__":
    main()
