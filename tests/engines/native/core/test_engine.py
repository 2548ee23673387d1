"""What the engine promises for one request, and what it refuses."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.core.detokenizer import detokenizer_factory
from quire.engines.native.core.engine import Engine
from quire.errors import (
    ConfigError,
    EngineClosedError,
    MediaError,
    OutOfMemoryError,
    PromptTooLongError,
    RequestError,
    SamplingError,
    UnsupportedOptionError,
)
from quire.prompt import MediaItem, Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from tests.engines.native.core.engines import (
    ANSWER,
    PROMPT,
    all_free,
    greedy,
    make_engine,
    run,
    tokens_of,
)
from tests.engines.native.fake_runner import FakeAdapter, FakeRunner, fake_logits
from tests.engines.native.plain import answer_plainly
from tests.engines.native.small_tokenizers import byte_level

# --- the end of a completion ---------------------------------------------------------------------


def test_max_tokens_end_a_completion() -> None:
    engine = make_engine()
    engine.add("it", Prompt(PROMPT), greedy(12))
    deltas = run(engine)["it"]
    assert tokens_of(deltas) == ANSWER
    assert [d.finish_reason for d in deltas] == [None] * 11 + ["length"]
    assert deltas[-1].usage is not None
    assert deltas[0].usage is None
    assert all_free(engine)


@pytest.mark.parametrize(
    ("options", "length", "reason"),
    [
        ({"stop_token_ids": (ANSWER[3],)}, 4, ANSWER[3]),
        ({"eos_token_ids": (ANSWER[3],)}, 4, None),
        (
            {"eos_token_ids": (ANSWER[2],), "stop_token_ids": (ANSWER[4],), "ignore_eos": True},
            5,
            ANSWER[4],
        ),
        ({"stop": (f" {ANSWER[3]} {ANSWER[4]}",)}, 5, f" {ANSWER[3]} {ANSWER[4]}"),
    ],
)
def test_stop_tokens_and_stop_strings_end_it_earlier(
    options: dict[str, Any], length: int, reason: str | int | None
) -> None:
    engine = make_engine()
    engine.add("it", Prompt(PROMPT), greedy(12, **options))
    deltas = run(engine)["it"]
    assert tokens_of(deltas) == ANSWER[:length]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", reason)
    text = "".join(d.text for d in deltas)
    whole = "".join(f"{token} " for token in ANSWER)
    cut = whole.index(reason) if isinstance(reason, str) else len(whole)
    shown = "".join(f"{token} " for token in ANSWER[: length - 1])
    assert text == (whole[:cut] if isinstance(reason, str) else shown)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n": 3, "seed": 4, "temperature": 1.0},
        {"stop": (f" {ANSWER[3]} {ANSWER[4]}",)},
        {"stop_token_ids": (ANSWER[3],), "logprobs": 2},
        {"prompt_logprobs": 1, "logprobs": 0, "n": 2},
    ],
)
def test_a_whole_answer_is_one_delta_of_all_that_a_stream_gives(options: dict[str, Any]) -> None:
    given = {"max_tokens": 12, "temperature": 0.0, **options}
    engine = make_engine()
    for name in ("stream", "whole"):
        streamed = name == "stream"
        engine.add(name, Prompt(PROMPT), SamplingParams(**given, streamed=streamed))
    results = run(engine)
    whole = results["whole"]
    assert sorted(delta.index for delta in whole) == list(range(given.get("n", 1)))
    for delta in whole:
        parts = [part for part in results["stream"] if part.index == delta.index]
        last = parts[-1]
        assert delta.text == "".join(part.text for part in parts)
        assert delta.token_ids == tuple(token for part in parts for token in part.token_ids)
        assert delta.logprobs == (tuple(o for p in parts for o in p.logprobs or ()) or None)
        assert delta.prompt_logprobs == parts[0].prompt_logprobs
        assert (delta.finish_reason, delta.stop_reason) == (last.finish_reason, last.stop_reason)
        assert delta.usage is not None
        assert last.usage is not None
        assert delta.usage.completion_tokens == last.usage.completion_tokens


def test_eos_is_ignored_on_request() -> None:
    engine = make_engine()
    engine.add("it", Prompt(PROMPT), greedy(12, eos_token_ids=tuple(ANSWER), ignore_eos=True))
    deltas = run(engine)["it"]
    assert tokens_of(deltas) == ANSWER
    assert deltas[-1].finish_reason == "length"


def test_before_min_tokens_nothing_ends_it() -> None:
    params = greedy(12, min_tokens=6, stop_token_ids=tuple(range(20)), stop=(" ",))
    engine = make_engine()
    engine.add("it", Prompt(PROMPT), params)
    deltas = run(engine)["it"]
    assert len(tokens_of(deltas)) == 6
    assert all(token >= 20 for token in tokens_of(deltas)[:5])
    assert deltas[-1].finish_reason == "stop"


def test_text_held_back_is_shown_at_the_end() -> None:
    """A beginning of a stop string, and half a character."""
    tokenizer = byte_level()
    runner = FakeRunner(vocab_size=tokenizer.vocab_size)
    half = tokenizer.token_to_id("\N{LATIN SMALL LETTER ETH}")  # stands for the byte F0

    def choose(batch: Batch, logits: NDArray[np.float32]) -> None:
        logits[:, half] = 100.0

    runner.after_run = choose
    engine = Engine(runner, detokenizer_factory(tokenizer))
    engine.add("it", Prompt((1,)), greedy(1, stop=("\N{REPLACEMENT CHARACTER}!",)))
    (delta,) = run(engine)["it"]
    assert delta.token_ids == (half,)
    assert delta.text == "\N{REPLACEMENT CHARACTER}"


# --- refusals ------------------------------------------------------------------------------------

MEDIA = (MediaItem("image", None, "hash", 0, 1),)


@pytest.mark.parametrize(
    ("prompt", "params", "error", "text"),
    [
        (Prompt(()), greedy(), RequestError, "empty"),
        (Prompt((1, 40)), greedy(), RequestError, "token 40; the model's vocabulary ends at 39"),
        (Prompt((-1,)), greedy(), RequestError, "token -1"),
        (Prompt((1,) * 60), greedy(5), PromptTooLongError, "the context holds 64"),
        (Prompt((1,) * 40), greedy(10), OutOfMemoryError, "the KV cache holds 48"),
        (Prompt((1,), MEDIA), greedy(), MediaError, "came without features"),
        (Prompt((1,)), greedy(0), SamplingError, "at least 1"),
        (Prompt((1,)), greedy(response_format=Constraint("json_object")), RequestError, "ConstraintCompiler"),
        (Prompt((1,)), greedy(bad_words=("x",)), UnsupportedOptionError, "bad_words"),
        (Prompt((1,)), greedy(logit_bias={40: 1.0}), SamplingError, "token 40"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(
    prompt: Prompt, params: SamplingParams, error: type[Exception], text: str
) -> None:
    engine = make_engine(FakeRunner(num_blocks=12, block_size=4, max_model_len=64))
    with pytest.raises(error, match=text):
        engine.add("it", prompt, params)
    assert not engine.has_work
    engine.add("it", Prompt(PROMPT), greedy())
    assert tokens_of(run(engine)["it"]) == ANSWER[:8]


def test_blocks_of_one_adapter_are_no_other_ones() -> None:
    """Nor those of the base, nor those of an adapter that had the same name before."""
    engine = make_engine()
    hits: list[int] = []
    for adapter in (None, FakeAdapter(1), FakeAdapter(2), FakeAdapter(1), None):
        engine.add("it", Prompt(PROMPT), greedy(), adapter=adapter)
        number = adapter.number if adapter else 0
        expected = answer_plainly(PROMPT, greedy(), 0, 40, adapter=number).tokens
        assert tokens_of(run(engine)["it"]) == expected
        hits.append(engine.statistics.prefix_hit_tokens)
    assert hits[0] == hits[1] == hits[2] == 0
    assert 0 < hits[3] < hits[4]


def test_rows_of_one_adapter_lie_together() -> None:
    runner = FakeRunner()
    engine = make_engine(runner)
    loaded = [None, FakeAdapter(1), FakeAdapter(2)]
    for number in range(9):
        engine.add(str(number), Prompt(PROMPT[:3]), greedy(), adapter=loaded[number % 3])
    run(engine)
    for batch in runner.batches:
        assert batch.adapters is not None
        numbers = [adapter.number if adapter else 0 for adapter in batch.adapters]
        assert numbers == sorted(numbers)


def test_known_ids_are_refused() -> None:
    engine = make_engine()
    engine.add("it", Prompt(PROMPT), greedy())
    with pytest.raises(RequestError, match="'it' is in use"):
        engine.add("it", Prompt(PROMPT), greedy())


def test_limits_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_sequences"):
        make_engine(max_sequences=9, max_batch_tokens=8)
    with pytest.raises(OutOfMemoryError, match="no block"):
        make_engine(FakeRunner(num_blocks=0))


def cannot_encode(text: str) -> list[int]:
    raise ValueError(text)


@pytest.mark.parametrize(
    ("encode", "words"),
    [(byte_level().encode, "lone surrogate"), (cannot_encode, "cannot be prepared")],
)
def test_a_bad_word_that_cannot_be_encoded_harms_nobody_else(
    encode: Callable[[str], list[int]], words: str
) -> None:
    engine = make_engine(encode=encode)
    with pytest.raises(RequestError, match=words):
        engine.add("it", Prompt(PROMPT), greedy(bad_words=("\ud800",)))
    assert not engine.has_work


def test_bad_words_never_come() -> None:
    engine = make_engine(encode=lambda text: [int(text)] if text.strip().isdigit() else [])
    engine.add("it", Prompt(PROMPT), greedy(12, bad_words=(str(ANSWER[0]), str(ANSWER[5]))))
    assert not {ANSWER[0], ANSWER[5]} & set(tokens_of(run(engine)["it"]))


# --- abort and close -----------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_abort_frees_the_blocks_at_once(steps: int) -> None:
    engine = make_engine(max_sequences=2, max_batch_tokens=4)
    engine.add("it", Prompt(PROMPT), SamplingParams(max_tokens=20, n=3, seed=0))
    engine.add("other", Prompt(PROMPT), greedy())
    for _ in range(steps):
        engine.step()
    engine.abort("it")
    engine.abort("it")
    engine.abort("nobody")
    engine.check_integrity()
    assert set(run(engine)) == {"other"}
    assert all_free(engine)


def test_close_ends_everything_and_may_be_called_twice() -> None:
    runner = FakeRunner()
    engine = make_engine(runner)
    engine.add("it", Prompt(PROMPT), greedy())
    engine.step()
    engine.close()
    engine.close()
    assert runner.closed
    assert not engine.has_work
    assert all_free(engine)
    with pytest.raises(EngineClosedError):
        engine.add("it", Prompt(PROMPT), greedy())


def test_nothing_is_kept_of_a_request_that_has_ended() -> None:
    """Its adapter's memory, above all, is free as soon as the engine is idle."""
    engine = make_engine()
    adapter = FakeAdapter(1)
    for params in (greedy(), SamplingParams(max_tokens=8, seed=0)):
        engine.add("it", Prompt(PROMPT), params, adapter=adapter)
        run(engine)
    engine._runner.batches.clear()  # type: ignore[attr-defined]
    kept = weakref.ref(adapter)
    del adapter
    gc.collect()
    assert kept() is None


# --- log-probabilities ---------------------------------------------------------------------------


def test_logprobs_are_taken_after_penalties_and_before_temperature() -> None:
    engine = make_engine()
    options: dict[str, Any] = {"presence_penalty": 1.5, "logit_bias": {3: 2.0}}
    engine.add("cold", Prompt(PROMPT), greedy(1, logprobs=2, **options))
    engine.add(
        "warm",
        Prompt(PROMPT),
        SamplingParams(max_tokens=1, seed=0, top_k=3, logprobs=40, **options),
    )
    results = run(engine)
    values = fake_logits(PROMPT, 40).astype(np.float64)
    values[3] += 2.0
    exact = values - math.log(np.exp(values).sum())
    for name in ("cold", "warm"):
        (one,) = list(results[name][0].logprobs or ())
        assert one.logprob == pytest.approx(exact[one.token_id], abs=1e-5)
        assert one.rank == 1 + int((exact > exact[one.token_id]).sum())
    cold, warm = (next(iter(results[name][0].logprobs or ())) for name in ("cold", "warm"))
    assert (len(cold.top), len(warm.top)) == (2, 40)
    assert next(iter(cold.top)) == cold.token_id


def test_prompt_logprobs_come_with_the_first_delta() -> None:
    engine = make_engine(max_sequences=1, max_batch_tokens=2)
    engine.add("it", Prompt(PROMPT), greedy(3, prompt_logprobs=1))
    deltas = run(engine)["it"]
    assert all(delta.prompt_logprobs is None for delta in deltas[1:])
    first, *others = list(deltas[0].prompt_logprobs or ())
    assert first is None
    for position, one in enumerate(others, 1):
        values = fake_logits(PROMPT[:position], 40).astype(np.float64)
        assert one is not None
        assert one.token_id == PROMPT[position]
        expected = values[one.token_id] - math.log(np.exp(values).sum())
        assert one.logprob == pytest.approx(expected, abs=1e-5)
        assert list(one.top) == [int(values.argmax())]
