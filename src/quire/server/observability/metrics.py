"""Prometheus metrics of requests and the engine, under vLLM's names.

Each metric family exists twice, as `vllm:name` and as `quire:name`. Values are plain Python numbers
that the event loop's thread counts; they become Prometheus's families at each scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import APIRouter, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from quire.engines.seam import EngineLoad

PREFIXES = ("vllm:", "quire:")

_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
    160, 640, 2560,
)  # fmt: skip
_BETWEEN = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5,
    7.5, 10, 20, 40, 80,
)  # fmt: skip
_WHOLE = (
    0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip


class GaugeSource(Protocol):
    """Gives the values of gauges at each scrape."""

    def load(self) -> EngineLoad | None:
        """The engine's own metrics; None without an engine that has any."""
        ...

    def state(self) -> str:
        """The server's state."""
        ...

    def counts(self) -> dict[str, float]:
        """`running` completions and of these those in the `background`, `waiting` and `refused`
        requests, `dropped` log events, `restarts`."""
        ...


@dataclass
class RequestMetrics:
    """Counters and histograms of all requests."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter[str])
    """Completions by their finish reason."""
    failed: Counter[str] = field(default_factory=Counter[str])
    """Requests by the code of the error that ended them; `gone` if the client disconnected."""
    first_token: Histogram = field(default_factory=lambda: Histogram(_FIRST))
    between_tokens: Histogram = field(default_factory=lambda: Histogram(_BETWEEN))
    each_token: Histogram = field(default_factory=lambda: Histogram(_BETWEEN))
    whole: Histogram = field(default_factory=lambda: Histogram(_WHOLE))
    queue: Histogram = field(default_factory=lambda: Histogram(_WHOLE))
    prompt: Histogram = field(default_factory=lambda: Histogram(_TOKENS))
    generation: Histogram = field(default_factory=lambda: Histogram(_TOKENS))
    completions: Histogram = field(default_factory=lambda: Histogram((1, 2, 5, 10, 20)))


class ServerCollector(Collector):
    """Counts and gauges as Prometheus's families."""

    def __init__(
        self, metrics: RequestMetrics, source: GaugeSource, model: Callable[[], str]
    ) -> None:
        self._metrics, self._source, self._model = metrics, source, model

    def collect(self) -> Iterator[Metric]:
        """All families with both prefixes, and those that vLLM itself has registered."""
        own = set[str]()
        for prefix in PREFIXES:
            for family in self._families(prefix):
                own.add(family.name)
                yield family
        for family in REGISTRY.collect():
            if family.name.startswith("vllm:") and family.name not in own:
                yield family

    def _families(self, prefix: str) -> Iterator[Metric]:
        model = self._model()
        for name, text, value in self._gauges():
            gauge = GaugeMetricFamily(prefix + name, text, labels=("model_name",))
            gauge.add_metric((model,), value)
            yield gauge
        for name, text, value in self._counters():
            counter = CounterMetricFamily(prefix + name, text, labels=("model_name",))
            counter.add_metric((model,), value)
            yield counter
        for name, text, values in self._histograms():
            histogram = HistogramMetricFamily(prefix + name, text, labels=("model_name",))
            histogram.add_metric((model,), values.buckets(), values.total)
            yield histogram
        yield from self._by_reason(prefix, model)

    def _gauges(self) -> Iterator[tuple[str, str, float]]:
        counts, load = self._source.counts(), self._source.load()
        running, waiting = counts["running"], counts["waiting"]
        if load is not None:
            running, waiting = load.running, load.waiting + waiting
            if load.kv_cache_usage is not None:
                yield (
                    "kv_cache_usage_perc",
                    "Part of the KV cache in use, 0 to 1.",
                    load.kv_cache_usage,
                )
        yield "num_requests_running", "Completions in the engine's batch.", running
        yield (
            "num_batch_requests_running",
            "Of these, for batches.",
            counts.get("background", 0),
        )
        yield "num_requests_waiting", "Requests and completions that wait.", waiting
        yield "ready", "1 while requests are served.", float(self._source.state() == "ready")

    def _counters(self) -> Iterator[tuple[str, str, float]]:
        metrics, counts, load = self._metrics, self._source.counts(), self._source.load()
        yield "prompt_tokens", "Tokens of prompts.", metrics.prompt_tokens
        yield "prompt_tokens_cached", "Of these, from the prefix cache.", metrics.cached_tokens
        yield "generation_tokens", "Tokens generated.", metrics.generated_tokens
        yield "requests_refused", "Requests that came when the queue was full.", counts["refused"]
        yield "log_events_dropped", "Events that could not be written.", counts["dropped"]
        yield "engine_restarts", "Starts of the engine after a death.", counts["restarts"]
        if load is not None:
            yield "prefix_cache_queries", "Tokens looked up in the cache.", load.prefix_queries
            yield "prefix_cache_hits", "Of these, found.", load.prefix_hits
            yield "mm_cache_queries", "Media looked up among those processed.", load.media_queries
            yield "mm_cache_hits", "Of these, found.", load.media_hits
            yield "num_preemptions", "Sequences preempted.", load.preemptions
            yield "spec_decode_num_draft_tokens", "Tokens drafted.", load.drafted
            yield "spec_decode_num_accepted_tokens", "Of these, accepted.", load.accepted

    def _histograms(self) -> Iterator[tuple[str, str, Histogram]]:
        metrics = self._metrics
        yield (
            "time_to_first_token_seconds",
            "From the request to its first token.",
            metrics.first_token,
        )
        yield "inter_token_latency_seconds", "Between tokens of a stream.", metrics.between_tokens
        yield "time_per_output_token_seconds", "Between tokens of a stream.", metrics.between_tokens
        yield "request_time_per_output_token_seconds", "A request's mean.", metrics.each_token
        yield "e2e_request_latency_seconds", "From the request to its end.", metrics.whole
        yield "request_queue_time_seconds", "Before a request's turn.", metrics.queue
        yield "request_prompt_tokens", "A request's prompt.", metrics.prompt
        yield "request_generation_tokens", "A completion's tokens.", metrics.generation
        yield "request_params_n", "Completions of a request.", metrics.completions

    def _by_reason(self, prefix: str, model: str) -> Iterator[Metric]:
        rows = (
            ("request_success", "finished_reason", self._metrics.finished),
            ("request_failure", "error", self._metrics.failed),
        )
        for name, label, counts in rows:
            family = CounterMetricFamily(
                prefix + name, "Completions or requests, by how they ended.",
                labels=("model_name", label),
            )  # fmt: skip
            for reason, count in counts.items():
                family.add_metric((model, reason), count)
            yield family


def metrics_router(collector: ServerCollector) -> APIRouter:
    """The route /metrics."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    routes = APIRouter(tags=["state"])

    @routes.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
    )
    async def metrics(request: Request) -> Response:
        """The metrics, for Prometheus."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": kind})

    return routes


class Histogram:
    """Counts of values by their upper bounds, as `prometheus_client` wants them at a scrape."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds, and how many values are at or below each; the last is +Inf."""
        names = [*(f"{float(bound)!r}" for bound in self._bounds), "+Inf"]
        running, rows = 0, list[tuple[str, float]]()
        for name, count in zip(names, self._counts, strict=True):
            running += count
            rows.append((name, running))
        return rows
