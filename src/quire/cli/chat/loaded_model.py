"""The model that answers in a chat, and how another takes its place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from quire.characters import harmless
from quire.cli.chat.keeping import short_name
from quire.cli.chat.waiting import Waiting
from quire.cli.hub import fetch_models
from quire.cli.terminal import no_echo
from quire.cli.words import MakeModel, Start, read_start
from quire.errors import QuireError

if TYPE_CHECKING:
    from quire.chat import ChatModel


class LoadedModel:
    """One model at a time: two may not fit into the memory."""

    def __init__(self, words: Sequence[str], make_model: MakeModel) -> None:
        """Load the model of a command line's words.

        Raises:
            QuireError: the words make no sense, or the model cannot be loaded.
        """
        self._make_model = make_model
        self.words, self.start = tuple(words), read_start(words)
        self.model = self._load(self.start)

    @property
    def name(self) -> str:
        """What the model is called to the user."""
        return self.start.name

    def change(self, words: Sequence[str]) -> None:
        """Have the model of other words answer; where that one cannot be loaded, the old one again.

        Raises:
            QuireError: the words make no sense, or the model cannot be loaded.
        """
        start = read_start(words)
        _find(start)
        self.model.close()
        try:
            self.model = self._load(start)
        except (QuireError, KeyboardInterrupt):
            self.model = self._load(self.start)
            raise
        self.words, self.start = tuple(words), start

    def close(self) -> None:
        """Close the model that is loaded now."""
        self.model.close()

    def _load(self, start: Start) -> ChatModel:
        with no_echo():
            fetch_models(start.arguments)
            with loading(start):
                return self._make_model(start.arguments)


def loading(start: Start) -> Waiting:
    """The line that stands while a model is loaded; nothing where errors go to no terminal."""
    console = Console(file=sys.stderr, highlight=False)
    return Waiting(console, lambda: f"Loading {harmless(short_name(start.name))} ...")


def _find(start: Start) -> None:
    """Raise for a model that is not there, before the one that is loaded is given up."""
    from quire.arguments import get_infer_args
    from quire.model_folder import find_model

    args = get_infer_args(start.arguments).model
    if args.infer_backend != "remote":
        find_model(args)
