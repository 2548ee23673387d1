"""`llamafactory-cli`, or `python -m llamafactory.cli`: quire's commands by LLaMA-Factory's names.

Exit codes are quire's: 0 done, 1 the engine or the model failed, 2 the words are wrong or the
command is not of the chat stack, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys

_PASSED_ON = ("chat", "api", "webchat")
_REFUSED = ("env", "eval", "export", "pt", "rm", "ppo", "dpo", "kto", "sft", "train", "webui")
_HELP = """Usage: llamafactory-cli COMMAND [CONFIG.yaml] [KEY=VALUE | --KEY VALUE ...]

  chat      chat with a model in the terminal; with piped input, answer it and end
  api       serve a model with OpenAI's interface, as `quire serve`
  webchat   the same; the chat page is at its address
  version   show the versions
  help      show this text

This is quire's compatibility package: inference only. `lmf` is short for llamafactory-cli."""


def main() -> int:
    """Run the command that this process's command line names, and return its exit code."""
    words = sys.argv[1:] or ["help"]
    command = words[0]
    if command in _PASSED_ON:
        from quire.cli.main import main as quire

        # LLaMA-Factory's API looks at no request's `model`, and its examples name one that is none.
        os.environ.setdefault("QUIRE_ANY_MODEL", "true")
        return quire(words)
    if command in ("help", "--help", "-h"):
        print(_HELP)
        return 0
    if command in ("version", "--version"):
        print(_versions())
        return 0
    print(f"llamafactory-cli: {_refusal(command)}", file=sys.stderr)
    return 2


def _refusal(command: str) -> str:
    if command in _REFUSED:
        return (
            f"{command!r}: this is quire's compatibility package, which does inference only; the "
            "real LLaMA-Factory does that."
        )
    known = ", ".join((*_PASSED_ON, "version", "help"))
    return f"Unknown command {command!r}; there are {known}."


def _versions() -> str:
    import quire_llamafactory

    import quire

    return (
        f"quire-llamafactory {quire_llamafactory.__version__}, on quire {quire.__version__}; "
        "LLaMA-Factory itself is not here."
    )


if __name__ == "__main__":
    sys.exit(main())
