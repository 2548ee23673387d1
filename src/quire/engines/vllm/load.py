"""What vLLM's engine tells of itself at each step: its requests, KV cache, prefix cache, drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire.engines.seam import EngineLoad

if TYPE_CHECKING:
    from vllm.v1.metrics.loggers import AggregateStatLoggerBase
    from vllm.v1.metrics.stats import BaseCacheStats, SchedulerStats


class StepFigures:
    """The last step's gauges and the sums of all steps since the engine's start.

    Written in vLLM's event loop, read from any thread.
    """

    def __init__(self) -> None:
        self._last: dict[int, SchedulerStats] = {}
        self._queries = self._hits = self._preemptions = self._drafted = self._accepted = 0
        self._media_queries = self._media_hits = 0

    def add(self, stats: SchedulerStats, rank: int = 0) -> None:
        """Take a step's figures; `rank` is that of its engine in data parallelism."""
        self._last[rank] = stats
        cache = stats.prefix_cache_stats
        self._queries += cache.queries
        self._hits += cache.hits
        # Each looks its prompt up once more when it comes back.
        self._preemptions += cache.preempted_requests
        drafts = stats.spec_decoding_stats
        if drafts is not None:
            self._drafted += drafts.num_draft_tokens
            self._accepted += drafts.num_accepted_tokens

    def add_media(self, stats: BaseCacheStats) -> None:
        """Take what the cache of processed media was asked for since the last step."""
        self._media_queries += stats.queries
        self._media_hits += stats.hits

    def load(self, *, idle: bool) -> EngineLoad:
        """All of them; `idle` where no request is left: no step tells of the last one's abort."""
        last = [] if idle else list(self._last.values())
        return EngineLoad(
            running=sum(stats.num_running_reqs for stats in last),
            waiting=sum(stats.num_waiting_reqs + stats.num_skipped_waiting_reqs for stats in last),
            kv_cache_usage=sum(stats.kv_cache_usage for stats in last) / max(1, len(last)),
            prefix_queries=self._queries,
            prefix_hits=self._hits,
            media_queries=self._media_queries,
            media_hits=self._media_hits,
            preemptions=self._preemptions,
            drafted=self._drafted,
            accepted=self._accepted,
        )


def stat_logger(figures: StepFigures, *, alone: bool) -> type[AggregateStatLoggerBase]:
    """The class by which vLLM hands its figures over.

    Args:
        alone: vLLM makes no Prometheus metrics of its own then. They cost more for each token than
            all that quire does with it, and quire's server has them.
    """
    from vllm.v1.metrics.loggers import AggregateStatLoggerBase, PrometheusStatLogger

    class Recorder(AggregateStatLoggerBase):
        def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
            """Nothing is kept here: vLLM makes one for all engines of data parallelism."""

        def record(
            self,
            scheduler_stats: SchedulerStats | None,
            iteration_stats: Any,
            mm_cache_stats: BaseCacheStats | None = None,
            engine_idx: int = 0,
        ) -> None:
            if scheduler_stats is not None:
                figures.add(scheduler_stats, engine_idx)
            if mm_cache_stats is not None:
                figures.add_media(mm_cache_stats)

        def log_engine_initialized(self) -> None: ...

    class InPlaceOfPrometheus(Recorder, PrometheusStatLogger):
        """vLLM adds its own beside any logger that is not of this kind."""

        def record_sleep_state(self, *args: Any, **named: Any) -> None: ...
        def record_admission_rejection(self, reason: str) -> None: ...

    return InPlaceOfPrometheus if alone else Recorder
