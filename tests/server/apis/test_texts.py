"""Embeddings, scores, token ids: what the engine says in Python is what the server says."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from quire.chat import ChatModel
from quire.demo import demo_model_path, demo_reward_path
from quire.request import ChatRequest
from quire.tokenizer import Tokenizer
from tests.server.serving import Served, serving
from tools.demo_models.rewards import held_out_pairs, shown

TEXTS = ["Hello there.", "What is 2 plus 3?", "ü 🙂"]
PAIRS = held_out_pairs(4)


@pytest.fixture(scope="module")
def vectors(served: Served) -> list[list[float]]:
    """The bare model's embeddings, by Python's own way."""
    return asyncio.run(served.engine.get_embeddings(TEXTS, adapter="base"))


# --- embeddings ----------------------------------------------------------------------------------


def test_the_official_client_gets_the_engines_vectors(
    client: OpenAI, vectors: list[list[float]], tokenizer: Tokenizer
) -> None:
    count = sum(len(tokenizer.encode(text)) for text in TEXTS)
    for options in ({}, {"encoding_format": "base64"}, {"encoding_format": "float"}):
        found = client.embeddings.create(model="base", input=TEXTS, **options)  # type: ignore[arg-type]
        if options.get("encoding_format") != "base64":  # then the client leaves it as it is
            np.testing.assert_allclose([one.embedding for one in found.data], vectors, atol=1e-7)
        assert [one.index for one in found.data] == [0, 1, 2]
        assert found.usage.prompt_tokens == found.usage.total_tokens == count


def test_token_ids_are_texts_too(
    client: OpenAI, vectors: list[list[float]], tokenizer: Tokenizer
) -> None:
    ids = [tokenizer.encode(text) for text in TEXTS]
    many = client.embeddings.create(model="base", input=ids)
    one = client.embeddings.create(model="base", input=ids[1])
    text = client.embeddings.create(model="base", input=TEXTS[1])
    np.testing.assert_allclose([data.embedding for data in many.data], vectors, atol=1e-7)
    assert len(one.data) == 1
    assert one.data[0].embedding == many.data[1].embedding == text.data[0].embedding


def test_options_of_embeddings(client: OpenAI, vectors: list[list[float]]) -> None:
    def vector(**body: Any) -> list[float]:
        found = client.embeddings.create(model="base", input=TEXTS[0], extra_body=body)
        return found.data[0].embedding

    length = len(vectors[0])
    assert vector(dimensions=length) == vector()
    assert np.linalg.norm(vector()) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(vector(normalize=False)) > 1.5
    assert vector(pooling="mean") != vector()
    assert vector(truncate_prompt_tokens=1) != vector() == vector(truncate_prompt_tokens=-1)
    pirate = client.embeddings.create(model="adapter", input=TEXTS[0])
    assert pirate.data[0].embedding != vector()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"dimensions": 3}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": 3}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"pooling": "cls"}, "pooling"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"dimension": 3}, "dimension"),
        ({"input": ""}, None),
        ({"input": [10**6]}, None),
        ({"input": "a " * 9000}, None),
    ],
)
def test_wrong_embeddings_are_refused(client: OpenAI, body: Any, param: str | None) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.embeddings.create(model="base", input="x", extra_body=body)
    assert refused.value.param == param


# --- scores --------------------------------------------------------------------------------------


def scores_in_python(texts: list[str]) -> list[float]:
    with ChatModel({"model_name_or_path": str(demo_reward_path()), "stage": "rm"}) as model:
        return model.get_scores(texts)


def test_scores_are_the_engines(reward: httpx.Client, tokenizer: Tokenizer) -> None:
    texts = [shown(pair.question, pair.better, 0) for pair in PAIRS]
    texts += [shown(pair.question, pair.worse, 0) for pair in PAIRS]
    wanted = scores_in_python(texts)
    # As LLaMA-Factory's PPO training asks, whatever model it names.
    found = reward.post("/v1/score/evaluation", json={"model": "model", "messages": texts}).json()
    assert found["scores"] == wanted
    assert (found["object"], found["model"]) == ("score.evaluation", "model")
    assert found["id"].startswith("scoreval-")
    assert all(better > worse for better, worse in zip(wanted[:4], wanted[4:], strict=True))
    listed = reward.post("/v1/score", json={"model": "demo", "input": texts}).json()
    assert [one["score"] for one in listed["data"]] == wanted
    assert [one["index"] for one in listed["data"]] == list(range(8))
    count = sum(len(tokenizer.encode(text)) for text in texts)
    assert listed["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_a_pair_is_scored_as_one_text(reward: httpx.Client) -> None:
    def scores(**body: Any) -> list[float]:
        return [one["score"] for one in reward.post("/v1/score", json=body).json()["data"]]

    joined = scores(input=["Who?\nI.", "Who?\nYou fool."])
    assert scores(text_1="Who?\n", text_2=["I.", "You fool."]) == joined
    assert scores(text_1=["Who?\n", "Who?\n"], text_2=["I.", "You fool."]) == joined
    assert scores(text_1="Who?\n", text_2="I.") == scores(input="Who?\nI.") == joined[:1]
    assert scores(input="Who?\nI.", truncate_prompt_tokens=2) != joined[:1]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/score", {}, "input"),
        ("/v1/score", {"input": "a", "text_1": "b"}, "input"),
        ("/v1/score", {"text_1": "b"}, "input"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a"]}, "text_1"),
        ("/v1/score", {"input": []}, "input"),
        ("/v1/score", {"input": "a", "use_activation": True}, "use_activation"),
        ("/v1/score/evaluation", {"messages": []}, "messages"),
        ("/v1/score/evaluation", {"messages": "a"}, "messages"),
        ("/v1/score/evaluation", {"messages": ["a"], "max_length": 0}, "max_length"),
        ("/v1/score/evaluation", {"messages": ["a"], "max_len": 1}, "max_len"),
    ],
)
def test_wrong_scores_are_refused(reward: httpx.Client, path: str, body: Any, param: str) -> None:
    answer = reward.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_each_model_does_its_own_kind(http: httpx.Client, reward: httpx.Client) -> None:
    for path, body in (
        ("/v1/score", {"input": "a"}),
        ("/v1/score/evaluation", {"model": "x", "messages": ["a"]}),
    ):
        answer = http.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "not_supported")
    messages = [{"role": "user", "content": "a"}]
    for path, body in (
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"model": "demo", "max_tokens": 3, "messages": messages}),
        ("/v1/chat/completions", {"messages": messages}),
    ):
        assert reward.post(path, json=body).status_code == 405


# --- models ----------------------------------------------------------------------------------------


def test_models_tell_what_they_take(http: httpx.Client) -> None:
    own = json.loads((demo_model_path() / "generation_config.json").read_text())
    listed = http.get("/v1/models").json()
    assert listed["max_body_bytes"] == 32 * 2**20
    for card in listed["data"]:
        assert card["max_media"] == {}
        wanted = {name: own[name] for name in ("temperature", "top_p")} | {"max_tokens": 1024}
        assert wanted.items() <= card["defaults"].items()
        assert "seed" not in card["defaults"]  # None: the engine decides
        assert card["thinking"] == {"switch": True, "default": True, "efforts": []}


def test_models_whose_template_knows_no_thoughts_offer_no_choice_of_them() -> None:
    arguments = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "native_kv_cache_memory": "64MiB",
        "template": "qwen",
    }
    with ChatModel(arguments) as model, serving(model) as served:
        cards = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert [card["thinking"] for card in cards] == [None] * len(cards)


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "Hello there.", "ü 🙂 <|im_end|>"])
def test_tokens_there_and_back(http: httpx.Client, tokenizer: Tokenizer, text: str) -> None:
    found = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    ids = tokenizer.encode_whole(text)
    assert found["tokens"] == ids
    assert found["count"] == len(ids)
    assert found["max_model_len"] == 4096
    assert found["token_strs"] == [tokenizer.id_to_token(token) for token in ids]
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}


def test_a_conversation_is_tokenised_by_its_template(http: httpx.Client, served: Served) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    engine = served.engine
    for more, options in (
        ({}, {}),
        ({"tools": [tool]}, {}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"enable_thinking": False},
        ),
    ):
        found = http.post("/tokenize", json={"messages": messages, **more}).json()
        request = ChatRequest(messages, tools=cast("Any", more.get("tools")), options=options)
        wanted = engine.tokens.preparation.prepare_text(request).prompt.token_ids
        assert found["tokens"] == list(wanted)
        assert found["token_strs"] is None


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template"),
        (
            "/tokenize",
            {"prompt": "a", "add_generation_prompt": False},
            "add_generation_prompt",
        ),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "a"}], "add_special_tokens": True},
            "add_special_tokens",
        ),
        ("/detokenize", {"tokens": [5, 10**6]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
    ],
)
def test_wrong_tokens_are_refused(http: httpx.Client, path: str, body: Any, param: str) -> None:
    answer = http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/embeddings"])
def test_a_model_that_is_not_served(http: httpx.Client, path: str) -> None:
    body = {"/tokenize": {"prompt": "a"}, "/detokenize": {"tokens": [1]}}.get(path, {"input": "a"})
    answer = http.post(path, json={"model": "nothing", **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
