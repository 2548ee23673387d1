"""Attaching images, videos and sounds: commands, dropped paths, what is kept and shown."""

from __future__ import annotations

import errno
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.cli.chat.attachments import read_sources, shown_text, split_dropped
from quire.cli.chat.files import local_path, unquoted
from quire.cli.chat.session import Session, Turn
from quire.errors import MediaError
from quire.media.placement import place_media
from quire.messages import Media, read_conversation, read_message
from tests.cli.chat.test_reader import completions
from tests.cli.chat.test_terminal_chat import Line, converse
from tests.cli.fake_chat_model import Script, echo, words

NAMES = ["a.png", "my picture.JPG", 'it\'s "odd" \\ $x.webp', "clip.mp4", "tone.wav", "日本.gif"]
KINDS = ["image", "image", "image", "video", "audio", "image"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in [*NAMES, "notes.txt"]:
        (tmp_path / name).write_bytes(b"a file")
    return tmp_path


def part(kind: str, source: Path | str) -> dict[str, Any]:
    return {"type": kind, kind: str(source)}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def escaped(path: Path) -> str:
    """A path as macOS's terminals paste it."""
    return "".join(c if c.isalnum() or c in "/._-" else f"\\{c}" for c in str(path))


def double_quoted(path: Path) -> str:
    return '"' + "".join(f"\\{c}" if c in '"\\$`' else c for c in str(path)) + '"'


SPELLINGS = [lambda path: shlex.quote(str(path)), escaped, double_quoted, Path.as_uri]


def asked(*lines: Line, script: Script = echo) -> tuple[list[Any], str]:
    """The content of the last user message of each request, and what was shown."""
    _, model, shown = converse(*lines, script=script)
    return [request["messages"][-1]["content"] for request in model.requests], shown


# --- commands ---------------------------------------------------------------------------------


def test_attachments_go_before_the_text_of_the_next_message(folder: Path) -> None:
    contents, shown = asked(
        f"/image {folder}/a.png", f"/video {folder}/clip.mp4", f"/audio {folder}/tone.wav",
        "What is this?", "And now?",
    )  # fmt: skip
    first = [
        part("image", folder / "a.png"),
        part("video", folder / "clip.mp4"),
        part("audio", folder / "tone.wav"),
        text_part("What is this?"),
    ]
    assert contents == [first, "And now?"]
    assert "Attached a.png; it goes with the next message." in shown


def test_later_requests_hold_the_attachments_of_earlier_turns(folder: Path) -> None:
    _, model, _ = converse(f"/image {folder}/a.png", "one", "two")
    assert model.requests[1]["messages"][0] == model.requests[0]["messages"][0]


def test_spaces_quotes_and_several_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for spelled in ["my picture.JPG", "'my picture.JPG'", "my\\ picture.JPG", '"my picture.JPG"']:
        assert read_sources("image", spelled) == [Media("image", str(folder / "my picture.JPG"))]
    odd = NAMES[2]
    assert read_sources("image", odd) == [Media("image", str(folder / odd))]
    both = read_sources("image", f"a.png {shlex.quote(odd)}")
    assert [medium.source for medium in both] == [str(folder / "a.png"), str(folder / odd)]
    _, shown = asked("/image a.png 日本.gif")
    assert "Attached a.png and 日本.gif; they go with the next message." in shown


def test_a_path_from_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert read_sources("image", "~/a.png") == [Media("image", str(folder / "a.png"))]
    assert split_dropped("~/a.png what?") == ([Media("image", str(folder / "a.png"))], "what?")


@pytest.mark.parametrize("url", ["https://example.org/a.png?b=1", "data:image/png;base64,AAAA"])
def test_addresses_pass(url: str) -> None:
    contents, _ = asked(f"/image {url}", "What?")
    assert contents == [[part("image", url), text_part("What?")]]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("/nowhere/a.png", "Cannot attach /nowhere/a.png: there is no such file."),
        ("{folder}", "it is no file."),
        ("ftp://example.org/a.png", "begin with http"),
        ("file://elsewhere/a.png", "begin with http"),
        ("{folder}/a.png /nowhere", "Cannot attach /nowhere: there is no such file."),
        ("it's.png", "Cannot attach it's.png: there is no such file."),
    ],
)
def test_what_cannot_be_attached_is_one_line(folder: Path, argument: str, reason: str) -> None:
    contents, shown = asked(f"/image {argument.format(folder=folder)}", "Hello")
    assert reason in " ".join(shown.split())
    assert contents == ["Hello"]


def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # chmod would not keep root from reading
    contents, shown = asked(f"/image {folder}/a.png", f"{folder}/a.png What?", "Hello")
    assert " ".join(shown.split()).count("the file may not be read") == 2
    assert contents == ["Hello"]


def test_a_name_that_is_no_unicode(folder: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (folder / name).write_bytes(b"a file")
    with pytest.raises(MediaError, match="no valid Unicode"):
        read_sources("image", f"{folder}/{name}")


def test_off_forgets_its_kind_and_the_bare_command_shows(folder: Path) -> None:
    contents, shown = asked(
        "/image", f"/image {folder}/a.png", f"/audio {folder}/tone.wav", "/audio",
        "/image off", "What?",
    )  # fmt: skip
    assert contents == [[part("audio", folder / "tone.wav"), text_part("What?")]]
    said = ["Nothing is attached.", "Attached: [image: a.png] [audio: tone.wav].",
            "Attached: [audio: tone.wav]."]  # fmt: skip
    assert [shown.index(text) for text in said] == sorted(shown.index(text) for text in said)


def test_clear_forgets_and_says_so(folder: Path) -> None:
    contents, shown = asked(f"/image {folder}/a.png", "/clear", "What?")
    assert contents == ["What?"]
    assert "without [image: a.png]" in shown


def test_the_paths_are_completed(folder: Path) -> None:
    assert completions(f"/image {folder}/a.p") == [f"/image {folder}/a.png"]
    assert "/video off" in completions("/video o")


# --- dropped paths ----------------------------------------------------------------------------


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize(("name", "kind"), list(zip(NAMES, KINDS, strict=True)))
def test_a_dropped_path_is_attached(folder: Path, spell: Any, name: str, kind: str) -> None:
    dropped = spell(folder / name)
    medium = Media(kind, str(folder / name))  # type: ignore[arg-type]
    assert split_dropped(dropped) == ([medium], "")
    assert split_dropped(f"{dropped} What's this?") == ([medium], "What's this?")
    assert split_dropped(f"Don't guess: what is it? {dropped} ") == (
        [medium],
        "Don't guess: what is it?",
    )
    assert split_dropped(f"{dropped} {dropped}\nCompare.") == ([medium, medium], "Compare.")
    assert split_dropped(f"Compare {dropped} with\n{dropped}") == ([medium] * 2, "Compare with")


def test_a_line_of_paths_waits_for_text(folder: Path) -> None:
    contents, shown = asked(
        f"{folder}/a.png ", f"'{folder}/my picture.JPG'", "Compare.", f"{folder}/tone.wav Listen.",
        f"{folder}/a.png /retry",
    )  # fmt: skip
    pictures = [part("image", folder / name) for name in NAMES[:2]]
    assert contents[0] == [*pictures, text_part("Compare.")]
    assert contents[1] == [part("audio", folder / "tone.wav"), text_part("Listen.")]
    assert contents[2] == [part("image", folder / "a.png"), text_part("/retry")]
    assert "Attached a.png; it goes with the next message." in shown
    assert "Attached tone.wav.\n" in shown


@pytest.mark.parametrize(
    "line",
    [
        "a.png is a name",
        "./a.png",
        "Look at {folder}/nowhere.png",
        "Read {folder}/notes.txt",
        "The folder {folder}",
        'open("{folder}/a.png")',
        "Delete `{folder}/a.png`",
        "{folder}/a.png.",
        "file://elsewhere{folder}/a.png",
        "https://example.org/a.png",
        "'{folder}/a.png",
        "x={folder}/a.png",
        "  spaces are kept  ",
    ],
)
def test_ordinary_words_stay_text(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    line = line.format(folder=folder)
    assert split_dropped(line) == ([], line)
    contents, _ = asked(line)
    assert contents == ([line] if not line.startswith("/") else [])


def test_a_slash_is_sent_with_two_also_beside_a_dropped_path(folder: Path) -> None:
    contents, _ = asked(f"//x {folder}/a.png", f"/{folder}/a.png")
    assert contents[0] == [part("image", folder / "a.png"), text_part("/x")]
    assert contents[1] == f"{folder}/a.png"


@pytest.mark.parametrize(
    ("line", "sent", "files"),
    [
        ("Explain @notes.txt, please", "Explain notes.txt, please", ["notes.txt"]),
        ("Compare @notes.txt and @'my notes.txt'.", "Compare notes.txt and my notes.txt.",
         ["notes.txt", "my notes.txt"]),
        ("(@notes.txt)", "(@notes.txt)", []),
        ("@nobody says me@notes.txt", "@nobody says me@notes.txt", []),
    ],
)  # fmt: skip
def test_a_file_is_named_in_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, sent: str, files: list[str]
) -> None:
    for name in ("notes.txt", "my notes.txt"):
        (tmp_path / name).write_text(f"of {name}\n")
    monkeypatch.chdir(tmp_path)
    (content,), shown = asked(line)
    quoted = [f"{name}:\n\n```\nof {name}\n```" for name in files]
    assert content == "\n\n".join([*quoted, sent])
    assert ("Attached" in shown) == bool(files)


def test_a_named_file_alone_waits_for_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("one\n")
    monkeypatch.chdir(tmp_path)
    (content,), shown = asked("@notes.txt", "What?")
    assert content == "notes.txt:\n\n```\none\n```\n\nWhat?"
    assert "it goes with the next message" in shown


def test_a_pattern_attaches_what_it_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("b.py", "a.py", "c.txt", "inner/d.py", "[e].py"):
        (tmp_path / name).write_text(f"of {name}\n")
    monkeypatch.chdir(tmp_path)
    assert "Attached [e].py, 1 line" in asked("/file [e].py")[1]
    assert asked("/file ?.py")[1].count(".py, 1 line") == 2
    assert asked("/file **/*.py")[1].count(".py, 1") == 4
    assert "No file matches *.md" in asked("/file *.md")[1]
    for number in range(101):
        (tmp_path / f"{number}.log").write_text("a")
    assert "matches 101 files" in asked("/file *.log")[1]


def test_an_address_of_a_file() -> None:
    assert local_path("file:///a/b%20c%23.png") == "/a/b c#.png"
    assert local_path("FILE://localhost/a.png") == "/a.png"
    assert local_path("file://elsewhere/a.png") is None


@given(st.text())
def test_quoting_is_undone(text: str) -> None:
    assert unquoted(shlex.quote(text)) == text


@given(st.lists(st.sampled_from(["'", '"', "\\", " ", "\n", "/", "~", "file://", "x", ".png"])))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_text_without_a_file_is_never_changed(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert split_dropped(text) == ([], text)


def test_a_long_text_takes_no_time() -> None:
    for piece in ("'/a ", '"/a\\', "/a' ", "/" * 50, "~\\"):
        text = piece * 5000
        assert split_dropped(text) == ([], text)


# --- what is kept -----------------------------------------------------------------------------


def refusing(messages: Any, options: Any) -> list[Any]:
    """Answers as a model that takes text alone."""
    if any(read_message(message).media for message in messages):
        return [MediaError("This model takes text alone: no image input.")]
    return echo(messages, options)


def test_a_refusal_takes_the_message_back_and_says_so(folder: Path) -> None:
    contents, shown = asked(
        f"/image {folder}/a.png", "What?", "/wrong", "/retry", "Hello", "/wrong", script=refusing
    )
    message = [part("image", folder / "a.png"), text_part("What?")]
    assert contents == [message, message, "Hello"]
    assert shown.count("takes text alone") == 2
    assert shown.count("[image: a.png] went back with your message") == 2
    assert "You said: Hello" in shown


def test_a_stop_before_the_answer_says_so(folder: Path) -> None:
    answers: Iterator[list[Any]] = iter([[KeyboardInterrupt()], words("A square.")])
    contents, shown = asked(
        f"{folder}/a.png What?", "/retry", script=lambda messages, options: next(answers)
    )
    assert contents[0] == contents[1]
    assert "[image: a.png] went back with your message" in shown
    assert "A square." in shown


def test_retry_sends_the_attachments_again_and_leaves_new_ones_waiting(folder: Path) -> None:
    contents, _ = asked(f"{folder}/a.png What?", f"/audio {folder}/tone.wav", "/retry", "Hear.")
    assert contents[0] == contents[1] == [part("image", folder / "a.png"), text_part("What?")]
    assert contents[2] == [part("audio", folder / "tone.wav"), text_part("Hear.")]


def test_save_and_load_keep_them_and_the_history_shows_them(folder: Path) -> None:
    file = folder / "chat.json"
    _, model, shown = converse(
        f"{folder}/a.png {folder}/clip.mp4 What?", f"/save {file}", "/clear", f"/load {file}",
        "And?",
    )  # fmt: skip
    saved = json.loads(file.read_text())["messages"][0]["content"]
    assert saved[:2] == [part("image", folder / "a.png"), part("video", folder / "clip.mp4")]
    assert "> [image: a.png] [video: clip.mp4] What?" in shown
    assert model.requests[1]["messages"][0] == model.requests[0]["messages"][0]


def test_media_of_other_forms_are_shown() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        text_part("What?"),
    ]
    message = read_message({"role": "user", "content": content})
    assert shown_text(message) == "[image: https://example.org/a.png] [audio: data] What?"


def test_a_placeholder_that_was_typed_is_text() -> None:
    session = Session()
    session.add_user("What does <image> mean?")
    talk = read_conversation([session.turns[0].message])
    assert place_media(talk) == talk
    assert talk.messages[0].text == "What does <image> mean?"


def held(turns: list[Turn]) -> list[Any]:
    return [medium.source for turn in turns for medium in read_message(turn.message).media]


@given(st.lists(st.sampled_from(["attach", "attach", "user", "answer", "stopped", "retry"])))
def test_no_attachment_is_lost_but_with_a_message_that_another_replaces(steps: list[str]) -> None:
    session, count = Session(), 0
    kept: list[Any] = []
    for step in steps:
        waiting = bool(session.turns) and session.turns[-1].message["role"] == "user"
        if step == "attach":
            count += 1
            kept.append(f"/{count}.png")
            session.attached.append(Media("image", kept[-1]))
        elif step == "user" and not waiting:
            replaced = held(session.taken_back)
            kept = [source for source in kept if source not in replaced]
            session.add_user("question")
        elif step in ("answer", "stopped") and waiting:
            session.add_answer("" if step == "stopped" else "yes", interrupted=step == "stopped")
        elif step == "retry":
            session.retry()
        pending = [one.source for one in session.attached if isinstance(one, Media)]
        assert held(session.turns + session.taken_back) + pending == kept
