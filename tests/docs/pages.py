"""The pages of the documentation, taken apart: fenced blocks, code in lines, links, headings."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1\s*$", re.M | re.S)
_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
_LINK = re.compile(r"\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path, path.read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, *languages: str) -> list[str]:
        """The fenced blocks of these languages; "" is a block that names none."""
        return [text for _, language, text in _FENCE.findall(self.text) if language in languages]

    @cached_property
    def code(self) -> list[str]:
        """What stands between backticks in the prose."""
        return [" ".join(text.split()) for _, text in _CODE.findall(self.prose)]

    @cached_property
    def links(self) -> list[str]:
        return _LINK.findall(_CODE.sub("", self.prose))

    @cached_property
    def anchors(self) -> set[str]:
        """Of the headings, as GitHub makes them, and those that are written out."""
        found: set[str] = set()
        for heading in re.findall(r"^#+ +(.+?) *$", self.prose, re.M):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
            drop = set(string.punctuation) - set("-_")
            slug = "".join(one for one in plain if one not in drop).replace(" ", "-")
            number = next(n for n in range(99) if (f"{slug}-{n}" if n else slug) not in found)
            found.add(f"{slug}-{number}" if number else slug)
        return found | set(re.findall(r'\bid="([^"]+)"', self.text))


PAGES = [
    Page.read(path)
    for path in (
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "compat" / "llamafactory" / "README.md",
    )
]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of some shell lines: their words, without variables in front.

    Lines that a shell could not read are left out, and so is what follows a redirection.
    """
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue
        yield from _simple(words)


def _simple(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        inner = re.fullmatch(r"\$\((.*)\)", word)
        if inner:
            yield from commands(inner[1])
        if not re.fullmatch(r"[|&;<>]+", word):
            command.append(word)
            continue
        while command and re.fullmatch(r"[A-Z_]+=.*|\$", command[0]):
            command.pop(0)
        if command:
            yield command
        command = ["(redirected)"] if set(word) & set("<>") else []
