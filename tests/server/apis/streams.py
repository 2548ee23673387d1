"""Answers cut into deltas at random, as an engine may cut them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from quire.messages import ToolCall
from quire.outputs import ChatDelta, FinishReason, Usage
from tests.chat.deltas import gained


@dataclass(frozen=True)
class Answer:
    """A thought, a text and calls, as a model writes them one after another."""

    thought: str = ""
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    stop_reason: str | None = None

    @property
    def usage(self) -> Usage:
        return Usage(20, 10, 16, len(self.thought.split()))

    def whole(self) -> list[ChatDelta]:
        """All in one delta."""
        return [
            gained(
                content=self.text,
                reasoning=self.thought,
                tool_calls=self.calls,
                finish_reason=self.finish_reason,
                stop_reason=self.stop_reason,
                usage=self.usage,
            )
        ]

    def cut(self, rng: random.Random) -> list[ChatDelta]:
        """In pieces, with empty deltas among them."""
        deltas = [gained(reasoning=piece) for piece in _pieces(self.thought, rng)]
        deltas += [gained(content=piece) for piece in _pieces(self.text, rng)]
        deltas += [gained(tool_calls=(call,)) for call in self.calls]
        for _ in range(rng.randint(0, 3)):
            deltas.insert(rng.randint(0, len(deltas)), gained())
        last = deltas.pop() if deltas and rng.random() < 0.5 else gained()
        last.finish_reason, last.stop_reason = self.finish_reason, self.stop_reason
        last.usage = self.usage
        return [*deltas, last]


def _pieces(text: str, rng: random.Random) -> list[str]:
    pieces: list[str] = []
    while text:
        length = rng.randint(1, 6)
        pieces.append(text[:length])
        text = text[length:]
    return pieces


CALL = ToolCall("get_weather", '{"city": "Paris"}')
OTHER = ToolCall("get_weather", '{"city": "Rome"}', id="call_other")
ANSWERS = [
    Answer(text="It is 5."),
    Answer(thought="2 + 3", text="It is 5."),
    Answer(thought="long thought", finish_reason="length"),
    Answer(text="cut off he", finish_reason="length"),
    Answer(calls=(CALL,), finish_reason="tool_calls"),
    Answer(text="I look.", calls=(CALL, OTHER), finish_reason="tool_calls"),
    Answer(thought="hm", text="\n\n", calls=(CALL,), finish_reason="tool_calls"),
    Answer(thought="hm", calls=(OTHER,), finish_reason="tool_calls"),
    Answer(text="one two", stop_reason=" three"),
    Answer(text="\n \n"),
    Answer(text=' "quoted" \\ \u2028 ü 🙂'),
    Answer(),
]
