"""Look-ups in a `quantization_config` that its formats share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from quire.errors import UnsupportedModelError
from quire.weights.hub_config import HubConfig


def refuse(
    settings: HubConfig, key: str, value: Any, known: Iterable[Any]
) -> UnsupportedModelError:
    """The error for quantised weights in a form that this engine does not read."""
    reads = ", ".join(str(one) for one in known)
    return UnsupportedModelError(
        f"{settings.source}: {key} is {value!r}; the native engine reads quantised weights "
        f"{f'with {reads}' if reads else 'without it'}. infer_backend: vllm may run this model"
    )


def group_size(settings: HubConfig, key: str) -> int:
    """Inputs that share a scale; -1, as the files say it, becomes 0: all of them."""
    value = settings.get(key, -1)
    return 0 if value == -1 else settings.integer(key)


def names(settings: HubConfig, key: str) -> list[str]:
    """A list of strings; empty where it is absent."""
    value = settings.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise settings.wrong(key, value, "a list of names")
    return value


def check_pattern(settings: HubConfig, key: str, pattern: str) -> str:
    """The regular expression, if it is one."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise settings.wrong(key, pattern, f"a regular expression ({error})") from None
    return pattern
