"""DeepSeek."""

from __future__ import annotations

from quire.template.format import BOS, Format

DEEPSEEK = Format(
    name="deepseek",
    user="User: {content}\n\nAssistant:",
    system="{content}\n\n",
    prefix=(BOS,),
)

DEEPSEEK3 = Format(
    name="deepseek3",
    user="<｜User｜>{content}<｜Assistant｜>",
    prefix=(BOS,),
)

DEEPSEEKR1 = DEEPSEEK3.derive("deepseekr1", reasoning=True)

DEEPSEEKCODER = Format(
    name="deepseekcoder",
    user="### Instruction:\n{content}\n### Response:",
    assistant="\n{content}\n<|EOT|>\n",
    prefix=(BOS,),
    default_system=(
        "You are an AI programming assistant, utilizing the DeepSeek Coder model, "
        "developed by DeepSeek Company, and you only answer questions related to computer "
        "science. For politically sensitive questions, security and privacy issues, and "
        "other non-computer science questions, you will refuse to answer.\n"
    ),
)

FORMATS = (
    DEEPSEEK,
    DEEPSEEK3,
    DEEPSEEKR1,
    DEEPSEEKCODER,
)
