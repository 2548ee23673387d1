"""Metrics: what is counted, in a form that Prometheus's own parser reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from quire.outputs import ChatDelta, Usage
from quire.server.call import ANONYMOUS
from quire.server.errors import Overloaded
from quire.server.observability.metrics import Histogram, RequestMetrics
from quire.server.observability.observer import RequestObserver
from quire.tokenizer import Tokenizer
from tests.chat.deltas import gained
from tests.server.guarded import HI, Guarded, guarded

KNOWN = (
    "num_requests_running", "num_requests_waiting", "prompt_tokens", "generation_tokens",
    "time_to_first_token_seconds", "inter_token_latency_seconds", "time_per_output_token_seconds",
    "e2e_request_latency_seconds", "request_success", "request_queue_time_seconds",
)  # fmt: skip


@given(st.lists(st.floats(0, 20)))
@settings(deadline=None)
def test_a_histogram_counts_as_a_slow_one_does(values: list[float]) -> None:
    bounds = (0.5, 1.0, 5.0, 10.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.add(value)
    expected = [sum(value <= bound for value in values) for bound in bounds]
    assert [count for _, count in histogram.buckets()] == [*expected, len(values)]
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))


async def scraped(server: Guarded) -> dict[tuple[str, str], float]:
    """Sample values, by name and the one label beside the model's."""
    answer = await server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, ",".join(v for k, v in sorted(sample.labels.items()) if k != "model_name")): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_requests_are_counted_under_both_names(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer) as server:
        for _ in range(3):
            body = {**HI, "stream": True, "stream_options": {"include_usage": True}}
            assert (await server.chat(body)).status_code == 200
        await server.chat({**HI, "n": 2})
        samples = await scraped(server)
        families = {name for name, _ in samples}
    for prefix in ("vllm:", "quire:"):
        for name in KNOWN:
            assert any(found.startswith(prefix + name) for found in families), name
        assert samples[prefix + "generation_tokens_total", ""] == 5 * 4
        assert samples[prefix + "request_success_total", "length"] == 5
        assert samples[prefix + "e2e_request_latency_seconds_count", ""] == 4
        assert samples[prefix + "inter_token_latency_seconds_count", ""] == 5 * 3
        assert samples[prefix + "request_params_n_bucket", "1.0"] == 3
        assert samples[prefix + "prompt_tokens_total", ""] > 4 * 3
    assert ("process_resident_memory_bytes", "") in samples


def watched(
    figures: RequestMetrics, *deltas: ChatDelta, error: BaseException | None = None
) -> None:
    one = RequestObserver(figures)("chat", ANONYMOUS, 1)
    one.admitted()
    for delta in deltas:
        one.delta(delta)
    one.end(error)
    one.end(None)  # a second end changes nothing


def test_a_whole_answer_tells_no_first_token() -> None:
    figures = RequestMetrics()
    last: Any = {"finish_reason": "stop", "usage": Usage(7, 3, 2)}
    watched(figures, gained(token_ids=(1, 2, 3), **last))
    assert (figures.first_token.count, figures.between_tokens.count) == (0, 0)
    assert (figures.generated_tokens, figures.prompt_tokens, figures.cached_tokens) == (3, 7, 2)
    watched(figures, gained(token_ids=(1,)), gained(token_ids=(2, 3), **last))
    assert (figures.first_token.count, figures.between_tokens.count) == (1, 2)
    assert figures.each_token.count == 1


def test_what_fails_is_counted_by_its_cause() -> None:
    figures = RequestMetrics()
    watched(figures, error=asyncio.CancelledError())
    watched(figures, error=GeneratorExit())
    watched(figures, error=Overloaded("full"))
    watched(figures, error=ZeroDivisionError())
    assert figures.failed == {"gone": 2, "overloaded": 1, "internal_error": 1}
    assert figures.whole.count == 0


async def test_openmetrics_is_given_to_who_asks_for_it(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer) as server:
        headers = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await server.client.get("/metrics", headers=headers)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
