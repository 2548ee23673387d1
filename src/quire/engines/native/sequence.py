"""The nouns of the engine: a request, and the completions of it as sequences of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.constraints.matcher import Matcher
from quire.engines.native.adjustments import LogitRules, TokenCounts
from quire.engines.native.batch import LoadedAdapter
from quire.engines.native.block_table import BlockTable
from quire.engines.native.completion_text import CompletionText
from quire.engines.native.placed_media import PlacedMedia
from quire.engines.native.pooling import Pool
from quire.engines.native.prefix_cache import Root
from quire.engines.native.prompt_logprobs import PromptLogprobs
from quire.engines.native.randomness import Uniforms
from quire.engines.native.speculation import Drafter
from quire.outputs import TokenLogprob
from quire.sampling import SamplingParams

Gain: TypeAlias = tuple[str, TokenLogprob | None]
"""What a token adds to a completion: text that may be shown, and its log-probability if wanted."""

Key: TypeAlias = tuple[int, float, int, int]
"""Who is served first: priority, arrival, number of the request, index of the completion."""


@dataclass(eq=False, slots=True)
class Request:
    """One prompt and its `n` completions.

    `rules` is None where the request never changes its logits. `prompt_logprobs` is None where it
    did not ask for them, `adapter` where it wants the base model, `pool` where it generates, `media`
    where it is of text alone.
    """

    request_id: str
    prompt_ids: NDArray[np.int32]  # (P,)
    params: SamplingParams
    priority: int
    arrival: float
    number: int
    root: Root
    rules: LogitRules | None
    prompt_logprobs: PromptLogprobs | None
    sequences: list[Sequence] = field(default_factory=list["Sequence"])  # filled by the engine
    forked: bool = False  # set once the prompt is computed and every completion goes its own way
    cached_tokens: int | None = None  # set at the first admission
    adapter: LoadedAdapter | None = None
    pool: Pool | None = None
    media: PlacedMedia | None = None

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_ids)

    @property
    def is_finished(self) -> bool:
        return all(sequence.finished for sequence in self.sequences)


class Sequence:
    """One completion: prompt and answer in one growing array, and how far the KV cache follows it.

    `computed_tokens` of its `num_tokens` tokens have keys and values in `table`'s blocks, of which
    the first `published` are full, and in the prefix cache where there is one. A sequence that
    waits has no blocks. `held` is what it gained so far, where only whole answers are wanted.
    """

    __slots__ = (
        "_tokens",
        "computed_tokens",
        "counts",
        "drafter",
        "finished",
        "held",
        "index",
        "key",
        "matcher",
        "num_tokens",
        "prompt_length",
        "published",
        "request",
        "table",
        "text",
        "uniforms",
    )

    def __init__(
        self,
        request: Request,
        index: int,
        text: CompletionText,
        uniforms: Uniforms | None,
        counts: TokenCounts | None,
        matcher: Matcher | None = None,
    ) -> None:
        self.request = request
        self.index = index
        self.key: Key = (request.priority, request.arrival, request.number, index)
        self.text = text
        self.uniforms = uniforms  # None: greedy
        self.counts = counts  # None: no penalties
        self.matcher = matcher  # None: no constraint
        self.drafter: Drafter | None = None  # set where the engine speculates
        self.held: list[Gain] | None = None if request.params.streamed else []
        self.prompt_length = self.num_tokens = request.prompt_length
        self._tokens = np.empty(
            self.num_tokens + min(request.params.max_tokens, 64), dtype=np.int32
        )
        self._tokens[: self.num_tokens] = request.prompt_ids
        self.computed_tokens = 0
        self.published = 0
        self.table = BlockTable()
        self.finished = False

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Prompt and answer so far (num_tokens,)."""
        return self._tokens[: self.num_tokens]

    @property
    def output_ids(self) -> NDArray[np.int32]:
        return self._tokens[self.prompt_length : self.num_tokens]

    @property
    def num_outputs(self) -> int:
        return self.num_tokens - self.prompt_length

    @property
    def remaining(self) -> int:
        """How many tokens are not computed yet."""
        return self.num_tokens - self.computed_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether all but the last generated token is computed."""
        return self.num_tokens - self.computed_tokens == 1 and self.num_tokens > self.prompt_length

    @property
    def last_token(self) -> int:
        return int(self._tokens[self.num_tokens - 1])

    @property
    def is_leader(self) -> bool:
        """Whether it computes the prompt for siblings that still wait for it."""
        return not self.request.forked and len(self.request.sequences) > 1

    def block_key(self, start: int, end: int) -> bytes:
        """What tells the block of these tokens from others after the same ones: ids, and media."""
        key = self._tokens[start:end].tobytes()
        media = self.request.media
        return key if media is None else key + media.key(start, end)

    def append(self, token: int) -> None:
        """Add a generated token, which is to be computed in the next step."""
        if self.num_tokens == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
        self._tokens[self.num_tokens] = token
        self.num_tokens += 1
        if self.counts is not None:
            self.counts.add(token)

    def forget_computed(self) -> list[int]:
        """Return the blocks that it held; all its tokens are to be computed again."""
        self.computed_tokens = self.published = 0
        return self.table.clear()
