"""A process that scores answers: chunks of rows come in, scores go out, one line of JSON each."""

from __future__ import annotations

import json
import signal
import sys
from typing import BinaryIO

from quire.batch.metrics import score_rows
from quire.errors import ConfigError


def answer(requests: BinaryIO, replies: BinaryIO) -> None:
    """Score each chunk of rows until there are no more: the other end closed, or died."""
    for line in requests:
        try:
            reply = {"scores": score_rows(json.loads(line))}
        except ConfigError as error:
            reply = {"error": str(error)}
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    # Ctrl-C goes to all processes of a terminal; this one ends when the one that started it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer(sys.stdin.buffer, sys.stdout.buffer)
