"""Speculation: drafts are those of a plain search, pay, and change nothing but the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.demo import demo_model_path
from quire.engines.native.core.batch import Batch
from quire.engines.native.core.detokenizer import detokenizer_factory
from quire.engines.native.core.engine import Engine
from quire.engines.native.core.speculation import NGRAM_SIZES, Drafter, StepLoad, make_drafters
from quire.engines.native.cpu.loading import load_model
from quire.outputs import Delta, TokenLogprob
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from tests.engines.native.fake_runner import FakeRunner, NumberText
from tests.engines.native.plain import complete_plainly
from tests.engines.native.random_models import make_random_model

VOCAB = 24
Requests = dict[str, tuple[tuple[int, ...], SamplingParams]]
Answer = tuple[list[int], str, object, object, list[TokenLogprob], object, object]


# --- drafts --------------------------------------------------------------------------------------


def draft_plainly(tokens: list[int], most: int) -> list[int]:
    """Search backwards for the last three, two, one tokens, and copy what follows."""
    for size in NGRAM_SIZES:
        run = tokens[len(tokens) - size :]
        for end in range(len(tokens) - 1, size - 1, -1):
            if len(tokens) >= size and tokens[end - size : end] == run:
                copy = list(tokens)
                for position in range(end, end + most):
                    copy.append(copy[position])
                return copy[len(tokens) :]
    return []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    gains=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=12),
    most=st.integers(1, 9),
)
def test_a_draft_follows_the_latest_occurrence(
    prompt: list[int], gains: list[list[int]], most: int
) -> None:
    """However many tokens came between two drafts; siblings share the prompt and nothing else."""
    one, other = make_drafters(len(prompt), 2)
    tokens = list(prompt)
    for gain in [[], *gains]:
        tokens += gain
        array = np.array(tokens, dtype=np.int32)
        assert one.draft(array, most) == draft_plainly(tokens, most)
        alone = make_drafters(len(prompt), 1)[0]
        assert alone.draft(array, most) == draft_plainly(tokens, most)
    array = np.array([*prompt, 3, 3, 3], dtype=np.int32)
    assert other.draft(array, most) == draft_plainly(array.tolist(), most)


def acceptance_rate_after(tokens: list[int]) -> float:
    drafter: Drafter = make_drafters(1, 1)[0]
    for length in range(1, len(tokens) + 1):
        drafter.draft(np.array(tokens[:length], dtype=np.int32), 4)
    return drafter.acceptance_rate


def test_the_acceptance_rate_follows_the_tokens_though_no_draft_was_run() -> None:
    assert acceptance_rate_after([1, 2, 3, 4] * 20) > 0.95
    never_twice = [token for number in range(40) for token in (1, 2, 3, 4 + number)]
    assert acceptance_rate_after([*never_twice, 1, 2, 3]) < 0.05


@given(
    rows=st.integers(1, 300),
    share=st.floats(0.01, 1.0),
    acceptance_rate=st.floats(0.0, 1.0),
    most=st.integers(0, 12),
)
def test_a_draft_is_as_long_as_makes_most_tokens_a_second(
    rows: int, share: float, acceptance_rate: float, most: int
) -> None:
    load = StepLoad(rows, rows * share)
    taken = load.take(acceptance_rate, most)

    def rate(count: int) -> float:
        gained = sum(acceptance_rate ** (index + 1) for index in range(count))
        return (rows * share + gained) / (8 + rows + count)

    assert rate(taken) >= max(map(rate, range(most + 1))) - 1e-9
    assert load.rows == rows + taken


def test_a_full_batch_drafts_only_what_is_nearly_certain() -> None:
    assert StepLoad(1, 1).take(0.6, 8) > 2
    assert StepLoad(64, 64).take(0.6, 8) == 0
    assert StepLoad(64, 64).take(0.99, 8) > 2


# --- the same answers ----------------------------------------------------------------------------


def run(engine: Engine, requests: Requests) -> dict[str, list[Answer]]:
    """Return what each completion came to, by request and index."""
    for name, (prompt, params) in requests.items():
        engine.add(name, Prompt(prompt), params, arrival=0.0)
    deltas: dict[str, list[Delta]] = {name: [] for name in requests}
    while engine.has_work:
        for name, delta in engine.step():
            deltas[name].append(delta)
        engine.check_integrity()
    assert engine.statistics.free_blocks == engine.statistics.total_blocks
    return {
        name: [
            gather([delta for delta in deltas[name] if delta.index == index])
            for index in range(params.n)
        ]
        for name, (_, params) in requests.items()
    }


def gather(deltas: list[Delta]) -> Answer:
    last = deltas[-1]
    assert not any(delta.finish_reason for delta in deltas[:-1])
    assert last.usage is not None
    return (
        [token for delta in deltas for token in delta.token_ids],
        "".join(delta.text for delta in deltas),
        last.finish_reason,
        last.stop_reason,
        [one for delta in deltas for one in delta.logprobs or ()],
        last.usage.completion_tokens,
        deltas[0].prompt_logprobs,
    )


def read_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


options = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 20),
        "n": st.sampled_from([1, 1, 1, 3]),
        "seed": st.integers(0, 3),
        "temperature": st.sampled_from([0.0, 0.3, 1.0]),
        "logprobs": st.sampled_from([None, 0, 2]),
    },
    optional={
        "priority": st.integers(-1, 1),
        "top_k": st.sampled_from([0, 3]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "min_p": st.just(0.05),
        "repetition_penalty": st.sampled_from([1.2, 0.8]),
        "presence_penalty": st.sampled_from([1.0, -1.0]),
        "frequency_penalty": st.sampled_from([0.7, -0.5]),
        "logit_bias": st.sampled_from([{3: 4.0}, {1: -100.0, 2: 2.0}]),
        "bad_words": st.sampled_from([("1",), ("2 3", "3 2", "1 1 1"), ("4 5 6", "0")]),
        "min_tokens": st.integers(0, 9),
        "stop_token_ids": st.just((5, 6)),
        "eos_token_ids": st.just((7,)),
        "stop": st.sampled_from([("3 1",), ("1", "11 "), ("2 2", " 9")]),
        "prompt_logprobs": st.integers(0, 2),
    },
)
prompts = st.one_of(
    st.lists(st.sampled_from([(1, 2, 3), (4, 5, 6), (2, 3, 1)]), min_size=1, max_size=5).map(
        lambda parts: tuple(token for part in parts for token in part)
    ),
    st.lists(st.integers(0, 7), min_size=1, max_size=14).map(tuple),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    given_requests=st.lists(st.tuples(prompts, options), min_size=1, max_size=5),
    draft=st.integers(1, 8),
    habit=st.sampled_from([0.0, 5.0, 8.0]),
    blocks=st.integers(9, 30),
    batch_tokens=st.integers(4, 30),
    caching=st.booleans(),
)
def test_every_answer_is_the_same_with_drafts(
    given_requests: list[tuple[tuple[int, ...], dict[str, Any]]],
    draft: int,
    habit: float,
    blocks: int,
    batch_tokens: int,
    caching: bool,
) -> None:
    """With few blocks (preemptions), chunks of prompts, a prefix cache, and every option."""
    requests = {
        str(number): (prompt, SamplingParams(**one))
        for number, (prompt, one) in enumerate(given_requests)
    }

    def answers(speculation: int) -> dict[str, list[Answer]]:
        engine = Engine(
            FakeRunner(num_blocks=blocks, block_size=4, vocab_size=VOCAB, habit=habit),
            lambda params: NumberText(),
            max_sequences=4,
            max_batch_tokens=batch_tokens,
            prefix_caching=caching,
            encode=read_numbers,
            speculation=speculation,
        )
        return run(engine, requests)

    assert answers(draft) == answers(0)


def make_engine(runner: FakeRunner | None = None, **changes: Any) -> Engine:
    runner = runner or FakeRunner(vocab_size=VOCAB, habit=9.0)
    return Engine(runner, lambda params: NumberText(), **{"speculation": 6, **changes})


LOOP: tuple[int, ...] = (1, 2, 3, 1, 2, 3, 1)


def greedy(max_tokens: int, **changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **changes)


def test_a_step_gives_several_tokens() -> None:
    engine = make_engine()
    (answer,) = run(engine, {"it": (LOOP, greedy(40))})["it"]
    assert answer[0] == ([2, 3, 1] * 14)[:40]
    statistics = engine.statistics
    assert statistics.steps < 14
    assert statistics.generated_tokens == 40
    assert statistics.steps + statistics.accepted_tokens == 40
    assert statistics.drafted_tokens >= statistics.accepted_tokens


def test_drafts_stay_within_budgets_and_preempt_nobody() -> None:
    """The pool holds both to their ends and no block more; the batch has room for three drafts."""
    runner = FakeRunner(num_blocks=14, block_size=4, vocab_size=VOCAB, habit=9.0)
    engine = make_engine(runner, max_sequences=2, max_batch_tokens=5, prefix_caching=False)
    requests = {name: (LOOP, greedy(22)) for name in ("one", "other")}
    results = run(engine, requests)
    assert results["one"] == results["other"]
    assert engine.statistics.preemptions == 0
    assert engine.statistics.accepted_tokens > 10
    assert max(batch.num_rows for batch in runner.batches) == 5
    highest = max(int(batch.positions.max()) for batch in runner.batches)
    assert highest == len(LOOP) + 22 - 2, "the last token is never computed"


@pytest.mark.parametrize("blocks", range(9, 16))
def test_drafts_end_where_the_blocks_do(blocks: int) -> None:
    """Each of the two needs nine blocks in the end, so that one is preempted, with drafts or not."""
    requests = {name: (LOOP, greedy(28)) for name in ("one", "other")}
    results: list[object] = []
    for speculation in (0, 8):
        runner = FakeRunner(num_blocks=blocks, block_size=4, vocab_size=VOCAB, habit=9.0)
        engine = make_engine(runner, speculation=speculation, prefix_caching=False)
        results.append(run(engine, requests))
        assert engine.statistics.preemptions == 1
        assert not engine.statistics.failed_steps
    assert results[0] == results[1]


def test_rejected_drafts_give_their_blocks_back_and_are_not_cached() -> None:
    """The model leaves its loop at position 15; what is cached afterwards is right."""
    runner = FakeRunner(num_blocks=32, block_size=4, vocab_size=VOCAB, habit=9.0)

    def leave(batch: Batch, logits: NDArray[np.float32]) -> None:
        logits[batch.positions[batch.logits_rows] == 15, 17] = 99.0

    runner.after_run = leave
    engine = make_engine(runner)
    request = {"it": (LOOP, greedy(20))}
    first = run(engine, request)
    assert first == run(make_engine(runner, speculation=0), request)
    assert engine.statistics.drafted_tokens > engine.statistics.accepted_tokens
    prompt = (*LOOP, *first["it"][0][0])
    longer = {"longer": (prompt, greedy(5))}
    hits = engine.statistics.prefix_hit_tokens
    assert run(engine, longer) == run(make_engine(runner, speculation=0), longer)
    assert engine.statistics.prefix_hit_tokens - hits == 24


@pytest.mark.parametrize(
    ("changes", "length", "reason"),
    [
        ({"stop_token_ids": (3,)}, 2, "stop"),
        ({"stop": ("1 2 3 1",)}, 6, "stop"),
        ({"max_tokens": 7}, 7, "length"),
    ],
)
def test_an_end_among_accepted_tokens_drops_the_rest(
    changes: dict[str, Any], length: int, reason: str
) -> None:
    engine = make_engine()
    params = greedy(**{"max_tokens": 12, **changes})
    (answer,) = run(engine, {"it": (LOOP, params)})["it"]
    assert (len(answer[0]), answer[2]) == (length, reason)
    statistics = engine.statistics
    assert statistics.generated_tokens == length == statistics.steps + statistics.accepted_tokens
    # What could never be accepted is not drafted, but where a stop will come is not known.
    assert (statistics.drafted_tokens > statistics.accepted_tokens) == (reason == "stop")


def test_bad_logits_of_a_draft_end_its_sequence_where_they_would_alone() -> None:
    runner = FakeRunner(vocab_size=VOCAB, habit=9.0)

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        logits[batch.positions[batch.logits_rows] == 14, 5] = math.nan

    runner.after_run = spoil
    engine = make_engine(runner)
    requests = {"short": (LOOP, greedy(8)), "long": (LOOP, greedy(20))}
    results = run(engine, requests)
    assert results == run(make_engine(runner, speculation=0), requests)
    assert results["long"][0][2] == "error"
    assert results["short"][0][2] == "length"
    assert engine.statistics.accepted_tokens > 0


def test_a_sampler_that_fails_on_drafts_harms_only_whose_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine()
    sampler: Any = engine._sampler
    plain: Callable[..., Any] = sampler.sample

    def sample(logits: Any, rows: Any, sequences: Any) -> Any:
        if any(new > old + 1 for old, new in pairwise([-1, *rows])):
            raise MemoryError("no memory")
        return plain(logits, rows, sequences)

    monkeypatch.setattr(sampler, "sample", sample)
    results = run(engine, {"loops": (LOOP, greedy(20)), "new": ((9,), greedy(1))})
    assert results["loops"][0][2] == "error"
    assert results["new"][0][0] == complete_plainly((9,), greedy(1), 0, VOCAB)
    monkeypatch.undo()
    assert run(engine, {"again": (LOOP, greedy(6))})["again"][0][2] == "length"


def test_a_text_without_repetition_costs_few_rows() -> None:
    runner = FakeRunner(num_blocks=200, vocab_size=VOCAB)
    engine = make_engine(runner, max_batch_tokens=256)
    run(engine, {"it": ((1, 2, 3), SamplingParams(max_tokens=400, seed=1))})
    assert engine.statistics.drafted_tokens < 100, "a quarter of a row a step"


# --- real models ---------------------------------------------------------------------------------


def both_ways(make: Callable[[int], Engine], requests: Requests, least: float) -> None:
    """Compare the answers with drafts and without; a share of the tokens must come from drafts."""
    plain, fast = make(0), make(8)
    try:
        assert run(fast, requests) == run(plain, requests)
        statistics = fast.statistics
        assert statistics.accepted_tokens > least * statistics.generated_tokens
    finally:
        plain.close()
        fast.close()


@pytest.mark.parametrize("kind", ["mistral", "qwen3"])
def test_random_models_answer_the_same(kind: str, tmp_path: Path) -> None:
    folder = make_random_model(tmp_path, kind)
    generator = np.random.default_rng(3)
    texts = [tuple(generator.integers(3, 290, 4).tolist()) for _ in range(2)]
    requests: Requests = {}
    for number, text in enumerate(texts):
        bias = dict.fromkeys(text, 30.0)  # of four tokens, runs soon come again
        requests[f"cold {number}"] = (text * 9, greedy(40, logprobs=2, logit_bias=bias))
        warm = SamplingParams(
            max_tokens=40, temperature=0.7, seed=number, n=2, logprobs=1, logit_bias=bias
        )
        requests[f"warm {number}"] = (text * 9, warm)
        strict = greedy(30, frequency_penalty=0.2, min_tokens=20, stop_token_ids=text[:1])
        requests[f"strict {number}"] = (text * 9, strict)

    def make(speculation: int) -> Engine:
        runner = load_model(folder, max_model_len=128, kv_cache_memory=2**20, num_threads=2)
        return Engine(
            runner, lambda params: NumberText(), max_batch_tokens=256, speculation=speculation
        )

    both_ways(make, requests, least=0.2)


def test_the_demo_model_answers_the_same() -> None:
    folder = demo_model_path()
    tokenizer = Tokenizer.from_folder(folder)
    text = "user: the blocks hold the keys and the values of a text. " * 4
    ids = tuple(tokenizer.encode_literal(text))
    requests: Requests = {
        "cold": (ids, greedy(60, logprobs=1)),
        "warm": (ids, SamplingParams(max_tokens=60, temperature=0.7, top_p=0.9, seed=5, n=3)),
        "stopped": (ids, greedy(60, stop=("values of",), min_tokens=12)),
    }

    def make(speculation: int) -> Engine:
        runner = load_model(folder, kv_cache_memory=2**24, num_threads=2)
        return Engine(
            runner,
            detokenizer_factory(tokenizer),
            encode=tokenizer.encode_literal,
            speculation=speculation,
        )

    both_ways(make, requests, least=0.02)  # it writes words of its own
