"""Qwen, and models that kept its format (MiMo, Keye, MOSS-VL)."""

from __future__ import annotations

from quire.template.format import Format, MediaTokens

QWEN = Format(
    name="qwen",
    user="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    assistant="{content}<|im_end|>\n",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    observation=(
        "<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    result_join="\n</tool_response>\n<tool_response>\n",
    default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    stop_words=("<|im_end|>",),
    tools="qwen",
    replace_eos=True,
)

QWEN3 = QWEN.derive(
    "qwen3",
    default_system="",
    reasoning=True,
)

QWEN3_NOTHINK = QWEN3.derive("qwen3_nothink", reasoning=False)

QWEN2_AUDIO = QWEN.derive(
    "qwen2_audio",
    observation=None,
    result_join="\n",
    default_system="You are a helpful assistant.",
    tools="default",
    media=MediaTokens("Qwen2Audio", audio="<|AUDIO|>"),
)

QWEN2_OMNI = QWEN.derive(
    "qwen2_omni",
    default_system="You are a helpful assistant.",
    media=MediaTokens("Qwen2Omni", image="<|IMAGE|>", video="<|VIDEO|>", audio="<|AUDIO|>"),
)

QWEN3_OMNI = QWEN3.derive(
    "qwen3_omni",
    media=MediaTokens(
        "Qwen2Omni", image="<|image_pad|>", video="<|video_pad|>", audio="<|audio_pad|>"
    ),
)

QWEN3_OMNI_NOTHINK = QWEN3_OMNI.derive("qwen3_omni_nothink", reasoning=False)

QWEN2_VL = QWEN2_OMNI.derive(
    "qwen2_vl", media=MediaTokens("Qwen2VL", image="<|image_pad|>", video="<|video_pad|>")
)

QWEN3_VL = QWEN3.derive(
    "qwen3_vl", media=MediaTokens("Qwen3VL", image="<|image_pad|>", video="<|video_pad|>")
)

QWEN3_VL_NOTHINK = QWEN3_VL.derive("qwen3_vl_nothink", reasoning=False)

QWEN3_5 = QWEN3_VL.derive("qwen3_5", tools="qwen3_5")

QWEN3_5_NOTHINK = QWEN3_VL_NOTHINK.derive("qwen3_5_nothink", tools="qwen3_5")

QWEN3_6 = QWEN3_5.derive("qwen3_6")

MIMO = QWEN3.derive("mimo", default_system="You are a helpful assistant.")

MIMO_V2 = QWEN3.derive(
    "mimo_v2",
    default_system="You are MiMo, a helpful AI assistant engineered by Xiaomi.",
    thought_words=("<think>", "</think>"),
)

MIMO_VL = QWEN2_VL.derive(
    "mimo_vl",
    default_system="You are MiMo, an AI assistant developed by Xiaomi.",
    reasoning=True,
)

KEYE_VL = MIMO_VL.derive("keye_vl", default_system="")

MOSS_VL = QWEN3_NOTHINK.derive("moss_vl", trims_tools=True)
"""Its text. What it is shown is not in the text, but attended to from there, as no engine here does."""

FORMATS = (
    QWEN,
    QWEN3,
    QWEN3_NOTHINK,
    QWEN2_AUDIO,
    QWEN2_OMNI,
    QWEN3_OMNI,
    QWEN3_OMNI_NOTHINK,
    QWEN2_VL,
    QWEN3_VL,
    QWEN3_VL_NOTHINK,
    QWEN3_5,
    QWEN3_5_NOTHINK,
    QWEN3_6,
    MIMO,
    MIMO_V2,
    MIMO_VL,
    KEYE_VL,
    MOSS_VL,
)
