"""What vLLM tells of itself at each step, and the logger by which it does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from quire.engines.seam import EngineLoad
from quire.engines.vllm.launch import import_vllm
from quire.engines.vllm.stats import StepStats, stat_logger


@pytest.fixture(scope="module", autouse=True)
def vllm() -> None:
    import_vllm()


COUNTS = st.integers(0, 1000)
STEPS = st.lists(st.tuples(st.integers(0, 2), st.tuples(*[COUNTS] * 8), st.floats(0, 1)))


@given(STEPS)
@settings(deadline=None)  # the first example imports
def test_counts_are_summed_and_gauges_are_the_last_of_each_engine(
    steps: list[tuple[int, tuple[int, ...], float]],
) -> None:
    from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats
    from vllm.v1.spec_decode.metrics import SpecDecodingStats

    figures = StepStats()
    for rank, (running, waiting, held, queries, hits, back, drafted, accepted), usage in steps:
        drafts = SpecDecodingStats(num_spec_tokens=1)
        drafts.num_draft_tokens, drafts.num_accepted_tokens = drafted, accepted
        stats = SchedulerStats(
            num_running_reqs=running,
            num_waiting_reqs=waiting,
            num_skipped_waiting_reqs=held,
            kv_cache_usage=usage,
            prefix_cache_stats=PrefixCacheStats(
                queries=queries, hits=hits, preempted_requests=back
            ),
            spec_decoding_stats=drafts if drafted else None,
        )
        figures.add(stats, rank)
    last = {rank: (counts, usage) for rank, counts, usage in steps}
    sums = [sum(counts[index] for _, counts, _ in steps) for index in range(7)]
    usages: Any = pytest.approx(sum(usage for _, usage in last.values()) / max(1, len(last)))
    found = figures.load(idle=False)
    assert found == EngineLoad(
        running=sum(counts[0] for counts, _ in last.values()),
        waiting=sum(counts[1] + counts[2] for counts, _ in last.values()),
        kv_cache_usage=usages,
        prefix_queries=sums[3],
        prefix_hits=sums[4],
        preemptions=sums[5],
        drafted=sums[6],
        accepted=sum(counts[7] for _, counts, _ in steps if counts[6]),
    )
    idle = figures.load(idle=True)
    assert (idle.running, idle.waiting, idle.kv_cache_usage) == (0, 0, 0)
    assert (idle.prefix_queries, idle.prefix_hits) == (sums[3], sums[4])


def test_vllm_makes_no_prometheus_metrics_beside_ours() -> None:
    from vllm.config import VllmConfig
    from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerManager
    from vllm.v1.metrics.stats import (
        IterationStats,
        MultiModalCacheStats,
        PrefixCacheStats,
        SchedulerStats,
    )

    before = {family.name for family in REGISTRY.collect()}
    figures = StepStats()
    pictures = MultiModalCacheStats(queries=4, hits=1)
    manager = StatLoggerManager(
        VllmConfig(),
        custom_stat_loggers=[stat_logger(figures, without_prometheus=True)],
        enable_default_loggers=False,
    )
    assert len(manager.stat_loggers) == 1
    manager.log_engine_initialized()
    manager.log()
    manager.record_sleep_state(1, 2)
    stats = SchedulerStats(num_running_reqs=3, prefix_cache_stats=PrefixCacheStats(queries=5))
    manager.record(stats, IterationStats(), mm_cache_stats=pictures)
    manager.record(None, None)
    manager.record(stats, None, pictures)
    found = figures.load(idle=False)
    assert (found.running, found.prefix_queries) == (3, 10)
    assert (found.media_queries, found.media_hits) == (8, 2)
    assert {family.name for family in REGISTRY.collect()} == before
    beside = stat_logger(figures, without_prometheus=False)
    assert not issubclass(beside, PrometheusStatLogger)  # so that vLLM's own come, where asked for
