"""The server's own arguments, from the command line, a file, or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from quire.arguments.base import Arguments, Float, Integer
from quire.arguments.base import ByteSize as Size
from quire.arguments.base import NameList as Names
from quire.arguments.command_line import FIELDS
from quire.arguments.foreign import FOREIGN_KEYS, is_refusable, reason_without_effect
from quire.errors import ConfigError, nearest, sentence
from quire.response_format import MAX_SIZE

Seconds = Annotated[Float, Field(gt=0)]
Count = Annotated[Integer, Field(ge=1)]


class ServerArguments(Arguments):
    """Where the server listens, who may use it, and its limits."""

    host: str = "127.0.0.1"
    """The address to listen at; one that is not a loopback address needs a key."""
    port: Annotated[Integer, Field(ge=0, le=65535)] = 8000
    """0 takes a free one."""
    served_model_name: str | None = None
    """The name that clients give as `model`; None takes the folder's own."""
    any_model: bool = False
    """Whether any other name that clients give as `model` means the served model, too."""

    # --- access ---
    api_key: SecretStr | None = None
    """One key, or several separated by commas; best given in the environment's API_KEY."""
    api_key_file: str | None = None
    """A file with one key per line, or `sha256:` and its hexadecimal hash; a name may follow it."""
    admin_key: SecretStr | None = None
    """As `api_key`; these keys may also load and drop adapters."""
    admin_key_file: str | None = None
    """As `api_key_file`, for `admin_key`."""
    allow_no_key: bool = False
    """Serve without keys at an address that other machines reach, and under any Host header."""
    cors_origins: Names = None
    """Origins whose web pages may call the server, such as https://chat.example.org; `*` for all."""
    media_root: str | None = None
    """The only folder from which clients may name files; None for none."""
    media_urls: bool = False
    """Whether media are fetched from URLs that clients name."""

    # --- limits of one request ---
    max_body_bytes: Size = 32 * 2**20
    """Size of one request's body."""
    max_held_bytes: Size = 2**30
    """Size of the bodies of all requests that are being read, wait or run."""
    max_header_bytes: Size = 32 * 2**10
    """Size of all headers of one request together."""
    max_json_depth: Annotated[Integer, Field(ge=8, le=150)] = 100
    """Nesting depth of objects and lists in a body."""
    max_json_values: Count = 300_000
    """Values in a body: texts, numbers, objects, lists, and the keys of objects."""
    read_timeout: Seconds = 60.0
    """Seconds for a request's headers to arrive, and then for its body."""
    max_n: Annotated[Integer, Field(ge=1, le=128)] = 32
    """Completions of one prompt."""
    max_completions: Count = 256
    """Completions of one request: `n`, times its prompts where it has several."""
    max_messages: Count = 4096
    """Messages of one request."""
    max_tools: Count = 256
    """Tools of one request."""
    max_stop_strings: Count = 16
    """Stop strings of one request."""
    max_schema_bytes: Annotated[Size, Field(le=MAX_SIZE)] = 64 * 2**10
    """Size of a `response_format`: its schema, expression, grammar or choices."""
    max_logprobs: Annotated[Integer, Field(ge=0, le=64)] = 20
    """Alternatives that `top_logprobs` lists for each token."""
    max_bias_tokens: Count = 1024
    """Entries of `logit_bias`, `stop_token_ids` and `bad_words`, each."""
    max_texts: Count = 2048
    """Texts that one request embeds or scores."""

    # --- load ---
    max_running: Count | None = None
    """Completions that run at once; None takes as many as the engine runs."""
    max_waiting: Annotated[Integer, Field(ge=0)] = 512
    """Requests that wait in the queue; more are refused at once (429)."""
    queue_timeout: Seconds = 60.0
    """Seconds that a request may wait in the queue."""
    request_timeout: Seconds | None = None
    """Seconds that a request may take in all, waiting included."""
    keep_alive: Seconds = 15.0
    """Seconds of silence after which a stream gets a comment, so that no proxy closes it."""
    reader_timeout: Seconds = 60.0
    """Seconds for which a client may read nothing of its stream before its request is aborted."""
    max_connections: Count = 8192
    """Connections at once; more are refused (503), but for those that ask for /health or /ready."""

    # --- files and batches ---
    batches_dir: str | None = None
    """The folder of clients' files and batches (/v1/files, /v1/batches); None serves neither."""
    max_file_bytes: Size = 200 * 2**20
    """Size of one uploaded file."""
    max_files: Count = 500
    """Files that one key may have at a time, those with answers among them."""
    max_stored_bytes: Size = 10 * 2**30
    """Size of all files of one key; while it is reached, none is uploaded."""
    max_batches: Count = 100
    """Batches of one key that have not ended."""
    max_batch_requests: Count = 50_000
    """Requests of one batch."""
    max_running_batches: Count = 4
    """Batches that run at once; the others wait, and no key's batches hold up another key's."""
    max_batch_completions: Count | None = None
    """Completions of all batches that run at once; None takes a 64th of what the engine runs. More make
    batches faster, and the first tokens of everybody else slower."""

    # --- lifecycle ---
    drain_timeout: Annotated[Float, Field(ge=0)] = 30.0
    """Seconds that requests in flight may take to finish after SIGTERM."""
    max_restarts: Annotated[Integer, Field(ge=0)] = 3
    """How often an engine that died is restarted, in all."""
    log_file: str | None = None
    """The log's file, one line of JSON per event; None writes to the standard error."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto` is text on a terminal, JSON elsewhere."""
    otlp_endpoint: str | None = None
    """Where traces are sent (OTLP over HTTP, such as http://localhost:4318); None takes the
    environment's OTEL_EXPORTER_OTLP_ENDPOINT, and sends none without it."""

    @property
    def has_keys(self) -> bool:
        """Whether a client needs a key."""
        return any((self.api_key, self.api_key_file, self.admin_key, self.admin_key_file))

    @model_validator(mode="after")
    def _check_open(self) -> ServerArguments:
        """A server that other machines reach needs keys."""
        if not (is_loopback(self.host) or self.has_keys or self.allow_no_key):
            raise ValueError(
                f"Other machines reach this server at {self.host}, and it has no key: set the "
                "environment's API_KEY, give api_key_file, or allow everybody with --allow_no_key."
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine alone."""
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
"""LLaMA-Factory's variables; QUIRE_<NAME IN CAPITALS> has precedence."""


def read_server_arguments(
    values: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> tuple[ServerArguments, dict[str, Any]]:
    """Split the server's own arguments from the others; the environment gives defaults.

    Raises:
        ConfigError: a value is not allowed.
    """
    fields = ServerArguments.model_fields
    own = _from_environment(environment)
    own |= {name: value for name, value in values.items() if name in fields}
    rest = {name: value for name, value in values.items() if name not in fields}
    _check_names(rest)
    return ServerArguments(**own), rest


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in ServerArguments.model_fields:
        for variable in (f"QUIRE_{name.upper()}", _ENVIRONMENT.get(name, "")):
            value = environment.get(variable, "")
            # Kubernetes gives the pods beside a service named quire QUIRE_PORT=tcp://10.0.0.1:8000.
            if value and not value.startswith(("tcp://", "udp://", "sctp://")):
                values[name] = value
                break
    return values


def _check_names(rest: Mapping[str, Any]) -> None:
    """Refuse misspelt names of the server's arguments; the engine checks all others."""
    fields = ServerArguments.model_fields
    for name in rest:
        known = name in FIELDS or name in FOREIGN_KEYS or reason_without_effect(name)
        near = nearest(name, fields)
        if near and not known and not is_refusable(name) and not nearest(name, FIELDS):
            raise ConfigError(sentence(f"Unknown argument {name!r}{near}"))
