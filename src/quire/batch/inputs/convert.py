"""Rows of data sets as conversations: alpaca, sharegpt and openai, by LLaMA-Factory's rules.

Where LLaMA-Factory drops a row or ends the job, the row has an error. What its scripts alone do
(the system message that they rewrite, the labels that they leave empty) is done with `compat`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quire.batch.inputs.dataset_info import DataSet
from quire.batch.inputs.media_paths import MediaPaths
from quire.batch.inputs.records import RowFault, kind_of
from quire.batch.inputs.turns import TurnReader, tool_list
from quire.batch.rows import ChatRow, PairRow
from quire.request import NO_MEDIA, ChatRequest, MediaLists

_EMPTY_ANSWER: Mapping[str, Any] = {"role": "assistant", "content": ""}
_NO_SYSTEM = "detailed thinking off"


@dataclass(slots=True)
class PromptAndAnswers:
    """What the columns of a row give, before it is a request."""

    prompt: list[dict[str, Any]]
    answers: list[Mapping[str, Any]] = field(default_factory=list)
    """None, one, or the chosen and the rejected one."""
    system: str | None = None
    notes: list[str] = field(default_factory=list)


class RowConverter:
    """Makes rows of one data set."""

    def __init__(
        self, data_set: DataSet, media: MediaPaths, *, pairs: bool = False, compat: bool = False
    ) -> None:
        """`pairs`: rows become two answers to be scored, as `stage: rm` wants them."""
        self._set, self._media, self._pairs, self._compat = data_set, media, pairs, compat
        self._columns = data_set.columns
        self._turns = TurnReader(data_set, strict=compat)

    def convert(
        self, row: Any, *, text_cells: bool = False
    ) -> tuple[ChatRow | PairRow, tuple[str, ...]]:
        """The work of a row, and notes on what was done to it.

        Args:
            text_cells: whether all values are text, in which lists and tags are written as JSON.

        Raises:
            RowFault: the row cannot be used.
        """
        if not isinstance(row, Mapping):
            raise RowFault(f"A row must be an object with columns, not {kind_of(row)}.")
        columns = self._parsed_cells(row) if text_cells else row
        turns = self._alpaca(columns) if self._set.formatting == "alpaca" else self._chat(columns)
        if not turns.prompt:
            raise RowFault("The row has no message to answer.", "no_messages")
        request = self._request(turns, columns)
        return self._work(request, turns), tuple(turns.notes)

    # --- what the forms share ------------------------------------------------------------------

    def _parsed_cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its lists and tags read from their text, as CSV holds them."""
        columns, names = dict(row), self._columns
        lists = (names.history, names.messages, names.images, names.videos, names.audios)
        paired = (names.chosen, names.rejected) if self._set.formatting != "alpaca" else ()
        for name in (*lists, *paired):
            cell = columns.get(name) if name else None
            if not isinstance(cell, str):
                continue
            if not cell.strip():
                columns[str(name)] = None
            elif cell.lstrip()[0] in "[{" or name in (names.history, names.messages, *paired):
                columns[str(name)] = _parsed(str(name), cell)
        tag = columns.get(names.kto_tag) if names.kto_tag else None
        if isinstance(tag, str) and tag.strip().lower() in ("true", "false"):
            columns[str(names.kto_tag)] = tag.strip().lower() == "true"
        return columns

    def _request(self, turns: PromptAndAnswers, columns: Mapping[str, Any]) -> ChatRequest:
        names = self._columns
        listed = columns.get(names.tools) if names.tools else None
        tools = tool_list(listed, empty_counts=self._set.formatting == "openai")
        system = turns.system or None
        if self._compat and self._set.formatting == "openai":
            system = _rewritten(system or "", has_tools=bool(tools))
        lists = [
            self._media.column(name, columns.get(name)) if name else None
            for name in (names.images, names.videos, names.audios)
        ]
        media = NO_MEDIA if lists == [None, None, None] else MediaLists(*lists)
        return ChatRequest(tuple(turns.prompt), system, tools, media)

    def _work(self, request: ChatRequest, turns: PromptAndAnswers) -> ChatRow | PairRow:
        if self._pairs:
            chosen, rejected = turns.answers
            return PairRow(ChatRow(request, chosen), ChatRow(request, rejected))
        if self._compat and len(turns.answers) != 1:
            return ChatRow(request, _EMPTY_ANSWER)
        return ChatRow(request, turns.answers[0] if turns.answers else None)

    def _tag(self, columns: Mapping[str, Any]) -> bool | None:
        """Whether an answer is marked as good, in a set for KTO; None where it is not marked."""
        tag = columns.get(self._columns.kto_tag) if self._columns.kto_tag else None
        return tag if isinstance(tag, bool) else None

    def _mark(self, turns: PromptAndAnswers, tag: bool) -> None:
        """Take a marked answer as the label, which LLaMA-Factory's scripts leave empty."""
        if self._compat:
            turns.answers = [_EMPTY_ANSWER, _EMPTY_ANSWER]
        elif not tag:
            turns.notes.append("The label is an answer that the data set marks as a bad one.")

    def _missing(self, columns: Mapping[str, Any], *names: str | None) -> RowFault:
        wanted = " or ".join(repr(name) for name in names if name)
        present = ", ".join(repr(name) for name in columns) or "none"
        return RowFault(
            f"The row has no column {wanted}; its columns are: {present}.", "missing_column"
        )

    # --- alpaca --------------------------------------------------------------------------------

    def _alpaca(self, columns: Mapping[str, Any]) -> PromptAndAnswers:
        names = self._columns
        if not any(name in columns for name in (names.prompt, names.query) if name):
            raise self._missing(columns, names.prompt, names.query)
        texts = [_text(columns, name) for name in (names.prompt, names.query) if name]
        turns = PromptAndAnswers([*_history(columns, names.history)])
        question = "\n".join(text for text in texts if text)
        turns.prompt.append({"role": "user", "content": question})
        turns.system = _text(columns, names.system) if names.system else None
        response = columns.get(names.response) if names.response else None
        if self._set.ranking:
            self._read_pair(columns, turns, _read_text)
        elif response is not None:
            turns.answers = [{"role": "assistant", "content": _label(response, turns.notes)}]
            tag = self._tag(columns)
            if tag is not None:
                self._mark(turns, tag)
        return turns

    def _read_pair(
        self,
        columns: Mapping[str, Any],
        turns: PromptAndAnswers,
        read: Callable[[Any, str], dict[str, Any] | None],
    ) -> None:
        """Read two answers; `read` makes a message of a column's value, or none of a wrong one."""
        for name in (self._columns.chosen, self._columns.rejected):
            answer = read(columns.get(name), name) if name else None
            if answer is not None:
                turns.answers.append(answer)
            elif self._pairs:
                raise self._no_pair(columns, name)
        self._take_chosen(turns)

    # --- messages ------------------------------------------------------------------------------

    def _chat(self, columns: Mapping[str, Any]) -> PromptAndAnswers:
        names = self._columns
        messages = columns.get(names.messages) if names.messages else None
        if messages is None and self._set.formatting == "openai" and not self._set.named_columns:
            messages = columns.get("messages")
        if messages is None:
            raise self._missing(columns, names.messages)
        if not isinstance(messages, list):
            raise RowFault(f"The column {names.messages!r} holds {kind_of(messages)}, not a list.")
        system, all_turns = self._turns.read(messages, ranking=self._set.ranking)
        if system is None and names.system:
            system = _text(columns, names.system)
        turns = PromptAndAnswers(all_turns, system=system)
        if self._set.ranking:
            self._read_pair(columns, turns, self._read_message)
        elif all_turns and all_turns[-1]["role"] == "assistant":
            turns.answers = [turns.prompt.pop()]
            tag = self._tag(columns)
            if tag is not None:
                self._mark(turns, tag)
        return turns

    def _read_message(self, value: Any, name: str) -> dict[str, Any] | None:
        return self._turns.answer(value, name) if isinstance(value, Mapping) else None

    def _no_pair(self, columns: Mapping[str, Any], name: str | None) -> RowFault:
        if name is None or name not in columns:
            return self._missing(columns, name or "chosen")
        wanted = "text" if self._set.formatting == "alpaca" else "a message"
        return RowFault(f"The column {name!r} holds {kind_of(columns[name])}, not {wanted}.")

    def _take_chosen(self, turns: PromptAndAnswers) -> None:
        """Where a pair is not scored, the chosen answer is the label."""
        if not self._pairs and not self._compat and turns.answers:
            turns.answers = turns.answers[:1]
            turns.notes.append("The label is the chosen one of two answers.")


def _parsed(name: str, cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise RowFault(
            f"The column {name!r} must hold JSON, since its file holds text alone; it begins with "
            f"{cell[:40]!r}."
        ) from None


def _read_text(value: Any, name: str) -> dict[str, Any] | None:
    """An answer of a pair that is a text."""
    return {"role": "assistant", "content": value} if isinstance(value, str) else None


def _text(columns: Mapping[str, Any], name: str) -> str:
    """The text in a column; nothing where it is empty or not there."""
    value = columns.get(name)
    if not value and value != 0:
        return ""
    if not isinstance(value, str):
        raise RowFault(f"The column {name!r} holds {kind_of(value)}, not text.")
    return value


def _label(response: Any, notes: list[str]) -> str:
    if isinstance(response, str):
        return response
    notes.append(f"The label is the JSON text of {kind_of(response)}.")
    return json.dumps(response, ensure_ascii=False, default=str)


def _history(columns: Mapping[str, Any], name: str | None) -> list[dict[str, Any]]:
    history = columns.get(name) if name else None
    if history is None:
        return []
    if not isinstance(history, list):
        raise RowFault(f"The column {name!r} holds {kind_of(history)}, not a list of pairs.")
    turns: list[dict[str, Any]] = []
    for number, pair in enumerate(history):
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)
        ):
            raise RowFault(
                f"The column {name!r}: entry {number} is no pair of texts, a question and its "
                "answer."
            )
        turns.append({"role": "user", "content": pair[0]})
        turns.append({"role": "assistant", "content": pair[1]})
    return turns


def _rewritten(system: str, *, has_tools: bool) -> str:
    """The system message as LLaMA-Factory's converter of openai rows writes it."""
    if has_tools:
        return f"{system}\n" if system else ""
    if not system:
        return _NO_SYSTEM
    if "detailed thinking on" in system or _NO_SYSTEM in system:
        return system
    return f"{system}\n{_NO_SYSTEM}"
