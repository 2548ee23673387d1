"""A constraint beside every other option of a request."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import regex as partial_regex
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from quire.constraints import compiler as compiler_module
from quire.constraints.compiler import ConstraintCompiler
from quire.prompt import Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from tests.constraints.running import (
    EOS,
    TOKENS,
    VOCAB,
    add,
    alone,
    make_engine,
    regex,
    run,
    settings,
    text,
    tokens,
)
from tests.engines.native.fake_runner import FakeRunner
from tests.engines.native.small_tokenizers import byte_level
from tests.properties import EVERY_CHECK

SEEDS = range(12)


def ids(of: str) -> list[int]:
    return byte_level().encode(of)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pattern", ["[0-9]{2,4}", "(the cat|the mat|said)+", "[a-c]*[é猫]"])
def test_eos_comes_only_where_the_whole_text_matches(pattern: str, seed: int) -> None:
    deltas = alone(regex(pattern, 60, seed=seed, logit_bias={EOS: 4.0}))
    assert deltas[-1].finish_reason == "stop"
    assert re.fullmatch(pattern, text(deltas))
    assert EOS not in tokens(deltas)[:-1]


def test_where_nothing_can_follow_the_completion_stops_with_its_last_token() -> None:
    deltas = alone(regex("[0-9]{3}"))
    assert (len(tokens(deltas)), deltas[-1].finish_reason) == (3, "stop")
    assert deltas[-1].stop_reason is None


@pytest.mark.parametrize("seed", SEEDS)
def test_max_tokens_leave_the_beginning_of_a_match(seed: int) -> None:
    pattern = r'\{"name":"[a-z猫]{20,30}"\}'
    deltas = alone(regex(pattern, 12, seed=seed))
    assert deltas[-1].finish_reason == "length"
    whole_characters = text(deltas).rstrip("\N{REPLACEMENT CHARACTER}")
    assert partial_regex.fullmatch(pattern, whole_characters, partial=True)


def test_the_last_token_may_be_the_last_of_max_tokens_too() -> None:
    assert alone(regex("[0-9]{3}", 3))[-1].finish_reason == "stop"


def test_ids_beyond_the_tokenizer_never_come() -> None:
    bias = dict.fromkeys(range(TOKENS, VOCAB), 100.0)
    for seed in SEEDS:
        deltas = alone(regex(".{5,9}", seed=seed, logit_bias=bias))
        assert max(tokens(deltas)) < TOKENS
        assert re.fullmatch(".{5,9}", text(deltas))


def test_min_tokens_hold_back_eos_but_add_nothing_to_a_grammar_that_has_ended() -> None:
    for seed in SEEDS:
        deltas = alone(regex("[0-9]{1,9}", seed=seed, min_tokens=5, logit_bias={EOS: 100.0}))
        assert len(tokens(deltas)) == 6
        assert re.fullmatch("[0-9]{5}", text(deltas))
    deltas = alone(regex("[0-9]{2}", min_tokens=5))
    assert (len(text(deltas)), deltas[-1].finish_reason) == (2, "stop")


def test_logit_bias_moves_only_what_is_allowed() -> None:
    (seven,), (letter,) = ids("7"), ids("x")
    deltas = alone(regex("[0-9]{8}", logit_bias={seven: 100.0, letter: 100.0}))
    assert text(deltas) == "77777777"


def test_bad_words_are_kept_out_of_what_is_allowed() -> None:
    for seed in SEEDS:
        assert text(alone(regex("[ab]{8}", seed=seed, bad_words=("a",)))) == "bbbbbbbb"


def test_bans_that_leave_nothing_end_their_own_request_alone() -> None:
    engine = make_engine()
    add(engine, "nothing", settings(Constraint("choice", ("a",)), bad_words=("a",)))
    add(engine, "other", regex("[0-9]{8}"))
    results = run(engine)
    assert results["nothing", 0][-1].finish_reason == "error"
    assert "bad_words" in (results["nothing", 0][-1].error or "")
    assert results["nothing", 0][-1].refused
    assert text(results["other", 0]) == text(alone(regex("[0-9]{8}")))


def test_a_grammar_that_grows_beyond_its_limits_is_the_requests_own_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = LLParserLimits(verbose_errors=False, max_lexer_states=500)
    monkeypatch.setattr(compiler_module, "_limits", lambda: small)
    params = regex("([a-z ]*[aeiou][a-z ]{60}){2}", 400)
    engine = make_engine()
    own = ConstraintCompiler(byte_level(), VOCAB)
    engine.add("large", Prompt((1,)), params, matchers=own.compile(params))
    own.close()
    last = run(engine)["large", 0][-1]
    assert last.finish_reason == "error"
    assert "too many states" in (last.error or "")
    assert last.refused


def test_penalties_work_among_what_is_allowed() -> None:
    plain = text(alone(regex("[ab]{30}", temperature=0.0)))
    spread = text(alone(regex("[ab]{30}", temperature=0.0, frequency_penalty=2.0)))
    assert re.fullmatch("[ab]{30}", spread)
    assert spread != plain
    (a,) = ids("a")
    leaning = regex("[ab]{30}", temperature=0.0, frequency_penalty=2.0, logit_bias={a: 30.0})
    assert text(alone(leaning)).count("a") in range(16, 26)  # 30 / 2 more than of the other


def test_a_stop_string_cuts() -> None:
    whole = text(alone(regex("[0-9]{12}")))
    deltas = alone(regex("[0-9]{12}", stop=(whole[4:6],)))
    assert text(deltas) == whole[: whole.index(whole[4:6])]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", whole[4:6])


def test_a_stop_token_ends_where_the_grammar_takes_it_or_accepts() -> None:
    (seven,), (letter,) = ids("7"), ids("x")
    deltas = alone(regex("[0-9]{12}", stop_token_ids=(seven,), logit_bias={seven: 100.0}))
    assert (tokens(deltas), deltas[-1].stop_reason) == ([seven], seven)
    deltas = alone(regex("[0-9]{3,}", stop_token_ids=(letter,), logit_bias={letter: 100.0}))
    assert re.fullmatch("[0-9]{3}", text(deltas))
    assert deltas[-1].stop_reason == letter


def test_ignored_eos_never_comes() -> None:
    deltas = alone(regex("[0-9]+", 20, ignore_eos=True, logit_bias={EOS: 100.0}))
    assert deltas[-1].finish_reason == "length"
    assert EOS not in tokens(deltas)
    deltas = alone(regex("[0-9]{3}", 20, ignore_eos=True, logit_bias={EOS: 100.0}))
    assert (len(text(deltas)), deltas[-1].finish_reason) == (3, "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_among_what_is_allowed(temperature: float) -> None:
    for delta in alone(regex("[ab]{5}", temperature=temperature, logprobs=8)):
        (one,) = list(delta.logprobs or ())
        assert set(one.top) == {*ids("a"), *ids("b")}
        assert math.isclose(sum(math.exp(value) for value in one.top.values()), 1.0, rel_tol=1e-5)
        assert one.token_id in one.top


def test_completions_of_one_request_go_their_own_ways() -> None:
    engine = make_engine()
    add(engine, "it", regex("[0-9]{2,9}", n=8))
    texts = [text(deltas) for deltas in run(engine).values()]
    assert len(set(texts)) > 4
    assert all(re.fullmatch("[0-9]{2,9}", one) for one in texts)


requests = st.tuples(
    st.sampled_from(
        [
            None,
            Constraint("regex", "[0-9]{2,12}"),
            Constraint("choice", ("the cat", "the mat", "the cat sat")),
            Constraint("json", {"type": "array", "items": {"type": "integer"}, "maxItems": 6}),
            Constraint("json_object"),
            Constraint("grammar", 'root ::= "(" root ")" | "x"'),
        ]
    ),
    st.fixed_dictionaries(
        {"seed": st.integers(0, 5), "n": st.sampled_from([1, 1, 3])},
        optional={
            "temperature": st.sampled_from([0.0, 0.7]),
            "top_k": st.just(5),
            "min_tokens": st.integers(0, 6),
            "repetition_penalty": st.just(1.2),
            "logprobs": st.integers(0, 3),
        },
    ),
)


@hypothesis_settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=EVERY_CHECK)  # fmt: skip
@given(st.lists(requests, min_size=2, max_size=6), st.integers(6, 14), st.integers(1, 4))
def test_each_is_what_it_would_be_alone_however_often_preempted(
    wanted: list[tuple[Any, dict[str, Any]]], num_blocks: int, max_sequences: int
) -> None:
    params = [settings(constraint, 20, **options) for constraint, options in wanted]
    runner = FakeRunner(vocab_size=VOCAB, num_blocks=num_blocks)
    engine = make_engine(runner, max_sequences=max_sequences, max_batch_tokens=max_sequences + 2)
    for number, one in enumerate(params):
        add(engine, str(number), one)
    together = run(engine)
    for number, one in enumerate(params):
        apart = make_engine()
        add(apart, str(number), one)
        for name, deltas in run(apart).items():
            assert together[name] == deltas


def test_preemptions_do_happen_there() -> None:
    engine = make_engine(FakeRunner(vocab_size=VOCAB, num_blocks=8), max_sequences=4)
    params: list[SamplingParams] = [regex("[0-9]{18}", 20, seed=seed) for seed in range(4)]
    for number, one in enumerate(params):
        add(engine, str(number), one)
    results = run(engine)
    assert engine.statistics.preemptions
    assert [text(results[str(n), 0]) for n in range(4)] == [text(alone(one)) for one in params]
