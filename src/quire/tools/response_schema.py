"""`response_schema`, by which transformers has read answers until it had `response_template`.

It is a schema of the message, whose parts have patterns and parsers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from quire.messages import ToolCall
from quire.tools.base import mapping
from quire.tools.declared_calls import (
    THOUGHT_FIELDS,
    DeclaredCalls,
    DeclaredFields,
    Path,
    UnreadDeclarationError,
    brace_writer,
    json_writer,
    object_writer,
    shown,
    tag_writer,
    text_of,
)
from quire.tools.patterns import Group, Piece, UnreadPatternError, around, pieces, read_pattern

_QUOTE_OF_GEMMA = '<|"|>'


def read_schema(schema: Any, fields: DeclaredFields) -> None:
    """Read the older declaration: a schema of the message whose parts have patterns."""
    properties = mapping(mapping(schema).get("properties"))
    if not properties:
        raise UnreadDeclarationError("it has no properties")
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
    return text_of(before), text_of(after)


def _around(
    node: Mapping[str, Any], whole: Group, name: str | None
) -> tuple[list[Piece], list[Piece]]:
    own = node.get("x-regex-iterator", node.get("x-regex"))
    found = around(whole, name) if own is None else around(read_pattern(str(own)), None)
    if found is None:
        raise UnreadDeclarationError("its pattern does not show what stands around it")
    return found


def _calls_of_schema(node: Mapping[str, Any], whole: Group) -> DeclaredCalls:
    if "x-regex-substitutions" in json.dumps(node):
        raise UnreadDeclarationError("it replaces texts before it reads them")
    opening, closing = _around(node, whole, "tool_calls")
    items = mapping(node.get("items"))
    reads_json = node if node.get("x-parser") == "json" else items
    if reads_json.get("x-parser") == "json":
        transform = str(mapping(reads_json.get("x-parser-args")).get("transform", "@"))
        body = object_writer(*_named_keys(transform))
        is_list = transform.lstrip().startswith("[*]")
        return DeclaredCalls(opening, text_of(closing), body, is_list=is_list)
    properties = mapping(items.get("properties"))
    function = mapping(properties.get("function", items))
    inner, body = _function(function)
    return DeclaredCalls([*opening, *inner], text_of(closing), body)


def _named_keys(transform: str) -> tuple[Path, Path, Path]:
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
            raise UnreadDeclarationError("its pattern is not a name and then arguments")
        at = next(
            i for i, one in enumerate(found) if isinstance(one, Group) and one.name == names[1]
        )
        return found[:at], _value_writer(arguments)
    before, after = _around(name, Group(None), None)
    if "x-regex-key-value" in arguments:
        values = mapping(arguments.get("additionalProperties"))
        parser = {"name": values.get("x-parser"), "args": values.get("x-parser-args")}
        body = tag_writer(str(arguments["x-regex-key-value"]), parser)
        return [*before, Group("name"), *after], body
    between, _ = _around(arguments, Group(None), None)
    return [*before, Group("name"), *(after or between)], _value_writer(arguments)


def _value_writer(arguments: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    parser = arguments.get("x-parser")
    if parser == "gemma4-tool-call":
        return brace_writer(_QUOTE_OF_GEMMA)
    if parser != "json":
        raise UnreadDeclarationError(f"its arguments have the parser {shown(parser)}")
    return json_writer({})
