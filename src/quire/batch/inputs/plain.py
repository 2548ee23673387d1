"""Files of rows that say themselves what they are: conversations, prompts, or OpenAI's batch requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire.batch.inputs.convert import RowConverter
from quire.batch.inputs.dataset_info import Columns, DataSet, MessageTags
from quire.batch.inputs.media_paths import MediaPaths
from quire.batch.inputs.records import RowFault, kind_of
from quire.batch.rows import ApiRow, ChatRow, PairRow

API_URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""What a line of a batch file may ask for."""

_MEDIA = {"images": "images", "videos": "videos", "audios": "audios"}
_OWN = Columns(
    prompt="prompt",
    query=None,
    response="label",
    messages="messages",
    system="system",
    tools="tools",
    **_MEDIA,
)
_SET = DataSet(name="", formatting="openai", columns=_OWN, named_columns=_OWN)


class PlainConverter:
    """Makes rows of a file that no data set describes; each row's keys tell its form.

    `custom_id` with `url` or `body` is a request of OpenAI's batch file; `messages`, a conversation
    in OpenAI's form or LLaMA-Factory's, whose last answer is the label; `conversations`, one of
    sharegpt; `instruction`, a row of alpaca; `prompt` or `text`, one question. A list alone, or as
    `prompt`, is the messages.
    """

    def __init__(
        self, path: Path, media_dir: str | None, *, pairs: bool = False, compat: bool = False
    ) -> None:
        """`pairs`: rows become two answers to be scored, as `stage: rm` wants them."""
        media = MediaPaths(media_dir, path.parent)
        forms = {
            "messages": _SET,
            "conversations": replace(
                _SET, formatting="sharegpt", columns=replace(_OWN, messages="conversations")
            ),
            "instruction": replace(
                _SET,
                formatting="alpaca",
                columns=Columns(history="history", system="system", tools="tools", **_MEDIA),
            ),
            "prompt": replace(_SET, formatting="alpaca"),
            "text": replace(_SET, formatting="alpaca", columns=replace(_OWN, prompt="text")),
        }
        if pairs:
            forms = {key: _ranking(one) for key, one in forms.items()}
        self._converters = {
            key: RowConverter(replace(one, name=path.name), media, pairs=pairs, compat=compat)
            for key, one in forms.items()
        }

    def convert(
        self, row: Any, *, text_cells: bool = False
    ) -> tuple[ChatRow | PairRow | ApiRow, tuple[str, ...]]:
        """The work of a row, and notes on what was done to it.

        Raises:
            RowFault: the row cannot be used.
        """
        if isinstance(row, list):
            row = {"messages": row}
        if not isinstance(row, Mapping):
            raise RowFault(f"A row must be an object or a list of messages, not {kind_of(row)}.")
        if is_api_row(row):
            return api_row(row), ()
        if isinstance(row.get("prompt"), list):  # messages, as trainers name them
            row = {**row, "messages": row["prompt"]}
        for key, converter in self._converters.items():
            if row.get(key) is not None:
                return converter.convert(row, text_cells=text_cells)
        present = ", ".join(map(repr, row)) or "none"
        wanted = ", ".join(map(repr, self._converters))
        raise RowFault(
            f"The row has none of the columns {wanted}; its columns are: {present}.",
            "missing_column",
        )


def _ranking(form: DataSet) -> DataSet:
    columns = replace(form.columns, chosen="chosen", rejected="rejected")
    return replace(form, ranking=True, columns=columns, tags=MessageTags())


def is_api_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is meant as a request of OpenAI's batch file."""
    return "messages" not in row and ("body" in row or "custom_id" in row)


def api_row(row: Any) -> ApiRow:
    """The request in a line of OpenAI's batch file.

    Raises:
        RowFault: the line is none, with the code that OpenAI's service gives.
    """
    if not isinstance(row, Mapping):
        raise RowFault(f"A line must be an object, not {kind_of(row)}.", "invalid_json_line")
    custom_id, method, url = row.get("custom_id"), row.get("method"), row.get("url")
    for key in ("custom_id", "method", "url", "body"):
        if row.get(key) is None:
            raise RowFault(f"The line has no {key!r}.", "missing_required_parameter")
    if not isinstance(custom_id, str) or not custom_id:
        raise RowFault("custom_id must be text that is not empty.", "invalid_custom_id")
    if method != "POST":
        raise RowFault(f"method must be 'POST', not {method!r}.", "invalid_method")
    if url not in API_URLS:
        raise RowFault(f"url must be one of {', '.join(API_URLS)}, not {url!r}.", "invalid_url")
    body = row["body"]
    if not isinstance(body, Mapping):
        raise RowFault(f"body must be an object, not {kind_of(body)}.", "invalid_body")
    return ApiRow(url, body)
