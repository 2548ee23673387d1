"""The real templates: where each comes from, its text, and a stand-in for its model's tokenizer."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Backend

from tests.tokenizer.bytes_alone import make_byte_backend

MANIFEST = Path(__file__).with_name("manifest.json")
_RAW = "https://raw.githubusercontent.com/{repository}/{revision}/{path}"

BOS, EOS = "<s>", "</s>"
"""No template of the set has these as its markers by chance: what it writes itself must be found."""


@dataclass(frozen=True)
class Source:
    """A template of the set: its public address, and what its text must be."""

    name: str
    repository: str
    revision: str
    path: str
    sha256: str
    variable: str | None = None
    """The Python variable that holds the template, where `path` is a Python file."""

    @property
    def address(self) -> str:
        """Where the file is fetched from."""
        return _RAW.format(repository=self.repository, revision=self.revision, path=self.path)

    @property
    def file_name(self) -> str:
        """What the template is called in a local folder."""
        return self.name.replace("/", "--") + ".jinja"


def read_manifest() -> list[Source]:
    """All templates of the set, in the manifest's order."""
    groups = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return [
        Source(
            name=f"{group['prefix']}/{name}",
            repository=group["repository"],
            revision=group["revision"],
            path=entry.get("path") or group["path"].format(name=name),
            sha256=entry["sha256"],
            variable=entry.get("variable"),
        )
        for group in groups
        for name, entry in group["templates"].items()
    ]


def digest(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def fetch(sources: Iterable[Source], folder: Path) -> Iterator[str]:
    """Fetch what the folder lacks; yield a line for each template that could not be had.

    A file of several templates is fetched once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for source in sources:
        path = folder / source.file_name
        if path.is_file() and digest(path.read_text(encoding="utf-8")) == source.sha256:
            continue
        try:
            if source.address not in files:
                with urllib.request.urlopen(source.address, timeout=60) as answer:
                    files[source.address] = answer.read().decode()
            text = files[source.address]
            if source.variable is not None:
                text = python_string(text, source.variable)
        except (OSError, LookupError) as error:
            yield f"{source.name}: {source.address}: {error}"
            continue
        if digest(text) != source.sha256:
            yield f"{source.name}: {source.address} is not the text of the manifest"
            continue
        path.write_text(text, encoding="utf-8", newline="")


def python_string(source: str, name: str) -> str:
    """The value of a variable of a Python file, made of strings and sums of them alone.

    Raises:
        LookupError: the file has no such variable.
    """
    values: dict[str, str] = {}

    def value_of(node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value_of(node.left) + value_of(node.right)
        raise KeyError(name)

    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = value_of(node.value)
            except KeyError:
                continue
    return values[name]


def read_folder(folder: Path) -> dict[str, str]:
    """The templates of a folder by name, of the set or not."""
    return {
        path.name.removesuffix(".jinja").replace("--", "/", 1): read_text(path)
        for path in sorted(folder.glob("*.jinja"))
    }


def read_text(path: Path) -> str:
    """A file's text, its line breaks as they are."""
    return path.read_bytes().decode()


# --- a tokenizer for a template -----------------------------------------------------------------

_SPECIAL = re.compile(
    r"<\|[^|<>\s'\"{}]{1,60}\|>|<｜[^｜<>'\"]{1,60}｜>|<\|[a-z_]{2,30}>|<[a-z_]{2,30}\|>|<\|\"\|>"
    r"|\[/?[A-Z][A-Z_]{2,30}\]|\[gMASK\]|<sop>|<bos>|<eos>|<sep>|<(?:start|end)_of_[a-z]+>"
    r"|<(?:start|end)_function_[a-z]+>|<escape>|<(?:SPECIAL|extra_id)_\d+>|<seed:[be]os>"
    r"|\]<\]minimax\[>\[|\[e~\[|\]~!?b[\]\[]|<image>|<image_soft_token>|</?s>|\[\|[a-z_]+\|\]"
    r"|</?(?:assistant|user|system)>|<¦[^¦]+¦>"
)
_PLAIN = re.compile(
    r"</?(?:think|thinking|tool_call|tool_calls|tool_response|tools|arg_key|arg_value|function_calls"
    r"|seed:[a-z_]+|minimax:[a-z_]+|think:opensource|tool_call:opensource|answer|response|TOOLCALL)>"
)
_ROLES = ("system", "user", "assistant", "tool", "end")


def find_tokens(template: str) -> tuple[list[str], list[str]]:
    """The special tokens, and the added tokens that are not special, of a template's model.

    They are told by their shape, as most makers have them: `<|...|>` and `[INST]` are special, tags
    such as `<tool_call>` and `<think>` are not.
    """
    special = [BOS, EOS, *_SPECIAL.findall(template)]
    if "'<|'" in template or '"<|"' in template:
        special += [f"<|{role}|>" for role in _ROLES]
    plain = set(_PLAIN.findall(template)) - {*special}
    return list(dict.fromkeys(special)), sorted(plain)


def make_backend(template: str) -> Backend:
    """A tokenizer of bytes, with the markers of a template as its added tokens."""
    return make_byte_backend(*find_tokens(template))
