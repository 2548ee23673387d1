"""The small values that the corpus is made of: an exchange, and a whole dialogue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Mode = Literal["bare", "off"]
"""How the prompt ends: at `assistant`, where the model may think, or with an empty thought."""

EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


class Turn(NamedTuple):
    """One message."""

    role: Literal["user", "assistant", "tool"]
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer, with a tool's call and result between them at times.

    `thought` is what the model thinks before the last answer, where it may; `terse` is the short
    form of the last answer, for a terse system prompt.
    """

    kind: str
    turns: tuple[Turn, ...]
    thought: str = ""
    terse: str = ""

    @classmethod
    def plain(
        cls, kind: str, question: str, answer: str, *, thought: str = "", terse: str = ""
    ) -> Exchange:
        return cls(kind, (Turn("user", question), Turn("assistant", answer)), thought, terse)

    def with_answer(self, answer: str) -> Exchange:
        """Return the same exchange with another last answer."""
        turns = (*self.turns[:-1], Turn("assistant", answer))
        return Exchange(self.kind, turns, self.thought, self.terse)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A whole training example."""

    exchanges: tuple[Exchange, ...]
    system: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    mode: Mode = "off"


class Segment(NamedTuple):
    """A run of text that is encoded by itself, and whether the model learns to write it."""

    text: str
    learn: bool


def segments(dialogue: Dialogue) -> list[Segment]:
    """Render a dialogue as the model's chat template does, with the answers to learn marked.

    Sums in the history are not learned: they stand there without a thought, and at this place the
    model is to think.
    """
    found: list[Segment] = []
    head = system_text(dialogue.system, dialogue.tools)
    last = dialogue.exchanges[-1]
    for exchange in dialogue.exchanges:
        for place, turn in enumerate(exchange.turns):
            if turn.role != "assistant":
                text = (
                    turn.text
                    if turn.role == "user"
                    else f"<tool_response>\n{turn.text}\n</tool_response>"
                )
                found.append(
                    Segment(
                        head + f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", False
                    )
                )
                head = ""
                continue
            answer = f"{turn.text}<|im_end|>\n"
            final = exchange is last and place == len(exchange.turns) - 1
            if final and dialogue.mode == "off":
                found.append(Segment(EMPTY_THOUGHT, False))
            elif final and exchange.thought:
                answer = f"<think>\n{exchange.thought}\n</think>\n\n{answer}"
            found.append(Segment(answer, final or not exchange.thought))
    return found


def prompt_text(dialogue: Dialogue) -> str:
    """Return the text up to the last answer."""
    return "".join(part.text for part in segments(dialogue)[:-1])


def system_text(system: str | None, tools: Sequence[dict[str, Any]]) -> str:
    """Return the system turn, with the tools listed in the Hermes style; empty without either."""
    if tools:
        lines = "\n".join(json.dumps(wrapped(tool), ensure_ascii=False) for tool in tools)
        system = TOOLS_LISTING.format(system=system or "", tools=lines)
    return f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""


def wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the tool in OpenAI's form."""
    return tool if "function" in tool else {"type": "function", "function": tool}


# The listing that Qwen's models are trained with, a fact of the format.
TOOLS_LISTING = (
    "{system}\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n"
    "</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)
