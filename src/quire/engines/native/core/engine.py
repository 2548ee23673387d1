"""The engine: continuous batching over a paged KV cache. One thread owns it; it knows no other."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quire.constraints.matcher import MaskMaker, Matcher
from quire.engines.native.core.batch import Batch, LoadedAdapter, Runner
from quire.engines.native.core.batch_builder import DraftRows, OutputRows, build_batch
from quire.engines.native.core.detokenizer import MakeDetokenizer
from quire.engines.native.core.input_processor import EngineLimits, InputProcessor
from quire.engines.native.core.kv_cache import BlockPool
from quire.engines.native.core.logits_processors import Encode
from quire.engines.native.core.pooling import Pooled, Pooling
from quire.engines.native.core.sampler import Sampled, Sampler
from quire.engines.native.core.scheduler import Scheduler, StepPlan
from quire.engines.native.core.sequence import Request, Sequence
from quire.engines.native.core.stop import Finish
from quire.errors import (
    ConfigError,
    EngineClosedError,
    EngineDeadError,
    OutOfMemoryError,
    RequestError,
)
from quire.outputs import Delta, TokenLogprob, Usage
from quire.prompt import Prompt
from quire.sampling import SamplingParams

logger = logging.getLogger("quire")

Outputs = list[tuple[str, Delta]]
"""Deltas with the ids of their requests."""

_LOGITS_BYTES = 64 * 2**20  # of logits that are there at once for prompts' log-probabilities

_BAD_LOGITS = (
    "The model gave no usable logits here, but NaN or infinity. Weights may be damaged, or the type too "
    "narrow: try infer_dtype: float32."
)
_NO_TOKEN = (
    "Here every token is banned: bad_words or min_tokens leave nothing of what response_format and the "
    "vocabulary allow."
)


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Gauges of now, and counters since the engine was made."""

    running: int  # sequences that hold blocks
    waiting: int  # sequences that wait for them
    prefilling: int  # tokens of running sequences whose prompts are not computed yet
    prefilled: int  # of those, computed
    total_blocks: int
    free_blocks: int  # that can be taken now, cached ones in no sequence's table among them
    cached_blocks: int  # kept for later hits, in no sequence's table now
    total_state_slots: int  # 0 where the model has no state
    free_state_slots: int  # that no sequence holds, checkpoints among them
    steps: int
    failed_steps: int
    preemptions: int
    prompt_tokens: int  # of admitted requests
    prefix_hit_tokens: int  # of those, found in the prefix cache
    generated_tokens: int
    drafted_tokens: int  # computed on the chance that they are the next ones
    accepted_tokens: int  # of those, that were


class Engine:
    """Completes prompts, many at once.

    `add` requests, call `step` while `has_work`, and read the deltas that it returns. A request's
    tokens depend on nothing but the request: not on the others, not on how its prompt is cut into
    chunks, and not on preemptions. `SamplingParams.timeout` is kept by the caller, who aborts.
    """

    def __init__(
        self,
        runner: Runner,
        make_detokenizer: MakeDetokenizer,
        *,
        max_sequences: int = 256,
        max_batch_tokens: int | None = None,
        prefix_caching: bool = True,
        encode: Encode | None = None,
        speculation: int = 0,
    ) -> None:
        """Take over a runner; `close` closes it.

        Args:
            make_detokenizer: makes one for each completion; see `detokenizer_factory`.
            max_sequences: sequences that run at once.
            max_batch_tokens: tokens computed in one step; at least `max_sequences`. None takes as many
                as the runner is made for.
            prefix_caching: keep computed blocks and use them again for equal beginnings.
            encode: encodes bad words; without it they are refused.
            speculation: the most tokens that a sequence drafts in one step (see `speculation.py`);
                0 for none. It changes when tokens come, not which.

        Raises:
            ConfigError: limits that cannot work.
            OutOfMemoryError: a KV cache without a single block.
        """
        max_batch_tokens = max_batch_tokens or runner.max_batch_tokens
        if not 1 <= max_sequences <= max_batch_tokens:
            raise ConfigError(
                f"max_sequences ({max_sequences}) must be at least 1 and at most max_batch_tokens "
                f"({max_batch_tokens}): a step gives each running sequence a token."
            )
        if runner.num_blocks < 1:
            raise OutOfMemoryError("The KV cache holds no block: give it more memory.")
        slots = runner.num_state_slots
        if slots:  # some are left for checkpoints
            max_sequences = min(max_sequences, max(1, slots - slots // 4))
        self._runner = runner
        limits = EngineLimits(
            runner.vocab_size,
            runner.max_model_len,
            runner.block_size,
            runner.num_blocks,
            runner.media_limits,
        )
        self._max_logits_rows = max(1, _LOGITS_BYTES // (4 * runner.vocab_size))
        self._inputs = InputProcessor(limits, make_detokenizer, encode, speculates=speculation > 0)
        self._pool = BlockPool(runner.num_blocks, caching=prefix_caching)
        self._scheduler = Scheduler(
            self._pool,
            runner.block_size,
            max_sequences=max_sequences,
            max_batch_tokens=max_batch_tokens,
            max_logits_rows=self._max_logits_rows,
            max_draft_tokens=speculation,
            num_state_slots=slots,
        )
        self._sampler = Sampler()
        self._masks = MaskMaker()
        self._requests: dict[str, Request] = {}
        self._steps = self._failed_steps = self._generated = 0
        self._drafted = self._accepted = 0
        self._chunk = 0  # tokens of prompts in the step that runs now
        self._closed = False

    # --- requests --------------------------------------------------------------------------------

    def add(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        arrival: float | None = None,
        adapter: LoadedAdapter | None = None,
        matchers: Collection[Matcher] = (),
    ) -> None:
        """Take a request. Of equal priority, the earlier `arrival` (default: now, in seconds) is first.

        `adapter` is one that the runner has loaded; None is the base model. The data of the prompt's
        media are `MediaFeatures`. `matchers`: for `response_format`, one for each completion, from a
        `ConstraintCompiler`.

        Raises:
            RequestError: the request is wrong (MediaError: its media), or its id is in use.
            OutOfMemoryError: the KV cache could never hold it.
            EngineClosedError: the engine was closed.
        """
        self._check_id(request_id)
        request = self._inputs.make_request(
            request_id, prompt, params, arrival=arrival, adapter=adapter, matchers=matchers
        )
        self._requests[request_id] = request
        self._scheduler.add(request.sequences[0])

    def add_pooling(
        self,
        request_id: str,
        prompt: Prompt,
        pooling: Pooling,
        *,
        arrival: float | None = None,
        adapter: LoadedAdapter | None = None,
    ) -> None:
        """Take a request for a vector, which shares steps with all others; it ends with a `Pooled`.

        Raises as `add` does.
        """
        self._check_id(request_id)
        request = self._inputs.make_pooling_request(
            request_id, prompt, pooling, arrival=arrival, adapter=adapter
        )
        self._requests[request_id] = request
        self._scheduler.add(request.sequences[0])

    def _check_id(self, request_id: str) -> None:
        if self._closed:
            raise EngineClosedError("The engine was closed.")
        if request_id in self._requests:
            raise RequestError(f"The request id {request_id!r} is in use.")

    def abort(self, request_id: str) -> None:
        """Forget a request and free its blocks. An unknown one is ignored."""
        request = self._requests.get(request_id)
        for sequence in request.sequences if request is not None else ():
            if not sequence.finished:
                self._finish(sequence)

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._requests)

    def close(self) -> None:
        """Forget every request and close the runner. May be called twice."""
        if not self._closed:
            self._closed = True
            for request_id in list(self._requests):
                self.abort(request_id)
            self._masks.close()
            self._runner.close()

    # --- one step --------------------------------------------------------------------------------

    def step(self) -> Outputs:
        """Compute some tokens of some requests and return what their completions gained.

        A fault ends the requests that it concerns, with finish reason "error", and no other.

        Raises:
            EngineDeadError: the runner cannot run any more.
        """
        plan = self._scheduler.schedule()
        if not plan.sequences:
            return []
        self._steps += 1
        self._chunk = sum(plan.counts[plan.num_decodes :])
        try:
            logits, rows = self._run(plan)
            self._chunk = 0
            sampled = self._sampler.sample(logits, rows.sampled_rows, rows.sampled)
        except EngineDeadError:
            raise
        except Exception as error:
            self._chunk = 0
            logger.exception("A step of the native engine failed.")
            return self._fail_step(plan.sequences, error)
        outputs = self._commit(plan, rows, sampled)
        if rows.drafts:
            outputs += self._verify(rows.drafts, logits)
        return outputs

    def _run(self, plan: StepPlan) -> tuple[NDArray[np.float32], OutputRows]:
        """Let the runner compute a step. Returns the logits (L, V) and what their rows are for."""
        batch, rows = build_batch(plan, self._runner.block_size)
        if plan.copies:
            self._runner.copy_blocks(plan.copies)
        if plan.state_copies:
            self._runner.copy_states(plan.state_copies)
        if self._masks.waiting:
            self._masks.start()
        logits = self._run_prompts(batch, rows) if rows.prompts else self._runner.run(batch)
        if rows.pooled:
            rows.read_pooled(self._runner.hidden)
        return logits, rows

    def _run_prompts(self, batch: Batch, rows: OutputRows) -> NDArray[np.float32]:
        """Run a batch with prompts' log-probabilities, and return the logits that tokens are drawn from.

        A picture that is not cut, or several prompts, may want the logits of many rows: then the head
        runs more than once, so that these are never there all at once.
        """
        run, read = self._runner.run, 0
        left, most = np.array(rows.prompt_rows, np.int32), self._max_logits_rows
        while len(left) > most:
            rows.read_prompts(run(replace(batch, logits_rows=left[:most])), read)
            run, read, left = self._runner.run_head, read + most, left[most:]
        logits = run(replace(batch, logits_rows=np.concatenate([left, batch.logits_rows])))
        rows.read_prompts(logits[: len(left)], read)
        return logits[len(left) :]

    def _commit(self, plan: StepPlan, rows: OutputRows, sampled: Sampled) -> Outputs:
        """Note what was computed, and give each sequence its token."""
        computed = list(zip(plan.sequences, plan.counts, strict=True))
        faulty: list[Sequence] = []
        if sampled.unusable or rows.prompts or rows.pooled:
            faulty = rows.faulty(sampled.unusable)
            computed = [pair for pair in computed if pair[0] not in faulty]
        # First all of them advance, since siblings fork then: the leader may end with its token.
        self._scheduler.advance(computed)
        outputs = self._accept_all(rows.sampled, sampled, faulty)
        for pooled in rows.pooled:
            sequence = pooled.sequence
            if sequence not in faulty and sequence.computed_tokens == sequence.num_tokens:
                outputs.append(self._finish_pooling(sequence))
        return outputs

    def _accept_all(
        self, sequences: list[Sequence], sampled: Sampled, faulty: list[Sequence]
    ) -> Outputs:
        outputs: Outputs = []
        logprobs = sampled.logprobs or [None] * len(sequences)
        for sequence, token, logprob in zip(sequences, sampled.tokens, logprobs, strict=True):
            if sequence in faulty:
                continue
            delta = self._accept(sequence, token, logprob)
            if delta is not None:
                outputs.append((sequence.request.request_id, delta))
        if faulty:
            exhausted = [sequences[index] for index in sampled.exhausted]
            outputs += self._fail(exhausted, _NO_TOKEN, refused=True)
            outputs += self._fail(faulty, _BAD_LOGITS)  # those of them that have not ended
        return outputs

    def _accept(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> Delta | None:
        """Give a sequence its next token. Returns what its reader gets now, if anything."""
        sequence.append(token)
        self._generated += 1
        try:
            text, finish = sequence.stop_checker.check(token, sequence.num_outputs)
        except Exception as error:  # a detokenizer at fault
            logger.exception("A token of the native engine could not be read.")
            text, finish = "", Finish("error", error=f"Token {token} cannot be read: {error!r}.")
        if finish is not None:
            self._finish(sequence)
        elif sequence.matcher is not None:
            self._masks.waiting.append(sequence.matcher)
        if sequence.undelivered is not None:
            sequence.undelivered.append((text, logprob))
            return None if finish is None else _whole_delta(sequence, finish)
        logprobs = None if logprob is None else (logprob,)
        prompt_logprobs = None
        if sequence.num_outputs == 1 and sequence.request.prompt_logprobs is not None:
            prompt_logprobs = _prompt_logprobs(sequence)
        if finish is None:
            return Delta(sequence.index, text, (token,), logprobs, prompt_logprobs=prompt_logprobs)
        return Delta(
            sequence.index,
            text,
            (token,),
            logprobs,
            finish.reason,
            finish.stop_reason,
            _usage(sequence),
            prompt_logprobs,
            finish.error,
            refused=finish.refused,
        )

    def _verify(self, drafts: list[DraftRows], logits: NDArray[np.float32]) -> Outputs:
        """Draw from the rows of drafts in order, for as long as what was drawn is what was drafted.

        Each row is drawn from as without a draft: the tokens before it are the same, and it takes its
        own random number. So tokens and their distribution are those of a run without drafts. The
        rows are still as the model wrote them: with drafts, the sampler works on copies of rows.
        """
        outputs: Outputs = []
        self._drafted += sum(len(draft.tokens) for draft in drafts)
        accepted, count = drafts, 0
        while accepted := [draft for draft in accepted if draft.is_accepted(count)]:
            self._accepted += len(accepted)
            count += 1
            rows = [draft.row + count for draft in accepted]
            outputs += self._draw_after([draft.sequence for draft in accepted], rows, logits)
        for draft in drafts:
            if not draft.sequence.finished:
                self._scheduler.take_back_slots(draft.sequence)
        return outputs

    def _draw_after(
        self, sequences: list[Sequence], rows: list[int], logits: NDArray[np.float32]
    ) -> Outputs:
        """Draw one more token for sequences whose newest token was computed as a draft."""
        try:
            sampled = self._sampler.sample(logits, rows, sequences)
        except Exception as error:
            logger.exception("Drafts of the native engine could not be verified.")
            return self._fail_step(sequences, error)
        faulty = [sequences[index] for index in sampled.unusable]
        self._scheduler.advance([(one, 1) for one in sequences if one not in faulty])
        return self._accept_all(sequences, sampled, faulty)

    # --- the end of sequences --------------------------------------------------------------------

    def _finish(self, sequence: Sequence, *, discard: bool = False) -> None:
        """End a sequence; `discard` forgets what its blocks hold."""
        sequence.finished = True
        self._scheduler.remove(sequence, discard=discard)
        request = sequence.request
        request.num_unfinished -= 1
        if not request.num_unfinished:
            del self._requests[request.request_id]
            if not self._requests:
                self._sampler.forget()

    def _finish_pooling(self, sequence: Sequence) -> tuple[str, Delta]:
        request = sequence.request
        assert request.pooling is not None
        vector = request.pooling.vector()
        pooled = Pooled(0, "", finish_reason="stop", usage=_usage(sequence), vector=vector)
        self._finish(sequence)
        return request.request_id, pooled

    def _fail_step(self, sequences: list[Sequence], error: Exception) -> Outputs:
        self._failed_steps += 1
        return self._fail(sequences, f"The step failed: {error!r}.")

    def _fail(self, sequences: list[Sequence], error: str, *, refused: bool = False) -> Outputs:
        """End these sequences, and siblings that wait for a prompt that they compute.

        `refused`: whether their requests are at fault, as they are for what their grammars cannot do.
        """
        outputs: Outputs = []
        for sequence in sequences:
            request = sequence.request
            for one in request.sequences if request.shares_prompt else [sequence]:
                if one.finished:
                    continue
                grammar_error = _grammar_error(one)
                delta = Delta(
                    one.index,
                    "",
                    finish_reason="error",
                    usage=_usage(one),
                    error=grammar_error or error,
                    refused=refused or grammar_error is not None,
                )
                outputs.append((request.request_id, delta))
                self._finish(one, discard=True)
        return outputs

    # --- figures ---------------------------------------------------------------------------------

    @property
    def statistics(self) -> EngineStatistics:
        """Figures of this moment."""
        scheduler, pool = self._scheduler, self._pool
        # A copy: other threads ask, while steps change the list.
        prompts = [one for one in tuple(scheduler.running) if one.is_prefilling]
        return EngineStatistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            prefilling=sum(one.num_tokens for one in prompts),
            prefilled=sum(one.computed_tokens for one in prompts) + self._in_step(),
            total_blocks=pool.num_blocks,
            free_blocks=pool.num_available,
            cached_blocks=pool.num_idle,
            total_state_slots=self._runner.num_state_slots,
            free_state_slots=scheduler.num_available_slots,
            steps=self._steps,
            failed_steps=self._failed_steps,
            preemptions=scheduler.num_preemptions,
            prompt_tokens=scheduler.num_prompt_tokens,
            prefix_hit_tokens=scheduler.num_hit_tokens,
            generated_tokens=self._generated,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
        )

    def _in_step(self) -> int:
        """Tokens of prompts that the step that runs now has computed, as far as that is known."""
        return int(self._chunk * self._runner.step_progress) if self._chunk else 0

    def check_integrity(self) -> None:
        """Assert that every request, sequence and block is accounted for."""
        self._scheduler.check_integrity()
        queued = {*self._scheduler.running, *self._scheduler.waiting}
        for request in self._requests.values():
            unfinished = [sequence for sequence in request.sequences if not sequence.finished]
            assert len(unfinished) == request.num_unfinished > 0
            for sequence in unfinished[:1] if request.shares_prompt else unfinished:
                assert sequence in queued
                queued.discard(sequence)
        assert not queued, "a sequence of no request, or a finished one, is queued"


def _usage(sequence: Sequence) -> Usage:
    cached = sequence.request.cached_tokens or 0
    return Usage(sequence.prompt_length, sequence.num_outputs, cached)


def _prompt_logprobs(sequence: Sequence) -> tuple[TokenLogprob | None, ...] | None:
    """Return those of the prompt where they are wanted; the first completion alone has them."""
    logprobs = sequence.request.prompt_logprobs
    if logprobs is None or sequence.index:
        return None
    return tuple(logprobs.entries)


def _whole_delta(sequence: Sequence, finish: Finish) -> Delta:
    """Return the only delta of a completion whose request wants whole answers."""
    gains = sequence.undelivered or []
    logprobs = tuple(logprob for _, logprob in gains if logprob is not None)
    return Delta(
        sequence.index,
        "".join(text for text, _ in gains),
        tuple(sequence.output_ids.tolist()),
        logprobs or None,
        finish.reason,
        finish.stop_reason,
        _usage(sequence),
        _prompt_logprobs(sequence),
        finish.error,
        refused=finish.refused,
    )


def _grammar_error(sequence: Sequence) -> str | None:
    failed = sequence.matcher is not None and sequence.matcher.error
    return f"response_format: {failed}" if failed else None
