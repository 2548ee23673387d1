"""Recorded outputs: what was learned of each template, and the answers that it writes.

The templates are not kept here; from these, their answers are read all the same, by the reader that
follows from what was learned. Templates of which both are the same share one entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quire.template.jinja import JinjaTemplate
from quire.template.learning import Learned
from quire.tokenizer import Tokenizer
from quire.tools.base import ToolFormat
from quire.tools.call_form import (
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)
from quire.tools.learned import LearnedFormat
from quire.tools.registry import get_tool_format
from tests.template.real.conversations import ANSWERS
from tests.template.real.reading import Reader
from tests.template.real.records import RIGHT, Written
from tests.template.real.templates import find_tokens
from tests.tokenizer.bytes_alone import make_byte_backend

if TYPE_CHECKING:
    from tests.template.real.measure import Measure

OUTPUTS = Path(__file__).with_name("outputs.json")
_ARGUMENTS = {one.__name__: one
              for one in (BraceArguments, JsonArguments, PythonArguments, TagArguments)}  # fmt: skip
_ALWAYS = frozenset(one.name for one in fields(Learned) if one.default is MISSING)
_PROMPT = 60
"""Characters of a prompt's end that are kept: it says whether a thought has begun."""


@dataclass(frozen=True)
class Output:
    """What is recorded of some templates that speak alike."""

    templates: tuple[str, ...]
    learned: Learned
    family: str | None
    """The format written by hand that is read as well."""
    tokens: tuple[tuple[str, ...], tuple[str, ...]]
    """The markers of the answers: special tokens, and added tokens that are not special."""
    answers: dict[str, Written]
    """By the names of `ANSWERS`: those that are read right. Of prompts there is the end alone."""


class RecordedTemplate(JinjaTemplate):
    """A template that writes nothing but the end of a prompt, and has learned what was recorded."""

    def __init__(self, output: Output, tokenizer: Tokenizer) -> None:
        self._output = output
        super().__init__(tokenizer)
        family = get_tool_format(output.family) if output.family else None
        form = output.learned.form
        self.tool_format: ToolFormat | None = (
            family if form is None else LearnedFormat(form, family)
        )

    def _learn(self, tokenizer: Tokenizer) -> Learned:
        return self._output.learned


def reader_of(output: Output, prompt: str) -> Reader:
    """A reader of the answers that follow a prompt of this end."""
    source = "{{ " + json.dumps(prompt, ensure_ascii=False) + " }}"
    backend = make_byte_backend(*output.tokens)
    return Reader(source, backend, lambda tokenizer: RecordedTemplate(output, tokenizer))


# --- recording ----------------------------------------------------------------------------------


def output_of(one: Measure) -> Output | None:
    """What there is to record of a measured template; None where it has no calls to read."""
    template = one.reader.template
    if not one.finding.shows_calls or not isinstance(template, JinjaTemplate):
        return None
    answers = {
        case: replace(one.written[case], prompt=one.written[case].prompt[-_PROMPT:])
        for case, letter in zip(ANSWERS, one.finding.readings, strict=True)
        if letter == RIGHT
    }
    if not answers:
        return None
    texts = "\n".join(written.prompt + written.text for written in answers.values())
    special, plain = find_tokens(texts)
    return Output((one.finding.name,), template.learned, _family(template.tool_format),
                  (tuple(special), tuple(plain)), answers)  # fmt: skip


def _family(tool_format: ToolFormat | None) -> str | None:
    return None if tool_format is None or tool_format.name == "learned" else tool_format.name


def write_outputs(outputs: Iterable[Output], path: Path = OUTPUTS) -> None:
    """Record outputs, one a line."""
    by_rest: dict[str, list[str]] = {}
    for output in outputs:
        rest = _to_json(output)
        by_rest.setdefault(json.dumps(rest, ensure_ascii=False), []).extend(output.templates)
    lines = [f'{{"templates": {json.dumps(names)}, {rest[1:]}' for rest, names in by_rest.items()]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read_outputs(path: Path = OUTPUTS) -> list[Output]:
    """All that is recorded."""
    return [_of_json(one) for one in json.loads(path.read_text(encoding="utf-8"))]


def _to_json(output: Output) -> dict[str, Any]:
    learned = {one.name: getattr(output.learned, one.name) for one in fields(Learned)}
    learned = {key: value for key, value in learned.items() if value or key in _ALWAYS}
    form = output.learned.form
    if form is not None:
        learned["form"] = {one.name: getattr(form, one.name) for one in fields(CallForm)}
        learned["form"]["call"] = [{"slot": part.value} if isinstance(part, Slot) else part
                                   for part in form.call]  # fmt: skip
        kind = type(form.arguments).__name__
        learned["form"]["arguments"] = {"kind": kind, **asdict(form.arguments)}
    answers = {case: [getattr(one, each.name) for each in fields(Written)]
               for case, one in output.answers.items()}  # fmt: skip
    return {
        "learned": learned,
        "family": output.family,
        "tokens": output.tokens,
        "answers": answers,
    }


def _of_json(record: dict[str, Any]) -> Output:
    values = {key: _tuples(value) for key, value in record["learned"].items() if key != "form"}
    form = record["learned"]["form"]
    special, plain = record["tokens"]
    return Output(
        tuple(record["templates"]),
        Learned(form=None if form is None else _form_of(form), **values),
        record["family"],
        (tuple(special), tuple(plain)),
        {case: Written(*one) for case, one in record["answers"].items()},
    )


def _form_of(record: dict[str, Any]) -> CallForm:
    arguments = dict(record["arguments"])
    kind = _ARGUMENTS[arguments.pop("kind")]
    call = [Slot(part["slot"]) if isinstance(part, dict) else part for part in record["call"]]
    rest = {
        key: _tuples(value) for key, value in record.items() if key not in ("call", "arguments")
    }
    made = kind(**{key: _tuples(value) for key, value in arguments.items()})
    return CallForm(call=tuple(cast("list[str | Slot]", call)), arguments=made, **rest)


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
