"""One answer shown while it streams, part by part in the order in which the model wrote it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from quire.characters import harmless
from quire.cli.chat.markdown import MarkdownStream
from quire.cli.terminal import Harmless
from quire.messages import ToolCall
from quire.outputs import DeltaSum, TextPart, ThoughtPart, calls_of, text_of

if TYPE_CHECKING:
    from quire.chat import ChatDelta

_LONGEST_HELD = 24
"""A word is held back up to this many characters, so that a line can break before it. Scripts without
blanks would otherwise hold back a whole thought."""


# --- what became of it -------------------------------------------------------------------------------


@dataclass
class Answer:
    """An answer as far as it came. Times are seconds on a monotonic clock."""

    asked_at: float = 0.0
    first_at: float | None = None
    """When the first token came."""
    last_at: float = 0.0
    interrupted: bool = False
    sum: DeltaSum = field(default_factory=DeltaSum)

    def add(self, delta: ChatDelta, now: float) -> None:
        """Add the next delta, which came `now`."""
        if self.first_at is None and (delta.token_ids or delta.text):
            self.first_at = now
        self.last_at = now
        self.sum.add(delta)

    @property
    def content(self) -> str:
        """The answer's own text."""
        return text_of(self.sum.parts, TextPart)

    @property
    def reasoning(self) -> str:
        """The thought's text."""
        return text_of(self.sum.parts, ThoughtPart)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls, in order."""
        return calls_of(self.sum.parts)

    @property
    def count(self) -> int:
        """How many tokens were written."""
        usage = self.sum.usage
        return usage.completion_tokens if usage else self.sum.token_count

    @property
    def writing(self) -> float:
        """Seconds from the first token to the last."""
        return 0.0 if self.first_at is None else self.last_at - self.first_at

    def stats(self) -> str:
        """Tokens, time to first token, and tokens a second after it, in words."""
        if self.first_at is None:
            return "no tokens"
        tokens, usage = self.count, self.sum.usage
        parts = [f"{tokens} tokens", f"first after {self.first_at - self.asked_at:.2f} s"]
        if tokens > 1 and self.writing > 0:
            parts.append(f"{(tokens - 1) / self.writing:,.0f} tokens/s")
        if usage:
            cached = f", {usage.cached_tokens} cached" if usage.cached_tokens else ""
            parts.append(f"prompt {usage.prompt_tokens} tokens{cached}")
        return " · ".join(parts)


def total(answers: Iterable[Answer]) -> tuple[int, float]:
    """The tokens of all answers, and the seconds that writing them took one after the other."""
    answers = list(answers)
    return sum(answer.count for answer in answers), sum(answer.writing for answer in answers)


def receive(
    deltas: Iterable[ChatDelta],
    show: Callable[[ChatDelta], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    answer: Answer | None = None,
) -> Answer:
    """Take an answer's deltas, showing each; Ctrl-C ends it and keeps what came."""
    answer = answer or Answer()
    answer.asked_at = clock()
    try:
        for delta in deltas:
            answer.add(delta, clock())
            show(delta)
    except KeyboardInterrupt:
        answer.interrupted = True
    return answer


# --- how it is shown ---------------------------------------------------------------------------------


class AnswerView:
    """Shows deltas part by part: text as Markdown, thoughts dimmed, each call in a line of its own.

    Invariant: once finished, the screen depends on the parts alone, not on the cuts between deltas.
    """

    def __init__(self, console: Console, before: Callable[[], None] = lambda: None) -> None:
        """`before` is called before anything is shown."""
        self._console, self._before = console, before
        self._markdown = MarkdownStream(console)
        self._thought = ThoughtStream(console)
        self._stream: MarkdownStream | ThoughtStream | None = None
        """Where the last part went; another kind of part finishes it."""

    def show(self, delta: ChatDelta) -> None:
        """Show what the delta adds."""
        for part in delta.all_parts():
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
