"""The log: one line an event, nothing in it that a client wrote, and no request waits for it."""

from __future__ import annotations

import io
import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import ConfigError, EngineDeadError, RequestError
from quire.server.observability.log import EventLog, fault, json_line, take_over, text_line
from quire.tokenizer import Tokenizer
from tests.server.guarded import HI, guarded

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@given(
    st.dictionaries(
        st.sampled_from(["model", "path", "n"]), st.text() | st.integers() | st.floats()
    )
)
@settings(deadline=None)
def test_a_line_is_json_in_printable_ascii(fields: dict[str, Any]) -> None:
    line = json_line(NOW, "info", "event", fields)
    assert line.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    read = json.loads(line)
    assert read["event"] == "event"
    for name, value in fields.items():
        if isinstance(value, str) and not any(0xD800 <= ord(char) < 0xE000 for char in value):
            assert read[name] == value


@given(st.text())
@settings(deadline=None)
def test_a_line_for_people_is_one_line(text: str) -> None:
    line = text_line(NOW, "warning", "event", {"path": text, "message": text})
    assert all(char.isprintable() for char in line.decode()[:-1])


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_of_a_fault_its_place_is_told_and_not_its_words() -> None:
    told = fault(raised(ValueError("the client said: my secret")))
    assert told["error"] == "ValueError"
    assert told["where"][-1].startswith("test_log.py:")
    assert "secret" not in json.dumps(told)
    assert "secret" not in json.dumps(fault(raised(RequestError("secret"))))
    assert fault(raised(EngineDeadError("it died")))["error_text"] == "it died"


def test_pythons_log_goes_there_meanwhile() -> None:
    written = io.BytesIO()
    kept = _Kept(written)
    log = EventLog(cast("BinaryIO", kept))
    logger = logging.getLogger("quire")
    before = (logger.handlers, logger.level, logger.propagate)
    with take_over(log):
        logger.warning("It is %s.", "so\n")
        logging.getLogger("uvicorn.error").error("oh", exc_info=raised(KeyError("secret")))
    assert (logger.handlers, logger.level, logger.propagate) == before
    log.close()
    first, second = map(json.loads, kept.content.splitlines())
    assert (first["level"], first["message"], first["source"]) == (
        "warning",
        "It is so\n.",
        "quire",
    )
    assert (second["level"], second["error"]) == ("error", "KeyError")
    assert b"secret" not in kept.content


class _Kept(io.RawIOBase):
    """Keeps what was written when it is closed."""

    def __init__(self, _: object = None) -> None:
        self.content = b""

    def write(self, data: Any) -> int:
        taken = bytes(data)[:7]  # a write may take less than it is given
        self.content += taken
        return len(taken)


def test_a_line_that_cannot_be_written_is_dropped_and_counted() -> None:
    with open("/dev/full", "ab", buffering=0) as full:
        log = EventLog(full)
        for number in range(20):
            log.event("something", number=number)
        log.close()
        assert log.dropped == 20


def test_nobody_waits_for_a_disk_that_stands_still() -> None:
    moves = threading.Event()

    class Still(_Kept):
        def write(self, data: Any) -> int:
            moves.wait(60)
            return len(data)

    log = EventLog(cast("BinaryIO", Still()))
    for _ in range(12_000):
        log.event("something")
    assert not moves.is_set()
    assert log.dropped >= 900
    moves.set()


def test_a_log_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        EventLog.opened(str(tmp_path / "no" / "folder"), "auto")
    path = tmp_path / "log"
    for number in range(2):  # it goes on where it was
        log = EventLog.opened(str(path), "auto")
        log.event("start", number=number)
        log.close()
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1]


async def test_a_request_is_one_line_without_its_words(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, api_key="some-long-key") as server:
        secret = {**HI, "messages": [{"role": "user", "content": "my secret"}], "user": "secret"}
        headers = {"x-api-key": "some-long-key", "x-request-id": "mine-1"}
        answer = await server.chat(secret, headers=headers)
        assert answer.headers["x-request-id"] == "mine-1"
        refused = await server.chat({**secret, "secret": 1}, headers={"x-api-key": "some-long-key"})
        assert refused.status_code == 400
        assert len(refused.headers["x-request-id"]) == 24
        await server.client.get("/health")
        first, second = await server.events()
    assert (first["id"], first["status"], first["caller"]) == ("mine-1", 200, "key-1")
    assert (first["kind"], first["completion_tokens"], first["finish_reason"]) == (
        "chat",
        4,
        "length",
    )
    assert first["prompt_tokens"] > 3
    assert (second["status"], second["path"]) == (400, "/v1/chat/completions")
    assert b"secret" not in server.written.getvalue()
    assert b"one two" not in server.written.getvalue()


async def test_an_id_with_control_characters_is_not_taken(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer) as server:
        answer = await server.chat(headers={"x-request-id": "a\x1bb"})
        assert len(answer.headers["x-request-id"]) == 24
