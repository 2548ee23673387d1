"""A real terminal: a person chats, stops an answer, saves, loads and leaves."""

from __future__ import annotations

import json
import re
import shlex
import signal
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from tests.cli.person import CTRL_C, CTRL_D, Person

SERVE = """
import itertools, os, sys, time
from pathlib import Path
from quire.cli.main import main
from quire.outputs import Delta
from tests.cli.fake_chat_model import FakeChatModel, echo, words

def script(messages, options):
    if messages[-1]["content"] == "long":
        return (Delta(text="word ", token_ids=(number,)) for number in itertools.count())
    if messages[-1]["content"] == "slow":
        def after_a_while():
            while not Path(os.environ["XDG_STATE_HOME"]).with_name("go").exists():
                time.sleep(0.01)
            yield from words("At last.")
        return after_a_while()
    if messages[-1]["content"] == "settings":
        return words(f"temperature is {options.get('temperature')}")
    return echo(messages, options)

make = lambda arguments: FakeChatModel(arguments, script, delay=0.002)
sys.exit(main(sys.argv[1:], make_model=make))
"""
CHAT = [sys.executable, "-c", SERVE, "chat", "folder"]


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    one = Person(CHAT, tmp_path)
    yield one
    one.close()


@contextmanager
def going_on(tmp_path: Path) -> Iterator[Person]:
    """Somebody who goes on with the last conversation, and leaves in order."""
    other = Person([*(word for word in CHAT if word != "folder"), "-c"], tmp_path)
    try:
        yield other
        other.type("/exit\r")
        assert other.leaves() == 0
    finally:
        other.close()


def test_a_session(person: Person, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    person.sees("folder · /help")
    person.sees("(?m)^>")
    person.type("Hello\r")
    person.sees("You said: Hello\n")
    person.type("/set temperature 0\r")
    person.sees(r"temperature = 0  \(set here\)")
    person.type("settings\r")
    person.sees("temperature is 0")

    person.type("long\r")
    person.sees("word word word")
    person.type(CTRL_C)
    person.sees("Stopped; what came is kept")
    person.type(f"/save {file}\r")
    person.sees("Saved 6 messages")
    person.type("/retry\r")
    person.sees("word word word")
    person.type(CTRL_C)
    person.sees("Stopped; what came is kept")

    person.type("/clear\r")
    person.sees("begins anew")
    person.type(f"/load {file}\r")
    shown = person.sees("Loaded 6 messages")
    assert "You said: Hello" in shown
    person.type("again\r")
    person.sees("You said: again")
    person.type("/exit\r")
    assert person.leaves() == 0

    saved: dict[str, Any] = json.loads(file.read_text())
    assert saved["settings"] == {"temperature": 0}
    assert saved["messages"][-1]["interrupted"] is True
    assert saved["messages"][-1]["content"].startswith("word word")
    assert "set temperature" in (tmp_path / "state" / "quire" / "chat_history").read_text()


def test_a_conversation_goes_on_in_another_terminal(person: Person, tmp_path: Path) -> None:
    person.sees("(?m)^>")
    person.type("Hello\r")
    person.sees("You said: Hello")
    person.type("exit\r")
    assert person.leaves() == 0
    (database,) = (tmp_path / "data" / "quire").glob("chats.db*")
    assert database.stat().st_mode & 0o077 == 0

    with going_on(tmp_path) as other:
        shown = other.sees("Going on with 1, 2 messages")
        assert "You said: Hello" in shown
        other.type("/info\r")
        other.sees("kept as 1 in")


def test_an_answer_is_kept_whose_terminal_is_closed(person: Person, tmp_path: Path) -> None:
    person.sees("(?m)^>")
    person.type("long\r")
    person.sees("word word word")
    person.hang_up()
    assert person.leaves() == 0

    with going_on(tmp_path) as other:
        assert "word word word" in other.sees("Going on with 1, 2 messages")


def test_a_prompt_at_the_terminal_is_answered_once(tmp_path: Path) -> None:
    person = Person([*CHAT, "**Hello**"], tmp_path)
    try:
        assert "**" not in person.sees("You said: Hello")
        assert person.leaves() == 0
        assert not (tmp_path / "data").exists()
    finally:
        person.close()


def test_a_slow_model_says_that_it_reads(person: Person, tmp_path: Path) -> None:
    person.sees("(?m)^>")
    person.type("slow\r")
    person.sees("Reading the prompt")
    person.type(CTRL_C)
    person.sees("Stopped; your message was taken back")
    person.sees("(?m)^>")
    person.type("/retry\r")
    person.sees("Reading the prompt")
    (tmp_path / "go").touch()
    person.sees("At last.")
    person.type("/exit\r")
    assert person.leaves() == 0
    assert person.raw.count("\x1b[?25l") <= person.raw.count("\x1b[?25h")


def test_one_answer_says_that_the_prompt_is_read(tmp_path: Path) -> None:
    person = Person([*CHAT, "-p", "slow", "--stats"], tmp_path)
    try:
        person.sees("Reading the prompt ... 1 s")
        (tmp_path / "go").touch()
        person.sees("At last.")
        person.sees("tokens · first after [1-9]")
        assert person.leaves() == 0
        assert person.raw.count("\x1b[?25l") <= person.raw.count("\x1b[?25h")
    finally:
        person.close()


def test_a_person_who_suspends_it_has_a_cursor(person: Person, tmp_path: Path) -> None:
    """Nobody would continue it here: there is no shell, so that it goes on at once."""
    person.sees("(?m)^>")
    person.type("slow\r")
    person.sees("Reading the prompt")
    assert person.raw.rindex("\x1b[?25l") > person.raw.rindex("\x1b[?25h")
    person.process.send_signal(signal.SIGTSTP)
    person.sees("Reading the prompt ... 1 s")
    assert person.raw.rindex("\x1b[?25l") < person.raw.rindex("\x1b[?25h")
    (tmp_path / "go").touch()
    person.sees("At last.")
    person.type("/exit\r")
    assert person.leaves() == 0


def test_a_low_window_has_a_prompt_and_a_menu(person: Person) -> None:
    person.sees("(?m)^>")
    ioctl(person.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 80, 0, 0))
    person.process.send_signal(signal.SIGWINCH)
    person.type("/sy")
    person.sees("/system")
    person.type("stem\r")
    person.sees("No system message of your own")
    person.type("/exit\r")
    assert person.leaves() == 0
    assert "too small" not in person.raw


def test_a_long_pasted_text_stays_small(person: Person) -> None:
    person.sees("(?m)^>")
    text = "\r".join(f"line {number}" for number in range(300))
    person.type(f"\x1b[200~{text}\x1b[201~ all")
    person.sees(r"\[pasted text, 300 lines\] all")
    person.type("\r")
    person.sees("You said: line 0")
    shown = person.sees("line 299 all")
    assert "line 150" in shown
    person.type("/exit\r")
    assert person.leaves() == 0


def test_tabs_are_pasted_as_tabs(person: Person) -> None:
    person.sees("(?m)^>")
    person.type("\x1b[200~if x:\n\ty\x1b[201~")
    person.type("\r")
    shown = person.sees("You said: if x:")
    assert "^I" not in shown
    person.type("/exit\r")
    assert person.leaves() == 0


def test_a_light_terminal_gets_other_colours(tmp_path: Path) -> None:
    person = Person(CHAT, tmp_path, COLORFGBG="0;15")
    try:
        person.sees("(?m)^>")
        person.type("`code`\r")
        person.sees("You said: code")
        assert "\x1b[35mcode" in person.raw
    finally:
        person.close()


def test_a_picture_is_dropped_on_the_terminal(person: Person, tmp_path: Path) -> None:
    picture = tmp_path / "it's a picture.png"
    picture.write_bytes(b"a file")
    person.sees("(?m)^>")
    person.type(f"\x1b[200~{shlex.quote(str(picture))} \x1b[201~\r")
    person.sees("Attached it's a picture.png; it goes with the next message")
    person.type("What is it?\r")
    assert "image" in person.sees("What is it.*(?s:.)*You said: .*(?s:.)*What is it")
    person.type("/exit\r")
    assert person.leaves() == 0


def test_the_terminal_is_left_as_it_was(person: Person) -> None:
    before = termios.tcgetattr(person.slave)
    person.sees("(?m)^>")
    person.type("long\r")
    person.sees("word word word")
    person.type(CTRL_C)
    person.sees("Stopped")
    person.sees("(?m)^>")
    person.type(CTRL_C)
    person.sees("/exit leaves")
    person.sees("(?m)^>")
    person.type(CTRL_D)
    assert person.leaves() == 0
    assert termios.tcgetattr(person.slave)[3] == before[3]
    assert person.raw.count("\x1b[?25l") <= person.raw.count("\x1b[?25h")


def test_an_impatient_person_keeps_the_session(person: Person) -> None:
    for _ in range(3):
        person.sees("(?m)^>")
        person.type("long\r")
        person.sees("word word word")
        for _ in range(5):
            person.type(CTRL_C)
        person.sees("Stopped|/exit leaves")
    person.insists("Hello", "You said: Hello")
    person.type("/exit\r")
    assert person.leaves() == 0


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_without_colours(tmp_path: Path, environment: dict[str, str]) -> None:
    person = Person(CHAT, tmp_path, **environment)
    try:
        person.sees("(?m)^>")
        person.type("**Hello**\r")
        person.sees("You said: Hello\n")
        person.type("/exit\r")
        assert person.leaves() == 0
        colours = re.findall(r"\x1b\[[\d;]*3\d(?:;[\d;]*)?m", person.raw)
        assert colours == []
    finally:
        person.close()
