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

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnknownCommandError,
    UnusedCliTokensError,
)

from quire import __version__
from quire.cli.model import MakeModel, load_model, read_start
from quire.cli.terminal import end_quietly, is_terminal, note, report_error, show_log
from quire.errors import ConfigError, QuireError, RequestError, nearest

# Imports beyond these stand in the functions that use them: `quire --help` loads no engine.

Words = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Value = Annotated[str | None, Parameter(show_default=False)]

_HELP = """Chat inference for language models.

A first look: quire demo. A model of your own: quire chat FOLDER.
"""


def main(argv: Sequence[str] | None = None, *, make_model: MakeModel = load_model) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `quire`; None takes the process's own.
        make_model: makes the model from its arguments; tests put a tiny one in its place.
    """
    _write_any_text()
    words = list(sys.argv[1:] if argv is None else argv)
    app = build_app(make_model)
    try:
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(result or 0)
    except CycloptsError as error:
        report_error(_in_our_words(error, words, app))
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
    app = App(
        name="quire",
        version=__version__,
        help=_HELP,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )

    @app.command(usage="Usage: quire demo")
    def demo() -> int:
        """Watch a scripted conversation with the demo model, and what to do next."""
        from quire.cli.demo import run_demo

        show_log(logging.WARNING)
        run_demo(make_model)
        return 0

    @app.command(usage="Usage: quire chat [FOLDER | CONFIG.yaml] [KEY=VALUE | --KEY VALUE ...]")
    def chat(*words: Words) -> int:
        """Chat with a model in the terminal; with piped input, answer it and end.

        First comes a model's folder or name, or a YAML or JSON file (also --config
        FILE); without it the demo model answers (demo-see and demo-hear are those
        that see and hear).
        Then any arguments, in LLaMA-Factory's names, and any options of a request:

          quire chat saves/my-model template=qwen3 temperature=0
          quire chat config.yaml --max_new_tokens 200 --seed 1
          echo "Name a prime." | quire chat saves/my-model > answer.txt
        """
        return _chat(words, make_model)

    app.command(
        prompt,
        usage="Usage: quire prompt [FOLDER | CONFIG.yaml] [OPTIONS] [KEY=VALUE ...] [< JSON]",
    )
    app.command(
        deploy,
        usage="Usage: quire deploy vllm|ray [CONFIG.yaml | FOLDER | NAME] [OPTIONS] [KEY=VALUE ...]",
    )
    app.command(
        bench,
        usage="Usage: quire bench [CONFIG.yaml | FOLDER] [KEY=VALUE ...] [OPTIONS] [--against ...]",
    )
    app.command(
        serve,
        alias=["api", "webchat"],
        usage="Usage: quire serve [FOLDER | CONFIG.yaml] [KEY=VALUE | --KEY VALUE ...]",
    )
    app.command(completion, usage="Usage: quire completion bash|zsh|fish")
    return app


def serve(*words: Words) -> int:
    """Serve a model over OpenAI's API.

    First comes a model's folder or name, or a YAML or JSON file (also --config
    FILE); without it the demo model is served. Then any arguments, the server's own among them:

      quire serve saves/my-model --port 8000
      quire serve --config config.yaml host=127.0.0.1 request_timeout=120

    The environment's API_HOST, API_PORT, API_KEY and API_MODEL_NAME are
    honoured, and each setting of the server as QUIRE_ and its name in capitals.
    """
    from quire.cli.serve import run_server

    show_log(logging.INFO)
    run_server(words)
    return 0


def prompt(
    *words: Words,
    template: Value = None,
    message: Value = None,
    elements: Flag = False,
    ids: Flag = False,
    diff: Value = None,
) -> int:
    """Show what is sent to the model, its control tokens coloured.

    The conversation comes from the standard input: JSON with messages, and
    perhaps system, tools and enable_thinking, as /save writes it; or plain
    text, one message. A folder's own chat template is taken unless a template
    is named; a named one needs no folder.

      quire prompt saves/my-model --ids < conversation.json
      quire prompt --template llama3 --diff qwen3 --message "Hello"

    Parameters
    ----------
    template
        A named template, in place of the model's own.
    message
        One message of a user, in place of the standard input.
    elements
        Print JSON of the template's elements; needs no model with a named template.
    ids
        Show each token with its id.
    diff
        Show the difference to this template.
    """
    from quire.cli.prompt import PromptOptions, show_prompt

    show_log(logging.WARNING)
    options = PromptOptions(template, message, elements, ids, diff)
    show_prompt(words, options, sys.stdin, sys.stdout)
    return 0


def deploy(
    *words: Words,
    gpus: Value = None,
    nodes: Value = None,
    gpus_per_node: Value = None,
    multi_node: Value = None,
    address: Value = None,
    memory: Value = None,
    adapter_storage: Value = None,
) -> int:
    """Print the vllm serve command, or Ray Serve's YAML, of a configuration.

    Neither vLLM nor a GPU is needed here: the server's are described by options.

      quire deploy vllm config.yaml --gpus 4
      quire deploy vllm config.yaml --nodes 2 --gpus-per-node 8 --multi-node ray
      quire deploy ray config.yaml --gpus 8 > serve.yaml

    Parameters
    ----------
    gpus
        GPUs of the server: 1 if not given; 0 is a server with a CPU alone.
    nodes
        Machines of the server.
    gpus_per_node
        GPUs on each of them.
    multi_node
        What joins them: vllm, its own launcher, or ray.
    address
        The first machine's address, as the others reach it.
    memory
        Free memory of a CPU server, such as 64GiB; this machine's if not given.
    adapter_storage
        Where Ray Serve finds the adapters, such as s3://bucket/adapters.
    """
    from quire.cli.deploy import DeployOptions, write_deployment

    show_log(logging.WARNING)
    options = DeployOptions(
        gpus, nodes, gpus_per_node, multi_node, address, memory, adapter_storage
    )
    write_deployment(words, options, sys.stdout)
    return 0


def bench(
    *words: Words,
    streams: Value = None,
    prompt_tokens: Value = None,
    new_tokens: Value = None,
    turns: Value = None,
    starts: Value = None,
    quality: Flag = False,
    text: Value = None,
    json: Value = None,
    plot: Value = None,
) -> int:
    """Measure latency, throughput, start and memory of a configuration, or of two.

    The configuration is given as to quire chat, and each runs in a process of its
    own. After --against stands another, or what it changes of the first; the two
    are then measured in turns. Answers are greedy unless a temperature is given.

      quire bench saves/my-model --streams 1,16,64 --plot speed.png
      quire bench config.yaml --against native_num_threads=1
      quire bench model-gptq --quality --against model --json result.json

    Parameters
    ----------
    streams
        Requests at once, one load after the other: 1,8,32 if not given.
    prompt_tokens
        Tokens of each prompt, about: 64 if not given. The template's come on top.
    new_tokens
        Tokens of each answer: 64 if not given.
    turns
        How often each load is measured: 3 times if not given.
    starts
        Processes started for each configuration: 1 if not given.
    quality
        Measure the perplexity too, of the answers of quire's own FAQ.
    text
        A file of plain text to measure the perplexity on, in their place.
    json
        Write all figures to this file.
    plot
        Write a picture to this PNG file; needs matplotlib, as quire-llm[bench] brings it.
    """
    from quire.cli.bench import BenchOptions, run_bench_command

    show_log(logging.WARNING)
    options = BenchOptions(
        streams, prompt_tokens, new_tokens, turns, starts, quality, text, json, plot
    )
    run_bench_command(words, options, sys.stdout)
    return 0


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


def _chat(words: Sequence[str], make_model: MakeModel) -> int:
    interactive = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    show_log(logging.INFO if interactive else logging.WARNING)
    start = read_start(words)
    if interactive:
        from quire.cli.interactive import chat_in_terminal

        chat_in_terminal(start, make_model)
        return 0
    from quire.cli.plain import read_message_text, run_filter

    if is_terminal(sys.stdin):
        note("Type the message; Ctrl-D ends it.")
    text = read_message_text(sys.stdin)
    if start.is_demo:
        note("No model was named: quire's small demo model answers.")
    with make_model(start.arguments) as model:
        run_filter(model, text, sys.stdout, start.options)
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


def _write_any_text() -> None:
    """What the terminal's encoding lacks is written as `?`, never a crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
