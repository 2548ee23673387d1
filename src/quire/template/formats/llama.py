"""Llama 2, 3 and 4."""

from __future__ import annotations

from quire.template.format import BOS, Format, MediaTokens

LLAMA2 = Format(
    name="llama2",
    user=(BOS, "[INST] {content} [/INST]"),
    system="<<SYS>>\n{content}\n<</SYS>>\n\n",
    system_in_user=True,
)

LLAMA2_ZH = LLAMA2.derive(
    "llama2_zh", default_system="You are a helpful assistant. 你是一个乐于助人的助手。"
)

LLAMA3 = Format(
    name="llama3",
    user=(
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "{content}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    assistant="{content}<|eot_id|>",
    system="<|start_header_id|>system<|end_header_id|>\n\n{content}<|eot_id|>",
    observation=(
        "<|start_header_id|>ipython<|end_header_id|>\n\n"
        "{content}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    result_join="<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n",
    prefix=(BOS,),
    stop_words=("<|eot_id|>", "<|eom_id|>"),
    tools="llama3",
    replace_eos=True,
)

LLAMA4 = Format(
    name="llama4",
    user=(
        "<|header_start|>user<|header_end|>\n\n"
        "{content}<|eot|><|header_start|>assistant<|header_end|>\n\n"
    ),
    assistant="{content}<|eot|>",
    system="<|header_start|>system<|header_end|>\n\n{content}<|eot|>",
    observation=(
        "<|header_start|>ipython<|header_end|>\n\n"
        "{content}<|eot|><|header_start|>assistant<|header_end|>\n\n"
    ),
    result_join="<|eot|><|header_start|>ipython<|header_end|>\n\n",
    prefix=(BOS,),
    stop_words=("<|eot|>", "<|eom|>"),
    tools="llama3",
    replace_eos=True,
    media=MediaTokens("Llama4", image="<|image|>"),
)

MLLAMA = LLAMA3.derive("mllama", media=MediaTokens("Mllama", image="<|image|>"))

OPENCHAT_3_6 = Format(
    name="openchat-3.6",
    user=(
        "<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n"
        "{content}<|eot_id|><|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\n"
    ),
    prefix=(BOS,),
    stop_words=("<|eot_id|>",),
)

FORMATS = (
    LLAMA2,
    LLAMA2_ZH,
    LLAMA3,
    LLAMA4,
    MLLAMA,
    OPENCHAT_3_6,
)
