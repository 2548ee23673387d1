"""Official clients drive the Responses and the Messages API, on both engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.server.apis import messages_scenarios, responses_scenarios
from tests.server.conftest import client_of
from tests.server.serving import Served

Scenario = Callable[[Any], None]


def anthropic_client(served: Served) -> Anthropic:
    return Anthropic(base_url=served.url, api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def claude(served: Served) -> Iterator[Anthropic]:
    with anthropic_client(served) as client:
        yield client


def name_of(scenario: Scenario) -> str:
    return scenario.__name__


@pytest.mark.parametrize("scenario", responses_scenarios.SCENARIOS, ids=name_of)
def test_responses(scenario: Scenario, client: OpenAI) -> None:
    scenario(client)


@pytest.mark.parametrize("scenario", messages_scenarios.SCENARIOS, ids=name_of)
def test_messages(scenario: Scenario, claude: Anthropic) -> None:
    scenario(claude)


@pytest.mark.parametrize("scenario", responses_scenarios.ON_VLLM, ids=name_of)
def test_responses_on_vllm(scenario: Scenario, on_vllm: Served) -> None:
    with client_of(on_vllm) as client:
        scenario(client)


@pytest.mark.parametrize("scenario", messages_scenarios.ON_VLLM, ids=name_of)
def test_messages_on_vllm(scenario: Scenario, on_vllm: Served) -> None:
    with anthropic_client(on_vllm) as client:
        scenario(client)
