"""One answer for a script: a prompt, what was piped in, and nothing but the answer on the output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from quire.characters import harmless
from quire.cli.chat.answer import Answer
from quire.cli.chat.files import json_text
from quire.cli.chat.session import Session, call_as_dict
from quire.cli.terminal import Harmless, has_colour, is_terminal, no_echo, note
from quire.errors import ConfigError, UnsupportedOptionError
from quire.messages import ToolCall

if TYPE_CHECKING:
    from quire.chat import ChatDelta, ChatModel

# A filter does not wait for rich: what draws is imported where an answer is drawn.

CUT = 3
"""The exit code of an answer that was cut, and so has not the form that was asked for."""


@dataclass(frozen=True)
class Form:
    """How the one answer is written: as one JSON object, held to a schema, with its calls, its code."""

    as_json: bool = False
    schema: Mapping[str, Any] | None = None
    calls: bool = False
    code: bool = False

    @classmethod
    def read(
        cls, as_json: bool, schema: str | None, *, calls: bool = False, code: bool = False
    ) -> Form:
        """The form that the command's options ask for; the schema is JSON or a file with it.

        Raises:
            ConfigError: the schema cannot be read, or two options contradict each other.
        """
        if code and (as_json or schema is not None):
            raise ConfigError("--code takes code out of Markdown, and the answer is to be JSON.")
        if schema is None:
            return cls(as_json, calls=calls, code=code)
        text = json_text(schema)
        try:
            content: Any = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"--schema holds no JSON: {error}.") from None
        if not isinstance(content, dict):
            raise ConfigError("--schema must be a JSON object.")
        return cls(as_json, content, calls)

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A request's options, those that the form brings among them.

        Raises:
            UnsupportedOptionError: they contradict the form.
        """
        if options.get("n", options.get("num_return_sequences", 1)) != 1:
            raise UnsupportedOptionError(
                "A filter writes one answer: leave out n and num_return_sequences."
            )
        if self.schema is None:
            return dict(options)
        if options.get("response_format") is not None:
            raise UnsupportedOptionError("--schema and response_format say the same: give one.")
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema}}
        return {**options, "response_format": form}


def write_answer(
    model: ChatModel,
    session: Session,
    output: TextIO,
    options: Mapping[str, Any],
    form: Form | None = None,
    *,
    stats: bool = False,
) -> int:
    """Write the answer to a session's last question, keep it there, and return the exit code.

    Raises:
        UnsupportedOptionError: several answers are asked for.
        QuireError: the request was refused, or the engine failed.
    """
    form = form or Form()
    request = {**session.request(), **form.options(options)}
    writer, answer = _writer(output, form), Answer(asked_at=time.monotonic())
    with (
        closing(model.stream(**request)) as deltas,
        no_echo() if is_terminal(output) else nullcontext(),  # it would stand in what is drawn
        _waiting(model, output) as heed,
    ):
        for delta in deltas:
            answer.add(delta, time.monotonic())
            heed(delta, writer.shows(delta))
            writer.add(delta)
    writer.finish(answer)
    output.flush()
    session.add_answer(answer.content, answer.reasoning, answer.calls)
    if stats:
        note(answer.stats())
    if answer.sum.finish_reason != "length":
        return 0
    note("The answer was cut at its longest; --max_new_tokens allows more.")
    return CUT if form.schema is not None else 0


@contextmanager
def _waiting(model: ChatModel, output: TextIO) -> Generator[Callable[[ChatDelta, bool], None]]:
    """Show a person what the answer is at until, of a delta, something is shown; a pipe gets nothing."""
    if not is_terminal(output):
        yield lambda delta, shows: None
        return
    from quire.cli.chat.colours import chat_console
    from quire.cli.chat.ground import ground_of_environment
    from quire.cli.chat.waiting import AnswerProgress, Waiting

    progress = AnswerProgress(model.engine)
    console = chat_console(ground_of_environment(), file=output)
    with Waiting(console, lambda: str(progress)) as waiting:

        def heed(delta: ChatDelta, shows: bool) -> None:
            progress.add(delta)
            if shows:
                waiting.stop()

        yield heed


def _writer(output: TextIO, form: Form) -> _TextWriter:
    if form.as_json:
        return _JsonWriter(output)
    if form.code:
        return _CodeWriter(output, form.calls)
    if form.schema is None and has_colour(output):
        return _MarkdownWriter(output, form.calls)
    return _TextWriter(output, form.calls)


class _TextWriter:
    """Writes an answer's own text as it comes; for a terminal, nothing that it would obey."""

    def __init__(self, output: TextIO, calls: bool = False) -> None:
        self._output, self._calls = output, calls
        self._safe = Harmless() if is_terminal(output) else None
        self._last = ""

    def shows(self, delta: ChatDelta) -> bool:
        """Whether something of a delta is written at once."""
        return bool(delta.content)

    def add(self, delta: ChatDelta) -> None:
        self._write(self._safe.add(delta.content) if self._safe else delta.content)

    def finish(self, answer: Answer) -> None:
        """Write what is left: a last line break, and below the text each call in a line."""
        self._write(self._safe.flush() if self._safe else "")
        calls = answer.calls if self._calls else ()
        if not self._last.endswith("\n") and (self._last or not calls):
            self._write("\n")
        self._write("".join(_call_lines(calls)))

    def _write(self, text: str) -> None:
        if text:
            self._output.write(text)
            self._output.flush()
            self._last = text


class _MarkdownWriter(_TextWriter):
    """Draws the answer's own text as a chat does."""

    def __init__(self, output: TextIO, calls: bool) -> None:
        super().__init__(output, calls)
        from quire.cli.chat.colours import chat_console
        from quire.cli.chat.ground import ground_of_environment
        from quire.cli.chat.markdown import MarkdownStream

        # The terminal is not asked: what is typed meanwhile is meant for the shell that follows.
        self._stream = MarkdownStream(chat_console(ground_of_environment(), file=output))

    def add(self, delta: ChatDelta) -> None:
        if delta.content:
            self._stream.add(delta.content)

    def finish(self, answer: Answer) -> None:
        self._stream.finish()
        if self._calls:
            self._write(harmless("".join(_call_lines(answer.calls))))


class _CodeWriter(_TextWriter):
    """Writes the first block of code, once it is there; an answer without any is written whole."""

    def shows(self, delta: ChatDelta) -> bool:
        return False

    def add(self, delta: ChatDelta) -> None:
        pass

    def finish(self, answer: Answer) -> None:
        from quire.cli.chat.markdown_parser import code_blocks

        text = next(iter(code_blocks(answer.content)), answer.content)
        self._write(harmless(text) if self._safe else text)
        super().finish(answer)


class _JsonWriter(_TextWriter):
    """Writes the whole answer as one JSON object, once it is there."""

    def shows(self, delta: ChatDelta) -> bool:
        return False

    def add(self, delta: ChatDelta) -> None:
        pass

    def finish(self, answer: Answer) -> None:
        usage, calls = answer.sum.usage, answer.calls
        thought = answer.reasoning
        content = {
            "content": answer.content,
            **({"reasoning_content": thought} if thought else {}),
            **({"tool_calls": [call_as_dict(call) for call in calls]} if calls else {}),
            "finish_reason": answer.sum.finish_reason,
            "usage": None if usage is None else asdict(usage),
        }
        text = json.dumps(content, ensure_ascii=False) + "\n"
        self._write(harmless(text) if self._safe else text)


def _call_lines(calls: Iterable[ToolCall]) -> Iterable[str]:
    for call in calls:
        yield json.dumps(call_as_dict(call)["function"], ensure_ascii=False) + "\n"
