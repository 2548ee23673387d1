"""What a tool format is: how tools are listed, calls written, and calls read back.

Below it is what the formats share in writing: spans, JSON text, the fields of a tool.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from quire.errors import ToolError
from quire.messages import ToolCall
from quire.prompt import Span, Spans
from quire.tools.call_form import CallForm
from quire.tools.learning import learn_form
from quire.tools.stream import Grammar, StreamParser, ToolParser


class ToolFormat(ABC):
    """One wire format of tools. Stateless: parsers hold the state of a stream."""

    name: str
    """The name in LLaMA-Factory's `tool_format` argument."""

    markers: tuple[str, ...] = ()
    """Control strings that stand in calls as the model writes them, e.g. `<tool_call>`."""

    @cached_property
    def form(self) -> CallForm | None:
        """How calls are written, as data; None where that has no such form."""
        return learn_form(self._write_text, self.markers)

    @cached_property
    def openings(self) -> tuple[str, ...]:
        """The control strings with which calls begin; none where they begin like other text."""
        form = self.form
        if form is None:
            return ()
        head = form.call[0] if isinstance(form.call[0], str) else ""
        texts = (form.begin + form.open + head, form.open + head)
        runs = [text.split()[0] for text in texts if text.strip()]
        return tuple(dict.fromkeys(run for run in runs if run[0] in "<[" and len(run) > 2))

    def _write_text(self, calls: Sequence[ToolCall]) -> str:
        return "".join(span.text for span in self.write_calls(calls))

    @abstractmethod
    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        """Text for the system prompt that lists the tools; the tools' own text is literal."""

    @abstractmethod
    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        """The calls as the model writes them; names and arguments are literal."""

    @abstractmethod
    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        """How the calls of an answer are read.

        `tools` are those that the model was given. Formats that do not write types take these from
        the tools' schemas; formats without markers recognise calls by the tools' names.
        """

    def parser(self, tools: Sequence[Mapping[str, Any]] = ()) -> ToolParser:
        """A fresh parser for one answer; see `grammar`."""
        return StreamParser(self.grammar(tools))

    def parse(
        self, text: str, tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[str, tuple[ToolCall, ...]]:
        """Split a whole answer into its text and its calls."""
        parser = self.parser(tools)
        pieces = [*parser.add(text), *parser.flush()]
        calls = tuple(piece for piece in pieces if isinstance(piece, ToolCall))
        return "".join(piece for piece in pieces if isinstance(piece, str)), calls


# --- writing -------------------------------------------------------------------------------------


def literal(text: str) -> Span:
    """Text that came from a tool or a call: no control token may arise from it."""
    return Span(text, literal=True)


def join(*parts: str | Span | Iterable[Span]) -> Spans:
    """Join parts: strings are the format's own text; neighbours of one kind are merged."""
    flat: list[Span] = []
    for part in parts:
        for span in (
            [Span(part)] if isinstance(part, str) else [part] if isinstance(part, Span) else part
        ):
            if flat and flat[-1].literal == span.literal:
                span = Span(flat.pop().text + span.text, span.literal)
            if span.text:
                flat.append(span)
    return tuple(flat)


def join_with(separator: str, items: Iterable[Spans]) -> Spans:
    """Join items with the format's own separator between them."""
    joined: list[str | Spans] = []
    for item in items:
        joined += [separator, item]
    return join(*joined[1:])


def dump(value: Any, *, indent: int | None = None) -> str:
    """JSON text as the reference writes it: characters as they are, one space after `,` and `:`.

    Half of a surrogate pair becomes the replacement character.

    Raises:
        ToolError: the value cannot be written as JSON.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which neither JSON nor any reader takes
        halves = json.dumps(value, ensure_ascii=False, indent=indent)
        return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"A tool or its arguments cannot be written as JSON: {error}.") from None
    return text


def _not_json(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text} is too large")
    return number


def load(text: str) -> Any:
    """Read JSON text, taking raw newlines in strings (models write them) but no NaN or Infinity.

    Raises:
        ValueError: `text` is no JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text, strict=False, parse_constant=_not_json, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def arguments_text(call: ToolCall) -> str:
    """The call's arguments as they were written; none at all become `{}`."""
    return call.arguments if call.arguments.strip() else "{}"


def arguments_json(call: ToolCall) -> str:
    """The call's arguments as a JSON value: none become `{}`, text that is no JSON a JSON string."""
    try:
        return dump(load(call.arguments)) if call.arguments.strip() else "{}"
    except ValueError:
        return dump(call.arguments)


def arguments_object(call: ToolCall) -> dict[str, Any]:
    """The call's arguments as a dictionary, for formats that write one parameter after another.

    Raises:
        ToolError: the arguments are not a JSON object.
    """
    try:
        value = load(call.arguments) if call.arguments.strip() else {}
    except ValueError as error:
        raise ToolError(
            f"The arguments of the call of {call.name!r} are no JSON: {error}."
        ) from None
    if not isinstance(value, dict):
        raise ToolError(f"The arguments of the call of {call.name!r} must be a JSON object.")
    return value


def value_text(value: Any) -> str:
    """A parameter's value as the XML-like formats write it: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else dump(value)


def call_object(call: ToolCall, key: str) -> Spans:
    """`{"name": ..., key: ...}` in JSON, the object that most formats write for a call."""
    name, arguments = dump(call.name), arguments_json(call)
    return join('{"name": ', literal(name), f', "{key}": ', literal(arguments), "}")


def unwrap(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tool itself, out of OpenAI's `{"type": "function", "function": {...}}`."""
    inner = tool.get("function")
    return inner if isinstance(inner, Mapping) else tool


def wrap(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tool in OpenAI's form; one that has its type already is left as it is."""
    return (
        tool if tool.get("type") == "function" else {"type": "function", "function": unwrap(tool)}
    )


def schema_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the tool's parameters; empty where it has none."""
    return mapping(unwrap(tool).get("parameters"))


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one: nothing guarantees what a schema holds."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, (list, tuple)) else ()


def plain(value: Any) -> str:
    """A schema's field as text: nothing for None, strings as they are."""
    return "" if value is None else str(value)


def description_of(tool: Mapping[str, Any]) -> str:
    return plain(unwrap(tool).get("description"))


def name_of(tool: Mapping[str, Any]) -> str:
    """The tool's name.

    Raises:
        ToolError: it has none.
    """
    name = unwrap(tool).get("name")
    if not isinstance(name, str) or not name:
        raise ToolError(f"A tool has no name: {str(dict(tool))[:80]}.")
    return name
