"""`quire`: the command line.

Exit codes: 0 done, 1 the engine or the model failed, 2 the arguments or the request are wrong,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from quire import __version__
from quire.cli.model import MakeModel, load_model, read_start, say_demo
from quire.cli.plain import end_quietly, read_message_text, run_filter
from quire.cli.terminal import is_terminal, report_error, show_log
from quire.errors import ConfigError, QuireError, RequestError

Words = Annotated[str, Parameter(allow_leading_hyphen=True)]
Flag = Annotated[bool, Parameter(negative=())]


def main(argv: Sequence[str] | None = None, *, make_model: MakeModel = load_model) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `quire`; None takes the process's own.
        make_model: makes the model from its arguments; tests put a tiny one in its place.
    """
    _write_any_text()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        result = build_app(make_model)(
            words, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
        return int(result or 0)
    except CycloptsError as error:
        report_error(str(error))
        return 2
    except QuireError as error:
        report_error(str(error))
        return 2 if isinstance(error, (ConfigError, RequestError)) else 1
    except BrokenPipeError:
        end_quietly()
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130


def build_app(make_model: MakeModel) -> App:
    """The tree of commands."""
    app = App(name="quire", version=__version__, help="Chat inference for language models.")

    @app.command
    def chat(*words: Words) -> int:
        """Chat with a model in the terminal; with piped input, answer it and end.

        The words are a YAML or JSON file or a model's folder, then any arguments as `key=value` or
        `--key value`: `quire chat config.yaml temperature=0`. Without a model it is the demo model.
        """
        return _chat(words, make_model)

    return app


def _chat(words: Sequence[str], make_model: MakeModel) -> int:
    interactive = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    show_log(logging.INFO if interactive else logging.WARNING)
    start = read_start(words)
    if start.is_demo:
        say_demo()
    if interactive:
        from quire.cli.interactive import chat_in_terminal

        chat_in_terminal(start, make_model)
        return 0
    text = read_message_text(sys.stdin)
    with make_model(start.arguments) as model:
        run_filter(model, text, sys.stdout, start.options)
    return 0


def _write_any_text() -> None:
    """What the terminal's encoding lacks is written as `?`, never a crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
