"""The edge of the engine: what it refuses, and how a prompt becomes a request."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from quire.constraints.matcher import Matcher
from quire.engines.native.core.batch import LoadedAdapter
from quire.engines.native.core.detokenizer import MakeDetokenizer, NoDetokenizer
from quire.engines.native.core.kv_cache import Root
from quire.engines.native.core.logits_processors import Encode, TokenCounts, make_logits_processor
from quire.engines.native.core.logprobs import PromptLogprobs
from quire.engines.native.core.multimodal import MediaLimits, RequestMedia, check_media
from quire.engines.native.core.pooling import Pooling, PoolingState
from quire.engines.native.core.sampling_ops import Uniforms
from quire.engines.native.core.sequence import Request, Sequence
from quire.engines.native.core.speculation import Drafter, make_drafters
from quire.engines.native.core.stop import StopChecker
from quire.errors import (
    MediaError,
    OutOfMemoryError,
    PromptTooLongError,
    QuireError,
    RequestError,
    SamplingError,
)
from quire.prompt import Prompt
from quire.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the runner can hold."""

    vocab_size: int
    max_model_len: int
    block_size: int
    num_blocks: int
    media_limits: MediaLimits


class InputProcessor:
    """Checks prompts and their parameters, and makes requests of them."""

    def __init__(
        self,
        limits: EngineLimits,
        make_detokenizer: MakeDetokenizer,
        encode: Encode | None = None,
        *,
        speculates: bool = False,
    ) -> None:
        """`encode` is for bad words; without it they are refused."""
        self._limits = limits
        self._make_detokenizer = make_detokenizer
        self._encode = encode
        self._speculates = speculates
        self._numbers = itertools.count()

    def make_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        arrival: float | None = None,
        adapter: LoadedAdapter | None = None,
        matchers: Collection[Matcher] = (),
    ) -> Request:
        """Make a request for text. `arrival` is in seconds; None is now.

        Raises:
            RequestError: an empty prompt or one with unknown tokens, or an option that is not
                honoured (SamplingError, UnsupportedOptionError).
            MediaError: media that do not fit the prompt or the model.
            PromptTooLongError: prompt and answer do not fit the model's context.
            OutOfMemoryError: they do not fit the KV cache, even alone.
        """
        self._check(prompt, params, matchers)
        try:
            prompt_ids = np.array(prompt.token_ids, dtype=np.int32)
            top, are_whole = params.prompt_logprobs, self._limits.media_limits.whole_tokens > 0
            media = None
            if prompt.media:
                media = RequestMedia(prompt.media, len(prompt_ids), are_whole=are_whole)
            request = Request(
                request_id=request_id,
                prompt_ids=prompt_ids,
                params=params,
                priority=params.priority,
                arrival=time.monotonic() if arrival is None else arrival,
                number=next(self._numbers),
                root=_root(adapter, params.cache_salt),
                prompt_logprobs=None if top is None else PromptLogprobs(prompt_ids, top),
                adapter=adapter,
                media=media,
                num_unfinished=params.n,
                shares_prompt=params.n > 1,
            )
            self._add_sequences(request, matchers)
        except QuireError:
            raise
        except Exception as error:  # a tokenizer at fault, or half a surrogate pair in a bad word
            raise RequestError(f"The request cannot be prepared: {error!r}.") from error
        return request

    def make_pooling_request(
        self,
        request_id: str,
        prompt: Prompt,
        pooling: Pooling,
        *,
        arrival: float | None = None,
        adapter: LoadedAdapter | None = None,
    ) -> Request:
        """Make a request for a vector, with one sequence that gets no token.

        Nothing is generated, so that a prompt may fill the whole context. Raises as `make_request`.
        """
        if prompt.media:
            raise MediaError(
                "Scores and embeddings are of text alone: no images, videos or audios."
            )
        if len(prompt) > self._limits.max_model_len:
            raise PromptTooLongError(
                f"The text has {len(prompt):,} tokens and the context holds "
                f"{self._limits.max_model_len:,}: shorten it, or have it cut by max_length."
            )
        self._check_prompt(prompt, 1)
        request = Request(
            request_id=request_id,
            prompt_ids=np.array(prompt.token_ids, dtype=np.int32),
            params=SamplingParams(max_tokens=0, temperature=0.0, priority=pooling.priority),
            priority=pooling.priority,
            arrival=time.monotonic() if arrival is None else arrival,
            number=next(self._numbers),
            root=_root(adapter, pooling.cache_salt),
            pooling=PoolingState(pooling, len(prompt)),
            adapter=adapter,
            num_unfinished=1,
        )
        checker = StopChecker(request.params, NoDetokenizer(), None)
        request.sequences.append(Sequence(request, 0, checker))
        return request

    # --- checks ----------------------------------------------------------------------------------

    def _check(self, prompt: Prompt, params: SamplingParams, matchers: Collection[Matcher]) -> None:
        if params.max_tokens < 1 or params.n < 1:
            raise SamplingError("max_tokens and n must be at least 1.")
        if len(matchers) != (0 if params.response_format is None else params.n):
            raise RequestError(
                "response_format needs a matcher for each completion: see ConstraintCompiler."
            )
        length = len(prompt.token_ids)
        if length + params.max_tokens > self._limits.max_model_len:
            raise PromptTooLongError(
                f"The prompt has {length:,} tokens and up to {params.max_tokens:,} are to follow; "
                f"the context holds {self._limits.max_model_len:,}. Shorten the prompt or lower "
                "max_new_tokens."
            )
        self._check_prompt(prompt, params.max_tokens)
        if prompt.media:
            check_media(prompt, self._limits.media_limits)

    def _check_prompt(self, prompt: Prompt, max_tokens: int) -> None:
        """Check a prompt's tokens, and that it fits the KV cache with its answer if it is alone."""
        if not prompt.token_ids:
            raise RequestError("The prompt is empty: give it at least one token.")
        lowest, highest = min(prompt.token_ids), max(prompt.token_ids)
        vocab_size = self._limits.vocab_size
        if lowest < 0 or highest >= vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise RequestError(
                f"The prompt holds token {wrong}; the model's vocabulary ends at {vocab_size - 1}. "
                "Its tokenizer may be another model's."
            )
        total = len(prompt.token_ids) + max_tokens
        room = self._limits.num_blocks * self._limits.block_size
        if total - 1 > room:  # the last token is never computed
            raise OutOfMemoryError(
                f"Prompt and answer may have {total:,} tokens and the KV cache holds {room:,}. Give "
                "it more memory, shorten the prompt, or lower max_new_tokens."
            )

    # --- sequences -------------------------------------------------------------------------------

    def _add_sequences(self, request: Request, matchers: Collection[Matcher]) -> None:
        params, prompt_ids = request.params, request.prompt_ids
        processor = None
        if _changes_logits(params):
            processor = make_logits_processor(params, self._limits.vocab_size, self._encode)
        request.logits_processor = processor
        penalizes = processor is not None and processor.penalizes
        # A grammar's mask is known for one row of a step only, so that nothing can be drafted.
        drafters: list[Drafter] = []
        if self._speculates and params.response_format is None:
            drafters = make_drafters(len(prompt_ids), params.n)
        grammars = list(matchers)
        seed = secrets.randbits(64) if params.seed is None else params.seed
        for index in range(params.n):
            matcher = grammars[index] if grammars else None
            request.sequences.append(
                Sequence(
                    request,
                    index,
                    StopChecker(params, self._make_detokenizer(params), matcher),
                    uniforms=None if params.greedy else Uniforms(seed, index),
                    counts=TokenCounts(prompt_ids) if penalizes else None,
                    matcher=matcher,
                    drafter=drafters[index] if drafters else None,
                )
            )


def _root(adapter: LoadedAdapter | None, salt: str | None) -> Root:
    """Return what keys and values depend on besides the tokens, and who may share them."""
    used = () if adapter is None else (f"adapter {adapter.number}",)
    return used if salt is None else (*used, f"salt {salt}")


def _changes_logits(params: SamplingParams) -> bool:
    """Whether a request needs a logits processor. Most do not."""
    return bool(
        params.logit_bias
        or params.bad_words
        or params.min_tokens
        or params.repetition_penalty != 1.0
        or params.presence_penalty
        or params.frequency_penalty
    )
