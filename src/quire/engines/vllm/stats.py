"""vLLM's statistics of each step (requests, KV cache, prefix cache, drafts), as an `EngineLoad`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire.engines.seam import EngineLoad

if TYPE_CHECKING:
    from vllm.v1.metrics.loggers import AggregateStatLoggerBase
    from vllm.v1.metrics.stats import BaseCacheStats, SchedulerStats


class StepStats:
    """The last step's gauges, and counters over all steps since the engine's start.

    vLLM's event loop writes them; any thread may read them.
    """

    def __init__(self) -> None:
        self._last: dict[int, SchedulerStats] = {}
        self._queries = self._hits = self._preemptions = self._drafted = self._accepted = 0
        self._media_queries = self._media_hits = 0

    def add(self, stats: SchedulerStats, rank: int = 0) -> None:
        """Add the statistics of a step; `rank` is the engine's data-parallel rank."""
        self._last[rank] = stats
        cache = stats.prefix_cache_stats
        self._queries += cache.queries
        self._hits += cache.hits
        # SchedulerStats counts no preemptions, but a preempted request looks its prompt up in the
        # prefix cache again when it is resumed, and those lookups are counted.
        self._preemptions += cache.preempted_requests
        drafts = stats.spec_decoding_stats
        if drafts is not None:
            self._drafted += drafts.num_draft_tokens
            self._accepted += drafts.num_accepted_tokens

    def add_media(self, stats: BaseCacheStats) -> None:
        """Add the lookups in the cache of processed media since the last step."""
        self._media_queries += stats.queries
        self._media_hits += stats.hits

    def load(self, *, idle: bool) -> EngineLoad:
        """The load after the last step.

        `idle` says that no request is left. The gauges are 0 then, whatever the last step reported:
        an abort of the last request is followed by no step that would report it.
        """
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


def stat_logger(stats: StepStats, *, without_prometheus: bool) -> type[AggregateStatLoggerBase]:
    """The logger class that vLLM instantiates to report its statistics; it adds them to `stats`.

    Args:
        without_prometheus: keep vLLM from making its own Prometheus metrics. They cost more time a
            token than all of quire's own work on it, and quire's server has the same metrics.
    """
    from vllm.v1.metrics.loggers import AggregateStatLoggerBase, PrometheusStatLogger

    class Recorder(AggregateStatLoggerBase):
        def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
            """Keep nothing: vLLM makes one logger for all data-parallel engines."""

        def record(
            self,
            scheduler_stats: SchedulerStats | None,
            iteration_stats: Any,
            mm_cache_stats: BaseCacheStats | None = None,
            engine_idx: int = 0,
        ) -> None:
            if scheduler_stats is not None:
                stats.add(scheduler_stats, engine_idx)
            if mm_cache_stats is not None:
                stats.add_media(mm_cache_stats)

        def log_engine_initialized(self) -> None: ...

    class InPlaceOfPrometheus(Recorder, PrometheusStatLogger):
        """Takes the place of vLLM's Prometheus logger, which vLLM adds unless a logger is one."""

        def record_sleep_state(self, *args: Any, **named: Any) -> None: ...
        def record_admission_rejection(self, reason: str) -> None: ...

    return InPlaceOfPrometheus if without_prometheus else Recorder
