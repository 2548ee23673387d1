"""Asks the media models about pictures, clips and sounds that they were not trained on.

`python -m tools.demo_models.media_exam see|hear` prints the share of right answers of each kind, as
transformers gives them: greedy, with the chat template and the processors of the model's folder.
While a recipe is tuned, give another `--seed`: the exam's own is for the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from quire.demo import MODELS
from tools.demo_models import hearing, seeing
from tools.demo_models.pictures import (
    DIRECTIONS,
    MOST_SHAPES,
    Drawing,
    draw,
    draw_clip,
    random_clip,
    random_drawing,
)
from tools.demo_models.sounds import MOST_BEEPS, PITCHES, RATE, Beeps, play, random_beeps

SEED = 20_261_125
"""Of the exam alone: neither training nor its tuning has seen what it draws."""

TALLEST = 640
"""The shorter side of a picture in the exam, at most; training has none of more than `LONG`."""

TOGETHER = 20
LIMIT = 40
KINDS = {"see": ("name", "count", "way", "several"), "hear": ("pitch", "beeps")}


@dataclass(frozen=True, slots=True)
class Item:
    """A question on media, with the one right answer."""

    question: str
    answer: str
    pictures: tuple[Drawing, ...] = ()
    clip: tuple[Drawing, ...] = ()
    sound: Beeps | None = None


def items(part: str, kind: str, seed: int = SEED) -> Iterator[Item]:
    """Yield questions of a kind without end; what is shown is of any size and length."""
    rng = Random(f"{part} {kind} {seed}")
    while True:
        yield _sound_item(rng, kind) if part == "hear" else _picture_item(rng, kind)


def _picture_item(rng: Random, kind: str) -> Item:
    if kind == "way":
        direction = rng.choice(tuple(DIRECTIONS))
        clip = random_clip(rng, *seeing.random_size(rng), rng.randint(4, 8), direction)
        return Item(rng.choice(seeing.WAY), f"It moves {direction}.", clip=clip)
    sides = seeing.random_size(rng, TALLEST)
    if kind == "several":
        drawings = tuple(random_drawing(rng, *sides, 1) for _ in range(rng.randint(2, 4)))
        answer = seeing.sentence(", ".join(each.shapes[0].words for each in drawings))
        return Item(rng.choice(seeing.EACH), answer, drawings)
    count = rng.randint(1, MOST_SHAPES) if kind == "count" else 1
    drawing = random_drawing(rng, *sides, count)
    if kind == "count":
        return Item(rng.choice(seeing.COUNT), seeing.counted(count), (drawing,))
    return Item(rng.choice(seeing.WHAT), seeing.sentence(drawing.shapes[0].words), (drawing,))


def _sound_item(rng: Random, kind: str) -> Item:
    count, pitch = rng.randint(1, MOST_BEEPS), rng.choice(tuple(PITCHES))
    sound = random_beeps(rng, rng.uniform(0.8, 3.5), count, pitch)
    if kind == "pitch":
        return Item(rng.choice(hearing.PITCH), f"The tone is {pitch}.", sound=sound)
    return Item(rng.choice(hearing.COUNT), hearing.counted(count), sound=sound)


@cache
def loaded(folder: Path) -> tuple[Any, Any]:
    """Return the network in float32 and its processor, which pads texts on the left."""
    import torch
    from transformers import (
        AutoProcessor,
        Qwen2AudioForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
    )

    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    network: Any = Qwen2AudioForConditionalGeneration
    if hasattr(processor, "image_processor"):
        network = Qwen2VLForConditionalGeneration
    return network.from_pretrained(folder, dtype=torch.float32).eval(), processor


def answers(folder: Path, asked: Sequence[Item]) -> list[str]:
    """Return the greedy answer to each."""
    found: list[str] = []
    for start in range(0, len(asked), TOGETHER):
        found += _answers(folder, asked[start : start + TOGETHER])
    return found


def _answers(folder: Path, asked: Sequence[Item]) -> list[str]:
    import torch

    model, processor = loaded(folder)
    texts = [prompt(processor, item) for item in asked]
    inputs = processor(text=texts, **_media(asked), padding=True, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)
    rows = made[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(rows, skip_special_tokens=True)]


def _media(asked: Sequence[Item]) -> dict[str, Any]:
    """Return what the processor is given beside the texts."""
    given: dict[str, Any] = {
        "images": [draw(drawing) for item in asked for drawing in item.pictures],
        "videos": [draw_clip(item.clip) for item in asked if item.clip],
        "audio": [play(item.sound) for item in asked if item.sound is not None],
    }
    rate = {"sampling_rate": RATE} if given["audio"] else {}
    return {name: media for name, media in given.items() if media} | rate


def prompt(processor: Any, item: Item) -> str:
    """Return the prompt by the folder's chat template, one placeholder for each medium."""
    kinds = ["image"] * len(item.pictures) + ["video"] * bool(item.clip)
    kinds += ["audio"] * (item.sound is not None)
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": item.question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text


def graded(
    folder: Path, part: str, kind: str, count: int, seed: int = SEED
) -> list[tuple[Item, str]]:
    """Return the items that the model answers wrongly, of `count`, with what it says."""
    stream = items(part, kind, seed)
    asked = [next(stream) for _ in range(count)]
    said = answers(folder, asked)
    return [(item, text) for item, text in zip(asked, said, strict=True) if text != item.answer]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the share of right answers of each kind."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_models.media_exam", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("part", choices=tuple(KINDS))
    parser.add_argument("--models", type=Path, default=MODELS, help="where the models lie")
    parser.add_argument("--count", type=int, default=300, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=SEED, help="what is drawn and played")
    parser.add_argument("--show", action="store_true", help="print the wrong answers too")
    chosen = parser.parse_args(arguments)
    for kind in KINDS[chosen.part]:
        wrong = graded(chosen.models / chosen.part, chosen.part, kind, chosen.count, chosen.seed)
        print(f"{kind}: {100 * (1 - len(wrong) / chosen.count):.1f} % right", flush=True)
        for item, said in wrong if chosen.show else ():
            print(f"  {item.question}  {item.answer!r}, said {said!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
