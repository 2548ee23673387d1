"""The lines of OpenAI's batch files: what came of a request, and how it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from quire.batch.files import REQUEST_ID, json_line
from quire.batch.journal import Record
from quire.batch.rows import Row, RowError

ApiForm: TypeAlias = Literal["openai", "vllm"]

_STATUS_OF_FAULT = 400  # in vLLM's form, of a row that was never asked


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How the requests of a batch file are asked, and their answers written."""

    seed: int | None = 42
    """From it and a row's place follows the seed of each request that names none."""
    created: int = 0
    """The time that all answers give as theirs, so that a row has the same answer each time."""
    served_model_name: str | None = None
    """The name that requests give as `model`; None takes the model's folder's."""
    form: ApiForm = "openai"
    every_row: bool = False
    """Whether requests that failed have a line in the answers' file too."""


class ApiLines:
    """Writes the lines of a file's requests. An id follows from its row alone."""

    def __init__(self, settings: ApiSettings) -> None:
        self._form, self._every_row = settings.form, settings.every_row

    def answered(self, row: Row, body: Mapping[str, Any]) -> Record:
        """The record of a request with an answer."""
        usage = body.get("usage") or {}
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        cached = details.get("cached_tokens", 0)
        if cached:  # it depends on what else has run, and lines are the same each time
            details["cached_tokens"] = 0
        return Record(
            row.index,
            self._line(row, {"status_code": 200, **self._request(row), "body": body}, None),
            tokens_in=usage.get("prompt_tokens") or usage.get("input_tokens") or 0,
            tokens_out=usage.get("completion_tokens") or usage.get("output_tokens") or 0,
            cached=cached,
            ended_by_length=_ended_by_length(body),
        )

    def refused(self, row: Row, status: int, body: Mapping[str, Any]) -> Record:
        """The record of a request that the API has refused: to OpenAI a response as any other."""
        error = body.get("error") or {}
        response: dict[str, Any] = {"status_code": status, **self._request(row)}
        if self._form == "vllm":
            line = self._line(row, response, error)
        else:
            line = self._line(row, {**response, "body": body}, None)
        return self._failed(row, line, str(error.get("message", "")))

    def failed(self, row: Row, error: RowError) -> Record:
        """The record of a row that was never asked, or whose engine failed."""
        message = error.message
        if error.line is not None and f"line {error.line}" not in message:
            message = f"Line {error.line}: {message}"
        response = None
        if self._form == "vllm":
            response = {"status_code": _STATUS_OF_FAULT, **self._request(row)}
        line = self._line(row, response, {"code": error.code, "message": message})
        return self._failed(row, line, message)

    def _failed(self, row: Row, line: str, message: str) -> Record:
        in_both = self._every_row or self._form == "vllm"  # vLLM has one file
        return Record(row.index, line if in_both else None, line, message=message)

    def _line(
        self, row: Row, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None
    ) -> str:
        content = {"id": f"{REQUEST_ID}{row.index:012x}{digest_of(row)[:12]}"}
        return json_line({**content, "custom_id": row.id, "response": response, "error": error})

    def _request(self, row: Row) -> dict[str, Any]:
        return {"request_id": f"req_{digest_of(row)}"}


def digest_of(row: Row) -> str:
    """32 hexadecimal digits that follow from a row's place and name."""
    return hashlib.sha256(f"{row.index}:{row.id}".encode()).hexdigest()[:32]


def _ended_by_length(body: Mapping[str, Any]) -> bool:
    choices = body.get("choices") or ()
    return body.get("status") == "incomplete" or any(
        one.get("finish_reason") == "length" for one in choices
    )
