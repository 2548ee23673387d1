"""Whose turn it is, and what requests share: prefixes, blocks, batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.engines.native.core.batch import Batch
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from tests.engines.native.core.engines import (
    PROMPT,
    all_free,
    greedy,
    make_engine,
    run,
    tokens_of,
)
from tests.engines.native.fake_runner import FakeRunner
from tests.engines.native.plain import complete_plainly

# --- sharing and memory --------------------------------------------------------------------------


def test_completions_share_the_prompt_and_copy_what_they_write() -> None:
    runner = FakeRunner(num_blocks=64, block_size=4)
    copies: list[tuple[int, int]] = []
    plain = runner.copy_blocks

    def copy_blocks(pairs: Any) -> None:
        copies.extend(pairs)
        plain(pairs)

    runner.copy_blocks = copy_blocks
    engine = make_engine(runner, prefix_caching=False)
    prompt = tuple(range(1, 11))  # two full blocks and a half
    params = SamplingParams(max_tokens=10, n=4, seed=5)
    engine.add("it", Prompt(prompt), params)
    deltas = engine.step()
    assert [delta.index for _, delta in deltas] == [0, 1, 2, 3]
    assert runner.num_blocks - engine.statistics.free_blocks == 3
    more = engine.step()
    assert runner.num_blocks - engine.statistics.free_blocks == 6
    assert len(copies) == 3, "the last one keeps the block of the prompt's end"
    every = [delta for _, delta in deltas + more] + run(engine)["it"]
    answers = [tokens_of(every, index) for index in range(4)]
    assert answers == [complete_plainly(prompt, params, index, 40) for index in range(4)]
    assert len({tuple(answer) for answer in answers}) == 4
    assert all_free(engine)


def test_more_completions_than_may_run_take_turns() -> None:
    engine = make_engine(max_sequences=2, max_batch_tokens=8)
    params = SamplingParams(max_tokens=6, n=5, seed=1)
    engine.add("it", Prompt(PROMPT), params)
    deltas = run(engine)["it"]
    for index in range(5):
        assert tokens_of(deltas, index) == complete_plainly(PROMPT, params, index, 40)


def test_equal_beginnings_are_computed_once() -> None:
    runner = FakeRunner()
    engine = make_engine(runner)
    prompt = tuple(range(1, 17))  # four whole blocks: the last is computed again for its logits
    engine.add("first", Prompt(prompt), greedy())
    first = run(engine)["first"]
    assert first[-1].usage is not None
    assert first[-1].usage.cached_tokens == 0
    runner.batches.clear()
    engine.add("second", Prompt(prompt), greedy())
    second = run(engine)["second"]
    assert second[-1].usage is not None
    assert second[-1].usage.cached_tokens == 12
    assert runner.batches[0].num_rows == 4
    assert tokens_of(second) == tokens_of(first)
    statistics = engine.statistics
    assert (statistics.prompt_tokens, statistics.prefix_hit_tokens) == (32, 12)


def test_salts_share_no_prefix() -> None:
    """Equal prompts meet in the cache where their salts are equal too, and nowhere else."""
    engine = make_engine()
    prompt = Prompt(tuple(range(1, 17)))
    cached: list[int] = []
    for index, salt in enumerate(("mine", "yours", None, "mine", "yours", None)):
        engine.add(str(index), prompt, greedy(2, cache_salt=salt))
        usage = run(engine)[str(index)][-1].usage
        assert usage is not None
        cached.append(usage.cached_tokens)
    assert cached == [0, 0, 0, 12, 12, 12]


def test_a_request_that_needs_every_block_is_served() -> None:
    engine = make_engine(FakeRunner(num_blocks=4, block_size=4))
    engine.add("other", Prompt(PROMPT), greedy(4))
    engine.add("it", Prompt(tuple(range(1, 15))), greedy(3))  # the 17th token is never computed
    results = run(engine)
    assert tokens_of(results["it"]) == complete_plainly(range(1, 15), greedy(3), 0, 40)
    engine.add("it", Prompt(tuple(range(1, 17))), greedy(1))
    assert tokens_of(run(engine)["it"]) == complete_plainly(range(1, 17), greedy(1), 0, 40)


def test_the_last_in_order_makes_room_and_is_computed_again() -> None:
    engine = make_engine(FakeRunner(num_blocks=6, block_size=4))
    prompts = {"later": PROMPT[:4], "sooner": PROMPT}
    for priority, name in ((1, "later"), (0, "sooner")):
        engine.add(name, Prompt(prompts[name]), greedy(15, priority=priority))
    results = run(engine)
    for name, prompt in prompts.items():
        assert tokens_of(results[name]) == complete_plainly(prompt, greedy(15), 0, 40)
    assert list(results) == ["sooner", "later"]
    assert engine.statistics.preemptions == 1
    assert all_free(engine)


# --- order ---------------------------------------------------------------------------------------


def test_priority_then_arrival_decides_who_is_first() -> None:
    engine = make_engine(max_sequences=1, max_batch_tokens=16)
    for name, priority, arrival in (("d", 1, 0.0), ("c", 0, 9.0), ("b", 0, 2.0), ("a", -1, 5.0)):
        engine.add(name, Prompt(PROMPT), greedy(2, priority=priority), arrival=arrival)
    order: list[str] = []
    while engine.has_work:
        order += [name for name, delta in engine.step() if delta.finish_reason]
    assert order == ["a", "b", "c", "d"]


def test_decodes_and_chunks_of_prompts_share_a_batch() -> None:
    runner = FakeRunner()
    engine = make_engine(runner, max_sequences=4, max_batch_tokens=6)
    engine.add("decodes", Prompt((1, 2)), greedy(8))
    engine.step()
    engine.add("long", Prompt(tuple(range(1, 18))), greedy(1))
    runner.batches.clear()
    for _ in range(4):
        engine.step()
    assert [np.diff(batch.query_start).tolist() for batch in runner.batches] == [
        [1, 5],
        [1, 5],
        [1, 5],
        [1, 2],
    ]


def test_how_far_prompts_are_computed_is_told() -> None:
    engine = make_engine(max_batch_tokens=8, max_sequences=8)
    engine.add("short", Prompt((1, 2)), greedy(4))
    engine.step()
    assert (engine.statistics.prefilling, engine.statistics.prefilled) == (0, 0)
    engine.add("long", Prompt(tuple(range(3, 23))), greedy(1))
    told = list[tuple[int, int]]()
    while engine.has_work:
        engine.step()
        told.append((engine.statistics.prefilling, engine.statistics.prefilled))
    assert told == [(20, 7), (20, 14), (0, 0)]


def test_how_far_a_step_is_counts_too() -> None:
    """Another thread asks while it runs."""
    runner = FakeRunner()
    engine = make_engine(runner, max_batch_tokens=8, max_sequences=8)
    engine.add("decodes", Prompt((1, 2)), greedy(4))
    engine.step()
    engine.add("long", Prompt(tuple(range(3, 23))), greedy(1))
    told = list[tuple[int, int]]()

    def ask(batch: Batch) -> None:
        for runner.step_progress in (0.0, 0.5, 1.0):
            told.append((engine.statistics.prefilling, engine.statistics.prefilled))

    runner.before_run = ask
    engine.step()
    engine.step()
    assert told == [(20, 0), (20, 3), (20, 7), (20, 7), (20, 10), (20, 14)]


def test_lower_priority_waits_while_a_prompt_is_computed() -> None:
    """Neither its decodes nor its prompts lengthen the steps until the other's first token."""
    runner = FakeRunner()
    engine = make_engine(runner, max_sequences=4, max_batch_tokens=8)
    engine.add("decodes behind", Prompt((1, 2)), greedy(9, priority=5))
    engine.step()
    engine.add("prompt behind", Prompt(tuple(range(1, 30))), greedy(2, priority=5))
    engine.step()
    engine.add("live", Prompt(tuple(range(20, 1, -1))), greedy(3))
    runner.batches.clear()
    came: list[str] = []
    while "live" not in came:
        came += [name for name, _ in engine.step()]
        engine.check_integrity()
    assert came == ["live"]
    assert [batch.num_rows for batch in runner.batches] == [8, 8, 3]
    results = run(engine)
    assert len(tokens_of(results["live"])) == 2
    assert tokens_of(results["prompt behind"]) == complete_plainly(range(1, 30), greedy(2), 0, 40)


def test_a_prompt_that_may_wait_is_computed_in_small_parts() -> None:
    runner = FakeRunner(num_blocks=256, block_size=4)
    engine = make_engine(runner, max_batch_tokens=700)
    engine.add("behind", Prompt((1, 2, 3, 4) * 125), greedy(1, priority=1))
    engine.add("live", Prompt((4, 3, 2, 1) * 40), greedy(1))
    run(engine)
    assert [batch.num_rows for batch in runner.batches] == [160, 256, 244]


def test_nobody_overtakes_a_long_prompt() -> None:
    engine = make_engine(FakeRunner(num_blocks=8, block_size=4))
    engine.add("runs", Prompt(PROMPT), greedy(12))
    engine.step()
    engine.add("long", Prompt(tuple(range(1, 25))), greedy(1))
    for number in range(10):
        engine.add(f"short {number}", Prompt((number + 1,)), greedy(2))
    order = [name for name, deltas in run(engine).items() if deltas]
    assert order[:2] == ["runs", "long"]
