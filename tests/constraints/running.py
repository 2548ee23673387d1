"""An engine on random logits whose tokens have text, for constrained requests."""

from __future__ import annotations

from functools import cache
from typing import Any

from quire.constraints.compiler import ConstraintCompiler
from quire.engines.native.core.detokenizer import detokenizer_factory
from quire.engines.native.core.engine import Engine
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import FakeRunner
from tests.engines.native.small_tokenizers import END, byte_level

TOKENS = byte_level().vocab_size
VOCAB = TOKENS + 7  # a model's logits may be more than its tokens
EOS = byte_level().token_to_id(END)


@cache
def compiler() -> ConstraintCompiler:
    return ConstraintCompiler(byte_level(), VOCAB)


def make_engine(runner: FakeRunner | None = None, **options: Any) -> Engine:
    return Engine(
        runner or FakeRunner(vocab_size=VOCAB, num_blocks=128),
        detokenizer_factory(byte_level()),
        encode=byte_level().encode,
        **options,
    )


def settings(constraint: Constraint | None, max_tokens: int = 40, **options: Any) -> SamplingParams:
    given = {"seed": 0, "eos_token_ids": (EOS,), **options}
    return SamplingParams(max_tokens=max_tokens, response_format=constraint, **given)


def regex(pattern: str, max_tokens: int = 40, **options: Any) -> SamplingParams:
    return settings(Constraint("regex", pattern), max_tokens, **options)


def add(engine: Engine, name: str, params: SamplingParams, prompt: tuple[int, ...] = (1,)) -> None:
    matchers = compiler().compile(params)
    engine.add(name, Prompt(prompt), params, arrival=0.0, matchers=matchers)


def run(engine: Engine) -> dict[tuple[str, int], list[Delta]]:
    """Step to the end; return the deltas of each completion."""
    results: dict[tuple[str, int], list[Delta]] = {}
    while engine.has_work:
        for name, delta in engine.step():
            results.setdefault((name, delta.index), []).append(delta)
        engine.check_integrity()
    engine.close()
    return results


def alone(params: SamplingParams, **options: Any) -> list[Delta]:
    """The deltas of one request's first completion."""
    engine = make_engine(**options)
    add(engine, "it", params)
    return run(engine)["it", 0]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]
