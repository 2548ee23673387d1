"""OpenTelemetry traces: one span per request, under the client's own span if it sends one.

Attributes have the names of OpenTelemetry's conventions for generative AI; prompts and answers are
not among them. The exporter's own thread sends the spans, and drops those that cannot be sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from quire import __version__

_NAMES = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "queue_seconds": "gen_ai.latency.time_in_queue",
    "first_token_seconds": "gen_ai.latency.time_to_first_token",
    "error": "error.type",
}
_CLOSING = 2.0  # seconds
_OPERATIONS = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}


class Tracer:
    """Makes the spans of one server."""

    def __init__(self, exporter: SpanExporter, model: Callable[[], str]) -> None:
        resource = Resource.create({"service.name": "quire", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("quire", __version__)
        self._model = model

    @classmethod
    def to(cls, endpoint: str | None, model: Callable[[], str]) -> Tracer:
        """A tracer that sends to an OTLP endpoint over HTTP; None takes the environment's."""
        address = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
        return cls(OTLPSpanExporter(endpoint=address), model)

    def record(self, began: int, details: Mapping[str, Any]) -> None:
        """Make the span of a finished request; `began` is in nanoseconds of the wall clock."""
        operation = _OPERATIONS.get(str(details["kind"]), str(details["kind"]))
        span = self._tracer.start_span(
            f"{operation} {self._model()}",
            kind=SpanKind.SERVER,
            start_time=began,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": self._model(),
                "gen_ai.provider.name": "quire",
            },
        )
        for name, value in details.items():
            if value is not None and name in _NAMES:
                span.set_attribute(_NAMES[name], value)
        if details.get("finish_reason"):
            reasons = str(details["finish_reason"]).split(",")
            span.set_attribute("gen_ai.response.finish_reasons", reasons)
        if details.get("error") is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(time.time_ns())

    def close(self) -> None:
        """Send the queued spans, for two seconds at most."""
        # OpenTelemetry itself keeps to no time limit here: a collector may take it half a minute.
        ending = threading.Thread(target=self._provider.shutdown, name="quire-traces", daemon=True)
        ending.start()
        ending.join(_CLOSING)


class TracingMiddleware:
    """ASGI middleware: makes the client's `traceparent` the parent of the request's span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        token = attach(self._context(scope))
        try:
            await self._app(scope, receive, send)
        finally:
            detach(token)

    def _context(self, scope: Scope) -> Context:
        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        return self._propagator.extract(carrier, Context())
