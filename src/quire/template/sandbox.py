"""The environment in which a model's own chat template runs.

It renders what transformers renders, and holds the template to a budget. Every loop's body, macro
and call spends some of it, every string or list that is made spends its length, and what makes
something large is refused before it is made. So no template runs, or grows, without end, and that
takes no signals, threads or processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quire.errors import TemplateError
from quire.template.budget import CALL, PIECE, Budget
from quire.template.codegen import MarkingGenerator, add_ticks
from quire.template.filters import FILTERS, REMOVED, meter_filters, meter_tests
from quire.template.formatting import MarkedFormatter, percent
from quire.template.marked import Marked, join, join_with, own

_MAX_BITS = 1 << 15
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_REFUSED = frozenset({"translate", "encode", "to_bytes"})


class Arguments(dict[str, Any]):
    """A call's arguments: a dictionary which, put into text as it is, is its own JSON text."""

    def __init__(self, value: Mapping[str, Any], text: str) -> None:
        super().__init__(value)
        self.text = text


class GenerationTag(Extension):
    """`{% generation %}`: marks what the model wrote, for training. Here it has no effect."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> Any:
        return caller()


class ChatEnvironment(Budget, ImmutableSandboxedEnvironment):
    """One template's environment: its constants, and the budget of the rendering under way."""

    code_generator_class = MarkingGenerator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        self.constants: list[Any] = []
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[GenerationTag, loopcontrols],
        )
        self.concat = self.join_texts
        self.filters.update(FILTERS)
        for name in REMOVED:
            self.filters.pop(name, None)
            self.globals.pop(name, None)
        meter_filters(self)
        meter_tests(self)
        given = cast("dict[str, Any]", self.globals)
        given["raise_exception"] = self._raise_exception
        given["strftime_now"] = _strftime_now

    def constant(self, value: Any) -> int:
        """Keep a constant of the template, its strings marked as own; return its number."""
        self.constants.append(_mark(value))
        return len(self.constants) - 1

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return add_ticks(super()._parse(source, name, filename))

    # --- what the compiled template calls ------------------------------------------------------

    def text(self, value: Any) -> str:
        """`str(value)`; numbers are the template's own."""
        if isinstance(value, str):
            return value
        if isinstance(value, Arguments):
            return value.text
        if value is None or isinstance(value, (bool, int, float, Undefined)):
            return own(str(value))
        return self.charge(str(self.flat(value)))

    def join_texts(self, pieces: Iterable[Any]) -> str:
        texts = [piece if isinstance(piece, str) else self.text(piece) for piece in pieces]
        self.spend(sum(map(len, texts)))
        return join(texts)

    def add_all(self, context: Context, terms: tuple[Any, ...]) -> Any:
        """`a + b + ...`, from the left."""
        if all(isinstance(term, str) for term in terms):
            return self.join_texts(terms)
        total = terms[0]
        for term in terms[1:]:
            total = self.call_binop(context, "+", total, term)
        return total

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, (str, Arguments)):
            left, right = _as_text(left, right), _as_text(right, left)
        elif operator == "%" and isinstance(left, str):
            return self.charge(percent(left, self.flat(right)))
        elif isinstance(left, int) and isinstance(right, int):
            _check_bits(operator, left, right)
        elif operator == "*":
            self._check_product(left, right)
        return self.charge(self.binop_table[operator](left, right))

    def _check_product(self, left: Any, right: Any) -> None:
        """Pay for a repeated string or list before it is made."""
        for items, count in ((left, right), (right, left)):
            if isinstance(items, (str, list, tuple)) and isinstance(count, int):
                self.spend(max(0, count) * len(items) * (1 if isinstance(items, str) else 8))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        strange = isinstance(obj, Marked) and not hasattr(str, attr)
        return not strange and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.spend(CALL)
        owner = getattr(function, "__self__", None) if callable(function) else None
        if owner is not None and owner is not self:
            function = self._method(owner, function, args, kwargs)
        return self.charge(super().call(context, function, *args, **kwargs))

    def _method(self, owner: Any, method: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Pay for what a method looks at and makes; take one that keeps marks."""
        name = method.__name__
        if name in _REFUSED:
            raise TemplateError(f"Chat templates may not call {name} here.")
        for value in (*args, *kwargs.values()):
            self.flat(value)
        if isinstance(owner, (list, tuple)):
            self.flat(owner)  # index and count compare
        if not isinstance(owner, str):
            return method
        self._pay_for_text(owner, name, args)
        if name == "join":
            return lambda items: self._join_with(owner, items)
        follows = type(owner) is str and name == "replace"
        return getattr(Marked(owner), name) if follows else method

    def _pay_for_text(self, owner: str, name: str, args: tuple[Any, ...]) -> None:
        """Pay for what a string's method makes, before it does."""
        if name in _PADDING:
            wide = sum(abs(value) for value in args if isinstance(value, int))
            self.spend(wide * max(1, owner.count("\t")))
        elif name == "replace" and len(args) > 1:
            self.spend(owner.count(args[0]) * (len(args[1]) + PIECE))
        elif name in ("split", "rsplit", "splitlines") and type(owner) is Marked:
            self.spend(len(owner) * PIECE)

    def _join_with(self, separator: str, items: Iterable[Any]) -> str:
        self.spend(len(items) * PIECE if isinstance(items, str) else 0)
        kept = list(items)
        self.spend(sum(len(item) + len(separator) for item in kept if isinstance(item, str)))
        return join_with(separator, kept)

    def wrap_str_format(self, value: Any) -> Any:
        if super().wrap_str_format(value) is None:
            return None
        text, form = value.__self__, MarkedFormatter(self, self.flat).fill
        if value.__name__ == "format_map":
            return lambda values, /: form(text, (), values)
        return lambda *args, **kwargs: form(text, args, kwargs)

    def _raise_exception(self, message: Any) -> None:
        raise jinja2.TemplateError(self.text(message))


def _strftime_now(form: str) -> str:
    return own(datetime.now().strftime(form))


def _mark(value: Any) -> Any:
    if isinstance(value, str):
        return own(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mark(item) for item in value)
    if isinstance(value, dict):
        return {_mark(key): _mark(item) for key, item in value.items()}
    return value


def _as_text(value: Any, other: Any) -> Any:
    """A call's arguments beside a text are text too."""
    return value.text if isinstance(value, Arguments) and isinstance(other, str) else value


def _check_bits(operator: str, left: int, right: int) -> None:
    bits = left.bit_length()
    if operator == "*":
        bits += right.bit_length()
    elif operator == "**" and bits > 1:
        bits *= abs(right)
    if bits > _MAX_BITS:
        raise TemplateError("The chat template computes with numbers that are too large.")
