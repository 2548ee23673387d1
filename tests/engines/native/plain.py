"""Sampling and completion as one would first write them: one token, one request, nothing shared.

The slow versions that the engine is compared with. They use Python floats and sorted lists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quire.engines.native.core.sampling_ops import GROUP, Uniforms
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import adapted, fake_logits
from tests.engines.native.plain_media import PlainMedium, seen


def adjusted(
    logits: Sequence[float], params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> list[float]:
    """Return the logits with biases, bans and penalties; no bad words here."""
    values = [float(value) for value in logits]
    for token, amount in params.logit_bias.items():
        values[token] += amount
    if len(output) < params.min_tokens:
        eos = () if params.ignore_eos else params.eos_token_ids
        for token in (*eos, *params.stop_token_ids):
            values[token] = -math.inf
    for token in {*prompt, *output}:
        value, factor = values[token], params.repetition_penalty
        value = value / factor if value > 0 else value * factor
        count = output.count(token)
        value -= params.frequency_penalty * count + params.presence_penalty * (count > 0)
        values[token] = value
    return values


def probabilities(values: Sequence[float], params: SamplingParams) -> dict[int, float]:
    """Return what may be drawn and how likely it is, the likeliest first."""
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    order = [token for token in order if values[token] > -math.inf]
    best = values[order[0]]
    if params.greedy:
        return {order[0]: 1.0}
    weights = {token: math.exp((values[token] - best) / params.temperature) for token in order}
    if 0 < params.top_k < len(values):
        last = values[order[min(params.top_k, len(order)) - 1]]
        weights = {token: w for token, w in weights.items() if values[token] >= last}
    total, before, nucleus = sum(weights.values()), 0.0, dict[int, float]()
    for token, weight in weights.items():
        if before < params.top_p * total:
            nucleus[token] = weight
        before += weight
    kept = {token: w for token, w in nucleus.items() if w >= params.min_p}
    total = sum(kept.values())
    return {token: weight / total for token, weight in kept.items()}


def draw_plainly(values: Sequence[float], params: SamplingParams, uniform: float) -> int:
    """Draw one token by the inverse of the cumulative distribution.

    The likeliest token is first; where many tokens are left, groups of tokens are.
    """
    shares = probabilities(values, params)
    if is_wide(values, params):
        groups = len(values) // GROUP
        grouped = groups * GROUP
        shares = dict(
            sorted(
                shares.items(), key=lambda s: (s[0] % groups if s[0] < grouped else groups, s[0])
            )
        )
    reached = 0.0
    for token, share in shares.items():
        reached += share
        if uniform < reached:
            return token
    return list(shares)[-1]


def is_wide(values: Sequence[float], params: SamplingParams) -> bool:
    """Whether no top_k cuts, and top_p leaves more than the 64 likeliest tokens."""
    if params.greedy or 0 < params.top_k < len(values):
        return False
    best = max(values)
    weights = sorted((math.exp((v - best) / params.temperature) for v in values), reverse=True)
    return params.top_p == 1.0 or sum(weights[:64]) < params.top_p * sum(weights)


@dataclass(frozen=True)
class Completion:
    tokens: list[int]
    text: str
    finish_reason: str
    stop_reason: str | int | None


def answer_plainly(
    prompt: Sequence[int],
    params: SamplingParams,
    index: int,
    vocab_size: int,
    habit: float = 0.0,
    adapter: int = 0,
    media: Sequence[PlainMedium] = (),
) -> Completion:
    """Complete a prompt on a FakeRunner's model; the text is that of NumberText.

    `adapter` is the number of its adapter, 0 for none.
    """
    assert params.greedy or params.seed is not None
    uniforms = Uniforms(params.seed or 0, index)
    eos = () if params.ignore_eos else params.eos_token_ids
    output: list[int] = []
    text = ""
    while len(output) < params.max_tokens:
        tokens = adapted(seen([*prompt, *output], media), adapter)
        logits = fake_logits(tokens, vocab_size, habit=habit).astype(np.float64)
        values = adjusted(logits.tolist(), params, prompt, output)
        token = draw_plainly(values, params, 0.0 if params.greedy else uniforms[len(output)])
        output.append(token)
        armed = len(output) >= params.min_tokens
        if armed and token in (*eos, *params.stop_token_ids):
            reason = token if token in params.stop_token_ids else None
            return Completion(output, text, "stop", reason)
        before, text = len(text), f"{text}{token} "
        cut = first_stop(text, params.stop, before) if armed else None
        if cut is not None:
            return Completion(output, text[: cut[0]], "stop", cut[1])
    return Completion(output, text, "length", None)


def first_stop(text: str, strings: Sequence[str], before: int = 0) -> tuple[int, str] | None:
    """Return where the text is to be cut, and for which string.

    The first to be complete counts, of several the longest; none that ended at `before` or earlier.
    """
    for end in range(before + 1, len(text) + 1):
        complete = [string for string in strings if text[:end].endswith(string)]
        if complete:
            longest = max(complete, key=len)
            return end - len(longest), longest
    return None


def complete_plainly(
    prompt: Sequence[int], params: SamplingParams, index: int, vocab_size: int
) -> list[int]:
    """Return the tokens of completion `index` on a FakeRunner's model."""
    return answer_plainly(prompt, params, index, vocab_size).tokens
