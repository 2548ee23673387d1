"""InternLM and InternVL."""

from __future__ import annotations

from quire.template.format import BOS, Format, MediaTokens

INTERN2 = Format(
    name="intern2",
    user="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    assistant="{content}<|im_end|>\n",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    prefix=(BOS,),
    default_system=(
        "You are an AI assistant whose name is InternLM (书生·浦语).\n- InternLM (书生·浦语) is a "
        "conversational language model that is developed by Shanghai AI Laboratory "
        "(上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n- InternLM "
        "(书生·浦语) can understand and communicate fluently in the language chosen by the "
        "user such as English and 中文."
    ),
    stop_words=("<|im_end|>",),
)

INTERN_VL = INTERN2.derive(
    "intern_vl",
    default_system="你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
    media=MediaTokens("InternVL", image="<image>", video="<video>"),
)

INTERN_S1 = INTERN_VL.derive("intern_s1", default_system="")

FORMATS = (
    INTERN2,
    INTERN_VL,
    INTERN_S1,
)
