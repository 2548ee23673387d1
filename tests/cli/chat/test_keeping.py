"""Conversations that are kept: going on with them, leaving them, forgetting them, saving them."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from quire import __version__
from quire.cli.chat.chat_info import ChatInfo
from quire.cli.chat.chat_store import ChatStore, KeptChat
from quire.cli.chat.command import greet
from quire.cli.chat.editor import edit_in
from quire.cli.chat.keeping import Keeping, kept_words, short_name
from quire.cli.chat.loaded_model import LoadedModel
from quire.cli.chat.session import Session
from quire.cli.chat.slash_kept import chat_rows
from quire.cli.chat.terminal_chat import TerminalChat
from quire.cli.main import main
from quire.cli.signals import handled
from quire.errors import ConfigError, ModelNotFoundError, WeightsError
from quire.messages import ToolCall
from quire.outputs import Delta
from tests.chat.deltas import gained
from tests.cli.chat.test_terminal_chat import Line, Lines, contents, converse
from tests.cli.fake_chat_model import FakeChatModel, Script, echo, words


@pytest.fixture
def store(tmp_path: Path) -> ChatStore:
    return ChatStore(tmp_path / "data" / "quire" / "chats.db")


def keep(
    store: ChatStore, *lines: Line, script: Script = echo, on: bool = True
) -> tuple[TerminalChat, FakeChatModel, str]:
    """Chat these lines with their conversation kept."""
    output, model = io.StringIO(), FakeChatModel(script=script)
    keeping = Keeping(store, ["m"], "m", on=on)
    console = Console(file=output, width=60, highlight=False)
    chat = TerminalChat(model, console, Lines(list(lines)), keeping=keeping)  # type: ignore[arg-type]
    chat.run()
    return chat, model, " ".join(output.getvalue().split())


def texts(store: ChatStore, number: int) -> list[str]:
    return [message["content"] for message in store.load(number)[1]["messages"]]


# --- in the chat -----------------------------------------------------------------------------------


def test_a_conversation_is_kept_and_told_of_once(store: ChatStore) -> None:
    _, _, first = keep(store, "/system Be brief.", "one", "two")
    _, _, second = keep(store, "three")
    assert "Kept on this machine; /keep says more." in first
    assert "Kept on this machine" not in second
    assert texts(store, 1) == ["one", "You said: one", "two", "You said: two"]
    assert store.load(1)[1]["system"] == "Be brief."
    assert [chat.title for chat in store.list()] == ["three", "one"]


def test_a_question_is_kept_before_its_answer(store: ChatStore) -> None:
    seen: list[list[str]] = []

    def script(messages: Any, options: Any) -> Any:
        seen.append(texts(store, 1))
        return echo(messages, options)

    keep(store, "one", script=script)
    assert seen == [["one"]]


def test_a_question_without_answer_waits_for_retry(store: ChatStore) -> None:
    def fail(messages: Any, options: Any) -> list[Any]:
        return [gained("half"), SystemExit()]

    with pytest.raises(SystemExit):  # the terminal was closed, say
        keep(store, "one", script=fail)
    _, model, _ = keep(store, "/resume 1", "/retry", "two")
    assert contents(model) == [["one"], ["one", "You said: one", "two"]]


def test_resume_lists_and_goes_on(store: ChatStore) -> None:
    keep(store, "about Oslo", "/clear", "about Rome")
    _, model, shown = keep(store, "/resume", "1", "more")
    assert shown.index("about Rome") < shown.index("about Oslo")
    assert contents(model) == [["about Oslo", "You said: about Oslo", "more"]]
    assert texts(store, 1)[-1] == "You said: more"
    assert "Going on with 1, 2 messages." in shown
    _, model, _ = keep(store, "/resume rome", "more")
    assert contents(model) == [["about Rome", "You said: about Rome", "more"]]


def test_a_list_gives_its_room_to_the_titles() -> None:
    now = time.mktime((2026, 11, 30, 23, 0, 0, 0, 0, -1))
    chats = [
        KeptChat(12, "a title 你好你好你好你好你好你好你好", "the demo model", (), now - 3600, 1),
        KeptChat(3, "short", "a-model-of-a-very-long-name", (), now - 40 * 86400, 1),
        KeptChat(1, "", "the demo model", (), now - 400 * 86400, 1),
    ]
    assert chat_rows(chats, 40, now) == [
        "12  22:00     a title 你好你好你好你好…",
        " 3  Oct 21    short",
        " 1  Oct 2025  ",
    ]
    wide = chat_rows(chats, 80, now)
    assert wide[0].endswith("你好你好  the demo model")
    assert wide[1].endswith("  a-model-of-a-very-lo")
    assert max(map(cell_len, wide)) < 80
    assert "demo" not in chat_rows(chats[::2], 80, now)[0]  # of one model, its name says nothing


@pytest.mark.parametrize(
    ("width", "name", "is_demo", "line"),
    [
        (80, "the demo model", True, "the demo model · yours: quire chat FOLDER · /help"),
        (40, "the demo model", True, "the demo model · /help"),
        (60, "some/folder/of/models/Qwen3-0.6B", False, "some/folder/of/models/Qwen3-0.6B · /help"),
        (40, "some/folder/of/models/Qwen3-0.6B", False, "Qwen3-0.6B · /help"),
        (40, "a/Llama-3.1-Nemotron-8B-Instruct", False, "Llama-3.1-Nemotro… · /help"),
    ],
)
def test_the_start_is_one_line(width: int, name: str, is_demo: bool, line: str) -> None:
    output = io.StringIO()
    console = Console(file=output, width=width)
    greet(console, ChatInfo(name, FakeChatModel()), is_demo=is_demo)  # type: ignore[arg-type]
    assert output.getvalue() == f"quire {__version__} · {line}\n\n"


def test_resume_is_given_up(store: ChatStore) -> None:
    keep(store, "one")
    _, model, shown = keep(
        store, "/resume", KeyboardInterrupt, "/resume", "", "/resume", "x", "two"
    )
    assert shown.count("Nothing was changed.") == 2
    assert "'x' is no number" in shown
    assert contents(model) == [["two"]]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("/resume", "No conversation is kept yet"),
        ("/resume 7", "No conversation has the number 7"),
        ("/resume Paris", "No kept conversation holds 'Paris'"),
        ("/keep maybe", "on or off"),
        ("/forget", "not kept"),
        ("/forget 7", "No conversation has the number 7"),
        ("/forget it", "a number or all"),
    ],
)
def test_a_wrong_word_is_one_line(store: ChatStore, line: str, text: str) -> None:
    assert text in keep(store, line)[2]


@pytest.mark.parametrize("line", ["/resume", "/keep", "/forget"])
def test_where_nothing_is_kept_it_is_said(line: str) -> None:
    assert "No conversations are kept here" in converse(line)[2]


def test_a_long_history_is_shown_from_its_end(store: ChatStore) -> None:
    keep(store, *(f"question {number}" for number in range(15)))
    shown = keep(store, "/resume 1")[2]
    assert "(10 earlier messages)" in shown
    assert "question 4" not in shown
    assert "question 5" in shown


def test_a_long_question_stays_small_in_the_history(store: ChatStore) -> None:
    text = "\n".join(f"line {number}" for number in range(300))
    keep(store, text, script=lambda messages, options: words("Yes."))
    shown = keep(store, "/resume 1")[2]
    assert "> line 0 [and 299 lines more] Yes." in shown


def test_keeping_is_turned_off_and_on(store: ChatStore) -> None:
    _, _, shown = keep(store, "one", "/keep off", "two", "/clear", "three")
    assert "What was kept until now stays as 1" in shown
    assert texts(store, 1) == ["one", "You said: one"]
    assert not store.keeps()
    keep(store, "/keep on", "four", on=False)
    assert store.keeps()
    assert [chat.title for chat in store.list()] == ["four", "one"]


def test_a_choice_that_cannot_be_written_is_told_of_once(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ChatStore, keeps: bool) -> None:
        raise ConfigError("The disk is full.")

    monkeypatch.setattr(ChatStore, "choose", refuse)
    chat, _, shown = keep(store, "one", "/keep off", "two", "/keep on")
    assert shown.count("The disk is full.") == 2
    assert chat.keeping is not None
    assert not chat.keeping.on
    assert texts(store, 1) == ["one", "You said: one"]


def test_ctrl_c_while_a_conversation_is_written_is_heeded_behind_it(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ChatStore.save

    def interrupted(self: ChatStore, *args: Any, **options: Any) -> KeptChat:
        kept = save(self, *args, **options)
        signal.raise_signal(signal.SIGINT)
        return kept

    monkeypatch.setattr(ChatStore, "save", interrupted)
    keeping, session = Keeping(store, ["m"], "m", on=True), Session()
    with handled({signal.SIGINT: signal.default_int_handler}):
        for text in ("one", "two"):
            session.add_user(text)
            with pytest.raises(KeyboardInterrupt):
                keeping.keep(session)
            session.add_answer(text)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [chat.number for chat in store.list()] == [1]


@pytest.mark.parametrize("given_up", [KeyboardInterrupt, EOFError, "", "no"])
def test_forgetting_all_is_given_up(store: ChatStore, given_up: Line) -> None:
    _, _, shown = keep(store, "one", "/forget all", given_up)
    assert "Nothing was changed." in shown
    assert "fault" not in shown
    assert len(store.list()) == 1


def test_forgetting(store: ChatStore) -> None:
    _, model, shown = keep(store, "one", "/forget", "two", "/forget 2")
    assert "Deleted conversation 1. The conversation begins anew." in shown
    assert contents(model)[1] == ["two"]
    assert store.list() == []
    keep(store, "three", "/clear", "four", "/forget all", "no", "/forget all", "yes")
    assert store.list() == []


def test_what_cannot_be_kept_is_said_once_and_the_chat_goes_on(store: ChatStore) -> None:
    store.path.mkdir(parents=True)
    _, model, shown = keep(store, "one", "two")
    assert shown.count("not kept any further") == 1
    assert len(model.requests) == 2


def test_a_conversation_that_was_changed_elsewhere_gets_a_number_of_its_own(
    store: ChatStore,
) -> None:
    def script(messages: Any, options: Any) -> Any:
        if messages[-1]["content"] == "here":
            keep(store, "/resume 1", "there")
        return echo(messages, options)

    keep(store, "one")
    _, _, shown = keep(store, "/resume 1", "here", script=script)
    assert "this one is kept as 2" in shown
    assert texts(store, 1)[-2:] == ["there", "You said: there"]
    assert texts(store, 2)[-2:] == ["here", "You said: here"]


def test_info_says_what_is_kept(store: ChatStore) -> None:
    _, _, shown = keep(store, "/info", "one", "/info", "/keep off", "/info")
    assert "0 messages, kept in" in shown
    assert "2 messages, kept as 1 in" in shown
    assert "2 messages, not kept" in shown


# --- the words of the command line -----------------------------------------------------------------


def test_words_are_kept_without_secrets_and_with_paths_that_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "adapter").mkdir()
    words = [
        "model", "--adapter_name_or_path", "adapter,owner/name", "hf_hub_token=abc", "template=qwen3",
        "--temperature", "0.5", "--stop", "[a]", "--seed=3",
    ]  # fmt: skip
    assert kept_words(words) == [
        str(tmp_path / "model"),
        f"adapter_name_or_path={tmp_path / 'adapter'},owner/name",
        "template=qwen3",
        "temperature=0.5",
        'stop=["a"]',
        "seed=3",
    ]
    assert kept_words(kept_words(words)) == kept_words(words)
    assert kept_words([]) == []


@pytest.mark.parametrize(
    ("name", "short"), [("a/b/", "b"), ("owner/name", "name"), ("x.gguf", "x.gguf"), ("/", "/")]
)
def test_a_model_has_a_short_name(name: str, short: str) -> None:
    assert short_name(name) == short


class Piped:
    """quire chat with something piped in, and a place for what it keeps."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        self.store = ChatStore(tmp_path / "quire" / "chats.db")
        self.arguments: list[Mapping[str, Any]] = []
        self.models: list[FakeChatModel] = []
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str, text: str = "") -> int:
        def make(arguments: Mapping[str, Any]) -> Any:
            self.arguments.append(arguments)
            self.models.append(FakeChatModel(arguments))
            return self.models[-1]

        self._monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return main(["chat", *words], make_model=make)


@pytest.fixture
def piped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Piped:
    return Piped(tmp_path, monkeypatch)


def test_a_pipe_keeps_nothing_unless_it_is_told_to(piped: Piped) -> None:
    assert piped("m", text="one") == 0
    assert piped("m", "-p", "one") == 0
    assert not piped.store.path.exists()
    assert piped("m", "-p", "one", "--keep", "temperature=0") == 0
    assert texts(piped.store, 1) == ["one", "You said: one"]


def test_a_pipe_goes_on_with_the_last_conversation(
    piped: Piped, capsys: pytest.CaptureFixture[str]
) -> None:
    piped("m", "-p", "one", "--keep", "temperature=0", "seed=3")
    assert piped("-c", "-p", "two") == 0
    assert piped.arguments[1] == {"model_name_or_path": "m", "temperature": 0}
    assert piped.models[1].requests[0]["seed"] == 3
    assert contents(piped.models[1]) == [["one", "You said: one", "two"]]
    assert len(texts(piped.store, 1)) == 4
    assert piped("other", "-c", "three and more", "--no-keep") == 0
    assert piped.arguments[2] == {"model_name_or_path": "other"}
    assert len(contents(piped.models[2])[0]) == 5
    assert len(texts(piped.store, 1)) == 4
    assert capsys.readouterr().out.count("\n") == 3


def test_settings_of_a_conversation_win_over_its_first_words_and_new_words_over_both(
    piped: Piped,
) -> None:
    piped("m", "-p", "one", "--keep", "seed=3", "min_p=0.1")
    kept, content = piped.store.load(1)
    content["settings"] = {"min_p": 0.2, "seed": 4}
    piped.store.save(kept, content, title="", model="m", words=kept.words)
    piped("-c", "-p", "two", "seed=5")
    assert piped.models[1].requests[0]["seed"] == 5
    assert piped.models[1].requests[0]["min_p"] == 0.2


def test_where_the_model_is_gone_another_may_go_on(
    piped: Piped, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(arguments: Mapping[str, Any]) -> Any:
        raise ModelNotFoundError("There is no model folder m.")

    piped("m", "-p", "one", "--keep")
    assert main(["chat", "-c", "-p", "two"], make_model=refuse) == 1
    assert "no model folder m. Another goes on" in capsys.readouterr().err
    assert main(["chat", "m", "-p", "two"], make_model=refuse) == 1
    assert "Another goes on" not in capsys.readouterr().err


def test_without_a_conversation_there_is_none_to_go_on_with(
    piped: Piped, capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped("-c", "-p", "one") == 2
    assert "No conversation is kept yet" in capsys.readouterr().err


# --- files -----------------------------------------------------------------------------------------


def test_a_conversation_as_markdown(tmp_path: Path) -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        if messages[-1]["role"] == "tool":
            return [gained("Cold.", finish_reason="stop")]
        call = ToolCall("get_weather", '{"city": "Oslo"}')
        return [
            gained(reasoning="Hm.\nHm."),
            gained(finish_reason="tool_calls", tool_calls=(call,)),
        ]

    file = tmp_path / "my chat.md"
    tools = json.dumps([{"name": "get_weather", "parameters": {}}])
    lines = (f"/tools {tools}", "/system Be brief.", "Weather?", "3 ```degrees```", f"/save {file}")
    _, _, shown = converse(*lines, f"/save {file}", script=script)
    assert shown.count("Saved 4 messages") == 2
    assert file.read_text() == (
        "<!-- saved by quire chat -->\n# Weather?\n\n## System\n\nBe brief.\n\n## You\n\nWeather?\n\n"
        '## the model\n\n> Hm.\n> Hm.\n\nCalls `get_weather`:\n\n```json\n{\n  "city": "Oslo"\n}\n```\n\n'
        "## Result of get_weather\n\n3 ```degrees```\n\n## the model\n\nCold.\n"
    )


def test_a_stopped_answer_says_so_in_markdown(tmp_path: Path) -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        return [Delta(text="half"), KeyboardInterrupt()]

    converse("one", f"/save {tmp_path}/a.md", script=script)
    assert (tmp_path / "a.md").read_text().endswith("half\n\n*(stopped)*\n")


def test_markdown_writes_over_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("My notes.")
    _, _, shown = converse("one", f"/save {file}")
    assert "was not saved here" in " ".join(shown.split())
    assert file.read_text() == "My notes."


@pytest.mark.parametrize("spelling", ["{}/my chat.json", '"{}/my chat.json"', "{}/my\\ chat.json"])
def test_paths_with_blanks(tmp_path: Path, spelling: str) -> None:
    given = spelling.format(tmp_path)
    _, model, shown = converse("one", f"/save {given}", "/clear", f"/load {given}", "two")
    assert "Loaded 2 messages" in shown
    assert len(contents(model)[1]) == 3
    assert (tmp_path / "my chat.json").is_file()


# --- another model ---------------------------------------------------------------------------------


class Models:
    """Makes models by name; some names fail."""

    def __init__(self) -> None:
        self.made: list[FakeChatModel] = []

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        if str(arguments["model_name_or_path"]).endswith("broken"):
            raise WeightsError("The weights are truncated.")
        if str(arguments["model_name_or_path"]).endswith("slow"):
            raise KeyboardInterrupt
        self.made.append(FakeChatModel(arguments))
        return self.made[-1]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    for name in ("first", "second one", "broken", "slow"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "qwen3"}')
    monkeypatch.chdir(tmp_path)
    return Models()


def change(models: Models, store: ChatStore, *lines: Line) -> tuple[TerminalChat, str]:
    output = io.StringIO()
    loaded = LoadedModel(["first"], models)
    keeping = Keeping(store, ["first"], "first", on=True)
    chat = TerminalChat(
        loaded.model,
        Console(file=output, width=200),
        Lines(list(lines)),  # type: ignore[arg-type]
        loaded=loaded,
        keeping=keeping,
    )
    chat.run()
    loaded.close()
    return chat, output.getvalue()


@pytest.mark.parametrize("given", ["second one", "'second one' seed=4 temperature=0"])
def test_another_model_goes_on_with_the_conversation(
    models: Models, store: ChatStore, given: str
) -> None:
    chat, shown = change(models, store, "one", f"/model {given}", "two", "/model")
    first, second = models.made
    assert contents(second) == [["one", "You said: one", "two"]]
    assert first.closed
    assert second.closed
    assert shown.count("second one (FakeEngine) answers.") == 2
    assert second.requests[0].get("seed") == (4 if "seed" in given else None)
    (kept,) = store.list()
    assert kept.model == "second one"
    assert kept.words[0] == os.path.abspath("second one")
    assert ("temperature=0" in kept.words) == ("temperature" in given)
    assert chat.session.configured == ({"temperature": 0} if "temperature" in given else {})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("nowhere/at/all", "no model folder"),
        ("broken", "truncated"),
        ("slow", "Stopped."),
        ("first temprature=1", "did you mean 'temperature'"),
    ],
)
def test_a_model_that_cannot_be_had_leaves_the_old_one(
    models: Models, store: ChatStore, given: str, text: str
) -> None:
    _, shown = change(models, store, "one", f"/model {given}", "two")
    assert text in shown
    assert contents(models.made[-1])[-1] == ["one", "You said: one", "two"]
    assert not (given not in ("broken", "slow") and len(models.made) > 1)
    assert all(model.closed for model in models.made)


def test_where_no_model_can_be_changed_it_is_said() -> None:
    assert "cannot be changed" in converse("/model other")[2]


def test_a_model_that_takes_no_pictures_is_told_of_those_before(
    models: Models, store: ChatStore, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"a file")
    _, shown = change(models, store, f"/image {picture}", "What?", "/model 'second one'")
    assert "This model takes no image" in shown


def test_a_model_is_missing_before_anything_is_loaded(models: Models) -> None:
    loaded = LoadedModel(["first"], models)
    with pytest.raises(ModelNotFoundError):
        loaded.change(["nowhere/at/all"])
    assert not models.made[0].closed
    loaded.close()


# --- the editor ------------------------------------------------------------------------------------


def editor(tmp_path: Path, code: str) -> str:
    script = tmp_path / "my editor.py"
    script.write_text(f"import pathlib, sys\nfile = pathlib.Path(sys.argv[-1])\n{code}\n")
    return f"'{sys.executable}' '{script}' --wait"


def test_a_text_is_changed_in_the_editor(tmp_path: Path) -> None:
    command = editor(tmp_path, "file.write_text(file.read_text().upper() + 'é\\n', 'utf-8')")
    assert edit_in(command, "one\ntwo") == "ONE\nTWO\né"


@pytest.mark.parametrize(
    ("command", "text"),
    [("/nowhere/editor", "cannot be run"), ("'", "cannot be run"), ("false", "ended with 1")],
)
def test_an_editor_that_fails_changes_nothing(command: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        edit_in(command, "one")


def test_no_text_stays_behind_an_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    edit_in("true", "one")
    with pytest.raises(ConfigError):
        edit_in("false", "one")
    assert list(tmp_path.iterdir()) == []


# --- several lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ('"""one\ntwo"""', "one\ntwo"),
        ('"""\n/one\n"""', "/one"),
        ('"""exit"""', "exit"),
        ('"""a docstring"""\nand code', '"""a docstring"""\nand code'),
        ('""""""', '""""""'),
    ],
)
def test_lines_between_marks_are_one_message(typed: str, sent: str) -> None:
    assert contents(converse(typed)[1]) == [[sent]]


def test_a_session_has_the_title_of_its_first_question() -> None:
    session = Session()
    assert session.title == ""
    session.add_user("\n a \x1b question\nof two lines")
    assert session.title == "a ␛ question"
