"""One answer shown while it streams, part by part in the order in which the model wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from quire.characters import harmless
from quire.cli.chat.markdown import MarkdownStream
from quire.cli.signals import Suspension
from quire.cli.terminal import Harmless
from quire.messages import ToolCall
from quire.outputs import ThoughtPart

if TYPE_CHECKING:
    from quire.chat import ChatDelta

_LONGEST_HELD = 24
"""A word is held back up to this many characters, so that a line can break before it. Scripts without
blanks would otherwise hold back a whole thought."""


class AnswerView:
    """Shows deltas part by part: text as Markdown, thoughts dimmed, each call in a line of its own.

    Invariant: once finished, the screen depends on the parts alone, not on the cuts between deltas.
    """

    def __init__(
        self,
        console: Console,
        before: Callable[[], None] = lambda: None,
        *,
        hides_thoughts: bool = False,
    ) -> None:
        """`before` is called before anything is shown."""
        self._console, self._before, self._hides_thoughts = console, before, hides_thoughts
        self._markdown = MarkdownStream(console)
        self._thought = ThoughtStream(console)
        self._stream: MarkdownStream | ThoughtStream | None = None
        """Where the last part went; another kind of part finishes it."""

    def show(self, delta: ChatDelta) -> None:
        """Show what the delta adds."""
        for part in delta.all_parts():
            if self._hides_thoughts and isinstance(part, ThoughtPart):
                continue
            if isinstance(part, ToolCall):
                self._before()
                self.finish()
                show_call(self._console, part)
            elif part.text:
                self._before()
                self._stream_to(
                    self._thought if isinstance(part, ThoughtPart) else self._markdown, part.text
                )

    def _stream_to(self, stream: MarkdownStream | ThoughtStream, text: str) -> None:
        if stream is not self._stream:
            self.finish()
        self._stream = stream
        stream.add(text)

    def finish(self) -> None:
        """Print what is left, and leave the terminal as it was."""
        # Not forgotten before it is done: Ctrl-C may break it off, and `finish` is then called again.
        if self._stream is not None:
            self._stream.finish()
        self._stream = None


class ThoughtStream:
    """Shows a thought word by word, and never moves what stands already. `add` text, then `finish`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._safe = Harmless()
        self._held = ""
        self._column = 0
        self._began = False
        self._suspension = Suspension()

    def add(self, text: str) -> None:
        """Show the next text of the thought, but for a last word that may go on."""
        self._held += self._safe.add(text)
        if not self._began:
            self._held = self._held.lstrip()
            if not self._held:
                return
            self._began = True
            self._print("Thinking:\n")
        # Each piece is a word with the blanks behind it; line breaks at the end may be the last.
        *pieces, self._held = re.findall(r"\S*\s*", self._held)[:-1] or [""]
        if len(self._held) > _LONGEST_HELD and not self._held[-1].isspace():
            pieces.append(self._held)
            self._held = ""
        self._print("".join(map(self._wrapped, pieces)))

    def finish(self) -> None:
        """Print what is left, and a blank line if there was a thought at all."""
        rest = (self._held + self._safe.flush()).rstrip()
        if self._began:
            self._print(self._wrapped(rest) + "\n\n")
        self._held, self._column, self._began = "", 0, False

    def _wrapped(self, piece: str) -> str:
        """The piece, after a line break if it would not fit any more."""
        if self._suspension.has_been():  # others have written, and ended their line
            self._column = 0
        piece, width = piece.expandtabs(4), self._console.width
        breaks = self._column > 0 and self._column + cell_len(piece.rstrip()) > width
        start = 0 if breaks else self._column
        *above, last = piece.split("\n")
        self._column = cell_len(last) + (0 if above else start)
        if self._column > width:
            word = piece.rstrip(" ")
            if start + cell_len(word) <= width and not above:  # blanks alone go over the edge
                piece, self._column = word, width
            else:  # the terminal itself breaks the line
                self._column %= width
        return ("\n" if breaks else "") + piece

    def _print(self, text: str) -> None:
        self._console.print(Text(text, style="chat.thought"), end="", soft_wrap=True)


def show_call(console: Console, call: ToolCall) -> None:
    """Show a call of a tool in one line."""
    line = Text.assemble("⚙ ", (call.name, "bold"), f" {call.arguments}", style="chat.call")
    console.print(Text(harmless(line.plain), spans=line.spans, style="chat.call"), soft_wrap=True)
