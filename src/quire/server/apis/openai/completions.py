"""/v1/completions: prompts completed as they are, with no template."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.outputs import AnswerSum, Delta, TokenLogprob, Usage
from quire.server.apis.body import json_answer, read_body
from quire.server.apis.openai.request import sampling_options
from quire.server.apis.openai.schema import CompletionRequest, TextCompletion
from quire.server.apis.openai.writing import DONE, new_id, now, quoted, usage_fields
from quire.server.apis.openapi import documented
from quire.server.call import Caller, caller_of
from quire.server.errors import BadRequest, Problem
from quire.server.service import Service, service_of
from quire.server.sse import EventStream
from quire.server.streams import read_whole
from quire.server.token_texts import MIN_LOGPROB, TokenTexts


@dataclass(frozen=True, slots=True)
class CompletionsCall:
    """What one request asks for.

    `prompts` are texts or token ids. With `echo` an answer begins with the prompt's text; where no
    token is wanted (`prompt_only`), the engine still computes one, which is dropped.
    """

    prompts: Sequence[str | list[int]]
    options: dict[str, Any]
    echo: bool = False
    prompt_only: bool = False
    logprobs: int | None = None
    with_ids: bool = False
    special: bool = True

    @property
    def n(self) -> int:
        """Completions of each prompt."""
        return self.options.get("n", 1)


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["completions"])

    @routes.post("/v1/completions", **documented(CompletionRequest, TextCompletion, streams=True))
    async def create_completion(request: Request) -> Response:
        """Complete one prompt or several, whole or as a stream of server-sent events."""
        service = service_of(request)
        body = await read_body(request, CompletionRequest)
        plan, caller = completions_call(body), caller_of(request)
        name = body.model or service.models.name
        as_ids = bool(body.return_tokens_as_token_ids)
        wanted = plan.logprobs is not None or body.prompt_logprobs is not None
        texts = await service.token_texts(as_ids=as_ids) if wanted else None
        writer = ChoiceWriter(service, plan, name, texts)
        if body.stream:
            with_usage = bool((body.stream_options or {}).get("include_usage"))
            deltas = service.complete_all(
                plan.prompts,
                plan.options,
                caller,
                model=body.model,
                streamed=True,
                special=plan.special,
            )
            encoder = CompletionEncoder(writer, with_usage=with_usage)
            return EventStream(deltas, encoder, keep_alive=service.arguments.keep_alive)
        return await _whole(request, service, plan, caller, body.model, writer)

    return routes


def completions_call(body: CompletionRequest) -> CompletionsCall:
    """The request in our terms.

    Raises:
        BadRequest: fields that do not go together.
    """
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options goes with stream: true.", param="stream_options")
    options = sampling_options(body)
    prompt_only = body.max_tokens == 0
    if prompt_only:
        if not body.echo:
            raise BadRequest("max_tokens: 0 goes with echo: true.", param="max_tokens")
        options["max_new_tokens"] = 1
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs
        if body.echo:
            if options.get("n", 1) > 1:
                raise BadRequest("echo with logprobs takes n: 1.", param="n")
            options["prompt_logprobs"] = body.logprobs
    if body.prompt_logprobs is not None:
        if body.stream or options.get("n", 1) > 1:
            raise BadRequest("prompt_logprobs takes n: 1 and no stream.", param="prompt_logprobs")
        options["prompt_logprobs"] = max(body.prompt_logprobs, options.get("prompt_logprobs", 0))
    return CompletionsCall(
        prompts=_prompts(body.prompt),
        options=options,
        echo=bool(body.echo),
        prompt_only=prompt_only,
        logprobs=body.logprobs,
        with_ids=bool(body.return_token_ids),
        special=body.add_special_tokens is not False,
    )


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


async def _whole(
    request: Request,
    service: Service,
    plan: CompletionsCall,
    caller: Caller,
    model: str | None,
    writer: ChoiceWriter,
) -> Response:
    answers = AnswerSum()
    deltas = service.complete_all(
        plan.prompts, plan.options, caller, model=model, special=plan.special
    )
    await read_whole(request, deltas, answers.add)
    choices = [writer.whole(one) for one in answers.deltas()]
    return json_answer(
        {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": now(),
            "model": writer.name,
            "choices": choices,
            "usage": usage_fields(writer.usage),
        }
    )


class ChoiceWriter:
    """Writes the choices of one request, whole or piece by piece."""

    def __init__(
        self, service: Service, plan: CompletionsCall, name: str, texts: TokenTexts | None
    ) -> None:
        self.name = name
        self._plan, self._texts = plan, texts
        self._tokenizer = service.tokenizer
        self._skip_special = plan.options.get("skip_special_tokens", True)
        self._begun: set[int] = set()
        self._logprobs: dict[int, LogprobWriter] = {}
        self._prompt_tokens: dict[int, int] = {}
        self._cached = self._completed = 0

    def whole(self, delta: Delta) -> dict[str, Any]:
        """A choice that is there all at once, the prompt's log-probabilities with it."""
        choice = json.loads(self.choice(delta) or "{}")
        if delta.prompt_logprobs is not None and self._texts is not None:
            choice["prompt_logprobs"] = of_prompt(delta.prompt_logprobs, self._texts)
        return choice

    def choice(self, delta: Delta) -> str | None:
        """JSON of what a choice gains by a delta; None for nothing."""
        index, first = delta.index, delta.index not in self._begun
        self._begun.add(index)
        text = "" if self._plan.prompt_only else delta.text
        logprobs = self._logprobs_of(delta, first)
        if first and self._plan.echo:
            text = self._prompt_text(index) + text
        if (
            delta.finish_reason is None
            and not text
            and logprobs == "null"
            and not self._plan.with_ids
        ):
            return None
        ids = f',"token_ids":{list(delta.token_ids)}' if self._plan.with_ids else ""
        return (
            f'{{"index":{index},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":{self._end(delta)}{ids}}}'
        )

    def _logprobs_of(self, delta: Delta, first: bool) -> str:
        if self._texts is None or self._plan.logprobs is None:
            return "null"
        writer = self._logprobs.setdefault(
            delta.index,
            LogprobWriter(
                self._texts,
                self._tokenizer.special_ids if self._skip_special else frozenset(),
                with_top=self._plan.logprobs > 0,
            ),
        )
        prompt = delta.prompt_logprobs if first and self._plan.echo else None
        ids = self._prompt_ids(delta.index) if prompt else ()
        own = () if self._plan.prompt_only else delta.logprobs or ()
        return writer.add(prompt or (), ids, own)

    def _prompt(self, index: int) -> str | list[int]:
        return self._plan.prompts[index // self._plan.n]

    def _prompt_text(self, index: int) -> str:
        prompt = self._prompt(index)
        if isinstance(prompt, str):
            return prompt
        return self._tokenizer.decode(prompt, skip_special_tokens=self._skip_special)

    def _prompt_ids(self, index: int) -> Sequence[int]:
        prompt = self._prompt(index)
        if not isinstance(prompt, str):
            return prompt
        tokenizer = self._tokenizer
        return tokenizer.encode_whole(prompt) if self._plan.special else tokenizer.encode(prompt)

    def _end(self, delta: Delta) -> str:
        if delta.finish_reason is None:
            return "null"
        if delta.usage is not None:
            self._prompt_tokens[delta.index // self._plan.n] = delta.usage.prompt_tokens
            self._cached += 0 if delta.index % self._plan.n else delta.usage.cached_tokens
            self._completed += 0 if self._plan.prompt_only else delta.usage.completion_tokens
        return f'"{delta.finish_reason}","stop_reason":{json.dumps(delta.stop_reason)}'

    @property
    def usage(self) -> Usage:
        """Of all choices; each prompt counts once."""
        return Usage(sum(self._prompt_tokens.values()), self._completed, self._cached)


class CompletionEncoder:
    """Writes `text_completion` events."""

    def __init__(self, writer: ChoiceWriter, *, with_usage: bool) -> None:
        self._writer, self._with_usage = writer, with_usage
        self._before = (
            f'data: {{"id":"{new_id("cmpl")}","object":"text_completion",'
            f'"created":{now()},"model":{quoted(writer.name)},"choices":['
        )
        self._after = '],"usage":null}\n\n' if with_usage else "]}\n\n"

    def encode(self, delta: Delta) -> bytes:
        """The event of one delta, if it says something."""
        choice = self._writer.choice(delta)
        return b"" if choice is None else f"{self._before}{choice}{self._after}".encode("ascii")

    def end(self) -> bytes:
        """Usage, if it was asked for, and the end."""
        if not self._with_usage:
            return DONE
        usage = json.dumps(usage_fields(self._writer.usage))
        return f'{self._before}],"usage":{usage}}}\n\n'.encode("ascii") + DONE

    def failure(self, problem: Problem) -> bytes:
        """The error, and the end."""
        return f"data: {json.dumps(problem.body)}\n\n".encode("ascii") + DONE


# --- log-probabilities -----------------------------------------------------------------------------


class LogprobWriter:
    """Writes the log-probabilities of one choice as they come.

    A token's offset is the number of whole characters before it; tokens that are not shown
    (`hidden`) take no place.
    """

    def __init__(self, texts: TokenTexts, hidden: Collection[int], *, with_top: bool) -> None:
        self._texts, self._hidden, self._with_top = texts, hidden, with_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def add(
        self,
        prompt: Sequence[TokenLogprob | None],
        prompt_ids: Sequence[int],
        tokens: Sequence[TokenLogprob],
    ) -> str:
        """JSON of the next tokens; the prompt's first token has no log-probability."""
        entries = [*zip(prompt_ids, prompt, strict=False), *((t.token_id, t) for t in tokens)]
        if not entries:
            return "null"
        names = [self._texts.text(token_id) for token_id, _ in entries]
        return json.dumps(
            {
                "tokens": names,
                "token_logprobs": [
                    found and max(found.logprob, MIN_LOGPROB) for _, found in entries
                ],
                "top_logprobs": [self._top(found) for _, found in entries]
                if self._with_top
                else None,
                "text_offset": [self._place(token_id) for token_id, _ in entries],
            }
        )

    def _top(self, found: TokenLogprob | None) -> dict[str, Any] | None:
        if found is None:
            return None
        rivals = {**found.top, found.token_id: found.logprob}
        top: dict[str, float] = {}
        for token_id, logprob in rivals.items():  # two parts of characters may look alike
            top.setdefault(self._texts.text(token_id), max(logprob, MIN_LOGPROB))
        return top

    def _place(self, token_id: int) -> int:
        offset = self._offset
        if token_id not in self._hidden:
            self._offset += len(self._decoder.decode(self._texts.bytes_of(token_id)))
        return offset


def of_prompt(
    logprobs: Sequence[TokenLogprob | None], texts: TokenTexts
) -> list[dict[str, Any] | None]:
    """A prompt's log-probabilities in vLLM's form: by token id, the token itself and its rivals."""
    return [found and _position(found, texts) for found in logprobs]


def _position(found: TokenLogprob, texts: TokenTexts) -> dict[str, Any]:
    ranks = {token_id: rank for rank, token_id in enumerate(found.top, start=1)}
    ranks[found.token_id] = found.rank
    return {
        str(token_id): {
            "logprob": max(logprob, MIN_LOGPROB),
            "rank": ranks[token_id],
            "decoded_token": texts.text(token_id),
        }
        for token_id, logprob in {found.token_id: found.logprob, **found.top}.items()
    }
