"""`quire`: the command line.

Exit codes: 0 done, 1 the engine or the model failed, 2 the arguments or the request are wrong, 3 the
answer was cut and has not the form that was asked for, 4 the engine is busy or took too long, 130
stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnusedCliTokensError,
)

from quire import __version__
from quire.cli.batch import batch_app
from quire.cli.bench import bench
from quire.cli.chat.command import ChatOptions, run_chat
from quire.cli.convert import convert
from quire.cli.deploy import deploy
from quire.cli.hub import list_models, pull, remove
from quire.cli.prompt import prompt
from quire.cli.serve import serve
from quire.cli.show import show
from quire.cli.signals import suspendable
from quire.cli.terminal import run_command
from quire.cli.words import MakeModel, Words, load_model
from quire.errors import ConfigError, nearest

# The modules of the commands import what they need inside of their functions: `quire --help` loads
# no engine, and no command loads what only another one needs.

_HELP = """Chat inference for language models.

A first look: quire demo. A model of your own: quire chat FOLDER.
"""

_NO_OPTIONS = ChatOptions()


def main(argv: Sequence[str] | None = None, *, make_model: MakeModel = load_model) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `quire`; None takes the process's own.
        make_model: makes the model from its arguments; tests put a tiny one in its place.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        app = build_app(make_model)
        try:
            result = app(
                words, exit_on_error=False, print_error=False, result_action="return_value"
            )
        except CycloptsError as error:
            raise ConfigError(_in_our_words(error, words, app)) from None
        return int(result or 0)

    return run_command(run)


def build_app(make_model: MakeModel) -> App:
    """The tree of commands."""
    app = App(
        name="quire",
        version=__version__,
        help=_HELP,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )

    @app.command(usage="Usage: quire demo [MODEL]")
    def demo(model: str | None = None, /) -> int:
        """Watch a scripted conversation with the demo model, and what to do next.

        With MODEL (a folder, a GGUF file, a name) that one is asked.
        """
        from quire.cli.demo import run_demo

        with suspendable():
            run_demo(make_model, name=model)
        return 0

    @app.command(
        usage='Usage: quire chat [FOLDER | CONFIG.yaml] ["PROMPT"] [KEY=VALUE | --KEY VALUE ...]'
    )
    def chat(*words: Words, options: ChatOptions = _NO_OPTIONS) -> int:
        """Chat with a model in the terminal; with a prompt or piped input, answer that and end.

        First comes a model's folder or name, or a YAML or JSON file (also --config
        FILE); without it the demo model answers (demo-see and demo-hear are those
        that see and hear).
        Then, in any order, a prompt in quotes, arguments in LLaMA-Factory's names, and
        options of a request. What is piped in stands before the prompt:

          quire chat saves/my-model template=qwen3 temperature=0
          quire chat config.yaml --max_new_tokens 200 --seed 1
          cat notes.txt | quire chat saves/my-model "Summarise this." > summary.txt
          quire chat saves/my-model -p "Name a prime." --schema '{"type": "integer"}'

        Exit codes: 1 the model failed, 2 the words or the request are wrong, 3 the
        answer to --schema was cut, 4 the engine is busy or took too long, 130 Ctrl-C.
        """
        with suspendable():
            return run_chat(words, options, make_model)

    app.command(
        prompt,
        usage="Usage: quire prompt [FOLDER | CONFIG.yaml] [OPTIONS] [KEY=VALUE ...] [< JSON]",
    )
    app.command(
        deploy,
        usage="Usage: quire deploy vllm|ray|ray-llm [CONFIG.yaml | FOLDER | NAME] [OPTIONS] [KEY=VALUE ...]",
    )
    app.command(batch_app(make_model))
    app.command(
        bench,
        usage="Usage: quire bench [CONFIG.yaml | FOLDER] [KEY=VALUE ...] [OPTIONS] [--against ...]",
    )
    app.command(
        serve,
        alias=["api", "webchat"],
        usage="Usage: quire serve [FOLDER | CONFIG.yaml] [KEY=VALUE | --KEY VALUE ...]",
    )
    app.command(show, usage="Usage: quire show FILE.gguf | FOLDER | NAME [--json]")
    app.command(pull, usage="Usage: quire pull NAME | CONFIG.yaml [KEY=VALUE ...]")
    app.command(list_models, name="list", usage="Usage: quire list [cache_dir=FOLDER]")
    app.command(
        remove, name="rm", usage="Usage: quire rm NAME [model_revision=REVISION] [cache_dir=FOLDER]"
    )
    app.command(
        convert,
        usage="Usage: quire convert SOURCE TARGET [type=TYPE] [adapter_name_or_path=FOLDER] [KEY=VALUE ...]",
    )
    app.command(completion, usage="Usage: quire completion bash|zsh|fish")
    return app


def completion(*words: Words) -> int:
    """Print a script that makes a shell complete quire's words.

      eval "$(quire completion bash)"     in ~/.bashrc
      eval "$(quire completion zsh)"      in ~/.zshrc, after compinit
      quire completion fish | source      in ~/.config/fish/config.fish

    The script never runs quire; make it again after an upgrade.
    """
    from quire.cli.completion.scripts import completion_script

    if len(words) != 1:
        raise ConfigError("Which shell? quire completion bash, zsh or fish.")
    sys.stdout.write(completion_script(build_app(load_model), words[0]))
    return 0


def _in_our_words(error: CycloptsError, words: Sequence[str], app: App) -> str:
    if isinstance(error, UnknownCommandError) and words:
        return _unknown(words[0], app)
    if isinstance(error, UnusedCliTokensError):
        return (
            f"{' '.join(error.unused_tokens or [])!r} is more than the command takes; see --help."
        )
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"{error.argument.name} needs a value."
    return str(error)


def _unknown(word: str, app: App) -> str:
    commands = [name for name in app if not name.startswith("-")]
    options = ["--help", "--version"]
    if f"--{word}" in options:
        return f"Unknown command {word!r}; did you mean '--{word}'?"
    kind, known = ("option", options) if word.startswith("-") else ("command", commands)
    near = nearest(word, known) or f"; there are {', '.join([*commands, *options])}."
    return f"Unknown {kind} {word!r}{near}"
