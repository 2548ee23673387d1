"""Makes the demo models: `python -m tools.demo_models chat|adapter|reward|see|hear|all`.

From text that this package writes itself, on a CPU with two cores. The committed models took
59 minutes (chat), 12 (both adapters) and 1 (rewards) on two Zen 5 cores that had other work too;
a step of the chat model takes 1.1 s when they have none, which makes 41 minutes, and all of it 54.
The models that see and hear took 55 and 15 minutes of one such core (`--threads 1`), in several
sittings: each phase begins from the weights that the phase before saved in bfloat16.
torch, transformers and peft are needed here, and nowhere else in quire.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.demo import MODELS
from tools.demo_models.corpus import dialogues
from tools.demo_models.manners import MANNERS, mannered
from tools.demo_models.packing import batches, encoded
from tools.demo_models.rewards import pairs
from tools.demo_models.tokenizer import save_tokenizer, train_tokenizer

ADAPTER_FOLDERS = {"pirate": "adapter", "butler": "adapter_butler"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much is trained. The standing values make the committed models."""

    steps: int = 2200
    rows: int = 8
    rate: float = 3e-3
    adapter_steps: int = 300
    adapter_rows: int = 8
    adapter_rate: float = 2e-3
    reward_steps: int = 300
    reward_pairs: int = 32
    reward_rate: float = 1e-3
    eye_steps: int = 450
    eye_rows: int = 96
    see_steps: int = 350
    see_practice: tuple[int, ...] = (400, 500, 500)
    see_finish: tuple[int, int] = (320, 1050)
    finish_rows: tuple[int, int] = (48, 96)
    finish_rate: float = 1.5e-3
    hear_steps: int = 350
    hear_practice: int = 500
    media_rows: int = 64
    media_rate: float = 3e-3
    media_sample: int = 3000
    sample: int = 30_000
    seed: int = 1
    fast: bool = True


SMOKE = Recipe(
    steps=2,
    rows=1,
    adapter_steps=2,
    adapter_rows=1,
    reward_steps=2,
    reward_pairs=2,
    sample=300,
    eye_steps=2,
    eye_rows=4,
    see_steps=2,
    see_practice=(2, 2),
    see_finish=(2, 2),
    finish_rows=(4, 4),
    hear_steps=2,
    hear_practice=2,
    media_rows=4,
    media_sample=100,
    fast=False,
)


def make_chat(folder: Path, recipe: Recipe) -> None:
    """Train the tokenizer and the chat model into `folder/chat`."""
    from tools.demo_models.network import CHAT, new_model, save_model
    from tools.demo_models.train import train_tokens

    target = _cleared(folder / "chat")
    tokenizer = train_tokenizer(recipe.seed, recipe.sample)
    model = new_model(tokenizer, CHAT, recipe.seed)
    stream = batches(encoded(tokenizer, dialogues(recipe.seed)), recipe.rows)
    save_tokenizer(tokenizer, target)

    def save() -> None:
        save_model(model, tokenizer, target)

    train_tokens(
        model, stream, recipe.steps, recipe.rate, muon=True, fast=recipe.fast, snapshot=save
    )
    save()


def make_adapters(folder: Path, recipe: Recipe) -> None:
    """Train a LoRA adapter of `folder/chat` for each manner."""
    for manner in MANNERS:
        make_adapter(folder, recipe, manner)


def make_adapter(folder: Path, recipe: Recipe, manner: str) -> None:
    """Train one LoRA adapter of rank 8 on all matrices of the chat model's layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tools.demo_models.network import plain_base_name
    from tools.demo_models.train import train_tokens

    target = _cleared(folder / ADAPTER_FOLDERS[manner])
    tokenizer = _tokenizer(folder / "chat")
    torch.manual_seed(recipe.seed)
    base = AutoModelForCausalLM.from_pretrained(folder / "chat", dtype=torch.float32)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = LoraConfig(r=8, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, settings)
    stream = batches(encoded(tokenizer, mannered(manner, recipe.seed + 1)), recipe.adapter_rows)
    train_tokens(model, stream, recipe.adapter_steps, recipe.adapter_rate, muon=False, fast=False)
    model.to(torch.bfloat16).save_pretrained(target)
    (target / "README.md").unlink(missing_ok=True)
    plain_base_name(target, "../chat")


def make_rewards(folder: Path, recipe: Recipe) -> None:
    """Train one small reward network with the chat model's tokenizer, and save it in two forms:

    LLaMA-Factory's, a causal language model beside a value head, and as a sequence classifier.
    The classifier has no bias, so that its scores are the others less the head's bias.
    """
    import torch
    from transformers import Qwen3ForSequenceClassification

    from tools.demo_models.network import REWARD, config, new_model, save_model, save_value_head
    from tools.demo_models.train import train_rewards

    tokenizer = _tokenizer(folder / "chat")
    model = new_model(tokenizer, REWARD, recipe.seed)
    head = torch.nn.Linear(REWARD["hidden_size"], 1)
    stream = pairs(recipe.seed)
    train_rewards(
        model.model,
        head,
        tokenizer,
        stream,
        recipe.reward_steps,
        recipe.reward_rate,
        recipe.reward_pairs,
    )
    classifier = Qwen3ForSequenceClassification(config(tokenizer, REWARD, num_labels=1))
    classifier.model.load_state_dict(model.model.state_dict())
    classifier.score.load_state_dict({"weight": head.weight.detach()})
    for network, name in ((model, "reward"), (classifier, "reward_classifier")):
        target = _cleared(folder / name)
        save_model(network, tokenizer, target)
        save_tokenizer(tokenizer, target)
    save_value_head(head.weight, head.bias, folder / "reward")


def make_see(folder: Path, recipe: Recipe) -> None:
    """Train the model that sees into `folder/see`: its eye first, then the whole."""
    import torch

    from tools.demo_models.media_files import SEE_TEMPLATE, save_picture_processor
    from tools.demo_models.media_network import new_seeing_model
    from tools.demo_models.media_train import (
        CELL_SIZES,
        new_guide,
        seeing_losses,
        tower_losses,
        whiten,
    )
    from tools.demo_models.seeing import SMALL
    from tools.demo_models.train import descend

    target = _cleared(folder / "see")
    save_picture_processor(target)
    tokenizer = _media_tokenizer(target, recipe, SEE_TEMPLATE)
    model, guide = new_seeing_model(tokenizer, recipe.seed), new_guide(CELL_SIZES, recipe.seed)
    whiten(model.model.visual, recipe.seed, recipe.media_sample)
    eye = torch.nn.ModuleList([model.model.visual, guide])
    films = tower_losses(model, guide, recipe.seed, recipe.eye_rows)
    descend(eye, films, recipe.eye_steps, recipe.media_rate, muon=True)
    stream = seeing_losses(model, guide, tokenizer, recipe.seed, recipe.media_rows, sizes=SMALL)
    _train_media(model, guide, stream, recipe.see_steps, recipe.media_rate, tokenizer, target)
    for number in range(1, len(recipe.see_practice) + 1):
        practise_seeing(folder, recipe, number)
    for number in range(1, len(recipe.see_finish) + 1):
        finish_seeing(folder, recipe, number)


def practise_seeing(folder: Path, recipe: Recipe, number: int) -> None:
    """Train the saved model on, most on what is learned late, in the round of this number from 1.

    That is counting, and naming several pictures in order. In each round the rate rises again.
    """
    from tools.demo_models.media_train import CELL_SIZES, new_guide, seeing_losses
    from tools.demo_models.seeing import PRACTICE, SMALL

    tokenizer, model = _saved_media(folder / "see")
    guide, seed = new_guide(CELL_SIZES, recipe.seed), recipe.seed + number
    stream = seeing_losses(model, guide, tokenizer, seed, recipe.media_rows, PRACTICE, SMALL)
    steps, rate = recipe.see_practice[number - 1], recipe.media_rate
    _train_media(model, guide, stream, steps, rate, tokenizer, folder / "see")


def finish_seeing(folder: Path, recipe: Recipe, number: int) -> None:
    """Train the saved model on pictures of all sizes, in the round of this number from 1.

    They are scaled as the processor does, which stretches them: a model that has not seen that
    counts a long shape twice. The first round is on all kinds of questions alike, the second most
    on shapes so close together that little is left of what parts them.
    """
    import torch

    from tools.demo_models.media_train import CELL_SIZES, new_guide, seeing_losses
    from tools.demo_models.seeing import CROWDS, FINISH

    tokenizer, model = _saved_media(folder / "see")
    guide = new_guide(CELL_SIZES, recipe.seed)
    # A guide of zeros passes nothing back before it has learned to read what the tower knows.
    torch.nn.init.zeros_(guide.weight)
    kinds, seed = (FINISH, CROWDS)[number - 1], recipe.seed + len(recipe.see_practice) + number
    rows, steps = recipe.finish_rows[number - 1], recipe.see_finish[number - 1]
    stream = seeing_losses(model, guide, tokenizer, seed, rows, kinds)
    _train_media(model, guide, stream, steps, recipe.finish_rate, tokenizer, folder / "see")


def make_hear(folder: Path, recipe: Recipe) -> None:
    """Train the model that hears into `folder/hear`."""
    from tools.demo_models.media_files import HEAR_TEMPLATE, save_sound_processor
    from tools.demo_models.media_network import new_hearing_model
    from tools.demo_models.media_train import MOMENT_SIZES, hearing_losses, new_guide

    target = _cleared(folder / "hear")
    save_sound_processor(target)
    tokenizer = _media_tokenizer(target, recipe, HEAR_TEMPLATE)
    model, guide = new_hearing_model(tokenizer, recipe.seed), new_guide(MOMENT_SIZES, recipe.seed)
    stream = hearing_losses(model, guide, tokenizer, recipe.seed, recipe.media_rows)
    _train_media(model, guide, stream, recipe.hear_steps, recipe.media_rate, tokenizer, target)
    practise_hearing(folder, recipe)


def practise_hearing(folder: Path, recipe: Recipe) -> None:
    """Train the saved model on with the rate risen again: counting is learned last."""
    from tools.demo_models.media_train import MOMENT_SIZES, hearing_losses, new_guide

    target, seed = folder / "hear", recipe.seed + 1
    tokenizer, model = _saved_media(target)
    guide = new_guide(MOMENT_SIZES, recipe.seed)
    stream = hearing_losses(model, guide, tokenizer, seed, recipe.media_rows)
    _train_media(model, guide, stream, recipe.hear_practice, recipe.media_rate, tokenizer, target)


def _media_tokenizer(target: Path, recipe: Recipe, template: str) -> Any:
    from tools.demo_models.media_files import save_media_tokenizer, train_media_tokenizer

    tokenizer = train_media_tokenizer(recipe.seed, recipe.media_sample)
    save_media_tokenizer(tokenizer, target, template)
    return tokenizer


def _saved_media(target: Path) -> tuple[Any, Any]:
    """Return the tokenizer and the network that an earlier phase has saved."""
    from tools.demo_models.media_network import read_media_model

    return _tokenizer(target), read_media_model(target)


def _train_media(
    model: Any,
    guide: Any,
    stream: Iterator[Any],
    steps: int,
    rate: float,
    tokenizer: Any,
    target: Path,
) -> None:
    import torch

    from tools.demo_models.media_network import save_media_model
    from tools.demo_models.train import descend

    def save() -> None:
        save_media_model(model, tokenizer, target)

    both = torch.nn.ModuleList([model, guide])
    descend(both, stream, steps, rate, muon=True, snapshot=save)
    save()


PARTS: dict[str, Callable[[Path, Recipe], None]] = {
    "chat": make_chat,
    "adapter": make_adapters,
    "reward": make_rewards,
    "see": make_see,
    "hear": make_hear,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and make what it names."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_models", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("part", choices=[*PARTS, "all"], help="what to make")
    parser.add_argument("--out", type=Path, default=MODELS, help="the folder to write to")
    parser.add_argument("--threads", type=int, default=2, help="how many threads torch uses")
    parser.add_argument(
        "--steps", type=int, default=Recipe().steps, help="steps of the chat model's training"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps only, to see that all runs"
    )
    chosen = parser.parse_args(arguments)
    recipe = SMOKE if chosen.smoke else Recipe(steps=chosen.steps)

    import torch

    torch.set_num_threads(chosen.threads)
    for name in PARTS if chosen.part == "all" else (chosen.part,):
        began = time.monotonic()
        PARTS[name](chosen.out, recipe)
        print(f"{name}: made in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _cleared(folder: Path) -> Path:
    """Return the folder, empty: no file of an older model stays in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
