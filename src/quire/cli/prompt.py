"""`quire prompt`: what is sent to the model."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Parameter

from quire.cli.terminal import is_terminal, note, read_message_text, show_log
from quire.cli.words import Flag, Value, Words
from quire.errors import ConfigError, MessageError

if TYPE_CHECKING:
    from quire.arguments import DataArguments, InferArgs
    from quire.cli.prompt_view import Rendering
    from quire.messages import Conversation
    from quire.prompt import Element
    from quire.template.template import RenderOptions, Template
    from quire.tokenizer import Tokenizer

SAMPLE: Mapping[str, Any] = {
    "system": "You are brief.",
    "messages": [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Name a prime."},
    ],
}
"""Shown where a person gives no conversation."""

_NO_MODEL = "(none)"


@Parameter(name="*")
@dataclass(frozen=True)
class PromptOptions:
    """The command's own options, as they were given."""

    template: Value = None
    """A named template, in place of the model's own."""
    message: Value = None
    """One message of a user, in place of the standard input."""
    elements: Flag = False
    """Print JSON of the template's elements; needs no model with a named template."""
    ids: Flag = False
    """Show each token with its id."""
    diff: Value = None
    """Show the difference to this template."""
    explain: Flag = False
    """Show what is known of the model's answers: stops, thoughts, calls."""
    continues: Annotated[bool, Parameter(name="--continue", negative=(), show_default=False)] = (
        False
    )
    """Show the prompt of an answer that continues the last one."""


_NONE = PromptOptions()


def prompt(*words: Words, options: PromptOptions = _NONE) -> int:
    """Show what is sent to the model, its control tokens coloured.

    The conversation comes from the standard input: JSON with messages, and
    perhaps system, tools and enable_thinking, as /save writes it; or plain
    text, one message. A folder's own chat template is taken unless a template
    is named; a named one needs no folder.

      quire prompt saves/my-model --ids < conversation.json
      quire prompt --template llama3 --diff qwen3 --message "Hello"
      quire prompt saves/my-model --explain --message "Hello"
    """
    show_log(logging.WARNING)
    show_prompt(words, options, sys.stdin, sys.stdout)
    return 0


@dataclass(frozen=True)
class _Model:
    """What prompts are made with. Without a folder there may be no tokenizer."""

    arguments: InferArgs
    folder: Path | None
    tokenizer: Tokenizer | None


def show_prompt(
    words: Sequence[str], options: PromptOptions, source: TextIO, output: TextIO
) -> None:
    """Render the conversation that `source` holds, and write it to `output` as asked.

    Raises:
        QuireError: the words, the conversation or the model are wrong.
    """
    if options.elements and (options.ids or options.diff is not None):
        raise ConfigError("--elements is given alone, without --ids or --diff.")
    model = _read_words(words, options)
    content = _read_content(options, source)
    if options.continues:
        settings = {**(content.get("settings") or {}), "continue_final_message": True}
        content = {**content, "settings": settings}
    if options.elements:
        rendering = _render(content, model, model.arguments.data.template)
        _write_elements(rendering, output)
        return
    from quire.cli.prompt_view import show_difference, show_rendering

    content = content if options.continues else _without_last_answer(content)
    first = _render(content, model, model.arguments.data.template)
    if options.explain:
        from quire.cli.explain import show_explanation

        show_explanation(first, output)
    elif options.diff is None:
        show_rendering(first, output, ids=options.ids)
    else:
        second = _render(content, model, options.diff)
        show_difference(first, second, output, ids=options.ids)


def _read_words(words: Sequence[str], options: PromptOptions) -> _Model:
    """The arguments, and the tokenizer if there is a folder or need of one."""
    from quire.arguments import get_infer_args, read_words

    values = read_words(words)
    if options.template is not None:
        values["template"] = options.template
    named = values.setdefault("model_name_or_path", _NO_MODEL) != _NO_MODEL
    arguments = get_infer_args(values)
    if not named and arguments.data.template and not options.ids:
        return _Model(arguments, None, None)
    from quire.tokenizer import Tokenizer

    if named:
        from quire.model_folder import find_model_folder, with_model_defaults
        from quire.tokenizer.loading import load_tokenizer

        folder = find_model_folder(arguments.model, weights=False)
        arguments = with_model_defaults(arguments, folder)
        return _Model(arguments, folder, load_tokenizer(folder, arguments.model))
    from quire.demo import demo_model_path

    note("No model was named: the tokenizer is that of quire's demo model.")
    return _Model(arguments, None, Tokenizer.from_folder(demo_model_path()))


def _read_content(options: PromptOptions, source: TextIO) -> dict[str, Any]:
    """The conversation as a dictionary, in the form that `/save` writes."""
    if options.message is not None:
        return {"messages": [{"role": "user", "content": options.message}]}
    if is_terminal(source):
        note("No conversation was given: this is a sample. Pipe one in, or use --message.")
        return dict(SAMPLE)
    from quire.cli.chat.session import check_content

    text = read_message_text(source)
    if not options.elements and not text.lstrip().startswith(("{", "[")):
        return {"messages": [{"role": "user", "content": text}]}
    try:
        content = json.loads(text)
    except ValueError as error:
        raise MessageError(f"The input is no JSON: {error}. For plain text: --message.") from None
    if isinstance(content, list):
        content = {"messages": content}
    return check_content(content, "The input")


def _without_last_answer(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out the answer that a saved conversation ends with: what precedes it was sent for it."""
    messages: list[dict[str, Any]] = content["messages"]
    if len(messages) > 1 and messages[-1].get("role") == "assistant":
        note("The last answer is left out: this is what was sent for it.")
        messages = messages[:-1]
    return {**content, "messages": messages}


def _render(content: Mapping[str, Any], model: _Model, name: str | None) -> Rendering:
    from quire.cli.prompt_view import Rendering
    from quire.template.registry import get_template

    data = model.arguments.data
    template = get_template(
        name, model.tokenizer, tool_format=data.tool_format, default_system=data.default_system
    )
    conversation = template.with_tools_shown(_conversation(content))
    how = _options(content, template, data)
    if any(message.media for message in conversation.messages):
        elements = _render_media(template, model, conversation, how)
    else:
        elements = template.render(conversation, **how)
    return Rendering(name or "the model's own", template, model.tokenizer, elements)


def _options(content: Mapping[str, Any], template: Template, data: DataArguments) -> RenderOptions:
    """How the conversation is rendered: as its settings say, else as the arguments do."""
    from quire.template.render_options import RenderOptionResolver

    resolver = RenderOptionResolver(template, data)
    options = {**(content.get("settings") or {}), "enable_thinking": content.get("enable_thinking")}
    wanted = resolver.wants_thinking(options)
    return resolver.resolve(options, resolver.enable_thinking if wanted is None else wanted)


def _render_media(
    template: Template, model: _Model, conversation: Conversation, how: RenderOptions
) -> list[Element]:
    """Render media too: each as the tokens that it fills, or as one placeholder without a folder."""
    import asyncio

    from quire.chat.media_prompts import MediaPrompts
    from quire.media.placement import KINDS

    form = "expanded" if model.folder else "short"
    prompts = MediaPrompts.of_model(template, model.folder, KINDS, model.arguments, form)
    conversation, media = prompts.place(conversation)  # which checks what this template takes
    try:
        decoded = asyncio.run(prompts.load(media))
    finally:
        prompts.close()
    return prompts.render(template, conversation, decoded, **how)


def _conversation(content: Mapping[str, Any]) -> Conversation:
    from quire.messages import read_conversation
    from quire.options import may_end_with_answer

    messages = [
        {key: value for key, value in message.items() if key != "interrupted"}
        for message in content["messages"]
    ]
    return read_conversation(
        messages,
        content.get("system"),
        content.get("tools"),
        may_end_with_answer=may_end_with_answer(content.get("settings") or {}),
    )


def _write_elements(rendering: Rendering, output: TextIO) -> None:
    from quire.template.template import elements_to_json

    encoding = (getattr(output, "encoding", None) or "utf-8").lower()
    text = json.dumps(
        elements_to_json(rendering.elements),
        ensure_ascii=not encoding.startswith("utf"),
        indent=2,
    )
    output.write(text + "\n")
    output.flush()
