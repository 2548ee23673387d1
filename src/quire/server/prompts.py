"""A call's prompt, for those who count or look at its tokens."""

from __future__ import annotations

from quire.prompt import Prompt
from quire.server.call import Call
from quire.server.service import Service
from quire.server.tool_choice import ToolChooser


async def prompt_of(service: Service, call: Call) -> Prompt:
    """The prompt that an answer to this call would begin from; the engine computes nothing.

    Raises:
        ServerError: the model is not served, or the tool choice is wrong.
        RequestError: the request is wrong.
        UnsupportedOptionError: prompts are made elsewhere.
    """
    service.models.resolve(call.model)
    chooser = ToolChooser.of(call)
    request = call.request(chooser.tools, chooser.options(call.options))
    return (await service.engine.tokens.preparation.prepare(request)).prompt
