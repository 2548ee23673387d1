"""`quire chat` with its input or output piped: a filter, one message in, one answer out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, TextIO

from quire.cli.terminal import Harmless, is_terminal
from quire.errors import MessageError, UnsupportedOptionError

if TYPE_CHECKING:
    from quire.chat import ChatModel


def read_message_text(stream: TextIO) -> str:
    """Read all of the input as one message.

    Raises:
        MessageError: it is empty, or no UTF-8 text.
    """
    try:
        text = stream.read()
        text.encode()  # bytes that are no text may have come as lone surrogates
    except UnicodeError as error:
        raise MessageError(f"The input is no UTF-8 text: {error}.") from None
    if not text.strip():
        raise MessageError(
            "The input is empty: pipe in a message, or run quire chat in a terminal."
        )
    return text.removesuffix("\n").removesuffix("\r")


def run_filter(model: ChatModel, text: str, output: TextIO, options: Mapping[str, Any]) -> None:
    """Answer `text`, writing the answer as it streams, and nothing else."""
    if options.get("n", options.get("num_return_sequences", 1)) != 1:
        raise UnsupportedOptionError(
            "A filter writes one answer: leave out n and num_return_sequences."
        )
    safe = Harmless() if is_terminal(output) else None
    last = ""
    with closing(model.stream([{"role": "user", "content": text}], **options)) as deltas:
        for delta in deltas:
            piece = safe.add(delta.content) if safe else delta.content
            if piece:
                output.write(piece)
                output.flush()
                last = piece
    rest = (safe.flush() if safe else "") + ("" if last.endswith("\n") else "\n")
    output.write(rest)
    output.flush()
