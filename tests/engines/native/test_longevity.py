"""A short run of `tests/engines/native/longevity.py`; its command makes the long one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.native.fake_runner import FakeAdapter, FakeRunner
from tests.engines.native.longevity import (
    BLOCKS,
    LONGEST,
    NUMBER_ADAPTERS,
    VOCAB,
    Longevity,
    Report,
    Side,
    make_tiny_model,
    tiny_side,
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


@pytest.mark.timeout(180)
def test_hundreds_of_requests_are_what_each_is_alone() -> None:
    run(fake_side, 250)


@pytest.mark.timeout(180)
def test_memory_stays_flat_on_a_tiny_model(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    memory = run(lambda: tiny_side(tmp_path), 600).memory
    assert max(memory.traced) - memory.traced[0] < 400_000, "bytes, over 120 requests"
    assert memory.resident[-1] - memory.resident[4] < 64 * 2**20
