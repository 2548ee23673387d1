"""A chat request as a value: the public methods build it once, and it is passed down unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self, TypeAlias

from quire.messages import Message

Messages: TypeAlias = Sequence[Mapping[str, Any] | Message]
Tools: TypeAlias = str | Sequence[Mapping[str, Any]] | None

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MediaLists:
    """The media that the caller gave beside the messages, not inside them."""

    images: Sequence[Any] | None = None
    videos: Sequence[Any] | None = None
    audios: Sequence[Any] | None = None

    def __bool__(self) -> bool:
        """Whether any are given. Anything that is no list counts too; `place_media` refuses it."""
        lists = (self.images, self.videos, self.audios)
        return any(
            one is not None and not (isinstance(one, (list, tuple)) and not one) for one in lists
        )


NO_MEDIA = MediaLists()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to answer, and the options. Nothing in it is checked yet: preparation does that.

    Attributes:
        options: those of `quire.options.OPTIONS`, by name.
        streamed: False where the caller reads whole answers only; see `SamplingParams`.
    """

    messages: Messages
    system: str | None = None
    tools: Tools = None
    media: MediaLists = NO_MEDIA
    options: Mapping[str, Any] = field(default_factory=lambda: _NO_OPTIONS)
    streamed: bool = True

    @classmethod
    def of(
        cls,
        messages: Messages,
        system: str | None,
        tools: Tools,
        images: Sequence[Any] | None,
        videos: Sequence[Any] | None,
        audios: Sequence[Any] | None,
        options: Mapping[str, Any],
        *,
        streamed: bool = True,
    ) -> Self:
        """Build the request of a public method, which has these parameters."""
        media = NO_MEDIA
        if not (images is None and videos is None and audios is None):
            media = MediaLists(images, videos, audios)
        return cls(messages, system, tools, media, options, streamed)
