"""Whatever arrives when: each completion is what it would be alone, and no block is lost."""

from __future__ import annotations

from itertools import chain
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quire.engines.native.core.engine import Engine
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import FakeAdapter, FakeRunner, NumberText
from tests.engines.native.plain import Completion, answer_plainly
from tests.engines.native.plain_media import PlainMedium, media, prompt_of, with_media

VOCAB = 24
BLOCK = 4

prompts = st.one_of(
    # Many share a beginning, some are multiples of the block size.
    st.builds(lambda length, last: (*range(length), last), st.integers(0, 17), st.integers(0, 3)),
    # Equal blocks after different ones.
    st.lists(st.sampled_from([(1, 2, 3, 4), (5, 6, 7, 8)]), min_size=1, max_size=4).map(
        lambda blocks: (*chain.from_iterable(blocks), 9)
    ),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12).map(tuple),
)
options = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 14),
        "n": st.sampled_from([1, 1, 1, 2, 3, 5]),
        "priority": st.integers(-1, 1),
        "seed": st.integers(0, 3),
    },
    optional={
        "temperature": st.sampled_from([0.0, 0.6, 1.5]),
        "top_k": st.sampled_from([0, 3]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "repetition_penalty": st.just(1.3),
        "min_tokens": st.integers(0, 4),
        "stop_token_ids": st.just((5, 6, 7)),
        "eos_token_ids": st.just((7, 8)),
        "ignore_eos": st.booleans(),
        "stop": st.sampled_from([("3 1",), ("1", "11 "), ("2 2", " 9")]),
        "prompt_logprobs": st.integers(0, 2),
        "logprobs": st.integers(0, 2),
        "streamed": st.booleans(),
    },
)
shapes = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(8, 20),
        "max_sequences": st.integers(1, 5),
        "extra_tokens": st.integers(0, 12),
        "prefix_caching": st.booleans(),
        "speculation": st.sampled_from([0, 1, 3, 8]),
        "habit": st.sampled_from([0.0, 4.0, 7.0]),
        "num_state_slots": st.sampled_from([0, 0, 1, 2, 3, 5, 8, 13, 20]),
        "has_whole_media": st.booleans(),
    }
)


class Arrivals(RuleBasedStateMachine):
    """Requests come and go on an engine with hardly enough blocks for one of them."""

    @initialize(shape=shapes)
    def start(self, shape: dict[str, Any]) -> None:
        self.runner = FakeRunner(
            num_blocks=shape["num_blocks"],
            block_size=BLOCK,
            vocab_size=VOCAB,
            max_model_len=36,
            habit=shape["habit"],
            uses_mrope=True,
            num_state_slots=shape["num_state_slots"],
            whole_tokens=6 if shape["has_whole_media"] and not shape["num_state_slots"] else 0,
        )
        self.engine = Engine(
            self.runner,
            lambda params: NumberText(),
            max_sequences=shape["max_sequences"],
            max_batch_tokens=shape["max_sequences"] + shape["extra_tokens"],
            prefix_caching=shape["prefix_caching"],
            speculation=shape["speculation"],
        )
        self.requests: dict[str, tuple[tuple[int, ...], SamplingParams]] = {}
        self.adapters: dict[str, int] = {}
        self.media: dict[str, tuple[PlainMedium, ...]] = {}
        self.deltas: dict[str, list[Delta]] = {}
        self.added = 0

    @rule(
        text=prompts,
        given=options,
        adapter=st.sampled_from([0, 0, 1, 2]),
        drawn=st.one_of(st.just([]), media),
    )
    def add(
        self, text: tuple[int, ...], given: dict[str, Any], adapter: int, drawn: list[tuple]
    ) -> None:
        prompt, held = with_media(drawn, text)
        name, self.added = f"request-{self.added}", self.added + 1
        params = SamplingParams(**given)
        loaded = FakeAdapter(adapter) if adapter else None
        self.engine.add(name, prompt_of(prompt, held), params, arrival=0.0, adapter=loaded)
        self.adapters[name], self.media[name] = adapter, held
        self.requests[name], self.deltas[name] = (prompt, params), []

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.requests)))
        self.engine.abort(name)
        del self.requests[name]

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            for name, delta in self.engine.step():
                assert name in self.requests, "a delta of a request that was aborted"
                self.deltas[name].append(delta)
            self.engine.check_integrity()

    @invariant()
    def books_agree(self) -> None:
        self.engine.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        bound = sum(
            params.n * (len(prompt) + params.max_tokens) * 4 + 8
            for prompt, params in self.requests.values()
        )
        for _ in range(bound):
            if not self.engine.has_work:
                break
            self.step(1)
        assert not self.engine.has_work, "somebody waits for ever"
        statistics = self.engine.statistics
        assert statistics.free_blocks == statistics.total_blocks
        assert not statistics.running
        assert not statistics.waiting
        for name, (prompt, params) in self.requests.items():
            for index in range(params.n):
                deltas = [d for d in self.deltas[name] if d.index == index]
                self.check(deltas, prompt, params, self.adapters[name], self.media[name])

    def check(
        self,
        deltas: list[Delta],
        prompt: tuple[int, ...],
        params: SamplingParams,
        adapter: int,
        held: tuple[PlainMedium, ...],
    ) -> None:
        index = deltas[0].index
        tokens = [token for delta in deltas for token in delta.token_ids]
        expected = answer_plainly(prompt, params, index, VOCAB, self.runner.habit, adapter, held)
        last = deltas[-1]
        text = "".join(delta.text for delta in deltas)
        assert Completion(tokens, text, last.finish_reason or "", last.stop_reason) == expected
        assert all(delta.finish_reason is None for delta in deltas[:-1])
        usage = deltas[-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), len(tokens))
        if params.prompt_logprobs is not None and index == 0:
            entries = deltas[0].prompt_logprobs
            assert entries is not None
            assert entries[0] is None
            assert tuple(one.token_id for one in entries[1:] if one) == prompt[1:]


Arrivals.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True
)
TestArrivals = Arrivals.TestCase


def run_all(
    engine: Engine, requests: dict[str, tuple[tuple[int, ...], SamplingParams]]
) -> dict[str, list[Delta]]:
    for name, (prompt, params) in requests.items():
        engine.add(name, Prompt(prompt), params)
    deltas: dict[str, list[Delta]] = {name: [] for name in requests}
    while engine.has_work:
        for name, delta in engine.step():
            deltas[name].append(delta)
        engine.check_integrity()
    return deltas


@settings(max_examples=40, deadline=None, derandomize=True)
@given(prompt=prompts, chunk=st.integers(1, 20), caching=st.booleans())
def test_prompt_logprobs_are_the_same_however_the_prompt_is_cut(
    prompt: tuple[int, ...], chunk: int, caching: bool
) -> None:
    params = SamplingParams(max_tokens=2, temperature=0.0, logprobs=2, prompt_logprobs=3)
    results: list[object] = []
    for size in (chunk, 100):
        engine = Engine(
            FakeRunner(block_size=BLOCK, vocab_size=VOCAB),
            lambda params: NumberText(),
            max_sequences=1,
            max_batch_tokens=size,
            prefix_caching=caching,
        )
        for _ in range(2):  # the second time after a prefix that is cached
            deltas = run_all(engine, {"it": (prompt, params)})["it"]
            results.append([(d.token_ids, d.logprobs, d.prompt_logprobs) for d in deltas])
    assert all(one == results[0] for one in results)


@settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    others=st.lists(st.tuples(prompts, options), max_size=6),
    prompt=prompts,
    given_options=options,
)
def test_a_seed_gives_the_same_answer_in_any_company(
    others: list[tuple[tuple[int, ...], dict[str, Any]]],
    prompt: tuple[int, ...],
    given_options: dict[str, Any],
) -> None:
    requests = {
        str(number): (ids, SamplingParams(**given)) for number, (ids, given) in enumerate(others)
    }
    requests["it"] = (prompt, SamplingParams(**given_options))
    engine = Engine(
        FakeRunner(num_blocks=16, block_size=BLOCK, vocab_size=VOCAB),
        lambda params: NumberText(),
        max_sequences=6,
        max_batch_tokens=11,
    )
    alone = Engine(FakeRunner(vocab_size=VOCAB), lambda params: NumberText())
    by_index = sorted(run_all(engine, requests)["it"], key=lambda delta: delta.index)
    expected = sorted(run_all(alone, {"it": requests["it"]})["it"], key=lambda delta: delta.index)
    assert [(d.index, d.token_ids, d.logprobs) for d in by_index] == [
        (d.index, d.token_ids, d.logprobs) for d in expected
    ]
