"""/v1/completions: prompts completed without a chat template."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.outputs import AnswerSum, Delta, TokenLogprob
from quire.server.apis.body import json_answer, read_body
from quire.server.apis.ids import NEW_IDS, AnswerIds
from quire.server.apis.openai.request import sampling_options
from quire.server.apis.openai.schema import CompletionRequest, TextCompletion
from quire.server.apis.openai.writing import (
    DONE,
    Extras,
    UsageSum,
    end_of,
    listed_inputs,
    prompt_logprobs,
    quoted,
    usage_fields,
)
from quire.server.apis.openapi import documented
from quire.server.call import Caller, caller_of
from quire.server.errors import BadRequest, Problem
from quire.server.service import Service, service_of
from quire.server.sse import EventStream
from quire.server.streams import CancelOnDisconnect, take_all
from quire.server.token_texts import MIN_LOGPROB, TokenTexts


@dataclass(frozen=True, slots=True)
class CompletionsCall:
    """One request in quire's terms.

    `prompts` are texts or token ids. With `echo` an answer begins with the prompt's text. With
    `prompt_only` (`max_tokens: 0`) the engine still generates one token, which is dropped.
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
        call, caller = completions_call(body), caller_of(request)
        if not body.stream:
            async with CancelOnDisconnect(request.receive):
                return json_answer(await answer_completion(service, body, call, caller))
        encoder = CompletionEncoder(
            await _writer(service, body, call),
            Extras.of(body.stream_options, token_ids=body.return_token_ids),
        )
        deltas = service.complete(
            call.prompts,
            call.options,
            caller,
            model=body.model,
            streamed=True,
            special=call.special,
        )
        return EventStream(deltas, encoder, keep_alive=service.arguments.keep_alive)

    return routes


async def answer_completion(
    service: Service,
    body: CompletionRequest,
    call: CompletionsCall,
    caller: Caller,
    ids: AnswerIds = NEW_IDS,
) -> dict[str, Any]:
    """The body of a whole answer; raises what `Service.complete` does.

    Args:
        call: what `completions_call` makes of the body.
    """
    writer = await _writer(service, body, call)
    answers = AnswerSum()
    deltas = service.complete(
        call.prompts, call.options, caller, model=body.model, special=call.special
    )
    await take_all(deltas, answers.add)
    choices = [writer.whole(one) for one in answers.deltas()]
    return {
        "id": ids.new("cmpl-"),
        "object": "text_completion",
        "created": ids.now(),
        "model": writer.name,
        "choices": choices,
        "usage": usage_fields(writer.total.usage),
    }


async def _writer(service: Service, body: CompletionRequest, call: CompletionsCall) -> ChoiceWriter:
    as_ids = bool(body.return_tokens_as_token_ids)
    with_logprobs = call.logprobs is not None or body.prompt_logprobs is not None
    texts = await service.token_texts(as_ids=as_ids) if with_logprobs else None
    return ChoiceWriter(service, call, body.model or service.models.name, texts)


def completions_call(body: CompletionRequest) -> CompletionsCall:
    """The request in quire's terms.

    Raises:
        BadRequest: two fields contradict each other.
    """
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options needs stream: true.", param="stream_options")
    options = sampling_options(body)
    prompt_only = body.max_tokens == 0
    if prompt_only:
        if not body.echo:
            raise BadRequest("max_tokens: 0 needs echo: true.", param="max_tokens")
        options["max_new_tokens"] = 1
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs
        if body.echo:
            if options.get("n", 1) > 1:
                raise BadRequest("echo with logprobs needs n: 1.", param="n")
            options["prompt_logprobs"] = body.logprobs
    if body.prompt_logprobs is not None:
        if body.stream or options.get("n", 1) > 1:
            raise BadRequest("prompt_logprobs needs n: 1 and no stream.", param="prompt_logprobs")
        options["prompt_logprobs"] = max(body.prompt_logprobs, options.get("prompt_logprobs", 0))
    return CompletionsCall(
        prompts=listed_inputs(body.prompt),
        options=options,
        echo=bool(body.echo),
        prompt_only=prompt_only,
        logprobs=body.logprobs,
        with_ids=bool(body.return_token_ids),
        special=body.add_special_tokens is not False,
    )


class ChoiceWriter:
    """Writes the choices of one request, for whole answers and for streams."""

    def __init__(
        self, service: Service, call: CompletionsCall, name: str, texts: TokenTexts | None
    ) -> None:
        self.name = name
        self._call, self._texts = call, texts
        self._tokenizer = service.tokenizer
        self._skip_special = call.options.get("skip_special_tokens", True)
        self._begun: set[int] = set()
        self._logprobs: dict[int, LogprobWriter] = {}
        self.total = UsageSum(call.n, prompt_only=call.prompt_only)

    def whole(self, delta: Delta) -> dict[str, Any]:
        """A whole choice, with the prompt's log-probabilities."""
        choice = json.loads(self.choice(delta) or "{}")
        if delta.prompt_logprobs is not None and self._texts is not None:
            choice["prompt_logprobs"] = prompt_logprobs(delta.prompt_logprobs, self._texts)
        return choice

    def choice(self, delta: Delta) -> str | None:
        """JSON of a delta's choice; None if nothing is to be sent."""
        index, first = delta.index, delta.index not in self._begun
        self._begun.add(index)
        self.total.add(delta)
        text = "" if self._call.prompt_only else delta.text
        logprobs = self._logprobs_of(delta, first)
        if first and self._call.echo:
            text = self._prompt_text(delta) + text
        if (
            delta.finish_reason is None
            and not text
            and logprobs == "null"
            and not self._call.with_ids
        ):
            return None
        ids = f',"token_ids":{list(delta.token_ids)}' if self._call.with_ids else ""
        if first and self._call.with_ids:
            ids += f',"prompt_token_ids":{json.dumps(delta.prompt_token_ids)}'
        return (
            f'{{"index":{index},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":{end_of(delta)}{ids}}}'
        )

    def _logprobs_of(self, delta: Delta, first: bool) -> str:
        if self._texts is None or self._call.logprobs is None:
            return "null"
        writer = self._logprobs.setdefault(
            delta.index,
            LogprobWriter(
                self._texts,
                self._tokenizer.special_ids if self._skip_special else frozenset(),
                with_top=self._call.logprobs > 0,
            ),
        )
        prompt = delta.prompt_logprobs if first and self._call.echo else None
        ids = delta.prompt_token_ids or ()
        generated = () if self._call.prompt_only else delta.logprobs or ()
        return writer.add(prompt or (), ids, generated)

    def _prompt_text(self, delta: Delta) -> str:
        """The prompt as the client gave it, unless only its end was kept."""
        prompt = self._call.prompts[delta.index // self._call.n]
        if isinstance(prompt, str) and "truncate_prompt_tokens" not in self._call.options:
            return prompt
        ids = delta.prompt_token_ids or ()
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special)


class CompletionEncoder:
    """Writes `text_completion` events."""

    def __init__(self, writer: ChoiceWriter, extras: Extras) -> None:
        self._writer, self._extras = writer, extras
        self._before = (
            f'data: {{"id":"{NEW_IDS.new("cmpl-")}","object":"text_completion",'
            f'"created":{NEW_IDS.now()},"model":{quoted(writer.name)},"choices":['
        )

    def encode(self, delta: Delta) -> bytes:
        """The event of one delta, if there is one."""
        choice = self._writer.choice(delta)
        if choice is None:
            return b""
        usage = self._extras.usage_field(self._writer.total)
        return f"{self._before}{choice}]{usage}}}\n\n".encode("ascii")

    def end(self) -> bytes:
        """Usage, if requested, and the end."""
        return self._extras.last_event(self._before, self._writer.total) + DONE

    def failure(self, problem: Problem) -> bytes:
        """The error, and the end."""
        return f"data: {json.dumps(problem.body)}\n\n".encode("ascii") + DONE


# --- log-probabilities -----------------------------------------------------------------------------


class LogprobWriter:
    """Writes the log-probabilities of one choice as they arrive.

    A token's offset is the number of complete characters before it; `hidden` tokens have no width.
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
                "token_logprobs": [one and max(one.logprob, MIN_LOGPROB) for _, one in entries],
                "top_logprobs": [self._top(one) for _, one in entries] if self._with_top else None,
                "text_offset": [self._next_offset(token_id) for token_id, _ in entries],
            }
        )

    def _top(self, token: TokenLogprob | None) -> dict[str, Any] | None:
        if token is None:
            return None
        top: dict[str, float] = {}
        # Two tokens that are parts of characters may have one text: the likelier one counts.
        for token_id, logprob in {**token.top, token.token_id: token.logprob}.items():
            top.setdefault(self._texts.text(token_id), max(logprob, MIN_LOGPROB))
        return top

    def _next_offset(self, token_id: int) -> int:
        offset = self._offset
        if token_id not in self._hidden:
            self._offset += len(self._decoder.decode(self._texts.bytes_of(token_id)))
        return offset
