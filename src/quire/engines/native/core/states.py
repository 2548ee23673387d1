"""States of sequences, for models with recurrent layers: slots, checkpoints, forks, drafts that are rejected.

A recurrent layer keeps of a sequence one state, whatever its length, which each token changes. So a
prefix that is cached can be used only where the state at its end was kept: that is a checkpoint. Only
numbers of slots are kept here; the states themselves belong to the runner.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quire.engines.native.core.kv_cache import BlockPool

if TYPE_CHECKING:
    from quire.engines.native.core.sequence import Sequence

_ANSWER_BLOCKS = 8
"""Blocks from one checkpoint of an answer to the next, which serve the next turn of its conversation."""


@dataclass(slots=True)
class SequenceState:
    """Where the state of a running sequence is, and what is to be kept of it."""

    slot: int
    marks: list[int] = field(default_factory=list[int])
    """Positions of its prompt, rising, at which checkpoints are wanted; multiples of the block size."""
    saves: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """In this step: positions, and the slots that get the state there."""
    drafts: list[int] = field(default_factory=list[int])
    """In this step: the slots that get the state before each token of the draft."""
    undrafted: int = 0
    """The tokens that will be computed if all of the draft is rejected."""
    next_checkpoint: int = 0
    """The position of the answer from which on it gets another checkpoint."""

    @property
    def slots(self) -> list[int]:
        """All slots that the sequence holds."""
        return [self.slot, *(slot for _, slot in self.saves), *self.drafts]


class StatePool:
    """Hands out slots. Each is free, held by a sequence, or a checkpoint at the end of a cached block.

    Checkpoints give way to newer ones, the least recently used first, and go with their blocks.
    """

    def __init__(self, num_slots: int, max_checkpoints: int) -> None:
        self._num_slots, self._max_checkpoints = num_slots, max_checkpoints
        self._free = list(range(num_slots - 1, -1, -1))
        self._checkpoints: OrderedDict[int, int] = OrderedDict()  # the slot of each block

    @property
    def num_available(self) -> int:
        """Slots that no sequence holds, checkpoints among them."""
        return len(self._free) + len(self._checkpoints)

    def take(self) -> int | None:
        """Take a free slot, if there is one."""
        return self._free.pop() if self._free else None

    def take_for_checkpoint(self) -> int | None:
        """Take a slot that shall become a checkpoint; an older one may go for it."""
        if self._checkpoints and (
            not self._free or len(self._checkpoints) >= self._max_checkpoints
        ):
            self._free.append(self._checkpoints.popitem(last=False)[1])
        return self.take() if len(self._checkpoints) < self._max_checkpoints else None

    def give_back(self, slots: Iterable[int]) -> None:
        """Give back slots that are held."""
        self._free.extend(slots)

    def keep(self, block: int, slot: int) -> None:
        """Make a slot the checkpoint at the end of a block, unless that has one or there are too many."""
        if block in self._checkpoints or len(self._checkpoints) >= self._max_checkpoints:
            self._free.append(slot)
        else:
            self._checkpoints[block] = slot

    def find(self, block: int) -> int | None:
        """The slot of the checkpoint at the end of a block, if it has one."""
        return self._checkpoints.get(block)

    def use(self, block: int) -> None:
        """Note that a block's checkpoint was used."""
        self._checkpoints.move_to_end(block)

    def forget(self, block: int) -> None:
        """Let go of a block's checkpoint, if it has one."""
        slot = self._checkpoints.pop(block, None)
        if slot is not None:
            self._free.append(slot)

    def check_integrity(self, held: Iterable[int]) -> None:
        """Assert that every slot is accounted for, given those that sequences hold."""
        slots = [*held, *self._free, *self._checkpoints.values()]
        assert sorted(slots) == list(range(self._num_slots)), "a slot leaked, or has two owners"
        assert len(self._checkpoints) <= self._max_checkpoints


class StateKeeper:
    """Gives running sequences their states, and keeps checkpoints of them for the prefix cache.

    - A prompt gets a checkpoint at its last whole block, and where it leaves what was computed before for
      another one: the next prompt that leaves there begins at it.
    - An answer gets one now and then, for the next turn.
    - A draft's tokens each have a slot, so that the state at the first rejected one is at hand.
    """

    def __init__(
        self,
        blocks: BlockPool,
        num_slots: int,
        block_size: int,
        *,
        max_sequences: int,
        speculates: bool,
    ) -> None:
        spare = num_slots - max_sequences
        if speculates:  # half of what running sequences leave is for drafts
            spare = (spare + 1) // 2
        self._pool = StatePool(num_slots, spare if blocks.caching else 0)
        self._block_size = block_size
        self.copies: list[tuple[int, int]] = []
        """Slots to copy before the next step, in order: `(source, destination)`."""
        blocks.on_forget = self._pool.forget

    @property
    def num_available(self) -> int:
        """Slots that no sequence holds, checkpoints among them."""
        return self._pool.num_available

    # --- admission ---------------------------------------------------------------------------------

    def usable(self, hits: list[int]) -> list[int]:
        """Those of a chain of cached blocks up to the last one with a checkpoint."""
        for count in range(len(hits), 0, -1):
            if self._pool.find(hits[count - 1]) is not None:
                return hits[:count]
        return []

    def admit(self, sequence: Sequence, hits: list[int], known: int) -> bool:
        """Give a sequence a slot. False: there is none.

        It begins with the state at the end of `hits`. `known` is how many blocks of its beginning are
        cached, with or without a checkpoint.
        """
        slot = self._pool.take()
        if slot is None:
            return False
        size = self._block_size
        if hits:
            source = self._pool.find(hits[-1])
            assert source is not None, "a prefix is used whose state was not kept"
            self._pool.use(hits[-1])
            self.copies.append((source, slot))
        # The last token is always computed, so that a checkpoint after it would never be used.
        marks = {known * size, (sequence.num_tokens - 1) // size * size}
        sequence.state = SequenceState(
            slot, sorted(mark for mark in marks if mark > len(hits) * size)
        )
        return True

    def release(self, sequence: Sequence) -> None:
        """Take the slots of a sequence that ends or is preempted."""
        if sequence.state is not None:
            self._pool.give_back(sequence.state.slots)
            sequence.state = None

    # --- steps -------------------------------------------------------------------------------------

    def plan_saves(self, sequence: Sequence, count: int) -> None:
        """Have checkpoints written in a step that computes `count` tokens of a prompt."""
        state = sequence.state
        assert state is not None
        end = sequence.computed_tokens + count
        while state.marks and state.marks[0] <= end:
            mark, slot = state.marks.pop(0), self._pool.take_for_checkpoint()
            if slot is not None:
                state.saves.append((mark, slot))

    def advance(self, sequence: Sequence) -> None:
        """Make what the step has written checkpoints, once its blocks are published."""
        state = sequence.state
        if state is None:
            return
        for mark, slot in state.saves:
            self._pool.keep(sequence.table.blocks[mark // self._block_size - 1], slot)
        state.saves.clear()
        if not state.drafts:
            self._keep_answer(sequence, state)

    def _keep_answer(self, sequence: Sequence, state: SequenceState) -> None:
        """Make the state at the end of a block of the answer a checkpoint, if it is time for one."""
        size, computed = self._block_size, sequence.computed_tokens
        if computed % size or computed < max(state.next_checkpoint, sequence.prompt_length + 1):
            return
        block = sequence.table.blocks[computed // size - 1]
        state.next_checkpoint = computed + _ANSWER_BLOCKS * size
        slot = None
        if self._pool.find(block) is None:
            slot = self._pool.take_for_checkpoint()
        if slot is not None:
            self.copies.append((state.slot, slot))
            self._pool.keep(block, slot)

    def fork(self, leader: Sequence, sibling: Sequence) -> bool:
        """Give a sibling a copy of the leader's state. False: there is no slot."""
        assert leader.state is not None
        slot = self._pool.take()
        if slot is None:
            return False
        self.copies.append((leader.state.slot, slot))
        sibling.state = SequenceState(slot)
        return True

    # --- drafts ------------------------------------------------------------------------------------

    def take_draft(self, sequence: Sequence, count: int) -> int:
        """Take slots for a draft of `count` tokens; fewer if there are fewer. Returns how many."""
        state = sequence.state
        assert state is not None
        state.undrafted = sequence.computed_tokens + 1
        while len(state.drafts) < count:
            slot = self._pool.take()
            if slot is None:
                break
            state.drafts.append(slot)
        return len(state.drafts)

    def end_draft(self, sequence: Sequence) -> None:
        """Go on from the state before the first token of the draft that was rejected."""
        state = sequence.state
        assert state is not None
        accepted = sequence.computed_tokens - state.undrafted
        if accepted < len(state.drafts):
            state.slot, state.drafts[accepted] = state.drafts[accepted], state.slot
        self._pool.give_back(state.drafts)
        state.drafts = []
        self._keep_answer(sequence, state)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Assert that every slot is accounted for."""
        states = [sequence.state for sequence in running]
        assert None not in states, "a running sequence has no state"
        held = [slot for state in states if state is not None for slot in state.slots]
        self._pool.check_integrity(held)
