"""How the server is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from quire.arguments.base import Arguments
from quire.arguments.base import ByteSize as Size
from quire.arguments.base import Float as Number
from quire.arguments.base import Integer as Whole
from quire.arguments.base import NameList as Names
from quire.arguments.command_line import FIELDS
from quire.arguments.foreign import FOREIGN_KEYS, is_refusable, reason_without_effect
from quire.errors import ConfigError, nearest, sentence
from quire.response_format import MAX_SIZE

Seconds = Annotated[Number, Field(gt=0)]
Count = Annotated[Whole, Field(ge=1)]


class ServerArguments(Arguments):
    """Where the server listens, whom it answers, and what it promises."""

    host: str = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8000
    """0 takes a free one."""
    served_model_name: str | None = None
    """The name that clients give as `model`; None takes the folder's own."""

    # --- who may ask ---
    api_key: SecretStr | None = None
    """One key, or several with commas between them; best given in the environment's API_KEY."""
    api_key_file: str | None = None
    """A file of keys: a line each, a name after it if wanted; also `sha256:` and the hexadecimal hash."""
    admin_key: SecretStr | None = None
    """As `api_key`; these may load and drop adapters too."""
    admin_key_file: str | None = None
    allow_no_key: bool = False
    """Let everybody in although no key is needed: at an address that others reach, and under any name
    of the host (the Host header)."""
    cors_origins: Names = None
    """Web pages' origins that a browser lets ask, such as https://chat.example.org; `*` for all."""
    media_root: str | None = None
    """The only folder of which a client may name files; None for none."""
    media_urls: bool = False
    """Whether media are fetched from addresses that a client names."""

    # --- limits of one request ---
    max_body_bytes: Size = 32 * 2**20
    max_held_bytes: Size = 2**30
    """Of the bodies of all requests that are being read, wait or run."""
    max_header_bytes: Size = 32 * 2**10
    """Of all headers together."""
    max_json_depth: Annotated[Whole, Field(ge=8, le=150)] = 100
    """Levels that objects and lists of a body nest."""
    read_timeout: Seconds = 60.0
    """Seconds in which a request's headers, and then its body, must have come."""
    max_n: Annotated[Whole, Field(ge=1, le=128)] = 32
    """Completions of one prompt."""
    max_completions: Count = 256
    """Completions of one request: `n`, times its prompts where it has several."""
    max_messages: Count = 4096
    max_tools: Count = 256
    max_stop_strings: Count = 16
    max_schema_bytes: Annotated[Size, Field(le=MAX_SIZE)] = 64 * 2**10
    """Of a `response_format`: its schema, expression, grammar or choices."""
    max_logprobs: Annotated[Whole, Field(ge=0, le=64)] = 20
    max_bias_tokens: Count = 1024
    """Tokens that `logit_bias` and `stop_token_ids` name, and texts that `bad_words` does."""
    max_texts: Count = 2048
    """Texts that one request wants embedded or scored."""

    # --- load ---
    max_running: Count | None = None
    """Completions that run at once; None takes as many as the engine runs."""
    max_waiting: Annotated[Whole, Field(ge=0)] = 512
    """Requests that wait for their turn; what comes beyond is refused at once (429)."""
    queue_timeout: Seconds = 60.0
    """Seconds that a request may wait for its turn."""
    request_timeout: Seconds | None = None
    """Seconds that a request may take in all, waiting included."""
    keep_alive: Seconds = 15.0
    """Seconds without a word after which a stream gets a comment, so that nobody cuts the line."""
    reader_timeout: Seconds = 60.0
    """Seconds that a reader may stand still before its request is aborted."""
    max_connections: Count = 8192

    # --- life ---
    drain_timeout: Annotated[Number, Field(ge=0)] = 30.0
    """Seconds that requests under way have to end after SIGTERM."""
    max_restarts: Annotated[Whole, Field(ge=0)] = 3
    """How often an engine that died is started again, in all."""
    log_file: str | None = None
    """Where the log goes, a line of JSON an event; None writes it to the standard error."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto` is text on a terminal, JSON elsewhere."""
    otlp_endpoint: str | None = None
    """Where traces are sent (OpenTelemetry's OTLP over HTTP, such as http://localhost:4318); None for
    nowhere, unless the environment's OTEL_EXPORTER_OTLP_ENDPOINT says where."""

    @property
    def has_keys(self) -> bool:
        """Whether a client needs a key."""
        return any((self.api_key, self.api_key_file, self.admin_key, self.admin_key_file))

    @model_validator(mode="after")
    def _check_open(self) -> ServerArguments:
        """A server that others reach needs keys."""
        if not (is_loopback(self.host) or self.has_keys or self.allow_no_key):
            raise ValueError(
                f"At {self.host} others reach this server, and it has no key: set the environment's "
                "API_KEY or give api_key_file; or say --allow_no_key to let everybody in."
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_ENVIRONMENT = {
    "host": "API_HOST",
    "port": "API_PORT",
    "served_model_name": "API_MODEL_NAME",
    "api_key": "API_KEY",
}
"""LLaMA-Factory's variables; QUIRE_<NAME IN CAPITALS> goes before them."""


def read_server_arguments(
    values: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> tuple[ServerArguments, dict[str, Any]]:
    """Split the server's own arguments from all; what is not given comes from the environment.

    Raises:
        ConfigError: a value that is not allowed.
    """
    fields = ServerArguments.model_fields
    own = _from_environment(environment)
    own |= {name: value for name, value in values.items() if name in fields}
    rest = {name: value for name, value in values.items() if name not in fields}
    _check_names(rest)
    return ServerArguments(**own), rest


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ServerArguments.model_fields:
        for variable in (f"QUIRE_{name.upper()}", _ENVIRONMENT.get(name, "")):
            value = environment.get(variable, "")
            # Kubernetes gives the pods beside a service named quire QUIRE_PORT=tcp://10.0.0.1:8000.
            if value and not value.startswith(("tcp://", "udp://", "sctp://")):
                found[name] = value
                break
    return found


def _check_names(rest: Mapping[str, Any]) -> None:
    """A misspelt name of the server's is told as one; all others are the engine's affair."""
    fields = ServerArguments.model_fields
    for name in rest:
        known = name in FIELDS or name in FOREIGN_KEYS or reason_without_effect(name)
        near = nearest(name, fields)
        if near and not known and not is_refusable(name) and not nearest(name, FIELDS):
            raise ConfigError(sentence(f"Unknown argument {name!r}{near}"))
