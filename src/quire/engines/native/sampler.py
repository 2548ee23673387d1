"""A step's next tokens, all rows at once: adjust, choose, and say how likely each was."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.constraints.masking import mask
from quire.engines.native.adjustments import Adjustment, adjust
from quire.engines.native.drawing import Settings, draw
from quire.engines.native.logprobs import token_logprobs
from quire.engines.native.sequence import Sequence
from quire.outputs import TokenLogprob


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came out for M sequences. A row that is not `usable` has no token worth the name."""

    tokens: list[int]
    usable: list[bool]
    logprobs: list[TokenLogprob | None] | None  # None: nobody asked


class Sampler:
    """Chooses one token for each sequence.

    Every row's result depends on its own logits, settings and random number alone. A row is unusable
    where its logits hold NaN or infinity, or where every token is banned: its largest entry then is
    no finite number, since NaN is the largest of all to NumPy.
    """

    def __init__(self) -> None:
        self._drawn: list[Sequence] = []  # whose settings are in _settings
        self._settings: Settings | None = None

    def sample(
        self, logits: NDArray[np.float32], rows: Many[int], sequences: list[Sequence]
    ) -> Sampled:
        """Choose from the logits (L, V), where `sequences[i]` draws from row `rows[i]`.

        The logits are overwritten. Nothing is changed in the sequences.
        """
        count = len(sequences)
        if count != len(logits) or any(map(int.__ne__, rows, range(count))):
            logits = logits[rows]
        adjust(logits, _adjustments(sequences))
        constrained = [(row, s.matcher) for row, s in enumerate(sequences) if s.matcher]
        if constrained:
            mask(logits, constrained)
        tokens = logits.argmax(axis=1)
        usable = np.isfinite(logits[np.arange(count), tokens])
        self._draw(logits, sequences, tokens, usable)
        return Sampled(
            tokens.tolist(), usable.tolist(), _logprobs(logits, sequences, tokens, usable)
        )

    def _draw(
        self,
        logits: NDArray[np.float32],
        sequences: list[Sequence],
        tokens: NDArray[np.int64],
        usable: NDArray[np.bool_],
    ) -> None:
        """Replace the tokens of those that are not greedy."""
        drawing = [
            place
            for place, (sequence, fine) in enumerate(zip(sequences, usable.tolist(), strict=True))
            if fine and sequence.uniforms is not None
        ]
        if not drawing:
            return
        chosen = [sequences[place] for place in drawing]
        uniforms = np.array([s.uniforms[s.num_outputs] for s in chosen if s.uniforms is not None])
        some = logits if len(drawing) == len(sequences) else logits[drawing]
        tokens[drawing] = draw(some, self._settings_of(chosen), uniforms)

    def _settings_of(self, sequences: list[Sequence]) -> Settings:
        """Gather the settings; those of the step before are kept, since most steps are alike."""
        if self._settings is None or sequences != self._drawn:
            params = [sequence.request.params for sequence in sequences]
            self._settings = Settings(
                temperature=np.array([p.temperature for p in params]),
                top_k=np.array([p.top_k for p in params], dtype=np.int64),
                top_p=np.array([p.top_p for p in params]),
                min_p=np.array([p.min_p for p in params]),
            )
            self._drawn = sequences
        return self._settings


def _adjustments(sequences: list[Sequence]) -> list[Adjustment]:
    found: list[Adjustment] = []
    for row, sequence in enumerate(sequences):
        rules = sequence.request.rules
        if rules is not None and (rules.always or sequence.num_outputs < rules.min_tokens):
            found.append(Adjustment(row, rules, sequence.output_ids, sequence.counts))
    return found


def _logprobs(
    logits: NDArray[np.float32],
    sequences: list[Sequence],
    tokens: NDArray[np.int64],
    usable: NDArray[np.bool_],
) -> list[TokenLogprob | None] | None:
    wanting = [
        place
        for place, sequence in enumerate(sequences)
        if sequence.request.params.logprobs is not None and usable[place]
    ]
    if not wanting:
        return None
    tops = [sequences[place].request.params.logprobs or 0 for place in wanting]
    result: list[TokenLogprob | None] = [None] * len(sequences)
    some = logits if len(wanting) == len(sequences) else logits[wanting]
    for place, one in zip(wanting, token_logprobs(some, tokens[wanting], tops), strict=True):
        result[place] = one
    return result
