"""The process that a configuration is measured in: loads it, and answers commands until input ends.

`python -m quire.bench.worker`: the first line of its input is the arguments, each further one a
command; lines of JSON both ways. What else is printed goes to the standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TextIO

from quire.bench.load import run_load
from quire.bench.memory import peak_rss
from quire.bench.quality import run_quality
from quire.bench.text import Passage, Questions, own_page
from quire.chat import ChatModel
from quire.errors import QuireError

_USUAL_CHARACTERS = 4.0
"""Characters of English text in a token, where no tokenizer is at hand."""


class Worker:
    """One loaded model, and what can be measured of it."""

    def __init__(self, model: ChatModel, options: Mapping[str, Any]) -> None:
        """`options` are those of every request."""
        self.model, self.options = model, options
        text = own_page()
        part = text[:4000]
        engine = model.engine
        tokens = len(engine.tokenizer.encode_literal(part)) if engine.has_tokens else 0
        self._questions = Questions(text, len(part) / tokens if tokens else _USUAL_CHARACTERS)

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command.

        Raises:
            QuireError: the engine refused it, or failed.
        """
        kind = command["kind"]
        if kind == "load":
            return self.load(command["streams"], command["prompt_tokens"], command["new_tokens"])
        if kind == "quality":
            passages = [Passage(**passage) for passage in command["passages"]]
            return {"logprobs": run_quality(self.model, passages)}
        assert kind == "memory", kind
        return self.memory()

    def load(self, streams: int, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        """One turn of one load, as `LoadTimes`."""
        questions = [self._questions.make(prompt_tokens) for _ in range(streams)]
        options = {**self.options, "max_new_tokens": new_tokens}
        return asdict(run_load(self.model, questions, options))

    def memory(self) -> dict[str, Any]:
        """As `Memory`."""
        own = self.model.engine.info.memory
        return {
            "peak_rss": peak_rss(),
            "weights": own.weights if own else None,
            "kv_cache": own.kv_cache if own else None,
        }


def main() -> int:
    """Load, answer, end. Errors of quire's own become replies, which the other side raises."""
    replies = _take_output()
    logging.getLogger("quire").setLevel(logging.WARNING)
    first = sys.stdin.readline()
    if not first:
        return 0
    start = json.loads(first)
    try:
        with ChatModel(start["arguments"]) as model:
            worker = Worker(model, start["options"])
            _reply(replies, {"engine": model.engine.name})
            for line in sys.stdin:
                _reply(replies, _answered(worker, json.loads(line)))
    except QuireError as error:
        _reply(replies, _failed(error))
        return 1
    return 0


def _answered(worker: Worker, command: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return worker.answer(command)
    except QuireError as error:
        return _failed(error)


def _failed(error: QuireError) -> dict[str, Any]:
    return {"error": type(error).__name__, "text": str(error)}


def _take_output() -> TextIO:
    """The standard output, for replies alone."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _reply(replies: TextIO, content: Mapping[str, Any]) -> None:
    replies.write(json.dumps(content) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
