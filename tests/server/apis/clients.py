"""The official clients of a server under test. Nothing is tried twice, so that each error is seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import anthropic
import openai

from tests.server.serving import Served

_open = ExitStack()


@contextmanager
def closing_clients() -> Iterator[None]:
    """Closes, at its end, the clients that were made meanwhile."""
    with _open:
        yield


def claude(served: Served) -> anthropic.Anthropic:
    client = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0, timeout=60)
    return _open.enter_context(client)


def gpt(served: Served) -> openai.OpenAI:
    url = f"{served.url}/v1"
    return _open.enter_context(
        openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
    )
