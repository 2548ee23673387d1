"""Phi."""

from __future__ import annotations

from quire.template.format import Format

PHI = Format(
    name="phi",
    user="<|user|>\n{content}<|end|>\n<|assistant|>\n",
    assistant="{content}<|end|>\n",
    system="<|system|>\n{content}<|end|>\n",
    stop_words=("<|end|>",),
    replace_eos=True,
)

PHI_SMALL = PHI.derive("phi_small")

PHI4 = Format(
    name="phi4",
    user="<|im_start|>user<|im_sep|>{content}<|im_end|><|im_start|>assistant<|im_sep|>",
    assistant="{content}<|im_end|>",
    system="<|im_start|>system<|im_sep|>{content}<|im_end|>",
    stop_words=("<|im_end|>",),
    replace_eos=True,
)

PHI4_MINI = PHI.derive(
    "phi4_mini",
    user="<|user|>{content}<|end|><|assistant|>",
    assistant="{content}<|end|>",
    system="<|system|>{content}<|end|>",
    tools="phi4_mini",
)

FORMATS = (
    PHI,
    PHI_SMALL,
    PHI4,
    PHI4_MINI,
)
