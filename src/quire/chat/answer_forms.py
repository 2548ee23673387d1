"""What a request's answer is constrained to: its thought, its calls, its text.

Forced calls are read back here, and looked at again: what a grammar could not enforce is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quire.constraints.answer_form import AnswerForm, CallsForm, OfferedTool, ThoughtForm
from quire.constraints.call_grammar import arguments_schema
from quire.constraints.schema_refs import SchemaError
from quire.constraints.validation import mismatch
from quire.constraints.vocabulary import control_texts
from quire.errors import SamplingError, ToolError, UnsupportedOptionError
from quire.messages import ToolCall
from quire.options import read_option
from quire.response_format import Constraint
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from quire.tool_choice import ToolChoice
from quire.tools.base import ToolFormat, load, name_of, schema_of, unwrap
from quire.tools.call_form import CallForm, TagArguments
from quire.tools.forced import JSON_LIST, ForcedCalls, json_list_parser
from quire.tools.harmony import CALL_FORM, TEMPLATE_FORM
from quire.tools.stream import Piece, ToolParser

logger = logging.getLogger("quire")

_CONSTRAINING = frozenset({"response_format", "tool_choice", "thinking_budget"})


class AnswerForms:
    """Makes the constraints of one model's answers, for an engine that takes grammars of all of it."""

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[int],
        context_length: int,
    ) -> None:
        """`stops`: the tokens that end the model's answers."""
        self._context_length = context_length
        self.call_form = self._form_of_calls(template)
        """The form in which calls are forced."""
        self._other_forms = (TEMPLATE_FORM,) if self.call_form == CALL_FORM else ()
        opener, closer = (word.strip() for word in template.thought_words)
        self._opener, self._closer = opener, closer
        self._before_text, self._after_text = (
            tuple(filter(None, (mark.strip() for mark in marks)))
            for marks in (template.before_text, template.after_text)
        )
        marks = (opener, closer, *self._before_text, *self._after_text)
        texts = "\n".join((*_texts(self.call_form), *marks))
        controls = {text for text in control_texts(tokenizer) if text in texts} | {opener, closer}
        self._tokens = {
            token.content: number
            for number, token in tokenizer.added_tokens.items()
            if token.content in controls
        }
        self._vocab_size = tokenizer.vocab_size
        self._stops = tuple(dict.fromkeys(stops))

    def _form_of_calls(self, template: Template) -> CallForm:
        form = template.tool_format.form if template.tool_format is not None else None
        return form if form is not None else JSON_LIST

    def check_budget(self) -> None:
        """Check that a budget for thoughts can be kept.

        Raises:
            UnsupportedOptionError: this model's thoughts cannot be counted.
        """
        if self._closer and not self._counts(""):
            raise UnsupportedOptionError(
                f"thinking_budget: this model's thoughts end with {self._closer!r}, which is no "
                "token of its own, so that their tokens cannot be counted."
            )

    def thinks(
        self, options: Mapping[str, Any], wanted: bool | None, configured: bool | None
    ) -> bool | None:
        """Whether the model is asked to think; None leaves it to the template.

        `wanted` is what the request says, `configured` what holds where it says nothing.
        """
        return configured if wanted is None else wanted

    def form(
        self,
        options: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]],
        *,
        starts_in_thought: bool,
        may_think: bool,
    ) -> Constraint | None:
        """The constraint of one answer; None where it is free.

        Args:
            tools: those that are offered.
            starts_in_thought: whether the prompt has opened a thought.
            may_think: whether the model may begin one by itself.

        Raises:
            SamplingError: an option is wrong.
            ToolError: a tool must be called, and none of the tools is it.
            UnsupportedOptionError: `thinking_budget` for a model whose thoughts cannot be counted.
        """
        if _CONSTRAINING.isdisjoint(options):
            return None
        text: Constraint | None = read_option(options, "response_format")
        choice: ToolChoice = read_option(options, "tool_choice")
        budget: int | None = read_option(options, "thinking_budget")
        if budget is not None and budget >= self._context_length:
            budget = None
        if text is None and budget is None and not choice.is_forced:
            return None
        calls = None
        if choice.is_forced or (text is not None and tools):
            most = _most_calls(options, choice)
            calls = CallsForm(self.call_form, _offered(tools, choice), most, self._other_forms)
        if choice.is_forced:
            text = None
        thought = self._thought(budget, starts_in_thought, may_think)
        before_text = self._before_text
        if before_text and text is None and calls is None and tools:  # calls are free too
            before_text = (*before_text, _head(self.call_form))
        answer = AnswerForm(
            thought,
            calls,
            text,
            self._tokens,
            self._vocab_size,
            self._stops,
            before_text,
            self._after_text,
        )
        return answer.settled(thinks=False) if thought is None else Constraint("answer", answer)

    def _thought(
        self, budget: int | None, starts_in_thought: bool, may_think: bool
    ) -> ThoughtForm | None:
        if not self._closer or not (may_think or starts_in_thought):
            return None  # without a thought, each budget is kept
        opener = "" if starts_in_thought else self._opener
        if budget is not None and not self._counts(opener):
            self.check_budget()
            raise UnsupportedOptionError(
                f"thinking_budget: this model's thoughts begin with {opener!r}, which is no token of "
                "its own, so that another one could follow."
            )
        if not starts_in_thought and not opener:
            return None
        return ThoughtForm(opener, self._closer, not starts_in_thought, budget)

    def _counts(self, opener: str) -> bool:
        """Whether a thought's tokens can be counted: a token ends it, and none begins another."""
        ends = any(self._closer.startswith(token) for token in self._tokens)
        return ends and (not opener or opener in self._tokens or bool(self._before_text))


class PlainForms(AnswerForms):
    """The same for an engine that takes a schema, an expression or a grammar, from the first token.

    Forced calls are then JSON, a list of objects, and nothing goes with a thought.
    """

    def check_budget(self) -> None:
        """Refuse a budget; see `AnswerForms.check_budget`.

        Raises:
            UnsupportedOptionError: always.
        """
        raise UnsupportedOptionError(f"thinking_budget: {_NO_GRAMMAR}.")

    def _form_of_calls(self, template: Template) -> CallForm:
        return JSON_LIST

    def thinks(
        self, options: Mapping[str, Any], wanted: bool | None, configured: bool | None
    ) -> bool | None:
        """Whether the model is asked to think, which it is not before what is constrained.

        Raises:
            UnsupportedOptionError: the request asks for both.
        """
        choice: ToolChoice = read_option(options, "tool_choice")
        if read_option(options, "response_format") is None and not choice.is_forced:
            return super().thinks(options, wanted, configured)
        if wanted:
            raise UnsupportedOptionError(
                f"enable_thinking beside response_format or a forced call: {_FIRST_TOKEN}."
            )
        return False

    def form(
        self,
        options: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]],
        *,
        starts_in_thought: bool,
        may_think: bool,
    ) -> Constraint | None:
        """The constraint of one answer; see `AnswerForms.form`.

        Raises:
            UnsupportedOptionError: a thought, or calls beside other text, would have to be in it.
        """
        if _CONSTRAINING.isdisjoint(options):
            return None
        if read_option(options, "thinking_budget") is not None:
            self.check_budget()
        text: Constraint | None = read_option(options, "response_format")
        choice: ToolChoice = read_option(options, "tool_choice")
        if choice.is_forced:
            schema = _list_schema(_offered(tools, choice), _most_calls(options, choice))
            text = Constraint("json", schema)
        elif text is not None and tools:
            raise UnsupportedOptionError(f"response_format beside tools: {_NO_GRAMMAR}.")
        if text is not None and starts_in_thought:
            raise UnsupportedOptionError(
                f"This model always begins with a thought, and {_FIRST_TOKEN}."
            )
        return text


_FIRST_TOKEN = "this engine constrains an answer from its first token"
_NO_GRAMMAR = "this engine takes no grammars of thoughts and calls"


def _most_calls(options: Mapping[str, Any], choice: ToolChoice) -> int | None:
    return 1 if choice.name or not read_option(options, "parallel_tool_calls") else None


def _list_schema(tools: Iterable[OfferedTool], most: int | None) -> dict[str, Any]:
    """The schema of `JSON_LIST`; the arguments of a tool that cannot be enforced are any object."""
    definitions: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    for number, tool in enumerate(tools):
        try:
            arguments: dict[str, Any] = arguments_schema(tool)
        except SchemaError:
            arguments = {"type": "object"}
        prefix = f"t{number}_"
        for name, one in arguments.pop("$defs", {}).items():
            definitions[prefix + name] = _moved(one, prefix)
        call = {"name": {"const": tool.name}, "arguments": _moved(arguments, prefix)}
        calls.append(
            {
                "type": "object",
                "properties": call,
                "required": list(call),
                "additionalProperties": False,
            }
        )
    limit = {} if most is None else {"maxItems": most}
    items = {"anyOf": calls}
    return {"type": "array", "items": items, "minItems": 1, **limit, "$defs": definitions}


def _moved(schema: Any, prefix: str) -> Any:
    """A schema whose definitions have other names."""
    if isinstance(schema, list):
        return [_moved(one, prefix) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.replace("#/$defs/", f"#/$defs/{prefix}")
        if key == "$ref" and isinstance(value, str)
        else _moved(value, prefix)
        for key, value in schema.items()
    }


def _offered(tools: Sequence[Mapping[str, Any]], choice: ToolChoice) -> tuple[OfferedTool, ...]:
    """The tools that may be called.

    Raises:
        ToolError: there are none.
        SamplingError: the choice names another.
    """
    offered = [OfferedTool(name_of(tool), _parameters(tool)) for tool in tools]
    if not offered:
        raise ToolError("tool_choice needs tools to choose from.")
    if choice.name is not None:
        offered = [tool for tool in offered if tool.name == choice.name]
    if not offered:
        raise SamplingError(f"tool_choice names {choice.name!r}, which is none of the tools.")
    return tuple(offered)


def _parameters(tool: Mapping[str, Any]) -> Mapping[str, Any] | bool:
    parameters = unwrap(tool).get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}}
    return parameters


def _head(form: CallForm) -> str:
    """The form's own text before the first call's name."""
    first = form.call[0]
    return form.begin + form.open + (first if isinstance(first, str) else "")


def _texts(form: CallForm) -> Iterable[str]:
    """The form's own texts."""
    yield from (form.begin, form.open, form.close, form.between, form.end)
    yield from (part for part in form.call if isinstance(part, str))
    arguments = form.arguments
    if isinstance(arguments, TagArguments):
        yield from (arguments.before, arguments.middle, arguments.after, arguments.between)
        yield arguments.string_middle or ""
    yield getattr(arguments, "quote", "")


# --- reading what was forced -------------------------------------------------------------------------


def forced_parser(
    form: CallForm, tool_format: ToolFormat | None, tools: Sequence[dict[str, Any]]
) -> ToolParser:
    """The parser of an answer that is calls alone, in this form."""
    if form is JSON_LIST or tool_format is None:
        parser = json_list_parser()
    else:
        parser = tool_format.parser(tools)
    return CheckedCalls(ForcedCalls(parser, form, [name_of(tool) for tool in tools]), tools)


class CheckedCalls(ToolParser):
    """Logs which calls do not match their tools' schemas. The client gets them as they are.

    A model that is made to call cannot be asked again, and a client checks arguments anyway.
    """

    def __init__(self, parser: ToolParser, tools: Sequence[Mapping[str, Any]]) -> None:
        self._parser = parser
        self._schemas = {name_of(tool): schema_of(tool) for tool in tools}

    def add(self, text: str) -> list[Piece]:
        return self._checked(self._parser.add(text))

    def flush(self) -> list[Piece]:
        return self._checked(self._parser.flush())

    def _checked(self, pieces: list[Piece]) -> list[Piece]:
        for piece in pieces:
            if isinstance(piece, ToolCall):
                self._check(piece)
        return pieces

    def _check(self, call: ToolCall) -> None:
        try:
            arguments = load(call.arguments)
        except ValueError:
            return  # cut
        reason = mismatch(arguments, self._schemas.get(call.name, {}))
        if reason is not None:
            logger.warning(
                "tools: a forced call of %s does not match its schema: %s.", call.name, reason
            )
