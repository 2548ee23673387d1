"""What is measured, and on which model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.models import qwen2_05b, qwen2_1b, qwen2_26m

NEW_TOKENS = 128
SHORT = 8
"""Tokens of a short prompt: less than a block of any cache, and soon computed."""

Kind = Literal["decode", "prefill", "cold", "steady", "prefix"]
"""decode: tokens a second of whole requests. prefill: prompt tokens a second, up to one new token.
cold: seconds from a process's start to its first token. steady: tokens a second after the first.
prefix: seconds of requests that share most of their prompts."""


@dataclass(frozen=True)
class Point:
    name: str
    kind: Kind
    streams: int = 1
    prompt_tokens: int = SHORT
    new_tokens: int = NEW_TOKENS
    shared: int = 0
    peers: tuple[str, ...] = ()
    """The only ones that it is asked of; empty is all."""

    @property
    def is_seconds(self) -> bool:
        """Whether less is better."""
        return self.kind in ("cold", "prefix")

    def value(self, found: dict[str, float]) -> float:
        """The point's figure from what a peer's process measured."""
        if self.kind == "prefill":
            return self.streams * self.prompt_tokens / found["seconds"]
        if self.kind == "steady":
            return (self.new_tokens - 1) / (found["last"] - found["first"])
        if self.is_seconds:
            return found["seconds"]
        return self.streams * self.new_tokens / found["seconds"]


def _decode(streams: int) -> Point:
    return Point(f"decode-{streams}", "decode", streams)


PREFIX = Point(
    name="prefix-1000",
    kind="prefix",
    streams=32,
    prompt_tokens=1016,
    new_tokens=16,
    shared=1000,
    peers=("quire", "vLLM"),
)


@dataclass(frozen=True)
class Model:
    name: str
    make: Callable[[], Path]
    points: tuple[Point, ...]


LARGER = (
    *map(_decode, (1, 8, 32)),
    Point("prefill-512", "prefill", prompt_tokens=512, new_tokens=1),
)
MODELS = {
    "A": Model(
        "A",
        qwen2_26m,
        (
            *map(_decode, (1, 8, 32, 64)),
            Point("prefill-1024", "prefill", prompt_tokens=1024, new_tokens=1),
            Point("cold", "cold", new_tokens=1),
            Point("context-128", "steady", prompt_tokens=128, new_tokens=64),
            Point("context-4000", "steady", prompt_tokens=4000, new_tokens=64),
            PREFIX,
        ),
    ),
    "B": Model("B", qwen2_05b, LARGER),
    "C": Model("C", qwen2_1b, LARGER),
}
