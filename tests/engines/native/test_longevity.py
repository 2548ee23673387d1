"""Hundreds of random requests: at an engine stepped by hand, and at whole engines of tiny models."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.longevity import Settings, make_model, measure
from tests.engines.native.fake_runner import FakeAdapter, FakeRunner
from tests.engines.native.longevity import (
    BLOCKS,
    LONGEST,
    NUMBER_ADAPTERS,
    VOCAB,
    Longevity,
    Report,
    Side,
)


def run(make_side: Callable[[], Side], requests: int) -> Report:
    longevity = Longevity(make_side, seed=1)
    try:
        report = longevity.run(requests)
        statistics = longevity.busy.statistics
    finally:
        longevity.close()
    assert not report.different
    assert report.compared > requests * 0.9
    assert min(report.aborted, report.refused, statistics.preemptions) > 0
    assert min(statistics.accepted_tokens, statistics.prefix_hit_tokens) > requests / 10
    assert statistics.drafted_tokens > statistics.accepted_tokens
    return report


def fake_side() -> Side:
    """A runner that sees a wrong slot at once, and whose list of batches does not grow."""
    runner = FakeRunner(
        num_blocks=BLOCKS, block_size=16, vocab_size=VOCAB, max_model_len=LONGEST, habit=4.0
    )
    runner.batches = deque(maxlen=1)  # type: ignore[assignment]
    return runner, [FakeAdapter(number) for number in range(1, NUMBER_ADAPTERS + 1)]


def test_hundreds_of_requests_are_what_each_is_alone() -> None:
    run(fake_side, 250)


@pytest.mark.parametrize("model", ["qwen3-next", "falcon-h1", "deepseek-v3", "gemma-3"])
def test_hundreds_of_requests_at_a_whole_engine(model: str, tmp_path: Path) -> None:
    """A short run of `python -m benchmarks.longevity`."""
    make_model(tmp_path, model)
    settings = Settings("float16", speculation=6, max_sequences=12, max_batch_tokens=64)
    report = asyncio.run(measure(tmp_path, settings, requests=400, seed=1, pool=120))
    assert report.is_good, (report.different[:3], report.lost[:3], report.held[:3])
    assert report.compared > 300
    assert min(report.cancelled, report.refused) > 0
    assert report.engine is not None
    assert min(report.engine.preemptions, report.engine.accepted_tokens) > 0
    assert report.engine.prefix_hit_tokens > 0
    assert max(report.resident) - report.resident[4] < 32 * 2**20
