"""ChatModel, and the chat in the terminal."""

import sys

from quire.chat import ChatModel

__all__ = ["ChatModel", "run_chat"]


def run_chat() -> int:
    """Chat in the terminal, with the arguments of this process's command line (`quire chat`)."""
    from quire.cli.main import main

    return main(["chat", *sys.argv[1:]])
