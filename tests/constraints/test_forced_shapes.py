"""Calls as chat templates render them are what the grammar of forced calls takes, up to the turn's end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from quire.chat.answer_forms import AnswerForms
from quire.constraints.answer_form import ThoughtForm
from quire.constraints.answer_grammar import constraint_grammar
from quire.constraints.lark import unforced
from quire.constraints.vocabulary import Vocabulary
from quire.response_format import Constraint
from quire.template.registry import get_template
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from quire.tools.forced import JSON_LIST
from tests.template.call_shapes import SHAPES, SPEAKING, reference_of
from tests.template.real.conversations import ANSWERS, TOOLS, Answer
from tests.template.real.reference import Written
from tests.template.real.templates import BOS, EOS, make_backend

CASES = ("call", "two calls", "no arguments", "nested", "strings", "unicode", "values")
JSON_ANSWER = Constraint("json", {"type": "object", "properties": {"q": {"type": "string"}}})


@dataclass(frozen=True)
class Model:
    """A template, and what is forced of it."""

    tokenizer: Tokenizer
    template: Template
    forms: AnswerForms
    vocabulary: Vocabulary


@cache
def model_of(source: str) -> Model:
    tokenizer = Tokenizer(
        make_backend(source),
        special_tokens={"bos_token": BOS, "eos_token": EOS},
        chat_template=source,
    )
    template = get_template(None, tokenizer)
    eos = tokenizer.eos_token_id
    assert eos is not None
    stops = (eos, *template.stop_token_ids(tokenizer))
    forms = AnswerForms(template, tokenizer, stops=stops, context_length=4096)
    return Model(tokenizer, template, forms, Vocabulary(tokenizer, tokenizer.vocab_size))


def offered(answer: Answer) -> list[dict[str, Any]]:
    """The tools, whose properties stand in the order in which the answer has them."""
    tools: list[dict[str, Any]] = []
    for tool in TOOLS:
        function = dict(tool["function"])
        schema = dict(function["parameters"])
        order = [
            key for call in answer.calls if call.name == function["name"] for key in call.arguments
        ]
        known = schema["properties"]
        schema["properties"] = {key: known[key] for key in dict.fromkeys([*order, *known])}
        tools.append({"type": "function", "function": {**function, "parameters": schema}})
    return tools


def rest_after(model: Model, constraint: Constraint, text: str) -> tuple[str, bool]:
    """What of a text a grammar does not take, and whether it accepts what is before that."""
    from llguidance import LLMatcher

    lark = unforced(constraint_grammar(constraint))
    grammar = LLMatcher.grammar_from_lark(lark)
    matcher = LLMatcher(model.vocabulary.tokens, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = model.tokenizer.encode(text)
    for at, number in enumerate(ids):
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        if matcher.is_stopped() or not bits[number]:
            return model.tokenizer.decode(
                ids[at:], skip_special_tokens=False
            ), matcher.is_accepting()
        matcher.consume_token(number)
    return "", matcher.is_accepting()


def forced(model: Model, answer: Answer, written: Written, **options: Any) -> Constraint:
    given = {"tool_choice": "required", **options}
    opener = model.template.thought_words[0].strip()
    inside = bool(opener) and written.prompt.rstrip().endswith(opener) and not written.unwritten
    form = model.forms.form(given, offered(answer), starts_in_thought=inside, may_think=True)
    assert form is not None
    thought: ThoughtForm | None = form.value.thought
    if thought is None or not thought.is_optional:
        return form
    thinks = written.text.lstrip().startswith((thought.opener, thought.closer))
    settled = form.value.settled(thinks=thinks)
    assert settled is not None
    return settled


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", SPEAKING)
def test_a_rendered_call_is_taken(shape: str, case: str) -> None:
    answer = ANSWERS[case]
    written = reference_of(shape).answer(answer)
    model = model_of(SHAPES[shape])
    if written is None or model.forms.call_form is JSON_LIST:
        return
    constraint = forced(model, answer, written)
    rest, accepts = rest_after(model, constraint, written.text)
    assert accepts, f"{rest!r} of {written.text!r}"
    assert not any(call.name in rest for call in answer.calls)
    given = {"tool_choice": "auto", "response_format": JSON_ANSWER}
    both = forced(model, answer, written, **given)
    assert rest_after(model, both, written.text) == (rest, True)
    thought: ThoughtForm | None = constraint.value.thought
    before = "" if thought is None or thought.is_optional else thought.closer
    assert rest_after(model, both, before + '{"q": "x"}') == ("", True)
