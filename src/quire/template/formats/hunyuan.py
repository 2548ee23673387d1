"""Hunyuan, and Hy-MT2."""

from __future__ import annotations

from quire.template.format import BOS, Format

HUNYUAN = Format(
    name="hunyuan",
    user="{content}<|extra_0|>",
    assistant="{content}<|eos|>",
    system="{content}<|extra_4|>",
    prefix="<|startoftext|>",
    stop_words=("<|eos|>",),
)

HUNYUAN_SMALL = Format(
    name="hunyuan_small",
    user="<｜hy_User｜>{content}<｜hy_place▁holder▁no▁8｜>",
    assistant="{content}<｜hy_place▁holder▁no▁2｜>",
    system="{content}<｜hy_place▁holder▁no▁3｜>",
    prefix="<｜hy_begin▁of▁sentence｜>",
    stop_words=("<｜hy_place▁holder▁no▁2｜>",),
)

# The next two begin an answer with its turn's own tokens, or end it with none: so the models of Hy-MT2 were
# trained.
HY_DENSE_1_8B = Format(
    name="hy_dense_1_8b",
    user="<｜hy_User｜>{content}",
    assistant="<｜hy_Assistant｜>{content}",
    system="{content}<｜hy_place▁holder▁no▁3｜>",
    prefix=(BOS,),
    stop_words=("<｜hy_place▁holder▁no▁2｜>",),
    efficient_eos=True,
)

HY_DENSE_7B = Format(
    name="hy_dense_7b",
    user="{content}<|extra_0|>",
    assistant="{content}",
    system="{content}<|extra_4|>",
    prefix=(BOS,),
    stop_words=("<|eos|>",),
    efficient_eos=True,
)

HY3 = Format(
    name="hy3",
    user="<｜hy_User｜>{content}<｜hy_Assistant｜>",
    assistant="{content}<｜hy_eos｜>",
    prefix=(BOS,),
    stop_words=("<｜hy_eos｜>",),
    reasoning=True,
    thought_words=("<think>", "</think>"),
    replace_eos=True,
)

FORMATS = (
    HUNYUAN,
    HUNYUAN_SMALL,
    HY_DENSE_1_8B,
    HY_DENSE_7B,
    HY3,
)
