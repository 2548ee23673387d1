"""What is to be measured, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from quire.bench.text import Passage
from quire.errors import ConfigError

MAX_STREAMS = 4096
MAX_TOKENS = 1_000_000


@dataclass(frozen=True)
class BenchSettings:
    """The loads and how often each is measured.

    Each load is as many requests at once as `streams` says, of about `prompt_tokens` tokens and with
    `new_tokens` tokens of answer; EOS ends none of them. `starts` counts the processes that are
    started for each configuration. `passages` are what perplexity is measured on; none measures none.
    """

    streams: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = 64
    new_tokens: int = 64
    turns: int = 3
    starts: int = 1
    passages: tuple[Passage, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that makes no sense."""
        if not self.streams:
            raise ConfigError("--streams needs a number, or several: --streams 1,8,32.")
        for streams in self.streams:
            _check("--streams", streams, 1, MAX_STREAMS)
        _check("--prompt-tokens", self.prompt_tokens, 1, MAX_TOKENS)
        # The first token's time is no gap between tokens: it takes two for one.
        _check("--new-tokens", self.new_tokens, 2, MAX_TOKENS)
        _check("--turns", self.turns, 1, 1000)
        _check("--starts", self.starts, 1, 1000)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must be from {low} to {high:,}, not {value:,}.")
