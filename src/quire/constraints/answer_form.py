"""What an answer consists of, where that is constrained: a thought, then calls or text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from quire.response_format import Constraint
from quire.tools.call_form import CallForm


@dataclass(frozen=True, slots=True)
class ThoughtForm:
    """A free thought at the beginning."""

    opener: str
    """What opens it; empty where the prompt has opened it."""
    closer: str
    is_optional: bool
    """Whether the answer may begin without it."""
    budget: int | None = None
    """The most tokens between the two."""


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that may be called."""

    name: str
    parameters: Mapping[str, Any] | bool
    """The schema of its arguments."""


@dataclass(frozen=True, slots=True)
class CallsForm:
    """Calls as a model writes them."""

    form: CallForm
    tools: tuple[OfferedTool, ...]
    most: int | None = None
    """Most calls; None for any number."""
    others: tuple[CallForm, ...] = ()
    """Further forms in which the model may write all of the calls."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The parts of an answer: first a thought, then calls, or text. Text alone is free."""

    thought: ThoughtForm | None
    calls: CallsForm | None
    text: Constraint | None
    """The constraint of the text; None for none, where there are no calls, or for no text."""
    tokens: Mapping[str, int]
    """The ids of the added tokens that stand in the markers of thought and calls, by their texts."""
    vocab_size: int
    stops: tuple[int, ...]
    """The tokens that end an answer. None of them ends a thought."""
    before_text: tuple[str, ...] = ()
    after_text: tuple[str, ...] = ()
    """What the model may write around a text, such as `<|START_RESPONSE|>`: one of these each."""

    def settled(self, *, thinks: bool) -> Constraint | None:
        """The constraint of an answer that begins with its thought, or has none; None: it is free."""
        if self.thought is not None and thinks:
            thought = replace(self.thought, is_optional=False)
            return Constraint("answer", replace(self, thought=thought))
        if self.calls is None and not (self.text and (self.before_text or self.after_text)):
            return self.text
        return Constraint("answer", replace(self, thought=None))
