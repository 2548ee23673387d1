"""A conversation as Markdown, for people: what `/save chat.md` writes."""

from __future__ import annotations

import json

from quire.cli.chat.attachments import shown_text
from quire.cli.chat.session import Session
from quire.messages import Message, ToolCall, read_message

MARK = "<!-- saved by quire chat -->\n"
"""The first line, which readers do not show: only what begins so is written over."""


def to_markdown(session: Session, model: str) -> str:
    """The conversation: its questions, thoughts, calls, results and answers, in order."""
    blocks = [f"{MARK}# {session.title or 'A conversation'}"]
    if session.system:
        blocks += ["## System", session.system]
    for turn in session.turns:
        message = read_message(turn.message)
        blocks.append(f"## {_heading(message, model)}")
        if message.reasoning:
            blocks.append(_quoted(message.reasoning))
        if text := shown_text(message, whole=True).strip():
            blocks.append(text)
        blocks += [_call(call) for call in message.tool_calls]
        if turn.interrupted:
            blocks.append("*(stopped)*")
    return "\n\n".join(blocks) + "\n"


def _heading(message: Message, model: str) -> str:
    names = {"user": "You", "assistant": model, "tool": f"Result of {message.name or 'a tool'}"}
    return names.get(message.role, message.role)


def _quoted(thought: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in thought.strip().split("\n"))


def _call(call: ToolCall) -> str:
    try:
        arguments = json.dumps(json.loads(call.arguments), ensure_ascii=False, indent=2)
    except ValueError:
        arguments = call.arguments
    return f"Calls `{call.name}`:\n\n{_fenced(arguments, 'json')}"


def _fenced(text: str, name: str) -> str:
    """Text in a fence that is longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{name}\n{text}\n{fence}"
