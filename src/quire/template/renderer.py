"""A chat template, compiled once and rendered many times."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import jinja2

from quire.errors import TemplateError
from quire.prompt import Spans
from quire.template.budget import size_of, strings_in
from quire.template.marked import to_spans
from quire.template.sandbox import ChatEnvironment

_MAX_SOURCE = 1_000_000


class Renderer:
    """One chat template, compiled. One rendering runs at a time; others wait for it."""

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            TemplateError: the source is no Jinja template.
        """
        self._environment = ChatEnvironment()
        self._lock = threading.Lock()
        if len(source) > _MAX_SOURCE:
            raise TemplateError(f"The chat template is longer than {_MAX_SOURCE:,} characters.")
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"The chat template has an error in line {error.lineno}: {error.message}."
            ) from None
        except (
            jinja2.TemplateError,
            RecursionError,
            SyntaxError,
            ValueError,
            MemoryError,
        ) as error:
            raise TemplateError(f"The chat template cannot be compiled: {error}.") from None

    @property
    def own_texts(self) -> tuple[str, ...]:
        """All strings that stand in the template."""
        return tuple(text for value in self._environment.constants for text in strings_in(value))

    def render(self, variables: Mapping[str, Any]) -> Spans:
        """Render to spans: own is what the template itself wrote.

        Raises:
            TemplateError: the template refuses the conversation, fails, or works without end.
        """
        with self._lock:
            try:
                self._environment.begin(size_of(dict(variables)))
                return to_spans(self._pieces(variables))
            except TemplateError:
                raise
            except jinja2.TemplateError as error:
                raise TemplateError(f"The chat template says: {_short(error)}") from None
            except RecursionError:
                raise TemplateError("The chat template calls itself too deeply.") from None
            except Exception as error:
                raise TemplateError(
                    f"The chat template failed with {type(error).__name__}: {_short(error)}."
                ) from None

    def _pieces(self, variables: Mapping[str, Any]) -> list[str]:
        context = self._template.new_context(dict(variables))
        pieces: list[str] = []
        for piece in self._template.root_render_func(context):
            self._environment.spend(len(piece))
            pieces.append(piece)
        return pieces


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 500 else text[:500] + "…"
