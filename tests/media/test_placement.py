"""Media of a call become parts of its messages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import MediaError
from quire.media.placement import all_media, place_media
from quire.messages import Conversation, Media, Text, read_conversation


def conversation(*contents: Any) -> Conversation:
    roles = ("user", "assistant")
    return read_conversation(
        [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    )


def parts(placed: Conversation, index: int = 0) -> list[Any]:
    return [
        (part.kind, part.source) if isinstance(part, Media) else part.text
        for part in placed.messages[index].parts
    ]


def test_placeholders_become_media_in_order() -> None:
    placed = place_media(
        conversation("a<image>b<video><image>", "c<image>", "<audio>d"),
        images=[1, 2, 3],
        videos=["v"],
        audios=["s"],
    )
    assert parts(placed) == ["a", ("image", 1), "b", ("video", "v"), ("image", 2)]
    assert parts(placed, 1) == ["c", ("image", 3)]
    assert parts(placed, 2) == [("audio", "s"), "d"]


def test_without_placeholders_media_stand_before_the_first_user_message() -> None:
    placed = place_media(conversation("Hi", "Ho", "Hu"), audios=[5], videos=[3], images=[1, 2])
    media = [("image", 1), ("image", 2), ("video", 3), ("audio", 5)]
    assert parts(placed) == [*media, "Hi"]
    assert parts(placed, 2) == ["Hu"]


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("<image>", {"images": [1, 2]}),
        ("<image><image>", {"images": [1]}),
        ("<image>", {"videos": [1]}),
        ("<image> and", {"images": [1], "videos": [2]}),
    ],
)
def test_counts_must_match(text: str, given: dict[str, Any]) -> None:
    with pytest.raises(MediaError, match="as many as there are placeholders"):
        place_media(conversation(text), **given)


@pytest.mark.parametrize("given", [{}, {"images": []}, {"videos": (), "audios": []}])
def test_in_a_call_without_media_all_is_text(given: dict[str, Any]) -> None:
    talk = conversation("How do I autoplay a <video>?", "<audio> and <image>", "Thanks")
    assert place_media(talk, **given) == talk


def test_a_kind_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(MediaError, match="text and image: no video input"):
        place_media(conversation("Hi"), videos=[1], kinds=("image",))
    with pytest.raises(MediaError, match="text, image and video: no audio input"):
        place_media(conversation("Hi"), audios=[1], kinds=("image", "video"))
    with pytest.raises(MediaError, match="text alone: no audio input"):
        place_media(conversation([{"type": "audio", "audio": b""}]), kinds=())


def test_placeholders_of_other_kinds_are_text() -> None:
    talk = conversation("<audio> is a tag, <image> a picture")
    placed = place_media(talk, images=[1], kinds=("image",))
    assert parts(placed) == ["<audio> is a tag, ", ("image", 1), " a picture"]
    assert place_media(talk, kinds=()) == talk


def test_literal_text_is_never_searched() -> None:
    literal = {"type": "text", "text": "<image>", "literal": True}
    placed = place_media(conversation([literal, "<image>"]), images=[1])
    assert parts(placed) == ["<image>", "\n", ("image", 1)]
    placed = place_media(conversation([Text("<image>", literal=True)]), images=[1])
    assert parts(placed) == [("image", 1), "<image>"]


def test_text_beside_media_parts_is_not_searched() -> None:
    talk = conversation([{"type": "image", "image": b"i"}, {"type": "text", "text": "<image>?"}])
    assert place_media(talk) == talk
    assert parts(place_media(talk, images=[7])) == [("image", 7), ("image", b"i"), "<image>?"]


def test_system_text_is_not_searched() -> None:
    talk = read_conversation([{"role": "user", "content": "Hi"}], system="<image>")
    assert place_media(talk, images=[1]).system == "<image>"


def test_a_list_is_asked_for() -> None:
    with pytest.raises(MediaError, match="images must be a list"):
        place_media(conversation("<image>"), images="picture.png")  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["<image>", "<video>", "<audio>", "<ima", "ge>", "x"]), min_size=1))
def test_nothing_is_lost_and_nothing_else_changes(pieces: list[str]) -> None:
    text = "".join(pieces)
    kinds = [match[1] for match in re.finditer("<(image|video|audio)>", text)]
    lists: dict[str, Any] = {
        f"{kind}s": [index for index, item in enumerate(kinds) if item == kind]
        for kind in ("image", "video", "audio")
    }
    placed = place_media(conversation(text), **lists)
    assert [item.source for item in all_media(placed)] == list(range(len(kinds)))
    back = "".join(
        f"<{part.kind}>" if isinstance(part, Media) else part.text  # type: ignore[union-attr]
        for part in placed.messages[0].parts
    )
    assert back == text
