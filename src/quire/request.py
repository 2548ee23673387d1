"""One call of a caller, as a value: built once by the public methods, and handed down unchanged."""

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
    """The lists of media that stand beside the messages of a call, as they were given."""

    images: Sequence[Any] | None = None
    videos: Sequence[Any] | None = None
    audios: Sequence[Any] | None = None

    def __bool__(self) -> bool:
        """Whether there is something to place; what is no list counts, and is refused there."""
        lists = (self.images, self.videos, self.audios)
        return any(
            one is not None and not (isinstance(one, (list, tuple)) and not one) for one in lists
        )


NO_MEDIA = MediaLists()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to be answered, and how.

    Nothing in it is checked yet, and nothing of it is changed: preparation reads it. `options` are
    those of `quire.options.OPTIONS`. `streamed` is False where the caller reads whole answers alone.
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
        """The request of a public method, whose parameters these are."""
        media = NO_MEDIA
        if not (images is None and videos is None and audios is None):
            media = MediaLists(images, videos, audios)
        return cls(messages, system, tools, media, options, streamed)
