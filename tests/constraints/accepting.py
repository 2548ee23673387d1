"""Whether a grammar takes a text, token by token, as the demo model's tokenizer cuts it."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np

from quire.constraints.answer_form import AnswerForm
from quire.constraints.answer_grammar import constraint_grammar
from quire.constraints.lark import unforced
from quire.constraints.vocabulary import Vocabulary
from quire.demo import demo_model_path
from quire.response_format import Constraint
from quire.tokenizer import Tokenizer

Verdict = Literal["whole", "part", "never"]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary(tokenizer(), tokenizer().vocab_size)


def token(text: str) -> int:
    found = tokenizer().token_to_id(text)
    assert found is not None
    return found


def added_tokens() -> dict[str, int]:
    added = tokenizer().backend.get_added_tokens_decoder()
    return {one.content: number for number, one in added.items()}


def verdict(constraint: Constraint | AnswerForm, text: str, *, plain: bool = False) -> Verdict:
    """Whether a text is an answer, the beginning of one, or neither.

    `plain`: the text holds no added tokens, whatever it reads like.
    """
    from llguidance import LLMatcher

    if isinstance(constraint, AnswerForm):
        constraint = Constraint("answer", constraint)
    lark = unforced(constraint_grammar(constraint))
    grammar = LLMatcher.grammar_from_lark(lark)
    matcher = LLMatcher(vocabulary().tokens, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    control = frozenset(added_tokens())
    ids = tokenizer().encode_literal(text, control) if plain else tokenizer().encode(text)
    for number in ids:
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        assert not matcher.is_error(), matcher.get_error()
        if not bits[number]:
            return "never"
        matcher.consume_token(number)
    return "whole" if matcher.is_accepting() else "part"
