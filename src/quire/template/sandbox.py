"""The sandbox in which a model's own chat template runs.

It renders what transformers renders, and holds the template to a budget. Every loop body, macro and
call spends some of it, every string or list that is made spends its length, and whatever makes
something large is refused before it is made. So no template runs, or grows, without end, and none of
it needs signals, threads or processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from quire.errors import TemplateError
from quire.prompt import Spans
from quire.template.budget import BUILT_IN, Budget, CallArguments, strings_in
from quire.template.codegen import OWN_OF_DICTS, MarkingGenerator, add_ticks, read_keys
from quire.template.filters import FILTERS, REMOVED, MarkedFormatter, meter_filters, meter_tests
from quire.template.marked import Marked, join, join_with, own, percent, to_spans

_CALL = 100
_PIECES_AT_ONCE = 200
"""Pieces of output that are paid for together."""
_MAX_BITS = 1 << 15
_MAX_SOURCE = 1_000_000
_OF_STRINGS = frozenset(dir(Marked))
_SAFE_ON_STRINGS = frozenset(
    name for name in dir(str) if name[0] != "_" and name not in ("format", "format_map")
)
_FOR_CONTEXTS = ("_loop_vars", "_block_vars")
"""What Jinja passes to every call, for functions that take its context."""
_CHEAP_ON_STRINGS = frozenset(
    {"startswith", "endswith", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"}
)
_SAFE_ON_DICTS = frozenset({"get", "items", "keys", "values"})
_OF_LOOPS = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"}
)
"""Attributes that are no methods, so that nothing about them has to be checked."""
_HASHING = (dict, Namespace)
"""Functions that make keys of what is in their arguments."""
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_REFUSED = frozenset({"translate", "encode", "to_bytes", "fromkeys"})
"""Methods whose results no mark follows: `encode` would leave strings, and the budget, behind. And
one that hashes what an iterator gives."""


class Renderer:
    """One chat template, compiled once. Renderings in several threads do not wait for each other.

    A rendering keeps its budget in its environment, so an environment serves one rendering at a
    time. The environments are a pool: a rendering takes one that is idle, or makes one where none
    is. A lock around a single environment would let a long conversation, rendered in a thread, hold
    up a short one that is rendered on the event loop.
    """

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            TemplateError: the source is no Jinja template.
        """
        if len(source) > _MAX_SOURCE:
            raise TemplateError(f"The chat template is longer than {_MAX_SOURCE:,} characters.")
        environment = ChatEnvironment([])
        try:
            self._code = environment.compile(source)
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
        self._constants = environment.constants
        self.variables = frozenset(environment.variables)
        """The variables that the template reads and does not set itself beforehand."""
        self.keys = environment.keys
        """The keys that it reads of values, such as `content` and `tool_calls` of messages."""
        # Each holds the same code and constants, so another one takes some 50 kilobytes and about
        # a millisecond, however long the source is. There are never more than there were renderings
        # at once. Appending to a list and popping from it need no lock.
        self._idle: list[tuple[ChatEnvironment, jinja2.Template]] = []
        self._idle.append((environment, self._load(environment)))

    def _load(self, environment: ChatEnvironment) -> jinja2.Template:
        return jinja2.Template.from_code(environment, self._code, environment.make_globals(None))

    @property
    def own_texts(self) -> tuple[str, ...]:
        """All strings that stand in the template."""
        return tuple(text for value in self._constants for text in strings_in(value))

    def render(self, variables: Mapping[str, Any]) -> Spans:
        """Render to spans: those that the template itself wrote, and literal ones.

        Raises:
            TemplateError: the template refuses the conversation, fails, or works without end.
        """
        try:
            environment, template = self._idle.pop()
        except IndexError:
            environment = ChatEnvironment(self._constants)
            template = self._load(environment)
        try:
            given = dict(variables)
            environment.begin(given)
            written = template.root_render_func(template.new_context(given))
            pieces: list[str] = []
            # Some at a time, so that a template that writes without end is stopped while it does.
            while some := list(islice(written, _PIECES_AT_ONCE)):
                texts = _flat(some) if Pieces in map(type, some) else some
                environment.spend(sum(map(len, texts)))
                pieces += texts
            return to_spans(pieces)
        except TemplateError:  # the budget's own refusal says what is wrong
            raise
        except jinja2.TemplateError as error:
            raise TemplateError(f"The chat template says: {_short(error)}") from None
        except RecursionError:
            raise TemplateError("The chat template calls itself too deeply.") from None
        except Exception as error:
            raise TemplateError(
                f"The chat template failed with {type(error).__name__}: {_short(error)}."
            ) from None
        finally:
            # After a failure too: `begin` resets all that a rendering leaves in its environment.
            environment.end()
            self._idle.append((environment, template))


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 500 else text[:500] + "…"


class Pieces(tuple[str, ...]):
    """Strings that are written out one after the other."""

    __slots__ = ()


def _flat(pieces: Iterable[Any]) -> list[str]:
    texts: list[str] = []
    for piece in pieces:
        if type(piece) is Pieces:
            texts += piece
        else:
            texts.append(piece)
    return texts


class GenerationTag(Extension):
    """`{% generation %}`: marks what the model wrote, for training. Here it has no effect."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        # In transformers it is a call: what is set inside is not known outside.
        return nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


class ChatEnvironment(Budget, ImmutableSandboxedEnvironment):
    """A template's constants, and the budget of the one rendering that uses it now."""

    code_generator_class = MarkingGenerator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, constants: list[Any]) -> None:
        """`constants` are the compiled template's, or an empty list, which compiling fills."""
        self.constants = constants
        self.variables: set[str] = set()
        self.keys: frozenset[str] = frozenset()
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # Jinja would compute constants while it compiles, past the budget
            extensions=[GenerationTag, loopcontrols],
        )
        # Jinja joins the output of blocks and macros with this. A plain `"".join` would lose the marks.
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
        """Keep a constant of the template, its strings marked as own; return its index."""
        self.constants.append(_mark(value))
        return len(self.constants) - 1

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        self.keys = read_keys(template)
        return add_ticks(template)

    # --- what the compiled template calls ------------------------------------------------------

    def text(self, value: Any) -> Any:
        """`str(value)`; numbers are the template's own."""
        if isinstance(value, str):
            return value
        if isinstance(value, CallArguments):
            return value.text
        if value is None or isinstance(value, (bool, int, float, Undefined)):
            return own(str(value))
        return self.charge(str(self.flat(value)))

    def join_texts(self, pieces: Iterable[Any]) -> str:
        """The pieces as one text, paid for before it is made."""
        texts: list[str] = []
        for piece in pieces:
            if isinstance(piece, str):
                texts.append(piece)
            elif type(piece) is Pieces:
                texts += piece
            else:
                texts.append(self.text(piece))
        self.spend(sum(map(len, texts)))
        return join(texts)

    def text_pieces(self, pieces: Iterable[Any]) -> Pieces:
        """`a ~ b ~ ...`, which is written out: no text is made of the pieces."""
        return Pieces([piece if isinstance(piece, str) else self.text(piece) for piece in pieces])

    def add_pieces(self, context: Context, terms: tuple[Any, ...]) -> Any:
        """`a + b + ...`, which is written out; of strings alone no text is made."""
        texts = _texts(terms)
        return self.text(self.add_all(context, terms)) if texts is None else Pieces(texts)

    def add_all(self, context: Context, terms: tuple[Any, ...]) -> Any:
        """`a + b + ...`, from the left; strings alone are joined at once."""
        # Templates build whole prompts with `+`. Pair by pair, each sum would copy all text before it.
        texts = _texts(terms)
        if texts is not None:
            self.spend(sum(map(len, texts)))
            return join(texts)
        total = terms[0]
        for term in terms[1:]:
            total = self.call_binop(context, "+", total, term)
        return total

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        # What an operator makes is large only by repetition, powers and `%`; these pay beforehand.
        if operator == "+" and isinstance(left, (str, CallArguments)):
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
        # A marked string looks like a plain one: a template must not see, or forge, its marks.
        strange = isinstance(obj, Marked) and not hasattr(str, attr)
        return not strange and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # The sandbox asks the value, its methods and the type of both. For these kinds the answer is
        # known, and most of what templates read is of them.
        kind = type(obj)
        if kind is dict or kind is CallArguments:
            if attribute not in OWN_OF_DICTS:
                if attribute in obj:
                    return obj[attribute]
                return self.undefined(obj=obj, name=attribute)
            if attribute in _SAFE_ON_DICTS:
                return getattr(obj, attribute)
        if kind is str or kind is Marked:
            if attribute in _SAFE_ON_STRINGS:
                return getattr(obj, attribute)
            if attribute not in _OF_STRINGS:
                return self.undefined(obj=obj, name=attribute)
        if kind is LoopContext and attribute in _OF_LOOPS:
            return getattr(obj, attribute)
        if kind is Namespace and attribute[:1] != "_":
            values = object.__getattribute__(obj, "_Namespace__attrs")
            if attribute in values:
                return values[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        kind = type(obj)
        of_keys = kind is dict or kind is CallArguments
        if of_keys and type(argument) is str and argument not in OWN_OF_DICTS:
            if argument in obj:
                return obj[argument]
            return self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.step(_CALL)
        if type(function) is Macro:
            for name in _FOR_CONTEXTS:
                kwargs.pop(name, None)
            return self.charge(function(*args, **kwargs))
        # A bound method belongs to a value, unless it is one of the environment's own functions.
        owner = getattr(function, "__self__", None) if callable(function) else None
        if type(owner) in BUILT_IN:  # the method is safe, or `getattr` would have withheld it
            for name in _FOR_CONTEXTS:
                kwargs.pop(name, None)
            return self.charge(self._method(owner, function, args, kwargs)(*args, **kwargs))
        if owner is not None and owner is not self:
            function = self._method(owner, function, args, kwargs)
        elif function in _HASHING:
            args = tuple(map(self._pairs, args))
        return self.charge(super().call(context, function, *args, **kwargs))

    def _pairs(self, value: Any) -> Any:
        """Pay for what becomes a dictionary: its pairs, taken out of whatever gives them.

        A walk cannot look into an iterator, and the keys that come out of it are hashed unseen.
        """
        if isinstance(value, dict):
            return value
        return self.flat([tuple(pair) for pair in value])

    def _method(self, owner: Any, method: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Pay for what a method reads and makes; return one that keeps marks."""
        name = method.__name__
        if name in _REFUSED:
            raise TemplateError(f"Chat templates may not call {name} here.")
        for value in args:
            self.flat(value)
        for value in kwargs.values():
            self.flat(value)
        if isinstance(owner, (list, tuple)):
            # `index` and `count` compare, and a comparison walks through nested lists.
            self.flat(owner)
        if not isinstance(owner, str) or name in _CHEAP_ON_STRINGS:
            return method
        self._pay_for_text(owner, name, args)
        if name == "join":
            return lambda items: self._join_with(owner, items)
        # Literal text stays literal, but what it is replaced by may be the template's own.
        follows = type(owner) is str and name == "replace"
        return getattr(Marked(owner), name) if follows else method

    def _pay_for_text(self, owner: str, name: str, args: tuple[Any, ...]) -> None:
        """Pay for what a string's method makes, before it does."""
        if name in _PADDING:
            wide = sum(abs(value) for value in args if isinstance(value, int))
            self.spend(wide * max(1, owner.count("\t")))
        elif name == "replace" and len(args) > 1:
            count = owner.count(args[0])
            self.spend_pieces(count)
            self.spend(count * len(args[1]))
        # A plain string's pieces are paid for with their list; a marked one's are objects of their own.
        elif name in ("split", "rsplit", "splitlines") and type(owner) is Marked:
            self.spend_pieces(len(owner))

    def _join_with(self, separator: str, items: Iterable[Any]) -> str:
        self.spend_pieces(len(items) if isinstance(items, str) else 0)
        kept = list(items)  # a generator could be read only once, and it is read for its cost first
        self.spend(sum(len(item) + len(separator) for item in kept if isinstance(item, str)))
        return join_with(separator, kept)

    def wrap_str_format(self, value: Any) -> Any:
        if super().wrap_str_format(value) is None:
            return None
        # Jinja's sandboxed formatter gives plain strings, and fills fields of any width.
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


def _texts(terms: tuple[Any, ...]) -> Sequence[str] | None:
    """The terms of a sum that is a text, with calls' arguments as texts; None where it is none."""
    for term in terms:
        if not isinstance(term, str):
            break
    else:
        return terms
    if not (isinstance(terms[0], str) or isinstance(terms[1], str)):
        return None
    texts = [term.text if type(term) is CallArguments else term for term in terms]
    return texts if all(isinstance(text, str) for text in texts) else None


def _as_text(value: Any, other: Any) -> Any:
    """A call's arguments beside a text are text too."""
    return value.text if isinstance(value, CallArguments) and isinstance(other, str) else value


def _check_bits(operator: str, left: int, right: int) -> None:
    """Refuse integers of thousands of digits: their arithmetic is one step that nothing can end."""
    bits = left.bit_length()
    if operator == "*":
        bits += right.bit_length()
    elif operator == "**" and bits > 1:
        bits *= abs(right)
    if bits > _MAX_BITS:
        raise TemplateError("The chat template computes with numbers that are too large.")
