"""A prompt on its way to the engine.

A template renders a conversation into elements; encoded, they become a `Prompt`: token ids, and the
media that fill ranges of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text and where it came from.

    `literal` text came from a user, a tool or a file: no control token may arise from it. Other
    text is the format's own, and its control tokens are meant.
    """

    text: str
    literal: bool = False


PoolingKind: TypeAlias = Literal["last", "mean"]
"""How the hidden states of a prompt become one: the last one, or their mean."""

POOLING_KINDS: tuple[PoolingKind, ...] = ("last", "mean")

Spans: TypeAlias = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class TextElement:
    """Text that is encoded by itself, as one string, whatever spans it has."""

    spans: Spans

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class TokenElement:
    """A single control token: BOS, EOS, or one given by its text."""

    kind: Literal["bos", "eos", "token"]
    text: str | None = None


Element: TypeAlias = TextElement | TokenElement


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One decoded image, video or sound and the range of token ids that it fills."""

    kind: Literal["image", "video", "audio"]
    data: Any
    content_hash: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids in order, ready for the model; BOS and control tokens are already in them."""

    token_ids: tuple[int, ...]
    media: tuple[MediaItem, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.token_ids)
