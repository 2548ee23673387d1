"""From a step's plan to the arrays that the runner takes, and who gets which rows of the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import NO_ROWS, Batch, LoadedAdapter
from quire.engines.native.core.logprobs import PromptLogprobs
from quire.engines.native.core.pooling import PoolingState
from quire.engines.native.core.scheduler import StepPlan
from quire.engines.native.core.sequence import Sequence

# Mapped in C, a getter costs less for many sequences than a comprehension.
_computed_tokens = attrgetter("computed_tokens")
_last_token = attrgetter("last_token")
_blocks = attrgetter("table.blocks")


@dataclass(frozen=True, slots=True)
class RowRange:
    """Entries `start` to `end - 1` of the rows that are read for prompts, or of those that are pooled."""

    sequence: Sequence
    reader: PromptLogprobs | PoolingState
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DraftRows:
    """Tokens that a sequence may draw next: the first from row `row` of the logits, and so on.

    There is one row more than tokens: after the last one, too, a token is drawn.
    """

    sequence: Sequence
    row: int
    tokens: list[int]

    def is_accepted(self, index: int) -> bool:
        """Whether the sequence goes on and its newest token is the one drafted at this index."""
        return (
            index < len(self.tokens)
            and not self.sequence.finished
            and self.sequence.last_token == self.tokens[index]
        )


@dataclass(slots=True)
class OutputRows:
    """Which rows of the runner's results, logits (L, V) and hidden states (H, hidden), are for what."""

    sampled: list[Sequence] = field(default_factory=list[Sequence])
    """The sequences that get a token."""
    sampled_rows: list[int] = field(default_factory=list[int])
    """The row of the logits for each of them."""
    prompts: list[RowRange] = field(default_factory=list[RowRange])
    """Which of `prompt_rows` are for which prompt's log-probabilities."""
    pooled: list[RowRange] = field(default_factory=list[RowRange])
    """Rows of the hidden states that are pooled."""
    drafts: list[DraftRows] = field(default_factory=list[DraftRows])
    logits_rows: list[int] = field(default_factory=list[int])
    """(L,) the row of the batch for each row of the logits that tokens are drawn from."""
    prompt_rows: list[int] = field(default_factory=list[int])
    """(P,) the rows of the batch for prompts' log-probabilities, whose logits are read and forgotten."""
    hidden_rows: list[int] = field(default_factory=list[int])
    """(H,) the row of the batch for each row of the hidden states."""

    def read_prompts(self, logits: NDArray[np.float32], first: int) -> None:
        """Take prompts' log-probabilities out of the logits of `prompt_rows` from `first` on."""
        for rows in self.prompts:
            start, end = max(rows.start - first, 0), rows.end - first
            if start < min(end, len(logits)):
                rows.reader.add(logits[start:end])

    def read_pooled(self, hidden: NDArray[np.float32]) -> None:
        """Take hidden states that are pooled."""
        for rows in self.pooled:
            rows.reader.add(hidden[rows.start : rows.end])

    def faulty(self, unusable: list[int]) -> list[Sequence]:
        """Return the sequences that NaN or infinity concern; `unusable` are indices of `sampled`."""
        faulty = [self.sampled[index] for index in unusable]
        for rows in (*self.prompts, *self.pooled):
            if not rows.reader.is_usable:
                request = rows.sequence.request
                faulty += request.sequences if request.shares_prompt else [rows.sequence]
        return list(dict.fromkeys(faulty))


def build_batch(plan: StepPlan, block_size: int) -> tuple[Batch, OutputRows]:
    """Lay out one step."""
    if plan.num_decodes == len(plan.sequences) and not plan.drafts:
        return _build_decodes(plan, block_size)
    counts = np.array(plan.counts, dtype=np.int32)
    if plan.drafts:
        for index, sequence in enumerate(plan.sequences[: plan.num_decodes]):
            counts[index] += len(plan.drafts.get(sequence, ()))
    query_start = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=query_start[1:])
    starts = np.fromiter(map(_computed_tokens, plan.sequences), np.int32, len(counts))
    owner = np.repeat(np.arange(len(counts)), counts)  # (T,) each row's sequence
    positions = np.arange(query_start[-1], dtype=np.int32) - query_start[owner] + starts[owner]
    tables = _block_tables(plan.sequences)
    blocks = tables[owner, positions // block_size].astype(np.int64)
    rows = _output_rows(plan, query_start)
    media, rope_positions, last_seen = _MediaRows(), None, None
    if plan.has_media:
        media = _media_rows(plan, query_start)
        rope_positions = _rope_positions(plan, query_start, positions)
        if media.embeds is not None:
            last_seen = _last_seen(plan, query_start, positions)
    batch = Batch(
        token_ids=_token_ids(plan),
        positions=positions,
        slots=blocks * block_size + positions % block_size,
        query_start=query_start,
        context_lens=starts + counts,
        block_tables=tables,
        logits_rows=np.array(rows.logits_rows, dtype=np.int32),
        adapters=_adapters(plan) if plan.has_adapters else None,
        hidden_rows=np.array(rows.hidden_rows, dtype=np.int32),
        embeds=media.embeds,
        embed_rows=media.rows,
        deep_embeds=media.deep_embeds,
        last_seen=last_seen,
        rope_positions=rope_positions,
        state_slots=_state_slots(plan.sequences),
        state_saves=_state_saves(plan, query_start),
    )
    return batch, rows


def _build_decodes(plan: StepPlan, block_size: int) -> tuple[Batch, OutputRows]:
    """Lay out a step in which each sequence gets one token, as most do.

    `build_batch` would give the same. This takes fewer and smaller arrays.
    """
    sequences = plan.sequences
    count = len(sequences)
    positions = np.fromiter(map(_computed_tokens, sequences), np.int32, count)
    every = np.arange(count + 1, dtype=np.int32)
    # In Python numbers: for one sequence, NumPy takes ten times as long to look a block up.
    slots = [
        sequence.table.blocks[position // block_size] * block_size + position % block_size
        for sequence, position in zip(sequences, positions.tolist(), strict=True)
    ]
    batch = Batch(
        token_ids=np.fromiter(map(_last_token, sequences), np.int32, count),
        positions=positions,
        slots=np.array(slots, dtype=np.int64),
        query_start=every,
        context_lens=positions + np.int32(1),
        block_tables=_block_tables(sequences),
        logits_rows=every[:-1],
        adapters=_adapters(plan) if plan.has_adapters else None,
        hidden_rows=NO_ROWS,
        embed_rows=NO_ROWS,
        rope_positions=_generated_rope_positions(plan, positions) if plan.has_media else None,
        state_slots=_state_slots(sequences),
    )
    return batch, OutputRows(sampled=sequences, sampled_rows=list(range(count)))


def _block_tables(sequences: list[Sequence]) -> NDArray[np.int32]:
    """Return the block tables (S, B), padded with 0."""
    lengths = list(map(len, map(_blocks, sequences)))
    tables = np.zeros((len(sequences), max(lengths)), dtype=np.int32)
    for row, length, sequence in zip(tables, lengths, sequences, strict=True):
        row[:length] = sequence.table.array[:length]
    return tables


def _adapters(plan: StepPlan) -> list[LoadedAdapter | None]:
    return [sequence.request.adapter for sequence in plan.sequences]


def _state_slots(sequences: list[Sequence]) -> NDArray[np.int32] | None:
    """Return the slots of their states (S,); None for a model without."""
    slots = [sequence.state.slot for sequence in sequences if sequence.state is not None]
    return np.array(slots, dtype=np.int32) if slots else None


def _state_saves(plan: StepPlan, query_start: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Return the slots that also get the state after each row (T,), -1 for none; None if no row has one."""
    saves: dict[int, int] = {}
    for sequence, start in zip(plan.sequences, query_start.tolist()[:-1], strict=True):
        if sequence.state is None:
            return None
        first = start - sequence.computed_tokens  # the row of position 0
        saves |= {first + mark - 1: slot for mark, slot in sequence.state.saves}
        saves |= {start + index: slot for index, slot in enumerate(sequence.state.drafts)}
    if not saves:
        return None
    result = np.full(query_start[-1], -1, dtype=np.int32)
    result[list(saves)] = list(saves.values())
    return result


def _token_ids(plan: StepPlan) -> NDArray[np.int32]:
    decodes = plan.num_decodes
    ids: list[int] = []
    for sequence in plan.sequences[:decodes]:
        ids.append(sequence.last_token)
        ids += plan.drafts.get(sequence, ())
    chunks = [np.array(ids, dtype=np.int32)]
    for sequence, count in zip(plan.sequences[decodes:], plan.counts[decodes:], strict=True):
        start = sequence.computed_tokens
        chunks.append(sequence.tokens[start : start + count])
    return np.concatenate(chunks)


# --- rows of the results -------------------------------------------------------------------------


def _output_rows(plan: StepPlan, query_start: NDArray[np.int32]) -> OutputRows:
    decodes = plan.num_decodes
    # All rows of decodes have logits: that of the token, and those of its draft after it.
    rows = OutputRows(
        sampled=plan.sequences[:decodes],
        sampled_rows=query_start[:decodes].tolist(),
        logits_rows=list(range(query_start[decodes])),
    )
    if plan.drafts:
        for sequence, row in zip(rows.sampled, rows.sampled_rows, strict=True):
            if sequence in plan.drafts:
                rows.drafts.append(DraftRows(sequence, row, plan.drafts[sequence]))
    for index in range(decodes, len(plan.sequences)):
        _add_prefill(rows, plan.sequences[index], plan.counts[index], int(query_start[index]))
    return rows


def _add_prefill(rows: OutputRows, sequence: Sequence, count: int, first_row: int) -> None:
    """Add the rows that are wanted of a chunk of a prompt."""
    request = sequence.request
    start = sequence.computed_tokens
    end = start + count
    if request.pooling is not None:
        positions = request.pooling.rows(start, end)
        if positions:
            first = len(rows.hidden_rows)
            rows.hidden_rows += [first_row + position - start for position in positions]
            rows.pooled.append(RowRange(sequence, request.pooling, first, len(rows.hidden_rows)))
        return
    if request.prompt_logprobs is not None:
        positions = request.prompt_logprobs.rows(start, end)
        if positions:
            first = len(rows.prompt_rows)
            rows.prompt_rows += [first_row + position - start for position in positions]
            rows.prompts.append(
                RowRange(sequence, request.prompt_logprobs, first, len(rows.prompt_rows))
            )
    if end < sequence.num_tokens:
        return
    # The last token of a prompt that siblings share gives all of them their first token.
    sampled = request.sequences if request.shares_prompt else [sequence]
    rows.sampled += sampled
    rows.sampled_rows += [len(rows.logits_rows)] * len(sampled)
    rows.logits_rows.append(first_row + count - 1)


# --- media ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _MediaRows:
    """The rows (M,) that media fill, and their features: see `Batch`."""

    rows: NDArray[np.int32] = field(default_factory=NO_ROWS.view)
    embeds: NDArray[np.float32] | None = None
    deep_embeds: NDArray[np.float32] | None = None


def _media_rows(plan: StepPlan, query_start: NDArray[np.int32]) -> _MediaRows:
    rows: list[NDArray[np.int32]] = []
    embeds: list[NDArray[np.float32]] = []
    deep_embeds: list[NDArray[np.float32]] = []
    for index in range(plan.num_decodes, len(plan.sequences)):
        sequence = plan.sequences[index]
        media, start = sequence.request.media, sequence.computed_tokens
        if media is None:
            continue
        for first, values, deep_values in media.features(start, start + plan.counts[index]):
            row = query_start[index] + first - start
            rows.append(np.arange(row, row + len(values), dtype=np.int32))
            embeds.append(values)
            if deep_values is not None:
                deep_embeds.append(deep_values)
    if not rows:
        return _MediaRows()
    deep = np.concatenate(deep_embeds, axis=1) if deep_embeds else None
    return _MediaRows(np.concatenate(rows), np.concatenate(embeds), deep)


def _last_seen(
    plan: StepPlan, query_start: NDArray[np.int32], positions: NDArray[np.int32]
) -> NDArray[np.int32] | None:
    """Return the last position that each row sees (T,); None where all see up to themselves."""
    result: NDArray[np.int32] | None = None
    for index in range(plan.num_decodes, len(plan.sequences)):
        sequence = plan.sequences[index]
        media, start = sequence.request.media, sequence.computed_tokens
        if media is None or not media.are_whole:
            continue
        if result is None:
            result = positions.copy()
        end = start + plan.counts[index]
        result[query_start[index] : query_start[index + 1]] = media.last_seen(start, end)
    return result


def _rope_positions(
    plan: StepPlan, query_start: NDArray[np.int32], positions: NDArray[np.int32]
) -> NDArray[np.int32] | None:
    """Return each row's M-RoPE positions (3, T); None where all are the positions (T,)."""
    result: NDArray[np.int32] | None = None
    for index, sequence in enumerate(plan.sequences):
        media, start = sequence.request.media, sequence.computed_tokens
        if media is None or not media.has_rope_positions:
            continue
        if result is None:
            result = np.tile(positions, (3, 1))
        first, end = int(query_start[index]), int(query_start[index + 1])
        result[:, first:end] = media.rope_positions(start, start + end - first)
    return result


def _generated_rope_positions(
    plan: StepPlan, positions: NDArray[np.int32]
) -> NDArray[np.int32] | None:
    """Do the same for a step of decodes, whose tokens have one position in all three directions."""
    result: NDArray[np.int32] | None = None
    for row, sequence in enumerate(plan.sequences):
        media = sequence.request.media
        if media is None or not media.has_rope_positions:
            continue
        if result is None:
            result = positions.copy()
        result[row] = media.generated_rope_position(int(positions[row]))
    return None if result is None else np.broadcast_to(result, (3, len(result)))
