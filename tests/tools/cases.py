"""What the tests of all formats share: calls that a format can carry, cuts, and how pieces compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import ToolFormat
from quire.tools.stream import Piece

MARKERS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_calls>",
    "</tool_calls>",
    "<seed:tool_call>",
    "</seed:tool_call>",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    '<invoke name="',
    "</invoke>",
    '<parameter name="',
    "<function=",
    "</function>",
    "<parameter=",
    "</parameter>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|tool>",
    "<|tool_call>",
    "<tool_call|>",
    "call:f{",
    '<|"|>',
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
    "Action:",
    "Action Input:",
    "```",
    '{"name": "f", "parameters": {}}',
    '{"name": "f", "arguments": {"a": [1]}}',
    '{"name": "',
    '"arguments": ',
    "f(a=",
    'f\n{"a": 1}',
)

characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, max_size=30) | st.lists(
    st.sampled_from(
        [*MARKERS, " ", "\n", '"', "'", "\\", "<", "é", "🦆", "a", "21", ">", ")", ","]
    ),
    max_size=8,
).map("".join)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,24}", fullmatch=True) | st.sampled_from(
    ["wetter_für", "天气", "get-weather"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def calls_of(arguments: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[ToolCall]]:
    """Lists of calls with such arguments."""
    return st.lists(
        st.builds(
            ToolCall, names, arguments.map(lambda value: json.dumps(value, ensure_ascii=False))
        ),
        min_size=1,
        max_size=3,
    )


def text_of(spans: Spans) -> str:
    return "".join(span.text for span in spans)


def written(form: ToolFormat, calls: Sequence[ToolCall]) -> str:
    return text_of(form.write_calls(calls))


def join(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with neighbouring texts joined: what does not depend on the cuts."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def read(
    form: ToolFormat, text: str, tools: Sequence[dict[str, Any]] = (), step: int | None = None
) -> list[Piece]:
    """Parse `text`, cut into parts of `step` characters."""
    parser = form.parser(tools)
    pieces: list[Piece] = []
    for start in range(0, len(text), step or len(text) or 1):
        pieces += parser.add(text[start : start + (step or len(text))])
    return join([*pieces, *parser.flush()])


def meaning(pieces: Iterable[Piece]) -> list[Any]:
    """Pieces with their arguments decoded, so that calls compare by what they say.

    Numbers compare with their types, as JSON text: 1 is not 1.0, and not True.
    """
    return [
        piece if isinstance(piece, str) else (piece.name, _canonical(piece.arguments))
        for piece in pieces
    ]


def _canonical(arguments: str) -> str:
    return json.dumps(json.loads(arguments), sort_keys=True)
