"""A request of any API in quire's own terms, its caller, and the limits that it is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from starlette.requests import Request

from quire.options import OPTIONS_BY_NAME, Wire
from quire.request import ChatRequest
from quire.response_format import MAX_SIZE, Constraint
from quire.server.arguments import ServerArguments
from quire.server.errors import BadRequest
from quire.server.turns import joined
from quire.tool_choice import AUTO, ToolChoice

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Call:
    """One client's request for an answer to a conversation, in quire's own terms.

    `options` are named as in `quire.options.OPTIONS`; `model` is as the client wrote it.
    """

    messages: list[dict[str, Any]]
    system: str | None = None
    tools: list[dict[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: _NO_OPTIONS)
    model: str | None = None
    streamed: bool = False
    tool_choice: ToolChoice = AUTO
    parallel_tool_calls: bool = True
    """False lets an answer call one tool at most."""
    wire: Wire = "openai"
    """The API that the client speaks: errors name its fields."""

    def request(self, options: Mapping[str, Any]) -> ChatRequest:
        """The engine's request; consecutive messages of one role are joined into one turn."""
        return ChatRequest(
            joined(self.messages),
            self.system,
            self.tools or None,
            options=options,
            streamed=self.streamed,
        )

    @property
    def completions(self) -> int:
        """How many completions the call requests."""
        return completions_of(self.options)


def completions_of(options: Mapping[str, Any]) -> int:
    """How many completions of a prompt; an invalid number counts as one, and is refused later."""
    count = options.get("n") or options.get("num_return_sequences") or 1
    return count if isinstance(count, int) and count > 0 else 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `name` is no secret; callers of different `salt` share no cached prefix."""

    name: str = "anonymous"
    admin: bool = False
    salt: str = ""
    owner: str = ""
    """Whose files and batches are the caller's: a digest of the key, the same after each start."""
    background: bool = False
    """Whether nobody waits for the answers, so that all other callers are served first."""


ANONYMOUS = Caller()

CALLER = "quire.caller"
"""Where `KeysMiddleware` puts the caller in a request's ASGI scope."""


def caller_of(request: Request) -> Caller:
    """Who sent a request; anonymous if the server has no keys."""
    return request.scope.get(CALLER, ANONYMOUS)


_MAX_BAD_WORDS = 16 * 1024
"""Characters of all bad words: vLLM encodes them on the event loop, and each step looks at them all."""

# --- limits --------------------------------------------------------------------------------------


def check_call(call: Call, arguments: ServerArguments) -> None:
    """Check a conversation against the server's limits.

    Raises:
        BadRequest: a limit is exceeded; `param` names the field.
    """
    _check_count("messages", call.messages, arguments.max_messages)
    _check_count("tools", call.tools, arguments.max_tools)
    check_options(call.options, arguments, wire=call.wire)


def check_texts(texts: Sized, arguments: ServerArguments) -> None:
    """Check the number of texts to be embedded or scored; raises BadRequest."""
    _check_count("input", texts, arguments.max_texts)


def check_options(
    options: Mapping[str, Any],
    arguments: ServerArguments,
    *,
    prompts: int = 1,
    wire: Wire = "openai",
) -> None:
    """Check request options against the server's limits; wrong types are refused later.

    Raises:
        BadRequest: a limit is exceeded; `param` names the field, as it is called on this wire.
    """

    def named(name: str) -> str:
        return OPTIONS_BY_NAME[name].wires.get(wire, name)

    count = completions_of(options)
    if count > arguments.max_n:
        raise _too_many("n", "completions", arguments.max_n, "max_n")
    if count * prompts > arguments.max_completions:
        raise _too_many("n", "completions in all", arguments.max_completions, "max_completions")
    if not isinstance(options.get("stop"), str):
        limit = arguments.max_stop_strings
        _check_count(named("stop"), options.get("stop"), limit, "max_stop_strings")
    for name in ("logprobs", "prompt_logprobs"):
        requested = options.get(name)
        if isinstance(requested, int) and requested > arguments.max_logprobs:
            limit = arguments.max_logprobs
            raise _too_many(named(name), "alternatives a token", limit, "max_logprobs")
    for name in ("logit_bias", "bad_words", "stop_token_ids"):
        _check_count(name, options.get(name), arguments.max_bias_tokens, "max_bias_tokens")
    if is_larger(options.get("bad_words"), _MAX_BAD_WORDS):
        raise BadRequest(
            f"bad_words: at most {_MAX_BAD_WORDS:,} characters in all are allowed here.",
            param="bad_words",
            code="too_many",
        )
    if is_larger(options.get("response_format"), arguments.max_schema_bytes):
        limit = arguments.max_schema_bytes
        raise _too_many(named("response_format"), "characters", limit, "max_schema_bytes")


def is_larger(value: Any, limit: int) -> bool:
    """Whether JSON has more than about `limit` characters; stops counting there."""
    size, stack = 0, [value.value if isinstance(value, Constraint) else value]
    while stack and size <= limit:
        item = stack.pop()
        size += len(item) + 2 if isinstance(item, str) else 2
        if isinstance(item, Mapping):
            stack.extend((*item.keys(), *item.values()))
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return size > limit


def _check_count(name: str, value: Any, limit: int, setting: str | None = None) -> None:
    if isinstance(value, Sized) and len(value) > limit:
        raise _too_many(name, "entries", limit, setting or f"max_{name}")


def _too_many(name: str, of_what: str, limit: int, setting: str) -> BadRequest:
    text = f"{name}: at most {limit:,} {of_what} are allowed here ({setting})."
    return BadRequest(text, param=name, code="too_many")


# --- tools --------------------------------------------------------------------------------------------


def tool_options(call: Call) -> dict[str, Any]:
    """The options for what the client says of calls; none where it says nothing.

    Raises:
        BadRequest: the choice does not match the tools, or their arguments are too large to be forced.
    """
    options: dict[str, Any] = {}
    if call.tools and not call.parallel_tool_calls:
        options["parallel_tool_calls"] = False
    if call.tool_choice.is_forced:
        _check_choice(call, call.tool_choice.name)
    if call.tool_choice != AUTO:
        options["tool_choice"] = call.tool_choice
    return options


def _check_choice(call: Call, name: str | None) -> None:
    functions = [_function(tool) for tool in call.tools or ()]
    if not functions:
        raise BadRequest("tool_choice needs tools to choose from.", param="tool_choice")
    if name is not None:
        functions = [function for function in functions if function["name"] == name]
    if not functions:
        raise BadRequest(
            f"tool_choice names {name!r}, which is none of the tools.", param="tool_choice"
        )
    if is_larger([function.get("parameters") for function in functions], MAX_SIZE):
        raise BadRequest(
            f"tools: the arguments of a forced call may have {MAX_SIZE:,} characters in all.",
            param="tools",
            code="too_many",
        )


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRequest("A tool has no name.", param="tools")
    return function
