"""Who runs in the next step, and on which blocks.

Every sequence catches up: a step gives it some of the tokens that are not computed yet. One token
is missing while it decodes, many while its prompt (or, after a preemption, prompt and answer) is
computed in chunks; both share a batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from quire.engines.native.core.kv_cache import BlockPool
from quire.engines.native.core.sequence import Sequence
from quire.engines.native.core.speculation import StepLoad
from quire.engines.native.core.states import StateKeeper

# Called by bisect and map in C, a getter costs less than a lambda or a property.
_key = attrgetter("key")
_adapter = attrgetter("request.adapter")
_media = attrgetter("request.media")

_BEHIND_TOKENS = 256
"""The most of a prompt that may wait, in one step: enough for full speed, and soon over."""


@dataclass(slots=True)
class StepPlan:
    """One step: sequences, how many tokens of each, and the blocks and states to copy before.

    The first `num_decodes` sequences get the one token that they miss, their last generated one, and
    after it their draft, if they have one.
    """

    sequences: list[Sequence] = field(default_factory=list[Sequence])
    counts: list[int] = field(default_factory=list[int])  # drafts not counted
    num_decodes: int = 0
    drafts: dict[Sequence, list[int]] = field(default_factory=dict["Sequence", list[int]])
    copies: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    state_copies: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    has_adapters: bool = False
    has_media: bool = False

    def group_adapters(self) -> None:
        """Bring sequences of one adapter together, among the decodes and among the others.

        Their rows are then computed with one look at its weights. The order says nothing else.
        """

        def adapter_number(planned: tuple[Sequence, int]) -> int:
            adapter = planned[0].request.adapter
            return 0 if adapter is None else adapter.number

        cut = self.num_decodes
        pairs = list(zip(self.sequences, self.counts, strict=True))
        pairs = sorted(pairs[:cut], key=adapter_number) + sorted(pairs[cut:], key=adapter_number)
        self.sequences, self.counts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]


class Scheduler:
    """Keeps the running and the waiting sequences, each in the order of their keys.

    - Decodes come first, then prompts in progress, then new ones, within `max_batch_tokens`.
    - A sequence is admitted when blocks for all its tokens are available; it takes them at once. The
      first in the queue is never overtaken, so that a long prompt does not wait for ever.
    - A chunk of a prompt goes to the end of a medium whose tokens see each other, beyond the budget if it
      must: such a medium is never cut, and need not wait for a step with room for all of it.
    - While a prompt is computed, sequences of lower priority wait: they would make its step longer.
      Prompts that may wait (a priority above 0) take a small part of a step, for whoever comes next.
    - When a decode finds no block, the last running sequence is preempted and waits again: the first
      one always goes on, and in the end has the whole pool to itself.
    - Drafts get what all others leave of the budget and the blocks, and give it back in
      `take_back_slots`.
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
        num_state_slots: int = 0,
    ) -> None:
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.num_preemptions = 0
        self.num_prompt_tokens = 0  # looked up in the prefix cache
        self.num_hit_tokens = 0  # of those, found in it
        self._pool = pool
        self._block_size = block_size
        self._max_sequences = max_sequences
        self._max_batch_tokens = max_batch_tokens
        self._max_logits_rows = max_logits_rows
        self._max_draft_tokens = max_draft_tokens
        # Blocks that admissions leave for decodes: without them, a full pool would admit a prompt
        # and preempt it in the next step, again and again.
        self._reserve = max(1, pool.num_blocks // 100)
        self._refused: tuple[Sequence, int] | None = None  # who did not fit, into how many blocks
        self._states: StateKeeper | None = None  # None: the model has no states
        if num_state_slots:
            self._states = StateKeeper(
                pool,
                num_state_slots,
                block_size,
                max_sequences=max_sequences,
                speculates=max_draft_tokens > 0,
            )

    @property
    def num_available_slots(self) -> int:
        """Slots for states that no sequence holds, checkpoints among them."""
        return 0 if self._states is None else self._states.num_available

    # --- queues ----------------------------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its admission."""
        insort(self.waiting, sequence, key=_key)

    def remove(self, sequence: Sequence, *, discard: bool = False) -> None:
        """Take a sequence out and release its blocks. `discard` forgets what they hold."""
        for queue in (self.running, self.waiting):
            index = bisect_left(queue, sequence.key, key=_key)
            if index < len(queue) and queue[index] is sequence:
                del queue[index]
                break
        self._release(sequence, discard=discard)

    def _release(self, sequence: Sequence, *, discard: bool = False) -> None:
        self._pool.release(sequence.table.truncate(0), discard=discard)
        if self._states is not None:
            self._states.release(sequence)
        sequence.computed_tokens = sequence.num_published = 0

    # --- the next step ---------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """Choose the next step. It is empty only when no sequence runs or waits."""
        plan = StepPlan()
        urgent = self._urgent()
        self._schedule_decodes(plan, urgent)
        budget = self._max_batch_tokens - plan.num_decodes
        if len(self.running) > plan.num_decodes:
            budget = self._schedule_prefills(plan, budget, urgent)
        if self.waiting:
            budget = self._admit(plan, budget, urgent)
        if self._max_draft_tokens:
            self._add_drafts(plan, min(budget, self._max_logits_rows))
        plan.has_adapters = any(map(_adapter, plan.sequences))
        plan.has_media = any(map(_media, plan.sequences))
        if plan.has_adapters:
            plan.group_adapters()
        if self._states is not None and plan.sequences:
            plan.state_copies, self._states.copies = self._states.copies, []
        return plan

    def _urgent(self) -> int | None:
        """The priority of the first prompt that the next step computes; None if nobody is behind."""
        queues = [queue for queue in (self.running, self.waiting) if queue]
        first = min((queue[0].key[0] for queue in queues), default=0)
        if all(queue[-1].key[0] == first for queue in queues):
            return None
        prompts = [one.key[0] for one in self.running if one.is_prefilling]
        if self.waiting and len(self.running) < self._max_sequences:
            waiting = self.waiting[0]
            blocks = -(-waiting.num_tokens // self._block_size) + self._reserve
            if blocks <= self._pool.num_available:  # else those behind it may have to end first
                prompts.append(waiting.key[0])
        return min(prompts, default=None)

    def _schedule_decodes(self, plan: StepPlan, urgent: int | None) -> None:
        running, references, size = self.running, self._pool.references, self._block_size
        index = 0
        while index < len(running):  # preemptions shorten it from its end
            sequence = running[index]
            index += 1
            if urgent is not None and sequence.key[0] > urgent:
                break  # and so are all after it
            if sequence.is_prefilling:
                continue
            blocks, last = sequence.table.blocks, sequence.computed_tokens // size
            # Nearly always the next slot is in a block that the sequence has for itself.
            has_slot = last < len(blocks) and references[blocks[last]] == 1
            if not has_slot and not self._make_slot(sequence, plan):
                break  # it was preempted, and it was the last one
            plan.sequences.append(sequence)
        plan.num_decodes = len(plan.sequences)
        plan.counts = [1] * plan.num_decodes

    def _schedule_prefills(self, plan: StepPlan, budget: int, urgent: int | None) -> int:
        for sequence in self.running:
            if urgent is not None and sequence.key[0] > urgent:
                break
            if budget and sequence.is_prefilling:
                budget = max(0, budget - self._add_chunk(plan, sequence, budget))
        return budget

    def _admit(self, plan: StepPlan, budget: int, urgent: int | None) -> int:
        while budget and self.waiting and len(self.running) < self._max_sequences:
            sequence = self.waiting[0]
            if urgent is not None and sequence.key[0] > urgent:
                break
            if not self._take_blocks(sequence):
                break
            del self.waiting[0]
            insort(self.running, sequence, key=_key)
            budget = max(0, budget - self._add_chunk(plan, sequence, budget))
        return budget

    def _add_chunk(self, plan: StepPlan, sequence: Sequence, budget: int) -> int:
        most = min(budget, _BEHIND_TOKENS) if sequence.key[0] > 0 else budget
        count = min(sequence.num_tokens - sequence.computed_tokens, most)
        logprobs = sequence.request.prompt_logprobs
        if logprobs is not None and not logprobs.is_complete:
            # The head takes long for many rows, and whoever shares the step waits for it.
            count = min(count, self._max_logits_rows)
        media, computed = sequence.request.media, sequence.computed_tokens
        if media is not None:
            count = media.chunk_end(computed + count) - computed
        if self._states is not None:
            self._states.plan_saves(sequence, count)
        plan.sequences.append(sequence)
        plan.counts.append(count)
        return count

    def _add_drafts(self, plan: StepPlan, budget: int) -> None:
        """Let decodes speculate, as far as it pays and no other sequence is served less for it."""
        load = StepLoad(sum(plan.counts), plan.num_decodes)
        for sequence in plan.sequences[: plan.num_decodes]:
            missing = sequence.request.params.max_tokens - sequence.num_outputs
            most = min(self._max_draft_tokens, missing - 1)  # one more is drawn than drafted
            if sequence.drafter is None or most < 1:
                continue
            draft = sequence.drafter.draft(sequence.tokens, most)
            most = min(len(draft), budget, self._free_slots(sequence))
            count = load.take(sequence.drafter.acceptance_rate, most)
            if count and self._states is not None:
                count = self._states.take_draft(sequence, count)
            if count:
                self._take_slots(sequence, count)
                plan.drafts[sequence] = draft[:count]
                budget -= count

    # --- what a step has computed ----------------------------------------------------------------

    def advance(self, computed: Iterable[tuple[Sequence, int]]) -> None:
        """Note how many more tokens of each sequence have been computed.

        Blocks that become full are published, and siblings that waited for a prompt fork.
        """
        size = self._block_size
        for sequence, count in computed:
            sequence.computed_tokens += count
            if sequence.computed_tokens // size > sequence.num_published:
                self._publish(sequence)
            if self._states is not None:
                self._states.advance(sequence)
            request = sequence.request
            if request.shares_prompt and sequence.computed_tokens == sequence.num_tokens:
                request.shares_prompt = False
                for sibling in request.sequences[1:]:
                    self._fork(sequence, sibling)

    def _publish(self, sequence: Sequence) -> None:
        """Enter the blocks that have become full and computed into the prefix cache."""
        size, table = self._block_size, sequence.table
        full = sequence.computed_tokens // size
        for index in range(sequence.num_published, full if self._pool.caching else 0):
            parent = table.blocks[index - 1] if index else sequence.request.root
            key = sequence.block_key(index * size, (index + 1) * size)
            table.replace(index, self._pool.publish(parent, key, table.blocks[index]))
        sequence.num_published = full

    def _fork(self, leader: Sequence, sibling: Sequence) -> None:
        """Let a sibling go on from what the leader has computed, on the same blocks."""
        full = len(self.running) >= self._max_sequences
        if full or (self._states is not None and not self._states.fork(leader, sibling)):
            self.add(sibling)
            return
        self._pool.share(leader.table.blocks)
        sibling.table.extend(leader.table.blocks)
        sibling.computed_tokens = leader.computed_tokens
        sibling.num_published = leader.num_published
        insort(self.running, sibling, key=_key)

    def take_back_slots(self, sequence: Sequence) -> None:
        """Take back the blocks, and states, that a draft had in excess of what was accepted."""
        if self._states is not None:
            self._states.end_draft(sequence)
        needed = -(-sequence.num_tokens // self._block_size)
        self._pool.release(sequence.table.truncate(needed))

    # --- blocks ----------------------------------------------------------------------------------

    def _make_slot(self, sequence: Sequence, plan: StepPlan) -> bool:
        """Give the next token a slot of its own. False: the sequence itself was preempted.

        Either its blocks are full, or the last one is shared with siblings since their fork: it is
        copied before it is written to. The last sibling keeps it.
        """
        index = sequence.computed_tokens // self._block_size
        blocks, pool = sequence.table.blocks, self._pool
        while True:
            if index == len(blocks):
                if pool.num_available:
                    sequence.table.extend(pool.take())
                    return True
            elif pool.references[blocks[index]] == 1:
                return True  # those that shared it were preempted
            elif pool.num_available:
                (copy,) = pool.take()
                plan.copies.append((blocks[index], copy))
                pool.release((blocks[index],))
                sequence.table.replace(index, copy)
                return True
            if self._preempt_last() is sequence:
                return False

    def _preempt_last(self) -> Sequence:
        """Take the blocks of the last running sequence, whose tokens are all computed again later.

        Its blocks are not swapped out: full ones stay in the prefix cache while there is room, and
        what is recomputed is a prefill, which costs little for each token.
        """
        victim = self.running.pop()
        self._release(victim)
        self.add(victim)
        self.num_preemptions += 1
        return victim

    def _free_slots(self, sequence: Sequence) -> int:
        """Return how many slots a draft may have: those in its last block, and of blocks to spare."""
        spare = max(0, self._pool.num_available - self._reserve)
        return (len(sequence.table.blocks) + spare) * self._block_size - sequence.num_tokens

    def _take_slots(self, sequence: Sequence, count: int) -> None:
        needed = -(-(sequence.num_tokens + count) // self._block_size)
        sequence.table.extend(self._pool.take(needed - len(sequence.table.blocks)))

    def _take_blocks(self, sequence: Sequence) -> bool:
        """Give a waiting sequence blocks for all its tokens, if they are available."""
        pool, available = self._pool, self._pool.num_available
        if self.running and self._refused is not None:
            # It is looked at again in each step. Without more blocks, spare the look-up of its hits.
            refused, blocks_then = self._refused
            if refused is sequence and available <= blocks_then:
                return False
        hits = pool.match(sequence.request.root, self._full_block_keys(sequence))
        known = len(hits)
        if self._states is not None:
            hits = self._states.usable(hits)
        num_fresh = -(-sequence.num_tokens // self._block_size) - len(hits)
        num_revived = [pool.references[block] for block in hits].count(0)  # idle until now
        reserve = self._reserve if self.running else 0
        if num_fresh + num_revived + reserve > available:
            self._refused = (sequence, available)
            return False
        if self._states is not None and not self._states.admit(sequence, hits, known):
            return False
        self._refused = None
        pool.share(hits)  # before anything is taken, since that evicts idle blocks
        sequence.table.extend(hits)
        sequence.table.extend(pool.take(num_fresh))
        sequence.num_published = len(hits)
        sequence.computed_tokens = len(hits) * self._block_size
        request = sequence.request
        if request.cached_tokens is None:  # else a preempted one, or a sibling
            request.cached_tokens = sequence.computed_tokens
            self.num_prompt_tokens += sequence.prompt_length
            self.num_hit_tokens += sequence.computed_tokens
        return True

    def _full_block_keys(self, sequence: Sequence) -> Iterator[bytes]:
        """Yield the keys of the blocks that may come from the prefix cache.

        The last token is always computed, since its logits or its hidden state are wanted; so are
        the rows before it whose log-probabilities or hidden states are.
        """
        request, size = sequence.request, self._block_size
        limit = sequence.num_tokens - 1
        if request.prompt_logprobs is not None and not request.prompt_logprobs.is_complete:
            limit = request.prompt_logprobs.next_row
        if request.pooling is not None:
            limit = min(limit, request.pooling.next_row)
        for start in range(0, limit - size + 1, size):
            yield sequence.block_key(start, start + size)

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
            blocks = sequence.table.blocks
            assert 0 <= sequence.computed_tokens < sequence.num_tokens
            needed = -(-sequence.num_tokens // self._block_size)
            assert -(-sequence.computed_tokens // self._block_size) <= len(blocks) <= needed
            assert sequence.table.array[: len(blocks)].tolist() == blocks
        self._pool.check_integrity([sequence.table.blocks for sequence in self.running])
        if self._states is not None:
            self._states.check_integrity(self.running)
            assert not any(sequence.state for sequence in self.waiting)
