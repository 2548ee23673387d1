"""What a model's folder declares of its answers, brought together with what its chat template shows.

The declaration counts. What was learned is its spelling, with all white space, where both say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from quire.errors import QuireError
from quire.template.learning import Learned, probe_tools
from quire.tokenizer import Tokenizer
from quire.tokenizer.folder import DECLARATIONS
from quire.tools.base import load
from quire.tools.call_form import CallForm
from quire.tools.declared_calls import Declared
from quire.tools.learned import LearnedFormat
from quire.tools.learning import FIRST, SECOND
from quire.tools.response_template import read_declared


@dataclass(frozen=True, slots=True)
class Settled:
    """What holds of a model's answers."""

    learned: Learned
    rendered_form: CallForm | None = None
    """How the chat template writes calls, where another form is declared: it is read as well."""
    warning: str | None = None
    """What of the declaration is not followed."""


def settle(learned: Learned, tokenizer: Tokenizer) -> Settled:
    """Follow what the folder of a tokenizer declares, where it declares something."""
    declarations = tokenizer.declarations
    stops = {*learned.stops, *([tokenizer.eos_token] if tokenizer.eos_token else [])}
    declared = read_declared(declarations, stops=stops, markers=tokenizer.special_texts)
    if declared is None:
        return Settled(learned)
    form, rendered_form = _form(learned, declared)
    thought, unread = _thought(learned, declared)
    settled = replace(
        learned,
        form=form,
        thought=thought,
        before_text=_with_mark(learned.before_text, declared.before_text),
        after_text=_with_mark(learned.after_text, declared.after_text),
    )
    return Settled(settled, rendered_form, _warning(declarations, [*declared.unread, *unread]))


def _form(learned: Learned, declared: Declared) -> tuple[CallForm | None, CallForm | None]:
    """The form of calls, and the template's own where that is another."""
    if declared.form is None or learned.form is None:
        return declared.form or learned.form, None
    if _reads_same(declared.form, learned.form):
        return learned.form, None
    return declared.form, learned.form


def _reads_same(declared: CallForm, rendered: CallForm) -> bool:
    """Whether calls as a template renders them are those calls by the declaration."""
    calls = [FIRST] if rendered.most == 1 else [FIRST, SECOND]
    try:
        written = "".join(span.text for span in LearnedFormat(rendered).write_calls(calls))
        _, read = LearnedFormat(declared).parse(written, probe_tools())
        return [(one.name, load(one.arguments)) for one in read] == [
            (one.name, load(one.arguments)) for one in calls
        ]
    except (QuireError, ValueError):
        return False


def _thought(
    learned: Learned, declared: Declared
) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """What opens and closes a thought, and why what is declared of it cannot be followed."""
    if declared.thought is None:
        return learned.thought, ()
    opening, closing = declared.thought
    if learned.thought is not None:
        known = tuple(word.strip() for word in learned.thought)
        if closing.strip() == known[1] and opening.strip() in ("", known[0]):
            return learned.thought, ()
    if not opening.strip():
        opening = closing.strip().replace("/", "", 1)
        if opening == closing.strip():
            return learned.thought, (f"nothing opens the thought that {closing!r} closes",)
    return (opening, closing), ()


def _with_mark(marks: tuple[str, ...], mark: str) -> tuple[str, ...]:
    is_known = not mark.strip() or mark.strip() in (one.strip() for one in marks)
    return marks if is_known else (mark, *marks)


def _warning(declarations: dict[str, Any], unread: list[str]) -> str | None:
    if not unread:
        return None
    key = next(key for key in DECLARATIONS if declarations.get(key) is not None)
    return (
        f"The model's {key} is not followed in all: {'; '.join(unread)}. What its chat template "
        "writes counts there."
    )
