"""A prompt on its way to the engine.

A template renders a conversation into elements. Encoded, they become a `Prompt`: token ids, and the
media that fill ranges of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias


class Span(NamedTuple):
    """A run of text and its origin.

    `literal` text came from a user, a tool or a file, and must not be read as control tokens. Other
    text is the template's own, and may hold them.
    """

    # A tuple, since a long conversation has thousands: a frozen dataclass takes twice as long to make.
    text: str
    literal: bool = False


PoolingKind: TypeAlias = Literal["last", "mean"]
"""How the hidden states of a prompt become one: the last one, or their mean."""

POOLING_KINDS: tuple[PoolingKind, ...] = ("last", "mean")

Spans: TypeAlias = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class TextElement:
    """Text that is encoded as one string, whatever spans it consists of."""

    spans: Spans

    @property
    def text(self) -> str:
        """The text of all spans."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class TokenElement:
    """A single control token: BOS, EOS, or the one with this text."""

    kind: Literal["bos", "eos", "token"]
    text: str | None = None


Element: TypeAlias = TextElement | TokenElement


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One decoded image, video or sound, and the range of token ids that it fills."""

    kind: Literal["image", "video", "audio"]
    data: Any
    content_hash: str
    start: int
    """Index of the first token id of the range."""
    length: int
    """Token ids in the range."""
    runs: tuple[tuple[int, int], ...] = ()
    """Where its features stand, if not in all of the range: from one token id to before another."""

    @property
    def feature_runs(self) -> tuple[tuple[int, int], ...]:
        """The ranges of token ids that features stand for, at least one."""
        return self.runs or ((self.start, self.start + self.length),)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids ready for the model, BOS and control tokens included, and the media among them."""

    token_ids: tuple[int, ...]
    media: tuple[MediaItem, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.token_ids)
