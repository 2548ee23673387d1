"""The measurement: one configuration, or two in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager

from quire.bench.figures import Figures, LoadFigures, LoadTimes, Quality, Start
from quire.bench.settings import BenchSettings
from quire.bench.subject import Configuration, ProcessSubject, Subject
from quire.errors import QuireError

Progress = Callable[[str], None]
MakeSubject = Callable[[Configuration], Subject]


def run_bench(
    configurations: Sequence[Configuration],
    settings: BenchSettings,
    progress: Progress,
    make: MakeSubject = ProcessSubject,
) -> list[Figures]:
    """Measure all configurations in turns, so that a slow minute of the machine hits all alike.

    `progress` gets a line before each part.

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
        self._starts: list[list[Start]] = [[] for _ in configurations]
        self._loads: list[list[LoadFigures]] = [[] for _ in configurations]
        self._qualities: list[Quality | None] = [None for _ in configurations]

    def start(self, make: MakeSubject, stack: ExitStack) -> None:
        """Start each as often as the settings say, in turns; the last process stays."""
        for turn in range(self._settings.starts):
            last = turn + 1 == self._settings.starts
            for place, configuration in enumerate(self._configurations):
                self._progress(f"Starting {configuration.name}")
                with self._naming(place):
                    subject = make(configuration)
                self._starts[place].append(subject.start)
                if last:
                    stack.callback(subject.close)
                    self._subjects.append(subject)
                else:
                    subject.close()

    def measure_loads(self) -> None:
        """Each load: a turn that is not counted, then the turns."""
        for streams in self._settings.streams:
            turns: list[list[LoadTimes]] = [[] for _ in self._subjects]
            for turn in range(-1, self._settings.turns):
                for place, subject in enumerate(self._subjects):
                    name = self._configurations[place].name
                    what = "warming up" if turn < 0 else f"turn {turn + 1}"
                    self._progress(f"{name}: {streams} at once, {what}")
                    with self._naming(place):
                        found = self._load(subject, streams)
                    if turn >= 0:
                        turns[place].append(found)
            for place, found in enumerate(turns):
                self._loads[place].append(LoadFigures.of(streams, found))

    def _load(self, subject: Subject, streams: int) -> LoadTimes:
        settings = self._settings
        return subject.load(streams, settings.prompt_tokens, settings.new_tokens)

    def measure_quality(self) -> None:
        """Perplexity, where there is something to measure it on."""
        if not self._settings.passages:
            return
        for place, subject in enumerate(self._subjects):
            self._progress(f"{self._configurations[place].name}: perplexity")
            with self._naming(place):
                self._qualities[place] = subject.quality(self._settings.passages)

    def figures(self) -> list[Figures]:
        """All that was measured; the memory is asked for last, when it has been at its most."""
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
    def _naming(self, place: int) -> Generator[None]:
        """Of several configurations an error says which."""
        try:
            yield
        except QuireError as error:
            if len(self._configurations) == 1:
                raise
            raise type(error)(f"{self._configurations[place].name}: {error}") from None


def _median(starts: Sequence[Start]) -> Start:
    return Start(
        statistics.median(start.loaded for start in starts),
        statistics.median(start.first_token for start in starts),
    )
