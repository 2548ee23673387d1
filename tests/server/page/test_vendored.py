"""The page's foreign files are those of the npm packages that `THIRD_PARTY.md` names.

`python tools/vendored.py` compares them with npm's, and notes their hashes.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path

VENDOR = Path(str(files("quire.server.page"))) / "vendor"


def test_each_file_is_what_it_was_when_it_was_compared() -> None:
    noted = json.loads((VENDOR / "checksums.json").read_text("utf-8"))
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name not in ("THIRD_PARTY.md", "checksums.json")
    }
    assert found == noted
