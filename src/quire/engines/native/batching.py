"""From a plan to the arrays that the runner takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.batch import NO_ROWS, Batch, LoadedAdapter
from quire.engines.native.scheduler import Plan
from quire.engines.native.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that a sequence may draw next: the first from row `row` of the logits, and so on.

    There is one row more than tokens: after the last one, too, a token is drawn.
    """

    sequence: Sequence
    row: int
    tokens: list[int]

    def came_true(self, number: int) -> bool:
        """Whether the token of this number is the newest of the sequence, which goes on."""
        return (
            number < len(self.tokens)
            and not self.sequence.finished
            and self.sequence.last_token == self.tokens[number]
        )


@dataclass(slots=True)
class LogitsRows:
    """Which rows of the logits are for what; row numbers are those of the runner's result (L, V)."""

    batch_rows: list[int] = field(default_factory=list[int])  # (L,) rows of the batch
    drawn: list[int] = field(default_factory=list[int])  # one for each sequence of `drawing`
    drawing: list[Sequence] = field(default_factory=list[Sequence])  # who gets a token
    prompts: list[tuple[Sequence, int, int]] = field(
        default_factory=list[tuple[Sequence, int, int]]
    )  # prompt log-probabilities: rows start to end
    hidden_rows: list[int] = field(default_factory=list[int])  # (H,) rows of the batch
    pooling: list[tuple[Sequence, int, int]] = field(
        default_factory=list[tuple[Sequence, int, int]]
    )  # who pools hidden states: rows start to end of those (H, hidden)
    drafts: list[Draft] = field(default_factory=list[Draft])

    def read_prompts(self, logits: NDArray[np.float32]) -> None:
        """Take the prompts' log-probabilities out of the logits (L, V)."""
        for sequence, start, end in self.prompts:
            logprobs = sequence.request.prompt_logprobs
            if logprobs is not None:
                logprobs.add(logits[start:end])

    def read_hidden(self, hidden: NDArray[np.float32]) -> None:
        """Give the hidden states (H, hidden) to those that pool them."""
        for sequence, start, end in self.pooling:
            pool = sequence.request.pool
            if pool is not None:
                pool.add(hidden[start:end])

    def unusable(self, usable: list[bool]) -> dict[Sequence, None]:
        """Return whom unusable logits concern, in order; `usable` is of the `drawing`."""
        found: dict[Sequence, None] = {}
        if not all(usable):
            for sequence, fine in zip(self.drawing, usable, strict=True):
                if not fine:
                    found[sequence] = None
        for sequence, _, _ in self.prompts:
            logprobs = sequence.request.prompt_logprobs
            if logprobs is not None and not logprobs.is_usable:
                siblings = sequence.request.sequences if sequence.is_leader else [sequence]
                found.update(dict.fromkeys(siblings))
        for sequence, _, _ in self.pooling:
            pool = sequence.request.pool
            if pool is not None and not pool.is_usable:
                found[sequence] = None
        return found


def build_batch(plan: Plan, block_size: int) -> tuple[Batch, LogitsRows]:
    """Lay out one step."""
    if plan.num_decodes == len(plan.sequences) and not plan.drafts:
        return _build_decodes(plan.sequences, block_size)
    counts = np.array(plan.counts, dtype=np.int32)
    query_start = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=query_start[1:])
    starts = np.array([s.computed_tokens for s in plan.sequences], dtype=np.int32)
    owner = np.repeat(np.arange(len(counts)), counts)
    positions = np.arange(query_start[-1], dtype=np.int32) - query_start[owner] + starts[owner]
    tables = _block_tables(plan.sequences)
    blocks = tables[owner, positions // block_size].astype(np.int64)
    rows = _logits_rows(plan, query_start)
    embed_rows, embeds = _embeds(plan, query_start)
    batch = Batch(
        token_ids=_token_ids(plan, query_start),
        positions=positions,
        slots=blocks * block_size + positions % block_size,
        query_start=query_start,
        context_lens=starts + counts,
        block_tables=tables,
        logits_rows=np.array(rows.batch_rows, dtype=np.int32),
        adapters=_adapters(plan.sequences),
        hidden_rows=np.array(rows.hidden_rows, dtype=np.int32),
        embeds=embeds,
        embed_rows=embed_rows,
        rope_positions=_rope_positions(plan, query_start, positions),
    )
    return batch, rows


def _build_decodes(sequences: list[Sequence], block_size: int) -> tuple[Batch, LogitsRows]:
    """Lay out a step in which everybody decodes, as most do, with fewer and smaller arrays."""
    count = len(sequences)
    places = [sequence.computed_tokens for sequence in sequences]
    slots = [
        sequence.table.blocks[place // block_size] * block_size + place % block_size
        for sequence, place in zip(sequences, places, strict=True)
    ]
    positions = np.array(places, dtype=np.int32)
    rows = list(range(count))
    batch = Batch(
        token_ids=np.array([sequence.last_token for sequence in sequences], dtype=np.int32),
        positions=positions,
        slots=np.array(slots, dtype=np.int64),
        query_start=np.arange(count + 1, dtype=np.int32),
        context_lens=positions + np.int32(1),
        block_tables=_block_tables(sequences),
        logits_rows=np.arange(count, dtype=np.int32),
        adapters=_adapters(sequences),
        rope_positions=_places_of_decodes(sequences, positions),
    )
    return batch, LogitsRows(batch_rows=rows, drawn=rows, drawing=sequences)


def _adapters(sequences: list[Sequence]) -> list[LoadedAdapter | None] | None:
    adapters = [sequence.request.adapter for sequence in sequences]
    return adapters if any(adapters) else None


def _embeds(
    plan: Plan, query_start: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """The rows (M,) in which media stand, and what stands there (M, hidden_size)."""
    rows: list[NDArray[np.int32]] = []
    embeds: list[NDArray[np.float32]] = []
    for number in range(plan.num_decodes, len(plan.sequences)):
        sequence = plan.sequences[number]
        media, start = sequence.request.media, sequence.computed_tokens
        if media is None:
            continue
        for first, values in media.features(start, start + plan.counts[number]):
            row = query_start[number] + first - start
            rows.append(np.arange(row, row + len(values), dtype=np.int32))
            embeds.append(values)
    if not rows:
        return NO_ROWS, None
    return np.concatenate(rows), np.concatenate(embeds)


def _has_places(sequence: Sequence) -> bool:
    media = sequence.request.media
    return media is not None and media.has_places


def _rope_positions(
    plan: Plan, query_start: NDArray[np.int32], positions: NDArray[np.int32]
) -> NDArray[np.int32] | None:
    """Each row's places (3, T); None where all are at their positions (T,)."""
    if not any(map(_has_places, plan.sequences)):
        return None
    places = np.tile(positions, (3, 1))
    for number, sequence in enumerate(plan.sequences):
        media, start = sequence.request.media, sequence.computed_tokens
        if media is not None and media.has_places:
            rows = slice(query_start[number], query_start[number + 1])
            places[:, rows] = media.rope_positions(start, start + plan.counts[number])
    return places


def _places_of_decodes(
    sequences: list[Sequence], positions: NDArray[np.int32]
) -> NDArray[np.int32] | None:
    if not any(map(_has_places, sequences)):
        return None
    places = positions.copy()
    for row, sequence in enumerate(sequences):
        media = sequence.request.media
        if media is not None and media.has_places:
            places[row] = media.rope_position(int(positions[row]))
    return np.broadcast_to(places, (3, len(places)))


def _block_tables(sequences: list[Sequence]) -> NDArray[np.int32]:
    width = max(len(sequence.table) for sequence in sequences)
    tables = np.zeros((len(sequences), width), dtype=np.int32)
    for row, sequence in zip(tables, sequences, strict=True):
        array = sequence.table.array
        row[: len(array)] = array
    return tables


def _token_ids(plan: Plan, query_start: NDArray[np.int32]) -> NDArray[np.int32]:
    decodes = plan.num_decodes
    token_ids = np.empty(query_start[-1], dtype=np.int32)
    row = int(query_start[decodes])
    token_ids[:row] = [
        token
        for sequence in plan.sequences[:decodes]
        for token in (sequence.last_token, *plan.drafts.get(sequence, ()))
    ]
    for sequence, count in zip(plan.sequences[decodes:], plan.counts[decodes:], strict=True):
        start = sequence.computed_tokens
        token_ids[row : row + count] = sequence.tokens[start : start + count]
        row += count
    return token_ids


def _logits_rows(plan: Plan, query_start: NDArray[np.int32]) -> LogitsRows:
    decodes = plan.num_decodes
    rows = LogitsRows(
        batch_rows=list(range(query_start[decodes])),
        drawn=query_start[:decodes].tolist(),
        drawing=plan.sequences[:decodes],
    )
    for sequence, row in zip(rows.drawing, rows.drawn, strict=True) if plan.drafts else ():
        if sequence in plan.drafts:
            rows.drafts.append(Draft(sequence, row, plan.drafts[sequence]))
    for number in range(decodes, len(plan.sequences)):
        _add_rows(rows, plan.sequences[number], plan.counts[number], int(query_start[number]))
    return rows


def _add_rows(rows: LogitsRows, sequence: Sequence, count: int, first: int) -> None:
    start = sequence.computed_tokens
    pool = sequence.request.pool
    if pool is not None:
        needed = pool.rows(start, start + count)
        if needed:
            place = len(rows.hidden_rows)
            rows.hidden_rows += [first + position - start for position in needed]
            rows.pooling.append((sequence, place, place + len(needed)))
        return
    logprobs = sequence.request.prompt_logprobs
    if logprobs is not None:
        wanted = logprobs.rows(start, start + count)
        if wanted:
            place = len(rows.batch_rows)
            rows.batch_rows += [first + position - start for position in wanted]
            rows.prompts.append((sequence, place, place + len(wanted)))
    if start + count < sequence.num_tokens:
        return
    drawing = sequence.request.sequences if sequence.is_leader else [sequence]
    for one in drawing:
        rows.drawn.append(len(rows.batch_rows))
        rows.drawing.append(one)
    rows.batch_rows.append(first + count - 1)
