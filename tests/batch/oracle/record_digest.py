"""The digest of token ids in the recorded renderings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def digest(ids: Sequence[int]) -> str:
    """Twelve digits that stand for token ids."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:12]
