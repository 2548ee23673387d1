"""What the engine promises for one request, and what a fault may harm."""

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
from quire.outputs import Delta
from quire.prompt import MediaItem, Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import FakeAdapter, FakeRunner, NumberText, fake_logits
from tests.engines.native.plain import answer_plainly, complete_plainly
from tests.engines.native.small_tokenizers import byte_level


def make_engine(runner: FakeRunner | None = None, **options: Any) -> Engine:
    return Engine(runner or FakeRunner(), lambda params: NumberText(), **options)


def greedy(max_tokens: int = 8, **options: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **options)


def run(engine: Engine, steps: int = 500) -> dict[str, list[Delta]]:
    """Step until nobody is left; return each request's deltas."""
    results: dict[str, list[Delta]] = {}
    for _ in range(steps):
        if not engine.has_work:
            return results
        for name, delta in engine.step():
            results.setdefault(name, []).append(delta)
        engine.check_integrity()
    raise AssertionError("somebody waits for ever")


def tokens_of(deltas: list[Delta], index: int = 0) -> list[int]:
    return [token for d in deltas if d.index == index for token in d.token_ids]


def all_free(engine: Engine) -> bool:
    return engine.statistics.free_blocks == engine.statistics.total_blocks


# --- the end of a completion ---------------------------------------------------------------------

PROMPT = (1, 2, 3, 4, 5)
ANSWER = complete_plainly(PROMPT, greedy(12), 0, 40)


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


# --- sharing and memory --------------------------------------------------------------------------


def test_completions_share_the_prompt_and_copy_what_they_write() -> None:
    runner = FakeRunner(num_blocks=64, block_size=4)
    copies: list[tuple[int, int]] = []
    plain = runner.copy_blocks

    def copy_blocks(pairs: Any) -> None:
        copies.extend(pairs)
        plain(pairs)

    runner.copy_blocks = copy_blocks
    engine = make_engine(runner, prefix_caching=False)
    prompt = tuple(range(1, 11))  # two full blocks and a half
    params = SamplingParams(max_tokens=10, n=4, seed=5)
    engine.add("it", Prompt(prompt), params)
    deltas = engine.step()
    assert [delta.index for _, delta in deltas] == [0, 1, 2, 3]
    assert runner.num_blocks - engine.statistics.free_blocks == 3
    more = engine.step()
    assert runner.num_blocks - engine.statistics.free_blocks == 6
    assert len(copies) == 3, "the last one keeps the block of the prompt's end"
    every = [delta for _, delta in deltas + more] + run(engine)["it"]
    answers = [tokens_of(every, index) for index in range(4)]
    assert answers == [complete_plainly(prompt, params, index, 40) for index in range(4)]
    assert len({tuple(answer) for answer in answers}) == 4
    assert all_free(engine)


def test_more_completions_than_may_run_take_turns() -> None:
    engine = make_engine(max_sequences=2, max_batch_tokens=8)
    params = SamplingParams(max_tokens=6, n=5, seed=1)
    engine.add("it", Prompt(PROMPT), params)
    deltas = run(engine)["it"]
    for index in range(5):
        assert tokens_of(deltas, index) == complete_plainly(PROMPT, params, index, 40)


def test_equal_beginnings_are_computed_once() -> None:
    runner = FakeRunner()
    engine = make_engine(runner)
    prompt = tuple(range(1, 17))  # four whole blocks: the last is computed again for its logits
    engine.add("first", Prompt(prompt), greedy())
    first = run(engine)["first"]
    assert first[-1].usage is not None
    assert first[-1].usage.cached_tokens == 0
    runner.batches.clear()
    engine.add("second", Prompt(prompt), greedy())
    second = run(engine)["second"]
    assert second[-1].usage is not None
    assert second[-1].usage.cached_tokens == 12
    assert runner.batches[0].num_rows == 4
    assert tokens_of(second) == tokens_of(first)
    statistics = engine.statistics
    assert (statistics.prompt_tokens, statistics.prefix_hit_tokens) == (32, 12)


def test_salts_share_no_prefix() -> None:
    """Equal prompts meet in the cache where their salts are equal too, and nowhere else."""
    engine = make_engine()
    prompt = Prompt(tuple(range(1, 17)))
    cached: list[int] = []
    for index, salt in enumerate(("mine", "yours", None, "mine", "yours", None)):
        engine.add(str(index), prompt, greedy(2, cache_salt=salt))
        usage = run(engine)[str(index)][-1].usage
        assert usage is not None
        cached.append(usage.cached_tokens)
    assert cached == [0, 0, 0, 12, 12, 12]


def test_a_request_that_needs_every_block_is_served() -> None:
    engine = make_engine(FakeRunner(num_blocks=4, block_size=4))
    engine.add("other", Prompt(PROMPT), greedy(4))
    engine.add("it", Prompt(tuple(range(1, 15))), greedy(3))  # the 17th token is never computed
    results = run(engine)
    assert tokens_of(results["it"]) == complete_plainly(range(1, 15), greedy(3), 0, 40)
    engine.add("it", Prompt(tuple(range(1, 17))), greedy(1))
    assert tokens_of(run(engine)["it"]) == complete_plainly(range(1, 17), greedy(1), 0, 40)


def test_the_last_in_order_makes_room_and_is_computed_again() -> None:
    engine = make_engine(FakeRunner(num_blocks=6, block_size=4))
    prompts = {"later": PROMPT[:4], "sooner": PROMPT}
    for priority, name in ((1, "later"), (0, "sooner")):
        engine.add(name, Prompt(prompts[name]), greedy(15, priority=priority))
    results = run(engine)
    for name, prompt in prompts.items():
        assert tokens_of(results[name]) == complete_plainly(prompt, greedy(15), 0, 40)
    assert list(results) == ["sooner", "later"]
    assert engine.statistics.preemptions == 1
    assert all_free(engine)


# --- order ---------------------------------------------------------------------------------------


def test_priority_then_arrival_decides_who_is_first() -> None:
    engine = make_engine(max_sequences=1, max_batch_tokens=16)
    for name, priority, arrival in (("d", 1, 0.0), ("c", 0, 9.0), ("b", 0, 2.0), ("a", -1, 5.0)):
        engine.add(name, Prompt(PROMPT), greedy(2, priority=priority), arrival=arrival)
    order: list[str] = []
    while engine.has_work:
        order += [name for name, delta in engine.step() if delta.finish_reason]
    assert order == ["a", "b", "c", "d"]


def test_decodes_and_chunks_of_prompts_share_a_batch() -> None:
    runner = FakeRunner()
    engine = make_engine(runner, max_sequences=4, max_batch_tokens=6)
    engine.add("decodes", Prompt((1, 2)), greedy(8))
    engine.step()
    engine.add("long", Prompt(tuple(range(1, 18))), greedy(1))
    runner.batches.clear()
    for _ in range(4):
        engine.step()
    assert [np.diff(batch.query_start).tolist() for batch in runner.batches] == [
        [1, 5],
        [1, 5],
        [1, 5],
        [1, 2],
    ]


def test_how_far_prompts_are_computed_is_told() -> None:
    engine = make_engine(max_batch_tokens=8, max_sequences=8)
    engine.add("short", Prompt((1, 2)), greedy(4))
    engine.step()
    assert (engine.statistics.prefilling, engine.statistics.prefilled) == (0, 0)
    engine.add("long", Prompt(tuple(range(3, 23))), greedy(1))
    told = list[tuple[int, int]]()
    while engine.has_work:
        engine.step()
        told.append((engine.statistics.prefilling, engine.statistics.prefilled))
    assert told == [(20, 7), (20, 14), (0, 0)]


def test_how_far_a_step_is_counts_too() -> None:
    """Another thread asks while it runs."""
    runner = FakeRunner()
    engine = make_engine(runner, max_batch_tokens=8, max_sequences=8)
    engine.add("decodes", Prompt((1, 2)), greedy(4))
    engine.step()
    engine.add("long", Prompt(tuple(range(3, 23))), greedy(1))
    told = list[tuple[int, int]]()

    def ask(batch: Batch) -> None:
        for runner.step_progress in (0.0, 0.5, 1.0):
            told.append((engine.statistics.prefilling, engine.statistics.prefilled))

    runner.before_run = ask
    engine.step()
    engine.step()
    assert told == [(20, 0), (20, 3), (20, 7), (20, 7), (20, 10), (20, 14)]


def test_lower_priority_waits_while_a_prompt_is_computed() -> None:
    """Neither its decodes nor its prompts lengthen the steps until the other's first token."""
    runner = FakeRunner()
    engine = make_engine(runner, max_sequences=4, max_batch_tokens=8)
    engine.add("decodes behind", Prompt((1, 2)), greedy(9, priority=5))
    engine.step()
    engine.add("prompt behind", Prompt(tuple(range(1, 30))), greedy(2, priority=5))
    engine.step()
    engine.add("live", Prompt(tuple(range(20, 1, -1))), greedy(3))
    runner.batches.clear()
    came: list[str] = []
    while "live" not in came:
        came += [name for name, _ in engine.step()]
        engine.check_integrity()
    assert came == ["live"]
    assert [batch.num_rows for batch in runner.batches] == [8, 8, 3]
    results = run(engine)
    assert len(tokens_of(results["live"])) == 2
    assert tokens_of(results["prompt behind"]) == complete_plainly(range(1, 30), greedy(2), 0, 40)


def test_a_prompt_that_may_wait_is_computed_in_small_parts() -> None:
    runner = FakeRunner(num_blocks=256, block_size=4)
    engine = make_engine(runner, max_batch_tokens=700)
    engine.add("behind", Prompt((1, 2, 3, 4) * 125), greedy(1, priority=1))
    engine.add("live", Prompt((4, 3, 2, 1) * 40), greedy(1))
    run(engine)
    assert [batch.num_rows for batch in runner.batches] == [160, 256, 244]


def test_nobody_overtakes_a_long_prompt() -> None:
    engine = make_engine(FakeRunner(num_blocks=8, block_size=4))
    engine.add("runs", Prompt(PROMPT), greedy(12))
    engine.step()
    engine.add("long", Prompt(tuple(range(1, 25))), greedy(1))
    for number in range(10):
        engine.add(f"short {number}", Prompt((number + 1,)), greedy(2))
    order = [name for name, deltas in run(engine).items() if deltas]
    assert order[:2] == ["runs", "long"]


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


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_logits_end_their_own_row_alone(bad: float, temperature: float) -> None:
    runner = FakeRunner()

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        for row, batch_row in enumerate(batch.logits_rows.tolist()):
            if batch.token_ids[batch_row] == 39 or batch.positions[batch_row] == 6:
                logits[row, 7] = bad

    runner.after_run = spoil
    engine = make_engine(runner)
    params = SamplingParams(max_tokens=3, temperature=temperature, seed=3)
    engine.add("good", Prompt(PROMPT[:3]), params)
    engine.add("bad prompt", Prompt((1, 39)), SamplingParams(max_tokens=3, n=2, seed=3))
    engine.add("bad later", Prompt(PROMPT), greedy(8, stop_token_ids=(39,)))
    results = run(engine)
    good = complete_plainly(PROMPT[:3], params, 0, 40)
    assert 39 not in good, "choose another seed"
    assert tokens_of(results["good"]) == good
    assert [(d.index, d.finish_reason, d.token_ids) for d in results["bad prompt"]] == [
        (0, "error", ()),
        (1, "error", ()),
    ]
    last = results["bad later"][-1]
    assert (last.finish_reason, tokens_of(results["bad later"])) == ("error", ANSWER[:2])
    assert last.error is not None
    assert "no usable logits" in last.error
    assert last.usage is not None
    assert last.usage.completion_tokens == 2
    assert all_free(engine)


@pytest.mark.parametrize("most_logits", [1, 2, 100])
def test_bad_logits_of_a_prompt_end_a_request_that_wants_them(
    most_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = FakeRunner()

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        logits[batch.positions[batch.logits_rows] == 2] = math.nan

    runner.after_run = spoil
    engine = make_engine(runner)
    monkeypatch.setattr(engine, "_max_logits_rows", most_logits)
    engine.add("wants", Prompt(PROMPT), greedy(3, prompt_logprobs=1, n=2))
    engine.add("does not", Prompt(PROMPT), greedy(3))
    results = run(engine)
    assert [(d.index, d.finish_reason, d.token_ids) for d in results["wants"]] == [
        (0, "error", ()),
        (1, "error", ()),
    ]
    assert tokens_of(results["does not"]) == ANSWER[:3]


def test_content_of_a_faulty_step_is_not_used_again() -> None:
    runner = FakeRunner()

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        logits[:] = math.nan

    runner.after_run = spoil
    engine = make_engine(runner)
    engine.add("bad", Prompt(tuple(range(1, 14))), greedy())
    run(engine)
    assert engine.statistics.cached_blocks == 0
    runner.after_run = None
    engine.add("good", Prompt(tuple(range(1, 14))), greedy())
    usage = run(engine)["good"][-1].usage
    assert usage is not None
    assert usage.cached_tokens == 0


def test_a_runner_that_raises_ends_the_requests_of_that_step() -> None:
    runner = FakeRunner()
    engine = make_engine(runner, max_sequences=4, max_batch_tokens=4)

    def fail(batch: Batch) -> None:
        raise MemoryError("no memory")

    engine.add("first", Prompt((1, 2, 3, 4)), SamplingParams(max_tokens=9, n=2, seed=0))
    engine.add("waits", Prompt(PROMPT), greedy())
    runner.before_run = fail
    deltas = engine.step()
    assert [(name, d.index, d.finish_reason) for name, d in deltas] == [
        ("first", 0, "error"),
        ("first", 1, "error"),
    ]
    assert "no memory" in (deltas[0][1].error or "")
    engine.check_integrity()
    runner.before_run = None
    assert tokens_of(run(engine)["waits"]) == ANSWER[:8]
    assert engine.statistics.failed_steps == 1
    assert all_free(engine)


def test_a_detokenizer_that_raises_ends_its_completion() -> None:
    class Broken(NumberText):
        def add(self, token: int) -> str:
            raise ValueError("no such token")

    engine = Engine(FakeRunner(), lambda params: Broken() if params.min_p else NumberText())
    engine.add("bad", Prompt(PROMPT), SamplingParams(max_tokens=5, min_p=0.1))
    engine.add("good", Prompt(PROMPT), greedy())
    results = run(engine)
    assert [d.finish_reason for d in results["bad"]] == ["error"]
    assert "no such token" in (results["bad"][0].error or "")
    assert tokens_of(results["good"]) == ANSWER[:8]


def test_a_request_whose_every_token_is_banned_ends_with_an_error() -> None:
    engine = make_engine()
    engine.add("it", Prompt(PROMPT), greedy(3, min_tokens=1, stop_token_ids=tuple(range(40))))
    (delta,) = run(engine)["it"]
    assert delta.finish_reason == "error"
    assert "every token is banned" in (delta.error or "")
    assert delta.refused


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
