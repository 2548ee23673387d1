"""Which media stand where: the lists of a call become parts of its messages.

Where a call gives lists, `<image>`, `<video>` and `<audio>` in a message's text are placeholders, as in
LLaMA-Factory, but not in text that is marked literal, nor in a message that holds media as parts
already. In a call without lists they are text like any other.
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
    all stand before the first user message: images, then videos, then audios. `kinds` are those that
    the model takes: placeholders of other kinds are text like any other, and so are all where the
    call has no media.

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
    if not any(given.values()):
        return conversation
    counts = _count_placeholders(conversation, kinds)
    if not any(counts.values()):
        return _put_in_front(conversation, given)
    for kind in KINDS:
        _check_count(kind, len(given[kind]), counts[kind])
    left: dict[Kind, Iterator[Any]] = {kind: iter(items) for kind, items in given.items()}
    pattern = re.compile(f"<({'|'.join(kind for kind in KINDS if kind in kinds)})>")
    messages = tuple(_fill(message, pattern, left) for message in conversation.messages)
    return replace(conversation, messages=messages)


def all_media(conversation: Conversation) -> tuple[Media, ...]:
    """The media of a conversation, in the order in which they stand."""
    return tuple(
        part
        for message in conversation.messages
        for part in message.parts
        if isinstance(part, Media)
    )


def check_kind(kind: str, kinds: Collection[str]) -> None:
    """Check that a kind of medium is among those that the model takes.

    Raises:
        MediaError: it is not.
    """
    if kind not in kinds:
        *others, last = "text", *(known for known in KINDS if known in kinds)
        takes = f"{', '.join(others)} and {last}" if others else "text alone"
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


def _check_count(kind: Kind, given: int, placeholders: int) -> None:
    if given != placeholders:
        mark = PLACEHOLDERS[kind]
        raise MediaError(
            f"{kind}s: {given} given, but {placeholders} {mark} in the messages. Give as many as "
            f"there are placeholders. A {mark} that is meant as text stands in a part "
            '{"type": "text", "text": ..., "literal": true}.'
        )


def _searched(message: Message) -> Iterator[Text]:
    """The texts in which placeholders count."""
    if not message.media:
        for part in message.parts:
            if isinstance(part, Text) and not part.literal:
                yield part


def _count_placeholders(conversation: Conversation, kinds: Collection[str]) -> dict[Kind, int]:
    texts = [part.text for message in conversation.messages for part in _searched(message)]
    return {
        kind: sum(text.count(PLACEHOLDERS[kind]) for text in texts) if kind in kinds else 0
        for kind in KINDS
    }


def _put_in_front(conversation: Conversation, given: dict[Kind, list[Any]]) -> Conversation:
    front = tuple(Media(kind, source) for kind in KINDS for source in given[kind])
    messages = list(conversation.messages)
    of_user = (index for index, message in enumerate(messages) if message.role == "user")
    index = next(of_user, None)
    if index is None:
        raise MediaError("Media stand in a message of the user, and there is none.")
    messages[index] = replace(messages[index], parts=(*front, *messages[index].parts))
    return replace(conversation, messages=tuple(messages))


def _fill(message: Message, pattern: re.Pattern[str], left: dict[Kind, Iterator[Any]]) -> Message:
    searched = set(map(id, _searched(message)))
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, Text) and id(part) in searched:
            parts += _split(part.text, pattern, left)
        else:
            parts.append(part)
    return replace(message, parts=tuple(parts))


def _split(text: str, pattern: re.Pattern[str], left: dict[Kind, Iterator[Any]]) -> Iterator[Part]:
    """The text around the placeholders, and the next medium for each of them."""
    done = 0
    for match in pattern.finditer(text):
        if match.start() > done:
            yield Text(text[done : match.start()])
        kind: Kind = next(kind for kind in KINDS if kind == match[1])
        yield Media(kind, next(left[kind]))
        done = match.end()
    if done < len(text):
        yield Text(text[done:])
