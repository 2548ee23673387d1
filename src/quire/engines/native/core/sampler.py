"""A step's next tokens, all rows at once: process the logits, choose, and say how likely each was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.constraints.matcher import Matcher
from quire.engines.native.core.logits_processors import (
    LogitsProcessor,
    ProcessedRow,
    apply_masks,
    process_logits,
)
from quire.engines.native.core.logprobs import token_logprobs
from quire.engines.native.core.sampling_ops import RowSettings, Uniforms, draw
from quire.engines.native.core.sequence import Sequence
from quire.outputs import TokenLogprob


@dataclass(frozen=True, slots=True)
class Sampled:
    """The tokens of M sequences."""

    tokens: list[int]
    unusable: list[int]
    """Indices of those whose logits were unusable; their tokens mean nothing."""
    exhausted: list[int]
    """Indices of those of them whose requests ban every token."""
    logprobs: list[TokenLogprob | None] | None
    """None where no sequence wants them."""


class Sampler:
    """Chooses one token for each sequence.

    Every row's result depends on its own logits, settings and random number alone. A row is unusable
    where its logits hold NaN or infinity, or where every token is banned: its largest entry then is
    no finite number, since NaN is the largest of all to NumPy.
    """

    def __init__(self) -> None:
        self._options = _BatchOptions([])

    def sample(
        self, logits: NDArray[np.float32], rows: list[int], sequences: list[Sequence]
    ) -> Sampled:
        """Choose from the logits (L, V), where `sequences[i]` draws from row `rows[i]`.

        The logits are overwritten. Nothing is changed in the sequences.
        """
        if rows != list(range(len(logits))):
            logits = logits[rows]  # a copy: siblings may share a row, and drafts need theirs later
        # Most steps have the sequences of the step before. Comparing the lists compares pointers.
        if sequences != self._options.sequences:
            self._options = _BatchOptions(sequences)
        options = self._options
        if options.processed:
            process_logits(logits, options.processed_rows())
        if options.constrained:
            apply_masks(logits, options.constrained)
        # For rows that draw, too: the largest entry shows whether a row is usable.
        tokens = logits.argmax(axis=1)
        highest = logits[np.arange(len(tokens)), tokens]
        usable = np.isfinite(highest)
        unusable: list[int] = []
        exhausted: list[int] = []
        if not usable.all():
            unusable = np.flatnonzero(~usable).tolist()
            exhausted = [
                index
                for index in unusable
                if highest[index] == -np.inf and _may_ban(sequences[index])
            ]
        if options.random:
            self._draw(logits, tokens, usable)
        logprobs = self._logprobs(logits, tokens, unusable) if options.logprob_rows else None
        return Sampled(tokens.tolist(), unusable, exhausted, logprobs)

    def forget(self) -> None:
        """Let go of the last sequences, and so of their adapters."""
        self._options = _BatchOptions([])

    def _draw(
        self, logits: NDArray[np.float32], tokens: NDArray[np.int64], usable: NDArray[np.bool_]
    ) -> None:
        """Replace the tokens of the usable rows that are not greedy."""
        options = self._options
        rows, settings = options.random_rows, options.settings
        uniforms = np.array([numbers[s.num_outputs] for s, numbers in options.random])
        if not usable.all():
            kept = np.flatnonzero(usable[rows])
            rows, settings, uniforms = rows[kept], settings.at(kept), uniforms[kept]
        if len(rows) == len(logits):
            tokens[:] = draw(logits, settings, uniforms)
        elif len(rows):
            tokens[rows] = draw(logits[rows], settings, uniforms)

    def _logprobs(
        self, logits: NDArray[np.float32], tokens: NDArray[np.int64], unusable: list[int]
    ) -> list[TokenLogprob | None]:
        result: list[TokenLogprob | None] = [None] * len(tokens)
        wanted = self._options.logprob_rows
        rows = [row for row in wanted if row not in unusable]
        if rows:
            some = logits if len(rows) == len(logits) else logits[rows]
            entries = token_logprobs(some, tokens[rows], [wanted[row] for row in rows])
            for row, logprob in zip(rows, entries, strict=True):
                result[row] = logprob
        return result


def _may_ban(sequence: Sequence) -> bool:
    return sequence.matcher is not None or sequence.request.logits_processor is not None


class _BatchOptions:
    """What the requests of a batch's sequences ask for, gathered once for as long as they stay."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.processed: list[tuple[int, Sequence, LogitsProcessor, float]] = []
        self.constrained: list[tuple[int, Matcher]] = []
        self.random: list[tuple[Sequence, Uniforms]] = []
        self.logprob_rows: dict[int, int] = {}
        """For each row with log-probabilities, how many tokens to name."""
        rows: list[int] = []
        settings: list[tuple[float, int, float, float]] = []
        for row, sequence in enumerate(sequences):
            request, params = sequence.request, sequence.request.params
            processor = request.logits_processor
            if processor is not None:
                self.processed.append((row, sequence, processor, processor.num_steps))
            if sequence.matcher is not None:
                self.constrained.append((row, sequence.matcher))
            if sequence.uniforms is not None:
                self.random.append((sequence, sequence.uniforms))
                rows.append(row)
                settings.append((params.temperature, params.top_k, params.top_p, params.min_p))
            if params.logprobs is not None:
                self.logprob_rows[row] = params.logprobs
        self.random_rows = np.array(rows, dtype=np.int64)
        table = np.array(settings, dtype=np.float64).reshape(-1, 4)
        self.settings = RowSettings(
            temperature=table[:, 0],
            top_k=table[:, 1].astype(np.int64),
            top_p=table[:, 2],
            min_p=table[:, 3],
        )

    def processed_rows(self) -> list[ProcessedRow]:
        """Return the rows whose processors have something to do now."""
        return [
            ProcessedRow(row, processor, sequence.output_ids, sequence.counts)
            for row, sequence, processor, num_steps in self.processed
            if sequence.num_outputs < num_steps
        ]
