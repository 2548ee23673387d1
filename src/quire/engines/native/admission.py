"""The edge of the engine: what it refuses, and how a prompt becomes a request."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.constraints.matcher import Matcher
from quire.engines.native.adjustments import Encode, LogitRules, TokenCounts, logit_rules
from quire.engines.native.batch import LoadedAdapter
from quire.engines.native.completion_text import CompletionText
from quire.engines.native.detokenizer import MakeDetokenizer
from quire.engines.native.placed_media import PlacedMedia, check_media
from quire.engines.native.prefix_cache import Root
from quire.engines.native.prompt_logprobs import PromptLogprobs
from quire.engines.native.randomness import Uniforms, random_seed
from quire.engines.native.sequence import Request, Sequence
from quire.errors import OutOfMemoryError, PromptTooLongError, RequestError, SamplingError
from quire.prompt import Prompt
from quire.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Limits:
    """What the runner can hold."""

    vocab_size: int
    max_model_len: int
    block_size: int
    num_blocks: int
    hidden_size: int
    uses_mrope: bool = False


def check_request(
    prompt: Prompt,
    params: SamplingParams,
    limits: Limits,
    matchers: Many[Matcher] = (),
) -> None:
    """Refuse what could never run.

    Raises:
        RequestError: an empty prompt or one with unknown tokens, or an option that is not honoured.
        MediaError: media that do not fit the prompt or the model.
        PromptTooLongError: prompt and answer do not fit the model's context.
        OutOfMemoryError: they do not fit the KV cache, even alone.
    """
    _check_options(params, matchers)
    _check_tokens(prompt, limits)
    check_media(prompt, limits.hidden_size, limits.uses_mrope)
    total = len(prompt) + params.max_tokens
    if total > limits.max_model_len:
        raise PromptTooLongError(
            f"The prompt has {len(prompt):,} tokens and up to {params.max_tokens:,} are to follow; "
            f"the context holds {limits.max_model_len:,}. Shorten the prompt or lower max_new_tokens."
        )
    room = limits.num_blocks * limits.block_size
    if total - 1 > room:  # the last token is never computed
        raise OutOfMemoryError(
            f"Prompt and answer may have {total:,} tokens and the KV cache holds {room:,}. Give it "
            "more memory, shorten the prompt, or lower max_new_tokens."
        )


def _check_options(params: SamplingParams, matchers: Many[Matcher]) -> None:
    if params.max_tokens < 1 or params.n < 1:
        raise SamplingError("max_tokens and n must be at least 1.")
    if len(matchers) != (0 if params.response_format is None else params.n):
        raise RequestError(
            "response_format needs a matcher for each completion: see ConstraintCompiler."
        )


def _check_tokens(prompt: Prompt, limits: Limits) -> None:
    if not len(prompt):
        raise RequestError("The prompt is empty: give it at least one token.")
    lowest, highest = min(prompt.token_ids), max(prompt.token_ids)
    if lowest < 0 or highest >= limits.vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise RequestError(
            f"The prompt holds token {wrong}; the model's vocabulary ends at {limits.vocab_size - 1}. "
            "Its tokenizer may be another model's."
        )


def root_of(adapter: LoadedAdapter | None, salt: str | None = None) -> Root:
    """What the keys and values of a request depend on, besides its tokens, and who may share them."""
    used = () if adapter is None else (f"adapter {adapter.number}",)
    return used if salt is None else (*used, f"salt {salt}")


def make_request(
    request_id: str,
    number: int,
    prompt: Prompt,
    params: SamplingParams,
    arrival: float,
    *,
    adapter: LoadedAdapter | None = None,
    vocab_size: int,
    make_detokenizer: MakeDetokenizer,
    encode: Encode | None,
    matchers: Many[Matcher] = (),
) -> Request:
    """Build a request that has been checked, and its sequences.

    Raises:
        SamplingError, UnsupportedOptionError: see `logit_rules`.
    """
    prompt_ids = np.array(prompt.token_ids, dtype=np.int32)
    top = params.prompt_logprobs
    request = Request(
        request_id=request_id,
        prompt_ids=prompt_ids,
        params=params,
        priority=params.priority,
        arrival=arrival,
        number=number,
        root=root_of(adapter, params.cache_salt),
        rules=_rules(params, vocab_size, encode),
        prompt_logprobs=None if top is None else PromptLogprobs(prompt_ids, top),
        adapter=adapter,
        media=PlacedMedia(prompt.media, len(prompt)) if prompt.media else None,
    )
    seed = random_seed() if params.seed is None else params.seed
    for index in range(params.n):
        request.sequences.append(
            Sequence(
                request,
                index,
                CompletionText(make_detokenizer(params), params),
                None if params.greedy else Uniforms(seed, index),
                _counts(request.rules, prompt_ids),
                matchers[index] if matchers else None,
            )
        )
    return request


def _rules(params: SamplingParams, vocab_size: int, encode: Encode | None) -> LogitRules | None:
    eos = () if params.ignore_eos else params.eos_token_ids
    rules = logit_rules(params, (*eos, *params.stop_token_ids), vocab_size, encode)
    return rules if rules.always or rules.min_tokens else None


def _counts(rules: LogitRules | None, prompt_ids: NDArray[np.int32]) -> TokenCounts | None:
    return TokenCounts(prompt_ids) if rules is not None and rules.penalised else None
