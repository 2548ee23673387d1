"""The measurement: one configuration, or two in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from quire.bench.figures import Figures, LoadFigures, LoadTimes, Quality, StartTimes
from quire.bench.process import Configuration, ProcessSubject, Subject
from quire.bench.text import Passage
from quire.errors import ConfigError, QuireError

MAX_STREAMS = 4096
MAX_TOKENS = 1_000_000

Progress: TypeAlias = Callable[[str], None]
"""Takes a line that says what is being measured."""
MakeSubject: TypeAlias = Callable[[Configuration], Subject]


@dataclass(frozen=True)
class BenchSettings:
    """The loads, and how often each is measured; checked before anything is loaded.

    Each of `streams` is a load of so many requests at once, of about `prompt_tokens` tokens and with
    `new_tokens` tokens of answer, which EOS does not end. `starts` counts the processes started for
    each configuration. Perplexity is measured on the `passages`, if there are any.

    Raises, when made:
        ConfigError: a number out of its range.
    """

    streams: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = 64
    new_tokens: int = 64
    turns: int = 3
    starts: int = 1
    passages: tuple[Passage, ...] = ()

    def __post_init__(self) -> None:
        if not self.streams:
            raise ConfigError("--streams needs a number, or several: --streams 1,8,32.")
        for streams in self.streams:
            _check("--streams", streams, 1, MAX_STREAMS)
        _check("--prompt-tokens", self.prompt_tokens, 1, MAX_TOKENS)
        # Two at least: the time between tokens is measured, and the first token has none before it.
        _check("--new-tokens", self.new_tokens, 2, MAX_TOKENS)
        _check("--turns", self.turns, 1, 1000)
        _check("--starts", self.starts, 1, 1000)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must be from {low} to {high:,}, not {value:,}.")


def run_bench(
    configurations: Sequence[Configuration],
    settings: BenchSettings,
    progress: Progress,
    make: MakeSubject = ProcessSubject,
) -> list[Figures]:
    """Measure all configurations in turns, so that a slow minute of the machine hits all alike.

    Args:
        progress: gets a line before each part.
        make: starts a configuration.

    Raises:
        QuireError: a configuration cannot be loaded, or a request failed; of several it says which.
    """
    with ExitStack() as stack:
        bench = _Bench(configurations, settings, progress)
        bench.start(make, stack)
        bench.measure_loads()
        bench.measure_quality()
        return bench.figures()


class _Bench:
    """Subjects side by side; everything is a list in the configurations' order."""

    def __init__(
        self,
        configurations: Sequence[Configuration],
        settings: BenchSettings,
        progress: Progress,
    ) -> None:
        self._configurations, self._settings, self._progress = configurations, settings, progress
        self._subjects: list[Subject] = []
        self._starts: list[list[StartTimes]] = [[] for _ in configurations]
        self._loads: list[list[LoadFigures]] = [[] for _ in configurations]
        self._qualities: list[Quality | None] = [None for _ in configurations]

    def start(self, make: MakeSubject, stack: ExitStack) -> None:
        """Start each as often as the settings say, in turns; the last process of each stays."""
        for turn in range(self._settings.starts):
            last = turn + 1 == self._settings.starts
            for index, configuration in enumerate(self._configurations):
                self._progress(f"Starting {configuration.name}")
                with self._naming(index):
                    subject = make(configuration)
                self._starts[index].append(subject.start)
                if last:
                    stack.callback(subject.close)
                    self._subjects.append(subject)
                else:
                    subject.close()

    def measure_loads(self) -> None:
        """Measure each load: a turn to warm up, which is not counted, then the turns."""
        for streams in self._settings.streams:
            turns: list[list[LoadTimes]] = [[] for _ in self._subjects]
            for turn in range(-1, self._settings.turns):
                for index, subject in enumerate(self._subjects):
                    name = self._configurations[index].name
                    what = "warming up" if turn < 0 else f"turn {turn + 1}"
                    self._progress(f"{name}: {streams} at once, {what}")
                    with self._naming(index):
                        times = self._load(subject, streams)
                    if turn >= 0:
                        turns[index].append(times)
            for index, measured in enumerate(turns):
                self._loads[index].append(LoadFigures.of(streams, measured))

    def _load(self, subject: Subject, streams: int) -> LoadTimes:
        settings = self._settings
        return subject.load(streams, settings.prompt_tokens, settings.new_tokens)

    def measure_quality(self) -> None:
        """Measure the perplexity, where there are passages."""
        if not self._settings.passages:
            return
        for index, subject in enumerate(self._subjects):
            self._progress(f"{self._configurations[index].name}: perplexity")
            with self._naming(index):
                self._qualities[index] = subject.quality(self._settings.passages)

    def figures(self) -> list[Figures]:
        """All that was measured; the memory is read last, when it has been at its peak."""
        return [
            Figures(
                name=configuration.name,
                arguments=configuration.arguments,
                engine=subject.engine,
                start=_median(starts),
                loads=tuple(loads),
                memory=subject.memory(),
                quality=quality,
            )
            for configuration, subject, starts, loads, quality in zip(
                self._configurations,
                self._subjects,
                self._starts,
                self._loads,
                self._qualities,
                strict=True,
            )
        ]

    @contextmanager
    def _naming(self, index: int) -> Generator[None]:
        """Put the configuration's name before an error, where there are several."""
        try:
            yield
        except QuireError as error:
            if len(self._configurations) == 1:
                raise
            raise type(error)(f"{self._configurations[index].name}: {error}") from None


def _median(starts: Sequence[StartTimes]) -> StartTimes:
    return StartTimes(
        statistics.median(start.loaded for start in starts),
        statistics.median(start.first_token for start in starts),
    )
