"""What a caller of get_scores and get_embeddings may ask for, read and checked in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.errors import SamplingError, UnsupportedOptionError, nearest, sentence
from quire.outputs import POOLING_KINDS, PoolingKind
from quire.sampling import read_cache_salt

_SCORE_OPTIONS = ("max_length", "priority", "timeout", "cache_salt")
_EMBEDDING_OPTIONS = (*_SCORE_OPTIONS, "pooling", "normalize", "add_special_tokens", "adapter")


@dataclass(frozen=True, slots=True)
class TextOptions:
    """`max_length` cuts texts at their end, in tokens; None refuses those that are too long.

    `timeout` is in seconds for the whole call; a lower `priority` is served earlier.
    """

    max_length: int | None = None
    priority: int = 0
    cache_salt: str | None = None
    timeout: float | None = None
    pooling: PoolingKind | None = None
    """None is the engine's own."""
    normalize: bool = False
    add_special_tokens: bool = False
    adapter: str | None = None


def score_options(options: Mapping[str, Any]) -> TextOptions:
    """The options of get_scores.

    Raises:
        UnsupportedOptionError: it has no option of this name.
        SamplingError: an option is out of its range.
    """
    _check_names("get_scores", options, _SCORE_OPTIONS)
    return TextOptions(**_common(options))


def embedding_options(options: Mapping[str, Any]) -> TextOptions:
    """The options of get_embeddings; raises as `score_options` does."""
    _check_names("get_embeddings", options, _EMBEDDING_OPTIONS)
    kind = options.get("pooling")
    if kind is not None and kind not in POOLING_KINDS:
        raise SamplingError(f"pooling must be one of {', '.join(POOLING_KINDS)}, not {kind!r}.")
    adapter = options.get("adapter")
    if adapter is not None and not isinstance(adapter, str):
        raise SamplingError(f"adapter must be a name, not {adapter!r}.")
    return TextOptions(
        **_common(options),
        adapter=adapter,
        pooling=kind,
        normalize=_flag("normalize", options.get("normalize", True)),
        add_special_tokens=_flag("add_special_tokens", options.get("add_special_tokens", True)),
    )


def _check_names(method: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise UnsupportedOptionError(
                sentence(f"{method} takes no option {name!r}{nearest(name, known)}")
            )


def _common(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "max_length": _whole("max_length", options.get("max_length"), 1),
        "priority": _whole("priority", options.get("priority"), -(2**31)) or 0,
        "timeout": _seconds(options.get("timeout")),
        "cache_salt": read_cache_salt(options.get("cache_salt")),
    }


def _whole(name: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise SamplingError(
            f"{name} must be a whole number from {least} to {2**31 - 1}, not {value!r}."
        )
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    if not fine or not 0 < value < math.inf:
        raise SamplingError(f"timeout must be a number of seconds above 0, not {value!r}.")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SamplingError(f"{name} must be true or false, not {value!r}.")
    return value
