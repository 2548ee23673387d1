"""How a model answers, as its folder declares it: `response_template`, or the older `response_schema`.

transformers reads answers by the first and has read them by the second: regions with patterns around
them, and parsers of what stands inside. Here known calls are written by the declaration, and what a call
looks like is learned from that as it is from a chat template's own writing. What a declaration says
beyond texts around names, arguments and thoughts cannot be followed, and is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from quire.messages import ToolCall
from quire.tokenizer.folder import DECLARATIONS
from quire.tools.base import mapping
from quire.tools.declared_calls import (
    THOUGHT_FIELDS,
    Declared,
    DeclaredCalls,
    DeclaredFields,
    Path,
    UnreadDeclarationError,
    json_writer,
    object_writer,
    shown,
    tag_writer,
    text_of,
)
from quire.tools.patterns import Group, Node, Piece, pieces, read_pattern
from quire.tools.response_schema import read_schema

_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")


def read_declared(
    declarations: Mapping[str, Any], *, stops: Collection[str], markers: Collection[str]
) -> Declared | None:
    """What a folder declares; None where it declares nothing.

    Args:
        declarations: its entries of tokenizer_config.json, by name.
        stops: texts of tokens that end a turn, which are in no answer.
        markers: texts that are control tokens.
    """
    for key, read in zip(DECLARATIONS, (_read_template, read_schema), strict=True):
        if declarations.get(key) is not None:
            fields = DeclaredFields(stops, markers)
            try:
                read(declarations[key], fields)
            except UnreadDeclarationError as error:
                fields.unread.append(str(error))
            return fields.declared()
    return None


def _read_template(template: Any, fields: DeclaredFields) -> None:
    if not isinstance(template, Mapping):
        raise UnreadDeclarationError("it is no object")
    if template.get("version", 1) != 1:
        raise UnreadDeclarationError(f"its version is {shown(template['version'])}")
    declared = mapping(template.get("fields"))
    if not declared:
        raise UnreadDeclarationError("it has no fields")
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
    return text_of(pieces(opening)), text_of(pieces(closing))


def _anchor(one: Mapping[str, Any], key: str) -> Group:
    """What opens or closes a field: of several texts the first."""
    literal, pattern = one.get(key), one.get(f"{key}_pattern")
    if isinstance(literal, (list, tuple)) and literal:
        literal = literal[0]
    if isinstance(literal, str):
        return Group(None, ((Node(literal),),))
    if literal is not None or not isinstance(pattern, (str, type(None))):
        raise UnreadDeclarationError(f"its {key} is no text")
    return read_pattern(pattern or "")


def _calls_of(one: Mapping[str, Any]) -> DeclaredCalls:
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
            raise UnreadDeclarationError("its transform takes the arguments out of other content")
        body = _body_of(one)
    elif is_json and (is_list or name[0] == "content"):
        # Of a list's items each key is a name of its own; of one object they stand below `content`.
        start = 0 if is_list else 1
        body = object_writer(name[start:], arguments[start:], identity[start:])
    else:
        raise UnreadDeclarationError("it does not show where the name of a call stands")
    return DeclaredCalls(captured, closing, body, is_list, between, end)


def _body_of(one: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    """The writer of arguments, which are all of a field's content."""
    arguments = mapping(one.get("content_args"))
    if one.get("content") == "json":
        return json_writer(arguments)
    if one.get("content") == "xml-inline":
        pattern = str(arguments.get("tag_pattern", ""))
        return tag_writer(pattern, mapping(arguments.get("value_parser")))
    raise UnreadDeclarationError(f"its content is {shown(one.get('content', 'text'))}")


def _opening(group: Group) -> tuple[list[Piece], str | None]:
    """What opens a call, and what opens all but the first, where that is an alternative of it."""
    nodes = group.branches[0] if len(group.branches) == 1 else ()
    head = nodes[0].part if nodes else ""
    between = None
    if isinstance(head, Group) and head.name is None and len(head.branches) > 1:
        other = pieces(Group(None, (head.branches[1],)))
        between = text_of(other) if pieces(Group(None, (head.branches[0],))) != [""] else None
    return pieces(group), between or None


def _closing(group: Group) -> tuple[str, str]:
    """What closes a call, and what may close the last one."""
    nodes = group.branches[0] if len(group.branches) == 1 else ()
    last = [
        node.part
        for node in nodes
        if node.is_optional and isinstance(node.part, Group) and node.part.name is None
    ]
    return text_of(pieces(group)), "".join(text_of(pieces(part)) for part in last)


def _places(transform: Any) -> tuple[Path, Path, Path]:
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
        raise UnreadDeclarationError("its transform tells no name and arguments of a call")
    return name, arguments, _path(outer.get("id")) or _path(inner.get("id"))


def _path(placeholder: Any) -> Path:
    found = _PLACEHOLDER.fullmatch(placeholder) if isinstance(placeholder, str) else None
    return tuple(found[1].split(".")) if found else ()
