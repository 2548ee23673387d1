"""From a row to its record: the request is prepared, answered, and written as lines."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from quire.batch.arguments import BatchArgs
from quire.batch.files import json_line
from quire.batch.journal import Record
from quire.batch.labels import cut_prompt, label_ids
from quire.batch.rows import ChatRow, PairRow, Row, RowError, Stage
from quire.chat.chat_model import ChatModel
from quire.chat.preparation import PreparedRequest
from quire.engines.seam import PoolingParams
from quire.errors import PromptTooLongError, QuireError, UnsupportedOptionError
from quire.messages import ToolCall, read_message
from quire.outputs import AnswerSum, Response, TokenLogprob
from quire.prompt import Prompt
from quire.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row that is ready for the engine."""

    row: Row
    content: Any
    """What its `Answerer` has made of it."""
    tokens: Sequence[int] = ()
    """The prompt, by which rows that begin alike are found; none where it is not known."""


class Answerer(Protocol):
    """Makes records of rows, on one engine."""

    async def prepare(self, row: Row) -> Prepared:
        """Make a row ready. Only its own faults are raised.

        Raises:
            RequestError: the row cannot be asked.
        """
        ...

    async def answer(self, prepared: Prepared, started: Callable[[], None] | None) -> Record:
        """Answer a row.

        Args:
            started: called once the prompt has been computed, if given.

        Raises:
            RequestError, EngineError: see `ChatEngine.stream`.
        """
        ...

    def failed(self, row: Row, error: RowError) -> Record:
        """The record of a row that has no answer."""
        ...


@dataclass(frozen=True, slots=True)
class LineChoices:
    """What the lines of the files hold beside the answer."""

    every_row: bool = False
    """Whether rows that failed have a line in the answers' file too."""
    columns: tuple[str, ...] = ()
    """Columns of the source; `*` for all."""

    def kept(self, row: Row) -> dict[str, Any]:
        """The columns that are written, under `columns`."""
        if not (self.columns and row.columns):
            return {}
        if "*" in self.columns:
            return {"columns": dict(row.columns)}
        return {"columns": {name: row.columns.get(name) for name in self.columns}}

    def named(self, row: Row) -> dict[str, Any]:
        """What names the row in each line of it."""
        named: dict[str, Any] = {"index": row.index}
        if row.id is not None:
            named["id"] = row.id
        return named

    def failed(self, row: Row, error: RowError) -> Record:
        """The record of a row that has no answer."""
        told: dict[str, Any] = {**self.named(row), "stage": error.stage, "code": error.code}
        told["message"] = error.message
        if row.source:
            told["source"] = row.source
        told.update(
            {n: v for n, v in (("line", error.line), ("byte", error.byte)) if v is not None}
        )
        answer = None
        if self.every_row:
            shown = {"prompt": None, "predict": None, "label": None, **self.named(row)}
            answer = json_line({**shown, "error": error.message, **self.kept(row)})
        line = json_line({**told, **self.kept(row)})
        return Record(row.index, answer, line, message=error.message)


def row_seed(seed: int, index: int) -> int:
    """The seed of one row, which follows from the batch's and the row's place alone."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def error_of(error: QuireError, stage: Stage) -> RowError:
    """A row's error, from what was raised for it."""
    kind = type(error).__name__.removesuffix("Error")
    code = "".join(f"_{one.lower()}" if one.isupper() else one for one in kind).lstrip("_")
    return RowError(stage, str(error), code)


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How conversations are asked for."""

    options: Mapping[str, Any]
    """Request options of all rows."""
    seed: int | None = 42
    seed_by_row: bool = True
    """Whether each row has a seed of its own; False gives all the same one."""
    cutoff_len: int | None = None
    """Cut prompts as LLaMA-Factory does; None refuses those that are too long."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the prompt that is written."""

    def options_of(self, row: Row) -> dict[str, Any]:
        """The options of one row's request."""
        own = row.work.request.options if isinstance(row.work, ChatRow) else {}
        options = {**self.options, **own}
        if self.seed is not None and "seed" not in own:
            options["seed"] = row_seed(self.seed, row.index) if self.seed_by_row else self.seed
        return options


@dataclass(frozen=True, slots=True)
class _Asked:
    """A conversation that is ready for the engine."""

    request: ChatRequest
    prepared: PreparedRequest | None
    """None where a server renders the conversation."""
    label: str | None
    cut: bool = False


class _ModelAnswerer:
    """What answers rows on a model, whose event loop need not be the caller's."""

    def __init__(self, model: ChatModel, settings: ChatSettings, lines: LineChoices) -> None:
        self._model, self._engine = model, model.engine
        self._settings, self._lines = settings, lines

    def failed(self, row: Row, error: RowError) -> Record:
        """See Answerer."""
        return self._lines.failed(row, error)

    async def _label_ids(self, row: ChatRow) -> tuple[int, ...]:
        """The tokens of a row's label, made in a thread: the conversation is rendered for them."""
        if row.answer is None:
            return ()
        return await asyncio.to_thread(label_ids, self._engine.tokens.preparation, row)


class ChatAnswerer(_ModelAnswerer):
    """Answers conversations."""

    async def prepare(self, row: Row) -> Prepared:
        """See Answerer."""
        if not isinstance(row.work, ChatRow):
            raise UnsupportedOptionError("This row is no conversation.")
        work = row.work
        options = self._settings.options_of(row)
        request = replace(work.request, options=options, streamed=False)
        if not self._engine.has_tokens:
            return Prepared(row, _Asked(request, None, _label_text(work.answer)))
        preparation = self._engine.tokens.preparation
        label = await self._label_ids(replace(work, request=request))
        cutoff, was_cut = self._settings.cutoff_len, False

        def cut(prompt: Sequence[int]) -> tuple[int, ...]:
            nonlocal label, was_cut
            assert cutoff is not None
            kept, label = cut_prompt(prompt, label, cutoff)
            was_cut = len(kept) < len(prompt)
            return kept

        prepared = await preparation.prepare(request, cut=None if cutoff is None else cut)
        text = None if work.answer is None else self._text(label)
        tokens = prepared.prompt.token_ids
        return Prepared(row, _Asked(request, prepared, text, was_cut), tokens)

    async def answer(self, prepared: Prepared, started: Callable[[], None] | None) -> Record:
        """See Answerer."""
        asked: _Asked = prepared.content
        request = replace(asked.request, streamed=True) if started else asked.request
        if asked.prepared is None:
            deltas = self._engine.stream_request(request)
        else:
            ready = asked.prepared
            if started and not ready.params.streamed:
                ready = replace(ready, params=replace(ready.params, streamed=True))
            deltas = self._engine.tokens.stream_prepared(ready, request.options)
        answers = AnswerSum()
        async with aclosing(self._model.on_any_loop(deltas)) as answer:
            async for delta in answer:
                if started is not None and (delta.token_ids or delta.text):
                    started()
                    started = None
                answers.add(delta)
        return self._record(prepared.row, asked, answers.responses())

    def _record(self, row: Row, asked: _Asked, responses: Sequence[Response]) -> Record:
        first = responses[0]
        content: dict[str, Any] = {
            "prompt": self._prompt_text(first),
            "predict": first.response_text,
            "label": asked.label,
            **_label_calls(row),
            **self._lines.named(row),
            **_told_of(first),
            "prompt_tokens": first.prompt_length,
        }
        if len(responses) > 1:
            content["predictions"] = [
                {"predict": one.response_text, **_told_of(one)} for one in responses
            ]
        if asked.cut:
            content["cut"] = True
        if row.notes:
            content["notes"] = list(row.notes)
        content.update(self._lines.kept(row))
        usages = [one.usage for one in responses if one.usage is not None]
        return Record(
            row.index,
            json_line(content),
            tokens_in=first.prompt_length,
            tokens_out=sum(one.response_length for one in responses),
            cached=usages[0].cached_tokens if usages else 0,
            cut=asked.cut,
            ended_by_length=any(one.finish_reason == "length" for one in responses),
        )

    def _prompt_text(self, response: Response) -> str | None:
        if not (response.prompt_token_ids and self._engine.has_tokens):
            return None
        return self._text(response.prompt_token_ids)

    def _text(self, token_ids: Sequence[int]) -> str:
        skip = self._settings.skip_special_tokens
        return self._engine.tokenizer.decode(token_ids, skip_special_tokens=skip)


class ScoreAnswerer(_ModelAnswerer):
    """Scores pairs of answers with a reward model."""

    async def prepare(self, row: Row) -> Prepared:
        """See Answerer."""
        if not isinstance(row.work, PairRow):
            raise UnsupportedOptionError(
                "A reward model scores pairs of answers: a data set with ranking: true."
            )
        both = [await self._tokens(one) for one in (row.work.chosen, row.work.rejected)]
        return Prepared(row, both, both[0])

    async def _tokens(self, row: ChatRow) -> tuple[int, ...]:
        preparation = self._engine.tokens.preparation
        prepared = await preparation.prepare(replace(row.request, streamed=False))
        if prepared.prompt.media:
            raise UnsupportedOptionError("A reward model scores texts alone: this row has media.")
        tokens = (*prepared.prompt.token_ids, *await self._label_ids(row))
        if len(tokens) > self._engine.info.context_length:
            raise PromptTooLongError(
                f"Prompt and answer have {len(tokens):,} tokens and the context holds "
                f"{self._engine.info.context_length:,}: shorten them, or raise vllm_maxlen."
            )
        return tokens

    async def answer(self, prepared: Prepared, started: Callable[[], None] | None) -> Record:
        """See Answerer."""
        engine, params = self._engine.tokens.engine, PoolingParams(score=True)
        row, scores, count = prepared.row, list[float](), 0
        for tokens in prepared.content:
            scored = await self._model.on_home_loop(engine.pool(Prompt(tokens), params))
            scores.append(scored.vector[0])
            count += len(tokens)
            if started is not None:
                started()
        content = {"chosen": scores[0], "rejected": scores[1], **self._lines.named(row)}
        line = json_line({**content, **self._lines.kept(row)})
        return Record(row.index, line, tokens_in=count)


def lines_for(args: BatchArgs) -> LineChoices:
    """What the lines of a batch hold."""
    return LineChoices(args.batch.every_row, args.batch.keep_columns or ())


def answerer_for(args: BatchArgs, model: ChatModel, *, compat: bool) -> Answerer:
    """What answers the rows of a batch on a model.

    Args:
        compat: whether LLaMA-Factory's `vllm_infer.py` is followed: one seed for all rows.
    """
    settings = ChatSettings(
        args.options,
        args.batch.seed,
        not compat,
        args.cutoff_len,
        skip_special_tokens=args.infer.generating.skip_special_tokens,
    )
    kind = ScoreAnswerer if args.infer.finetuning.stage == "rm" else ChatAnswerer
    return kind(model, settings, lines_for(args))


def _label_text(answer: Mapping[str, Any] | None) -> str | None:
    content = None if answer is None else answer.get("content")
    return content if isinstance(content, str) else None


def _label_calls(row: Row) -> dict[str, Any]:
    """The tool calls of the label, where it has any."""
    answer = row.work.answer if isinstance(row.work, ChatRow) else None
    calls = read_message(answer).tool_calls if answer and answer.get("tool_calls") else ()
    return {"label_tool_calls": _told_calls(calls)} if calls else {}


def _told_calls(calls: Sequence[ToolCall]) -> list[dict[str, str]]:
    """Calls without their ids, which are random."""
    return [{"name": call.name, "arguments": call.arguments} for call in calls]


def _told_of(response: Response) -> dict[str, Any]:
    """What is told of one completion, beside its text."""
    told: dict[str, Any] = {"finish_reason": response.finish_reason}
    told["completion_tokens"] = response.response_length
    if response.reasoning or response.tool_calls:
        told["content"] = response.content
    if response.reasoning:
        told["thought"] = response.reasoning
    if response.tool_calls:
        told["tool_calls"] = _told_calls(response.tool_calls)
    if response.logprobs is not None:
        told["logprobs"] = [_logprob(one) for one in response.logprobs]
    return told


def _logprob(one: TokenLogprob) -> dict[str, Any]:
    top = {str(id): logprob for id, logprob in one.top.items()}
    return {"token_id": one.token_id, "logprob": one.logprob, "top": top}
