"""Tools for a chat template that shows none: named in the system message, in a format that was chosen."""

from __future__ import annotations

from dataclasses import replace

from quire.messages import Control, Conversation, Message, Part, Text
from quire.prompt import Spans
from quire.tools.base import ToolFormat


def show_in_system(
    conversation: Conversation, tool_format: ToolFormat, default_system: str
) -> Conversation:
    """The conversation with its tools, calls and results as texts that any template writes.

    Tools stand at the end of the system message, calls at the end of an assistant's text, and the
    results of calls in a user's turn, one a line.
    """
    system = conversation.system if conversation.system is not None else default_system
    listed = "".join(span.text for span in tool_format.list_tools(conversation.tools))
    messages: list[Message] = []
    for message in conversation.messages:
        if message.tool_calls:
            written = _parts(tool_format.write_calls(message.tool_calls))
            message = replace(message, parts=(*message.parts, *written), tool_calls=())
        elif message.role == "tool":
            message = Message("user", message.parts)
            if messages and messages[-1].role == "user":
                before = messages.pop()
                message = replace(before, parts=(*before.parts, Text("\n"), *message.parts))
        messages.append(message)
    return Conversation(tuple(messages), (system + listed).lstrip("\n"))


def _parts(spans: Spans) -> tuple[Part, ...]:
    return tuple(Text(span.text) if span.literal else Control(span.text) for span in spans)
