"""Labels as LLaMA-Factory writes them, and prompts cut as it cuts them, by their label's length."""

from __future__ import annotations

from collections.abc import Sequence

from quire.batch.rows import ChatRow
from quire.chat.preparation import Preparation


def label_ids(preparation: Preparation, row: ChatRow) -> tuple[int, ...]:
    """The tokens of a row's label: the answer after its prompt, with the format's tail.

    They are empty where the row has no answer.

    Raises:
        RequestError: the template cannot write it.
    """
    return () if row.answer is None else preparation.answer_ids(row.request, row.answer)


def cut_prompt(
    prompt: Sequence[int], label: Sequence[int], cutoff_len: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The prompt and the label cut to `cutoff_len` tokens together, by LLaMA-Factory's rule.

    Both keep their beginnings, so a prompt loses its end, and with it the header of the answer. How
    much a prompt keeps depends on its label.

    Args:
        prompt: the tokens before the answer, in which media are not yet expanded.
        label: the tokens of the label.
        cutoff_len: the most tokens of both.
    """
    kept_prompt, kept_label = kept_lengths(len(prompt), len(label), cutoff_len)
    return tuple(prompt[:kept_prompt]), tuple(label[:kept_label])


def kept_lengths(prompt: int, label: int, cutoff_len: int) -> tuple[int, int]:
    """How many tokens of a prompt and its label are kept; see `cut_prompt`."""
    if label * 2 < cutoff_len:  # a short label stays whole
        most = cutoff_len
    elif prompt * 2 < cutoff_len:  # a short prompt stays whole
        most = cutoff_len - prompt
    else:
        most = int(cutoff_len * (label / (prompt + label)))
    kept_label = min(most, label)
    return min(max(cutoff_len - kept_label, 0), prompt), kept_label
