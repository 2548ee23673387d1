"""A short run of `tests/native/longevity.py`; its command makes the long one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from quire.adapters.folder import Adapter
from quire.native.batch import Runner
from tests.native.fake_runner import FakeRunner
from tests.native.longevity import (
    BLOCKS,
    LONGEST,
    Longevity,
    Report,
    make_tiny_adapters,
    make_tiny_model,
    tiny_runner,
)


def run(
    make_runner: Callable[[], Runner], requests: int, adapters: Sequence[Adapter] = ()
) -> Report:
    longevity = Longevity(make_runner, seed=1, adapters=adapters)
    try:
        report = longevity.run(requests)
        statistics = longevity.busy.statistics
    finally:
        longevity.close()
    assert not report.different
    assert report.compared > requests * 0.9
    assert report.adapted > requests / 4
    assert min(report.aborted, report.refused, statistics.preemptions) > 0
    assert min(statistics.accepted_tokens, statistics.prefix_hit_tokens) > requests / 4
    assert statistics.drafted_tokens > statistics.accepted_tokens
    return report


def fake_runner() -> FakeRunner:
    """A runner that sees a wrong slot at once, and whose list of batches does not grow."""
    runner = FakeRunner(
        num_blocks=BLOCKS, block_size=16, vocab_size=64, max_model_len=LONGEST, habit=4.0
    )
    runner.batches = deque(maxlen=1)  # type: ignore[assignment]
    return runner


@pytest.mark.timeout(180)
def test_hundreds_of_requests_are_what_each_is_alone() -> None:
    adapters = [
        Adapter(name, Path(name), rank, 1.0, False, (), None) for name, rank in (("a", 1), ("b", 2))
    ]
    run(fake_runner, 500, adapters)


@pytest.mark.timeout(180)
def test_memory_stays_flat_on_a_tiny_model(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    adapters = make_tiny_adapters(tmp_path / "adapters", folder)
    memory = run(lambda: tiny_runner(folder), 2000, adapters).memory
    assert max(memory.traced) - memory.traced[0] < 100_000, "bytes, over 400 requests"
    assert memory.resident[-1] - memory.resident[4] < 16 * 2**20
