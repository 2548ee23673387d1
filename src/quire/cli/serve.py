"""`quire serve`: a model over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quire.cli.terminal import show_log
from quire.cli.words import Words, read_start
from quire.errors import ConfigError

if TYPE_CHECKING:
    from quire.server.arguments import ServerArguments


def serve(*words: Words) -> int:
    """Serve a model over OpenAI's API.

    First comes a model's folder or name, or a YAML or JSON file (also --config
    FILE); without it the demo model is served. Then any arguments, the server's own among them:

      quire serve saves/my-model --port 8000
      quire serve --config config.yaml host=127.0.0.1 request_timeout=120

    The environment's API_HOST, API_PORT, API_KEY and API_MODEL_NAME are
    honoured, and each setting of the server as QUIRE_ and its name in capitals.
    """
    show_log(logging.INFO)
    run_server(words)
    return 0


def run_server(words: Sequence[str]) -> None:
    """Serve until a signal comes.

    Raises:
        ConfigError: the words make no sense, or the server's packages are not installed.
        ModelError, EngineError: the model could not be loaded.
    """
    given = read_server(words, extra="server")
    try:
        from quire.server.lifecycle.run import serve
    except ImportError as error:
        raise _missing(error, "server") from error
    serve(given.values, given.arguments)


@dataclass(frozen=True)
class ServerWords:
    """A server as the words describe it."""

    given: Mapping[str, Any]
    """All arguments, as they were given."""
    values: Mapping[str, Any]
    """The engine's."""
    arguments: ServerArguments


def read_server(words: Sequence[str], *, extra: str) -> ServerWords:
    """Read the words of a server.

    Args:
        extra: what brings the packages that are needed.

    Raises:
        ConfigError: the words make no sense, or the server's packages are not installed.
    """
    _refuse_keys(words)
    start = read_start(words)
    if start.options:
        names = ", ".join(start.options)
        raise ConfigError(f"{names}: that is given with a request, not to the server.")
    try:
        from quire.server.arguments import read_server_arguments
    except ImportError as error:
        raise _missing(error, extra) from error
    arguments, values = read_server_arguments(start.arguments)
    if start.is_demo and arguments.served_model_name is None:
        arguments = arguments.replace(served_model_name="quire-demo")
    return ServerWords(start.arguments, values, arguments)


def _missing(error: ImportError, extra: str) -> ConfigError:
    return ConfigError(
        f"The server needs a package that is not here ({error}): pip install 'quire-llm[{extra}]'."
    )


def _refuse_keys(words: Sequence[str]) -> None:
    """Every user of the machine sees a command line, so the server's keys may not stand on one."""
    for word in words:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        if name in ("api_key", "admin_key"):
            variable = "API_KEY" if name == "api_key" else "QUIRE_ADMIN_KEY"
            raise ConfigError(
                f"A key on the command line is seen by others: set {variable} in the environment, or "
                f"give {name}_file=FILE."
            )
