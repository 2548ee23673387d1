"""Ling (Bailing)."""

from __future__ import annotations

from quire.template.format import Format

BAILING = Format(
    name="bailing",
    user="<role>HUMAN</role>{content}<role>ASSISTANT</role>",
    assistant="{content}",
    system="<role>SYSTEM</role>{content}",
    observation="<role>OBSERVATION</role>{content}<role>ASSISTANT</role>",
    result_join="<role>OBSERVATION</role>",
    stop_words=("<|endoftext|>",),
    efficient_eos=True,
)

BAILING_V2 = Format(
    name="bailing_v2",
    user="<role>HUMAN</role>{content}<|role_end|><role>ASSISTANT</role>",
    assistant="{content}<|role_end|>",
    system="<role>SYSTEM</role>{content}<|role_end|>",
    observation=(
        "<role>OBSERVATION</role>\n<tool_response>\n{content}\n"
        "</tool_response><|role_end|><role>ASSISTANT</role>"
    ),
    result_join="\n</tool_response>\n<tool_response>\n",
    stop_words=("<|endoftext|>",),
    tools="ling",
    efficient_eos=True,
)

FORMATS = (
    BAILING,
    BAILING_V2,
)
