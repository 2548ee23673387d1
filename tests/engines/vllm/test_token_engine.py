"""VllmEngine on real vLLM and the demo model: the whole contract over one engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quire.chat import ChatModel
from quire.chat.vllm_engine import VllmEngine
from quire.demo import demo_adapter_path, demo_model_path
from quire.errors import (
    AdapterError,
    EngineError,
    MediaError,
    MessageError,
    PromptTooLongError,
    QuireError,
    RequestError,
    RequestTimeoutError,
    SamplingError,
    UnknownAdapterError,
    UnsupportedOptionError,
)
from tests.cities import CHOICES, NAMED, check_twenty_of_twenty
from tests.demo.speaking import answers as transformers_answers
from tests.demo.test_adapter import QUESTIONS, _shows
from tests.forks import call_all, check_refused, in_fork
from tests.polling import eventually, wait_until

HELLO = [{"role": "user", "content": "Hello! Who are you?"}]
LONG: dict[str, Any] = {"max_new_tokens": 900, "ignore_eos": True, "adapter": "base"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def native() -> Iterator[ChatModel]:
    arguments = {"model_name_or_path": str(demo_model_path()), "infer_backend": "native"}
    with ChatModel(arguments) as model:
        yield model


def engine_of(model: ChatModel) -> VllmEngine:
    assert isinstance(model.engine, VllmEngine)
    return model.engine


def unfinished_in_vllm(model: ChatModel) -> int:
    """Requests that vLLM itself has in flight: its frontend's count."""
    running = engine_of(model).token_engine._supervisor.current()
    return running.engine.output_processor.get_num_unfinished_requests()


def has_work_in_core(model: ChatModel) -> bool:
    """Whether vLLM's scheduler, in the engine's own process, holds any request."""
    core = engine_of(model).token_engine._supervisor.current().engine.engine_core
    return model._loop.run(core.call_utility_async("has_work"))


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_tokens_are_those_of_the_native_engine(
    vllm_model: ChatModel, native: ChatModel, question: str
) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 120}
    (ours,) = native.chat(asked(question), **options)
    (theirs,) = vllm_model.chat(asked(question), adapter="base", **options)
    assert theirs.token_ids == ours.token_ids
    assert theirs == ours


def test_greedy_answers_are_those_of_transformers(vllm_model: ChatModel) -> None:
    expected = transformers_answers(demo_model_path(), [asked(text) for text in QUESTIONS])
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(
            lambda text: (
                vllm_model.chat(asked(text), adapter="base", temperature=0, max_new_tokens=160)[
                    0
                ].response_text
            ),
            QUESTIONS,
        )
        assert [text.strip() for text in found] == expected


def test_the_stream_adds_up_to_the_whole_answer(vllm_model: ChatModel) -> None:
    (whole,) = vllm_model.chat(HELLO, temperature=0)
    deltas = list(vllm_model.stream(HELLO, temperature=0))
    assert len(deltas) > 1  # vLLM joins what a slow reader has not taken yet
    assert "".join(delta.text for delta in deltas) == whole.response_text
    assert sum((delta.token_ids for delta in deltas), ()) == whole.token_ids
    assert [delta.finish_reason for delta in deltas] == [*(None for _ in deltas[1:]), "stop"]
    assert deltas[-1].usage == whole.usage
    assert "".join(vllm_model.stream_chat(HELLO, temperature=0)) == whole.response_text


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"do_sample": False}])
def test_three_are_three(vllm_model: ChatModel, options: dict[str, Any]) -> None:
    found = vllm_model.chat(HELLO, num_return_sequences=3, max_new_tokens=12, **options)
    assert [response.index for response in found] == [0, 1, 2]
    assert all(response.response_length > 0 for response in found)
    deltas = list(vllm_model.stream(HELLO, n=3, max_new_tokens=12, **options))
    ended = [delta.index for delta in deltas if delta.finish_reason is not None]
    assert sorted(ended) == [0, 1, 2]


def test_a_seed_gives_the_same_again_and_completions_differ(vllm_model: ChatModel) -> None:
    options: dict[str, Any] = {
        "temperature": 1.5,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 30,
        "n": 3,
    }
    first = vllm_model.chat(HELLO, seed=-1, **options)
    again = vllm_model.chat(HELLO, seed=-1, **options)
    other = vllm_model.chat(HELLO, seed=2**64 - 5, **options)
    assert [r.token_ids for r in first] == [r.token_ids for r in again]
    assert len({r.token_ids for r in [*first, *other]}) > 3


def test_stop_strings_and_limits(vllm_model: ChatModel) -> None:
    (stopped,) = vllm_model.chat(HELLO, adapter="base", temperature=0, stop=["small"])
    assert stopped.finish_reason == "stop"
    assert stopped.response_text.endswith(", a ")
    (cut,) = vllm_model.chat(HELLO, temperature=0, max_new_tokens=3)
    assert (cut.finish_reason, cut.response_length) == ("length", 3)
    (last,) = list(vllm_model.stream(HELLO, temperature=0, max_new_tokens=1))
    assert last.finish_reason == "length"


def test_logprobs_are_those_of_the_native_engine(vllm_model: ChatModel, native: ChatModel) -> None:
    options: dict[str, Any] = {
        "temperature": 0,
        "max_new_tokens": 12,
        "logprobs": 3,
        "prompt_logprobs": 2,
    }
    (ours,), (theirs,) = (
        native.chat(HELLO, **options),
        vllm_model.chat(HELLO, adapter="base", **options),
    )
    assert ours.logprobs is not None
    assert theirs.logprobs is not None
    for mine, other in zip(ours.logprobs, theirs.logprobs, strict=True):
        assert other.token_id == mine.token_id
        assert other.rank == mine.rank == 1
        assert list(other.top) == list(mine.top)
        assert list(other.top.values()) == pytest.approx(list(mine.top.values()), abs=2e-3)
    assert ours.prompt_logprobs is not None
    assert theirs.prompt_logprobs is not None
    assert theirs.prompt_logprobs[0] is ours.prompt_logprobs[0] is None
    for mine, other in zip(ours.prompt_logprobs[1:], theirs.prompt_logprobs[1:], strict=True):
        assert mine is not None
        assert other is not None
        assert other.logprob == pytest.approx(mine.logprob, abs=2e-3)
        assert (other.token_id, other.rank) == (mine.token_id, mine.rank)


def test_penalties_biases_and_bad_words(vllm_model: ChatModel) -> None:
    base: dict[str, Any] = {"adapter": "base", "temperature": 0, "max_new_tokens": 16}
    (plain,) = vllm_model.chat(HELLO, **base)
    token = plain.token_ids[1]
    (biased,) = vllm_model.chat(HELLO, logit_bias={token: -100}, **base)
    assert token not in biased.token_ids
    (without,) = vllm_model.chat(HELLO, bad_words=["quire"], **base)
    assert "quire" not in without.response_text
    (penalised,) = vllm_model.chat(HELLO, repetition_penalty=5.0, presence_penalty=2.0, **base)
    assert penalised.token_ids != plain.token_ids


# --- what it tells of itself ---------------------------------------------------------------------


def test_its_load_is_that_of_the_last_step(vllm_model: ChatModel) -> None:
    engine = engine_of(vllm_model)
    before = engine.state.load
    assert before is not None
    assert (before.running, before.waiting, before.kv_cache_usage) == (0, 0, 0)
    long = asked("Count the ships. " * 100)
    vllm_model.chat(long, adapter="base", max_new_tokens=1)
    with closing(vllm_model.stream(long, **{**LONG, "max_new_tokens": 100})) as stream:
        next(stream)
        now = engine.state.load
        assert now is not None
        assert now.running == 1
        assert 0 < (now.kv_cache_usage or 0) < 1
        assert now.prefix_queries - before.prefix_queries > 600
        assert now.prefix_hits - before.prefix_hits >= 256
    wait_until(lambda: not unfinished_in_vllm(vllm_model))  # an abort is no step that would tell it
    after = engine.state.load
    assert after is not None
    assert (after.running, after.waiting, after.kv_cache_usage) == (0, 0, 0)
    assert after.prefix_hits == now.prefix_hits


# --- constrained output --------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"enum": ["Paris", "Oslo"]},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}


def test_a_json_schema_is_obeyed_twenty_times(vllm_model: ChatModel) -> None:
    def ask(seed: int) -> dict[str, Any]:
        (answer,) = vllm_model.chat(
            asked("Tell me about a person."),
            adapter="base",
            seed=seed,
            temperature=1.5,
            max_new_tokens=200,
            response_format={"type": "json_schema", "json_schema": {"schema": PERSON}},
        )
        assert answer.finish_reason == "stop"
        return json.loads(answer.content)

    with ThreadPoolExecutor(8) as pool:
        for person in pool.map(ask, range(20)):
            assert set(person) == {"name", "age", "city"}
            assert len(person["name"]) <= 12
            assert 0 <= person["age"] <= 150
            assert person["city"] in ("Paris", "Oslo")


@pytest.mark.parametrize(
    ("response_format", "right"),
    [
        ({"type": "choice", "choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"type": "regex", "regex": "[0-9]{3}-[0-9]{2}"}, lambda text: text[3] == "-"),
        ({"type": "json_object"}, lambda text: isinstance(json.loads(text), dict)),
        ({"type": "grammar", "grammar": 'root ::= "left" | "right"'}, lambda t: t in ("left", "right")),
    ],
)  # fmt: skip
def test_other_constraints(vllm_model: ChatModel, response_format: Any, right: Any) -> None:
    question = asked("Give me a JSON object with name Ada and age 36.")
    (answer,) = vllm_model.chat(
        question, adapter="base", temperature=0, response_format=response_format
    )
    assert right(answer.content), answer.content


SUM = asked("What is 17 + 25?")
DIGITS = {"type": "regex", "regex": "[0-9]+"}


def test_a_constraint_begins_after_the_thought(vllm_model: ChatModel) -> None:
    (answer,) = vllm_model.chat(SUM, adapter="base", temperature=0, response_format=DIGITS)
    assert answer.reasoning
    assert answer.content.isdigit()
    off = {"enable_thinking": False, "response_format": DIGITS}
    (without,) = vllm_model.chat(SUM, adapter="base", temperature=0, **off)
    assert not without.reasoning
    assert without.content.isdigit()


def test_a_budget_of_tokens_closes_the_thought(vllm_model: ChatModel) -> None:
    for budget in (0, 3, 10):
        for more in ({}, {"response_format": DIGITS}):
            options = {"adapter": "base", "temperature": 0, "thinking_budget": budget, **more}
            (answer,) = vllm_model.chat(SUM, **options)
            assert answer.usage is not None
            assert answer.usage.reasoning_tokens <= budget
            assert answer.content.strip()
            assert answer.finish_reason == "stop"


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_twenty_cities_of_twenty(vllm_model: ChatModel, choice: Any) -> None:
    check_twenty_of_twenty(vllm_model, WEATHER, adapter="base", tool_choice=choice)


def test_a_call_or_an_answer_of_the_format(vllm_model: ChatModel) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": PERSON}}
    options = {"adapter": "base", "tools": [WEATHER], "temperature": 0, "response_format": form}
    (call,) = vllm_model.chat(asked("What is the weather in Paris?"), **options)
    assert [json.loads(one.arguments) for one in call.tool_calls] == [{"city": "Paris"}]
    question = asked("Give me a JSON object with name Ada and age 36.")
    (text,) = vllm_model.chat(question, **options)
    assert text.tool_calls == ()
    assert json.loads(text.content)["name"] == "Ada"


def test_a_forced_call_that_is_cut_returns_its_part(vllm_model: ChatModel) -> None:
    options = {"adapter": "base", "tools": [WEATHER], "tool_choice": NAMED, "temperature": 0}
    question = asked("What is the weather in Paris?")
    (whole,) = vllm_model.chat(question, **options)
    (answer,) = vllm_model.chat(question, max_new_tokens=whole.response_length - 5, **options)
    assert answer.finish_reason == "length"
    assert '{"city": "Paris"}'.startswith(answer.tool_calls[0].arguments)


def test_text_that_reads_like_an_added_token_is_text(vllm_model: ChatModel) -> None:
    text = "a <think> b"
    schema = {"type": "object", "properties": {"x": {"const": text}}, "required": ["x"]}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    (answer,) = vllm_model.chat(HELLO, adapter="base", temperature=0, response_format=form)
    assert (answer.finish_reason, json.loads(answer.content)) == ("stop", {"x": text})


def test_a_schema_that_cannot_be_compiled_is_the_requests_fault(vllm_model: ChatModel) -> None:
    bad = {"type": "regex", "regex": "(unclosed"}
    with pytest.raises(RequestError):
        vllm_model.chat(HELLO, response_format=bad)
    assert vllm_model.chat(HELLO, max_new_tokens=2)


# --- thoughts, tools -----------------------------------------------------------------------------


def test_thoughts_are_apart_from_the_answer(vllm_model: ChatModel) -> None:
    (answer,) = vllm_model.chat(asked("What is 17 + 25?"), adapter="base", temperature=0)
    assert answer.reasoning
    assert answer.content.strip().endswith("42.")
    (quick,) = vllm_model.chat(
        asked("What is 17 + 25?"), adapter="base", temperature=0, enable_thinking=False
    )
    assert not quick.reasoning


def test_a_tool_is_called(vllm_model: ChatModel) -> None:
    (answer,) = vllm_model.chat(
        asked("What is the weather in Paris?"), tools=[WEATHER], adapter="base", temperature=0
    )
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})


# --- adapters ------------------------------------------------------------------------------------


def test_two_adapters_and_the_base_at_once(vllm_model: ChatModel) -> None:
    names = {"pirate": "adapter", "butler": "adapter_butler", "base": "base"}
    jobs = [(manner, text) for text in QUESTIONS for manner in names]

    def ask(job: tuple[str, str]) -> str:
        manner, text = job
        return vllm_model.chat(
            asked(text), adapter=names[manner], temperature=0, max_new_tokens=160
        )[0].content

    with ThreadPoolExecutor(12) as pool:
        found = dict(zip(jobs, pool.map(ask, jobs), strict=True))
    for manner in ("pirate", "butler"):
        assert sum(_shows(manner, found[manner, text]) for text in QUESTIONS) >= 9
        assert not any(_shows(manner, found["base", text]) for text in QUESTIONS)


def test_the_configured_adapter_is_the_default(vllm_model: ChatModel) -> None:
    assert "Arr!" in vllm_model.chat(HELLO, temperature=0)[0].response_text
    assert [adapter.name for adapter in vllm_model.adapters] == ["adapter", "adapter_butler"]


def test_an_adapter_comes_and_goes(vllm_model: ChatModel, tmp_path: Path) -> None:
    copy = tmp_path / "second_butler"
    copy.symlink_to(demo_adapter_path("butler"))
    adapter = vllm_model.load_adapter(copy)
    assert adapter.name == "second_butler"
    assert "Certainly." in vllm_model.chat(HELLO, adapter="second_butler")[0].content
    with pytest.raises(AdapterError, match="second_butler"):
        vllm_model.load_adapter(copy)
    vllm_model.drop_adapter("second_butler")
    with pytest.raises(UnknownAdapterError, match="second_butler"):
        vllm_model.chat(HELLO, adapter="second_butler")
    assert "Arr!" in vllm_model.chat(HELLO, temperature=0)[0].content


def test_an_adapter_that_does_not_fit_harms_nobody(vllm_model: ChatModel, tmp_path: Path) -> None:
    folder = tmp_path / "misfit"
    folder.mkdir()
    source = demo_adapter_path("pirate")
    settings = json.loads((source / "adapter_config.json").read_text())
    settings["modules_to_save"] = ["embed_tokens"]
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").symlink_to(source / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="embed_tokens"):
        vllm_model.load_adapter(folder)
    with pytest.raises(UnknownAdapterError):
        vllm_model.chat(HELLO, adapter="misfit")
    assert vllm_model.chat(HELLO, max_new_tokens=2)


# --- ends before the end -------------------------------------------------------------------------


def wait_until_idle(model: ChatModel) -> None:
    wait_until(lambda: not unfinished_in_vllm(model) and not has_work_in_core(model))


def test_an_abandoned_stream_is_aborted_inside_vllm(vllm_model: ChatModel) -> None:
    with closing(vllm_model.stream_chat(HELLO, **LONG)) as stream:
        next(stream)
        assert unfinished_in_vllm(vllm_model) == 1
        assert has_work_in_core(vllm_model)
    wait_until_idle(vllm_model)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_cancelled_request_is_aborted_inside_vllm(
    vllm_model: ChatModel, count: int
) -> None:
    task = asyncio.create_task(vllm_model.achat(HELLO, n=count, **LONG))
    await eventually(lambda: unfinished_in_vllm(vllm_model) == count)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until_idle, vllm_model)


def test_a_timeout_is_an_error_and_an_abort(vllm_model: ChatModel) -> None:
    with pytest.raises(RequestTimeoutError, match=r"0\.2 s"):
        vllm_model.chat(HELLO, timeout=0.2, **LONG)
    wait_until_idle(vllm_model)


async def test_many_cancelled_at_any_moment(vllm_model: ChatModel) -> None:
    async def one(number: int) -> None:
        async with aclosing(vllm_model.astream(HELLO, **LONG)) as stream:
            count = 0
            async for _ in stream:
                count += 1
                if count > number:
                    return

    await asyncio.gather(*(one(number) for number in range(24)))
    await asyncio.to_thread(wait_until_idle, vllm_model)


def test_priorities_are_taken(vllm_model: ChatModel) -> None:
    engine = engine_of(vllm_model).token_engine._supervisor.current().engine
    assert engine.vllm_config.scheduler_config.policy == "priority"
    for priority in (-3, 0, 7):
        (answer,) = vllm_model.chat(HELLO, temperature=0, priority=priority)
        assert answer.finish_reason == "stop"


# --- wrong requests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "options", "error", "words"),
    [
        ([], {}, MessageError, "message"),
        (HELLO, {"temperatur": 1}, UnsupportedOptionError, "temperature"),
        (HELLO, {"temperature": 3.0}, SamplingError, "at most 2"),
        (HELLO, {"logprobs": 65}, SamplingError, "logprobs"),
        (HELLO, {"logit_bias": {10**9: 1.0}}, RequestError, "logit_bias"),
        (HELLO, {"adapter": "nobody"}, UnknownAdapterError, "adapter_butler"),
        (HELLO, {"adapter": "../chat"}, UnknownAdapterError, "chat"),
        (HELLO, {"images": ["a.png"]}, MediaError, "text alone"),
        (HELLO, {"num_beams": 4}, UnsupportedOptionError, "num_beams"),
        ([{"role": "user", "content": "word " * 3000}], {}, PromptTooLongError, "1,024"),
        (HELLO, {"response_format": {"type": "yaml"}}, SamplingError, "yaml"),
        (
            HELLO,
            {"response_format": {"type": "choice", "choice": ["yes"]}, "bad_words": ["yes", "y"]},
            SamplingError,
            "grammar could not go on",
        ),
    ],
)
def test_a_wrong_request_fails_alone(
    vllm_model: ChatModel, messages: Any, options: Any, error: type[QuireError], words: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(vllm_model.chat, HELLO, temperature=0, max_new_tokens=30)
        with pytest.raises(error, match=words):
            vllm_model.chat(messages, **options)
        assert "Arr!" in other.result(60)[0].response_text


async def test_the_engine_itself_serves_one_loop(vllm_model: ChatModel) -> None:
    vllm_model.chat(HELLO, max_new_tokens=1)
    with pytest.raises(EngineError, match="ChatModel"):
        await vllm_model.engine.chat(HELLO, max_new_tokens=1)


def test_scores_need_a_reward_model(vllm_model: ChatModel) -> None:
    with pytest.raises(NotImplementedError, match="stage: rm"):
        vllm_model.get_scores(["a text"])


# --- LLaMA-Factory's own way in ------------------------------------------------------------------


def test_generate_gives_vllms_outputs(vllm_model: ChatModel) -> None:
    from vllm import RequestOutput

    async def read(**options: Any) -> list[RequestOutput]:
        iterator = await engine_of(vllm_model)._generate(HELLO, temperature=1.0, **options)
        return [output async for output in iterator]

    def run(**options: Any) -> list[RequestOutput]:
        return vllm_model._loop.run(read(**options))

    outputs = run(max_new_tokens=200, ignore_eos=True)
    texts = [output.outputs[0].text for output in outputs]
    assert len(texts) > 1  # vLLM joins what a slow reader has not taken yet
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert outputs[-1].finished
    assert isinstance(outputs[-1], RequestOutput)
    (several,) = run(max_new_tokens=8, num_return_sequences=3)
    assert len(several.outputs) == 3
    with pytest.raises(RequestTimeoutError):
        run(timeout=0.01, max_new_tokens=500, ignore_eos=True)


def test_callers_messages_stay_as_they_are(vllm_model: ChatModel) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    vllm_model.chat(messages, system="Be kind.", tools=[WEATHER], max_new_tokens=2)
    assert messages == [{"role": "user", "content": "Hello!"}]


def test_a_forked_child_is_refused_and_the_parent_goes_on(vllm_model: ChatModel) -> None:
    check_refused(in_fork(lambda: call_all(vllm_model)))
    assert vllm_model.chat(HELLO, max_new_tokens=4)


async def test_seeds_beside_prompts_that_take_several_steps(vllm_model: ChatModel) -> None:
    """vLLM draws a token in each step of a prompt and takes it back, which a CPU's generator cannot do."""
    asked = [{"role": "user", "content": "Say it again. " * 20}]

    async def ask(seed: int) -> int:
        (answer,) = await vllm_model.achat(
            asked, seed=seed, temperature=1.0, max_new_tokens=4, ignore_eos=True
        )
        return answer.response_length

    assert await asyncio.gather(*map(ask, range(64))) == [4] * 64
