"""Formats with plain text roles, of no model family in particular."""

from __future__ import annotations

from quire.template.format import EOS, Format

DEFAULT = Format(
    name="default",
    user=("Human: {content}", EOS, "\nAssistant:"),
    assistant=("{content}", EOS, "\n"),
    system=("System: {content}", EOS, "\n"),
)

EMPTY = Format(
    name="empty",
    assistant="{content}",
)

FEWSHOT = Format(
    name="fewshot",
    assistant="{content}\n\n",
    efficient_eos=True,
)

ALPACA = Format(
    name="alpaca",
    user="### Instruction:\n{content}\n\n### Response:\n",
    assistant=("{content}", EOS, "\n\n"),
    default_system=(
        "Below is an instruction that describes a task. Write a response that "
        "appropriately completes the request.\n\n"
    ),
)

FORMATS = (
    DEFAULT,
    EMPTY,
    FEWSHOT,
    ALPACA,
)
