"""Where media stand: the lists of a call become parts of its messages.

`<image>`, `<video>` and `<audio>` in a message's text are places for media, as in LLaMA-Factory,
but not in text that is marked literal, nor in a message that holds media as parts already.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from quire.errors import MediaError
from quire.messages import Conversation, Media, Message, Part, Text

Kind: TypeAlias = Literal["image", "video", "audio"]

KINDS: tuple[Kind, ...] = ("image", "video", "audio")
PLACEHOLDERS: dict[Kind, str] = {kind: f"<{kind}>" for kind in KINDS}


def place_media(
    conversation: Conversation,
    images: Sequence[Any] | None = None,
    videos: Sequence[Any] | None = None,
    audios: Sequence[Any] | None = None,
    *,
    kinds: Collection[str] = KINDS,
) -> Conversation:
    """Put the media of a call into its messages, as parts.

    Each medium takes the next placeholder of its kind. Where no placeholder stands in any message,
    all stand before the first user message: images, then videos, then audios. `kinds` are what the
    model takes: placeholders of other kinds are text like any other.

    Raises:
        MediaError: the model takes no media of a kind, or there are more or fewer media than
            placeholders.
    """
    given: dict[Kind, list[Any]] = {
        "image": _items(images, "images"),
        "video": _items(videos, "videos"),
        "audio": _items(audios, "audios"),
    }
    _check_kinds(conversation, given, kinds)
    places = _count_places(conversation, kinds)
    if any(given.values()) and not any(places.values()):
        return _put_in_front(conversation, given)
    for kind in KINDS:
        _check_count(kind, len(given[kind]), places[kind])
    if not any(places.values()):
        return conversation
    left: dict[Kind, Iterator[Any]] = {kind: iter(items) for kind, items in given.items()}
    pattern = _pattern(kinds)
    messages = tuple(_fill(message, pattern, left) for message in conversation.messages)
    return replace(conversation, messages=messages)


def all_media(conversation: Conversation) -> tuple[Media, ...]:
    """The media of a conversation, in the order in which they stand."""
    return tuple(item for message in conversation.messages for item in message.media)


def check_kind(kind: str, kinds: Collection[str]) -> None:
    """Raise MediaError for a kind of medium that is not among those that the model takes."""
    if kind not in kinds:
        takes = ", ".join(known for known in KINDS if known in kinds)
        takes = f"text and {takes}" if takes else "text alone"
        raise MediaError(f"This model takes {takes}: no {kind} input.")


def _items(items: Any, name: str) -> list[Any]:
    if items is None:
        return []
    if isinstance(items, (str, bytes, bytearray)) or not hasattr(items, "__iter__"):
        raise MediaError(f"{name} must be a list, one item for each of the {name}.")
    return [item.source if isinstance(item, Media) else item for item in items]


def _check_kinds(
    conversation: Conversation, given: dict[Kind, list[Any]], kinds: Collection[str]
) -> None:
    wanted = {kind for kind, items in given.items() if items}
    wanted |= {item.kind for item in all_media(conversation)}
    for kind in KINDS:
        if kind in wanted:
            check_kind(kind, kinds)


def _check_count(kind: Kind, given: int, places: int) -> None:
    if given != places:
        mark = PLACEHOLDERS[kind]
        raise MediaError(
            f"There are {given} {kind}s for {places} {mark} in the messages: give as many as there "
            f"are placeholders. A {mark} that is meant as text stands in a part "
            '{"type": "text", "text": ..., "literal": true}.'
        )


def _searched(message: Message) -> Iterator[Text]:
    """The texts in which placeholders count."""
    if not message.media:
        for part in message.parts:
            if isinstance(part, Text) and not part.literal:
                yield part


def _count_places(conversation: Conversation, kinds: Collection[str]) -> dict[Kind, int]:
    texts = [part.text for message in conversation.messages for part in _searched(message)]
    return {
        kind: sum(text.count(PLACEHOLDERS[kind]) for text in texts) if kind in kinds else 0
        for kind in KINDS
    }


def _put_in_front(conversation: Conversation, given: dict[Kind, list[Any]]) -> Conversation:
    front = tuple(Media(kind, source) for kind in KINDS for source in given[kind])
    messages = list(conversation.messages)
    places = (place for place, message in enumerate(messages) if message.role == "user")
    place = next(places, None)
    if place is None:
        raise MediaError("Media stand in a message of the user, and there is none.")
    messages[place] = replace(messages[place], parts=(*front, *messages[place].parts))
    return replace(conversation, messages=tuple(messages))


def _pattern(kinds: Collection[str]) -> re.Pattern[str]:
    return re.compile(f"<({'|'.join(kind for kind in KINDS if kind in kinds)})>")


def _fill(message: Message, pattern: re.Pattern[str], left: dict[Kind, Iterator[Any]]) -> Message:
    searched = set(map(id, _searched(message)))
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, Text) and id(part) in searched:
            parts += _cut(part.text, pattern, left)
        else:
            parts.append(part)
    return replace(message, parts=tuple(parts))


def _cut(text: str, pattern: re.Pattern[str], left: dict[Kind, Iterator[Any]]) -> Iterator[Part]:
    place = 0
    for found in pattern.finditer(text):
        if found.start() > place:
            yield Text(text[place : found.start()])
        kind: Kind = next(kind for kind in KINDS if kind == found[1])
        yield Media(kind, next(left[kind]))
        place = found.end()
    if place < len(text):
        yield Text(text[place:])
