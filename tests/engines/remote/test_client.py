"""Server-sent events: read the same whatever the chunks, and bounded in size."""

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
def test_events_do_not_depend_on_chunk_boundaries(cuts: list[int]) -> None:
    reader, payloads, start = EventReader(), [], 0
    for cut in [*sorted(cuts), len(STREAM)]:
        payloads += reader.add(STREAM[start:cut])
        start = cut
    assert payloads + reader.flush() == EXPECTED


def test_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_EVENT_BYTES", 1000)
    reader = EventReader()
    with pytest.raises(GenerationError):
        for _ in range(20):
            reader.add(b"x" * 100)


def test_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_EVENT_BYTES", 1000)
    reader = EventReader()
    with pytest.raises(GenerationError):
        for _ in range(20):
            reader.add(b"data: " + b"x" * 100 + b"\n")


def test_invalid_utf8_is_refused() -> None:
    with pytest.raises(GenerationError, match="UTF-8"):
        EventReader().add(b"data: \xff\n\n")
