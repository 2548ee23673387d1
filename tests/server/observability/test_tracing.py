"""Traces: a span a request, under the client's own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.observability import tracing
from quire.server.observability.metrics import RequestMetrics
from quire.server.observability.observer import RequestObserver
from quire.server.observability.tracing import Tracer, TracingMiddleware
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.server.guarded import HI
from tests.server.serving import service_over


async def test_a_span_has_the_clients_parent_and_no_words(tokenizer: Tokenizer) -> None:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter, lambda: "echo")
    engine = EchoEngine(tokenizer, reply="my secret")
    service = service_over(engine, ServerArguments(served_model_name="echo"))
    service.observe = RequestObserver(RequestMetrics(), tracer)
    app = make_app(service, middleware=(TracingMiddleware,))
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        headers = {"traceparent": f"00-{trace}-{parent}-01"}
        await client.post("/v1/chat/completions", json=HI, headers=headers)
        engine.echo.fail_at = 0
        await client.post("/v1/chat/completions", json=HI)
    tracer.close()
    first, second = exporter.get_finished_spans()
    assert first.name == "chat echo"
    assert first.context is not None
    assert first.parent is not None
    assert f"{first.context.trace_id:032x}" == trace
    assert f"{first.parent.span_id:016x}" == parent
    assert first.attributes is not None
    assert first.attributes["gen_ai.request.model"] == "echo"
    assert first.attributes["gen_ai.usage.output_tokens"] == 3
    assert first.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert first.start_time is not None
    assert first.end_time is not None
    assert first.end_time >= first.start_time
    assert second.parent is None
    assert not second.status.is_ok
    shown = json.dumps([json.loads(span.to_json()) for span in (first, second)])
    assert "secret" not in shown


def test_a_collector_that_does_not_answer_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers, answered = threading.Event(), threading.Event(), threading.Event()

    class Silent(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            asked.set()
            if answers.wait(20):
                answered.set()
            return SpanExportResult.FAILURE

    monkeypatch.setattr(tracing, "_CLOSING", 0.05)
    tracer = Tracer(Silent(), lambda: "echo")
    tracer.record(time.time_ns(), {"kind": "chat"})
    tracer.close()
    answers.set()
    assert asked.wait(60)
    assert answered.wait(60)  # it was still asking as `close` returned
