"""Pooling requests: equal to transformers, and the same in any company, however they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.core.engine import Engine
from quire.engines.native.core.pooling import Pooled, Pooling
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.models.registry import read_spec
from quire.errors import (
    EngineClosedError,
    MediaError,
    OutOfMemoryError,
    PromptTooLongError,
    RequestError,
)
from quire.outputs import Delta
from quire.prompt import MediaItem, Prompt
from quire.sampling import SamplingParams
from quire.weights.score_head import ScoreHead
from tests.engines.native.cpu.batches import make_batch, random_ids, table_of
from tests.engines.native.cpu.reference_runner import ReferenceRunner
from tests.engines.native.fake_runner import (
    HIDDEN,
    FakeAdapter,
    FakeRunner,
    NumberText,
    adapted,
    fake_logits,
)
from tests.engines.native.plain import complete_plainly
from tests.engines.native.random_models import load_oracle, make_random_model

Vector = tuple[float, ...]
LENGTHS = (5, 40, 17, 1, 64, 33)
MEAN, LAST = Pooling("mean"), Pooling("last")


def run(engine: Engine) -> dict[str, list[Delta]]:
    results: dict[str, list[Delta]] = {}
    for _ in range(2000):
        if not engine.has_work:
            return results
        for name, delta in engine.step():
            results.setdefault(name, []).append(delta)
        engine.check_integrity()
    raise AssertionError("somebody waits for ever")


def vector_of(deltas: Sequence[Delta]) -> Vector:
    (pooled,) = deltas
    assert isinstance(pooled, Pooled)
    assert pooled.finish_reason == "stop"
    return pooled.vector


# --- on random models, against transformers ------------------------------------------------------


class Oracle:
    """transformers' hidden states after the last norm, for a few prompts."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = make_random_model(folder, kind)
        self.prompts = [tuple(random_ids(length, length)) for length in LENGTHS]
        base = load_oracle(self.folder).base_model
        with torch.inference_mode():
            self.hidden = [base(torch.tensor([ids])).last_hidden_state[0] for ids in self.prompts]


@pytest.fixture(scope="module", params=["mistral", "llama3", "qwen3"])
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def make_engine(oracle: Oracle) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(*, threads: int = 1, memory: int = 2**22, **options: Any) -> Engine:
        runner = load_model(
            oracle.folder, max_model_len=128, kv_cache_memory=memory, num_threads=threads
        )
        options = {"max_sequences": 16, **options}
        made.append(Engine(runner, lambda params: NumberText(), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def pool_all(engine: Engine, prompts: Sequence[Sequence[int]], params: Pooling) -> list[Vector]:
    for number, prompt in enumerate(prompts):
        engine.add_pooling(str(number), Prompt(tuple(prompt)), params)
    results = run(engine)
    return [vector_of(results[str(number)]) for number in range(len(prompts))]


def test_last_and_mean_equal_transformers(
    oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    for vector, hidden in zip(pool_all(engine, oracle.prompts, LAST), oracle.hidden, strict=True):
        np.testing.assert_allclose(vector, hidden[-1], atol=1e-4)
    for vector, hidden in zip(pool_all(engine, oracle.prompts, MEAN), oracle.hidden, strict=True):
        np.testing.assert_allclose(vector, hidden.double().mean(0), atol=1e-4)
    normed = Pooling("mean", normalize=True)
    for vector, hidden in zip(pool_all(engine, oracle.prompts, normed), oracle.hidden, strict=True):
        wanted = torch.nn.functional.normalize(hidden.mean(0), dim=-1)
        np.testing.assert_allclose(vector, wanted, atol=1e-5)
        assert sum(x * x for x in vector) == pytest.approx(1.0, abs=1e-6)


def test_a_head_is_a_linear_map_of_the_last_hidden_state(
    oracle: Oracle, make_engine: Callable[..., Engine]
) -> None:
    head = torch.nn.Linear(oracle.hidden[0].shape[1], 3)
    weight, bias = (p.detach().double().numpy() for p in (head.weight, head.bias))
    results = pool_all(make_engine(), oracle.prompts, Pooling(head=ScoreHead(weight, bias)))
    with torch.inference_mode():
        wanted = [head(hidden[-1]).numpy() for hidden in oracle.hidden]
    np.testing.assert_allclose(results, wanted, atol=1e-4)


@pytest.mark.parametrize("params", [MEAN, LAST], ids=["mean", "last"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_tokens": 16},
        {"max_batch_tokens": 37, "threads": 2},
        {"max_sequences": 2},
        {"prefix_caching": False},
    ],
    ids=str,
)
def test_bitwise_the_same_in_any_company(
    oracle: Oracle,
    make_engine: Callable[..., Engine],
    params: Pooling,
    options: dict[str, Any],
) -> None:
    alone = make_engine(prefix_caching=False)
    expected = [pool_all(alone, [prompt], params)[0] for prompt in oracle.prompts]
    engine = make_engine(**options)
    for number, prompt in enumerate(oracle.prompts):  # texts are written beside them
        greedy = SamplingParams(max_tokens=6, temperature=0.0)
        engine.add(f"text {number}", Prompt(prompt[::-1]), greedy)
    assert pool_all(engine, oracle.prompts, params) == expected
    assert pool_all(engine, oracle.prompts, params) == expected  # from the prefix cache
    hits = engine.statistics.prefix_hit_tokens
    assert (hits > 0) == (params is LAST and options.get("prefix_caching", True))


@pytest.mark.parametrize("params", [MEAN, LAST], ids=["mean", "last"])
def test_bitwise_the_same_after_preemption(
    oracle: Oracle, make_engine: Callable[..., Engine], params: Pooling
) -> None:
    expected = pool_all(make_engine(), oracle.prompts, params)
    engine = make_engine(max_batch_tokens=16, prefix_caching=False)
    for number, prompt in enumerate(oracle.prompts):
        engine.add_pooling(str(number), Prompt(prompt), params)
    results: dict[str, list[Delta]] = {}
    preempted = 0
    while engine.has_work:
        for name, delta in engine.step():
            results.setdefault(name, []).append(delta)
        if preempted < 9:
            while engine._scheduler.running:
                engine._scheduler._preempt_last()
                preempted += 1
        engine.check_integrity()
    assert preempted >= 9
    assert [vector_of(results[str(n)]) for n in range(len(expected))] == expected


def test_the_reference_runner_has_the_same_hidden_states(oracle: Oracle) -> None:
    ids = random_ids(40)
    rows = np.array([39, 3, 17], np.int32)
    weights = load_weights(read_spec(oracle.folder), oracle.folder, with_head=False)
    reference = ReferenceRunner(weights, max_model_len=64, num_blocks=4)
    compiled = load_model(oracle.folder, max_model_len=64, num_threads=1, with_head=False)
    results: list[NDArray[np.float32]] = []
    for runner in (reference, compiled):
        whole = make_batch([(ids, 0, table_of(40))])
        no_rows = np.empty(0, np.int32)
        batch = replace(whole, logits_rows=no_rows, hidden_rows=rows)
        assert runner.run(batch).shape == (0, 300)
        results.append(runner.hidden.copy())
        runner.close()
    np.testing.assert_allclose(results[0], results[1], atol=1e-4)


def test_a_model_without_its_head_gives_no_logits(oracle: Oracle) -> None:
    compiled = load_model(oracle.folder, max_model_len=64, num_threads=1, with_head=False)
    with pytest.raises(ValueError, match="without its head"):
        compiled.run(make_batch([([5, 6], 0, table_of(2))]))
    compiled.close()


# --- on a model of hashes: books, faults, refusals ------------------------------------------------

prompts = st.one_of(
    st.builds(lambda length, last: (*range(length), last), st.integers(0, 17), st.integers(0, 3)),
    st.lists(st.integers(0, 23), min_size=1, max_size=20).map(tuple),
)
kinds = st.sampled_from([None, None, "last", "mean"])


def plainly(prompt: Sequence[int], kind: str) -> Vector:
    rows = [fake_logits(prompt[: end + 1], HIDDEN).astype(np.float64) for end in range(len(prompt))]
    vector = rows[-1] if kind == "last" else sum(rows, np.zeros(HIDDEN)) / len(rows)
    return tuple(vector.astype(np.float32).tolist())


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    requests=st.lists(st.tuples(prompts, kinds, st.integers(-1, 1)), min_size=1, max_size=9),
    aborts=st.dictionaries(st.integers(0, 8), st.integers(1, 6), max_size=3),
    blocks=st.integers(8, 16),
    sequences=st.integers(1, 5),
    extra=st.integers(0, 12),
    caching=st.booleans(),
)
def test_texts_and_vectors_share_one_engine(
    requests: list[tuple[tuple[int, ...], Any, int]],
    aborts: dict[int, int],
    blocks: int,
    sequences: int,
    extra: int,
    caching: bool,
) -> None:
    engine = Engine(
        FakeRunner(num_blocks=blocks, block_size=4, vocab_size=24, max_model_len=32),
        lambda params: NumberText(),
        max_sequences=sequences,
        max_batch_tokens=sequences + extra,
        prefix_caching=caching,
    )
    for number, (prompt, kind, priority) in enumerate(requests):
        if kind is None:
            params = SamplingParams(max_tokens=7, temperature=0.0, priority=priority)
            engine.add(str(number), Prompt(prompt), params)
        else:
            pooling = Pooling(kind, priority=priority)
            engine.add_pooling(str(number), Prompt(prompt), pooling)
    results: dict[str, list[Delta]] = {}
    steps = 0
    while engine.has_work:
        for name, delta in engine.step():
            results.setdefault(name, []).append(delta)
        engine.check_integrity()
        steps += 1
        for number in [n for n, when in aborts.items() if when == steps]:
            engine.abort(str(number))
        assert steps < 1000
    assert engine.statistics.free_blocks == blocks
    for number, (prompt, kind, _) in enumerate(requests):
        deltas = results.get(str(number), [])
        if number in aborts and not (deltas and deltas[-1].finish_reason):
            continue
        if kind is None:
            tokens = [token for delta in deltas for token in delta.token_ids]
            greedy = SamplingParams(max_tokens=7, temperature=0.0)
            assert tokens == complete_plainly(prompt, greedy, 0, 24)
        else:
            assert vector_of(deltas) == plainly(prompt, kind)
            assert deltas[0].usage is not None
            assert deltas[0].usage.prompt_tokens == len(prompt)
            assert deltas[0].usage.completion_tokens == 0


def fake_engine(**options: Any) -> Engine:
    return Engine(FakeRunner(**options), lambda params: NumberText())


def test_a_prompt_may_fill_the_whole_context_and_the_whole_cache() -> None:
    engine = fake_engine(num_blocks=4, block_size=4, max_model_len=16)
    prompt = tuple(range(16))
    engine.add_pooling("it", Prompt(prompt), MEAN)
    assert vector_of(run(engine)["it"]) == plainly(prompt, "mean")
    with pytest.raises(PromptTooLongError, match="17 tokens and the context holds 16"):
        engine.add_pooling("more", Prompt((*prompt, 1)), MEAN)
    small = fake_engine(num_blocks=3, block_size=4, max_model_len=16)
    with pytest.raises(OutOfMemoryError):
        small.add_pooling("it", Prompt(prompt), MEAN)
    assert not small.has_work


def test_a_vector_is_that_of_its_adapter() -> None:
    engine, prompt = fake_engine(), tuple(range(12))
    for number in (0, 1, 2, 1):
        adapter = FakeAdapter(number) if number else None
        engine.add_pooling("it", Prompt(prompt), LAST, adapter=adapter)
        assert vector_of(run(engine)["it"]) == plainly(adapted(prompt, number), "last")


def test_what_is_wrong_is_refused() -> None:
    engine = fake_engine()
    image = MediaItem("image", None, "", 0, 1)
    for prompt, error in (
        (Prompt(()), RequestError),
        (Prompt((1, 40)), RequestError),
        (Prompt((-1,)), RequestError),
        (Prompt((1,), (image,)), MediaError),
    ):
        with pytest.raises(error):
            engine.add_pooling("it", prompt, LAST)
    engine.add_pooling("it", Prompt((1,)), LAST)
    with pytest.raises(RequestError, match="in use"):
        engine.add_pooling("it", Prompt((1,)), LAST)
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.add_pooling("it", Prompt((1,)), LAST)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
@pytest.mark.parametrize("params", [MEAN, LAST], ids=["mean", "last"])
def test_hidden_states_that_are_no_numbers_end_that_request_alone(
    fault: float, params: Pooling
) -> None:
    runner = FakeRunner()
    engine = Engine(runner, lambda params: NumberText())

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        runner.hidden[1 if params is LAST else 4, 2] = fault  # a row of the second

    runner.after_run = spoil
    for name in ("a", "b"):
        engine.add_pooling(name, Prompt((1, 2, 3)), params)
    results = run(engine)
    assert vector_of(results["a"]) == plainly((1, 2, 3), params.kind)
    assert [delta.finish_reason for delta in results["b"]] == ["error"]
    assert engine.statistics.free_blocks == engine.statistics.total_blocks
    runner.after_run = None
    assert pool_all(engine, [(1, 2, 3, 4, 5)], params) == [plainly((1, 2, 3, 4, 5), params.kind)]


@pytest.mark.parametrize("kind", ["last", "mean"])
def test_a_vector_of_an_adapter_takes_no_blocks_of_others(kind: Any) -> None:
    """Each has its own keys and values: the second time, those of the first, and nobody else's."""
    engine = fake_engine()
    prompt = tuple(range(11))
    hits: list[int] = []
    for adapter in (None, FakeAdapter(1), FakeAdapter(2), FakeAdapter(1), None):
        engine.add_pooling("it", Prompt(prompt), Pooling(kind), adapter=adapter)
        number = adapter.number if adapter else 0
        (pooled,) = run(engine)["it"]
        assert vector_of([pooled]) == plainly(adapted(prompt, number), kind)
        assert pooled.usage is not None
        hits.append(pooled.usage.cached_tokens)
    assert hits == ([0, 0, 0, 8, 8] if kind == "last" else [0] * 5)


def test_a_step_that_fails_ends_the_request() -> None:
    runner = FakeRunner()
    engine = Engine(runner, lambda params: NumberText())

    def fail(batch: Batch) -> None:
        raise RuntimeError("a made-up fault")

    runner.before_run = fail
    engine.add_pooling("it", Prompt((1, 2, 3)), MEAN)
    (delta,) = run(engine)["it"]
    assert not isinstance(delta, Pooled)
    assert delta.finish_reason == "error"
    assert "a made-up fault" in (delta.error or "")


def test_the_lower_priority_number_is_first() -> None:
    engine = Engine(FakeRunner(), lambda params: NumberText(), max_sequences=1, max_batch_tokens=4)
    engine.add_pooling("late", Prompt((1, 2, 3, 4)), Pooling(priority=1))
    engine.add_pooling("soon", Prompt((1, 2, 3, 5)), Pooling(priority=-1))
    assert list(run(engine)) == ["soon", "late"]
