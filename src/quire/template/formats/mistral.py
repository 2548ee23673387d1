"""Mistral, Ministral, Pixtral."""

from __future__ import annotations

from quire.template.format import BOS, EOS, Format, MediaTokens

MISTRAL = Format(
    name="mistral",
    user="[INST] {content}[/INST]",
    assistant=(" {content}", EOS),
    system="{content}\n\n",
    function=("[TOOL_CALLS] {content}", EOS),
    observation='[TOOL_RESULTS] {"content": {content}}[/TOOL_RESULTS]',
    result_join='}[/TOOL_RESULTS][TOOL_RESULTS] {"content": ',
    prefix=(BOS,),
    system_in_user=True,
    tools="mistral",
)

MINISTRAL = Format(
    name="ministral",
    user="[INST]{content}[/INST]",
    system="{content}\n\n",
    function=("[TOOL_CALLS]{content}", EOS),
    observation='[TOOL_RESULTS]{"content": {content}}[/TOOL_RESULTS]',
    result_join='}[/TOOL_RESULTS][TOOL_RESULTS]{"content": ',
    prefix=(BOS,),
    system_in_user=True,
    tools="mistral",
)

MISTRAL_SMALL = MINISTRAL.derive(
    "mistral_small",
    system="[SYSTEM_PROMPT]{content}[/SYSTEM_PROMPT]",
    system_in_user=False,
    media=MediaTokens("Pixtral", image="[IMG]"),
)

MINISTRAL3 = MINISTRAL.derive("ministral3", media=MediaTokens("Pixtral", image="[IMG]"))

PIXTRAL = MINISTRAL3.derive("pixtral")

FORMATS = (
    MISTRAL,
    MINISTRAL,
    MISTRAL_SMALL,
    MINISTRAL3,
    PIXTRAL,
)
