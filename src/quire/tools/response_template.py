"""How a model answers, as its folder declares it: `response_template`, or the older `response_schema`.

transformers reads answers by the first and has read them by the second: regions with patterns around
them, and parsers of what stands inside. Here known calls are written by the declaration, and what a call
looks like is learned from that as it is from a chat template's own writing. What a declaration says
beyond texts around names, arguments and thoughts cannot be followed, and is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quire.messages import ToolCall
from quire.tokenizer.folder import DECLARATIONS
from quire.tools.base import mapping, sequence
from quire.tools.call_form import CallForm
from quire.tools.learning import learn_form
from quire.tools.patterns import (
    SPACE,
    Group,
    Node,
    Piece,
    UnreadPatternError,
    around,
    pieces,
    read_pattern,
)

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")

_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
_OPEN_TAG = re.compile(r"<([A-Za-z_][\w:.-]*+)[^<>/]*>")
_QUOTE_OF_GEMMA = '<|"|>'


@dataclass(frozen=True, slots=True)
class Declared:
    """What a folder declares of its model's answers; texts are empty where it declares none."""

    form: CallForm | None = None
    thought: tuple[str, str] | None = None
    """What opens and closes a thought; the first is empty where the prompt opens it."""
    before_text: str = ""
    after_text: str = ""
    """What stands around the text of an answer, where something opens it."""
    unread: tuple[str, ...] = ()
    """The fields that cannot be followed, each with the reason."""


def read_declared(
    declarations: Mapping[str, Any], *, stops: Collection[str], markers: Collection[str]
) -> Declared | None:
    """What a folder declares; None where it declares nothing.

    Args:
        declarations: its entries of tokenizer_config.json, by name.
        stops: texts of tokens that end a turn, which are in no answer.
        markers: texts that are control tokens.
    """
    for key, read in zip(DECLARATIONS, (_read_template, _read_schema), strict=True):
        if declarations.get(key) is not None:
            fields = _Fields(stops, markers)
            try:
                read(declarations[key], fields)
            except _UnreadError as error:
                fields.unread.append(str(error))
            return fields.declared()
    return None


class _UnreadError(ValueError):
    """A declaration that cannot be followed."""


@dataclass
class _Calls:
    """How calls are written: what stands around each, and what inside."""

    opening: Sequence[Piece]
    closing: str
    body: Callable[[ToolCall], str]
    is_list: bool = False
    """Whether the bodies of all calls are one list, opened and closed once."""
    between: str | None = None
    """What opens each call but the first, where that is something else."""
    end: str = ""
    """What may stand after the last call."""

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The text of these calls."""
        if self.is_list:
            bodies = ", ".join(map(self.body, calls))
            return f"{_text(self.opening)}[{bodies}]{self.closing}"
        written = ""
        for index, call in enumerate(calls):
            opening = _text(self.opening, call, self.between if index else None)
            body = self.body(call)
            written += opening + body + _left_open(opening, self.closing) + self.closing
        return written + self.end


def _left_open(opening: str, closing: str) -> str:
    """The ends of the tags that are opened before a call's arguments, and that its end leaves out.

    A reader of regions skips them.
    """
    names = [name for name in _OPEN_TAG.findall(opening) if f"</{name}>" not in closing]
    return "".join(f"</{name}>" for name in reversed(names))


def _text(parts: Sequence[Piece], call: ToolCall | None = None, head: str | None = None) -> str:
    """The text of pieces with what a call has in them; `head` in place of the first text.

    Raises:
        _UnreadError: a group stands for something else.
    """
    known = {} if call is None else {"name": call.name, "id": call.id or ""}
    text = ""
    for index, part in enumerate(parts):
        if isinstance(part, str):
            text += part if head is None or index else head
        elif part.name in known:
            text += known[part.name]
        elif part.name is not None or (any(parts[:index]) and any(parts[index + 1 :])):
            raise _UnreadError("its pattern has a part that is neither text nor a call's name")
    return _spaced(text)


def _spaced(text: str) -> str:
    """A text with one kind of the white space that may be in it.

    It is a space after JSON's signs, a line break between tags, and nothing elsewhere.
    """
    text = re.sub(f"(?<=[:,]){SPACE}", " ", text)
    return re.sub(f"(?<=>){SPACE}(?=<)", "\n", text).replace(SPACE, "")


@dataclass
class _Fields:
    """What was read so far."""

    stops: Collection[str]
    markers: Collection[str]
    form: CallForm | None = None
    thought: tuple[str, str] | None = None
    around_text: tuple[str, str] = ("", "")
    unread: list[str] = field(default_factory=list)

    def declared(self) -> Declared:
        before, after = self.around_text
        return Declared(self.form, self.thought, before, after, tuple(self.unread))

    def attempt(self, name: str, read: Callable[[], None]) -> None:
        """Read one field; keep the reason where it cannot be followed."""
        try:
            read()
        except _UnreadError as error:
            self.unread.append(f"{name}: {error}")
        except UnreadPatternError:
            self.unread.append(f"{name}: its pattern cannot be followed")

    def learn_calls(self, calls: _Calls) -> None:
        """Learn the form of calls from their writing."""
        calls.closing = self.without_stop(calls.closing)
        self.form = learn_form(calls.write, self.markers)
        if self.form is None:
            raise _UnreadError("how it writes calls cannot be seen")

    def without_stop(self, text: str) -> str:
        """A text up to the token that ends the turn, which is in no answer."""
        places = [text.find(stop) for stop in self.stops if stop and stop in text]
        return text[: min(places)].rstrip() if places else text

    def set_thought(self, opening: str, closing: str) -> None:
        if not closing.strip():
            raise _UnreadError("nothing closes a thought")
        self.thought = (opening, closing)

    def set_text(self, opening: str, closing: str) -> None:
        if opening.strip():
            self.around_text = (opening, self.without_stop(closing))


# --- response_template ----------------------------------------------------------------------------


def _read_template(template: Any, fields: _Fields) -> None:
    if not isinstance(template, Mapping):
        raise _UnreadError("it is no object")
    if template.get("version", 1) != 1:
        raise _UnreadError(f"its version is {template['version']!r}")
    declared = mapping(template.get("fields"))
    if not declared:
        raise _UnreadError("it has no fields")
    for name, one in declared.items():
        if name == "tool_calls":
            fields.attempt(name, lambda one=one: fields.learn_calls(_calls_of(mapping(one))))
        elif name in THOUGHT_FIELDS:
            fields.attempt(name, lambda one=one: fields.set_thought(*_bounds(mapping(one))))
        elif name == "content":
            fields.attempt(name, lambda one=one: fields.set_text(*_bounds(mapping(one))))


def _bounds(one: Mapping[str, Any]) -> tuple[str, str]:
    """The texts that open and close a field."""
    opening, closing = (_anchor(one, key) for key in ("open", "close"))
    return _text(pieces(opening)), _text(pieces(closing))


def _anchor(one: Mapping[str, Any], key: str) -> Group:
    """What opens or closes a field: of several texts the first."""
    literal, pattern = one.get(key), one.get(f"{key}_pattern")
    if isinstance(literal, (list, tuple)) and literal:
        literal = literal[0]
    if isinstance(literal, str):
        return Group(None, ((Node(literal),),))
    if literal is not None or not isinstance(pattern, (str, type(None))):
        raise _UnreadError(f"its {key} is no text")
    return read_pattern(pattern or "")


def _calls_of(one: Mapping[str, Any]) -> _Calls:
    opening, between = _opening(_anchor(one, "open"))
    closing, end = _closing(_anchor(one, "close"))
    is_list = one.get("transform_each") is True
    name, arguments, identity = _places(one.get("transform"))
    roles = {name[0]: "name", **({identity[0]: "id"} if identity else {})}
    captured: list[Piece] = [
        Group(roles.get(part.name or "", part.name), part.branches)
        if isinstance(part, Group)
        else part
        for part in opening
    ]
    is_json = one.get("content") == "json" and not one.get("content_args")
    if any(isinstance(part, Group) and part.name == "name" for part in captured):
        if arguments != ("content",):
            raise _UnreadError("its transform takes the arguments out of other content")
        body = _body_of(one)
    elif is_json and (is_list or name[0] == "content"):
        # Of a list's items each key is a name of its own; of one object they stand below `content`.
        start = 0 if is_list else 1
        body = _object_writer(name[start:], arguments[start:], identity[start:])
    else:
        raise _UnreadError("it does not show where the name of a call stands")
    return _Calls(captured, closing, body, is_list, between, end)


def _body_of(one: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    """The writer of arguments, which are all of a field's content."""
    arguments = mapping(one.get("content_args"))
    if one.get("content") == "json":
        return _json_writer(arguments)
    if one.get("content") == "xml-inline":
        pattern = str(arguments.get("tag_pattern", ""))
        return _tag_writer(pattern, mapping(arguments.get("value_parser")))
    raise _UnreadError(f"its content is {one.get('content', 'text')!r}")


def _opening(group: Group) -> tuple[list[Piece], str | None]:
    """What opens a call, and what opens all but the first, where that is an alternative of it."""
    nodes = group.branches[0] if len(group.branches) == 1 else ()
    head = nodes[0].part if nodes else ""
    between = None
    if isinstance(head, Group) and head.name is None and len(head.branches) > 1:
        other = pieces(Group(None, (head.branches[1],)))
        between = _text(other) if pieces(Group(None, (head.branches[0],))) != [""] else None
    return pieces(group), between or None


def _closing(group: Group) -> tuple[str, str]:
    """What closes a call, and what may close the last one."""
    nodes = group.branches[0] if len(group.branches) == 1 else ()
    last = [
        node.part
        for node in nodes
        if node.is_optional and isinstance(node.part, Group) and node.part.name is None
    ]
    return _text(pieces(group)), "".join(_text(pieces(part)) for part in last)


_Path = tuple[str, ...]


def _places(transform: Any) -> tuple[_Path, _Path, _Path]:
    """Where a call's name, arguments and id are: a path from `content` or a group's name."""
    outer = mapping(transform)
    inner = outer.get("function", transform)
    if transform is None or inner == "{content}":
        return ("content", "name"), ("content", "arguments"), ()
    if isinstance(inner, str) and (found := _PLACEHOLDER.fullmatch(inner)):
        base = tuple(found[1].split("."))
        return (*base, "name"), (*base, "arguments"), ()
    inner = mapping(inner)
    name, arguments = (_path(inner.get(key)) for key in ("name", "arguments"))
    if not name or not arguments:
        raise _UnreadError("its transform tells no name and arguments of a call")
    return name, arguments, _path(outer.get("id")) or _path(inner.get("id"))


def _path(placeholder: Any) -> _Path:
    found = _PLACEHOLDER.fullmatch(placeholder) if isinstance(placeholder, str) else None
    return tuple(found[1].split(".")) if found else ()


# --- bodies of calls ------------------------------------------------------------------------------


def _object_writer(name: _Path, arguments: _Path, identity: _Path) -> Callable[[ToolCall], str]:
    """Writes a call as one JSON object, with its parts at these paths."""
    if not name or not arguments:
        raise _UnreadError("its transform tells no name and arguments of a call")

    def write(call: ToolCall) -> str:
        value: dict[str, Any] = {}
        parts = ((identity, call.id), (name, call.name), (arguments, json.loads(call.arguments)))
        for path, part in parts:
            if path:
                _put(value, path, part)
        return json.dumps(value)

    return write


def _put(value: dict[str, Any], path: _Path, part: Any) -> None:
    for key in path[:-1]:
        value = value.setdefault(key, {})
        if not isinstance(value, dict):
            raise _UnreadError("its transform takes one part of a call out of another")
    value[path[-1]] = part


def _json_writer(dialect: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    """Writes arguments as JSON, or with keys and strings of another notation."""
    delimiters = sequence(dialect.get("string_delims"))
    if not delimiters and not dialect.get("unquoted_keys"):
        return lambda call: call.arguments
    pair = list(sequence(delimiters[0])) if delimiters else ['"', '"']
    if len(pair) != 2 or pair[0] != pair[1] or not dialect.get("unquoted_keys"):
        raise _UnreadError("its notation of arguments is not known")
    return _brace_writer(str(pair[0]))


def _brace_writer(quote: str) -> Callable[[ToolCall], str]:
    def write(call: ToolCall) -> str:
        values = json.loads(call.arguments)
        return "{" + ",".join(f"{key}:{_quoted(one, quote)}" for key, one in values.items()) + "}"

    return write


def _quoted(value: Any, quote: str) -> str:
    return f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value)


def _tag_writer(pattern: str, parser: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    """Writes arguments one by one, as a pattern has each."""
    parts = pieces(read_pattern(pattern))
    names = [part.name for part in parts if isinstance(part, Group)]
    if names != ["key", "value"]:
        raise _UnreadError("its tag_pattern is not a key and then a value")
    texts = [part for part in parts if isinstance(part, str)]
    before, middle, after = _spaced(texts[0]), texts[1], texts[2]
    arguments = mapping(parser.get("args"))
    if not before + after and middle == "=":
        pair = next(iter(sequence(arguments.get("string_delims"))), ('"', '"'))
        return _keyword_writer(str(sequence(pair)[0]) if sequence(pair) else '"')
    # White space beside a value belongs to the form: most write a line break.
    if middle.endswith(SPACE):
        middle = middle[:-1] + "\n"
    if after.startswith(SPACE):
        after = "\n" + after[1:]
    middle, after = _spaced(middle), _spaced(after)
    is_json = parser.get("name") == "json" and not arguments.get("allow_non_json")

    def write(call: ToolCall) -> str:
        values = json.loads(call.arguments)
        written = [
            f"{before}{key}{middle}{json.dumps(one) if is_json else one}{after}"
            for key, one in values.items()
        ]
        return "".join(written)

    return write


def _keyword_writer(quote: str) -> Callable[[ToolCall], str]:
    def write(call: ToolCall) -> str:
        values = json.loads(call.arguments)
        return ", ".join(f"{key}={_quoted(one, quote)}" for key, one in values.items())

    return write


# --- response_schema ------------------------------------------------------------------------------


def _read_schema(schema: Any, fields: _Fields) -> None:
    """Read the older declaration: a schema of the message whose parts have patterns."""
    properties = mapping(mapping(schema).get("properties"))
    if not properties:
        raise _UnreadError("it has no properties")
    try:
        whole = read_pattern(str(schema.get("x-regex", "")))
    except UnreadPatternError:
        whole = Group(None)
    for name, one in properties.items():
        node = mapping(one)
        if name == "tool_calls":
            fields.attempt(
                name, lambda node=node: fields.learn_calls(_calls_of_schema(node, whole))
            )
        elif name in THOUGHT_FIELDS:
            fields.attempt(
                name,
                lambda name=name, node=node: fields.set_thought(*_found(node, whole, name)),
            )
        elif name == "content" and "x-regex" in node:
            fields.attempt(name, lambda node=node: fields.set_text(*_found(node, whole, "")))


def _found(node: Mapping[str, Any], whole: Group, name: str) -> tuple[str, str]:
    """The texts around a part: by its own pattern, or by its name in that of the whole."""
    before, after = _around(node, whole, name)
    return _text(before), _text(after)


def _around(
    node: Mapping[str, Any], whole: Group, name: str | None
) -> tuple[list[Piece], list[Piece]]:
    own = node.get("x-regex-iterator", node.get("x-regex"))
    found = around(whole, name) if own is None else around(read_pattern(str(own)), None)
    if found is None:
        raise _UnreadError("its pattern does not show what stands around it")
    return found


def _calls_of_schema(node: Mapping[str, Any], whole: Group) -> _Calls:
    if "x-regex-substitutions" in json.dumps(node):
        raise _UnreadError("it replaces texts before it reads them")
    opening, closing = _around(node, whole, "tool_calls")
    items = mapping(node.get("items"))
    reads_json = node if node.get("x-parser") == "json" else items
    if reads_json.get("x-parser") == "json":
        transform = str(mapping(reads_json.get("x-parser-args")).get("transform", "@"))
        body = _object_writer(*_named_keys(transform))
        is_list = transform.lstrip().startswith("[*]")
        return _Calls(opening, _text(closing), body, is_list=is_list)
    properties = mapping(items.get("properties"))
    function = mapping(properties.get("function", items))
    inner, body = _function(function)
    return _Calls([*opening, *inner], _text(closing), body)


def _named_keys(transform: str) -> tuple[_Path, _Path, _Path]:
    """The keys of a call's name and arguments, and id, in a JMESPath of how it is made anew."""
    found = {
        key: re.search(rf"\b{key}\s*:\s*([\w.]+)", transform) for key in ("name", "arguments", "id")
    }
    paths = [tuple(one[1].split(".")) if one else () for one in found.values()]
    return paths[0] or ("name",), paths[1] or ("arguments",), paths[2]


def _function(node: Mapping[str, Any]) -> tuple[list[Piece], Callable[[ToolCall], str]]:
    """What stands up to a call's arguments, and the writer of these."""
    properties = mapping(node.get("properties"))
    name, arguments = (mapping(properties.get(key)) for key in ("name", "arguments"))
    if "x-regex" in node:
        found = pieces(read_pattern(str(node["x-regex"])))
        names = [part.name for part in found if isinstance(part, Group)]
        if names[:2] != ["name", "arguments"]:
            raise _UnreadError("its pattern is not a name and then arguments")
        at = next(
            i for i, one in enumerate(found) if isinstance(one, Group) and one.name == names[1]
        )
        return found[:at], _value_writer(arguments)
    before, after = _around(name, Group(None), None)
    if "x-regex-key-value" in arguments:
        values = mapping(arguments.get("additionalProperties"))
        parser = {"name": values.get("x-parser"), "args": values.get("x-parser-args")}
        body = _tag_writer(str(arguments["x-regex-key-value"]), parser)
        return [*before, Group("name"), *after], body
    between, _ = _around(arguments, Group(None), None)
    return [*before, Group("name"), *(after or between)], _value_writer(arguments)


def _value_writer(arguments: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    parser = arguments.get("x-parser")
    if parser == "gemma4-tool-call":
        return _brace_writer(_QUOTE_OF_GEMMA)
    if parser != "json":
        raise _UnreadError(f"its arguments have the parser {parser!r}")
    return _json_writer({})
