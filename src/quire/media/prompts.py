"""From a conversation with media to a prompt: template and family together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.media.families.family import Form, MediaFamily
from quire.media.values import Medium
from quire.messages import Conversation
from quire.prompt import Element, Prompt
from quire.template.template import Template
from quire.tokenizer import Tokenizer


def render_media(
    template: Template,
    family: MediaFamily,
    conversation: Conversation,
    media: Sequence[Medium],
    *,
    form: Form,
    enable_thinking: bool | None = True,
    preserve_thinking: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> list[Element]:
    """Render a conversation whose media are parts; `media` are these parts decoded, in order.

    A model's own chat template writes the placeholders itself where it can; else the family writes
    them into the messages before the template sees these.

    Raises:
        MediaError: the model does not take these media.
        TemplateError, ToolError: as `Template.render`.
    """
    as_parts = template.takes_parts and bool(media)
    if media and not as_parts:
        conversation = family.write(conversation, media, form=form)
    elements = template.render(
        conversation,
        enable_thinking=enable_thinking,
        preserve_thinking=preserve_thinking,
        variables=variables,
    )
    if as_parts:
        return family.expand(elements, media, form=form)
    return family.finish(elements, media, form=form)


def encode_media(
    template: Template,
    family: MediaFamily,
    elements: Sequence[Element],
    media: Sequence[Medium],
    tokenizer: Tokenizer,
    *,
    form: Form,
) -> Prompt:
    """The token ids of rendered elements, with the range that each medium fills.

    Raises:
        MediaError: the template does not fit the model, or a text would be taken for a placeholder.
        ConfigError: the tokenizer lacks a placeholder token.
    """
    ids = template.encode_elements(elements, tokenizer, family.controls)
    if not media:
        return Prompt(ids)
    return Prompt(ids, family.find_media(ids, media, tokenizer, form=form))
