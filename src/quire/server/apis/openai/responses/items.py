"""The input items of the Responses API: turns, thoughts, calls, and what other tools have left."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias, get_args

from pydantic import ConfigDict, Field, Tag, with_config
from typing_extensions import TypedDict

from quire.server.apis.body import by_type, strict, tagged
from quire.server.apis.openai.messages import AudioData, Detail

ItemId: TypeAlias = Annotated[str, Field(max_length=256)]


CONTENT = by_type(
    {str: "Text", list: "Parts"}, "content_type", "a string or a list of parts is needed"
)


class ItemPartRecord(TypedDict, total=False):
    """Fields of a part that hints and histories have; dropped, as docs/server-apis.md says."""

    annotations: Any
    logprobs: Any
    parsed: Any
    prompt_cache_breakpoint: Any


class ItemRecord(TypedDict, total=False):
    """Fields of an item that a client sends back as it came, or with notes of its own; dropped."""

    agent: Any
    caller: Any
    created_by: Any
    end_turn: Any
    id: ItemId | None
    internal_chat_message_metadata_passthrough: Any
    metadata: Any
    parsed_arguments: Any
    phase: Any
    provider_specific_fields: Any
    status: Any


@strict
class InputText(ItemPartRecord):
    type: Literal["input_text"]
    text: str


@strict
class InputImage(ItemPartRecord):
    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1)]
    """A data URL, or a URL if the server allows them."""
    detail: NotRequired[Detail | None]
    """Ignored: pictures are scaled as the server's own settings say."""
    file_id: NotRequired[None]


@strict
class InputAudio(ItemPartRecord):
    type: Literal["input_audio"]
    input_audio: AudioData


@strict
class OutputText(ItemPartRecord):
    type: Literal["output_text"]
    text: str


@strict
class OutputRefusal(ItemPartRecord):
    type: Literal["refusal"]
    refusal: str


InputPart: TypeAlias = Annotated[
    Annotated[InputText, Tag("InputText")]
    | Annotated[InputImage, Tag("InputImage")]
    | Annotated[InputAudio, Tag("InputAudio")]
    | Annotated[OutputText, Tag("OutputText")]
    | Annotated[OutputRefusal, Tag("OutputRefusal")],
    tagged(
        {
            "input_text": "InputText",
            "input_image": "InputImage",
            "input_audio": "InputAudio",
            "output_text": "OutputText",
            "refusal": "OutputRefusal",
        },
        "type",
        "a part of an unknown type",
    ),
]
PartsOrText: TypeAlias = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[InputPart], Tag("Parts")], CONTENT
]


@strict
class MessageItem(ItemRecord):
    """A turn of any role; the API's own answers are sent back in this form too."""

    type: NotRequired[Literal["message"]]
    role: Literal["user", "assistant", "system", "developer"]
    content: PartsOrText


@strict
class ThoughtText(TypedDict):
    type: Literal["reasoning_text", "text"]
    text: str


@strict
class SummaryText(TypedDict):
    type: Literal["summary_text"]
    text: str


@strict
class ReasoningItem(ItemRecord):
    type: Literal["reasoning"]
    summary: NotRequired[list[SummaryText] | None]
    content: NotRequired[list[ThoughtText] | None]
    encrypted_content: NotRequired[str | None]
    """Ignored: it is another server's, and only that one can read it."""


@strict
class FunctionCallItem(ItemRecord):
    type: Literal["function_call"]
    call_id: ItemId
    name: Annotated[str, Field(min_length=1, max_length=256)]
    namespace: NotRequired[Annotated[str, Field(max_length=256)] | None]
    arguments: str


@strict
class FunctionOutputItem(ItemRecord):
    type: Literal["function_call_output"]
    call_id: ItemId
    output: PartsOrText
    name: NotRequired[str | None]
    namespace: NotRequired[str | None]


CallKind: TypeAlias = Literal[
    "apply_patch_call", "custom_tool_call", "local_shell_call", "shell_call"
]
ResultKind: TypeAlias = Literal[
    "apply_patch_call_output", "custom_tool_call_output", "local_shell_call_output",
    "shell_call_output",
]  # fmt: skip
DroppedKind: TypeAlias = Literal[
    "code_interpreter_call", "computer_call", "computer_call_output", "file_search_call",
    "ghost_snapshot", "image_generation_call", "mcp_approval_request", "mcp_approval_response",
    "mcp_call", "mcp_list_tools", "program", "program_output", "tool_search_call",
    "tool_search_output", "web_search_call",
]  # fmt: skip
CALLS_OF_TOOLS: dict[CallKind, str] = {
    "apply_patch_call": "operation",
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "shell_call": "action",
}
"""Calls of OpenAI's own tools that a client runs: each by the field that has its input."""
RESULTS_OF_TOOLS: tuple[ResultKind, ...] = get_args(ResultKind)
"""Their results, which have a text in `output`."""
DROPPED_ITEMS: tuple[DroppedKind, ...] = get_args(DroppedKind)
"""What OpenAI's own tools have left in a history for its servers alone to read."""


@with_config(ConfigDict(extra="allow"))
class BuiltInItem(TypedDict):
    """What one of OpenAI's own tools has left in a history."""

    type: CallKind | ResultKind | DroppedKind
    id: NotRequired[ItemId | None]
    call_id: NotRequired[ItemId | None]
    name: NotRequired[Annotated[str, Field(min_length=1, max_length=256)] | None]


_ITEMS = {
    "message": "MessageItem",
    "reasoning": "ReasoningItem",
    "function_call": "FunctionCallItem",
    "function_call_output": "FunctionOutputItem",
    **dict.fromkeys((*CALLS_OF_TOOLS, *RESULTS_OF_TOOLS, *DROPPED_ITEMS), "BuiltInItem"),
}
InputItem: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("MessageItem")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[FunctionCallItem, Tag("FunctionCallItem")]
    | Annotated[FunctionOutputItem, Tag("FunctionOutputItem")]
    | Annotated[BuiltInItem, Tag("BuiltInItem")],
    tagged(_ITEMS, "type", "an item of a type that is not supported", default="message"),
]
