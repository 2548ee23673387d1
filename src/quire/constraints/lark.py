"""Writing grammars in llguidance's form of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from quire.constraints.schema import OPTIONS

HEAD = "%llguidance {}\n"
"""The first line of a grammar. Where it leaves no choice, llguidance tokenises the text itself."""

UNFORCED = '%llguidance {"no_forcing": true}\n'
"""The first line where the model tokenises such text. What reads like an added token (`a <think> b`)
becomes that token otherwise, which the grammar of a text then refuses in the middle of an answer."""

_MOST_WHITE = 3


def white_space(beside: str = "") -> str:
    """White space between parts of an answer, which may be missing: a few characters, or as many as
    a text has at its ends."""
    written = max(len(beside) - len(beside.lstrip()), len(beside) - len(beside.rstrip()))
    return f"/[ \\n]{{1,{max(_MOST_WHITE, written)}}}/?"


_WORD = re.compile(
    r"""
      "(?:[^"\\]|\\.)*"i?          # a string
    | /(?![/*])(?:[^/\\\n]|\\.)+/[imslux]*   # an expression
    | //[^\n]* | \#[^\n]*          # a comment
    | <[^<>\s]+>                   # a token
    | [A-Za-z_][\w-]*              # a name
    """,
    re.VERBOSE | re.DOTALL,
)


def unforced(grammar: str) -> str:
    """A grammar that leaves the tokens of its texts to the model."""
    return UNFORCED + grammar.removeprefix(UNFORCED).removeprefix(HEAD)


class Rules:
    """The rules of one grammar, in the order in which they are added."""

    def __init__(self, tokens: Mapping[str, int], beside: str = "") -> None:
        """Begin a grammar.

        Args:
            tokens: the ids of the added tokens that may stand in literal text, by their texts.
            beside: a grammar that will stand beside these rules, and has none of their names.
        """
        self._prefix = "rule-"
        while self._prefix in beside or self._prefix.upper() in beside:
            self._prefix = f"x{self._prefix}"
        self._tokens = tokens
        self._pattern = re.compile(
            "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)"
        )
        self._lines: list[str] = []
        self._names: dict[str, str] = {}  # by content, so that each rule stands once

    def add(self, body: str, options: str = "") -> str:
        """Add a rule; return its name."""
        key = options + ":" + body
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"{self._prefix}{len(self._lines)}"
            self._lines.append(f"{name}{options}: {body}")
        return name

    def terminal(self, body: str) -> str:
        """Add a terminal, which takes all of its text at once; return its name."""
        name = self._names.get(body)
        if name is None:
            name = self._names[body] = f"{self._prefix.upper()}{len(self._lines)}"
            self._lines.append(f"{name}: {body}")
        return name

    def reserve(self) -> str:
        """The name of a rule that `define` gives later: it may refer to itself."""
        name = f"{self._prefix}{len(self._lines)}"
        self._lines.append("")
        return name

    def define(self, name: str, body: str) -> None:
        """Add the rule of a reserved name."""
        self._lines[int(name.removeprefix(self._prefix))] = f"{name}: {body}"

    def literal(self, text: str) -> str:
        """The model's own text, whose added tokens are tokens; empty for none."""
        parts: list[str] = []
        at = 0
        for match in self._pattern.finditer(text):
            parts += [string(text[at : match.start()]), f"<[{self._tokens[match[0]]}]>"]
            at = match.end()
        parts.append(string(text[at:]))
        return " ".join(part for part in parts if part)

    def beginning(self, text: str) -> str:
        """The model's own text, and then any tokens, of which the first may begin in it."""
        end = max((match.end() for match in self._pattern.finditer(text)), default=0)
        if end == len(text):
            return self.literal(text)
        escaped = re.sub(r"[^\w ]", lambda sign: "\\" + sign[0], text[end:])
        return f"{self.literal(text[:end])} /{escaped}(.|\\n)*/".lstrip()

    def token(self, text: str) -> int | None:
        """The id of the added token that a text is."""
        return self._tokens.get(text)

    def first_token(self, text: str) -> tuple[int | None, str]:
        """The id of the added token that a text begins with, and the rest; None for any other text."""
        match = self._pattern.match(text)
        return (None, text) if match is None else (self._tokens[match[0]], text[match.end() :])

    def text_until(self, end: str, within: str | None = None) -> str:
        """Any text, and the first occurrence of `end` after it.

        Where an added token is in `end`, the text ends there. White space that `end` has before it
        is then the text's or the end's, as the model likes.

        Args:
            within: a terminal's body for the texts that there may be; None for any.
        """
        text = "/(.|\\n)*/" if within is None else self.terminal(within)
        match = self._pattern.search(end)
        if match is None:
            suffix = json.dumps(end, ensure_ascii=False)
            return self.add(text, f"[suffix={suffix}]")
        before = end[: match.start()] if end[: match.start()].strip() else ""
        return joined(text, self.literal(before + end[match.start() :]))

    def json(self, schema: Mapping[str, Any]) -> str:
        """JSON of a schema that `enforceable` has made."""
        return self.add(json_block(schema))

    def text(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join([HEAD + f"start: {start}", *filter(None, self._lines)]) + "\n"


def json_block(schema: Mapping[str, Any]) -> str:
    """JSON of a schema as a symbol of a grammar."""
    return "%json " + json.dumps({"x-guidance": OPTIONS, **schema})


def string(text: str) -> str:
    """A text as a symbol of a grammar; empty for none."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def joined(*symbols: str) -> str:
    """One after another, without those that are empty."""
    return " ".join(symbol for symbol in symbols if symbol)


def alternatives(bodies: Iterable[str]) -> str:
    """One of several; of one, itself."""
    bodies = list(dict.fromkeys(bodies))
    return bodies[0] if len(bodies) == 1 else "(" + " | ".join(bodies) + ")"


def renamed(lark: str, old: str, new: str) -> str:
    """A grammar in which a rule has another name."""
    return _WORD.sub(lambda word: new if word[0] == old else word[0], lark)
