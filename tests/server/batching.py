"""A server with files and batches, over an engine that answers at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch

from quire.chat import ChatModel
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.batches.manager import BatchManager
from quire.server.batches.routes import batch_routers, open_batches
from quire.server.lifecycle.run import restrict_media
from quire.server.middleware.keys import KeyRing
from quire.server.middleware.stack import middleware_stack
from quire.server.service import Service
from tests.polling import wait_until
from tests.server.serving import running, service_over

CHAT = "/v1/chat/completions"
ENDED = ("failed", "completed", "expired", "cancelled")


@dataclass(frozen=True)
class Batching:
    """The server, and a client of it."""

    url: str
    client: OpenAI
    service: Service
    manager: BatchManager

    def client_with(self, key: str) -> OpenAI:
        """A client with a key of its own."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@contextmanager
def batching(
    model: ChatModel, folder: Path, *, ring: KeyRing | None = None, **arguments: object
) -> Iterator[Batching]:
    """Serve a model's engine with files and batches in a folder."""
    settings = ServerArguments(
        **{"served_model_name": "demo", "batches_dir": str(folder), **arguments}
    )
    service = service_over(model.engine, settings)
    restrict_media(model.engine, settings)
    service.admission.background = 4
    manager = open_batches(service, ring)
    assert manager is not None
    app = make_app(
        service,
        routers=batch_routers(manager),
        middleware=middleware_stack(settings, ring, service.admission, None),
    )
    loop = model._loop._loop
    with running(app, settings, loop) as url:
        loop.call_soon_threadsafe(manager.start)
        try:
            with OpenAI(
                base_url=f"{url}/v1", api_key="a-key-of-tests", max_retries=0, timeout=60
            ) as client:
                yield Batching(url, client, service, manager)
        finally:
            asyncio.run_coroutine_threadsafe(manager.close(), loop).result(30)


def question(number: int, **body: Any) -> dict[str, Any]:
    """A line of a batch file."""
    messages = [{"role": "user", "content": f"Question {number}?"}]
    return {
        "custom_id": f"q{number}",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "demo", "messages": messages, **body},
    }


def content_of(lines: Sequence[Mapping[str, Any] | str]) -> bytes:
    """A batch file of these lines."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    return "".join(f"{text}\n" for text in texts).encode()


def begin(
    client: OpenAI, lines: Sequence[Mapping[str, Any] | str], window: str = "24h", **more: Any
) -> Batch:
    """Upload a batch file and begin its batch."""
    file = client.files.create(file=("requests.jsonl", content_of(lines)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=CHAT,
        completion_window=window,  # type: ignore[arg-type]
        **more,
    )


def until_ended(client: OpenAI, batch: Batch) -> Batch:
    """The batch at its end."""
    found: list[Batch] = []

    def has_ended() -> bool:
        found.append(client.batches.retrieve(batch.id))
        return found[-1].status in ENDED

    wait_until(has_ended)
    return found[-1]


def lines_in(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file of answers or errors."""
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
