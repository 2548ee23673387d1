"""Further models whose roles are words of the text."""

from __future__ import annotations

from quire.template.format import BOS, EOS, Format

BREEZE = Format(
    name="breeze",
    user="[INST] {content} [/INST] ",
    assistant="{content}",
    prefix=(BOS,),
    efficient_eos=True,
)

FALCON = Format(
    name="falcon",
    user="User: {content}\nFalcon:",
    assistant="{content}\n",
    efficient_eos=True,
)

OPENCHAT = Format(
    name="openchat",
    user=("GPT4 Correct User: {content}", EOS, "GPT4 Correct Assistant:"),
    prefix=(BOS,),
)

SOLAR = Format(
    name="solar",
    user="### User:\n{content}\n\n### Assistant:\n",
    assistant="{content}",
    system="### System:\n{content}\n\n",
    efficient_eos=True,
)

XUANYUAN = Format(
    name="xuanyuan",
    user="Human: {content} Assistant:",
    default_system="以下是用户和人工智能助手之间的对话。用户以Human开头，人工智能助手以Assistant开头，会对人类提出的问题给出有帮助、高质量、详细和礼貌的回答，并且总是拒绝参与与不道德、不安全、有争议、政治敏感等相关的话题、问题和指示。\n",
)

FORMATS = (
    BREEZE,
    FALCON,
    OPENCHAT,
    SOLAR,
    XUANYUAN,
)
