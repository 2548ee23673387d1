"""MiniMax."""

from __future__ import annotations

from quire.template.format import Format

MINIMAX1 = Format(
    name="minimax1",
    user=(
        "<beginning_of_sentence>user name=user\n{content}<end_of_sentence>\n"
        "<beginning_of_sentence>ai name=assistant\n"
    ),
    assistant="{content}<end_of_sentence>\n",
    system="<beginning_of_sentence>system ai_setting=assistant\n{content}<end_of_sentence>\n",
    observation=(
        "<beginning_of_sentence>tool name=tools\n{content}<end_of_sentence>\n"
        "<beginning_of_sentence>ai name=assistant\n"
    ),
    result_join="<end_of_sentence>\n<beginning_of_sentence>tool name=tools\n",
    default_system="You are a helpful assistant.",
    stop_words=("<end_of_sentence>",),
    tools="minimax1",
)

MINIMAX2 = Format(
    name="minimax2",
    user="]~b]user\n{content}[e~[\n]~b]ai\n",
    assistant="{content}[e~[\n",
    system="]~!b[]~b]system\n{content}[e~[\n",
    observation="]~b]tool\n<response>{content}</response>[e~[\n]~b]ai\n",
    result_join="</response>\n<response>",
    default_system="You are a helpful assistant. Your name is MiniMax-M2.1 and is built by MiniMax.",
    stop_words=("[e~[",),
    tools="minimax2",
    reasoning=True,
    controls=("]~!b[", "]~b]", "[e~["),
)

FORMATS = (
    MINIMAX1,
    MINIMAX2,
)
