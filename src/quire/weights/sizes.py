"""Numbers of bytes for people."""

from __future__ import annotations


def size_text(size: int) -> str:
    """A number of bytes in a reader's units, such as `1.2 GB`."""
    if size < 1000:
        return f"{size} bytes"
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.1f} {'kMGT'[power - 1]}B"
