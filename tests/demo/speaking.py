"""Answers of the demo models as transformers gives them: greedy, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

Messages = list[dict[str, Any]]


@cache
def model_of(folder: Path, adapter: Path | None = None) -> Any:
    """The network in float32, with the adapter if one is named."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


@cache
def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def answers(
    folder: Path,
    conversations: Sequence[Messages],
    *,
    adapter: Path | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    thinking: bool = True,
    limit: int = 160,
) -> list[str]:
    """Return the greedy answer to each conversation, its thought included."""
    import torch

    tokenizer, model = tokenizer_of(folder), model_of(folder, adapter)
    prompts = [
        tokenizer.apply_chat_template(
            messages,
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=True,
            **({} if thinking else {"enable_thinking": False}),
        )
        for messages in conversations
    ]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.inference_mode():
        made = model.generate(
            **batch, max_new_tokens=limit, do_sample=False, temperature=None, top_p=None, top_k=None
        )
    rows = made[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def asked(*texts: str) -> list[Messages]:
    """Return one conversation for each text."""
    return [[{"role": "user", "content": text}] for text in texts]


def spoken(answer: str) -> str:
    """Return the answer without the thought before it."""
    return answer.rpartition("</think>")[2].strip()
