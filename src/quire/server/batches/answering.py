"""Requests of a batch file, answered by the server's own APIs without a connection."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from quire.batch.answering import Answerer, Prepared, row_seed
from quire.batch.api_lines import ApiLines, ApiSettings, digest_of
from quire.batch.journal import Record
from quire.batch.rows import ApiRow, Row, RowError
from quire.chat.chat_model import ChatModel
from quire.errors import (
    EngineBusyError,
    EngineClosedError,
    EngineDeadError,
    GenerationError,
    QuireError,
    UnsupportedOptionError,
)
from quire.outputs import Delta
from quire.server.admission import Admission
from quire.server.apis.body import parse_body
from quire.server.apis.ids import AnswerIds, DerivedIds
from quire.server.apis.openai.chat import answer_chat
from quire.server.apis.openai.completions import answer_completion, completions_call
from quire.server.apis.openai.embeddings import EmbeddingsRequest, answer_embeddings
from quire.server.apis.openai.request import chat_call
from quire.server.apis.openai.responses.request import responses_call
from quire.server.apis.openai.responses.router import answer_response
from quire.server.apis.openai.responses.schema import ResponsesRequest
from quire.server.apis.openai.schema import ChatCompletionRequest, CompletionRequest
from quire.server.arguments import ServerArguments
from quire.server.call import ANONYMOUS, Caller
from quire.server.errors import BadRequest, NotReady, Overloaded, Problem, TooLarge, problem_of
from quire.server.middleware.limits import body_problem
from quire.server.service import Kind, Service

logger = logging.getLogger("quire")

Answer: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[Service, Caller, AnswerIds], Coroutine[Any, Any, Answer]]
"""Answers a request whose body has been read."""
OnLoop: TypeAlias = Callable[[Coroutine[Any, Any, Answer]], Awaitable[Answer]]
"""Runs a request on the event loop that its service serves."""


def _chat(content: bytes) -> Ask:
    body = parse_body(content, ChatCompletionRequest)
    call = chat_call(body)
    return lambda service, caller, ids: answer_chat(service, body, call, caller, ids)


def _completion(content: bytes) -> Ask:
    body = parse_body(content, CompletionRequest)
    call = completions_call(body)
    return lambda service, caller, ids: answer_completion(service, body, call, caller, ids)


def _response(content: bytes) -> Ask:
    body = parse_body(content, ResponsesRequest)
    call = responses_call(body)
    return lambda service, caller, ids: answer_response(service, body, call, caller, ids)


def _embeddings(content: bytes) -> Ask:
    body = parse_body(content, EmbeddingsRequest)
    return lambda service, caller, ids: answer_embeddings(service, body, caller)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API that the lines of a batch file may ask."""

    read: Callable[[bytes], Ask]
    """Reads a body; raises what the API's own route does."""
    samples: bool = True
    """Whether answers are drawn at random, so that they have a seed."""


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(_chat),
    "/v1/completions": Endpoint(_completion),
    "/v1/embeddings": Endpoint(_embeddings, samples=False),
    "/v1/responses": Endpoint(_response),
}
"""The APIs by their paths."""


class ApiAnswerer:
    """Answers the requests of a batch file by a service; see `quire.batch.answering.Answerer`."""

    def __init__(
        self,
        service: Service,
        settings: ApiSettings,
        on_loop: OnLoop,
        caller: Caller = ANONYMOUS,
        *,
        is_restarted: bool = False,
    ) -> None:
        """Make it.

        Args:
            on_loop: runs a request where the service is at home.
            caller: whose requests they are.
            is_restarted: whether somebody starts the engine again after its end.
        """
        self._service, self._settings, self._on_loop = service, settings, on_loop
        self._caller, self._is_restarted = caller, is_restarted
        self._lines = ApiLines(settings)

    def failed(self, row: Row, error: RowError) -> Record:
        """See Answerer."""
        return self._lines.failed(row, error)

    async def prepare(self, row: Row) -> Prepared:
        """See Answerer. A request that the API refuses is an answer, too."""
        if not isinstance(row.work, ApiRow):
            raise UnsupportedOptionError(
                "This row is no request of OpenAI's batch file, as the rows before it are."
            )
        try:
            return Prepared(row, self._read(row, row.work))
        except QuireError as error:
            return Prepared(row, problem_of(error))

    def _read(self, row: Row, work: ApiRow) -> Ask:
        body, endpoint, arguments = work.body, ENDPOINTS[work.url], self._service.arguments
        if body.get("stream"):
            raise BadRequest("stream: a batch answers as a whole; leave it out.", param="stream")
        if endpoint.samples and self._settings.seed is not None and body.get("seed") is None:
            body = {**body, "seed": row_seed(self._settings.seed, row.index)}
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if len(content) > arguments.max_body_bytes:
            raise TooLarge(
                f"The body may have at most {arguments.max_body_bytes:,} bytes (max_body_bytes)."
            )
        problem = body_problem(content, arguments.max_json_depth, arguments.max_json_values)
        if problem is not None:
            raise BadRequest(problem.message, code=problem.code)
        return endpoint.read(content)

    async def answer(self, prepared: Prepared, started: Callable[[], None] | None) -> Record:
        """See Answerer."""
        row, asked = prepared.row, prepared.content
        if isinstance(asked, Problem):
            return self._refused(row, asked)
        ids = DerivedIds(digest_of(row), self._settings.created)
        try:
            answer = await self._on_loop(asked(self._service, self._caller, ids))
        except (NotReady, Overloaded) as error:
            raise EngineBusyError(str(error)) from None
        except EngineClosedError as error:
            if self._is_restarted:  # another engine is put in its place, as after a death
                raise EngineDeadError(str(error)) from error
            raise
        except (EngineBusyError, EngineDeadError, GenerationError):
            raise
        except QuireError as error:
            return self._refused(row, problem_of(error))
        except Exception as error:
            logger.error("Internal error at row %s of a batch.", row.index, exc_info=error)
            return self._refused(row, problem_of(error))
        return self._lines.answered(row, answer)

    def _refused(self, row: Row, problem: Problem) -> Record:
        return self._lines.refused(row, problem.status, problem.body)


# --- without a server ------------------------------------------------------------------------------


def make_api_answerer(model: ChatModel, settings: ApiSettings) -> Answerer:
    """What answers the requests of a batch file on a model, as a server without keys would.

    Media are under the model's own policy, since who runs the batch owns the disk.
    """
    arguments = ServerArguments(served_model_name=settings.served_model_name)
    admission = Admission(sys.maxsize, 0, arguments.queue_timeout)
    service = Service(arguments, admission, _Unobserved, model.engine)
    on_loop = model.on_home_loop if model.engine.info.loop_bound else _here
    return ApiAnswerer(service, settings, on_loop)


async def _here(request: Coroutine[Any, Any, Answer]) -> Answer:
    return await request


class _Unobserved:
    """The observation of a request that nobody looks at."""

    def __init__(self, kind: Kind, caller: Caller, count: int) -> None: ...

    def admitted(self) -> None: ...

    def delta(self, delta: Delta) -> None: ...

    def end(self, error: BaseException | None) -> None: ...
