"""The training loops: next tokens for the chat model and its adapters, pairs for the rewards.

Weight matrices are trained with Muon, which needs about half the steps of AdamW here; embeddings,
norms and small adapters with AdamW. The matrix products run in bfloat16 where the CPU has
instructions for it, all else in float32.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.demo_models.muon import Muon
from tools.demo_models.packing import IGNORED, Batch
from tools.demo_models.rewards import FORMS, Pair, shown

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

WARM_UP = 0.04
REPORT_EVERY = 25
SNAPSHOT_EVERY = 250


def train_tokens(
    model: Any,
    stream: Iterator[Batch],
    steps: int,
    rate: float,
    *,
    muon: bool,
    fast: bool,
    snapshot: Callable[[], None] | None = None,
) -> float:
    """Train a causal language model in place and return the last reported loss.

    Args:
        model: a transformers model with `.model` and `.lm_head`, or peft's wrapper of one.
        stream: the batches.
        steps: how many batches to take.
        rate: the highest learning rate; it warms up linearly and falls to zero as a cosine.
        muon: whether matrices are trained with Muon.
        fast: compile the network first, which pays for itself in some ten minutes.
        snapshot: called every few hundred steps, so that a run that is cut off leaves something.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = _compiled(inner.model) if fast else inner.model
    losses = (_token_loss(body, inner.lm_head, batch) for batch in stream)
    return descend(model, losses, steps, rate, muon=muon, snapshot=snapshot)


def train_rewards(
    body: Any,
    head: Any,
    tokenizer: Tokenizer,
    stream: Iterator[Pair],
    steps: int,
    rate: float,
    size: int,
) -> float:
    """Train a network and its value head so that the better answer scores higher; return the loss."""
    import torch

    both = torch.nn.ModuleList([body, head])
    losses = (
        _pair_loss(body, head, tokenizer, [next(stream) for _ in range(size)], step % FORMS)
        for step in range(steps)
    )
    return descend(both, losses, steps, rate, muon=False)


def scores(body: Any, head: Any, tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Return the value at each text's last token, [texts]."""
    import torch

    rows = [row.ids for row in tokenizer.encode_batch(texts)]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for line, row in enumerate(rows):
        ids[line, : len(row)] = torch.tensor(row)
    # Padding stands on the right of causal attention: no real token sees it.
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state
    ends = torch.tensor([len(row) - 1 for row in rows])
    return head(hidden[torch.arange(len(rows)), ends]).squeeze(-1)


def descend(
    model: Any,
    losses: Iterator[torch.Tensor],
    steps: int,
    rate: float,
    *,
    muon: bool,
    snapshot: Callable[[], None] | None = None,
) -> float:
    """Take one step down each of the losses and return their mean near the end."""
    import torch

    optimizers = _optimizers(model, rate, muon=muon)
    schedule = _schedule(steps)
    began, mean = time.monotonic(), 0.0
    model.train()
    for step in range(steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step)
        loss = next(losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            print(
                f"step {step + 1}/{steps}  loss {mean:.4f}  {time.monotonic() - began:.0f} s",
                flush=True,
            )
        if snapshot and (step + 1) % SNAPSHOT_EVERY == 0:
            snapshot()
    model.eval()
    return mean


def _token_loss(body: Any, head: Any, batch: Batch) -> torch.Tensor:
    import torch

    labels = torch.from_numpy(batch.labels)
    learned = labels != IGNORED
    with half():
        hidden = body(
            input_ids=torch.from_numpy(batch.ids),
            position_ids=torch.from_numpy(batch.positions),
            attention_mask=_mask(batch),
            use_cache=False,
        ).last_hidden_state
        logits = head(hidden[learned])
    return torch.nn.functional.cross_entropy(logits.float(), labels[learned])


def _pair_loss(
    body: Any, head: Any, tokenizer: Tokenizer, pairs: list[Pair], form: int
) -> torch.Tensor:
    """Return Bradley and Terry's loss, -log sigmoid(better - worse)."""
    import torch

    texts = [shown(pair.question, pair.better, form) for pair in pairs]
    texts += [shown(pair.question, pair.worse, form) for pair in pairs]
    values = scores(body, head, tokenizer, texts)
    better, worse = values.chunk(2)
    # A little of the squares keeps the scores near zero, where bfloat16 is fine.
    return -torch.nn.functional.logsigmoid(better - worse).mean() + 0.002 * values.square().mean()


def half() -> AbstractContextManager[Any]:
    """Return the context in which matrix products run in bfloat16, where the CPU can do that."""
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=_has_bfloat16())


@cache
def _has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; elsewhere it is many times slower than float32."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text("utf-8") if flags.is_file() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def _mask(batch: Batch) -> torch.Tensor:
    """Return which token sees which, [rows, 1, ROW, ROW]: earlier ones of the same dialogue."""
    import torch

    owner = torch.from_numpy(batch.owner)
    same = owner[:, :, None] == owner[:, None, :]
    return torch.tril(same).unsqueeze(1)


def _optimizers(model: Any, rate: float, *, muon: bool) -> list[Any]:
    import torch

    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [
        weight
        for name, weight in trained
        if muon and weight.ndim == 2 and "embed" not in name and "head" not in name
    ]
    chosen = {id(weight) for weight in matrices}
    others = [weight for _, weight in trained if id(weight) not in chosen]
    optimizers: list[Any] = [
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
    ]
    if matrices:
        optimizers.append(Muon(matrices, rate, decay=0.1))
    return optimizers


def _schedule(steps: int) -> Callable[[int], float]:
    import math

    warm = max(1, round(steps * WARM_UP))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))

    return factor


def _compiled(body: Any) -> Any:
    import torch

    if shutil.which("g++") is None:
        print("no C++ compiler found: the network is not compiled, which takes a little longer")
        return body
    return torch.compile(body)
