"""What is drawn over is drawn by the program alone that has the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.cli.foreground import is_in_foreground
from tests.cli.person import CTRL_C, Person
from tests.polling import wait_until

PROGRAM = """
import sys, time
from pathlib import Path
from rich.console import Console
from quire.cli.foreground import SpinningLine
from quire.cli.signals import suspendable
from quire.cli.terminal import note
folder = Path(sys.argv[1])
with suspendable(), SpinningLine(Console(file=sys.stderr)) as line:
    number = 0
    while not (folder / "end").exists():
        number += 1
        line.tell(f"round {number}")
        (folder / "rounds").write_text(str(number))
        time.sleep(0.02)
note("All is done.")
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Person]:
    """A person at a shell that can put programs into the background."""
    person = Person(["bash", "--norc", "--noprofile", "-i"], tmp_path, PS1="ready> ")
    person.sees("ready> ")
    yield person
    person.close()


def begin(shell: Person, folder: Path, more: str = "") -> None:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    shell.type(f"{sys.executable} {program} {folder}{more}\r")


def rounds(folder: Path) -> int:
    """How often the program has told where it is."""
    file = folder / "rounds"
    return int(file.read_text() or 0) if file.exists() else 0


def runs_on(folder: Path) -> None:
    """Wait until the program has told several times more where it is, and has drawn it if it does."""
    before = rounds(folder)
    wait_until(lambda: rounds(folder) > before + 20)


def test_nothing_is_drawn_from_the_background(shell: Person, tmp_path: Path) -> None:
    begin(shell, tmp_path, " &")
    runs_on(tmp_path)
    shell.type("echo be''tween\r")
    before = shell.sees("between\nready> ")
    assert "round" not in before
    assert "\x1b[?25l" not in shell.raw  # the shell's cursor stays
    shell.type("fg\r")
    shell.sees(r"round \d+")
    (tmp_path / "end").touch()
    shell.sees("All is done.\n")
    shell.sees("ready> ")


def test_ctrl_z_and_bg_leave_the_line_to_the_shell(shell: Person, tmp_path: Path) -> None:
    begin(shell, tmp_path)
    shell.sees(r"round \d+")
    shell.type("\x1a")
    shell.sees("Stopped")
    shell.sees("ready> ")
    shell.type("bg\r")
    shell.sees("ready> ")
    runs_on(tmp_path)
    (tmp_path / "end").touch()
    told = shell.sees("All is done.")
    assert "round" not in told
    assert "\x1b[2K" not in shell.raw[shell.raw.rindex("ready> ") :]
    shell.type(CTRL_C)


def test_what_is_no_terminal_has_no_background(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert is_in_foreground(file)
    assert is_in_foreground(file)
