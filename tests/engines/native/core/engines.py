"""Engines over the fake runner, and what tests ask of one."""

from __future__ import annotations

from typing import Any

from quire.engines.native.core.engine import Engine
from quire.outputs import Delta
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import FakeRunner, NumberText
from tests.engines.native.plain import complete_plainly


def make_engine(runner: FakeRunner | None = None, **options: Any) -> Engine:
    return Engine(runner or FakeRunner(), lambda params: NumberText(), **options)


def greedy(max_tokens: int = 8, **options: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **options)


def run(engine: Engine, steps: int = 500) -> dict[str, list[Delta]]:
    """Step until nobody is left; return each request's deltas."""
    results: dict[str, list[Delta]] = {}
    for _ in range(steps):
        if not engine.has_work:
            return results
        for name, delta in engine.step():
            results.setdefault(name, []).append(delta)
        engine.check_integrity()
    raise AssertionError("somebody waits for ever")


def tokens_of(deltas: list[Delta], index: int = 0) -> list[int]:
    return [token for d in deltas if d.index == index for token in d.token_ids]


def all_free(engine: Engine) -> bool:
    return engine.statistics.free_blocks == engine.statistics.total_blocks


PROMPT = (1, 2, 3, 4, 5)
ANSWER = complete_plainly(PROMPT, greedy(12), 0, 40)
