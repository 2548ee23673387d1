"""Youtu."""

from __future__ import annotations

from quire.template.format import BOS, Format, MediaTokens

YOUTU = Format(
    name="youtu",
    user="<|User|>{content}<|Assistant|>",
    assistant="{content}<|end_of_text|>",
    function="{content}",
    observation="<tool_response>\n{content}\n</tool_response><|Assistant|>",
    result_join="\n</tool_response>\n<tool_response>\n",
    prefix=(BOS,),
    stop_words=("<|end_of_text|>",),
    reasoning=True,
    replace_eos=True,
)

YOUTU_VL = Format(
    name="youtu_vl",
    user="<|begin_of_text|>user\n{content}<|end_of_text|>\n<|begin_of_text|>assistant\n",
    assistant="{content}<|end_of_text|>\n",
    system="<|begin_of_text|>system\n{content}<|end_of_text|>\n",
    default_system="You are a helpful assistant.",
    stop_words=("<|end_of_text|>",),
    media=MediaTokens("YoutuVL", image="<|image_pad|>", video="<|video_pad|>"),
)

FORMATS = (
    YOUTU,
    YOUTU_VL,
)
