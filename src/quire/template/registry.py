"""Templates by name, and a model's own."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable

from quire.errors import ConfigError, RequestError, nearest, sentence
from quire.messages import read_conversation
from quire.prompt import TextElement, TokenElement
from quire.template import formats
from quire.template.format import Format, find_markers
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
        return NamedTemplate(
            declaration,
            tool_format=tool_format,
            default_system=default_system,
            own=_own_template(tokenizer) if tokenizer is not None else None,
        )
    if tokenizer is None or tokenizer.chat_template is None:
        raise ConfigError(
            "The model has no chat template of its own, and none is named. Name the one it was "
            "trained with (`template: qwen`, for instance), or `template: default` for a plain "
            "dialogue, `template: empty` for bare text; or add a chat_template.jinja to its folder."
        )
    from quire.template.jinja import JinjaTemplate

    return JinjaTemplate(tokenizer, tool_format=tool_format, default_system=default_system)


def misfit(template: Template, tokenizer: Tokenizer) -> str | None:
    """Why a named template seems not to fit a model, in one sentence; None where it seems to.

    The markers of a plain conversation are compared with those of the model's own chat template. Where
    there is none, they should at least be tokens, but for those like `[INST]`, which some models have
    as text.
    """
    if template.is_models_own:
        return None
    markers = _plain_markers(template)
    own = template.own
    if own is None:
        foreign = [one for one in markers if one[0] != "[" and tokenizer.token_to_id(one) is None]
        what = f"it writes {_listed(foreign)}, which the vocabulary has not as tokens"
        advice = "Name the template that the model was trained with."
    else:
        theirs = _plain_markers(own) - set(tokenizer.special_tokens.values())
        foreign = list(markers - theirs - own.control_texts())
        what = f"it writes {_listed(foreign)}, which the model's own chat template does not"
        if not foreign and not markers & theirs and template.name != "empty":
            foreign = list(theirs)
            what = f"it lacks {_listed(foreign)}, which the model's own chat template writes"
        advice = "Leave `template` out for the model's own, unless it was trained with this one."
    if not foreign:
        return None
    return f"The template {template.name!r} may not fit this model: {what}. {advice}"


def _own_template(tokenizer: Tokenizer) -> Template | None:
    if tokenizer.chat_template is None:
        return None
    try:
        return get_template(None, tokenizer)
    except ConfigError:  # it cannot be compiled, and is not used
        return None


_PLAIN = read_conversation(
    [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
)


def _plain_markers(template: Template) -> frozenset[str]:
    """The markers that a template writes around the turns of a user and an assistant."""
    try:
        elements = template.render(_PLAIN)
    except RequestError:
        return frozenset()
    texts = [
        span.text
        for element in elements
        if isinstance(element, TextElement)
        for span in element.spans
        if not span.literal
    ]
    tokens = {one.text for one in elements if isinstance(one, TokenElement) and one.text}
    return frozenset(tokens).union(*map(find_markers, texts))


def _listed(markers: Iterable[str]) -> str:
    return ", ".join(sorted(markers)[:4])


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
