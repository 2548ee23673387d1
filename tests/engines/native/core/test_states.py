"""States of sequences: what the prefix cache can give back of them, and that no slot is lost."""

from __future__ import annotations

from typing import Any

import pytest

from quire.engines.native.core.engine import Engine
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import FakeRunner, NumberText

BLOCK = 4


def engine_of(slots: int = 16, sequences: int = 4, **options: Any) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(block_size=BLOCK, vocab_size=24, num_blocks=200, num_state_slots=slots)
    engine = Engine(
        runner,
        lambda params: NumberText(),
        max_sequences=sequences,
        max_batch_tokens=64,
        **options,
    )
    return engine, runner


def complete(engine: Engine, *prompts: list[int], **params: Any) -> list[tuple[int, list[int]]]:
    """Cached tokens and answer of each prompt, all at once."""
    given = {"max_tokens": 2, "ignore_eos": True, "temperature": 0.0} | params
    for number, prompt in enumerate(prompts):
        engine.add(f"{number}", Prompt(tuple(prompt)), SamplingParams(**given), arrival=0.0)
    answers: dict[str, list[int]] = {}
    cached: dict[str, int] = {}
    while engine.has_work:
        for name, delta in engine.step():
            answers.setdefault(name, []).extend(delta.token_ids)
            if delta.usage is not None:
                cached[name] = delta.usage.cached_tokens
        engine.check_integrity()
    return [(cached[f"{n}"], answers[f"{n}"]) for n in range(len(prompts))]


def test_a_prompt_goes_on_from_the_state_at_its_last_whole_block() -> None:
    engine, _ = engine_of()
    prompt = list(range(14))
    (first,) = complete(engine, prompt)
    (again,) = complete(engine, prompt)
    assert (first[0], again[0]) == (0, 12)
    assert first[1] == again[1]


def test_statistics_count_the_slots_that_no_sequence_holds() -> None:
    engine, _ = engine_of(slots=16)
    engine.add("it", Prompt(tuple(range(14))), SamplingParams(max_tokens=2, n=2, temperature=0.0))
    counts = [engine.statistics.free_state_slots]
    while engine.has_work:
        engine.step()
        counts.append(engine.statistics.free_state_slots)
    assert counts == [16, 14, 16], "a checkpoint is free, since it goes for whoever needs it"
    assert engine.statistics.total_state_slots == 16


def test_prompts_that_share_a_beginning_go_on_from_where_one_left_it() -> None:
    """The first that leaves it finds blocks and no state; it leaves one for those after it."""
    engine, _ = engine_of()
    common = list(range(16))
    cached = [complete(engine, [*common, *[last] * 6])[0][0] for last in (17, 18, 19)]
    assert cached == [0, 0, 16]


def test_the_next_turn_goes_on_from_the_answer() -> None:
    engine, _ = engine_of()
    prompt = list(range(6))
    ((_, answer),) = complete(engine, prompt, max_tokens=50)
    conversation = [*prompt, *answer]
    ((cached, _),) = complete(engine, [*conversation, 3, 1, 2])
    assert cached > len(prompt)
    assert cached % BLOCK == 0


@pytest.mark.parametrize("speculation", [0, 3])
def test_answers_are_those_without_a_prefix_cache(speculation: int) -> None:
    prompts = [[*range(count), 3, 5, 3, 5, 3, 5] for count in (3, 8, 8, 19, 21)]
    plain, _ = engine_of(prefix_caching=False)
    cached, _ = engine_of(slots=64, speculation=speculation)
    expected = [answer for _, answer in complete(plain, *prompts, max_tokens=20)]
    found: list[tuple[int, list[int]]] = []
    for _ in range(3):
        found = complete(cached, *prompts, max_tokens=20)
        assert [answer for _, answer in found] == expected
    assert min(count for count, _ in found) > 0


def test_a_single_slot_serves_one_sequence_after_the_other() -> None:
    engine, runner = engine_of(slots=1)
    found = complete(engine, *([[*range(9), last] for last in range(10, 14)]))
    assert [count for count, _ in found] == [0] * 4
    assert max(batch.num_sequences for batch in runner.batches) == 1


def test_checkpoints_give_way_to_newer_ones() -> None:
    """So many that they would fill all slots: running sequences have theirs nevertheless."""
    engine, runner = engine_of(slots=8, sequences=4)
    for start in range(0, 120, 12):
        complete(engine, [token % 24 for token in range(start, start + 13)])
    complete(engine, *([[last] * 9 for last in range(4)]), max_tokens=30)
    assert max(batch.num_sequences for batch in runner.batches) == 4


def test_a_checkpoint_goes_with_its_block() -> None:
    """With few blocks, the prefix cache forgets beginnings, and their states with them."""
    runner = FakeRunner(block_size=BLOCK, vocab_size=24, num_blocks=9, num_state_slots=16)
    engine = Engine(runner, lambda params: NumberText(), max_sequences=2, max_batch_tokens=64)
    prompt = list(range(14))
    complete(engine, prompt)
    complete(engine, [token + 5 for token in range(15)], [token + 9 for token in range(14)])
    assert complete(engine, prompt)[0][0] == 0
