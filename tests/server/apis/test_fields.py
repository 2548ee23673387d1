"""Fields of other servers: what asks for nothing is taken, and what asks for something is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params

from quire.server.apis.anthropic import schema as anthropic_schema
from quire.server.apis.openai import schema as openai_schema
from quire.server.apis.openai.responses import schema as responses_schema
from quire.server.apis.refused_fields import Refused

HI = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 2},
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/v1/responses": {"input": "hi", "max_output_tokens": 2},
    "/v1/messages": {"model": "base", "messages": HI, "max_tokens": 2},
    "/v1/messages/count_tokens": {"model": "base", "messages": HI},
    "/v1/embeddings": {"input": "hi"},
}
OF_SDKS: dict[str, tuple[type, ...]] = {
    "/v1/chat/completions": (chat_params.CompletionCreateParamsBase,),
    "/v1/completions": (completion_create_params.CompletionCreateParamsBase,),
    "/v1/responses": (response_create_params.ResponseCreateParamsBase,),
    "/v1/messages": (
        message_create_params.MessageCreateParamsBase,
        beta_params.MessageCreateParamsBase,
    ),
    "/v1/messages/count_tokens": (message_count_tokens_params.MessageCountTokensParams,),
    "/v1/embeddings": (embedding_create_params.EmbeddingCreateParams,),
}
OF_VLLM = {
    "/v1/chat/completions": {
        "add_generation_prompt": True, "add_special_tokens": False, "allowed_token_ids": None,
        "continue_final_message": False, "documents": None, "echo": False,
        "include_reasoning": True, "include_stop_str_in_output": False, "kv_transfer_params": None,
        "length_penalty": 1.0, "logit_bias": None, "min_tokens": 0, "mm_processor_kwargs": None,
        "priority": 0, "prompt_logprobs": None, "request_id": "r", "repetition_penalty": None,
        "return_prompt_text": None, "session_id": None, "skip_special_tokens": True,
        "spaces_between_special_tokens": True, "stop": [], "stop_token_ids": [],
        "stream_interval": None, "thinking_token_budget": None, "truncate_prompt_tokens": None,
        "truncation_side": None, "use_beam_search": False, "vllm_xargs": None, "bad_words": [],
    },
    "/v1/completions": {
        "add_special_tokens": True, "best_of": 1, "include_stop_str_in_output": False,
        "length_penalty": 1.0, "logprob_token_ids": None, "prompt_embeds": None, "suffix": "",
        "spaces_between_special_tokens": True, "use_beam_search": False, "watermarking": None,
    },
    "/v1/responses": {
        "ignore_eos": False, "include_reasoning": True, "priority": 0,
        "skip_special_tokens": True, "stop": [], "stop_token_ids": [], "seed": None,
        "structured_outputs": None, "top_k": None, "previous_response_id": None,
    },
}  # fmt: skip
"""The defaults of vLLM's own requests, which its users' tools write out."""
TABLES: dict[str, tuple[Mapping[str, Refused], ...]] = {
    "/v1/chat/completions": (openai_schema.OTHERS, openai_schema.OTHERS_OF_CHAT),
    "/v1/completions": (openai_schema.OTHERS, openai_schema.OTHERS_OF_COMPLETIONS),
    "/v1/responses": (responses_schema.OTHERS,),
    "/v1/messages": (anthropic_schema.OTHERS,),
}


def refused() -> Iterator[tuple[str, str, Refused]]:
    for path, tables in TABLES.items():
        for table in tables:
            for name, field in table.items():
                yield path, name, field


@pytest.mark.parametrize("path", OF_SDKS)
def test_null_is_not_given_in_every_field_of_the_sdks(http: httpx.Client, path: str) -> None:
    names = {name for params in OF_SDKS[path] for name in params.__annotations__}
    for name in sorted(names - BODIES[path].keys()):
        answer = http.post(path, json={**BODIES[path], name: None})
        assert answer.status_code == 200, (name, answer.text)


@pytest.mark.parametrize("path", OF_VLLM)
def test_defaults_of_vllm_are_taken(http: httpx.Client, path: str) -> None:
    for name, value in OF_VLLM[path].items():
        answer = http.post(path, json={**BODIES[path], name: value})
        assert answer.status_code == 200, (name, answer.text)


def test_what_asks_for_nothing_is_taken_and_all_else_refused(http: httpx.Client) -> None:
    for path, name, field in refused():
        for value in (None, *field.nothing):
            answer = http.post(path, json={**BODIES[path], name: value})
            assert answer.status_code == 200, (path, name, value, answer.text)
        answer = http.post(path, json={**BODIES[path], name: {"other": 7}})
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert error.get("param", name) == name
        assert error["message"].rstrip(".") == field.because.rstrip(".")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_misspelt_field_is_refused(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={**BODIES[path], "temprature": None})
    assert answer.status_code == 400
    assert "did you mean 'temperature'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_top_p_0_takes_the_likeliest_token(http: httpx.Client, path: str) -> None:
    hot = {"temperature": 2, "top_k": 0, "seed": 5}
    most = {"max_output_tokens": 12} if path == "/v1/responses" else {"max_tokens": 12}

    def texts(**options: Any) -> str:
        answer = http.post(path, json={**BODIES[path], "model": "base", **most, **options}).json()
        written = answer["output"] if path == "/v1/responses" else answer["choices"]
        return str([{**one, "id": ""} for one in written])

    assert texts(top_p=0, **hot) == texts(temperature=0) == texts(top_p=0)
    assert texts(top_p=1, **hot) != texts(temperature=0)
