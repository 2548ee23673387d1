"""Gemma and PaliGemma."""

from __future__ import annotations

from quire.template.format import BOS, Format, MediaTokens

GEMMA = Format(
    name="gemma",
    user="<start_of_turn>user\n{content}<end_of_turn>\n<start_of_turn>model\n",
    assistant="{content}<end_of_turn>\n",
    system="{content}\n\n",
    observation="<start_of_turn>tool\n{content}<end_of_turn>\n<start_of_turn>model\n",
    result_join="<end_of_turn>\n<start_of_turn>tool\n",
    prefix=(BOS,),
    system_in_user=True,
    stop_words=("<end_of_turn>",),
    replace_eos=True,
)

GEMMA2 = GEMMA.derive(
    "gemma2",
    stop_words=("<eos>", "<end_of_turn>"),
    efficient_eos=True,
    replace_eos=False,
)

GEMMA3 = GEMMA.derive("gemma3", media=MediaTokens("Gemma3", image="<image_soft_token>"))

GEMMA3N = GEMMA.derive(
    "gemma3n", media=MediaTokens("Gemma3n", image="<image_soft_token>", audio="<audio_soft_token>")
)

GEMMA4 = Format(
    name="gemma4",
    user="<|turn>user\n{content}<turn|>\n<|turn>model\n",
    assistant="{content}<turn|>\n",
    system="<|turn>system\n<|think|>{content}<turn|>\n",
    function="<|tool>{content}<tool|>",
    observation="<|turn>tool\n{content}<turn|>\n<|turn>model\n",
    result_join="<turn|>\n<|turn>tool\n",
    prefix=(BOS,),
    default_system="You are a helpful assistant.",
    stop_words=("<turn|>",),
    tools="gemma4",
    reasoning=True,
    thought_words=("<|channel>thought\n", "<channel|>"),
    replace_eos=True,
    media=MediaTokens("Gemma4", image="<|image|>", video="<|video|>"),
)

GEMMA4N = GEMMA4.derive(
    "gemma4n", media=MediaTokens("Gemma4", image="<|image|>", video="<|video|>", audio="<|audio|>")
)

PALIGEMMA = Format(
    name="paligemma",
    user="{content}\n",
    prefix=(BOS,),
    system_in_user=True,
    media=MediaTokens("PaliGemma", image="<image>"),
)

PALIGEMMA_CHAT = GEMMA.derive(
    "paligemma_chat",
    system="{content}",
    media=MediaTokens("PaliGemma", image="<image>"),
)

FORMATS = (
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA3N,
    GEMMA4,
    GEMMA4N,
    PALIGEMMA,
    PALIGEMMA_CHAT,
)
