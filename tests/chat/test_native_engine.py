"""ChatModel on the native engine with a random model: requests, faults, and what a user gets wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from quire import ChatModel
from quire.chat.native_engine import NativeEngine
from quire.engines.native.core.engine import EngineStatistics
from quire.errors import (
    ConfigError,
    EngineClosedError,
    GenerationError,
    ModelNotFoundError,
    OutOfMemoryError,
    PromptTooLongError,
    QuireError,
    RequestTimeoutError,
    SamplingError,
    UnknownAdapterError,
    UnsupportedModelError,
    WeightsError,
)
from quire.tokenizer import Tokenizer
from tests.chat.model_folders import make_model_folder
from tests.engines.native.random_models import load_oracle

HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"max_new_tokens": 200, "ignore_eos": True}
MakeModel = Callable[..., ChatModel]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def make(folder: Path) -> Iterator[MakeModel]:
    made: list[ChatModel] = []

    def make_model(path: Path | None = None, **arguments: Any) -> ChatModel:
        settings = {
            "model_name_or_path": str(path or folder),
            "vllm_maxlen": 256,
            "native_num_threads": 1,
            **arguments,
        }
        made.append(ChatModel(settings))
        return made[-1]

    yield make_model
    for model in made:
        model.close()


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def text_of(model: ChatModel, **options: Any) -> str:
    return model.chat(HELLO, **{"temperature": 0, "max_new_tokens": 20, **options})[0].response_text


def statistics_of(model: ChatModel) -> EngineStatistics:
    assert isinstance(model.engine, NativeEngine)
    return model.engine.statistics


# --- requests ------------------------------------------------------------------------------------


def test_many_threads_get_what_one_gets(make: MakeModel) -> None:
    model = make()
    expected = text_of(model)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: text_of(model), range(24))) == {expected}


def test_speculation_changes_no_answer(make: MakeModel) -> None:
    options = {"max_new_tokens": 60, "ignore_eos": True, "num_return_sequences": 2, "seed": 4}
    plain, fast = make(), make(native_speculation=6)
    for temperature in (0, 0.2):
        expected = plain.chat(HELLO, temperature=temperature, logprobs=1, **options)
        assert fast.chat(HELLO, temperature=temperature, logprobs=1, **options) == expected
    text = "".join(fast.stream_chat(HELLO, temperature=0, **{**options, "num_return_sequences": 1}))
    assert text == plain.chat(HELLO, temperature=0, **options)[0].response_text
    assert statistics_of(fast).accepted_tokens > 0
    assert statistics_of(plain).drafted_tokens == 0
    with pytest.raises(ConfigError, match="native_speculation"):
        make(native_speculation=65)


async def test_many_requests_of_one_loop(make: MakeModel) -> None:
    model = make()
    options = {"temperature": 1.0, "max_new_tokens": 12, "ignore_eos": True}
    alone = [(await model.achat(HELLO, seed=seed, **options))[0].token_ids for seed in range(12)]
    together = await asyncio.gather(
        *(model.achat(HELLO, seed=seed, **options) for seed in range(12))
    )
    assert [answer[0].token_ids for answer in together] == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("kind", ["gemma3", "phi4_mini", "glm4", "qwen2_moe", "qwen3_moe"])
def test_other_decoders_answer_as_transformers(kind: str, make: MakeModel, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, kind)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    text = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor([tokenizer.encode(text)])
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        wanted = load_oracle(folder).generate(ids, attention_mask=torch.ones_like(ids), **settings)
    model = make(folder)
    answer = model.chat(HELLO, temperature=0, max_new_tokens=20, ignore_eos=True)[0]
    assert answer.token_ids == tuple(wanted[0, ids.shape[1] :].tolist())
    assert answer.prompt_length == ids.shape[1]


def test_exactly_n(make: MakeModel) -> None:
    responses = make().chat(HELLO, num_return_sequences=3, seed=1, max_new_tokens=8)
    assert [response.index for response in responses] == [0, 1, 2]


def test_the_richer_stream_has_everything(make: MakeModel) -> None:
    deltas = list(
        make().stream(HELLO, max_new_tokens=6, logprobs=2, ignore_eos=True, temperature=0)
    )
    ids = [token for delta in deltas for token in delta.token_ids]
    entries = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert len(ids) == 6
    assert [entry.token_id for entry in entries] == ids
    assert all(len(entry.top) == 2 and next(iter(entry.top)) == entry.token_id for entry in entries)
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 6


def test_an_abandoned_stream_gives_its_blocks_back(make: MakeModel) -> None:
    model = make()
    stream = model.stream_chat(HELLO, **LONG)
    next(stream)
    stream.close()
    assert text_of(model)
    statistics = statistics_of(model)
    assert (statistics.running, statistics.waiting) == (0, 0)


def test_timeout_ends_one_request_alone(make: MakeModel) -> None:
    model = make()
    with pytest.raises(RequestTimeoutError):
        model.chat(HELLO, timeout=0.001, **LONG)
    assert text_of(model)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"response_format": {"type": "regex", "regex": "(open"}}, SamplingError, "unclosed group"),
        ({"adapter": "pirate"}, UnknownAdapterError, "No adapter 'pirate'"),
        ({"logit_bias": {99999: 1}}, QuireError, "99999"),
        ({"max_length": 0}, QuireError, "max_length"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    make: MakeModel, options: dict[str, Any], error: type[Exception], word: str
) -> None:
    model = make()
    with pytest.raises(error, match=word):
        model.chat(HELLO, **options)
    assert text_of(model)


def test_tokens_that_the_model_must_never_write(make: MakeModel, broken: Path) -> None:
    """transformers' `suppress_tokens`, of which some may not be there."""
    settings: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    first = make().chat(HELLO, **settings)[0].token_ids[0]
    biased = make().chat(HELLO, logit_bias={str(first): -100}, **settings)[0].token_ids
    suppressed = {"suppress_tokens": [first, 10**9]}
    (broken / "generation_config.json").write_text(json.dumps(suppressed))
    assert make(broken).chat(HELLO, **settings)[0].token_ids == biased
    assert first not in biased


def test_a_prompt_beyond_the_context_is_refused_and_never_cut(make: MakeModel) -> None:
    with pytest.raises(PromptTooLongError, match="256"):
        make().chat([{"role": "user", "content": "word " * 100}])


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"quantization_bit": 3}, "quantization_bit"),
        ({"vllm_maxlen": 100_000}, "vllm_maxlen"),
        ({"add_special_tokens": ",".join(f"<{i}>" for i in range(400))}, "<"),
    ],
)
def test_arguments_that_cannot_be_honoured(
    make: MakeModel, arguments: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        make(**arguments)


def test_kv_memory_too_small_for_one_sequence(make: MakeModel) -> None:
    with pytest.raises(OutOfMemoryError, match="native_kv_cache_memory"):
        make(native_kv_cache_memory=4096)


def test_the_size_of_the_kv_cache_is_said(
    make: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="quire"):
        make(native_kv_cache_memory="1MiB")
    assert any("KV cache" in record.message for record in caplog.records)


def test_unfit_backends_and_templates(make: MakeModel) -> None:
    with pytest.raises(ConfigError, match="qwen3"):
        make(template="qwen33")


# --- the model's folder --------------------------------------------------------------------------


def test_no_such_folder(make: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        make(tmp_path / "nowhere")


def test_missing_weights(make: MakeModel, broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        make(broken)


def test_pickled_weights_are_refused_with_the_way_out(make: MakeModel, broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="save_pretrained"):
        make(broken)


def test_truncated_weights(make: MakeModel, broken: Path) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="truncated"):
        make(broken)


def test_an_unknown_model_type_names_the_known_ones(make: MakeModel, broken: Path) -> None:
    path = broken / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "mamba"}))
    with pytest.raises(UnsupportedModelError, match=r"(?s)mamba.*qwen3.*vllm"):
        make(broken)


def test_a_folder_without_a_tokenizer(make: MakeModel, broken: Path) -> None:
    (broken / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        make(broken)


def test_no_chat_template(make: MakeModel, broken: Path) -> None:
    (broken / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="template"):
        make(broken)


# --- faults --------------------------------------------------------------------------------------


class Faulty:
    """Stands before a runner and spoils one of its calls."""

    def __init__(self, runner: Any, fault: Callable[[Any, Any], Any]) -> None:
        self._runner, self._fault, self.armed = runner, fault, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, batch: Any) -> Any:
        logits = self._runner.run(batch)
        if self.armed:
            self.armed = False
            return self._fault(batch, logits)
        return logits


def make_faulty(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Any, Any], Any]
) -> tuple[ChatModel, Faulty]:
    from quire.engines.native import token_engine

    made: list[Faulty] = []
    load = token_engine.load_model

    def load_faulty(*args: Any, **options: Any) -> Any:
        made.append(Faulty(load(*args, **options), fault))
        return made[0]

    monkeypatch.setattr(token_engine, "load_model", load_faulty)
    return make(), made[0]


def go_slowly(runner: Faulty, logits: Any) -> Any:
    """A fault that is none: a step that takes a while, and the next one too."""
    time.sleep(0.05)
    runner.armed = True
    return logits


def test_nan_logits_end_that_request_alone(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil_first(batch: Any, logits: Any) -> Any:
        if len(logits) < 3:  # all three are waited for
            return go_slowly(runner, logits)
        logits[0] = np.nan
        return logits

    model, runner = make_faulty(make, monkeypatch, spoil_first)
    expected = text_of(model, max_new_tokens=200, ignore_eos=True)
    runner.armed = True
    streams = [model.stream(HELLO, temperature=0, **LONG) for _ in range(3)]
    begun = [[next(stream)] for stream in streams]
    outcomes: list[str] = []
    for deltas, stream in zip(begun, streams, strict=True):
        try:
            outcomes.append("".join(delta.text for delta in [*deltas, *stream]))
        except GenerationError as error:
            outcomes.append(f"error: {error}")
    failed = [outcome for outcome in outcomes if outcome.startswith("error")]
    assert len(failed) == 1
    assert "NaN" in failed[0]
    assert [outcome for outcome in outcomes if outcome not in failed] == [expected] * 2


def test_a_fault_in_a_step_ends_its_requests_and_the_engine_lives_on(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(batch: Any, logits: Any) -> Any:
        raise RuntimeError("a made-up fault")

    model, runner = make_faulty(make, monkeypatch, fail)
    runner.armed = True
    with pytest.raises(GenerationError, match="made-up fault"):
        text_of(model)
    assert text_of(model)


# --- life ----------------------------------------------------------------------------------------


def test_close_ends_requests_and_threads(make: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    model, runner = make_faulty(make, monkeypatch, lambda _, logits: go_slowly(runner, logits))
    runner.armed = True
    stream = model.stream_chat(HELLO, **LONG)
    next(stream)
    model.close()
    with pytest.raises(EngineClosedError):
        list(stream)
    with pytest.raises(EngineClosedError):
        model.chat(HELLO)
    assert set(threading.enumerate()) - before == set()


def test_two_models_in_one_process(make: MakeModel, tmp_path: Path) -> None:
    first = make()
    second = make(make_model_folder(tmp_path / "other", "llama3", seed=5))
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(lambda: [text_of(first) for _ in range(5)])
        two = pool.submit(lambda: [text_of(second) for _ in range(5)])
        assert len(set(one.result())) == 1
        assert len(set(two.result())) == 1


def test_bad_words_are_not_encoded_in_the_thread_that_steps(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, encoding a thousand words would stop every other request."""
    threads: list[str] = []
    encode = Tokenizer.encode_literal

    def encoding(self: Tokenizer, text: str, *more: Any) -> list[int]:
        threads.append(threading.current_thread().name)
        return encode(self, text, *more)

    monkeypatch.setattr(Tokenizer, "encode_literal", encoding)
    model = make()
    words = [f"word {number}" for number in range(200)]
    model.chat(HELLO, bad_words=words, max_new_tokens=2)
    assert len(threads) >= len(words)
    assert "quire-native" not in threads
