"""A call's prompt, for those who count or look at its tokens."""

from __future__ import annotations

from collections.abc import Callable

from quire.chat.base_engine import BaseEngine
from quire.prompt import Prompt
from quire.server.call import Call
from quire.server.service import Service
from quire.server.tool_choice import ToolChooser
from quire.tokenizer import Tokenizer


async def prompt_of(service: Service, call: Call) -> Prompt:
    """The prompt that an answer to this call would begin from; the engine computes nothing.

    Raises:
        ServerError: the model is not served, or the tool choice is wrong.
        RequestError: the request is wrong.
    """
    service.models.resolve(call.model)
    chooser = ToolChooser.of(call)
    options = chooser.options(call.options)
    request = await service.engine.prepared(call.turns, call.system, chooser.tools, options)
    return request.prompt


def token_counter(engine: BaseEngine) -> Callable[[str], int]:
    """Counts the tokens of a text; all are 0 where the engine has no tokenizer."""
    tokenizer: Tokenizer | None = getattr(engine, "tokenizer", None)
    return lambda text: len(tokenizer.encode(text)) if tokenizer else 0
