"""Scores and embeddings through ChatModel on the native engine, against transformers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from quire import ChatModel
from quire.chat.native_engine import NativeEngine
from quire.demo import demo_adapter_path, demo_model_path, demo_reward_path
from quire.errors import (
    EngineClosedError,
    EngineError,
    PromptTooLongError,
    RequestError,
    RequestTimeoutError,
    SamplingError,
    UnknownAdapterError,
    UnsupportedModelError,
    UnsupportedOptionError,
)
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.chat.model_folders import make_model_folder
from tests.engines.native.random_adapters import load_peft
from tests.polling import eventually, wait_until
from tools.demo_models.rewards import held_out_pairs, shown

PAIRS = held_out_pairs(100)
TEXTS = [shown(p.question, p.better, n % 5) for n, p in enumerate(PAIRS[:12])]


def load(folder: Path, **arguments: Any) -> ChatModel:
    settings = {"vllm_maxlen": 512, "native_num_threads": 1, "infer_backend": "native"}
    return ChatModel({"model_name_or_path": str(folder), **settings, **arguments})


@pytest.fixture(scope="module", params=["value_head", "classifier"])
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def reward(form: str) -> Iterator[ChatModel]:
    with load(demo_reward_path(form), stage="rm") as model:
        yield model


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatModel]:
    with load(demo_model_path()) as model:
        yield model


def statistics_of(model: ChatModel) -> Any:
    assert isinstance(model.engine, NativeEngine)
    return model.engine.statistics


def wait_until_idle(model: ChatModel) -> None:
    """All blocks come back soon after requests were aborted."""

    def is_idle() -> bool:
        figures = statistics_of(model)
        return not figures.running + figures.waiting and figures.free_blocks == figures.total_blocks

    wait_until(is_idle)


# --- scores --------------------------------------------------------------------------------------


@torch.inference_mode()
def scored_as_by_llamafactory(texts: Sequence[str]) -> list[float]:
    """The value head at each text's last token, of a batch that is padded on the right."""
    folder = demo_reward_path("value_head")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    head = load_file(folder / "value_head.safetensors")
    weight, bias = (head[f"v_head.summary.{name}"].float() for name in ("weight", "bias"))
    inputs = tokenizer(
        list(texts), padding=True, truncation=True, return_tensors="pt", add_special_tokens=False
    )
    hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]
    values = torch.nn.functional.linear(hidden, weight, bias).squeeze(-1)
    last = inputs["attention_mask"].sum(dim=-1, keepdim=True) - 1
    return values.gather(-1, last).squeeze(-1).tolist()


@torch.inference_mode()
def scored_by_transformers(texts: Sequence[str]) -> list[float]:
    folder = demo_reward_path("classifier")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    inputs = tokenizer(list(texts), padding=True, return_tensors="pt", add_special_tokens=False)
    return model(**inputs).logits[:, 0].tolist()


def test_scores_equal_the_reference(reward: ChatModel, form: str) -> None:
    oracle = scored_as_by_llamafactory if form == "value_head" else scored_by_transformers
    texts = [*TEXTS, TEXTS[0] + "<|endoftext|>"]
    found = reward.get_scores(texts)
    assert [type(score) for score in found] == [float] * len(texts)
    np.testing.assert_allclose(found, oracle(texts), atol=1e-4)


def test_polite_scores_above_rude(reward: ChatModel) -> None:
    better = reward.get_scores([shown(pair.question, pair.better, 0) for pair in PAIRS])
    worse = reward.get_scores([shown(pair.question, pair.worse, 0) for pair in PAIRS])
    assert sum(a > b for a, b in zip(better, worse, strict=True)) >= 97


def test_many_at_once_are_bitwise_each_alone(reward: ChatModel) -> None:
    together = reward.get_scores(TEXTS * 20)
    assert together == [reward.get_scores([text])[0] for text in TEXTS] * 20


def test_quantised_weights_score_alike(form: str) -> None:
    texts = [shown(pair.question, pair.better, 0) for pair in PAIRS]
    rude = [shown(pair.question, pair.worse, 0) for pair in PAIRS]
    with load(demo_reward_path(form), stage="rm", native_quantization="int8") as model:
        better, worse = model.get_scores(texts), model.get_scores(rude)
        assert better[:9] == [model.get_scores([text])[0] for text in texts[:9]]
    assert sum(a > b for a, b in zip(better, worse, strict=True)) >= 97


def test_from_a_loop_of_the_callers(reward: ChatModel) -> None:
    async def both() -> tuple[list[float], list[float]]:
        return await asyncio.gather(reward.aget_scores(TEXTS[:3]), reward.aget_scores(TEXTS[3:6]))

    first, second = asyncio.run(both())
    assert first + second == reward.get_scores(TEXTS[:6])


def test_random_classifiers_equal_transformers(tmp_path: Path) -> None:
    """Of another architecture, in several files, with a head that is not tied."""
    folder = make_model_folder(tmp_path, "llama2", num_labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    texts = ["a text", "another one", "x" * 70, "y"]
    tokenizer = Tokenizer.from_folder(folder)
    with torch.inference_mode():
        rows = [model(torch.tensor([tokenizer.encode(text)])).logits for text in texts]
    with load(folder, stage="rm", vllm_maxlen=128, native_max_batch_tokens=32,
              native_max_sequences=4) as quire:  # fmt: skip
        np.testing.assert_allclose(quire.get_scores(texts), torch.cat(rows)[:, 0], atol=1e-4)


def test_max_length_cuts_a_text_at_its_end(reward: ChatModel) -> None:
    tokenizer = reward.engine.tokenizer
    text = " ".join(TEXTS)
    ids = tokenizer.encode(text)
    begin = tokenizer.decode(ids[:8], skip_special_tokens=False)
    assert tokenizer.encode(begin) == ids[:8]
    assert reward.get_scores([text], max_length=8) == reward.get_scores([begin])
    long = text * 4
    assert len(tokenizer.encode(long)) > 512
    with pytest.raises(PromptTooLongError, match=r"Text 1 has .* the context holds 512"):
        reward.get_scores(["short", long])
    assert reward.get_scores([long], max_length=512) == reward.get_scores([long], max_length=9999)


@pytest.mark.parametrize(
    ("texts", "options", "error", "said"),
    [
        (["a", ""], {}, RequestError, "Text 1 is empty"),
        ("a text", {}, RequestError, "as a list"),
        (["a", None], {}, RequestError, "Text 1 is neither"),
        (["a", {"b": 1}], {}, RequestError, "Text 1 is neither"),
        (["a \ud800"], {}, RequestError, "Text 0: .*lone surrogate"),
        ([[1, 10**6]], {}, RequestError, "vocabulary"),
        ([[1, -1]], {}, RequestError, "neither"),
        (["a"], {"max_lenght": 3}, UnsupportedOptionError, "max_lenght.*max_length"),
        (["a"], {"temperature": 1.0}, UnsupportedOptionError, "temperature"),
        (["a"], {"pooling": "mean"}, UnsupportedOptionError, "pooling"),
        (["a"], {"max_length": 0}, SamplingError, "max_length"),
        (["a"], {"max_length": "8"}, SamplingError, "max_length"),
        (["a"], {"priority": 1.5}, SamplingError, "priority"),
        (["a"], {"timeout": 0}, SamplingError, "timeout"),
        (["a"], {"timeout": float("nan")}, SamplingError, "timeout"),
    ],
)
def test_what_is_wrong_is_refused(
    reward: ChatModel, texts: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        reward.get_scores(texts, **options)
    assert len(reward.get_scores(["fine"])) == 1
    wait_until_idle(reward)


def test_no_texts_and_no_wishes(reward: ChatModel) -> None:
    assert reward.get_scores([]) == []
    none = {"max_length": None, "timeout": None, "priority": None}
    assert reward.get_scores(["a"], **none) == reward.get_scores(["a"], priority=-3, timeout=60)


def test_a_timeout_and_a_cancelled_call_free_the_blocks(
    reward: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(reward.engine, NativeEngine)
    engine = reward.engine.token_engine._thread._engine
    step = engine.step

    def step_slowly() -> Any:
        time.sleep(0.05)  # so that no call ends before it is cancelled
        return step()

    monkeypatch.setattr(engine, "step", step_slowly)
    texts = [text * 3 for text in TEXTS] * 40
    with pytest.raises(RequestTimeoutError, match=r"timeout of 0\.02 s"):
        reward.get_scores(texts, timeout=0.02, max_length=400)
    wait_until_idle(reward)

    async def cancelled() -> None:
        task = asyncio.create_task(reward.aget_scores(texts, max_length=400))
        await eventually(lambda: statistics_of(reward).running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    wait_until_idle(reward)


def test_a_reward_model_does_not_chat(reward: ChatModel) -> None:
    with pytest.raises(EngineError, match=r"stage: rm.* scores texts"):
        reward.chat([{"role": "user", "content": "Hello"}], max_new_tokens=4)


def test_a_model_that_writes_has_no_scores(chat: ChatModel) -> None:
    with pytest.raises(NotImplementedError, match="stage: rm"):
        chat.get_scores(["a text"])


def test_the_stage_must_fit_the_folder() -> None:
    with pytest.raises(UnsupportedModelError, match=r"classifies.*stage: rm"):
        load(demo_reward_path("classifier"))
    with pytest.raises(UnsupportedModelError, match="no reward model"):
        load(demo_model_path(), stage="rm")


def test_after_close() -> None:
    model = load(demo_reward_path(), stage="rm")
    engine = model.engine
    model.close()
    with pytest.raises(EngineClosedError):
        asyncio.run(engine.get_scores(["a"]))


# --- embeddings ----------------------------------------------------------------------------------


@torch.inference_mode()
def hidden_states(ids: Sequence[int], folder: Path | None = None) -> NDArray[np.float32]:
    folder = folder or demo_model_path()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model.base_model(torch.tensor([list(ids)])).last_hidden_state[0].numpy()


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_equal_transformers(chat: ChatModel, pooling: str, normalize: bool) -> None:
    texts = TEXTS[:5]
    found = chat.get_embeddings(texts, pooling=pooling, normalize=normalize)
    for vector, text in zip(found, texts, strict=True):
        rows = hidden_states(chat.engine.tokenizer.encode(text))
        wanted = rows[-1] if pooling == "last" else rows.mean(axis=0)
        wanted = wanted / np.linalg.norm(wanted) if normalize else wanted
        np.testing.assert_allclose(vector, wanted, atol=2e-5 if normalize else 1e-3)
        assert {type(number) for number in vector} == {float}


def test_last_and_normalised_are_the_defaults(chat: ChatModel) -> None:
    plain = chat.get_embeddings(TEXTS[:2])
    assert plain == chat.get_embeddings(TEXTS[:2], pooling="last", normalize=True)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1.0, atol=1e-6)


def test_token_ids_are_taken_as_they_are(chat: ChatModel) -> None:
    ids = [chat.engine.tokenizer.encode(text) for text in TEXTS[:3]]
    assert chat.get_embeddings(ids) == chat.get_embeddings(TEXTS[:3])


def test_embeddings_and_chats_in_one_batch(chat: ChatModel) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    answer = chat.chat(messages, do_sample=False)[0].response_text
    vectors = chat.get_embeddings(TEXTS, pooling="mean")

    async def together() -> None:
        results: list[Any] = await asyncio.gather(
            *(chat.achat(messages, do_sample=False) for _ in range(6)),
            *(chat.aget_embeddings(TEXTS, pooling="mean") for _ in range(6)),
        )
        assert [one[0].response_text for one in results[:6]] == [answer] * 6
        assert results[6:] == [vectors] * 6

    asyncio.run(together())
    wait_until_idle(chat)


def test_a_folder_that_holds_the_decoder_alone(tmp_path: Path) -> None:
    """As models for embeddings do: their tensors' names have no prefix."""
    folder = make_model_folder(tmp_path, "qwen3", tie_word_embeddings=True)
    base = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    (folder / "model.safetensors").unlink()
    base.save_pretrained(folder)
    assert "embed_tokens.weight" in load_file(folder / "model.safetensors")
    with load(folder, vllm_maxlen=128) as model:
        found = model.get_embeddings(["a text"], normalize=False)
        with torch.inference_mode():
            ids = model.engine.tokenizer.encode("a text")
            wanted = base(torch.tensor([ids])).last_hidden_state[0, -1:]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_embeddings_of_an_adapter(chat: ChatModel) -> None:
    """The first one is the default, as for chats; the base and the adapters share a batch."""
    pirate = demo_adapter_path("pirate")
    ids = [chat.engine.tokenizer.encode(text) for text in TEXTS[:3]]
    peft = load_peft(demo_model_path(), pirate)
    with torch.inference_mode():
        rows = [peft(torch.tensor([one]), output_hidden_states=True).hidden_states for one in ids]
    base = chat.get_embeddings(ids, normalize=False)
    with load(demo_model_path(), adapter_name_or_path=str(pirate)) as model:

        async def all_at_once() -> list[list[list[float]]]:
            names = ({}, {"adapter": "adapter"}, {"adapter": "base"})
            calls = (model.aget_embeddings(ids, normalize=False, **name) for name in names)
            return await asyncio.gather(*calls)

        default, named, plain = asyncio.run(all_at_once())
        with pytest.raises(UnknownAdapterError, match="corsair"):
            model.get_embeddings(ids, adapter="corsair")
    np.testing.assert_allclose(default, [states[-1][0, -1].numpy() for states in rows], atol=1e-3)
    assert named == default
    assert plain == base
    assert default != base


def test_usage_tells_the_tokens(chat: ChatModel) -> None:
    found = asyncio.run(chat.engine.embed(TEXTS[:3]))
    lengths = [len(chat.engine.tokenizer.encode(text)) for text in TEXTS[:3]]
    assert [one.usage.prompt_tokens for one in found] == lengths
    assert {one.usage.completion_tokens for one in found} == {0}


def test_a_reward_model_embeds_too(reward: ChatModel, form: str) -> None:
    (found,) = reward.get_embeddings([TEXTS[0]], normalize=False)
    rows = hidden_states(reward.engine.tokenizer.encode(TEXTS[0]), demo_reward_path("value_head"))
    np.testing.assert_allclose(found, rows[-1], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"pooling": "cls"}, SamplingError, "last, mean"),
        ({"normalize": "yes"}, SamplingError, "normalize"),
        ({"add_special_tokens": 1}, SamplingError, "add_special_tokens"),
        ({"adapter": 3}, SamplingError, "adapter"),
        ({"dimensions": 64}, UnsupportedOptionError, "dimensions"),
        ({"normalise": True}, UnsupportedOptionError, "did you mean 'normalize'"),
    ],
)
def test_options_of_embeddings(
    chat: ChatModel, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        chat.get_embeddings(["a"], **options)


def test_special_tokens_stand_around_a_text_as_in_transformers(tokenizer: Tokenizer) -> None:
    """Also where max_length cuts it: they are kept and the text is cut."""
    backend = Tokenizer.from_folder(demo_model_path()).backend
    words = [(text, backend.token_to_id(text)) for text in ("<|im_start|>", "<|im_end|>")]
    assert all(number is not None for _, number in words)
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=words
    )
    ours = Tokenizer(backend)
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend)
    for text in ("Hello, who are you?", "", "one two three four five six"):
        for length in (None, 2, 3, 6, 40):
            wanted = theirs(text, truncation=length is not None, max_length=length)["input_ids"]
            assert ours.encode_whole(text, length) == wanted
    assert len(ours.encode_whole("one two three", 1)) == 1
    assert ours.encode_whole("plain") != ours.encode("plain")
    assert tokenizer.encode_whole("plain") == tokenizer.encode("plain")


def test_an_engine_that_makes_none_says_so(tokenizer: Tokenizer) -> None:
    with ChatModel.from_engine(EchoEngine(tokenizer)) as model:
        with pytest.raises(UnsupportedOptionError, match="EchoEngine makes no embeddings"):
            model.get_embeddings(["a"])
        with pytest.raises(NotImplementedError, match="EchoEngine"):
            model.get_scores(["a"])
