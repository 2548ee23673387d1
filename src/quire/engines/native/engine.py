"""The engine: continuous batching over a paged KV cache. One thread owns it; it knows no other."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from quire.constraints.masking import MaskMaker
from quire.constraints.matcher import Matcher
from quire.engines.native.adjustments import Encode
from quire.engines.native.admission import Limits, check_request, make_request
from quire.engines.native.batch import LoadedAdapter, Runner
from quire.engines.native.batching import Draft, LogitsRows, build_batch
from quire.engines.native.blocks import BlockPool
from quire.engines.native.deltas import token_delta, whole_delta
from quire.engines.native.detokenizer import MakeDetokenizer
from quire.engines.native.ending import Ending, ending_after, usage_of
from quire.engines.native.pooling import Pooled, PoolingParams
from quire.engines.native.pooling_request import check_pooling, make_pooling_request
from quire.engines.native.sampler import Sampled, Sampler
from quire.engines.native.scheduler import Plan, Scheduler
from quire.engines.native.sequence import Request, Sequence
from quire.engines.native.speculation import make_drafters
from quire.engines.native.statistics import EngineStatistics
from quire.errors import ConfigError, EngineClosedError, OutOfMemoryError, QuireError, RequestError
from quire.outputs import Delta, TokenLogprob
from quire.prompt import Prompt
from quire.sampling import SamplingParams

logger = logging.getLogger("quire")

Outputs = list[tuple[str, Delta]]

_LOGITS_BYTES = 64 * 2**20  # at most so much for the logits of one prompt's log-probabilities

_BAD_LOGITS = (
    "The model gave no usable logits here: NaN or infinity, or every token is banned (bad_words or "
    "min_tokens may leave nothing of what response_format allows). Weights may be damaged, or the type "
    "too narrow: try infer_dtype: float32."
)


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
        max_batch_tokens: int = 2048,
        prefix_caching: bool = True,
        encode: Encode | None = None,
        speculation: int = 0,
    ) -> None:
        """Take over a runner; `close` closes it.

        Args:
            make_detokenizer: makes one for each completion; see `detokenizer_factory`.
            max_sequences: sequences that run at once.
            max_batch_tokens: tokens computed in one step; at least `max_sequences`.
            prefix_caching: keep computed blocks and use them again for equal beginnings.
            encode: encodes bad words; without it they are refused.
            speculation: the most tokens that a sequence drafts in one step (see `speculation.py`);
                0 for none. It changes when tokens come, not which.

        Raises:
            ConfigError: limits that cannot work.
            OutOfMemoryError: a KV cache without a single block.
        """
        if not 1 <= max_sequences <= max_batch_tokens:
            raise ConfigError(
                f"max_sequences ({max_sequences}) must be at least 1 and at most max_batch_tokens "
                f"({max_batch_tokens}): a step gives each running sequence a token."
            )
        if runner.num_blocks < 1:
            raise OutOfMemoryError("The KV cache holds no block: give it more memory.")
        self._runner = runner
        self._make_detokenizer = make_detokenizer
        self._encode = encode
        self._limits = Limits(
            runner.vocab_size,
            runner.max_model_len,
            runner.block_size,
            runner.num_blocks,
            runner.hidden_size,
            runner.uses_mrope,
        )
        self._pool = BlockPool(runner.num_blocks, caching=prefix_caching)
        self._scheduler = Scheduler(
            self._pool,
            runner.block_size,
            max_sequences=max_sequences,
            max_batch_tokens=max_batch_tokens,
            max_logits_rows=max(1, _LOGITS_BYTES // (4 * runner.vocab_size)),
            max_draft_tokens=speculation,
        )
        self._speculates = speculation > 0
        self._sampler = Sampler()
        self._masks = MaskMaker()
        self._requests: dict[str, Request] = {}
        self._added = self._steps = self._failed_steps = self._generated = 0
        self._drafted = self._accepted = 0
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
        matchers: Many[Matcher] = (),
    ) -> None:
        """Take a request. Of equal priority, the earlier `arrival` (default: now, in seconds) is first.

        `adapter` is one that the runner has loaded; None is the base model. The data of
        the prompt's media are `MediaFeatures`. `matchers`: for
        `response_format`, one for each completion, from a `ConstraintCompiler`.

        Raises:
            RequestError: the request is wrong (MediaError: its media), or its id is in use.
            OutOfMemoryError: the KV cache could never hold it.
            EngineClosedError: the engine was closed.
        """
        self._check_new(request_id)
        check_request(prompt, params, self._limits, matchers)
        try:
            request = make_request(
                request_id,
                self._added,
                prompt,
                params,
                time.monotonic() if arrival is None else arrival,
                adapter=adapter,
                vocab_size=self._limits.vocab_size,
                make_detokenizer=self._make_detokenizer,
                encode=self._encode,
                matchers=matchers,
            )
        except QuireError:
            raise
        except Exception as error:  # a tokenizer at fault, or half a surrogate pair in a bad word
            raise RequestError(f"The request cannot be prepared: {error!r}.") from error
        if self._speculates and params.response_format is None:  # a mask is made for one row a step
            drafters = make_drafters(request.prompt_length, params.n)
            for sequence, drafter in zip(request.sequences, drafters, strict=True):
                sequence.drafter = drafter
        self._enter(request)

    def add_pooling(
        self,
        request_id: str,
        prompt: Prompt,
        pooling: PoolingParams,
        *,
        arrival: float | None = None,
        adapter: LoadedAdapter | None = None,
    ) -> None:
        """Take a request for a vector, which shares steps with all others; it ends with a `Pooled`.

        Raises as `add` does.
        """
        self._check_new(request_id)
        check_pooling(prompt, self._limits)
        when = time.monotonic() if arrival is None else arrival
        self._enter(make_pooling_request(request_id, self._added, prompt, pooling, when, adapter))

    def _check_new(self, request_id: str) -> None:
        if self._closed:
            raise EngineClosedError("The engine was closed.")
        if request_id in self._requests:
            raise RequestError(f"The request id {request_id!r} is in use.")

    def _enter(self, request: Request) -> None:
        self._added += 1
        self._requests[request.request_id] = request
        self._scheduler.add(request.sequences[0])

    def abort(self, request_id: str) -> None:
        """Forget a request and free its blocks. One that is not there is ignored."""
        request = self._requests.pop(request_id, None)
        for sequence in request.sequences if request is not None else ():
            if not sequence.finished:
                sequence.finished = True
                self._scheduler.remove(sequence)

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
        """
        plan = self._scheduler.schedule()
        if not plan.sequences:
            return []
        self._steps += 1
        try:
            logits, rows = self._run(plan)
            sampled = self._sampler.sample(logits, rows.drawn, rows.drawing)
        except Exception as error:
            logger.exception("A step of the native engine failed.")
            self._failed_steps += 1
            return self._fail(plan.sequences, f"The step failed: {error!r}.")
        outputs = self._commit(plan, rows, sampled)
        self._masks.add(s.matcher for s in rows.drawing if s.matcher and not s.finished)
        if rows.drafts:
            outputs += self._verify(rows.drafts, logits)
        return outputs

    def _run(self, plan: Plan) -> tuple[NDArray[np.float32], LogitsRows]:
        batch, rows = build_batch(plan, self._limits.block_size)
        if plan.copies:
            self._runner.copy_blocks(plan.copies)
        self._masks.start()
        logits = self._runner.run(batch)
        rows.read_prompts(logits)
        if rows.pooling:
            rows.read_hidden(self._runner.hidden)
        return logits, rows

    def _commit(self, plan: Plan, rows: LogitsRows, sampled: Sampled) -> Outputs:
        faulty = rows.unusable(sampled.usable)
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            if sequence not in faulty:
                self._advance(sequence, count - len(plan.drafts.get(sequence, ())))
        outputs = self._accept_all(rows.drawing, sampled, faulty)
        for sequence, _, _ in rows.pooling:
            if sequence not in faulty and not sequence.remaining:
                outputs.append(self._finish_pooling(sequence))
        return outputs

    def _verify(self, drafts: list[Draft], logits: NDArray[np.float32]) -> Outputs:
        """Draw from a draft's rows in order, for as long as what is drawn is what was drafted.

        Each row is drawn from as without a draft: its tokens before it are there, its own random
        number is taken. So tokens and their distribution are those of a run without drafts.
        """
        outputs: Outputs = []
        self._drafted += sum(len(draft.tokens) for draft in drafts)
        going, number = drafts, 0
        while going := [draft for draft in going if draft.came_true(number)]:
            self._accepted += len(going)
            number += 1
            rows = [draft.row + number for draft in going]
            outputs += self._draw_on([draft.sequence for draft in going], rows, logits)
        for draft in drafts:
            if not draft.sequence.finished:
                self._scheduler.settle(draft.sequence)
        return outputs

    def _draw_on(
        self, sequences: list[Sequence], rows: list[int], logits: NDArray[np.float32]
    ) -> Outputs:
        """Draw one more token for sequences whose newest token was computed as a draft."""
        try:
            sampled = self._sampler.sample(logits, rows, sequences)
        except Exception as error:
            logger.exception("Drafts of the native engine could not be verified.")
            self._failed_steps += 1
            return self._fail(sequences, f"The step failed: {error!r}.")
        fine = zip(sequences, sampled.usable, strict=True)
        faulty = {sequence: None for sequence, usable in fine if not usable}
        for sequence in sequences:
            if sequence not in faulty:
                self._advance(sequence, 1)
        return self._accept_all(sequences, sampled, faulty)

    def _accept_all(
        self, sequences: list[Sequence], sampled: Sampled, faulty: dict[Sequence, None]
    ) -> Outputs:
        outputs: Outputs = []
        logprobs = sampled.logprobs
        for place, sequence in enumerate(sequences):
            if sequence not in faulty:
                one = None if logprobs is None else logprobs[place]
                delta = self._accept(sequence, sampled.tokens[place], one)
                if delta is not None:
                    outputs.append((sequence.request.request_id, delta))
        if faulty:
            outputs += self._fail(list(faulty), _BAD_LOGITS)
        return outputs

    def _advance(self, sequence: Sequence, count: int) -> None:
        """Note what was computed; once that is the prompt, its completions part."""
        sequence.computed_tokens += count
        if sequence.computed_tokens // self._limits.block_size > sequence.published:
            self._scheduler.publish(sequence)
        if sequence.is_leader and not sequence.remaining:
            sequence.request.forked = True
            for sibling in sequence.request.sequences[1:]:
                self._scheduler.fork(sequence, sibling)

    def _accept(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> Delta | None:
        """Give a sequence its next token and return what it shows now, if it does."""
        sequence.append(token)
        self._generated += 1
        try:
            text, ending = ending_after(sequence, token)
        except Exception as error:  # a detokenizer at fault
            logger.exception("A token of the native engine could not be read.")
            text, ending = "", Ending("error", error=f"Token {token} cannot be read: {error!r}.")
        if sequence.held is None:
            delta = token_delta(sequence, token, text, logprob, ending)
        else:
            sequence.held.append((text, logprob))
            delta = whole_delta(sequence, ending) if ending.finish_reason is not None else None
        if ending.finish_reason is not None:
            self._finish(sequence)
        return delta

    def _finish_pooling(self, sequence: Sequence) -> tuple[str, Delta]:
        request = sequence.request
        assert request.pool is not None
        pooled = Pooled(
            0, "", finish_reason="stop", usage=usage_of(sequence), vector=request.pool.vector()
        )
        self._finish(sequence)
        return request.request_id, pooled

    # --- the end of sequences --------------------------------------------------------------------

    def _fail(self, sequences: list[Sequence], error: str) -> Outputs:
        """End these sequences, and those that wait for a prompt that they compute."""
        outputs: Outputs = []
        for sequence in sequences:
            concerned = sequence.request.sequences if sequence.is_leader else [sequence]
            for one in concerned:
                if one.finished:
                    continue
                delta = Delta(
                    one.index,
                    "",
                    finish_reason="error",
                    usage=usage_of(one),
                    error=_grammar_error(one) or error,
                )
                outputs.append((one.request.request_id, delta))
                self._finish(one, discard=True)
        return outputs

    def _finish(self, sequence: Sequence, *, discard: bool = False) -> None:
        sequence.finished = True
        self._scheduler.remove(sequence, discard=discard)
        if sequence.request.is_finished:
            del self._requests[sequence.request.request_id]

    # --- figures ---------------------------------------------------------------------------------

    @property
    def statistics(self) -> EngineStatistics:
        scheduler, pool = self._scheduler, self._pool
        return EngineStatistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            total_blocks=pool.num_blocks,
            free_blocks=pool.num_available,
            cached_blocks=pool.num_idle,
            steps=self._steps,
            failed_steps=self._failed_steps,
            preemptions=scheduler.num_preemptions,
            prompt_tokens=scheduler.num_prompt_tokens,
            prefix_hit_tokens=scheduler.num_hit_tokens,
            generated_tokens=self._generated,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
        )

    def check_integrity(self) -> None:
        """Assert that every request, sequence and block is accounted for."""
        self._scheduler.check_integrity()
        queued = {*self._scheduler.running, *self._scheduler.waiting}
        for request in self._requests.values():
            assert not request.is_finished
            started = request.sequences if request.forked else request.sequences[:1]
            for sequence in started:
                assert sequence.finished != (sequence in queued)
                queued.discard(sequence)
        assert not queued, "a sequence of no request is queued"


def _grammar_error(sequence: Sequence) -> str | None:
    failed = sequence.matcher is not None and sequence.matcher.error
    return f"response_format: {failed}" if failed else None
