"""A conversation in the terminal: reads a line, obeys or answers it, and keeps the session."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from quire.characters import harmless
from quire.cli.chat.answer import Answer, receive
from quire.cli.chat.answer_view import AnswerView, show_call
from quire.cli.chat.attachments import (
    Attachment,
    begins_with_dropped,
    labels,
    name_of,
    shown_text,
    split_dropped,
    split_named,
)
from quire.cli.chat.chat_info import ChatInfo
from quire.cli.chat.clipboard import copy_text
from quire.cli.chat.editor import NO_EDITOR, find_editor
from quire.cli.chat.folded_texts import shortened
from quire.cli.chat.keeping import Keeping, kept_words, short_name
from quire.cli.chat.markdown import MarkdownStream
from quire.cli.chat.other_programs import in_our_words
from quire.cli.chat.remarks import wrapped_remark
from quire.cli.chat.session import Session
from quire.cli.chat.slash_commands import is_command, run_command
from quire.cli.chat.slash_table import Leave
from quire.cli.chat.text_files import TextFile
from quire.cli.chat.waiting import AnswerProgress, Waiting
from quire.cli.signals import closed_terminal
from quire.cli.terminal import MARKS, no_echo, told_fault
from quire.errors import QuireError, RequestError
from quire.messages import ToolCall, read_message

if TYPE_CHECKING:
    from quire.chat import ChatDelta, ChatModel
    from quire.cli.chat.loaded_model import LoadedModel
    from quire.cli.chat.reader import Reader

logger = logging.getLogger("quire")

_SHOWN_TURNS = 20
"""Messages that are shown of a conversation that is taken up again."""


class TerminalChat:
    """One chat: reads, answers, and keeps the session, until the user leaves."""

    def __init__(
        self,
        model: ChatModel,
        console: Console,
        reader: Reader,
        options: Mapping[str, Any] | None = None,
        *,
        loaded: LoadedModel | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        """`options` are settings to begin with, as /set takes them.

        With `loaded` the model can be changed, with `keeping` the conversation is kept.
        """
        self.model, self.console, self.reader = model, console, reader
        self.keeping, self._loaded = keeping, loaded
        self.session = Session(model.engine.generating_args.explicit())
        self.show_stats = self.hides_thoughts = False
        self._is_gone = False
        self.answers: list[Answer] = []
        self._remarks: list[str] = []
        for name, value in (options or {}).items():
            self.session.set(name, value)

    @property
    def info(self) -> ChatInfo:
        """What answers here."""
        name = "the model" if self._loaded is None else self._loaded.name
        return ChatInfo(name, self.model)

    @property
    def width(self) -> int:
        """The columns of the terminal."""
        return self.console.width

    def run(self) -> None:
        """Converse until the user leaves."""
        # What is typed before a prompt is there is shown by the prompt alone.
        with no_echo(), closed_terminal(self._hang_up):
            try:
                self._converse()
            finally:
                _undisturbed(self._keep)

    def _hang_up(self) -> None:
        """The terminal is gone: an answer under way ends and is kept as if it had been stopped."""
        self._is_gone = True
        self.console.file = io.StringIO()
        raise KeyboardInterrupt

    def _converse(self) -> None:
        while not self._is_gone:
            try:
                line = self.reader.read(">")
            except KeyboardInterrupt:
                self.say("Ctrl-D or /exit leaves.")
                continue
            except EOFError:
                return
            taken_back = self.session.taken_back
            try:
                self._take_or_complain(line)
                if self.session.taken_back is not taken_back:
                    self._say_what_was_taken_back()
                self._keep()
                while self._remarks:
                    self.say(self._remarks.pop(0))
            except Leave:
                return
            except KeyboardInterrupt:  # of an impatient person, or while nothing is answered
                self.session.take_back()
                if self.session.taken_back is taken_back:
                    self.say("Stopped.")
                else:
                    self.say("Stopped; your message was taken back. /retry asks again.")
                    self._say_what_was_taken_back()

    def _take_or_complain(self, line: str) -> None:
        try:
            self.take(line)
        except Leave:
            raise
        except QuireError as error:
            self.complain(str(error))
        except Exception as error:  # a fault of quire's own must not cost the conversation
            logger.debug("A fault in the chat", exc_info=True)
            self.session.take_back()
            self.complain(f"{told_fault(error)} The conversation goes on.")

    def take(self, line: str) -> None:
        """Take what the user typed: a command, or a message to answer.

        Raises:
            Leave: the user leaves.
            QuireError: the command or the request failed; the session goes on.
        """
        text = line.strip("\n")
        if not text.strip():
            return
        if quoted := _between_marks(text):
            self.session.add_user(quoted)
            self.answer()
            return
        is_escaped = text.startswith("//")
        if not (is_escaped or begins_with_dropped(text)):
            line = in_our_words(text)
            if is_command(line):
                run_command(self, line)
                return
        dropped, text = split_dropped(text)
        named, text = split_named(text)
        if attached := [*dropped, *named]:
            self.attach(attached, waits=not text)
        if text:
            self.session.add_user(text[is_escaped:])
            self.answer()

    def attach(self, attached: Sequence[Attachment], *, waits: bool = True) -> None:
        """Send files with the user's message, which comes next where it `waits` for them."""
        self.session.attached += attached
        names = " and ".join(
            f"{one.label()}{self._tokens_of(one.text)}"
            if isinstance(one, TextFile)
            else name_of(one)
            for one in attached
        )
        goes = "it goes" if len(attached) == 1 else "they go"
        self.say(f"Attached {names}{f'; {goes} with the next message' if waits else ''}.")

    def _tokens_of(self, text: str) -> str:
        """How many tokens a text has, in words, where the engine says."""
        engine = self.model.engine
        if not engine.has_tokens:
            return ""
        count = len(engine.tokens.preparation.tokenizer.encode(text))
        return f", {count:,} token{'' if count == 1 else 's'}"

    def ask(self, label: str) -> str | None:
        """Let the user type something; None if it is given up (Ctrl-C, Ctrl-D)."""
        try:
            return self.reader.read(label)
        except (KeyboardInterrupt, EOFError):
            return None

    def edit(self, label: str, text: str) -> str | None:
        """Let the user change a text, in an editor where there is one; None if it is given up."""
        if find_editor() is None:
            self.say(f"{NO_EDITOR} Until then a text is changed here.")
        try:
            return self.reader.edit(label, text)
        except (KeyboardInterrupt, EOFError):
            return None

    def copy(self, text: str) -> str:
        """Put a text into the user's clipboard; return by what, in words."""
        return copy_text(text, self.console.file)

    def change_model(self, words: Sequence[str]) -> None:
        """Have another model answer from now on.

        Raises:
            QuireError: it cannot be loaded, or no model can be changed here.
        """
        if self._loaded is None:
            raise RequestError("The model of this chat cannot be changed.")
        try:
            self._loaded.change(words)
        finally:
            self.model = self._loaded.model
        self.session.configured = self.model.engine.generating_args.explicit()
        for name, value in self._loaded.start.options.items():
            self.session.set(name, value)
        if self.keeping is not None:
            self.keeping.words = tuple(kept_words(words))
            self.keeping.model = short_name(self._loaded.name)
        self._say_what_it_cannot_take()

    def _say_what_it_cannot_take(self) -> None:
        sent = {
            medium.kind
            for turn in self.session.turns
            for medium in read_message(turn.message).media
        }
        if unseen := sent - self.model.engine.info.media:
            kinds = " and ".join(sorted(unseen))
            self.say(
                f"This model takes no {kinds}, and the conversation has some: /clear begins anew, or "
                "/model goes back."
            )

    def answer(self, *, continues: bool = False) -> None:
        """Answer the conversation as it stands, or the rest of its last answer.

        It goes on while the model calls tools.
        """
        while True:
            self._keep()
            answer = self._stream(continues=continues)
            self.answers.append(answer)
            add = self.session.add_continuation if continues else self.session.add_answer
            add(answer.content, answer.reasoning, answer.calls, interrupted=answer.interrupted)
            self._say_how_it_ended(answer, continues=continues)
            continues = False
            if answer.interrupted or not answer.calls or not self._ask_results(answer.calls):
                self.console.print()
                return

    def _keep(self) -> None:
        """Write what there is; what is to be told of it waits until the answer stands."""
        if self.keeping is not None and (remark := self.keeping.keep(self.session)):
            self._remarks.append(remark)

    def _stream(self, *, continues: bool) -> Answer:
        progress, answer = AnswerProgress(self.model.engine), Answer()
        waiting = Waiting(self.console, lambda: str(progress))
        view = AnswerView(self.console, waiting.stop, hides_thoughts=self.hides_thoughts)

        def show(delta: ChatDelta) -> None:
            progress.add(delta)
            view.show(delta)

        try:
            request = self.session.request(continues=continues)
            with no_echo(), closing(self.model.stream(**request)) as deltas:
                waiting.start()
                receive(deltas, show, answer=answer)
        except QuireError:
            self.session.take_back()
            raise
        finally:
            _undisturbed(waiting.stop)
            _undisturbed(view.finish)
        return answer

    def _say_how_it_ended(self, answer: Answer, *, continues: bool) -> None:
        if answer.interrupted:
            kept = "your message was taken back" if self.session.taken_back else "what came is kept"
            goes_on = (
                "" if self.session.taken_back and not answer.reasoning else ", /continue goes on"
            )
            self.say(f"Stopped; {kept}. /retry asks again{goes_on}.")
        elif answer.sum.finish_reason == "length":
            self.say(
                "The answer was cut at its longest; /continue goes on, /set max_new_tokens allows more."
            )
        elif not (answer.content or answer.calls):
            self.say("Nothing more came." if continues else "The answer is empty.")
        if self.show_stats:
            self.say(answer.stats())

    def _say_what_was_taken_back(self) -> None:
        turns = self.session.taken_back
        media = [medium for turn in turns for medium in read_message(turn.message).media]
        if media:
            self.say(
                f"{labels(media)} went back with your message: /retry sends both again, another "
                "message goes without."
            )

    def _ask_results(self, calls: Sequence[ToolCall]) -> bool:
        """Ask for each call's result; False if the user gives none."""
        for call in calls:
            result = self.ask(f"result of {harmless(call.name)}>")
            if result is None:
                self.session.take_back()
                self.session.taken_back = []
                self.say("No result was given; the conversation goes on without it.")
                return False
            self.session.add_tool_result(call, result)
        return True

    def show_history(self) -> None:
        """Show the end of the conversation so far, as it would have looked."""
        turns = self.session.turns
        if len(turns) > _SHOWN_TURNS:
            self.say(f"({len(turns) - _SHOWN_TURNS} earlier messages)")
        for turn in turns[-_SHOWN_TURNS:]:
            message = read_message(turn.message)
            if message.role != "assistant":
                label = ">" if message.role == "user" else f"result of {message.name or 'a tool'}>"
                said = harmless(shortened(shown_text(message)))
                self.console.print(Text(f"{harmless(label)} {said}", "chat.you"))
                continue
            markdown = MarkdownStream(self.console)
            markdown.add(message.text)
            markdown.finish()
            for call in message.tool_calls:
                show_call(self.console, call)
            if turn.interrupted:
                self.say("(stopped)")

    def say(self, text: str) -> None:
        """Show a remark of quire's own, in a style that tells it from the model's text."""
        self._print_remark(harmless(text), "chat.remark")

    def complain(self, text: str) -> None:
        """Show an error in one line."""
        self._print_remark(" ".join(harmless(text).split()), "chat.fault")

    def _print_remark(self, text: str, style: str) -> None:
        remark = wrapped_remark(text, self.console.width)
        self.console.print(Text(remark, style=style), soft_wrap=True)


def _between_marks(text: str) -> str | None:
    """What stands between three quotation marks and three others, if that is the whole text."""
    text = text.strip()
    if (
        len(text) < 7
        or text.count(MARKS) != 2
        or not (text.startswith(MARKS) and text.endswith(MARKS))
    ):
        return None
    return text[len(MARKS) : -len(MARKS)].strip("\n")


def _undisturbed(finish: Callable[[], None]) -> None:
    """Finish drawing, also if Ctrl-C comes once more meanwhile: the terminal must be left in order."""
    try:
        finish()
    except KeyboardInterrupt:
        finish()
