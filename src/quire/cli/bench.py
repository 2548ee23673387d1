"""`quire bench`: words into configurations and settings; the table, the JSON and the picture out."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cyclopts import Parameter

from quire import __version__
from quire.characters import harmless
from quire.cli.hub import fetch_models
from quire.cli.terminal import can_redraw, note, show_log
from quire.cli.words import Flag, Value, Words, read_integer, read_start, refuse_misspelt_options
from quire.errors import ConfigError, UnsupportedOptionError

if TYPE_CHECKING:
    from quire.bench.figures import Figures
    from quire.bench.process import Configuration
    from quire.bench.run import BenchSettings, Progress
    from quire.bench.text import Passage

AGAINST = "--against"


@Parameter(name="*")
@dataclass(frozen=True)
class BenchOptions:
    """The command's own options, as they were given."""

    streams: Value = None
    """Requests at once, one load after the other: 1,8,32 if not given."""
    prompt_tokens: Value = None
    """Tokens of each prompt, about: 64 if not given. The template's come on top."""
    new_tokens: Value = None
    """Tokens of each answer: 64 if not given."""
    turns: Value = None
    """How often each load is measured: 3 times if not given."""
    starts: Value = None
    """Processes started for each configuration: 1 if not given."""
    quality: Flag = False
    """Measure the perplexity too, of the answers of quire's own FAQ."""
    text: Value = None
    """A file of plain text to measure the perplexity on, in their place."""
    json: Value = None
    """Write all figures to this file."""
    plot: Value = None
    """Write a picture to this PNG file; needs matplotlib, as quire-llm[bench] brings it."""


_NONE = BenchOptions()


def bench(*words: Words, options: BenchOptions = _NONE) -> int:
    """Measure latency, throughput, start and memory of a configuration, or of two.

    The configuration is given as to quire chat, and each runs in a process of its
    own. After --against stands another, or what it changes of the first; the two
    are then measured in turns. Answers are greedy unless a temperature is given.

      quire bench saves/my-model --streams 1,16,64 --plot speed.png
      quire bench config.yaml --against native_num_threads=1
      quire bench model-gptq --quality --against model --json result.json
    """
    show_log(logging.WARNING)
    measure(words, options, sys.stdout)
    return 0


def measure(words: Sequence[str], options: BenchOptions, output: TextIO) -> None:
    """Measure what the words describe, and write a table and the files that were asked for.

    Raises:
        QuireError: the words or options are wrong, a configuration cannot be loaded, or a request
            failed.
    """
    from quire.bench.run import run_bench

    settings = _read_settings(options)
    configurations = _read_configurations(words)
    # What cannot be written is said before minutes of measuring, not after.
    _check_files(options)
    for configuration in configurations:
        fetch_models(configuration.arguments)
    with _progress() as say:
        figures = run_bench(configurations, settings, say)
    _write_table(figures, settings, output)
    if options.json is not None:
        _write_json(figures, settings, Path(options.json))
    if options.plot is not None:
        from quire.bench.report import write_plot

        write_plot(figures, Path(options.plot))


# --- from words ----------------------------------------------------------------------------------


def _read_configurations(words: Sequence[str]) -> list[Configuration]:
    """One configuration, or two: the words before `--against`, and those after it."""
    first, second = _split(words)
    configurations = [_read_configuration(first)]
    if read_start(first).is_demo:
        note("No model was named: quire's small demo model is measured.")
    if second is not None:
        if not second:
            raise ConfigError(f"{AGAINST} needs a configuration: a file, a folder, or KEY=VALUE.")
        configurations.append(_read_configuration(_completed(second, first)))
        if configurations[0].name == configurations[1].name:
            configurations = [
                replace(one, name=f"{mark}: {one.name}")
                for one, mark in zip(configurations, "AB", strict=True)
            ]
    return configurations


def _split(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The words before and after `--against` (or `--against=WORD`)."""
    indices = [
        index
        for index, word in enumerate(words)
        if word == AGAINST or word.startswith(f"{AGAINST}=")
    ]
    if not indices:
        return list(words), None
    if len(indices) > 1:
        raise ConfigError(f"{AGAINST} stands once: two configurations are compared.")
    (index,) = indices
    value = words[index].partition("=")[2]
    return list(words[:index]), [*([value] if value else []), *words[index + 1 :]]


def _completed(second: Sequence[str], first: Sequence[str]) -> list[str]:
    """Words after `--against` that name no model or file of their own change the first's."""
    from quire.arguments import read_assignments, split_source

    source, rest = split_source(second)
    if source is not None or "model_name_or_path" in read_assignments(rest):
        return list(second)
    return [*first, *second]


def _read_configuration(words: Sequence[str]) -> Configuration:
    """Read the words as `quire chat` does.

    Answers are greedy unless a temperature is given, and EOS ends nothing, so that each turn does
    equal work.
    """
    from quire.arguments import get_infer_args
    from quire.bench.process import Configuration

    start = read_start(words)
    for name in ("n", "num_return_sequences"):
        if name in start.options:
            raise UnsupportedOptionError(f"{name}: a benchmark's requests have one answer each.")
    own = [*(field.name for field in fields(BenchOptions)), "against"]
    refuse_misspelt_options(start.arguments, own)
    get_infer_args(start.arguments)
    options = {"ignore_eos": True, **start.options}
    if not {"temperature", "do_sample"} & set(start.arguments):
        options["temperature"] = 0.0
    return Configuration(_name(words), start.arguments, options)


def _name(words: Sequence[str]) -> str:
    """A configuration's name in the table: its words, with a path cut to its last part."""
    shown = [Path(word).name if "=" not in word and "/" in word else word for word in words]
    return " ".join(map(_without_secret, shown)) or "the demo model"


def _without_secret(word: str) -> str:
    from quire.bench.figures import SECRETS

    name, equals, _ = word.partition("=")
    is_secret = name.lstrip("-").replace("-", "_") in SECRETS
    return f"{name}=***" if equals and is_secret else word


def _read_settings(options: BenchOptions) -> BenchSettings:
    from quire.bench.run import BenchSettings
    from quire.bench.text import own_passages, read_passages

    passages: tuple[Passage, ...] = ()
    if options.text is not None:
        passages = read_passages(Path(os.path.expanduser(options.text)))
    elif options.quality:
        passages = own_passages()
    numbers: dict[str, Any] = {
        name: read_integer(f"--{name.replace('_', '-')}", value, 0)
        for name in ("prompt_tokens", "new_tokens", "turns", "starts")
        if (value := getattr(options, name)) is not None
    }
    if options.streams is not None:
        streams = [
            read_integer("--streams", part.strip(), 0) for part in options.streams.split(",")
        ]
        numbers["streams"] = tuple(dict.fromkeys(streams))
    return BenchSettings(passages=passages, **numbers)


def _check_files(options: BenchOptions) -> None:
    for name in ("json", "plot"):
        value = getattr(options, name)
        if value is None:
            continue
        file = Path(value)
        if file.is_dir() or not file.parent.is_dir():
            raise ConfigError(f"--{name} {value}: no file can be written there.")
    if options.plot is not None:
        from quire.bench.report import check_can_plot

        check_can_plot()


# --- to people -----------------------------------------------------------------------------------


@contextmanager
def _progress() -> Generator[Progress]:
    """Shows what is being measured: one line on a terminal, drawn over; nothing elsewhere."""
    from rich.console import Console

    from quire.cli.foreground import SpinningLine

    console = Console(file=sys.stderr)
    if not can_redraw(console):
        yield lambda text: None
        return
    with SpinningLine(console) as line:
        yield lambda text: line.tell(f"{text} ...")


def _write_table(figures: Sequence[Figures], settings: BenchSettings, output: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from quire.bench.report import table_rows

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("")
    for one in figures:
        table.add_column(Text(harmless(one.name)), justify="right", overflow="fold")
    if len(figures) == 2:
        table.add_column("ratio", justify="right")
    for row in table_rows(figures):
        if row.is_first_of_part and table.rows:
            table.add_section()
        cells = [*row.values, *([row.ratio] if len(figures) == 2 else [])]
        table.add_row(row.label, *cells)
    console = Console(file=output, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no width to keep to
    console.print(table)
    load, turns = figures[0].loads[0], settings.turns
    console.print(
        f"{turns} {'turn' if turns == 1 else 'turns'}; prompts of {load.prompt_tokens:.0f} tokens, answers of "
        f"{load.new_tokens:.0f}.",
        style="dim",
    )


def _write_json(figures: Sequence[Figures], settings: BenchSettings, file: Path) -> None:
    from quire.machine.cpus import describe

    content = {
        "quire": __version__,
        "machine": describe(),
        "settings": {key: value for key, value in asdict(settings).items() if key != "passages"},
        "configurations": [one.as_json() for one in figures],
    }
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {file}: {error.strerror or error}.") from None
