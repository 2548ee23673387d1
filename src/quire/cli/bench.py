"""`quire bench`: words into configurations and settings; the table, the JSON and the picture out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from quire import __version__
from quire.cli.model import read_start
from quire.cli.terminal import can_redraw, harmless, note
from quire.errors import ConfigError, UnsupportedOptionError, nearest

if TYPE_CHECKING:
    from quire.bench.figures import Figures
    from quire.bench.settings import BenchSettings
    from quire.bench.subject import Configuration
    from quire.bench.text import Passage

AGAINST = "--against"


@dataclass(frozen=True)
class BenchOptions:
    """The command's own options as they were given; see `quire bench --help`."""

    streams: str | None = None
    prompt_tokens: str | None = None
    new_tokens: str | None = None
    turns: str | None = None
    starts: str | None = None
    quality: bool = False
    text: str | None = None
    json: str | None = None
    plot: str | None = None


def run_bench_command(words: Sequence[str], options: BenchOptions, output: TextIO) -> None:
    """Measure what the words describe, and write a table and the files that were asked for.

    Raises:
        QuireError: the words or options are wrong, a configuration cannot be loaded, or a request
            failed.
    """
    from quire.bench.run import run_bench

    settings = _read_settings(options)
    configurations = _read_configurations(words)
    _check_files(options)
    errors = Console(file=sys.stderr)
    with _Progress(errors) as progress:
        figures = run_bench(configurations, settings, progress.say)
    _write_table(figures, settings, output)
    if options.json is not None:
        _write_json(figures, settings, Path(options.json))
    if options.plot is not None:
        from quire.bench.plot import write_plot

        write_plot(figures, Path(options.plot))


# --- from words ----------------------------------------------------------------------------------


def _read_configurations(words: Sequence[str]) -> list[Configuration]:
    """One configuration, or two: the words before `--against`, and those after it."""
    first, second = _split(words)
    found = [_read_configuration(first)]
    if read_start(first).is_demo:
        note("No model was named: quire's small demo model is measured.")
    if second is not None:
        if not second:
            raise ConfigError(f"{AGAINST} needs a configuration: a file, a folder, or KEY=VALUE.")
        found.append(_read_configuration(_completed(second, first)))
        if found[0].name == found[1].name:
            found = [
                _renamed(one, f"{mark}: {one.name}") for one, mark in zip(found, "AB", strict=True)
            ]
    return found


def _split(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The words before and after `--against` (or `--against=WORD`)."""
    places = [
        place
        for place, word in enumerate(words)
        if word == AGAINST or word.startswith(f"{AGAINST}=")
    ]
    if not places:
        return list(words), None
    if len(places) > 1:
        raise ConfigError(f"{AGAINST} stands once: two configurations are compared.")
    (place,) = places
    value = words[place].partition("=")[2]
    return list(words[:place]), [*([value] if value else []), *words[place + 1 :]]


def _completed(second: Sequence[str], first: Sequence[str]) -> list[str]:
    """Words after `--against` that name no model or file of their own change the first's."""
    from quire.arguments import read_assignments, split_source

    source, rest = split_source(second)
    if source is not None or "model_name_or_path" in read_assignments(rest):
        return list(second)
    return [*first, *second]


def _read_configuration(words: Sequence[str]) -> Configuration:
    """Read the words as `quire chat` does.

    Greedy unless a temperature is given, and EOS ends nothing, so that each turn does equal work.
    """
    from quire.arguments import FIELDS, get_infer_args
    from quire.bench.subject import Configuration

    start = read_start(words)
    for name in ("n", "num_return_sequences"):
        if name in start.options:
            raise UnsupportedOptionError(f"{name}: a benchmark's requests have one answer each.")
    _check_keys(start.arguments, FIELDS)
    get_infer_args(start.arguments)
    options = {"ignore_eos": True, **start.options}
    if not {"temperature", "do_sample"} & set(start.arguments):
        options["temperature"] = 0.0
    return Configuration(_name(words), start.arguments, options)


def _check_keys(arguments: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """A misspelt option of this command looks like an argument: name the option."""
    names = [*(name.replace("_", "-") for name in BenchOptions.__dataclass_fields__), "against"]
    for key in arguments:
        word = key.replace("_", "-")
        near = nearest(word, names)
        if key not in known and not nearest(key, known) and near:
            offer = near.replace(" '", " '--")
            raise ConfigError(f"Unknown option '--{word}'{offer}")


def _name(words: Sequence[str]) -> str:
    """A configuration's name in the table: its words, with a path cut to its last part."""
    shown = [Path(word).name if "=" not in word and "/" in word else word for word in words]
    hidden = [_without_secret(word) for word in shown]
    return " ".join(hidden) or "the demo model"


def _without_secret(word: str) -> str:
    name, equals, _ = word.partition("=")
    is_secret = name.lstrip("-").replace("-", "_") in ("hf_hub_token", "remote_api_key")
    return f"{name}=***" if equals and is_secret else word


def _renamed(one: Configuration, name: str) -> Configuration:
    return replace(one, name=name)


def _read_settings(options: BenchOptions) -> BenchSettings:
    from quire.bench.settings import BenchSettings
    from quire.bench.text import own_passages, read_passages

    passages: tuple[Passage, ...] = ()
    if options.text is not None:
        passages = read_passages(Path(options.text).expanduser())
    elif options.quality:
        passages = own_passages()
    numbers: dict[str, Any] = {
        name: _whole(f"--{name.replace('_', '-')}", value)
        for name in ("prompt_tokens", "new_tokens", "turns", "starts")
        if (value := getattr(options, name)) is not None
    }
    settings = BenchSettings(passages=passages)
    if options.streams is not None:
        streams = [_whole("--streams", part.strip()) for part in options.streams.split(",")]
        settings = replace(settings, streams=tuple(dict.fromkeys(streams)))
    return replace(settings, **numbers)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"{name} takes a whole number, not {text!r}.")
    return int(text)


def _check_files(options: BenchOptions) -> None:
    """What cannot be written is said before minutes of measuring, not after."""
    for name in ("json", "plot"):
        value = getattr(options, name)
        if value is None:
            continue
        file = Path(value)
        if file.is_dir() or not file.parent.is_dir():
            raise ConfigError(f"--{name} {value}: no file can be written there.")
    if options.plot is not None:
        from quire.bench.plot import check_can_plot

        check_can_plot()


# --- to people -----------------------------------------------------------------------------------


class _Progress:
    """The line that says what is being measured: drawn over on a terminal, left out elsewhere."""

    def __init__(self, console: Console) -> None:
        self._status = Status("", console=console) if can_redraw(console) else None

    def say(self, text: str) -> None:
        if self._status is not None:
            self._status.update(Text(f"{harmless(text)} ..."))

    def __enter__(self) -> _Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def _write_table(figures: Sequence[Figures], settings: BenchSettings, output: TextIO) -> None:
    from quire.bench.table import table_rows

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
    load = figures[0].loads[0]
    console.print(
        f"{settings.turns} turns; prompts of {load.prompt_tokens:.0f} tokens, answers of "
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
