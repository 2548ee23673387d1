"""The format of GLM-4: the tool's name on a line, its arguments as JSON on the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import (
    ToolFormat,
    arguments_text,
    dump,
    join,
    join_with,
    literal,
    name_of,
    unwrap,
)
from quire.tools.json_calls import read_arguments
from quire.tools.stream import CharStream, Grammar, Reading, Refuted

_BEFORE = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
_AFTER_EACH = "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"


class NamedLines(Grammar):
    """A name alone on its line, then a JSON object. Where tools are known, only their names."""

    triggers = frozenset("\n")

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._names = frozenset(name_of(tool) for tool in tools)

    def read(self, stream: CharStream) -> Reading[None]:
        if not stream.fresh:
            yield from stream.require("\n")
            stream.release()  # the line before is text, whatever follows
        name = yield from stream.name("{}[]<>\"'`")
        if self._names and name not in self._names:
            raise Refuted
        line_end = stream.at
        yield from stream.spaces()
        if "\n" not in stream.since(line_end) or (yield from stream.peek()) != "{":
            stream.at = line_end
            raise Refuted
        stream.accept(ToolCall(name, (yield from read_arguments(stream))))


class GLM4Format(ToolFormat):
    """Arguments are written as they are; several calls follow each other, a line between them.

    The reference refuses more than one call in a turn. Read back are arguments that are a JSON
    object, after a name that stands alone on its line.
    """

    name = "glm4"

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return join(_BEFORE, *(_list_tool(tool) for tool in tools)) if tools else ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        written = [join(literal(call.name), "\n", literal(arguments_text(call))) for call in calls]
        return join_with("\n", written)

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return NamedLines(tools)


def _list_tool(tool: dict[str, Any]) -> Spans:
    body = dump(unwrap(tool), indent=4)
    return join("\n\n## ", literal(name_of(tool)), "\n\n", literal(body), _AFTER_EACH)
