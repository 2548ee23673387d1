"""The inside of a peer's process: it loads one model, and answers commands until its input ends.

Runs in each peer's own environment, so it imports nothing but the standard library. A command is a
line of JSON, and so is a reply; all else that a library prints goes to the standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO


class Refused(Exception):
    """This peer does not do what was asked of it; the text says why."""


@dataclass(frozen=True)
class Prompt:
    """One prompt in both forms; `ids` is what `text` becomes."""

    text: str
    ids: list[int]


class Side(Protocol):
    """One peer with a model loaded."""

    version: str

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """Give each prompt `new_tokens` greedy tokens, ignoring EOS; return how many came in all.

        `on_token`, where given, is called at each token (there is one prompt then).
        """
        ...


Make = Callable[[Path, Path, str], Side]
"""From the model's folder, the folder of what it was converted into, and a configuration's name."""


def serve(make: Make, convert: Callable[[Path, Path, str], None] | None = None) -> None:
    """The whole of a peer's process: `convert|serve|cold MODEL TARGET CONFIGURATION`."""
    replies = _take_output()
    mode, model, target, configuration = sys.argv[1:]
    places = (Path(model), Path(target), configuration)
    if mode == "convert":
        if convert is not None:
            convert(*places)
        return
    try:
        side = make(*places)
    except Refused as error:
        _reply(replies, refused=str(error))
        return
    _reply(replies, version=side.version)
    for line in sys.stdin:
        try:
            _reply(replies, **_measure(side, json.loads(line)))
        except Refused as error:
            _reply(replies, refused=str(error))
    # Libraries' threads may outlive a tidy end; nothing is left to be written.
    os._exit(0)


def _measure(side: Side, command: dict[str, Any]) -> dict[str, float]:
    """Run one command: seconds in all, and to the first token where that was asked for."""
    prompts = [Prompt(**prompt) for prompt in command["prompts"]]
    new_tokens, times = command["new_tokens"], list[float]()
    timed = command["timed"]
    began = time.perf_counter()
    count = side.generate(
        prompts, new_tokens, (lambda: times.append(time.perf_counter())) if timed else None
    )
    took = time.perf_counter() - began
    assert count == len(prompts) * new_tokens, f"{count} tokens came"
    if timed:
        assert times, "no token was told of"
        return {"seconds": took, "first": times[0] - began, "last": times[-1] - began}
    return {"seconds": took}


def _take_output() -> TextIO:
    """The standard output, for replies alone."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _reply(replies: TextIO, **content: object) -> None:
    replies.write(json.dumps(content) + "\n")
    replies.flush()


def cores() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
