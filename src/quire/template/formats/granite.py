"""Granite."""

from __future__ import annotations

from quire.template.format import Format, MediaTokens

GRANITE3 = Format(
    name="granite3",
    user=(
        "<|start_of_role|>user<|end_of_role|>{content}<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    ),
    assistant="{content}<|end_of_text|>\n",
    system="<|start_of_role|>system<|end_of_role|>{content}<|end_of_text|>\n",
)

GRANITE3_VISION = Format(
    name="granite3_vision",
    user="<|user|>\n{content}\n<|assistant|>\n",
    system="<|system|>\n{content}\n",
    default_system=(
        "A chat between a curious user and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    media=MediaTokens("LlavaNext", image="<image>"),
)

GRANITE4 = GRANITE3.derive(
    "granite4",
    observation=(
        "<|start_of_role|>tool<|end_of_role|>{content}<|end_of_text|>\n<|start_of_role|>assistant\n"
    ),
    result_join="<|end_of_text|>\n<|start_of_role|>tool<|end_of_role|>",
    default_system="You are Granite, developed by IBM. You are a helpful AI assistant.",
    stop_words=("<|end_of_text|>",),
)

FORMATS = (
    GRANITE3,
    GRANITE3_VISION,
    GRANITE4,
)
