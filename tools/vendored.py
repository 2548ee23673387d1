"""Compare the chat page's vendored files with the npm packages that they come from, and note their hashes.

    python tools/vendored.py

Needs `npm`. Packages, versions and places are those of the table in `vendor/THIRD_PARTY.md`. A file that is
not npm's, or is in no line of the table, ends it with an error; then nothing is written. The hashes are what
a test holds the files to.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "src/quire/server/page/vendor"
TABLE = VENDOR / "THIRD_PARTY.md"
HASHES = VENDOR / "checksums.json"
ROW = re.compile(r"^\| (`[^|]+`) \| ([\w@./-]+) \| ([\d.]+) \| `([^`]+)`", re.MULTILINE)


def main() -> int:
    """Compare all files; write their hashes if all are equal."""
    found: dict[str, str] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        packages: dict[str, Path] = {}
        for files, package, version, place in ROW.findall(TABLE.read_text(encoding="utf-8")):
            spec = f"{package}@{version}"
            if spec not in packages:
                packages[spec] = fetch(spec, Path(folder))
            for pattern in re.findall("`([^`]+)`", files):
                for path in sorted(VENDOR.glob(pattern)):
                    there = place_of(place, path)
                    name = path.relative_to(VENDOR).as_posix()
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
                    if read(packages[spec], f"package/{there}") != path.read_bytes():
                        wrong.append(f"{name} is not {there} of {spec}")
    known = {TABLE, HASHES}
    wrong += [
        f"{path.relative_to(VENDOR)} is in no line of {TABLE.name}"
        for path in sorted(VENDOR.rglob("*"))
        if path.is_file() and path not in known and path.relative_to(VENDOR).as_posix() not in found
    ]
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    HASHES.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(found)} files are those of npm's packages.")
    return 0


def fetch(spec: str, folder: Path) -> Path:
    """The archive of a package."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), spec]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    return folder / name


def place_of(place: str, path: Path) -> str:
    """Where a file lies in its package: `place` may be a folder or a pattern."""
    if place.endswith("/"):
        return place + path.name
    return place.replace("*.min.js", path.name)


def read(package: Path, name: str) -> bytes | None:
    """A file of a package; None if it has none of that name."""
    with tarfile.open(package) as archive:
        try:
            member = archive.extractfile(name)
        except KeyError:
            return None
        return None if member is None else member.read()


if __name__ == "__main__":
    sys.exit(main())
