"""`quire show`: what a model is, before it is loaded, and whether the native engine runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cyclopts import Parameter

from quire.characters import harmless
from quire.cli.terminal import report_error
from quire.cli.words import Flag, Words
from quire.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from quire.cli.model_summary import ModelSummary, RopeFacts, ShapeFacts, TokenFacts

_WIDTH = 1 << 16  # of a file or a pipe, where no line is folded
_TOKENIZERS = {"gpt2": "byte pairs", "llama": "SentencePiece", "bert": "WordPiece", "t5": "unigram"}
"""What llama.cpp's names mean."""
_SCALINGS = {
    "linear": "linear",
    "dynamic": "dynamic NTK",
    "yarn": "YaRN",
    "llama3": "Llama 3's scaling",
    "longrope": "LongRoPE",
}


@Parameter(name="*")
@dataclass(frozen=True)
class ShowOptions:
    """The command's own options."""

    json: Flag = False
    """Print one JSON object."""


_NONE = ShowOptions()


def show(*words: Words, options: ShowOptions = _NONE) -> int:
    """Show what a model is, without loading it, and whether quire runs it.

    It is a GGUF file, a folder, or a name: of the hub, if it is in the cache, of a
    demo model, or ollama:NAME. Nothing is downloaded.

      quire show model-Q4_K_M.gguf
      quire show saves/my-model --json
      quire show Qwen/Qwen3-0.6B-GGUF:Q8_0

    The exit status is 1 where the native engine refuses the model; it is then
    shown as far as it can be read.
    """
    from quire.arguments import get_infer_args, read_words

    values = read_words(words)
    if values.get("model_name_or_path") is None:
        raise ConfigError("Which one? quire show FILE.gguf, FOLDER or NAME.")
    from quire.cli.model_summary import read_summary
    from quire.model_folder import find_here

    summary = read_summary(find_here(get_infer_args(values).model))
    if options.json:
        _write_json(summary, sys.stdout)
    else:
        _write_table(summary, str(values["model_name_or_path"]), sys.stdout)
    for refusal in summary.refused:
        report_error(refusal)
    return 1 if summary.refused else 0


def _write_json(summary: ModelSummary, output: TextIO) -> None:
    encoding = (getattr(output, "encoding", None) or "utf-8").lower()
    is_ascii = not encoding.startswith("utf")
    text = json.dumps(asdict(summary), ensure_ascii=is_ascii, indent=2)
    output.write(f"{text}\n")
    output.flush()


def _write_table(summary: ModelSummary, called: str, output: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(summary, called):
        table.add_row(label, Text(harmless(value).replace("\n", " ")))
    console = Console(file=output, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    with console.capture() as captured:
        console.print(table)
        if summary.types:
            console.print()
            console.print(_types(summary))
    # Without the spaces after what stands in the last column.
    output.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    output.flush()


def _types(summary: ModelSummary) -> Table:
    from rich.table import Table

    from quire.weights.sizes import size_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("TYPE")
    for label in ("TENSORS", "SIZE", "SHARE"):
        table.add_column(label, justify="right")
    total = sum(one.bytes for one in summary.types)
    for one in summary.types:
        share = f"{100 * one.bytes / total:.1f} %" if total else ""
        table.add_row(harmless(one.type), f"{one.tensors:,}", size_text(one.bytes), share)
    return table


def _rows(summary: ModelSummary, called: str) -> Iterator[tuple[str, str]]:
    yield "model", called
    if summary.name is not None:
        yield "name", summary.name
    yield "format", _format(summary)
    yield "architecture", summary.architecture or "not named"
    if summary.model_type not in (None, summary.architecture):
        yield "model type", str(summary.model_type)
    if summary.parameters:
        bits = 8 * summary.parameter_bytes / summary.parameters
        yield "parameters", f"{_short(summary.parameters)}, of {bits:.3g} bits"
    yield from _shape_rows(summary.shape)
    yield from _tokenizer_rows(summary)
    if summary.left_aside:
        yield "left aside", f"{len(summary.left_aside)} tensors, such as {summary.left_aside[0]}"
    yield "native engine", "refuses it" if summary.refused else "runs it"
    for note in summary.notes:
        yield "note", note


def _format(summary: ModelSummary) -> str:
    from quire.weights.sizes import size_text

    kind = f"{summary.format}, {summary.quantization}" if summary.quantization else summary.format
    if not summary.files:
        return f"{kind}: no weights"
    first, size = Path(summary.files[0].path).name, size_text(summary.bytes)
    if len(summary.files) == 1:
        return f"{kind}: {first}, {size}"
    return f"{kind}: {len(summary.files)} files of {size}, from {first} on"


def _shape_rows(shape: ShapeFacts) -> Iterator[tuple[str, str]]:
    if shape.context is not None:
        yield "context", f"{shape.context:,} tokens"
    if shape.layers is not None:
        sizes = (("width", shape.hidden), ("FFN", shape.ffn))
        named = [f"{name} {size:,}" for name, size in sizes if size is not None]
        yield "layers", ", ".join((str(shape.layers), *named))
    if shape.experts:
        used = f", {shape.experts_per_token} for a token" if shape.experts_per_token else ""
        yield "experts", f"{shape.experts}{used}"
    if shape.heads is not None:
        size = f" of {shape.head_size}" if shape.head_size else ""
        kv = f", {shape.kv_heads} for keys and values" if shape.kv_heads else ""
        yield "heads", f"{shape.heads}{size}{kv}"
    if shape.window:
        is_some = shape.window_layers not in (None, shape.layers)
        where = f" in {shape.window_layers} of {shape.layers} layers" if is_some else ""
        yield "window", f"{shape.window:,} tokens{where}"
    if shape.rope is not None:
        yield "rope", _rope(shape.rope, shape.layers)


def _rope(rope: RopeFacts, layers: int | None) -> str:
    parts = [f"base {rope.base:,.10g}"]
    if rope.local_base is not None:
        parts.append(f"{rope.local_base:,.10g} in layers with a window")
    if rope.scaling in _SCALINGS:
        by = f" by {rope.factor:g}" if rope.factor else ""
        since = f" from {rope.original_context:,} tokens" if rope.original_context else ""
        parts.append(f"{_SCALINGS[rope.scaling]}{by}{since}")
    if rope.rotated != 1:
        parts.append(f"{100 * rope.rotated:.3g} % of a head")
    if rope.layers_without:
        parts.append(f"none in {rope.layers_without} of {layers} layers")
    if rope.sections > 1:
        parts.append("M-RoPE")
    return "; ".join(parts)


def _tokenizer_rows(summary: ModelSummary) -> Iterator[tuple[str, str]]:
    tokenizer = summary.tokenizer
    rows = summary.shape.vocabulary
    if tokenizer is None:
        if rows is not None:
            yield "vocabulary", f"{rows:,} tokens"
        return
    more = f", {rows:,} rows" if rows not in (None, tokenizer.tokens) else ""
    yield "vocabulary", f"{tokenizer.tokens:,} tokens{more}"
    pre = f", split as {tokenizer.pre}" if tokenizer.pre else ""
    meant = f" ({_TOKENIZERS[tokenizer.kind]})" if tokenizer.kind in _TOKENIZERS else ""
    yield "tokenizer", f"{tokenizer.kind}{meant}{pre}"
    for label, token in (("BOS", tokenizer.bos), ("EOS", tokenizer.eos)):
        yield label, "none" if token is None else _token(token)
    if tokenizer.ends and tokenizer.ends != (tokenizer.eos,):
        yield "ends", ", ".join(map(_token, tokenizer.ends))
    yield "chat template", _templates(tokenizer.templates)


def _token(token: TokenFacts) -> str:
    return f"{token.text} ({token.id})"


def _templates(names: tuple[str, ...]) -> str:
    if not names:
        return "none: give template=NAME to chat"
    return "yes" if names == ("default",) else ", ".join(names)


def _short(number: int) -> str:
    """A count in millions or billions, as models are named."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= size:
            return (
                f"{number / size:.3g}{unit}"
                if number < 100 * size
                else f"{number / size:.1f}{unit}"
            )
    return f"{number:,}"
