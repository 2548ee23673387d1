"""Server-sent events: the same however the bytes are cut, and bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engines.remote import client
from quire.engines.remote.client import EventReader
from quire.errors import GenerationError

STREAM = (
    ": hello\n\ndata: one\n\nevent: x\ndata:two\r\n\r\n"
    "data: three\ndata: more\n\n\n\ndata: ünï\n\ndata: last"
).encode()
EXPECTED = ["one", "two", "three\nmore", "ünï", "last"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    reader, found, start = EventReader(), [], 0
    for cut in [*sorted(cuts), len(STREAM)]:
        found += reader.add(STREAM[start:cut])
        start = cut
    assert found + reader.flush() == EXPECTED


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_EVENT_BYTES", 1000)
    reader = EventReader()
    with pytest.raises(GenerationError):
        for _ in range(20):
            reader.add(b"x" * 100)


def test_an_event_of_endless_lines_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_EVENT_BYTES", 1000)
    reader = EventReader()
    with pytest.raises(GenerationError):
        for _ in range(20):
            reader.add(b"data: " + b"x" * 100 + b"\n")


def test_what_is_no_utf8_is_a_fault() -> None:
    with pytest.raises(GenerationError, match="UTF-8"):
        EventReader().add(b"data: \xff\n\n")
