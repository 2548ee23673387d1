"""Models that see and hear on the native engine: tokens and log-probabilities equal transformers'.

Features come from the tower through `MediaEncoder`; the oracle is the whole model of transformers on
its own processor's inputs. Requests run alone, together with ones of text alone, in chunks that cut
media, from the prefix cache, with several completions, and again after preemption.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quire.engines.native.core import engine as engine_module
from quire.engines.native.core.engine import Engine
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.weights.packed import QuantizedKind
from quire.engines.native.media.encoder import MediaEncoder
from quire.outputs import Delta
from quire.prompt import MediaItem, Prompt
from quire.sampling import SamplingParams
from tests.engines.native.media.oracle_inputs import oracle_inputs
from tests.engines.native.media.random_media_models import (
    AUDIO,
    IMAGE,
    KINDS,
    VIDEO,
    clip,
    make_media_model,
    picture,
    sound,
)
from tests.engines.native.test_parity import NoText, run

NEW_TOKENS = 12
COMPLETIONS = 3
NUM_BLOCKS = 64
CACHE_BYTES = 2**23
TOKEN_OF = {"image": IMAGE, "video": VIDEO, "audio": AUDIO}
MakeEngine = Callable[..., Engine]
Media = list[Any]


def scenarios(kind: str) -> list[Media]:
    """What each prompt holds, in order; text stands between."""
    if kind == "qwen2_audio":
        return [[], [sound(9_000)], [sound(30_000, 1), sound(14_000, 2)], []]
    found: list[Media] = [[], [picture(26, 40)], [picture(30, 30, 1), picture(24, 16, 2)], []]
    if kind.startswith(("qwen2", "qwen3", "internvl")):
        found += [[clip(5, 40, 32)], [clip(4, 32, 40, 1), picture(40, 24, 3)]]
    return found


class Subject:
    """A model, its prompts, and what transformers makes of them."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.model: Any = make_media_model(folder, kind)
        self.encoder = MediaEncoder.of_folder(folder)
        self.media = scenarios(kind)
        self.prompts = [self._prompt(media, seed) for seed, media in enumerate(self.media)]
        pairs = zip(self.prompts, self.media, strict=True)
        self.answers = [self._generate(self._inputs(*pair), pair[0]) for pair in pairs]

    def _prompt(self, media: Media, seed: int) -> Prompt:
        generator = np.random.default_rng(seed)
        ids: list[int] = []
        items: list[MediaItem] = []
        for medium in media:
            ids += generator.integers(3, 280, 7).tolist()
            count = len(self.encoder.features(medium).values)
            start, steps = len(ids), 1
            if medium.kind == "video" and not self.kind.startswith("qwen2"):
                # Between steps stand their times or numbers.
                steps = len(medium.frames)
                steps = steps if self.kind.startswith("internvl") else -(-steps // 2)
            runs: list[tuple[int, int]] = []
            for step in range(steps):
                ids += generator.integers(3, 280, 3).tolist() if step else []
                runs.append((len(ids), len(ids) + count // steps))
                token = IMAGE if self.kind.startswith("internvl") else TOKEN_OF[medium.kind]
                ids += [token] * (count // steps)
            item = MediaItem(medium.kind, medium, medium.content_hash, start, len(ids) - start)
            items.append(dataclasses.replace(item, runs=tuple(runs)) if steps > 1 else item)
        ids += generator.integers(3, 280, 11 + 9 * seed).tolist()
        return self.encoder.encode(Prompt(tuple(ids), tuple(items)))

    def _inputs(self, prompt: Prompt, media: Media) -> dict[str, Any]:
        return oracle_inputs(self.folder, self.kind, prompt.token_ids, media)

    def _generate(self, inputs: dict[str, Any], prompt: Prompt) -> tuple[int, ...]:
        with torch.inference_mode():
            found = self.model.generate(
                **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        return tuple(found[0, len(prompt) :].tolist())

    def logprobs(self, number: int) -> list[float]:
        """The log-probability of each token of prompt and answer but the first."""
        prompt, answer = self.prompts[number], self.answers[number]
        full = Prompt(prompt.token_ids + answer, prompt.media)
        with torch.inference_mode():
            logits = self.model(**self._inputs(full, self.media[number])).logits[0, :-1]
        ids = torch.tensor(full.token_ids[1:])
        rows = torch.log_softmax(logits.double(), dim=-1)
        return rows[torch.arange(len(ids)), ids].tolist()


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def make_engine(subject: Subject) -> Iterator[MakeEngine]:
    made: list[Engine] = []

    def make(
        *, num_threads: int = 1, quantize: QuantizedKind | None = None, **options: Any
    ) -> Engine:
        runner = load_model(
            subject.folder,
            quantize=quantize,
            max_model_len=256,
            kv_cache_memory=CACHE_BYTES,
            num_threads=num_threads,
            max_batch_tokens=options.get("max_batch_tokens", 2048),
        )
        runner.num_blocks = NUM_BLOCKS  # the others are never used
        made.append(Engine(runner, lambda params: NoText(), **{"max_sequences": 16, **options}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def greedy(**options: Any) -> SamplingParams:
    wanted = {"max_tokens": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True}
    return SamplingParams(**{**wanted, **options})


def together(engine: Engine, subject: Subject, **options: Any) -> list[list[Delta]]:
    for number, prompt in enumerate(subject.prompts):
        engine.add(str(number), prompt, greedy(**options))
    found = run(engine)
    return [found[str(number)] for number in range(len(subject.prompts))]


def tokens(deltas: list[Delta]) -> tuple[int, ...]:
    return tuple(token for delta in deltas for token in delta.token_ids)


def logprobs(deltas: list[Delta]) -> list[float]:
    given = next(d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None)
    of_prompt = [entry.logprob for entry in given[1:] if entry is not None]
    return of_prompt + [entry.logprob for delta in deltas for entry in delta.logprobs or ()]


def test_alone(subject: Subject, make_engine: MakeEngine) -> None:
    engine = make_engine(prefix_caching=False)
    for prompt, answer in zip(subject.prompts, subject.answers, strict=True):
        engine.add("a", prompt, greedy())
        assert tokens(run(engine)["a"]) == answer


@pytest.mark.parametrize("max_batch_tokens", [16, 2048])
def test_together(subject: Subject, make_engine: MakeEngine, max_batch_tokens: int) -> None:
    """Chunks of 16 cut every medium that may be; the second time, the cache has what it may have."""
    engine = make_engine(max_batch_tokens=max_batch_tokens)
    for _ in range(2):
        assert [tokens(one) for one in together(engine, subject)] == subject.answers
    hits = engine.statistics.prefix_hit_tokens
    assert hits == sum((len(prompt) - 1) // 16 * 16 for prompt in subject.prompts)


def test_logprobs(
    subject: Subject, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close to the oracle's, and bitwise the same however they are computed."""
    options = {"logprobs": 0, "prompt_logprobs": 0}
    whole = [logprobs(one) for one in together(make_engine(), subject, **options)]
    for number, found in enumerate(whole):
        np.testing.assert_allclose(found, subject.logprobs(number), atol=1e-4)
    cut = make_engine(max_batch_tokens=19, num_threads=2, prefix_caching=False)
    assert [logprobs(one) for one in together(cut, subject, **options)] == whole
    # Rows of a picture that is not cut have logits in parts.
    monkeypatch.setattr(engine_module, "_LOGITS_BYTES", 5 * 4 * 300)
    few = make_engine()
    assert [logprobs(one) for one in together(few, subject, **options)] == whole


def test_preempted(subject: Subject, make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_tokens=48, prefix_caching=False)
    assert preempted(engine, subject) == subject.answers
    assert engine.statistics.preemptions >= len(subject.prompts)


def preempted(engine: Engine, subject: Subject) -> list[tuple[int, ...]]:
    """The answers, all of which begin anew some times."""
    for number, prompt in enumerate(subject.prompts):
        engine.add(str(number), prompt, greedy())
    found: dict[str, list[int]] = {}
    for step in itertools.count():
        if step in (1, 4, 9):
            while engine._scheduler.running:
                engine._scheduler._preempt_last()
            engine.check_integrity()
        for request_id, delta in engine.step():
            found.setdefault(request_id, []).extend(delta.token_ids)
        if not engine.has_work:
            break
    return [tuple(found[str(number)]) for number in range(len(subject.prompts))]


def test_drafts_and_several_completions(subject: Subject, make_engine: MakeEngine) -> None:
    """Drafted tokens go on from the same places, and so do completions that share a prompt."""
    for speculation in (0, 4):
        check_completions(make_engine(speculation=speculation), subject, subject.answers)


def check_completions(engine: Engine, subject: Subject, answers: list[tuple[int, ...]]) -> None:
    """All three completions of each prompt are its answer."""
    found = together(engine, subject, n=COMPLETIONS)
    for deltas, answer in zip(found, answers, strict=True):
        for index in range(COMPLETIONS):
            assert tokens([delta for delta in deltas if delta.index == index]) == answer


def test_int8_weights(
    subject: Subject, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same to the bit however they are computed, and near what whole weights give."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path))
    options = {"logprobs": 0, "prompt_logprobs": 0}
    engine = make_engine(quantize="int8")
    whole = together(engine, subject, **options)
    wanted = [logprobs(one) for one in whole]
    errors: list[float] = []
    for number, (found, prompt) in enumerate(zip(wanted, subject.prompts, strict=True)):
        exact = subject.logprobs(number)[: len(prompt) - 1]
        errors += np.abs(np.array(found[: len(exact)]) - exact).tolist()
    assert 0 < np.median(errors) < 0.1
    for number, prompt in enumerate(subject.prompts):
        engine.add("alone", prompt, greedy(**options))
        assert logprobs(run(engine)["alone"]) == wanted[number]
    cut = make_engine(quantize="int8", max_batch_tokens=19, num_threads=2)
    assert [logprobs(one) for one in together(cut, subject, **options)] == wanted
    answers = [tokens(one) for one in whole]
    hits = cut.statistics.prefix_hit_tokens
    assert [tokens(one) for one in together(cut, subject)] == answers
    assert cut.statistics.prefix_hit_tokens > hits
    assert preempted(cut, subject) == answers
    check_completions(cut, subject, answers)


def test_names_of_weights_as_transformers_5_has_them(subject: Subject, tmp_path: Path) -> None:
    make_media_model(tmp_path, subject.kind, as_on_hub=False)
    encoder = MediaEncoder.of_folder(tmp_path)
    for medium in itertools.chain.from_iterable(subject.media):
        found, wanted = encoder.features(medium), subject.encoder.features(medium)
        np.testing.assert_array_equal(found.values, wanted.values)
    runner = load_model(tmp_path, max_model_len=256, kv_cache_memory=2**22, num_threads=1)
    engine = Engine(runner, lambda params: NoText(), max_sequences=16)
    assert [tokens(one) for one in together(engine, subject)] == subject.answers
    engine.close()
