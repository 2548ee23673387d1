"""How the server is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from quire.arguments.base import Arguments, Number, Whole


class ServerArguments(Arguments):
    """Where the server listens and what it promises."""

    host: str = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8000
    """0 takes a free one."""
    served_model_name: str | None = None
    """The name that clients give as `model`; None takes the folder's own."""
    request_timeout: Annotated[Number, Field(gt=0)] | None = None
    """Seconds that a request may take in all, waiting included."""
    keep_alive: Annotated[Number, Field(gt=0)] = 15.0
    """Seconds without a word after which a stream gets a comment, so that nobody cuts the line."""
    reader_timeout: Annotated[Number, Field(gt=0)] = 60.0
    """Seconds that a reader may stand still before its request is aborted."""
    media_root: str | None = None
    """The only folder of which a client may name files; None for none."""
    media_urls: bool = False
    """Whether media are fetched from addresses that a client names."""


_ENVIRONMENT = {"host": "API_HOST", "port": "API_PORT", "served_model_name": "API_MODEL_NAME"}
"""LLaMA-Factory's variables."""


def read_server_arguments(
    values: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> tuple[ServerArguments, dict[str, Any]]:
    """Split the server's own arguments from all; what is not given comes from the environment.

    Raises:
        ConfigError: a value that is not allowed.
    """
    fields = ServerArguments.model_fields
    own = {name: environment[key] for name, key in _ENVIRONMENT.items() if environment.get(key)}
    own |= {name: value for name, value in values.items() if name in fields}
    rest = {name: value for name, value in values.items() if name not in fields}
    return ServerArguments(**own), rest
