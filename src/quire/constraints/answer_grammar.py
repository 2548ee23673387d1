"""The grammar of a whole answer: a free thought, then calls, or text under a constraint."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

from quire.constraints.answer_form import AnswerForm, ThoughtForm
from quire.constraints.call_grammar import arguments_schema, write_calls
from quire.constraints.lark import (
    HEAD,
    UNFORCED,
    Rules,
    alternatives,
    json_block,
    renamed,
    unforced,
    white_space,
)
from quire.constraints.schema import enforceable
from quire.constraints.schema_refs import SchemaError
from quire.response_format import Constraint


def answer_grammar(answer: AnswerForm, free: Collection[str] = ()) -> str:
    """The grammar in Lark's form.

    Args:
        free: the names of the tools whose arguments are any.

    Raises:
        SchemaError: a schema cannot be enforced.
        ValueError: the constraint's own grammar cannot be read.
    """
    own = "" if answer.text is None else constraint_grammar(answer.text)
    is_unforced = own.startswith(UNFORCED)
    own = own.removeprefix(UNFORCED).removeprefix(HEAD)
    rules = Rules(answer.tokens, beside=own)
    ways: list[str] = []
    heads, ends = _heads_and_ends(answer)
    if answer.calls is not None:
        empty = [one + other for one in answer.before_text for other in answer.after_text]
        calls = write_calls(rules, answer.calls, free, heads if answer.thought is not None else ())
        ways.append(" ".join((*_marks(rules, empty), calls, *_marks(rules, ends))))
    if own:
        whole = rules.reserve()
        own = renamed(own, "start", whole)
        before, after = _marks(rules, answer.before_text), _marks(rules, answer.after_text)
        ways.append(" ".join((*before, whole, *after)))
    if not ways:
        ways.append(_free_text(rules, answer))
    start = "(" + " | ".join(ways) + ")"
    if answer.thought is not None:
        start = f"{_thought(rules, answer.thought, answer)} {start}"
    text = rules.text(start) + own
    return unforced(text) if is_unforced else text


def constraint_grammar(constraint: Constraint) -> str:
    """One constraint as a grammar in Lark's form.

    Raises:
        SchemaError: a schema cannot be enforced.
        ValueError: an expression or a grammar cannot be read.
    """
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    kind, value = constraint.kind, constraint.value
    if kind == "answer":
        return answer_grammar(value, _not_enforceable(value))
    if kind == "json_object":
        return HEAD + f"start: {json_block({'type': 'object'})}\n"
    if kind == "json":
        return HEAD + f"start: {json_block(enforceable(value))}\n"
    if kind == "choice":
        # One terminal for all texts: llguidance limits the alternatives of a rule to 2,000.
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in value)
        return HEAD + f"start: TEXT\nTEXT: {texts}\n"
    if kind == "regex":
        made = json.loads(LLMatcher.grammar_from_regex(value))
        # These two may write a token's text in many ways.
        return UNFORCED + made["grammars"][0]["lark_grammar"] + "\n"
    return UNFORCED + any_to_lark(value)


def _marks(rules: Rules, marks: Sequence[str]) -> list[str]:
    """One of several marks, or none."""
    written = [rules.literal(mark) for mark in marks]
    return [f"({' | '.join(written)})?"] if written else []


def _heads_and_ends(answer: AnswerForm) -> tuple[list[str], list[str]]:
    """Of the marks after a text, those that begin another message of the turn, and the others."""
    heads = [
        mark
        for mark in answer.after_text
        if any(one.startswith(mark) and one != mark for one in answer.before_text)
    ]
    return heads, [mark for mark in answer.after_text if mark not in heads]


def _not_enforceable(answer: AnswerForm) -> list[str]:
    """The tools whose schemas cannot be enforced, as far as can be seen without llguidance."""
    free: list[str] = []
    for tool in answer.calls.tools if answer.calls is not None else ():
        try:
            arguments_schema(tool)
        except SchemaError:
            free.append(tool.name)
    return free


def _thought(rules: Rules, thought: ThoughtForm, answer: AnswerForm) -> str:
    """The symbols of a thought.

    It may have any token but the one that its closer begins with and those that end an answer, so that
    it is not only text. A closer without a token ends the first text that contains it.
    """
    token, rest = rules.first_token(thought.closer)
    if token is None:
        # A budget counts tokens up to the closing one; who makes an AnswerForm sees to that.
        inner = rules.text_until(thought.closer)
    else:
        limit = "*" if thought.budget is None else f"{{0,{thought.budget}}}"
        kept = _all_but((token, *answer.stops), answer.vocab_size)
        inner = f"{kept}{limit} <[{token}]>" if thought.budget != 0 else f"<[{token}]>"
        inner = f"{inner} {rules.literal(rest)}".rstrip()
    line = white_space()
    if thought.opener:
        # Some models close a thought that they have not opened, where they have none.
        closer = rules.literal(thought.closer)
        inner = f"{line} ({rules.literal(thought.opener)} {inner} | {closer})"
    symbol = rules.add(f"{inner} {line}")
    return f"{symbol}?" if thought.is_optional else symbol


def _free_text(rules: Rules, answer: AnswerForm) -> str:
    """Any tokens, but none that opens a thought: one past its budget must not begin again.

    Where a thought is not opened by one token, an answer begins with a mark of its own.
    """
    opener = rules.token(answer.thought.opener) if answer.thought is not None else None
    if opener is None and answer.before_text:
        marks = alternatives(map(rules.beginning, answer.before_text))
        return rules.add(f"{marks} {_all_but((), answer.vocab_size)}*")
    excluded = () if opener is None else (opener,)
    return rules.add(f"{_all_but(excluded, answer.vocab_size)}*")


def _all_but(excluded: Iterable[int], vocab_size: int) -> str:
    """All tokens of a vocabulary but some."""
    ranges: list[str] = []
    start = 0
    for token in sorted({one for one in excluded if 0 <= one < vocab_size}):
        if token > start:
            ranges.append(f"{start}-{token - 1}")
        start = token + 1
    if start < vocab_size:
        ranges.append(f"{start}-{vocab_size - 1}")
    return f"<[{','.join(ranges)}]>"
