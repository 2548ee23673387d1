"""What crosses from the scheduler to the runner in one step: plain arrays, and the runner's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter
from quire.engines.native.core.multimodal import MediaLimits

NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)


class LoadedAdapter(Protocol):
    """A LoRA adapter that a runner has made ready for its batches.

    It lives as long as something refers to it: the engine that serves it, requests in flight, a batch.
    """

    number: int
    """The number of the `Adapter` that it was loaded from, unique within the process for ever."""


@dataclass(slots=True, eq=False)
class Batch:
    """The tokens of one step, prefill chunks and decodes alike, in T rows of S sequences.

    Sequence `s` owns the rows `query_start[s]:query_start[s + 1]`; they are its newest tokens, at
    consecutive positions that end at `context_lens[s] - 1`. The key and value of row `t` are written
    to slot `slots[t]` (block id * block size + offset) before attention reads them. Row `t` of
    sequence `s` attends to positions `0..positions[t]` through `block_tables[s]`, or to those up to
    `last_seen[t]`.

    It is a value: nothing changes it once it is made.
    """

    token_ids: NDArray[np.int32]  # (T,)
    positions: NDArray[np.int32]  # (T,)
    slots: NDArray[np.int64]  # (T,)
    query_start: NDArray[np.int32]  # (S + 1,)
    context_lens: NDArray[np.int32]  # (S,) tokens in the KV cache once this step has run
    block_tables: NDArray[np.int32]  # (S, B) block ids in order, padded with 0
    logits_rows: NDArray[np.int32]  # (L,) rows whose logits are wanted
    adapters: Sequence[LoadedAdapter | None] | None = None  # (S,); None where no sequence has one
    hidden_rows: NDArray[np.int32] = field(default_factory=NO_ROWS.view)
    """(H,) rows whose hidden states are wanted, after the last norm."""
    embeds: NDArray[np.float32] | None = None
    """(M, hidden_size): what rows have instead of their token's embedding; None where none has."""
    embed_rows: NDArray[np.int32] = field(default_factory=NO_ROWS.view)
    """(M,) the rows that have `embeds`, each once."""
    deep_embeds: NDArray[np.float32] | None = None
    """(L, M, hidden_size): what is added to these rows after each of the first L layers, for models that
    have such layers."""
    last_seen: NDArray[np.int32] | None = None
    """(T,) the last position that each row attends to, which is one of this step's or before; None: its own.
    Only with `embeds`, in models with whole media."""
    rope_positions: NDArray[np.int32] | None = None
    """(3, T) rotary positions in time, height and width, for M-RoPE; None: `positions`."""
    state_slots: NDArray[np.int32] | None = None
    """(S,) the slot that holds each sequence's state, for models with states. It is read unless the first
    row is at position 0, and then holds the state after the last row."""
    state_saves: NDArray[np.int32] | None = None
    """(T,) a slot that also gets the state as it is after the row, -1 for none; None where no row has one."""

    @property
    def num_rows(self) -> int:
        """T"""
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        """S"""
        return len(self.context_lens)


class Runner(Protocol):
    """A model and its KV cache on one device."""

    block_size: int
    num_blocks: int
    vocab_size: int
    max_model_len: int
    media_limits: MediaLimits
    """What media the model takes."""
    max_batch_tokens: int
    """The most tokens of one batch; a medium that is not cut may come on top (`MediaLimits.whole_tokens`)."""
    num_state_slots: int
    """Slots for states of sequences; 0 for models without."""
    weights_bytes: int
    kv_cache_bytes: int

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Run the model over one batch. Returns logits (L, vocab_size), valid until the next
        call; the caller may change them.

        Raises:
            EngineDeadError: it cannot run any more, now or later.
        """
        ...

    def run_head(self, batch: Batch) -> NDArray[np.float32]:
        """Compute the logits of other rows of the batch that ran last, which `batch` is but for its
        `logits_rows`. Else as `run`.
        """
        ...

    def load_adapter(self, adapter: Adapter) -> LoadedAdapter:
        """Read an adapter for batches to come, from any thread, while batches run.

        Raises:
            AdapterError: it does not fit the model, or changes nothing.
            OutOfMemoryError: it does not fit into memory.
        """
        ...

    @property
    def step_progress(self) -> float:
        """How much of the batch that runs is computed, 0 to 1; asked from any thread.

        Once it has run, and until the next does, it is 1.
        """
        ...

    @property
    def hidden(self) -> NDArray[np.float32]:
        """The hidden states (H, hidden_size) of the last batch's `hidden_rows`, as `run` left them.

        They have passed the last norm; valid until the next call of `run`.
        """
        ...

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of the KV cache, `(source, destination)` each, in order."""
        ...

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole slots of states, `(source, destination)` each, in order."""
        ...

    def close(self) -> None:
        """Free the weights and the cache, and end the threads."""
        ...
