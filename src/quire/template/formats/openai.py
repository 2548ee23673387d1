"""GPT-OSS."""

from __future__ import annotations

from quire.template.format import Format

GPT_OSS = Format(
    name="gpt_oss",
    user="<|start|>user<|message|>{content}<|end|><|start|>assistant",
    assistant="{content}",
    system="<|start|>system<|message|>{content}<|end|>",
    default_system="You are ChatGPT, a large language model trained by OpenAI.",
    reasoning=True,
    thought_words=(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    efficient_eos=True,
)

FORMATS = (GPT_OSS,)
