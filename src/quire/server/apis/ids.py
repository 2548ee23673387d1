"""The ids and times in answers: new ones, or those that follow from what was asked."""

from __future__ import annotations

import hashlib
import secrets
import time


class AnswerIds:
    """Ids that nobody else has, and the time of the clock."""

    def new(self, prefix: str) -> str:
        """An id, such as `chatcmpl-3f...`; `prefix` ends with its separator."""
        return prefix + self._digits(32)

    def call_id(self) -> str:
        """The id of a call: nine letters and digits, which every chat template takes."""
        return "c" + self._digits(8)

    def now(self) -> int:
        """The time that an answer gives as its own, in seconds."""
        return int(time.time())

    def _digits(self, count: int) -> str:
        """So many hexadecimal digits, others each time."""
        return secrets.token_hex(count // 2)


NEW_IDS = AnswerIds()


class DerivedIds(AnswerIds):
    """The same ids and the same time for whoever asks the same again, in the same order."""

    def __init__(self, origin: str, created: int = 0) -> None:
        """Make ids.

        Args:
            origin: what they follow from; another one gives other ids.
            created: the time of all answers.
        """
        self._origin, self._created, self._count = origin, created, 0

    def now(self) -> int:
        return self._created

    def _digits(self, count: int) -> str:
        self._count += 1
        return hashlib.sha256(f"{self._origin}:{self._count}".encode()).hexdigest()[:count]
