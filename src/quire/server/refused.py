"""Fields of a body that are known and not honoured: refused with the reason, not as unknown."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator


def only(*fine: Any, because: str) -> BeforeValidator:
    """Lets `fine` values and null pass, and refuses all others with a reason."""

    def check(value: Any) -> Any:
        if value is not None and not any(value is one or value == one for one in fine):
            raise ValueError(because)
        return value

    return BeforeValidator(check)


def kinds(*fine: str, because: str) -> BeforeValidator:
    """Refuses objects of another `type`, before anything else about them is looked at."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in fine:
            raise ValueError(f"The type {kind[:80]!r} is not supported: {because}")
        return value

    return BeforeValidator(check)
