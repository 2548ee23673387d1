"""OpenAI's official client drives every feature, on both engines, over real connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from openai import OpenAI

from quire.chat import ChatModel
from tests.server import scenarios
from tests.server.conftest import client_of
from tests.server.scenarios import SCENARIOS
from tests.server.serving import serving

ON_VLLM = (
    scenarios.the_stream_adds_up_to_the_whole_answer,
    scenarios.several_completions,
    scenarios.tools_are_called_as_deltas_and_answered,
    scenarios.a_required_tool_is_called,
    scenarios.logprobs_add_up,
    scenarios.vllms_fields_of_prompts_and_stops,
    scenarios.salts_share_no_prefix,
    scenarios.adapters_are_models,
    scenarios.completions_of_texts_and_tokens,
)


@pytest.fixture(scope="module")
def vllm_client(vllm_model: ChatModel) -> Iterator[OpenAI]:
    with serving(vllm_model) as served, client_of(served) as client:
        yield client


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_on_the_native_engine(scenario: Callable[[OpenAI], None], client: OpenAI) -> None:
    scenario(client)


@pytest.mark.parametrize("scenario", ON_VLLM, ids=lambda scenario: scenario.__name__)
def test_on_vllm(scenario: Callable[[OpenAI], None], vllm_client: OpenAI) -> None:
    scenario(vllm_client)
