"""Whether and where the conversation of this terminal is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from quire.cli.chat.chat_store import ChatStore, KeptChat
from quire.cli.chat.session import Session
from quire.cli.signals import unbroken
from quire.errors import QuireError

_PATH_ENDINGS = ("_path", "_file", "_folder", "_dir", "_config")

_FIRST = "Kept on this machine; /keep says more."
"""Said once, and so short that it is one line of a narrow terminal."""


class Keeping:
    """Keeps one conversation after another in a store, as long as it is `on`."""

    def __init__(self, store: ChatStore, words: Sequence[str], model: str, *, on: bool) -> None:
        """`words` are those of the command line, as `kept_words` gives them, `model` a name to show."""
        self.store, self.words, self.model, self.on = store, tuple(words), model, on
        self.chat: KeptChat | None = None
        self._kept: dict[str, Any] | None = None

    def begin_anew(self) -> None:
        """What comes is another conversation; the one until now stays as it was kept."""
        self.chat = self._kept = None

    def go_on(self, number: int, session: Session) -> KeptChat:
        """Have the session go on with a conversation of the store.

        Raises:
            QuireError: there is none of this number, or it cannot be read.
        """
        self.chat, content = self.store.load(number)
        session.take_over(content)
        self._kept = session.to_dict()
        return self.chat

    def keep(self, session: Session) -> str | None:
        """Write the session where it has changed; return what the user should be told, if anything."""
        # Ctrl-C between the file's new state and ours would have it look changed by somebody else.
        with unbroken():
            return self._keep(session)

    def _keep(self, session: Session) -> str | None:
        content = session.to_dict()
        if not self.on or not session.turns or content == self._kept:
            return None
        is_first, before = not self.store.path.exists(), self.chat
        try:
            self.chat = self.store.save(
                before, content, title=session.title, model=self.model, words=self.words
            )
        except QuireError as error:
            self.on = False
            return f"{error} This conversation is not kept any further; /keep on tries again."
        self._kept = content
        if is_first:
            return _FIRST
        if before is not None and self.chat.number != before.number:
            return (
                f"Conversation {before.number} was changed elsewhere meanwhile: this one is kept as "
                f"{self.chat.number}."
            )
        return None

    def state(self) -> str:
        """What is kept, in words."""
        if not self.on:
            return "not kept (/keep on)"
        number = "" if self.chat is None else f" as {self.chat.number}"
        return f"kept{number} in {self.store.path}"


def short_name(name: str) -> str:
    """A model's name for a list: of a path its last folder or file."""
    return os.path.basename(name.rstrip("/\\")) or name


def kept_words(words: Sequence[str]) -> list[str]:
    """A command line's words as they may be kept: no secrets, and paths that hold in any folder."""
    from quire.arguments import FIELDS, read_assignments, split_source
    from quire.arguments.base import is_secret

    source, rest = split_source(words)
    kept = [] if source is None else [_anywhere(source)]
    for key, value in read_assignments(rest).items():
        field = FIELDS.get(key)
        if field is not None and is_secret(field):
            continue
        if isinstance(value, str) and field is not None:
            is_path = key.endswith(_PATH_ENDINGS)
            kept.append(f"{key}={','.join(map(_anywhere, value.split(','))) if is_path else value}")
        else:
            kept.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    return kept


def _anywhere(name: str) -> str:
    path = os.path.expanduser(name)
    return os.path.abspath(path) if os.path.exists(path) else name
