"""Programs as people run them: with streams that are closed or full, little memory, and no home."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory

from quire.arguments import get_infer_args
from quire.chat import ChatModel
from quire.cli.chat.folded_texts import FoldedTexts
from quire.cli.chat.reader import open_history
from quire.errors import ConfigError, ModelNotFoundError
from tests.chat.model_folders import make_model_folder

FILTER = """
import sys
from quire.cli.main import main
from tests.cli.fake_chat_model import FakeChatModel, words
script = lambda messages, options: words("word " * 5000)
sys.exit(main(sys.argv[1:], make_model=lambda arguments: FakeChatModel(arguments, script)))
"""
CHAT = ["-c", FILTER, "chat", "m"]
HELP = ["-m", "quire", "--help"]
WRONG = ["-m", "quire", "chta"]


@pytest.mark.parametrize(
    ("command", "streams", "code", "error"),
    [
        (CHAT, "> /dev/full", 1, "cannot be written: No space left on device"),
        (CHAT, ">&-", 1, "cannot be written: Bad file descriptor"),
        (CHAT, "<&-", 2, "The input is empty"),
        (CHAT, "> /dev/null 2>&-", 0, ""),
        (HELP, "> /dev/full", 1, "cannot be written: No space left on device"),
        (HELP, ">&-", 1, "cannot be written"),
        (WRONG, "2> /dev/full", 2, ""),
        (WRONG, "<&- >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full(
    command: list[str], streams: str, code: int, error: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, *command],
        env=environment,
        input="Hello",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert error in done.stderr
    assert done.stderr.count("\n") <= 1  # one line, and no traceback


@pytest.mark.parametrize("mib", [700, 1000])
def test_little_memory_is_an_answer_or_an_error_of_ours(mib: int, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path)
    words = ["max_new_tokens=2", "vllm_maxlen=256", "native_num_threads=1"]
    done = subprocess.run(
        [sys.executable, "-m", "quire", "chat", str(folder), *words],
        env={**os.environ, "RAYON_NUM_THREADS": "1"},
        input="Hello",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        preexec_fn=limited(mib),
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or done.stderr.startswith("quire: "), done.stderr


def limited(mib: int) -> Callable[[], None]:
    """Limits the address space of the process in which it is called."""
    size = mib * 2**20
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom neither the environment nor the system's list knows, as in some containers."""
    import pwd

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_history_is_in_memory() -> None:
    assert isinstance(open_history(FoldedTexts()), InMemoryHistory)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("name", ["~/model", "~nobody-of-this-name/model"])
def test_a_home_that_cannot_be_found_is_part_of_the_name(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=name):
        ChatModel({"model_name_or_path": name})
    with pytest.raises(ConfigError, match=name):
        get_infer_args(f"{name}.yaml")


def test_a_full_disk_does_not_end_a_chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = open_history(FoldedTexts())
    os.remove(tmp_path / "quire" / "chat_history")
    (tmp_path / "quire" / "chat_history").symlink_to("/dev/full")
    history.append_string("a question")
    assert history.get_strings() == ["a question"]
