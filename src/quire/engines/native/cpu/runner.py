"""The runner: a model's weights and KV cache, and one compiled call for each thread and step."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter
from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.inputs import (
    BatchAdapters,
    BatchInputs,
    check_batch,
    check_shapes,
    media_limits,
)
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.memory.kv_cache import KvCache, KvDtype
from quire.engines.native.cpu.memory.states import StateCache
from quire.engines.native.cpu.program.arguments import Step
from quire.engines.native.cpu.program.decoder import decoder_program, num_phases
from quire.engines.native.cpu.program.machine_code import StepFunction
from quire.engines.native.cpu.tables.model import ModelTables
from quire.engines.native.cpu.tables.rotary import RotaryTables
from quire.engines.native.cpu.team import Team
from quire.engines.native.cpu.weights.adapter import CpuAdapter, lora_weights
from quire.engines.native.cpu.weights.decoder import Weights, check_files, in_huge_pages
from quire.errors import EngineClosedError

_UNKNOWN = np.float32(-1e30)
"""The logit of a token that a row's model or adapter does not know. Not infinity, which no JSON has:
the log-probability of a prompt's token may be asked for."""


class CpuRunner:
    """A decoder on the CPU. Usable from any thread. Satisfies `quire.engines.native.core.batch.Runner`.

    A row's logits are bitwise the same whatever else is in the batch, however its prompt was cut
    into chunks, and whatever the number of threads.
    """

    weights_bytes: int = 0
    """The size of the weights, for log lines and metrics; `load_model` sets it."""

    def __init__(
        self,
        weights: Weights,
        step: StepFunction,
        *,
        max_model_len: int,
        num_blocks: int,
        num_slots: int = 0,
        block_size: int = 16,
        num_threads: int = 1,
        max_batch_tokens: int = 2048,
        kv_dtype: KvDtype = "float32",
    ) -> None:
        spec = weights.spec
        self.block_size, self.num_blocks = block_size, num_blocks
        self.num_state_slots = num_slots
        self.vocab_size, self.max_model_len = spec.vocab_size, max_model_len
        self.max_batch_tokens, self.num_threads = max_batch_tokens, num_threads
        self._known_tokens = weights.vocabulary
        self.media_limits = media_limits(spec)
        max_rows = max_batch_tokens + spec.media.whole_tokens
        self._lock = threading.Lock()
        _runners.add(self)
        struct = self._step = Step()
        struct.block_size, struct.num_blocks = block_size, num_blocks
        struct.max_len = max_model_len
        self._cache = KvCache(spec, num_blocks=num_blocks, block_size=block_size, dtype=kv_dtype)
        self._states = StateCache(spec, num_slots)
        struct.num_slots = num_slots
        self.kv_cache_bytes = self._cache.nbytes + self._states.nbytes
        self.program = list(decoder_program(spec, self._cache.kind))
        self._weights: Weights | None = weights
        self._model = ModelTables(
            struct,
            self.program,
            weights,
            self._cache,
            self._states,
            max_rows=max_rows,
            num_threads=num_threads,
        )
        self._inputs = BatchInputs(struct, max_rows)
        self._rotary = RotaryTables(struct, self._model, spec, max_model_len)
        self._adapters = BatchAdapters(max_rows, num_threads)
        self._make_logits(8)
        self._last_ids: NDArray[np.int32] | None = None  # of the batch whose rows have logits
        self._times = np.zeros(0, np.int64)
        self._team = Team(num_threads, step, struct)
        self._mover: threading.Thread | None = None
        # The team's threads refer to the struct, not to the runner: a forgotten runner is collected.
        self._finalizer = weakref.finalize(self, self._team.close)

    # ---- steps

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Run the model over one batch; see `Runner`.

        Raises:
            ValueError: the batch is too large, or points outside the cache or the vocabulary.
            EngineClosedError: the runner was closed.
            EngineDeadError: somebody has written into a file of the weights.
        """
        with self._lock:
            self._last_ids = None
            logits = self._run(batch)
            self._last_ids = batch.token_ids
            return logits

    def run_head(self, batch: Batch) -> NDArray[np.float32]:
        """Compute the logits of other rows of the batch that ran last; see `Runner`.

        Raises:
            ValueError: another batch ran last.
            EngineClosedError, EngineDeadError: as `run`.
        """
        with self._lock:
            if batch.token_ids is not self._last_ids:
                raise ValueError("the head can run again for the batch that ran last alone")
            self._team.wait_until_idle()
            self._model.choose_program(head_alone=True)
            try:
                return self._run(batch)
            finally:
                self._team.wait_until_idle()
                self._model.choose_program(head_alone=False)

    def _run(self, batch: Batch) -> NDArray[np.float32]:
        if self._weights is None:
            raise EngineClosedError("the runner was closed")
        check_files(self._weights)
        # The compiled step checks what is not checked here. It knows nothing of adapters and
        # media, which are rare enough for the slower check.
        plain = (
            not batch.adapters
            and batch.embeds is None
            and not len(batch.embed_rows)
            and batch.rope_positions is None
            and batch.last_seen is None
        )
        (check_shapes if plain else check_batch)(batch, self)
        logits_count = len(batch.logits_rows)
        if logits_count and not self._model.has_head:
            raise ValueError("a batch asks for logits of a model that was loaded without its head")
        self._team.wait_until_idle()  # from here on its arguments change
        self._take_over(batch, plain, logits_count)
        if len(batch.token_ids):
            self._team.run()
            if self._mover is None:
                self._move_weights()
            if self._step.is_invalid:
                check_batch(batch, self)
                raise ValueError("a batch points outside the runner's arrays")
        logits = self._logits[:logits_count]
        if self._step.adapters:
            self._team.wait_until_idle()
            for adapter, first, count in self._adapters.logits_runs:
                known = adapter.vocabulary if adapter else self._known_tokens
                logits[first : first + count, known:] = _UNKNOWN
            self._step.adapters = None
            self._adapters.release()
        elif self._known_tokens < self.vocab_size:
            logits[:, self._known_tokens :] = _UNKNOWN
        return logits

    def _take_over(self, batch: Batch, plain: bool, logits_count: int) -> None:
        """Take over a batch. What is rare costs a plain batch of text no call."""
        rotary = self._rotary
        self._inputs.fill(batch)
        self._step.adapters = None if plain else self._adapters.fill(batch)
        if batch.rope_positions is not None or rotary.has_batch:
            rotary.fill(batch)
        if batch.rope_positions is None:
            # A length may be wrong, since the step has not checked it yet.
            longest = min(int(batch.context_lens.max(initial=0)), self.max_model_len)
            if longest > rotary.length:
                rotary.extend(longest)
        self._model.counters.fill(0)
        if logits_count > len(self._logits):
            self._make_logits(1 << (logits_count - 1).bit_length())

    def _make_logits(self, rows: int) -> None:
        self._logits = aligned_zeros((rows, self.vocab_size))
        self._step.logits = self._logits.ctypes.data

    @property
    def step_progress(self) -> float:
        """How much of the batch that runs is computed; see `Runner`.

        It is the share of the step's phases that have begun: they are those of one layer, again and
        again, and each counts the tasks that were taken from it.
        """
        taken = self._model.counters[:: layout.PHASE_BYTES // 8]
        begun = np.flatnonzero(taken)
        return float(begun[-1] + 1) / len(taken) if len(begun) else 0.0

    @property
    def hidden(self) -> NDArray[np.float32]:
        """The hidden states that the last batch asked for; see `Runner`."""
        return self._model.normed[self._step.logits_count : self._step.normed_count]

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of the KV cache, `(source, destination)` each, in order."""
        with self._lock:
            if self._weights is None:
                raise EngineClosedError("the runner was closed")
            self._cache.copy_blocks(pairs)

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole slots of states, `(source, destination)` each, in order."""
        with self._lock:
            if self._weights is None:
                raise EngineClosedError("the runner was closed")
            self._team.wait_until_idle()
            self._states.copy(pairs)

    def load_adapter(self, adapter: Adapter) -> CpuAdapter:
        """Read an adapter for batches to come; see `Runner`. Steps go on meanwhile.

        Raises:
            AdapterError: it does not fit the model, or changes nothing.
            OutOfMemoryError: there is not enough free memory for it.
            EngineClosedError: the runner was closed.
        """
        weights = self._weights
        if weights is None:
            raise EngineClosedError("the runner was closed")
        return CpuAdapter(lora_weights(adapter, weights))

    def time_phases(self) -> NDArray[np.int64]:
        """Make every step to come write the clock at each phase's end: (phases,) ticks, 0 for none.

        `program` numbers the phases.
        """
        times = np.zeros(num_phases(self.program), np.int64)
        with self._lock:
            self._team.wait_until_idle()
            self._times = times
            self._step.phase_times = times.ctypes.data
        return times

    def close(self) -> None:
        """End the threads, and let go of the weights and the cache. May be called again."""
        with self._lock:
            self._team.close()
            self._weights = None
            self._model.free()
            self._cache.free()
            self._states.free()
            self._logits = self._logits[:0].copy()

    # ---- huge pages

    def _move_weights(self) -> None:
        """Copy the weights into huge pages in a thread of its own, while steps go on.

        It begins after the first step, so that a start does not wait for it.
        """
        self._mover = threading.Thread(
            target=_move, args=(weakref.ref(self),), name="quire-weights", daemon=True
        )
        # No more thread can be started, and they are as good in the file.
        with suppress(RuntimeError):
            self._mover.start()

    def _adopt(self, old: Weights, new: Weights) -> None:
        """Compute with a copy of the weights from the next step on."""
        with self._lock:
            if self._weights is old and not any(file.is_overwritten() for file in old.files):
                self._team.wait_until_idle()
                self._model.use(new)
                self._weights = new


def _move(reference: weakref.ref[CpuRunner]) -> None:
    """Copy a runner's weights and let it adopt the copy, unless it is gone by then."""
    runner = reference()
    weights = runner._weights if runner else None  # pyright: ignore[reportPrivateUsage]
    del runner  # so that this thread does not keep a forgotten runner alive while it copies
    if weights is None:
        return
    copy = in_huge_pages(weights)
    runner = reference()
    if runner is not None and copy is not weights:
        runner._adopt(weights, copy)  # pyright: ignore[reportPrivateUsage]


# ---- forks

_runners: weakref.WeakSet[CpuRunner] = weakref.WeakSet()


def _renew_locks() -> None:
    """Give the runners of a forked child new locks: another thread may have held one at the fork."""
    for runner in _runners:
        runner._lock = threading.Lock()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
