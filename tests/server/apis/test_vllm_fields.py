"""Fields of vLLM's API that its users' tools send, on chat, completions, responses and tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jinja2
import pytest

from quire import __version__
from quire.tokenizer import Tokenizer
from tests.server.serving import Served

Echo = Callable[..., Served]
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO: list[Any] = [{"role": "user", "content": "Hello! Who are you?"}]
GREEDY = {"model": "base", "temperature": 0, "max_tokens": 12}


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[Any]:
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def prompt_of(http: httpx.Client, messages: list[Any]) -> list[int]:
    return post(http, "/tokenize", {"messages": messages})["tokens"]


# --- token ids and usage ---------------------------------------------------------------------------


def test_the_prompts_token_ids_of_a_chat(http: httpx.Client) -> None:
    body = {**GREEDY, "messages": HELLO, "return_token_ids": True}
    whole = post(http, CHAT, body)
    assert whole["prompt_token_ids"] == prompt_of(http, HELLO)
    assert len(whole["prompt_token_ids"]) == whole["usage"]["prompt_tokens"]
    first, *others = events(http, CHAT, body)
    assert first["prompt_token_ids"] == whole["prompt_token_ids"]
    assert not any("prompt_token_ids" in event for event in others)
    ids = [token for event in others for token in event["choices"][0].get("token_ids", [])]
    assert ids == whole["choices"][0]["token_ids"]
    assert "prompt_token_ids" not in post(http, CHAT, {**body, "return_token_ids": False})


def test_the_prompts_token_ids_of_completions(http: httpx.Client, tokenizer: Tokenizer) -> None:
    prompts = ["Hello", "The cache is"]
    body = {**GREEDY, "prompt": prompts, "return_token_ids": True, "n": 2}
    wanted = [tokenizer.encode_whole(prompt) for prompt in prompts for _ in range(2)]
    assert [one["prompt_token_ids"] for one in post(http, COMPLETIONS, body)["choices"]] == wanted
    found: dict[int, list[list[int]]] = {}
    for event in events(http, COMPLETIONS, body):
        for choice in event["choices"]:
            if "prompt_token_ids" in choice:
                found.setdefault(choice["index"], []).append(choice["prompt_token_ids"])
    assert found == {index: [ids] for index, ids in enumerate(wanted)}


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(
    ("path", "given"), [(CHAT, {"messages": HELLO, "n": 2}), (COMPLETIONS, {"prompt": ["a", "b"]})]
)
def test_usage_in_every_chunk(
    http: httpx.Client, path: str, given: dict[str, Any], include: bool
) -> None:
    options = {"include_usage": include, "continuous_usage_stats": True}
    body = {**GREEDY, "seed": 1, "temperature": 1, **given, "stream_options": options}
    found = list(events(http, path, body))
    counts = [event["usage"]["completion_tokens"] for event in found]
    assert counts == sorted(counts)
    assert all(event["usage"]["prompt_tokens"] > 0 for event in found)
    del body["stream_options"]
    whole = post(http, path, body)["usage"]
    assert found[-1]["usage"] == {
        **whole,
        "prompt_tokens_details": found[-1]["usage"]["prompt_tokens_details"],
    }
    assert (found[-1]["choices"] == []) == include


def test_thoughts_are_counted(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    usage = post(http, CHAT, {**GREEDY, "max_tokens": 99, "messages": messages})["usage"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


# --- prompts ---------------------------------------------------------------------------------------


def test_log_probabilities_of_a_chats_prompt(http: httpx.Client) -> None:
    body = {**GREEDY, "messages": HELLO, "prompt_logprobs": 2, "n": 2}
    found = post(http, CHAT, body)["prompt_logprobs"]
    same = {**GREEDY, "prompt": prompt_of(http, HELLO), "prompt_logprobs": 2}
    assert found == post(http, COMPLETIONS, same)["choices"][0]["prompt_logprobs"]
    assert found[0] is None
    answer = http.post(CHAT, json={**body, "stream": True})
    assert answer.json()["error"]["param"] == "prompt_logprobs"


def test_a_chats_answer_has_no_message_to_repeat(http: httpx.Client) -> None:
    body = {**GREEDY, "messages": HELLO}
    plain, echoed = (post(http, CHAT, {**body, "echo": echo}) for echo in (False, True))
    assert echoed["choices"] == plain["choices"]


def test_a_prompt_is_cut_to_its_last_tokens(http: httpx.Client, tokenizer: Tokenizer) -> None:
    ids = prompt_of(http, HELLO)
    for most, kept in ((5, ids[-5:]), (10_000, ids), (-1, ids)):
        options = {"return_token_ids": True, "truncate_prompt_tokens": most}
        chat = post(http, CHAT, {**GREEDY, "messages": HELLO, **options})
        assert chat["prompt_token_ids"] == kept
        assert chat["usage"]["prompt_tokens"] == len(kept)
        body = {**GREEDY, "prompt": ids, "echo": True, **options}
        (choice,) = post(http, COMPLETIONS, body)["choices"]
        assert choice["prompt_token_ids"] == kept
        assert choice["text"].startswith(tokenizer.decode(kept))
    same = {**GREEDY, "prompt": ids[-5:]}
    (cut,) = post(http, COMPLETIONS, {**GREEDY, "prompt": ids, "truncate_prompt_tokens": 5})[
        "choices"
    ]
    assert cut["text"] == post(http, COMPLETIONS, same)["choices"][0]["text"]


def test_minus_one_leaves_room_for_the_answer(http: httpx.Client) -> None:
    long = [{"role": "user", "content": "word " * 5000}]
    body = {**GREEDY, "messages": long, "ignore_eos": True}
    assert http.post(CHAT, json=body).status_code == 400
    cut = post(http, CHAT, {**body, "truncate_prompt_tokens": -1})
    assert cut["usage"]["total_tokens"] == 4096
    assert cut["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("most", [0, -2, 1.5, "all"])
@pytest.mark.parametrize(
    ("path", "given"), [(CHAT, {"messages": HELLO}), (COMPLETIONS, {"prompt": "a"})]
)
def test_a_wrong_length_of_prompts_is_refused(
    http: httpx.Client, path: str, given: dict[str, Any], most: Any
) -> None:
    answer = http.post(path, json={**GREEDY, **given, "truncate_prompt_tokens": most})
    assert answer.status_code == 400
    assert "truncate_prompt_tokens must be" in answer.json()["error"]["message"]


# --- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_stays_where_it_is_wanted(http: httpx.Client, stream: bool) -> None:
    body = {**GREEDY, "max_tokens": 60, "messages": HELLO}
    text = post(http, CHAT, body)["choices"][0]["message"]["content"]
    stop = text.split()[3]

    def stopped(**options: Any) -> str:
        options |= {"stop": [stop, "never there"]}
        if not stream:
            return post(http, CHAT, {**body, **options})["choices"][0]["message"]["content"]
        changes = (
            event["choices"][0]["delta"] for event in events(http, CHAT, {**body, **options})
        )
        return "".join(change.get("content") or "" for change in changes)

    before = text[: text.index(stop)]
    assert stopped() == stopped(include_stop_str_in_output=False) == before
    assert stopped(include_stop_str_in_output=True) == before + stop


def test_a_stop_token_with_a_text_stays_too(http: httpx.Client, tokenizer: Tokenizer) -> None:
    body = {**GREEDY, "max_tokens": 60, "messages": HELLO, "return_token_ids": True}
    ids = post(http, CHAT, body)["choices"][0]["token_ids"]
    token = ids[5]
    before = tokenizer.decode(ids[: ids.index(token)])
    for keep, wanted in ((False, before), (True, before + tokenizer.decode([token]))):
        options = {"stop_token_ids": [token], "include_stop_str_in_output": keep}
        choice = post(http, CHAT, {**body, **options})["choices"][0]
        assert (choice["message"]["content"], choice["stop_reason"]) == (wanted, token)


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_offered(http: httpx.Client) -> None:
    body = {**GREEDY, "messages": HELLO, "max_tokens": 60}
    body |= {"tools": [tool("one"), tool("two")], "parallel_tool_calls": False}
    must = post(http, CHAT, {**body, "tool_choice": allowed("required", "two")})
    calls = must["choices"][0]["message"]["tool_calls"]
    assert {call["function"]["name"] for call in calls} == {"two"}
    may = post(http, CHAT, {**body, "tool_choice": allowed("auto", "two")})
    alone = post(http, CHAT, {**body, "tools": [tool("two")]})
    assert may["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    answer = http.post(CHAT, json={**body, "tool_choice": allowed("auto", "two", "three")})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tool_choice.allowed_tools.tools"


# --- responses -------------------------------------------------------------------------------------


def test_responses_take_the_sampling_fields_of_chat(echo: Echo) -> None:
    served = echo(reply="some text", template="qwen3")
    engine: Any = served.engine
    fields: dict[str, Any] = {
        "top_k": 7, "min_p": 0.25, "seed": 11, "repetition_penalty": 1.5, "presence_penalty": 0.5,
        "frequency_penalty": -0.5, "ignore_eos": True, "min_tokens": 2, "logit_bias": {"5": 1.5},
        "stop_token_ids": [9], "bad_words": ["no"], "skip_special_tokens": True,
        "include_stop_str_in_output": True,
    }  # fmt: skip
    extra = {"stop": ["END"], "chat_template_kwargs": {"enable_thinking": False}}
    with httpx.Client(base_url=served.url, timeout=60) as client:
        body = {"model": "demo", "input": "hi", **fields, **extra}
        answer = client.post(RESPONSES, json=body)
        assert answer.status_code == 200, answer.text
        params = engine.last_params
        assert client.post(RESPONSES, json={**body, "top_k": -5}).status_code == 400
    fields |= {"logit_bias": {5: 1.5}, "stop_token_ids": (9,), "bad_words": ("no",)}
    for name, value in fields.items():
        found = getattr(params, name)
        assert (value[0] in found) if name == "stop_token_ids" else (found == value), name
    assert "END" in params.stop


def test_a_template_of_responses_gets_its_variables(http: httpx.Client) -> None:
    body = {"model": "base", "input": "What is 17 + 25?", "temperature": 0}
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    kinds = [
        [item["type"] for item in post(http, RESPONSES, {**body, **more})["output"]]
        for more in ({}, off)
    ]
    assert kinds == [["reasoning", "message"], ["message"]]
    both = {**off, "reasoning": {"effort": "high"}}
    assert http.post(RESPONSES, json={**body, **both}).status_code == 400


def test_structured_outputs_of_responses(http: httpx.Client) -> None:
    body = {"model": "base", "input": "Hello!", "structured_outputs": {"choice": ["tea", "milk"]}}
    (item,) = post(http, RESPONSES, body)["output"]
    assert item["content"][0]["text"] in ("tea", "milk")


# --- the tokenizer ---------------------------------------------------------------------------------


def test_a_client_can_render_and_count_by_itself(http: httpx.Client, tokenizer: Tokenizer) -> None:
    """As lm_eval does with `tokenizer_backend=remote`."""
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == tokenizer.eos_token
    assert {"bos_token", "pad_token", "tokenizer_class"} <= info.keys()
    plain = {"add_special_tokens": False}
    assert post(http, "/tokenize", {"prompt": info["eos_token"], **plain})["tokens"] == [
        tokenizer.eos_token_id
    ]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(info["chat_template"])
    text = template.render(messages=HELLO, add_generation_prompt=True)
    assert post(http, "/tokenize", {"prompt": text, **plain})["tokens"] == prompt_of(http, HELLO)


def test_the_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": __version__}
