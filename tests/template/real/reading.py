"""What quire makes of a template: its renderings, and the answers that the template wrote, read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer as Backend

from quire.arguments import get_infer_args
from quire.chat.preparation import ChatFormat, Preparation, PreparedRequest
from quire.constraints.answer_grammar import constraint_grammar
from quire.constraints.vocabulary import Vocabulary
from quire.engines.seam import EngineInfo
from quire.outputs import AnswerPart, Delta, FinishReason, TextPart, ThoughtPart, calls_of, text_of
from quire.request import ChatRequest
from quire.response_format import Constraint
from quire.template.registry import get_template
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from tests.template.real.conversations import TOOLS, Answer, Message
from tests.template.real.records import Written
from tests.template.real.templates import BOS, EOS, make_backend


@dataclass(frozen=True)
class Read:
    """An answer as quire reads it."""

    text: str
    thought: str
    calls: tuple[tuple[str, Any], ...]
    """The name and the arguments of each call; text where the arguments are no JSON."""
    finish_reason: str = "stop"


class Reader:
    """A template in quire: the preparation of a model that has it, and a stand-in for an engine."""

    def __init__(
        self,
        template: str,
        backend: Backend | None = None,
        make: Callable[[Tokenizer], Template] | None = None,
    ) -> None:
        """Load the template as from a model's folder.

        Args:
            backend: the model's tokenizer; None makes one that has the template's markers.
            make: makes the template of a tokenizer; None is quire's own way.

        Raises:
            ConfigError: the template cannot be compiled.
        """
        self.tokenizer = Tokenizer(
            backend or make_backend(template),
            special_tokens={"bos_token": BOS, "eos_token": EOS},
            chat_template=template,
        )
        self.template = make(self.tokenizer) if make else get_template(None, self.tokenizer)
        eos = self.tokenizer.eos_token_id
        chat_format = ChatFormat(self.tokenizer, self.template, {}, () if eos is None else (eos,))
        self._vocabulary: Vocabulary | None = None
        self.preparation = Preparation(
            chat_format,
            get_infer_args({"model_name_or_path": "none"}),
            EngineInfo("stand-in", 1 << 20),
        )

    def prompt(self, messages: list[Message], *, tools: bool) -> str:
        """The prompt's text.

        Raises:
            RequestError: the conversation is refused.
        """
        prepared = self._prepare(messages, tools=tools)
        return self.tokenizer.decode(prepared.prompt.token_ids, skip_special_tokens=False)

    def _prepare(
        self, messages: list[Message], *, tools: bool, thinking: bool | None = None, **given: Any
    ) -> PreparedRequest:
        options = given if thinking is None else {**given, "enable_thinking": thinking}
        request = ChatRequest(messages, tools=TOOLS if tools else None, options=options)
        return self.preparation.prepare_text(request)

    def read(self, question: tuple[list[Message], bool], written: Written) -> dict[str, Read]:
        """An answer to a question (with tools or not), read whole and in pieces of one character.

        Raises:
            RequestError: the conversation is refused.
        """
        messages, tools = question
        prepared = self._prepare(messages, tools=tools, thinking=written.thinking)
        text = self._completed(prepared, written)
        return {
            "whole": self._sum(prepared, [text]),
            "in characters": self._sum(prepared, list(text)),
        }

    def read_forced(self, question: tuple[list[Message], bool], written: Written) -> Read | None:
        """An answer to a question for which a call is forced; None where its grammar is another.

        White space around the answer may be left out, and what ends its last message.

        Raises:
            RequestError: the conversation is refused.
        """
        messages, tools = question
        prepared = self._prepare(
            messages, tools=tools, thinking=written.thinking, tool_choice="required"
        )
        constraint = prepared.params.response_format
        bare = written.text.strip()
        ends = self.template.message_ends
        ways = dict.fromkeys([written.text, bare, *map(bare.removesuffix, ends)])
        for one in (replace(written, text=text) for text in ways):
            if constraint is not None and self._takes(constraint, self.answer_ids(one)):
                return self._sum(prepared, [self._completed(prepared, one)])
        return None

    def _takes(self, constraint: Constraint, ids: list[int]) -> bool:
        """Whether a grammar takes these tokens, and may end after them."""
        from llguidance import LLMatcher

        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self.tokenizer, self.tokenizer.vocab_size)
        grammar = LLMatcher.grammar_from_lark(constraint_grammar(constraint))
        matcher = LLMatcher(self._vocabulary.tokens, grammar, log_level=0)
        taken = matcher.try_consume_tokens(ids)
        return taken == len(ids) and matcher.is_accepting()

    def answer_ids(self, written: Written) -> list[int]:
        """The tokens that an engine gives of a model that writes this and then EOS."""
        eos = self.tokenizer.eos_token_id
        ids = [*self.tokenizer.encode(written.text), *([] if eos is None else [eos])]
        stops = {eos, *self.template.stop_token_ids(self.tokenizer)}
        length = next((index for index, one in enumerate(ids) if one in stops), len(ids))
        return ids[:length]

    def _completed(self, prepared: PreparedRequest, written: Written) -> str:
        """The text that an engine gives of these tokens."""
        params = prepared.params
        text = self.tokenizer.decode(self.answer_ids(written), params.skip_special_tokens)
        ends = [text.find(stop) for stop in params.stop if stop in text]
        return text[: min(ends)] if ends else text

    def _sum(self, prepared: PreparedRequest, pieces: list[str]) -> Read:
        reader = self.preparation.reader(prepared)
        parts: list[AnswerPart] = []
        reason: FinishReason = "stop"
        for delta in _deltas(pieces):
            read = reader.read(delta)
            parts += read.all_parts()
            reason = read.finish_reason or reason
        calls = tuple((call.name, as_value(call.arguments)) for call in calls_of(parts))
        return Read(text_of(parts, TextPart), text_of(parts, ThoughtPart), calls, reason)


def _deltas(pieces: list[str]) -> Iterator[Delta]:
    for piece in pieces:
        yield Delta(text=piece, token_ids=(0,))
    yield Delta(finish_reason="stop")


def as_value(arguments: str) -> Any:
    """The value of arguments; text that is no JSON stays text, which no answer expects."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def problem(answer: Answer, written: Written, read: Read) -> str:
    """What is wrong with an answer that was read; empty where nothing is.

    What the template does not show of an answer is not expected. The text may be read as a thought's
    where the prompt has opened one that the template's own rendering does not have, and where the
    template writes both alike; it may be lost where the template writes it after the calls.
    """
    found: list[str] = []
    expected = [(call.name, _shown(call.arguments, written.text)) for call in answer.calls]
    if list(read.calls) != expected:
        found.append(f"calls {_short(read.calls)}")
    text = answer.text if answer.text in written.text else ""
    thought = answer.thought if answer.thought in written.text else ""
    texts = {text, ""} if answer.calls and _is_late(answer, written.text) else {text}
    in_thought = written.text_is_thought or bool(written.unwritten.strip() and not thought)
    if in_thought:
        both = (read.thought + read.text).strip()
        if both not in texts:
            found.append(f"text and thought {_short(both)}")
    else:
        if read.text.strip() not in texts:
            found.append(f"text {_short(read.text)}")
        if read.thought.strip() != thought:
            found.append(f"thought {_short(read.thought)}")
    if answer.calls and not found and read.finish_reason != "tool_calls":
        found.append(f"finish reason {read.finish_reason}")
    return "; ".join(found)


def _shown(arguments: dict[str, Any], text: str) -> dict[str, Any]:
    """The arguments without those that are null and that a template leaves out."""
    return {key: value for key, value in arguments.items() if value is not None or key in text}


def _is_late(answer: Answer, text: str) -> bool:
    """Whether the answer's text stands after its first call."""
    return bool(answer.text) and text.find(answer.text) > text.find(answer.calls[0].name) >= 0


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "…"
