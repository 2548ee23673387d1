"""Moonlight and Kimi."""

from __future__ import annotations

from quire.template.format import Format, MediaTokens

MOONLIGHT = Format(
    name="moonlight",
    user="<|im_user|>user<|im_middle|>{content}<|im_end|><|im_assistant|>assistant<|im_middle|>",
    assistant="{content}<|im_end|>",
    system="<|im_system|>system<|im_middle|>{content}<|im_end|>",
    default_system="You are a helpful assistant provided by Moonshot-AI.",
    stop_words=("<|im_end|>",),
    replace_eos=True,
)

KIMI_VL = MOONLIGHT.derive(
    "kimi_vl",
    default_system="You are a helpful assistant",
    reasoning=True,
    thought_words=("◁think▷", "◁/think▷"),
    replace_eos=False,
    media=MediaTokens("KimiVL", image="<|media_pad|>"),
)

FORMATS = (
    MOONLIGHT,
    KIMI_VL,
)
