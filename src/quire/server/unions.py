"""Unions of a body's parts, of which one is chosen by what stands at a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Discriminator


def tagged(by_kind: Mapping[str, str], key: str, what: str) -> Discriminator:
    """Chooses the member of a union by the value at `key`; tags begin with a capital letter."""

    def choose(value: Any) -> str | None:
        kind = value.get(key) if isinstance(value, dict) else None
        return by_kind.get(kind) if isinstance(kind, str) else None

    known = ", ".join(by_kind)
    return Discriminator(choose, f"unknown_{key}", f"{what}; known are {known}")


def by_type(tags: Mapping[type, str], name: str, what: str) -> Discriminator:
    """Chooses the member of a union by the Python type of the value; see `tagged`."""
    return Discriminator(lambda value: tags.get(type(value)), name, what)
