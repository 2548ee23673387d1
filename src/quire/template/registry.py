"""Templates by name, and a model's own."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from quire.errors import ConfigError, nearest, sentence
from quire.template import formats
from quire.template.format import Format
from quire.template.named import NamedTemplate
from quire.template.template import Template
from quire.tokenizer import Tokenizer


def get_template(
    name: str | None,
    tokenizer: Tokenizer | None,
    *,
    tool_format: str | None = None,
    default_system: str | None = None,
) -> Template:
    """The template of this name; None or "" is the model's own chat template, exactly.

    A named template needs no tokenizer. `tool_format` and `default_system` replace the template's.

    Raises:
        ConfigError: no template, or no tool format, has this name, or the model has no chat template.
    """
    if name:
        declaration = _formats().get(name)
        if declaration is None:
            raise ConfigError(
                sentence(f"Unknown template {name!r}{nearest(name, _formats())}")
                + " `quire.template.registry.template_names()` lists all; leave it out to use the "
                "model's own chat template."
            )
        return NamedTemplate(declaration, tool_format=tool_format, default_system=default_system)
    if tokenizer is None or tokenizer.chat_template is None:
        raise ConfigError(
            "The model has no chat template of its own, and none is named. Name the one it was "
            "trained with (`template: qwen`, for instance), or `template: default` for a plain "
            "dialogue, `template: empty` for bare text; or add a chat_template.jinja to its folder."
        )
    from quire.template.jinja import JinjaTemplate

    return JinjaTemplate(tokenizer, tool_format=tool_format, default_system=default_system)


def template_names() -> tuple[str, ...]:
    """All names that `get_template` knows, sorted."""
    return tuple(sorted(_formats()))


@functools.cache
def _formats() -> dict[str, Format]:
    """Every format that the files of `formats/` declare."""
    by_name: dict[str, Format] = {}
    for module in pkgutil.iter_modules(formats.__path__, formats.__name__ + "."):
        for declaration in importlib.import_module(module.name).FORMATS:
            assert declaration.name not in by_name, declaration.name
            by_name[declaration.name] = declaration
    return by_name
