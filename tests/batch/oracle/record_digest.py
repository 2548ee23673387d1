"""Digests of token ids in the recorded renderings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from typing import Any

DAY = date(2026, 11, 29)
"""The day of the recorded renderings: Llama 3's list of tools tells the date."""


def digest(ids: Sequence[int]) -> str:
    """Twelve digits that stand for token ids."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:12]


def summary(rows: Sequence[dict[str, Any] | None]) -> list[Any]:
    """How many rows there are, how many of them are dropped, and a digest of all."""
    short = [
        row and (row.get("error") or f"{row['prompt'][1]}{row['label'][1]}"[::3]) for row in rows
    ]
    whole = hashlib.sha256(json.dumps(short).encode()).hexdigest()[:16]
    return [len(rows), short.count(None), whole]
