"""The colours of a chat: of ANSI's sixteen, those that are read on the terminal's own ground.

What the sixteen look like is the terminal's choice. `tests/cli/chat/test_colours.py` holds each of these
to its ground in the palettes of five terminals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.syntax import SyntaxTheme, TokenType
from rich.theme import Theme

from quire.cli.chat.ground import Ground

_ATTRIBUTES: Mapping[str, str] = {
    "chat.you": "bold",
    "chat.call": "bold",
    "chat.fault": "bold",
    "chat.remark": "dim",
    "chat.thought": "dim italic",
    "code": "none",
    "code.comment": "dim italic",
    "code.keyword": "bold",
    "code.name.tag": "bold",
    "code.generic.heading": "bold",
    "code.generic.emph": "italic",
    "code.generic.strong": "bold",
    "markdown.block_quote": "none",
    "markdown.code": "bold",
    "markdown.code_block": "none",
    "markdown.h1": "bold underline",
    "markdown.h2": "bold underline",
    "markdown.h3": "bold",
    "markdown.h4": "bold italic",
    "markdown.h5": "italic",
    "markdown.h6": "dim italic",
    "markdown.item.bullet": "bold",
    "markdown.item.number": "bold",
    "markdown.link": "underline",
    "markdown.link_url": "underline",
    "markdown.table.header": "bold",
}
_DARK: Mapping[str, str] = {
    "chat.you": "bold green",
    "chat.call": "cyan",
    "chat.fault": "bright_red",
    "code.keyword": "bold cyan",
    "code.literal.string": "green",
    "code.literal.number": "yellow",
    "code.name.builtin": "cyan",
    "code.name.class": "bold bright_yellow",
    "code.name.decorator": "bright_yellow",
    "code.name.function": "bright_yellow",
    "code.name.tag": "bold cyan",
    "code.generic.deleted": "bright_red",
    "code.generic.inserted": "green",
    "markdown.block_quote": "green",
    "markdown.code": "cyan",
    "markdown.code_block": "cyan",
    "markdown.item.number": "cyan",
    "markdown.link": "bright_cyan",
    "markdown.link_url": "underline bright_cyan",
    "markdown.table.header": "bold cyan",
}
_LIGHT: Mapping[str, str] = {
    "chat.you": "bold blue",
    "chat.call": "magenta",
    "chat.fault": "red",
    "code.keyword": "bold magenta",
    "code.literal.string": "red",
    "code.literal.number": "blue",
    "code.name.builtin": "magenta",
    "code.name.class": "bold blue",
    "code.name.decorator": "blue",
    "code.name.function": "blue",
    "code.name.tag": "bold magenta",
    "code.generic.deleted": "red",
    "code.generic.inserted": "blue",
    "markdown.block_quote": "blue",
    "markdown.code": "magenta",
    "markdown.code_block": "magenta",
    "markdown.item.number": "magenta",
    "markdown.link": "blue",
    "markdown.link_url": "underline blue",
    "markdown.table.header": "bold magenta",
}
STYLES: Mapping[Ground, Mapping[str, str]] = {
    "dark": {**_ATTRIBUTES, **_DARK},
    "light": {**_ATTRIBUTES, **_LIGHT},
    "unknown": _ATTRIBUTES,
}
"""Each style by its name. Where the ground is not known, no colour is read on every one."""

_PROMPT: Mapping[str, str] = {
    # Without a ground of their own: what is read on the terminal's is read in them.
    "completion-menu": "noinherit",
    "completion-menu.completion.current": "noinherit reverse",
    "completion-menu.meta.completion": "noinherit dim",
    "completion-menu.meta.completion.current": "noinherit reverse",
    "scrollbar.background": "noinherit",
    "scrollbar.button": "noinherit reverse",
    "folded": "italic",
    "search": "noinherit underline",
    "selected": "reverse",
}
PROMPT_STYLES: Mapping[Ground, Mapping[str, str]] = {
    "dark": {
        **_PROMPT,
        "completion-menu.completion": "noinherit ansicyan",
        "completion-menu.completion.current": "noinherit ansicyan reverse",
        "folded": "italic ansicyan",
    },
    "light": {
        **_PROMPT,
        "completion-menu.completion": "noinherit ansimagenta",
        "completion-menu.completion.current": "noinherit ansimagenta reverse",
        "folded": "italic ansimagenta",
    },
    "unknown": _PROMPT,
}
"""The same for prompt_toolkit, which draws the prompt, by its own names."""


def chat_console(ground: Ground, **options: Any) -> Console:
    """A console with the colours for a ground."""
    return Console(highlight=False, theme=Theme(dict(STYLES[ground])), **options)


class CodeTheme(SyntaxTheme):
    """The styles of code, which the console's theme has by the names of Pygments' tokens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._known: dict[TokenType, Style] = {}

    def get_style_for_token(self, token_type: TokenType) -> Style:
        """The style of the token's own kind, or of the next wider one that has any."""
        if token_type not in self._known:
            self._known[token_type] = self._find(tuple(token_type))
        return self._known[token_type]

    def _find(self, kind: tuple[str, ...]) -> Style:
        name = ".".join(("code", *kind)).lower()
        style = self._console.get_style(name, default=Style.null())
        return style if style or not kind else self._find(kind[:-1])

    def get_background_style(self) -> Style:
        """Code stands on the terminal's own ground."""
        return Style.null()
