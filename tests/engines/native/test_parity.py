"""The whole engine on random models: greedy tokens and log-probabilities equal transformers'.

Each way in which the engine may compute a request is tried: alone, batched, in chunks, from the
prefix cache, and again after preemption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quire.engines.native.core.engine import Engine
from quire.engines.native.cpu.loading import load_model
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from tests.engines.native.random_models import KINDS, load_oracle, make_random_model

NEW_TOKENS = 24
LENGTHS = (5, 40, 17, 1, 64, 33)
MakeEngine = Callable[..., Engine]


class Oracle:
    """transformers' model of one kind, and its greedy answers to the prompts."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = make_random_model(folder, kind)
        self.model = load_oracle(self.folder)
        generator = np.random.default_rng(7)
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        self.prompts = [
            tuple(generator.integers(3, vocabulary, length).tolist()) for length in LENGTHS
        ]
        self.answers = [self._generate(prompt) for prompt in self.prompts]

    def _generate(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            results = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                eos_token_id=None,
                pad_token_id=0,
            )
        return tuple(results[0, len(prompt) :].tolist())

    def logprobs(self, ids: tuple[int, ...]) -> list[float]:
        """The natural log-probability of each token but the first, given those before it."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids])).logits[0, :-1]
        rows = torch.log_softmax(logits.double(), dim=-1)
        return rows[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()


@pytest.fixture(scope="module", params=KINDS)
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def make_engine(oracle: Oracle) -> Iterator[MakeEngine]:
    made: list[Engine] = []

    def make(*, blocks: int = 64, slots: int = 32, block_size: int = 16, **options: Any) -> Engine:
        runner = load_model(
            oracle.folder,
            max_model_len=128,
            block_size=block_size,
            kv_cache_memory=2**27,
            num_threads=1,
        )
        assert runner.num_blocks >= blocks
        runner.num_blocks = blocks  # the others are never used
        if runner.num_state_slots:
            assert runner.num_state_slots >= slots
            runner.num_state_slots = slots
        options = {"max_sequences": 16, **options}
        made.append(Engine(runner, lambda params: NoText(), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


class NoText:
    """A detokenizer for models without a tokenizer."""

    def add(self, token: int) -> str:
        return ""

    def read(self, tokens: Sequence[int]) -> str:
        return ""

    def flush(self) -> str:
        return ""


def greedy(**options: Any) -> SamplingParams:
    return SamplingParams(
        **{"max_tokens": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True, **options}
    )


def run(engine: Engine) -> dict[str, list[Delta]]:
    """Step until nothing is left, and check all block accounts on the way."""
    results: dict[str, list[Delta]] = {}
    for _ in range(2000):
        if not engine.has_work:
            return results
        for request_id, delta in engine.step():
            assert delta.finish_reason != "error", delta.error
            results.setdefault(request_id, []).append(delta)
        engine.check_integrity()
    raise AssertionError("the engine does not end")


def answers(
    engine: Engine, prompts: list[tuple[int, ...]], params: SamplingParams | None = None
) -> list[tuple[int, ...]]:
    for number, prompt in enumerate(prompts):
        engine.add(str(number), Prompt(prompt), params or greedy())
    results = run(engine)
    return [
        tuple(token for delta in results[str(number)] for token in delta.token_ids)
        for number in range(len(prompts))
    ]


def test_one_at_a_time(oracle: Oracle, make_engine: MakeEngine) -> None:
    engine = make_engine(prefix_caching=False)
    assert [answers(engine, [prompt])[0] for prompt in oracle.prompts] == oracle.answers


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("max_batch_tokens", [16, 2048])
def test_batched(
    oracle: Oracle, make_engine: MakeEngine, prefix_caching: bool, max_batch_tokens: int
) -> None:
    engine = make_engine(prefix_caching=prefix_caching, max_batch_tokens=max_batch_tokens)
    assert answers(engine, oracle.prompts) == oracle.answers
    # The second time, the cache has what it may have.
    assert answers(engine, oracle.prompts) == oracle.answers
    assert (engine.statistics.prefix_hit_tokens > 0) == prefix_caching


def test_preempted(oracle: Oracle, make_engine: MakeEngine) -> None:
    """Seven blocks hold the longest sequence alone, so that the others are put back."""
    engine = make_engine(blocks=8, prefix_caching=False)
    assert answers(engine, oracle.prompts) == oracle.answers
    assert engine.statistics.preemptions > 0


def test_every_request_preempted(oracle: Oracle, make_engine: MakeEngine) -> None:
    """The first in the queue never gives way by itself, so that all are put back by hand."""
    engine = make_engine(max_batch_tokens=48)
    scheduler = engine._scheduler
    for number, prompt in enumerate(oracle.prompts):
        engine.add(str(number), Prompt(prompt), greedy())
    results: dict[str, list[int]] = {}
    preempted: set[str] = set()
    for step in range(2000):
        if step in (3, 9, 20):
            preempted |= {sequence.request.request_id for sequence in scheduler.running}
            while scheduler.running:
                scheduler._preempt_last()
            engine.check_integrity()
        for request_id, delta in engine.step():
            results.setdefault(request_id, []).extend(delta.token_ids)
        if not engine.has_work:
            break
    assert len(preempted) == len(oracle.prompts)
    assert [tuple(results[str(n)]) for n in range(len(oracle.prompts))] == oracle.answers


def test_several_completions_share_the_prompt(oracle: Oracle, make_engine: MakeEngine) -> None:
    engine = make_engine(prefix_caching=False)
    engine.add("a", Prompt(oracle.prompts[1]), greedy(n=3))
    deltas = run(engine)["a"]
    for index in range(3):
        assert ids_of(deltas, index) == oracle.answers[1]


def test_drafts(oracle: Oracle, make_engine: MakeEngine) -> None:
    """Of few tokens, much is drafted. What is rejected leaves nothing behind."""
    few = greedy(logit_bias=dict.fromkeys((5, 9, 60, 61), 100.0))
    plain, drafting = make_engine(), make_engine(speculation=4)
    expected = answers(plain, oracle.prompts, few)
    assert answers(drafting, oracle.prompts, few) == expected
    assert drafting.statistics.accepted_tokens > 0
    if has_states(plain):
        assert drafting.statistics.drafted_tokens > drafting.statistics.accepted_tokens


def test_few_slots(oracle: Oracle, make_engine: MakeEngine) -> None:
    """Where there is room for few states, requests wait, and checkpoints give way."""
    engine = make_engine(slots=4, speculation=4, max_batch_tokens=48)
    if not has_states(engine):
        return
    for _ in range(2):
        assert answers(engine, oracle.prompts) == oracle.answers
    engine.add("a", Prompt(oracle.prompts[1]), greedy(n=3))
    deltas = run(engine)["a"]
    assert {ids_of(deltas, index) for index in range(3)} == {oracle.answers[1]}


def has_states(engine: Engine) -> bool:
    return engine._runner.num_state_slots > 0


def ids_of(deltas: list[Delta], index: int) -> tuple[int, ...]:
    """The tokens of one completion."""
    return tuple(token for delta in deltas if delta.index == index for token in delta.token_ids)


def test_logprobs(oracle: Oracle, make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_tokens=16)
    prompt, answer = oracle.prompts[4], oracle.answers[4]
    engine.add("a", Prompt(prompt), greedy(logprobs=2, prompt_logprobs=0))
    deltas = run(engine)["a"]
    wanted = oracle.logprobs(prompt + answer)
    given = next(d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None)
    assert given[0] is None
    of_prompt = [entry.logprob for entry in given[1:] if entry is not None]
    of_answer = [entry.logprob for delta in deltas for entry in delta.logprobs or ()]
    np.testing.assert_allclose(of_prompt + of_answer, wanted, atol=1e-4)
    perplexity = math.exp(-sum(of_prompt) / len(of_prompt))
    expected = math.exp(-sum(wanted[: len(prompt) - 1]) / (len(prompt) - 1))
    assert perplexity == pytest.approx(expected, rel=1e-4)
