"""The measurement: one configuration, or two in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from quire.bench.figures import Figures, LoadFigures, LoadTimes, Start
from quire.bench.settings import BenchSettings
from quire.bench.subject import Configuration, ProcessSubject, Subject

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
        QuireError: a configuration cannot be loaded, or a request failed; it names which.
    """
    with ExitStack() as stack:
        starts: list[Start] = []
        subjects: list[Subject] = []
        for one in configurations:
            progress(f"Starting {one.name} ...")
            with _naming(one, len(configurations)):
                starts.append(_start(one, settings.starts - 1, make))
                subject = make(one)
            stack.callback(subject.close)
            subjects.append(subject)
        bench = _Bench(configurations, subjects, settings, progress)
        return bench.run(starts)
