"""A Subject whose figures are given, and that writes down when it was asked for what."""

from __future__ import annotations

from collections.abc import Sequence

from quire.bench.figures import AnswerTimes, LoadTimes, Memory, Quality, StartTimes
from quire.bench.process import Configuration
from quire.bench.text import Passage
from quire.errors import GenerationError


class FakeSubject:
    """`speed` is in tokens a second of one stream; its first turn of each load is absurdly slow."""

    engine = "FakeEngine"

    def __init__(self, name: str, log: list[str], *, speed: float = 100.0, fails: str = "") -> None:
        self.name, self.log, self.speed, self.fails = name, log, speed, fails
        self.start = StartTimes(0.5 / speed, 1.0 / speed)
        self.warm: set[int] = set()
        self.open = True
        self._note("start")

    def load(self, streams: int, prompt_tokens: int, new_tokens: int) -> LoadTimes:
        self._note(f"load {streams}")
        gap = 1.0 / self.speed if streams in self.warm else 1000.0
        self.warm.add(streams)
        answer = AnswerTimes(
            first=2 * gap,
            last=(new_tokens + 1) * gap,
            tokens=new_tokens,
            prompt_tokens=prompt_tokens,
            gaps=(gap,) * (new_tokens - 1),
        )
        return LoadTimes(answer.last, (answer,) * streams)

    def quality(self, passages: Sequence[Passage]) -> Quality:
        self._note("quality")
        return Quality((-1.0, -2.0, -3.0 - 100 / self.speed))

    def memory(self) -> Memory:
        self._note("memory")
        return Memory(2**30, 2**20)

    def close(self) -> None:
        self._note("close")
        self.open = False

    def _note(self, what: str) -> None:
        self.log.append(f"{self.name} {what}")
        if what == self.fails:
            raise GenerationError("a made-up fault")


def configuration(name: str) -> Configuration:
    return Configuration(name, {"model_name_or_path": name, "hf_hub_token": "secret"}, {})
