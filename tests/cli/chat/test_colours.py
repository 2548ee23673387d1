"""Colours are read on their ground, and the ground is asked from the terminal."""

from __future__ import annotations

import os
import pty
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prompt_toolkit.styles import Style as PromptStyle
from prompt_toolkit.styles import default_ui_style, merge_styles
from rich.style import Style

from quire.cli.chat.colours import PROMPT_STYLES, STYLES, CodeTheme, chat_console
from quire.cli.chat.ground import Ground, ask_ground, ground_of_environment

NAMES = [
    "black",
    "red",
    "green",
    "yellow",
    "blue",
    "magenta",
    "cyan",
    "white",
    "bright_black",
    "bright_red",
    "bright_green",
    "bright_yellow",
    "bright_blue",
    "bright_magenta",
    "bright_cyan",
    "bright_white",
]
PALETTES = {
    "xterm": "000000 cd0000 00cd00 cdcd00 0000ee cd00cd 00cdcd e5e5e5"
    " 7f7f7f ff0000 00ff00 ffff00 5c5cff ff00ff 00ffff ffffff",
    "GNOME": "2e3436 cc0000 4e9a06 c4a000 3465a4 75507b 06989a d3d7cf"
    " 555753 ef2929 8ae234 fce94f 729fcf ad7fa8 34e2e2 eeeeec",
    "Windows Terminal": "0c0c0c c50f1f 13a10e c19c00 0037da 881798 3a96dd cccccc"
    " 767676 e74856 16c60c f9f1a5 3b78ff b4009e 61d6d6 f2f2f2",
    "Terminal.app": "000000 c23621 25bc24 adad27 492ee1 d338d3 33bbc8 cbcccd"
    " 818383 fc391f 31e722 eaec23 5833ff f935f8 14f0f0 e9ebeb",
    "VGA": "000000 aa0000 00aa00 aa5500 0000aa aa00aa 00aaaa aaaaaa"
    " 555555 ff5555 55ff55 ffff55 5555ff ff55ff 55ffff ffffff",
}
GROUNDS = {"dark": ("000000", "1e1e1e"), "light": ("ffffff",)}


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_every_colour_is_read_on_its_ground(ground: Ground, palette: str) -> None:
    colours = dict(zip(NAMES, PALETTES[palette].split(), strict=True))
    for name, style in STYLES[ground].items():
        colour = Style.parse(style).color
        if colour is not None:
            for behind in GROUNDS[ground]:
                assert contrast(colours[colour.name], behind) >= 3, (name, colour.name)


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_the_prompts_menu_is_read_on_its_ground(ground: Ground, palette: str) -> None:
    """Also where it is reversed: the two colours are the same."""
    colours = dict(zip(NAMES, PALETTES[palette].split(), strict=True))
    style = merge_styles([default_ui_style(), PromptStyle.from_dict(dict(PROMPT_STYLES[ground]))])
    for name in ("completion-menu.completion", "completion-menu.completion.current", "folded",
                 "completion-menu.meta.completion", "completion-menu.meta.completion.current",
                 "scrollbar.background", "scrollbar.button"):  # fmt: skip
        drawn = style.get_attrs_for_style_str(f"class:completion-menu class:{name}")
        assert drawn.bgcolor in ("", "default"), name
        if drawn.color not in ("", "default"):
            colour = colours[str(drawn.color).removeprefix("ansi")]
            for behind in GROUNDS[ground]:
                assert contrast(colour, behind) >= 3, (name, drawn.color)


def test_what_is_chosen_in_the_menu_is_told_without_colours() -> None:
    for styles in PROMPT_STYLES.values():
        style = merge_styles([default_ui_style(), PromptStyle.from_dict(dict(styles))])
        chosen, other = (
            style.get_attrs_for_style_str(f"class:completion-menu class:{name}").reverse
            for name in ("completion-menu.completion.current", "completion-menu.completion")
        )
        assert chosen
        assert not other


def test_on_an_unknown_ground_there_is_no_colour() -> None:
    assert all(Style.parse(style).color is None for style in STYLES["unknown"].values())


def test_no_style_brings_a_ground_of_its_own() -> None:
    for styles in STYLES.values():
        assert all(Style.parse(style).bgcolor is None for style in styles.values())


def test_all_grounds_have_all_styles() -> None:
    assert STYLES["dark"].keys() == STYLES["light"].keys()
    assert STYLES["unknown"].keys() <= STYLES["dark"].keys()


def test_a_token_has_the_style_of_its_kind_or_of_the_next_wider() -> None:
    from pygments.token import Token

    theme = CodeTheme(chat_console("dark"))
    assert theme.get_style_for_token(Token.Literal.String.Double) == Style.parse("green")
    assert theme.get_style_for_token(Token.Name.Function) == Style.parse("bright_yellow")
    assert theme.get_style_for_token(Token.Name) == Style.null()


# --- asking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "ground"),
    [
        ({"COLORFGBG": "15;0"}, "dark"),
        ({"COLORFGBG": "0;15"}, "light"),
        ({"COLORFGBG": "0;default;7"}, "light"),
        ({"COLORFGBG": "default;default"}, "unknown"),
        ({"TERM": "linux"}, "dark"),
        ({"TERM": "xterm"}, "unknown"),
    ],
)
def test_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], ground: str
) -> None:
    monkeypatch.delenv("COLORFGBG", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ground_of_environment() == ground
    if ground != "unknown":
        assert ask_ground() == (ground, "")


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, *replies: bytes) -> Iterator[None]:
    """A terminal as standard input and output, which answers the first question so."""
    monkeypatch.delenv("COLORFGBG", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()

    def answer() -> None:
        asked = b""
        while b"\x1b[c" not in asked:
            asked += os.read(master, 1024)
        for reply in replies:
            os.write(master, reply)
            time.sleep(0.02)

    thread = threading.Thread(target=answer, daemon=True)
    with os.fdopen(slave, "r", closefd=False) as source, os.fdopen(slave, "w") as output:
        monkeypatch.setattr("sys.stdin", source)
        monkeypatch.setattr("sys.stdout", output)
        thread.start()
        yield
        thread.join()
    os.close(master)


KIND = b"\x1b[?62;22c"


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ((b"\x1b]11;rgb:0000/0000/0000\x1b\\" + KIND,), ("dark", "")),
        ((b"\x1b]11;rgb:ffff/ffff/ffff\x07", KIND), ("light", "")),
        ((b"\x1b]11;rgb:00/00/ff\x07" + KIND,), ("dark", "")),
        ((b"\x1b]11;rgba:fd/f6/e3/ff\x07" + KIND,), ("light", "")),
        ((KIND,), ("unknown", "")),
        ((b"He", b"llo\x1b]11;rgb:0/0/0\x07 the", KIND + b"re\n"), ("dark", "Hello there\n")),
    ],
)
def test_what_the_terminal_says(
    monkeypatch: pytest.MonkeyPatch, replies: tuple[bytes, ...], expected: tuple[str, str]
) -> None:
    """And what is typed meanwhile is not lost."""
    with terminal(monkeypatch, *replies):
        assert ask_ground(60.0) == expected


def test_a_terminal_that_says_nothing_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch):
        before = time.monotonic()
        assert ask_ground(0.1) == ("unknown", "")
        assert time.monotonic() - before < 30


def test_nobody_is_asked_without_a_terminal_or_colours(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLORFGBG", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert ask_ground() == ("unknown", "")
    assert capfd.readouterr().out == ""
