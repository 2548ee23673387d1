"""The command `quire chat`: with a person at the terminal, or as a filter."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Parameter

from quire import __version__
from quire.characters import harmless
from quire.cli.chat.other_programs import refuse_other_options
from quire.cli.terminal import is_terminal, note, read_message_text, read_piped_text, show_log
from quire.cli.words import (
    Flag,
    MakeModel,
    Start,
    Value,
    read_start,
    refuse_misspelt_options,
)
from quire.errors import ConfigError, MessageError, ModelNotFoundError

# `quire --help` waits for none of what a chat needs: functions import it.

if TYPE_CHECKING:
    from rich.console import Console

    from quire.chat import ChatModel
    from quire.cli.chat.chat_info import ChatInfo
    from quire.cli.chat.keeping import Keeping


@Parameter(name="*")
@dataclass(frozen=True)
class ChatOptions:
    """The command's own options, as they were given."""

    prompt: Annotated[
        str | None,
        Parameter(name=["--prompt", "-p"], show_default=False, allow_leading_hyphen=True),
    ] = None
    """The prompt, as the word in quotes is: answer it and end."""
    file: Annotated[
        tuple[str, ...], Parameter(name=["--file", "-f"], negative=(), show_default=False)
    ] = ()
    """A file that goes with the prompt: text, a document, a PDF, a picture, a sound or a video; several times."""
    system: Annotated[str | None, Parameter(name=["--system", "-s"], show_default=False)] = None
    """The system message; a file of it where it begins with @."""
    code: Annotated[bool, Parameter(name=["--code", "-x"], negative=(), show_default=False)] = False
    """Write the first block of code of the answer alone, or all of an answer that has none."""
    stats: Flag = False
    """Say after an answer how many tokens it has, and how fast they came."""
    json: Flag = False
    """Write the answer as one JSON object: its text, thought, calls, end and tokens."""
    schema: Value = None
    """A JSON schema, or a file with one, that the answer follows."""
    continues: Annotated[
        bool, Parameter(name=["--continue", "-c"], negative=(), show_default=False)
    ] = False
    """Go on with the last conversation that was kept, and with its model unless one is named."""
    keep: Annotated[bool | None, Parameter(negative="--no-keep", show_default=False)] = None
    """Keep the conversation on this machine, or not; without a word, /keep decides in the terminal."""
    tools: Value = None
    """The tools that the model may call, as JSON or a file; calls are written as JSON lines."""


def run_chat(words: Sequence[str], options: ChatOptions, make_model: MakeModel) -> int:
    """Chat until the user leaves, or answer a prompt and what is piped in. Return the exit code.

    Raises:
        QuireError: the words make no sense, the model cannot be loaded, or the one answer failed.
    """
    refuse_other_options(words)
    prompt, words = _split_prompt(words, options.prompt)
    _refuse_misspelt(words)
    answers_once = prompt is not None or not (is_terminal(sys.stdin) and is_terminal(sys.stdout))
    show_log(logging.WARNING)
    if options.continues:
        make_model = _telling_how_to_go_on(make_model)
    if answers_once:
        return _answer_once(words, options, prompt, make_model)
    if options.json or options.code or options.schema is not None:
        raise ConfigError(
            "--json, --schema and --code are for one answer: give a prompt, or pipe it in."
        )
    chat_in_terminal(words, options, make_model)
    return 0


def _refuse_misspelt(words: Sequence[str]) -> None:
    from quire.arguments import read_assignments, split_source

    own = ("continue" if one.name == "continues" else one.name for one in fields(ChatOptions))
    refuse_misspelt_options(read_assignments(split_source(words)[1]), own)


def _telling_how_to_go_on(make_model: MakeModel) -> MakeModel:
    """Make the model; where that of the last conversation is gone, say that another may answer."""

    def make(arguments: Mapping[str, Any]) -> ChatModel:
        try:
            return make_model(arguments)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"{error} Another goes on with the conversation: quire chat MODEL -c."
            ) from None

    return make


def _answer_once(
    words: Sequence[str], options: ChatOptions, prompt: str | None, make_model: MakeModel
) -> int:
    from quire.cli.chat.attachments import read_file
    from quire.cli.chat.one_answer import Form, write_answer
    from quire.cli.chat.session import Session

    given = read_start(words).options
    words, last = _continued(words, options)
    start = read_start(words)
    session, keeping = Session(), None
    if last is not None or options.keep:  # what is piped is kept where that is asked for alone
        keeping = _keeping(words, start.name, on=options.keep is not False)
    if keeping is not None and last is not None:
        keeping.go_on(last, session)
    if options.tools is not None:
        session.tools = _tools(options)
    form = Form.read(
        options.json, options.schema, calls=options.tools is not None, code=options.code
    )
    if options.system is not None:
        session.system = _text(options.system)
    session.attached = [read_file(name) for name in options.file]
    session.add_user(_read_question(prompt, sys.stdin))
    if start.is_demo and last is None:
        note("No model was named: quire's small demo model answers.")
    with _loaded(start, make_model) as model:
        wanted = {**start.options, **session.settings, **given}
        code = write_answer(model, session, sys.stdout, wanted, form, stats=options.stats)
    if keeping is not None and (remark := keeping.keep(session)):
        note(remark)
    return code


def _loaded(start: Start, make_model: MakeModel) -> ChatModel:
    """The model of the one answer; a person at the terminal sees that it is loaded."""
    if not (is_terminal(sys.stdout) and is_terminal(sys.stderr)):
        return make_model(start.arguments)
    from quire.cli.chat.loaded_model import loading
    from quire.cli.hub import fetch_models

    fetch_models(start.arguments)
    with loading(start):
        return make_model(start.arguments)


def _continued(words: Sequence[str], options: ChatOptions) -> tuple[Sequence[str], int | None]:
    """The words, with those of the last conversation where it goes on and no model is named; its number."""
    if not options.continues:
        return words, None
    from quire.arguments import split_source
    from quire.cli.chat.chat_store import ChatStore

    chats = ChatStore.of_user().list(limit=1)
    if not chats:
        raise ConfigError("No conversation is kept yet: quire chat without -c begins one.")
    (last,) = chats
    names_model = split_source(words)[0] is not None
    return (words if names_model else [*last.words, *words]), last.number


def _keeping(words: Sequence[str], name: str, *, on: bool | None) -> Keeping:
    """Keeps conversations of these words; whether it does is the user's choice, unless `on` says.

    Raises:
        ConfigError: there is no place for them, or what is there cannot be read.
    """
    from quire.cli.chat.chat_store import ChatStore
    from quire.cli.chat.keeping import Keeping, kept_words, short_name

    store = ChatStore.of_user()
    on = store.keeps() if on is None else on
    return Keeping(store, kept_words(words), short_name(name), on=on)


def _tools(options: ChatOptions) -> list[dict[str, Any]]:
    from quire.cli.chat.files import json_text
    from quire.messages import read_tools

    return [dict(tool) for tool in read_tools(json_text(options.tools))] if options.tools else []


def _text(given: str) -> str:
    """A text, or that of a file whose path stands behind an @."""
    from quire.cli.chat.files import path_of, read_text

    return read_text(path_of(given[1:])).removesuffix("\n") if given[:1] == "@" else given


def _split_prompt(words: Sequence[str], given: str | None) -> tuple[str | None, list[str]]:
    """The prompt among the words, and the others."""
    from quire.arguments import split_bare_words

    bare, others = split_bare_words(words)
    source = bare.pop(0) if bare and bare[0] == words[0] else None
    # No model and no file of a configuration has blanks in its name, unless it lies here.
    if source is not None and len(source.split()) > 1 and not Path(source).expanduser().exists():
        bare, source = [source, *bare], None
    prompts = [*bare, *([] if given is None else [given])]
    if len(prompts) > 1:
        listed = " and ".join(map(repr, prompts))
        raise ConfigError(
            f"There are several prompts, {listed}: one stands in quotes, arguments are key=value."
        )
    return (prompts[0] if prompts else None), ([] if source is None else [source]) + others


def _read_question(prompt: str | None, source: TextIO) -> str:
    """What was piped in, and the prompt below it."""
    if prompt is None:
        if is_terminal(source):
            note("Type the message; Ctrl-D ends it.")
        return read_message_text(source)
    piped = "" if is_terminal(source) else read_piped_text(source)
    if not (prompt.strip() or piped.strip()):
        raise MessageError("The prompt is empty.")
    return "\n\n".join(text for text in (piped, prompt) if text.strip())


def chat_in_terminal(words: Sequence[str], options: ChatOptions, make_model: MakeModel) -> None:
    """Load the model and chat until the user leaves."""
    # A filter draws nothing and asks nobody, so it does not wait for rich and prompt_toolkit.
    from quire.cli.chat.attachments import read_file
    from quire.cli.chat.colours import chat_console
    from quire.cli.chat.ground import ask_ground
    from quire.cli.chat.loaded_model import LoadedModel
    from quire.cli.chat.reader import TerminalReader
    from quire.cli.chat.terminal_chat import TerminalChat

    tools = _tools(options)
    system = None if options.system is None else _text(options.system)
    given = read_start(words).options
    words, last = _continued(words, options)
    ground, typed = ask_ground()
    loaded = LoadedModel(words, make_model)
    console = chat_console(ground)
    with closing(loaded):
        try:
            keeping = _keeping(words, loaded.name, on=options.keep)
        except ConfigError as error:  # a chat needs no place to be kept in
            note(str(error))
            keeping = None
        chat = TerminalChat(
            loaded.model,
            console,
            TerminalReader(ground=ground, typed=typed),
            loaded.start.options,
            loaded=loaded,
            keeping=keeping,
        )
        greet(console, chat.info, is_demo=loaded.start.is_demo)
        if last is not None:
            chat.take(f"/resume {last}")
            for name, value in {
                **loaded.start.options,
                **chat.session.settings,
                **given,
            }.items():
                chat.session.set(name, value)
        if options.tools is not None:
            chat.session.tools = tools
        if system is not None:
            chat.session.system = system
        chat.show_stats = options.stats
        if options.file:
            chat.attach([read_file(name) for name in options.file])
        chat.run()


def greet(console: Console, info: ChatInfo, *, is_demo: bool = False) -> None:
    """Say in one line what answers here, and how to go on; a narrow terminal gets less of it."""
    from rich.cells import cell_len
    from rich.text import Text

    from quire.cli.chat.keeping import short_name

    program, end = f"quire {__version__} · ", " · /help"
    name = harmless(info.name)
    room = max(console.width - len(program) - len(end), 1)
    named = Text(name if cell_len(name) <= room else short_name(name))
    named.truncate(room, overflow="ellipsis")
    yours = " · yours: quire chat FOLDER"
    if is_demo and len(yours) + named.cell_len <= room:
        end = yours + end
    console.print(Text.assemble((f"quire {__version__}", "bold"), " · ", named, (end, "dim")))
    console.print()
