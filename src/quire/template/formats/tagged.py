"""Further models whose roles are tags of their own."""

from __future__ import annotations

from quire.template.format import BOS, EOS, Format, MediaTokens, token

COHERE = Format(
    name="cohere",
    user="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{content}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{content}<|END_OF_TURN_TOKEN|>",
    prefix=(BOS,),
)

DOTS_OCR = Format(
    name="dots_ocr",
    user="<|user|>{content}<|endofuser|><|assistant|>",
    assistant="{content}<|endofassistant|>",
    system="<|system|>{content}<|endofsystem|>\n",
    stop_words=("<|endofassistant|>",),
    efficient_eos=True,
    media=MediaTokens("Qwen2VL", image="<|imgpad|>", video="<|vidpad|>"),
)

EXAONE = Format(
    name="exaone",
    user="[|user|]{content}\n[|assistant|]",
    assistant=("{content}", EOS, "\n"),
    system="[|system|]{content}[|endofturn|]\n",
)

INDEX = Format(
    name="index",
    user="reserved_0{content}reserved_1",
    assistant="{content}",
    system="<unk>{content}",
    efficient_eos=True,
    controls=("reserved_0", "reserved_1"),
)

OLMO = Format(
    name="olmo",
    user="<|user|>\n{content}<|assistant|>\n",
    prefix=(EOS,),
)

STARCHAT = Format(
    name="starchat",
    user="<|user|>\n{content}<|end|>\n<|assistant|>",
    assistant="{content}<|end|>\n",
    system="<|system|>\n{content}<|end|>\n",
    stop_words=("<|end|>",),
)

TELECHAT2 = Format(
    name="telechat2",
    user="<_user>{content}<_bot>",
    system="<_system>{content}",
    default_system="你是中国电信星辰语义大模型，英文名是TeleChat，你是由中电信人工智能科技有限公司和中国电信人工智能研究院（TeleAI）研发的人工智能助手。",
)

YUAN = Format(
    name="yuan",
    user=("{content}", token("<sep>")),
    assistant="{content}<eod>\n",
    stop_words=("<eod>",),
)

ZEPHYR = Format(
    name="zephyr",
    user=("<|user|>\n{content}", EOS, "<|assistant|>\n"),
    system=("<|system|>\n{content}", EOS),
    default_system="You are Zephyr, a helpful assistant.",
)

FORMATS = (
    COHERE,
    DOTS_OCR,
    EXAONE,
    INDEX,
    OLMO,
    STARCHAT,
    TELECHAT2,
    YUAN,
    ZEPHYR,
)
