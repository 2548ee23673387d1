"""What the tests of the further APIs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from quire.chat import ChatModel
from quire.demo import demo_reward_path
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.server.apis.clients import closing_clients
from tests.server.serving import Served, serving


@pytest.fixture(autouse=True)
def _clients_are_closed() -> Iterator[None]:
    with closing_clients():
        yield


@pytest.fixture(scope="session")
def http(served: Served) -> Iterator[httpx.Client]:
    """A plain client of the demo model's server."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def on_vllm(vllm_model: ChatModel) -> Iterator[Served]:
    """The demo model on VllmEngine, over HTTP."""
    with serving(vllm_model) as server:
        yield server


@pytest.fixture(scope="module")
def reward() -> Iterator[httpx.Client]:
    """A plain client of the reward model's server."""
    arguments = {
        "model_name_or_path": str(demo_reward_path()),
        "infer_backend": "native",
        "native_kv_cache_memory": "64MiB",
        "stage": "rm",
    }
    with (
        ChatModel(arguments) as model,
        serving(model) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def echo(tokenizer: Tokenizer) -> Iterator[Callable[..., Served]]:
    """Makes servers over an EchoEngine, and ends them."""
    with ExitStack() as stack:

        def make(template: str = "qwen3_nothink", **options: Any) -> Served:
            engine = EchoEngine(tokenizer, template, **options)
            return stack.enter_context(serving(stack.enter_context(ChatModel.from_engine(engine))))

        yield make
