"""What mkdocs takes from the code: the tables of arguments and request options, and the root's pages.

mkdocs runs the two hooks, `on_files` and `on_page_markdown`, each time that it builds the site. A page
asks for one by a comment: `<!-- table: ModelArguments -->`, `<!-- table: options -->`,
`<!-- table: errors -->`, or one of the three of `docs/templates.md`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

    from quire.arguments.base import Arguments
    from quire.options import Option

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
"""Pages of the repository's root that the site shows too, in small letters."""

_MARKER = re.compile(r"<!-- table: (\w+) -->")
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the root's pages beside those of `docs/`, with their links as they are from there."""
    from mkdocs.structure.files import File

    for name in ROOT_PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=from_docs(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables in the place of the comments that ask for them."""
    return _MARKER.sub(lambda match: "\n".join(table(match[1])), markdown)


def from_docs(text: str) -> str:
    """A page of the root with its links as they are from `docs/`."""
    text = text.replace("](docs/", "](")
    return re.sub(rf"\]\(({'|'.join(ROOT_PAGES)})", lambda match: match[0].lower(), text)


def table(name: str) -> list[str]:
    """What a comment asks for by name; a group of arguments by that of its class."""
    if name == "options":
        return options_table()
    if name in ("template_sets", "templates", "template_parsers"):
        return measured_table(name)
    return error_tree() if name == "errors" else arguments_table(groups()[name])


def measured_table(name: str) -> list[str]:
    """What was recorded of real chat templates."""
    from tests.template.real import table as tables

    made = {
        "template_sets": tables.sets_table,
        "templates": tables.templates_table,
        "template_parsers": tables.parsers_table,
    }
    return made[name]()


def groups() -> dict[str, type[Arguments]]:
    """All groups of arguments by their names."""
    from quire.arguments import command_line
    from quire.batch.arguments import BatchArguments
    from quire.server.arguments import ServerArguments

    more = (BatchArguments, ServerArguments)
    return {group.__name__: group for group in (*command_line.GROUPS, *more)}


# --- arguments -----------------------------------------------------------------------------------


def arguments_table(group: type[Arguments]) -> list[str]:
    """One row for each argument: name, type, default, meaning."""
    schema = group.model_json_schema()
    meanings = field_docstrings(group)
    required = schema.get("required", ())
    rows = (
        (
            anchored(name),
            type_words(field),
            "required" if name in required else shown(name, field["default"]),
            meanings.get(name, ""),
        )
        for name, field in schema["properties"].items()
    )
    return markdown_table(("argument", "type", "default", "meaning"), rows)


def field_docstrings(kind: type) -> dict[str, str]:
    """What stands as a string right below each field of a class, as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def type_words(schema: Mapping[str, Any]) -> str:
    """A JSON schema of pydantic's in words; that a value may be none is said by its default."""
    choices = schema.get("anyOf")
    if choices:
        return " or ".join(type_words(one) for one in choices if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    kind = {
        "boolean": "true or false",
        "integer": "integer",
        "number": "number",
        "array": "names",
        "object": "dictionary",
    }.get(schema["type"], "secret" if schema.get("format") == "password" else "text")
    return ", ".join([kind, *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    # pydantic names a bound in its own way where another validator stands between it and the type.
    for names, words in (
        (("minimum", "ge"), "at least"),
        (("exclusiveMinimum", "gt"), "above"),
        (("maximum", "le"), "at most"),
        (("exclusiveMaximum", "lt"), "below"),
    ):
        yield from (f"{words} {schema[name]:g}" for name in names if name in schema)


def shown(name: str, default: Any) -> str:
    """A default as it is written in YAML."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, int) and "bytes" in name:
        return next(
            (f"{default // size} {unit}" for size, unit in _UNITS if not default % size), ""
        )
    if isinstance(default, (int, float)):
        return f"{default:,}" if isinstance(default, int) else f"{default:g}"
    if isinstance(default, (tuple, list, Mapping)):
        return "none" if not default else f"`{default!r}`"
    return f"`{default}`"


# --- request options -----------------------------------------------------------------------------


def options_table() -> list[str]:
    """A table for each group of the options of a request, with a row for each option."""
    from quire.options import GROUPS, OPTIONS

    lines: list[str] = []
    for group, heading in GROUPS.items():
        rows = (_option_row(one) for one in OPTIONS if one.group == group)
        table = markdown_table(("option", "type", "default", "meaning", "HTTP"), rows)
        lines += [f"## {heading}", "", *table, ""]
    return lines[:-1]


def _option_row(option: Option) -> tuple[str, ...]:
    most = (f"At most {most:g} on {engine}." for engine, most in option.most.items())
    return (
        anchored(option.name),
        str(option.type),
        shown(option.name, option.default) + (", or the model's" if option.from_model else ""),
        " ".join([f"**{option.label}.**", option.meaning, *most]),
        _apis(option),
    )


def _apis(option: Option) -> str:
    """The server's APIs that have an option: its name there where it is another one, and its range."""
    return "; ".join(
        wire
        + (f": `{name}`" if name != option.name else "")
        + (f" ({option.wire_types[wire]})" if wire in option.wire_types else "")
        for wire, name in option.wires.items()
        if wire != "vllm"
    )


# --- errors --------------------------------------------------------------------------------------


def error_tree() -> list[str]:
    """The tree as `quire.errors` draws it, and then each class for mkdocstrings."""
    from quire import errors

    drawn = [
        line for line in (errors.__doc__ or "").splitlines() if "Error" in line and "─" in line
    ]
    lines = ["```text", "QuireError", *drawn, "```", ""]
    for name, kind in vars(errors).items():
        if not (isinstance(kind, type) and issubclass(kind, errors.QuireError)):
            continue
        lines += [f"::: quire.errors.{name}", "    options: {heading_level: 4}", ""]
    return lines


# --- Markdown ------------------------------------------------------------------------------------


def anchored(name: str) -> str:
    """A name as code, to which `#name` leads."""
    return f'<span id="{name}"></span>`{name}`'


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; what would end a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
