"""Who runs in the next step, on which blocks.

Every sequence catches up: a step gives it some of the tokens that are not computed yet. One token
is missing while it decodes, many while its prompt (or, after a preemption, prompt and answer) is
computed in chunks; both share a batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from quire.engines.native.blocks import BlockPool
from quire.engines.native.sequence import Key, Sequence
from quire.engines.native.speculation import StepLoad


def _key(sequence: Sequence) -> Key:
    return sequence.key


def _adapter_number(planned: tuple[Sequence, int]) -> int:
    adapter = planned[0].request.adapter
    return 0 if adapter is None else adapter.number


@dataclass(slots=True)
class Plan:
    """One step: sequences, how many tokens of each, and the blocks to copy before.

    The first `num_decodes` sequences get the one token that they miss, their last generated one, and
    after it their draft, if they have one.
    """

    sequences: list[Sequence] = field(default_factory=list[Sequence])
    counts: list[int] = field(default_factory=list[int])
    copies: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    num_decodes: int = 0
    drafts: dict[Sequence, list[int]] = field(default_factory=dict["Sequence", list[int]])

    def add(self, sequence: Sequence, count: int) -> None:
        self.sequences.append(sequence)
        self.counts.append(count)

    def group_adapters(self) -> None:
        """Bring sequences of one adapter together, among the decodes and among the others.

        Their rows are then computed with one look at its weights. The order says nothing else.
        """
        if not any(sequence.request.adapter for sequence in self.sequences):
            return
        cut = self.num_decodes
        pairs = list(zip(self.sequences, self.counts, strict=True))
        pairs = [
            *sorted(pairs[:cut], key=_adapter_number),
            *sorted(pairs[cut:], key=_adapter_number),
        ]
        self.sequences, self.counts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]


class Scheduler:
    """Keeps the running and the waiting sequences, each in the order of their keys.

    - Decodes come first, then prompts under way, then new ones, within `max_batch_tokens`.
    - A sequence is admitted when blocks for all its tokens are there; it takes them at once. The
      first in the queue is never overtaken, so a long prompt does not wait for ever.
    - When a decode finds no block, the last running sequence gives up its blocks and waits again:
      the first one always goes on, and in the end has the whole pool to itself.
    - Drafts get what all others leave of the budget and the blocks, and give it back in `settle`.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        *,
        max_sequences: int,
        max_batch_tokens: int,
        max_logits_rows: int,
        max_draft_tokens: int = 0,
    ) -> None:
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.num_preemptions = 0
        self.num_prompt_tokens = 0  # looked up in the prefix cache
        self.num_hit_tokens = 0  # found there
        self._pool = pool
        self._block_size = block_size
        self._max_sequences = max_sequences
        self._max_batch_tokens = max_batch_tokens
        self._max_logits_rows = max_logits_rows
        self._max_draft_tokens = max_draft_tokens
        self._reserve = max(1, pool.num_blocks // 100)  # kept for decodes when others are admitted
        self._refused: tuple[Sequence, int] | None = None  # who did not fit, and into how many

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its admission."""
        insort(self.waiting, sequence, key=_key)

    def fork(self, leader: Sequence, sibling: Sequence) -> None:
        """Let a sibling go on from what the leader has computed, on the same blocks."""
        if len(self.running) >= self._max_sequences:
            self.add(sibling)
            return
        self._pool.share(leader.table.blocks)
        sibling.table.extend(leader.table.blocks)
        sibling.computed_tokens = leader.computed_tokens
        sibling.published = leader.published
        insort(self.running, sibling, key=_key)

    def remove(self, sequence: Sequence, *, discard: bool = False) -> None:
        """Take a sequence out and give its blocks back. `discard` forgets what they hold."""
        for queue in (self.running, self.waiting):
            place = bisect_left(queue, sequence.key, key=_key)
            if place < len(queue) and queue[place] is sequence:
                del queue[place]
                break
        self._pool.release(sequence.forget_computed(), discard=discard)

    def publish(self, sequence: Sequence) -> None:
        """Enter the blocks that have become full and computed into the prefix cache."""
        size, table = self._block_size, sequence.table
        full = sequence.computed_tokens // size
        for place in range(sequence.published, full if self._pool.caching else 0):
            parent = table.blocks[place - 1] if place else sequence.request.root
            key = sequence.block_key(place * size, (place + 1) * size)
            table.replace(place, self._pool.publish(parent, key, table.blocks[place]))
        sequence.published = full

    def schedule(self) -> Plan:
        """Choose the next step. It is empty only when nobody runs or waits."""
        plan = Plan()
        self._schedule_decodes(plan)
        budget = self._max_batch_tokens - plan.num_decodes
        budget = self._schedule_prefills(plan, budget)
        budget = self._admit(plan, budget)
        if self._max_draft_tokens:
            self._add_drafts(plan, min(budget, self._max_logits_rows))
        plan.group_adapters()
        return plan

    def _schedule_decodes(self, plan: Plan) -> None:
        running, place = self.running, 0
        while place < len(running):  # preemptions shorten it from its end
            sequence = running[place]
            if sequence.is_decoding:
                if not self._prepare_last_block(sequence, plan):
                    break
                plan.add(sequence, 1)
            place += 1
        plan.num_decodes = len(plan.sequences)

    def _schedule_prefills(self, plan: Plan, budget: int) -> int:
        for sequence in self.running:
            if budget and not sequence.is_decoding:
                count = self._chunk(sequence, budget)
                plan.add(sequence, count)
                budget -= count
        return budget

    def _admit(self, plan: Plan, budget: int) -> int:
        while budget and self.waiting and len(self.running) < self._max_sequences:
            sequence = self.waiting[0]
            if not self._take_blocks(sequence):
                break
            del self.waiting[0]
            insort(self.running, sequence, key=_key)
            count = self._chunk(sequence, budget)
            plan.add(sequence, count)
            budget -= count
        return budget

    def _add_drafts(self, plan: Plan, budget: int) -> None:
        """Let decodes speculate, as far as it pays and nobody else is served less for it."""
        load = StepLoad(sum(plan.counts), plan.num_decodes)
        for place, sequence in enumerate(plan.sequences[: plan.num_decodes]):
            missing = sequence.request.params.max_tokens - sequence.num_outputs
            most = min(self._max_draft_tokens, missing - 1)  # one more is drawn than drafted
            if sequence.drafter is None or most < 1:
                continue
            draft = sequence.drafter.draft(sequence.tokens, most)
            most = min(len(draft), budget, self._free_slots(sequence))
            count = load.take(sequence.drafter.trust, most)
            if count:
                self._take_slots(sequence, count)
                plan.drafts[sequence] = draft[:count]
                plan.counts[place] += count
                budget -= count

    def settle(self, sequence: Sequence) -> None:
        """Take back the blocks that a draft had in excess of what was accepted."""
        needed = -(-sequence.num_tokens // self._block_size)
        self._pool.release(sequence.table.shrink(needed))

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        count = min(sequence.remaining, budget)
        logprobs = sequence.request.prompt_logprobs
        if logprobs is not None and not logprobs.is_complete:
            count = min(count, self._max_logits_rows)
        return count

    # --- blocks ----------------------------------------------------------------------------------

    def _prepare_last_block(self, sequence: Sequence, plan: Plan) -> bool:
        """See that the next token has a slot of its own. False: the sequence was preempted."""
        place = sequence.computed_tokens // self._block_size
        blocks, pool = sequence.table.blocks, self._pool
        while True:
            if place == len(blocks):
                if pool.num_available:
                    sequence.table.extend((pool.take(),))
                    return True
            elif not pool.is_shared(blocks[place]):
                return True
            elif pool.num_available:
                copy = pool.take()
                plan.copies.append((blocks[place], copy))
                pool.release((blocks[place],))
                sequence.table.replace(place, copy)
                return True
            if self._preempt_last() is sequence:
                return False

    def _free_slots(self, sequence: Sequence) -> int:
        """How many slots a draft may have: those in its last block, and of blocks to spare."""
        spare = max(0, self._pool.num_available - self._reserve)
        return (len(sequence.table) + spare) * self._block_size - sequence.num_tokens

    def _take_slots(self, sequence: Sequence, count: int) -> None:
        blocks = -(-(sequence.num_tokens + count) // self._block_size) - len(sequence.table)
        sequence.table.extend(self._pool.take() for _ in range(blocks))

    def _preempt_last(self) -> Sequence:
        victim = self.running.pop()
        self._pool.release(victim.forget_computed())
        self.add(victim)
        self.num_preemptions += 1
        return victim

    def _take_blocks(self, sequence: Sequence) -> bool:
        """Give a waiting sequence blocks for all its tokens, if they are there."""
        available = self._pool.num_available
        if self.running and self._refused is not None:
            refused, then = self._refused
            if refused is sequence and available <= then:
                return False
        hits = self._pool.match(sequence.request.root, self._full_blocks(sequence))
        fresh = -(-sequence.num_tokens // self._block_size) - len(hits)
        revived = sum(map(self._pool.is_idle, hits))
        reserve = self._reserve if self.running else 0
        if fresh + revived + reserve > available:
            self._refused = (sequence, available)
            return False
        self._refused = None
        self._pool.share(hits)
        sequence.table.extend(hits)
        sequence.table.extend(self._pool.take() for _ in range(fresh))
        sequence.published = len(hits)
        sequence.computed_tokens = len(hits) * self._block_size
        self._count_hits(sequence)
        return True

    def _full_blocks(self, sequence: Sequence) -> Iterator[bytes]:
        """Yield the keys of the blocks that may come from the prefix cache.

        The last token is always computed, since its logits or its hidden state are wanted; so are
        the rows before it whose log-probabilities or hidden states are.
        """
        size = self._block_size
        limit = sequence.num_tokens - 1
        logprobs = sequence.request.prompt_logprobs
        if logprobs is not None and not logprobs.is_complete:
            limit = logprobs.next_row
        pool = sequence.request.pool
        if pool is not None:
            limit = min(limit, pool.next_row)
        for start in range(0, limit - size + 1, size):
            yield sequence.block_key(start, start + size)

    def _count_hits(self, sequence: Sequence) -> None:
        request = sequence.request
        if request.cached_tokens is None:
            request.cached_tokens = sequence.computed_tokens
            self.num_prompt_tokens += request.prompt_length
            self.num_hit_tokens += sequence.computed_tokens

    def check_integrity(self) -> None:
        """Assert that queues, tables and blocks agree."""
        for queue in (self.running, self.waiting):
            keys = [sequence.key for sequence in queue]
            assert keys == sorted(set(keys)), "a queue is out of order"
            assert not any(sequence.finished for sequence in queue)
        assert len(self.running) <= self._max_sequences
        for sequence in self.waiting:
            assert not sequence.table.blocks
            assert not sequence.computed_tokens
        for sequence in self.running:
            assert 0 <= sequence.computed_tokens < sequence.num_tokens
            needed = -(-sequence.num_tokens // self._block_size)
            assert -(-sequence.computed_tokens // self._block_size) <= len(sequence.table) <= needed
            assert sequence.table.array.tolist() == sequence.table.blocks
        self._pool.check_integrity([sequence.table.blocks for sequence in self.running])
