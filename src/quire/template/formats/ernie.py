"""ERNIE."""

from __future__ import annotations

from quire.template.format import Format, MediaTokens

ERNIE = Format(
    name="ernie",
    user="<|im_start|>user\n{content}<|im_end|>\n\n<|im_start|>assistant\n",
    assistant="{content}<|im_end|>\n\n",
    system="<|im_start|>system\n{content}<|im_end|>\n\n",
    observation="<|im_start|>tool\n{content}<|im_end|>\n\n<|im_start|>assistant\n",
    result_join="<|im_end|>\n\n<|im_start|>tool\n",
    default_system="<global_setting>\nthink_mode=True\n</global_setting>",
    stop_words=("<|im_end|>",),
)

ERNIE_NOTHINK = Format(
    name="ernie_nothink",
    user="User: {content}\nAssistant: ",
    assistant="{content}<|end_of_sentence|>",
    system="{content}\n",
    prefix="<|begin_of_sentence|>",
    stop_words=("<|end_of_sentence|>",),
)

ERNIE_VL = Format(
    name="ernie_vl",
    user="User: {content}",
    assistant="\nAssistant: {content}<|end_of_sentence|>",
    system="{content}\n",
    stop_words=("<|end_of_sentence|>",),
    reasoning=True,
    replace_eos=True,
    media=MediaTokens("ErnieVL", image="<|IMAGE_PLACEHOLDER|>", video="<|VIDEO_PLACEHOLDER|>"),
)

FORMATS = (
    ERNIE,
    ERNIE_NOTHINK,
    ERNIE_VL,
)
