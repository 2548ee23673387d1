"""Fields of a body that are known and not honoured: refused with the reason, not as unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BeforeValidator


def only(*fine: Any, because: str) -> BeforeValidator:
    """Lets `fine` values and null pass, and refuses all others with a reason."""

    def check(value: Any) -> Any:
        if value is not None and not any(value is one or value == one for one in fine):
            raise ValueError(because)
        return value

    checked: Callable[[Any], Any] = check
    return BeforeValidator(checked)
