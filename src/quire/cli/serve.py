"""`quire serve`: a model over HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from quire.cli.model import read_start
from quire.errors import ConfigError


def run_server(words: Sequence[str]) -> None:
    """Serve until a signal comes.

    Raises:
        ConfigError: the words make no sense, or the server's packages are not installed.
        ModelError, EngineError: the model could not be loaded.
    """
    _check_words(words)
    start = read_start(words)
    if start.options:
        names = ", ".join(start.options)
        raise ConfigError(f"{names}: that is given with a request, not to the server.")
    try:
        from quire.server.arguments import read_server_arguments
        from quire.server.lifecycle.run import serve
    except ImportError as error:
        raise ConfigError(
            f"The server needs a package that is not here ({error}): pip install 'quire-llm[server]'."
        ) from error
    arguments, values = read_server_arguments(start.arguments)
    if start.is_demo and arguments.served_model_name is None:
        arguments = arguments.replace(served_model_name="quire-demo")
    serve(values, arguments)


def _check_words(words: Sequence[str]) -> None:
    """A command line is seen by every user of the machine."""
    for word in words:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        if name in ("api_key", "admin_key"):
            variable = "API_KEY" if name == "api_key" else "QUIRE_ADMIN_KEY"
            raise ConfigError(
                f"A key on the command line is seen by others: set {variable} in the environment, or "
                f"give {name}_file=FILE."
            )
