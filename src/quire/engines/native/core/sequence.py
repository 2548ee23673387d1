"""The nouns of the engine: a request, and its completions as sequences of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.constraints.matcher import Matcher
from quire.engines.native.core.batch import LoadedAdapter
from quire.engines.native.core.kv_cache import BlockTable, Root
from quire.engines.native.core.logits_processors import LogitsProcessor, TokenCounts
from quire.engines.native.core.logprobs import PromptLogprobs
from quire.engines.native.core.multimodal import RequestMedia
from quire.engines.native.core.pooling import PoolingState
from quire.engines.native.core.sampling_ops import Uniforms
from quire.engines.native.core.speculation import Drafter
from quire.engines.native.core.states import SequenceState
from quire.engines.native.core.stop import StopChecker
from quire.outputs import TokenLogprob
from quire.sampling import SamplingParams

Key: TypeAlias = tuple[int, float, int, int]
"""Who is served first: priority, arrival, number of the request, index of the completion."""


@dataclass(eq=False, slots=True)
class Request:
    """One prompt and its `n` completions."""

    request_id: str
    prompt_ids: NDArray[np.int32]  # (P,)
    params: SamplingParams
    priority: int
    arrival: float  # seconds
    number: int  # requests count up
    root: Root
    logits_processor: LogitsProcessor | None = None
    """None where the request never changes its logits."""
    prompt_logprobs: PromptLogprobs | None = None
    pooling: PoolingState | None = None
    """None where the request generates."""
    adapter: LoadedAdapter | None = None
    """None for the base model."""
    media: RequestMedia | None = None
    sequences: list[Sequence] = field(default_factory=list["Sequence"])
    """One for each completion, in the order of their indices; filled by the input processor."""
    num_unfinished: int = 0
    """How many of the sequences go on; kept by the engine."""
    shares_prompt: bool = False
    """Whether the first sequence, the leader, computes the prompt for its siblings, which wait for
    it; cleared when they fork."""
    cached_tokens: int | None = None
    """Tokens of the prompt that came from the prefix cache; set at the first admission."""


class Sequence:
    """One completion: prompt and answer in one growing array, and how far the KV cache follows it.

    `computed_tokens` of its `num_tokens` tokens have keys and values in `table`'s blocks, of which
    the first `num_published` are full, and in the prefix cache where there is one. A sequence that
    waits has no blocks. All counts are attributes, not properties: a step reads them many times.
    """

    __slots__ = (
        "_tokens",
        "computed_tokens",
        "counts",
        "drafter",
        "finished",
        "index",
        "key",
        "last_token",
        "matcher",
        "num_outputs",
        "num_published",
        "num_tokens",
        "prompt_length",
        "request",
        "state",
        "stop_checker",
        "table",
        "undelivered",
        "uniforms",
    )

    def __init__(
        self,
        request: Request,
        index: int,
        stop_checker: StopChecker,
        uniforms: Uniforms | None = None,
        counts: TokenCounts | None = None,
        matcher: Matcher | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        params, prompt = request.params, request.prompt_ids
        self.request = request
        self.index = index
        self.key: Key = (request.priority, request.arrival, request.number, index)
        self.stop_checker = stop_checker
        self.uniforms = uniforms  # None: greedy
        self.counts = counts  # None: no penalties
        self.matcher = matcher  # None: no constraint
        self.drafter = drafter  # None: no speculation
        # Text and log-probability of each token so far, where only whole answers are wanted.
        self.undelivered: list[tuple[str, TokenLogprob | None]] | None = (
            None if params.streamed else []
        )
        self.prompt_length = self.num_tokens = len(prompt)
        self.num_outputs = 0
        self.last_token = -1  # the newest generated one
        self._tokens = np.empty(self.num_tokens + min(params.max_tokens, 64), dtype=np.int32)
        self._tokens[: self.num_tokens] = prompt
        self.computed_tokens = 0
        self.num_published = 0
        self.table = BlockTable()
        self.state: SequenceState | None = None  # of a model with states, while it runs
        self.finished = False

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Prompt and answer so far (num_tokens,)."""
        return self._tokens[: self.num_tokens]

    @property
    def output_ids(self) -> NDArray[np.int32]:
        """The answer so far (num_outputs,)."""
        return self._tokens[self.prompt_length : self.num_tokens]

    @property
    def is_prefilling(self) -> bool:
        """Whether more than its newest generated token is to be computed, as after a preemption."""
        return self.num_tokens - self.computed_tokens > 1 or not self.num_outputs

    def block_key(self, start: int, end: int) -> bytes:
        """Return what a block of these tokens depends on, besides the blocks before it."""
        key = self._tokens[start:end].tobytes()
        media = self.request.media
        return key if media is None else key + media.key(start, end)

    def append(self, token: int) -> None:
        """Add a generated token, which is to be computed in the next step."""
        if self.num_tokens == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
        self._tokens[self.num_tokens] = self.last_token = token
        self.num_tokens += 1
        self.num_outputs += 1
        if self.counts is not None:
            self.counts.add(token)
