"""A runner whose KV cache holds token ids, so that any fault in the books changes what comes out.

The logits of a row are a hash of all tokens before it, read back through the block tables. A wrong
table, a block shared that should be a copy, a stale cached block: each gives other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter
from quire.engines.native.core.batch import Batch
from quire.engines.native.core.multimodal import MediaLimits

HIDDEN = 6
"""The size of a hidden state, which is a hash like the logits."""

_EMPTY = -1


def fake_logits(
    tokens: Sequence[int], vocab_size: int, spread: float = 4.0, habit: float = 0.0
) -> NDArray[np.float32]:
    """Return the logits (vocab_size,) after these tokens, within ±spread.

    `habit` is added to the token that came three tokens before: the model likes to repeat itself.
    """
    state = 1469598103934665603
    for token in tokens:
        state = (state ^ (token + 1)) * 1099511628211 % 2**64
    with np.errstate(over="ignore"):
        bits = np.uint64(state) + np.arange(1, vocab_size + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    unit = (bits >> np.uint64(40)).astype(np.float64) / 2**24
    logits = ((unit * 2 - 1) * spread).astype(np.float32)
    if habit:
        logits[[token % 1000 for token in tokens[-3:-2]]] += np.float32(habit)  # less its adapter
    return logits


class FakeAdapter:
    """Satisfies `LoadedAdapter`: it makes every token another one, which one `style` says."""

    def __init__(self, number: int, style: int | None = None) -> None:
        self.number, self.style = number, number if style is None else style


def adapted(tokens: Sequence[int], style: int) -> list[int]:
    """The tokens as an adapter of this style (0: none) has them in the KV cache."""
    return [token + 1000 * style for token in tokens]


class FakeRunner:
    """Satisfies `quire.engines.native.core.batch.Runner`; `before_run` may look at a batch, or raise."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        vocab_size: int = 40,
        max_model_len: int = 512,
        habit: float = 0.0,
        uses_mrope: bool = False,
        whole_tokens: int = 0,
        deep_layers: int = 0,
        num_state_slots: int = 0,
    ) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.vocab_size, self.max_model_len = vocab_size, max_model_len
        self.media_limits = MediaLimits(HIDDEN, uses_mrope, deep_layers, whole_tokens)
        self.max_batch_tokens = 2048
        self.num_state_slots = num_state_slots
        self.states: list[list[int] | None] = [None] * num_state_slots
        self.habit = habit
        self.weights_bytes = self.kv_cache_bytes = 0
        self.slots = np.full(num_blocks * block_size, _EMPTY, dtype=np.int64)
        self.before_run: Callable[[Batch], None] | None = None
        self.after_run: Callable[[Batch, NDArray[np.float32]], None] | None = None
        self.batches: list[Batch] = []
        self.closed = False
        self.hidden = np.empty((0, HIDDEN), np.float32)
        self.step_progress = 1.0

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self._check(batch)
        self.batches.append(batch)
        if self.before_run is not None:
            self.before_run(batch)
        self.slots[batch.slots] = _seen(batch) + 1000 * _styles(batch)
        if self.num_state_slots:
            self._run_states(batch)
        logits = self._hashes(batch, batch.logits_rows, self.vocab_size, self.habit)
        self.hidden = self._hashes(batch, batch.hidden_rows, HIDDEN)
        if self.after_run is not None:
            self.after_run(batch, logits)
        return logits

    def run_head(self, batch: Batch) -> NDArray[np.float32]:
        assert batch.token_ids is self.batches[-1].token_ids
        logits = self._hashes(batch, batch.logits_rows, self.vocab_size, self.habit)
        if self.after_run is not None:
            self.after_run(batch, logits)
        return logits

    def load_adapter(self, adapter: Adapter) -> FakeAdapter:
        return FakeAdapter(adapter.number, adapter.rank)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        blocks = self.slots.reshape(self.num_blocks, self.block_size)
        for source, destination in pairs:
            blocks[destination] = blocks[source]

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, destination in pairs:
            self.states[destination] = self.states[source]

    def close(self) -> None:
        self.closed = True

    def _run_states(self, batch: Batch) -> None:
        """A state is the list of all tokens before; it must be what the blocks hold of them."""
        assert batch.state_slots is not None
        saved: list[int] = []
        for s, slot in enumerate(batch.state_slots.tolist()):
            for row in range(batch.query_start[s], batch.query_start[s + 1]):
                context = self._context(batch, s, row)
                if row == batch.query_start[s] and batch.positions[row]:
                    assert self.states[slot] == context[:-1], "a state of other tokens"
                if batch.state_saves is not None and batch.state_saves[row] >= 0:
                    saved.append(int(batch.state_saves[row]))
                    self.states[saved[-1]] = context
            self.states[slot] = self._context(batch, s, int(batch.query_start[s + 1]) - 1)
        written = [*batch.state_slots.tolist(), *saved]
        assert len(set(written)) == len(written), "a slot is written twice"

    def _hashes(
        self, batch: Batch, rows: NDArray[np.int32], size: int, habit: float = 0.0
    ) -> NDArray[np.float32]:
        hashes = np.empty((len(rows), size), dtype=np.float32)
        owner = np.searchsorted(batch.query_start, rows, side="right") - 1
        for number, (row, sequence) in enumerate(zip(rows.tolist(), owner.tolist(), strict=True)):
            context = self._context(batch, sequence, row)
            hashes[number] = fake_logits(context, size, habit=habit)
        return hashes

    def _context(self, batch: Batch, sequence: int, row: int) -> list[int]:
        last_seen = batch.positions if batch.last_seen is None else batch.last_seen
        assert batch.positions[row] <= last_seen[row] < batch.context_lens[sequence]
        positions = np.arange(last_seen[row] + 1)
        blocks = batch.block_tables[sequence][positions // self.block_size].astype(np.int64)
        tokens = self.slots[blocks * self.block_size + positions % self.block_size]
        assert (tokens != _EMPTY).all(), "a slot is read that was never written"
        return tokens.tolist()

    def _check(self, batch: Batch) -> None:
        """Hold a batch to what `Batch` promises."""
        sequences = batch.num_sequences
        assert batch.query_start[0] == 0
        assert batch.query_start[-1] == batch.num_rows
        assert (np.diff(batch.query_start) > 0).all()
        assert len(batch.block_tables) == sequences
        assert len(set(batch.slots.tolist())) == batch.num_rows, "two rows write to one slot"
        wanted = [*batch.logits_rows.tolist(), *batch.hidden_rows.tolist()]
        assert len(set(wanted)) == len(wanted)
        for s in range(sequences):
            rows = slice(batch.query_start[s], batch.query_start[s + 1])
            length = int(batch.context_lens[s])
            positions = batch.positions[rows]
            assert positions.tolist() == list(range(length - len(positions), length))
            blocks = batch.block_tables[s][positions // self.block_size]
            expected = blocks.astype(np.int64) * self.block_size + positions % self.block_size
            assert batch.slots[rows].tolist() == expected.tolist()
        assert batch.token_ids.dtype == batch.positions.dtype == np.int32
        assert batch.slots.dtype == np.int64
        assert batch.block_tables.dtype == batch.context_lens.dtype == np.int32
        assert batch.logits_rows.dtype == batch.query_start.dtype == np.int32


def _seen(batch: Batch) -> NDArray[np.int64]:
    """What each row's token is to the cache: its id, or what is given for it, and its position."""
    seen = batch.token_ids.astype(np.int64)
    if batch.embeds is not None:
        assert len(batch.embeds) == len(batch.embed_rows)
        assert batch.embeds.shape[1] == HIDDEN
        seen[batch.embed_rows] = fake_medium(batch.embeds)
        if batch.deep_embeds is not None:
            assert batch.deep_embeds.shape[1:] == batch.embeds.shape
            seen[batch.embed_rows] += 100 * batch.deep_embeds[..., 0].sum(0).astype(np.int64)
    if batch.rope_positions is not None:
        seen += fake_rope_shift(batch.rope_positions - batch.positions)
    return seen


def fake_medium(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """What features (M, HIDDEN) of a medium are to the cache, instead of tokens."""
    return 1_000_000 + values[:, 0].astype(np.int64)


def fake_rope_shift(shifts: NDArray[np.int32]) -> NDArray[np.int64]:
    """What M-RoPE positions add, by how far (3, T) they are from the tokens' positions."""
    return shifts.astype(np.int64).T @ np.array([10**8, 10**10, 10**12])


def _styles(batch: Batch) -> NDArray[np.int64]:
    """The style of each row's adapter."""
    if batch.adapters is None:
        return np.zeros(batch.num_rows, np.int64)
    assert any(batch.adapters)
    assert len(batch.adapters) == batch.num_sequences
    adapters = [adapter for adapter in batch.adapters if isinstance(adapter, FakeAdapter)]
    assert len(adapters) == sum(adapter is not None for adapter in batch.adapters)
    styles = [getattr(adapter, "style", 0) for adapter in batch.adapters]
    return np.repeat(styles, np.diff(batch.query_start))


class NumberText:
    """A detokenizer for tests without a tokenizer: token 7 reads "7 "."""

    def add(self, token: int) -> str:
        return f"{token} "

    def flush(self) -> str:
        return ""

    def read(self, tokens: Sequence[int]) -> str:
        return "".join(map(self.add, tokens))
