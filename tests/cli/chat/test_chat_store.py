"""The file of kept conversations: private, shared by several terminals, and limited."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from quire.cli.chat import chat_store
from quire.cli.chat.chat_store import ChatStore, KeptChat, data_folder
from quire.errors import ConfigError


@pytest.fixture
def store(tmp_path: Path) -> ChatStore:
    return ChatStore(tmp_path / "data" / "chats.db")


def content(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": messages, "system": "Be brief."}


def save(store: ChatStore, *texts: str, known: KeptChat | None = None) -> KeptChat:
    return store.save(known, content(*texts), title=texts[0], model="m", words=["m", "seed=1"])


def test_what_is_saved_is_loaded(store: ChatStore) -> None:
    kept = save(store, 'a "question"\n日本', "an answer")
    again = ChatStore(store.path)
    assert again.load(kept.number) == (kept, content('a "question"\n日本', "an answer"))
    assert kept.words == ("m", "seed=1")
    assert again.list() == [kept]


def test_only_the_owner_may_read_it(store: ChatStore) -> None:
    save(store, "one")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    store.path.chmod(0o644)
    save(store, "two")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_a_conversation_keeps_its_number_while_it_grows_and_changes(store: ChatStore) -> None:
    first = save(store, "one", "1")
    grown = save(store, "one", "1", "two", "2", known=first)
    assert (grown.number, grown.revision) == (first.number, 2)
    changed = save(store, "one", "another", known=grown)
    assert store.load(first.number)[1] == content("one", "another")
    assert [chat.number for chat in store.list()] == [changed.number]


def test_two_terminals_that_go_on_with_one_conversation_lose_nothing(store: ChatStore) -> None:
    first = save(store, "one", "1")
    here = save(store, "one", "1", "here", "h", known=first)
    there = save(store, "one", "1", "there", "t", known=first)
    assert there.number != here.number == first.number
    assert store.load(here.number)[1] == content("one", "1", "here", "h")
    assert store.load(there.number)[1] == content("one", "1", "there", "t")


def test_many_terminals_write_at_once(store: ChatStore) -> None:
    def write(number: int) -> None:
        known = None
        for turn in range(5):
            known = save(ChatStore(store.path), *[f"{number}"] * (turn + 1), known=known)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chats = store.list()
    assert sorted(chat.title for chat in chats) == [str(number) for number in range(8)]
    assert all(len(store.load(chat.number)[1]["messages"]) == 5 for chat in chats)


def test_lists_find_words_in_titles_and_messages(store: ChatStore) -> None:
    save(store, "about Oslo", 'It said "cold".')
    save(store, "about Rome", "Warm.")
    assert [chat.title for chat in store.list("oslo")] == ["about Oslo"]
    assert [chat.title for chat in store.list('"COLD"')] == ["about Oslo"]
    assert [chat.title for chat in store.list()] == ["about Rome", "about Oslo"]
    assert len(store.list(limit=1)) == 1
    assert store.list("Paris") == []


def test_what_is_forgotten_is_gone_from_the_file(store: ChatStore) -> None:
    kept, other = save(store, "a secret word"), save(store, "other")
    assert store.forget(kept.number) == 1
    assert b"secret word" not in store.path.read_bytes()
    assert store.forget(kept.number) == 0
    with pytest.raises(ConfigError, match=f"number {kept.number}"):
        store.load(kept.number)
    assert save(store, "a secret word", known=kept).number > other.number
    assert store.forget() == 2
    assert store.list() == []


def test_the_oldest_go_where_there_are_too_many(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_store, "MOST_CHATS", 3)
    for number in range(5):
        save(store, str(number))
    assert [chat.title for chat in store.list()] == ["4", "3", "2"]
    monkeypatch.setattr(chat_store, "MOST_CHATS", 1000)
    monkeypatch.setattr(chat_store, "MOST_BYTES", 300_000)
    for number in range(10):
        save(store, f"long {number}", "x" * 80_000)
    assert [chat.title for chat in store.list()] == ["long 9", "long 8", "long 7"]


def test_a_conversation_that_is_too_long_is_refused(
    store: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_store, "LONGEST_CHAT", 1000)
    kept = save(store, "one")
    with pytest.raises(ConfigError, match="too long to be kept"):
        save(store, "one", "x" * 1000, known=kept)
    assert store.load(kept.number)[1] == content("one")


def test_the_choice_is_remembered(store: ChatStore) -> None:
    assert store.keeps()
    assert not store.path.exists()
    store.choose(False)
    assert not ChatStore(store.path).keeps()
    store.choose(True)
    assert store.keeps()


def test_the_file_of_a_newer_quire_is_left_alone(store: ChatStore) -> None:
    save(store, "one")
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    before = store.path.read_bytes()
    for use in (lambda: save(store, "two"), store.list, store.keeps, lambda: store.load(1)):
        with pytest.raises(ConfigError, match="newer quire"):
            use()
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("junk", [b"no database at all, but long enough to be read" * 50, None])
def test_what_is_no_database_is_an_error_of_ours(store: ChatStore, junk: bytes | None) -> None:
    store.path.parent.mkdir()
    if junk is None:
        store.path.mkdir()
    else:
        store.path.write_bytes(junk)
    for use in (lambda: save(store, "one"), store.list, lambda: store.load(1), store.forget):
        with pytest.raises(ConfigError, match=r"chats\.db"):
            use()


def test_a_damaged_file_says_what_to_do(store: ChatStore) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=r"is damaged: file is not a database\. Move it away"):
        store.list()


def test_a_file_that_a_full_disk_left_empty_holds_nothing_yet(store: ChatStore) -> None:
    store.path.parent.mkdir()
    store.path.touch()
    assert store.keeps()
    assert store.list() == []
    with pytest.raises(ConfigError, match="No conversation has the number 1"):
        store.load(1)
    assert store.forget() == 0
    assert store.load(save(store, "one").number)[1] == content("one")


def test_damaged_rows_are_an_error_of_ours(store: ChatStore) -> None:
    save(store, "one")
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE messages SET message = '{broken'")
    database.close()
    with pytest.raises(ConfigError, match="damaged"):
        store.load(1)


def test_numbers_beyond_any_are_refused(store: ChatStore) -> None:
    save(store, "one")
    with pytest.raises(ConfigError):
        store.load(10**30)


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/quire"),
        ("linux", {}, "/home/me/.local/share/quire"),
        ("darwin", {}, "/home/me/Library/Application Support/quire"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/quire"),
    ],
)
def test_the_folder_is_the_platforms(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert data_folder() == Path(expected)
