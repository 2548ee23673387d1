"""What the tests of the server share: the demo model, served once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from quire.chat import ChatModel
from quire.demo import demo_adapter_path, demo_model_path
from quire.tokenizer import Tokenizer
from tests.server.serving import Served, serving


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(demo_model_path())


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The demo model on NativeEngine, with both demo adapters, the pirate's by default, over HTTP."""
    arguments = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "native_kv_cache_memory": "64MiB",
        "adapter_name_or_path": str(demo_adapter_path("pirate")),
    }
    with ChatModel(arguments) as model:
        model.load_adapter(demo_adapter_path("butler"))
        with serving(model) as server:
            yield server


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[OpenAI]:
    with client_of(served) as client:
        yield client


def client_of(served: Served) -> OpenAI:
    """The official client; nothing is tried twice, so that each error is seen."""
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)
