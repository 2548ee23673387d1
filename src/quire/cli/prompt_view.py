"""How `quire prompt` shows a prompt: coloured text, tokens with their ids, differences."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

from rich.console import Console
from rich.text import Text

from quire.characters import harmless
from quire.prompt import TextElement, TokenElement

if TYPE_CHECKING:
    from quire.prompt import Element, Span
    from quire.template.template import Template
    from quire.tokenizer import Tokenizer

Kind = Literal["control", "format", "literal"]
_STYLES: dict[Kind, str] = {"control": "bold magenta", "format": "cyan", "literal": ""}
_LINE_END = "↵"


@dataclass(frozen=True)
class Rendering:
    """One conversation in one template. Without a folder there is no tokenizer."""

    name: str
    template: Template
    tokenizer: Tokenizer | None
    elements: list[Element]


@dataclass(frozen=True)
class Piece:
    """A run of a prompt: a control token, text of the template, or text of the conversation."""

    text: str
    kind: Kind


def show_rendering(rendering: Rendering, output: TextIO, *, ids: bool) -> None:
    """Show one prompt. Where no terminal reads it, the text alone is written, exactly."""
    console = _console(output)
    if ids:
        for token, piece in tokens(rendering):
            console.print(_token_line(token, piece), soft_wrap=True)
    elif not console.is_terminal:
        output.write("".join(piece.text for piece in pieces(rendering)))
        output.flush()
        return
    else:
        console.print(_coloured(pieces(rendering)), soft_wrap=True)
    if console.is_terminal:
        console.print(_legend(rendering), soft_wrap=True)


def show_difference(first: Rendering, second: Rendering, output: TextIO, *, ids: bool) -> None:
    """Show what differs between two templates, line by line, or token by token."""
    console = _console(output)
    before, after = (_comparable(rendering, ids) for rendering in (first, second))
    if before == after:
        console.print(f"No difference between {first.name} and {second.name}.", soft_wrap=True)
        return
    lines = difflib.unified_diff(before, after, first.name, second.name, lineterm="", n=3)
    for line in lines:
        style = {"-": "red", "+": "green", "@": "dim"}.get(line[0], "")
        console.print(Text(line, style=style), soft_wrap=True)


def pieces(rendering: Rendering) -> list[Piece]:
    """The prompt from its beginning to its end."""
    pattern = _control_pattern(rendering)
    result: list[Piece] = []
    for element in rendering.elements:
        if isinstance(element, TextElement):
            for span in element.spans:
                result += _span_pieces(span, pattern)
        elif text := _token_text(element, rendering):
            result.append(Piece(text, "control"))
    return result


def tokens(rendering: Rendering) -> Iterator[tuple[int, Piece]]:
    """Each token's id and text. The prompt's tokenizer must be there."""
    tokenizer = rendering.tokenizer
    assert tokenizer is not None
    pattern = _control_pattern(rendering)
    for element in rendering.elements:
        for token in rendering.template.encode_elements([element], tokenizer):
            text = tokenizer.decode([token], skip_special_tokens=False)
            is_control = token in tokenizer.special_ids or pattern.fullmatch(text)
            if "\N{REPLACEMENT CHARACTER}" in text:  # a part of a character
                text = tokenizer.id_to_token(token) or text
            yield token, Piece(text, "control" if is_control else _main_kind(element))


def _console(output: TextIO) -> Console:
    return Console(file=output, highlight=False)


def _control_pattern(rendering: Rendering) -> re.Pattern[str]:
    """Matches what is a control token where the template itself writes it."""
    texts = set(rendering.template.control_texts())
    if tokenizer := rendering.tokenizer:
        texts.update(tokenizer.id_to_token(token) or "" for token in tokenizer.special_ids)
    longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _span_pieces(span: Span, pattern: re.Pattern[str]) -> Iterator[Piece]:
    if span.literal:
        yield Piece(span.text, "literal")
        return
    end = 0
    for match in pattern.finditer(span.text):
        if match.start() > end:
            yield Piece(span.text[end : match.start()], "format")
        yield Piece(match.group(), "control")
        end = match.end()
    if end < len(span.text):
        yield Piece(span.text[end:], "format")


def _token_text(element: TokenElement, rendering: Rendering) -> str:
    """The text of a single control token, or `<BOS>` and `<EOS>` where there is no tokenizer."""
    if rendering.tokenizer is None:
        return element.text or f"<{element.kind.upper()}>"
    ids = rendering.template.encode_elements([element], rendering.tokenizer)
    return rendering.tokenizer.decode(ids, skip_special_tokens=False)


def _main_kind(element: Element) -> Kind:
    """The kind of an element's tokens: these may cross spans, and any literal span decides."""
    if isinstance(element, TokenElement):
        return "control"
    return "literal" if any(span.literal for span in element.spans) else "format"


def _coloured(prompt: Iterable[Piece]) -> Text:
    text = Text()
    for piece in prompt:
        for index, line in enumerate(piece.text.split("\n")):
            if index:
                text.append(_LINE_END, style="dim").append("\n")
            text.append(harmless(line), style=_STYLES[piece.kind])
    return text


def _token_line(token: int, piece: Piece) -> Text:
    shown = harmless(json.dumps(piece.text, ensure_ascii=False))
    return Text.assemble((f"{token:>7}  ", "dim"), (shown, _STYLES[piece.kind]))


def _legend(rendering: Rendering) -> Text:
    legend = Text.assemble(
        (f"\nTemplate: {rendering.name} · ", "dim"),
        ("control tokens", _STYLES["control"]),
        (" · ", "dim"),
        ("the template's text", _STYLES["format"]),
        (" · ", "dim"),
        "the conversation's text",
    )
    if tokenizer := rendering.tokenizer:
        count = len(rendering.template.encode_elements(rendering.elements, tokenizer))
        legend.append(f" · {count} tokens", style="dim")
    return legend


def _comparable(rendering: Rendering, ids: bool) -> Sequence[str]:
    if ids:
        return [_token_line(token, piece).plain for token, piece in tokens(rendering)]
    return _coloured(pieces(rendering)).plain.split("\n")
