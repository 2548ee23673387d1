"""What is measured, as plain values, and the figures that are made of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from quire.arguments import FIELDS
from quire.arguments.base import is_secret

PERCENTILES = (50, 90, 99)
SECRETS = frozenset(key for key, field in FIELDS.items() if is_secret(field))
"""Arguments whose values are never shown."""


@dataclass(frozen=True)
class AnswerTimes:
    """One answer. Times are seconds from the moment that it was asked for."""

    first: float
    """When its first token came."""
    last: float
    tokens: int
    prompt_tokens: int
    gaps: tuple[float, ...] = ()
    """Seconds between tokens; several that came at once share their gap evenly."""


@dataclass(frozen=True)
class LoadTimes:
    """One turn of one load: requests that were all sent at once, and the seconds until the last end."""

    seconds: float
    answers: tuple[AnswerTimes, ...]

    @property
    def rate(self) -> float:
        """Tokens a second of all answers together."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> LoadTimes:
        """The opposite of `dataclasses.asdict`."""
        answers = (
            replace(AnswerTimes(**answer), gaps=tuple(answer["gaps"]))
            for answer in content["answers"]
        )
        return cls(content["seconds"], tuple(answers))


@dataclass(frozen=True)
class LoadFigures:
    """One load over all its turns. Times are in seconds, percentiles by their number."""

    streams: int
    rate: float
    """Tokens a second, the median of the turns."""
    first: Mapping[int, float]
    gap: Mapping[int, float]
    whole: Mapping[int, float]
    """From the request to the last token of its answer."""
    prompt_tokens: float
    """The mean; templates add to what was asked for."""
    new_tokens: float

    @classmethod
    def of(cls, streams: int, turns: Sequence[LoadTimes]) -> LoadFigures:
        answers = [answer for turn in turns for answer in turn.answers]
        return cls(
            streams=streams,
            rate=statistics.median(turn.rate for turn in turns),
            first=percentiles([answer.first for answer in answers]),
            gap=percentiles([gap for answer in answers for gap in answer.gaps]),
            whole=percentiles([answer.last for answer in answers]),
            prompt_tokens=statistics.fmean(answer.prompt_tokens for answer in answers),
            new_tokens=statistics.fmean(answer.tokens for answer in answers),
        )


@dataclass(frozen=True)
class StartTimes:
    """Seconds from a process's start until the model was loaded, and until its first token."""

    loaded: float
    first_token: float


@dataclass(frozen=True)
class Memory:
    """Bytes. None where the engine does not say."""

    peak_rss: int | None
    """The most that the engine's processes held at once, mapped weights among it."""
    weights: int | None = None
    kv_cache: int | None = None


@dataclass(frozen=True)
class Quality:
    """How well the model predicts a text: the log-probability (natural) of each token that was scored."""

    logprobs: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        return _exp(-statistics.fmean(self.logprobs))

    @property
    def error(self) -> float:
        """The standard error of the perplexity, taking the tokens as independent."""
        return self.perplexity * _standard_error(self.logprobs)

    def against(self, other: Quality) -> tuple[float, float]:
        """By how many nats a token this one is worse than the other: the mean, and its standard error.

        Both were measured on the same tokens, so the difference is far surer than either.
        """
        pairs = zip(self.logprobs, other.logprobs, strict=True)
        differences = [theirs - ours for ours, theirs in pairs]
        return statistics.fmean(differences), _standard_error(differences)


@dataclass(frozen=True)
class Figures:
    """All that was measured of one configuration."""

    name: str
    arguments: Mapping[str, Any]
    engine: str
    start: StartTimes
    loads: tuple[LoadFigures, ...]
    memory: Memory
    quality: Quality | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; the quality is its summary, not the log-probability of each token."""
        content = {**asdict(self), "arguments": _without_secrets(self.arguments)}
        if self.quality is not None:
            content["quality"] = {
                "perplexity": _finite(self.quality.perplexity),
                "standard_error": _finite(self.quality.error),
                "tokens": len(self.quality.logprobs),
            }
        return content


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """The percentiles of PERCENTILES, interpolated; none of no values."""
    if not values:
        return {}
    ordered = sorted(values)
    result: dict[int, float] = {}
    for percent in PERCENTILES:
        position = (len(ordered) - 1) * percent / 100
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        result[percent] = ordered[low] + (ordered[high] - ordered[low]) * (position - low)
    return result


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _without_secrets(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: "***" if key in SECRETS else value for key, value in arguments.items()}
