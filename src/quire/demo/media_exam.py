"""Asks the media models about pictures, clips and sounds that they were not trained on.

`python -m quire.demo.media_exam see|hear` prints how many of a hundred answers are right, as
transformers gives them: greedy, with the chat template and the processors of the model's folder.
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

from quire.demo import MODELS, hearing, seeing
from quire.demo.media_network import patches
from quire.demo.pictures import (
    DIRECTIONS,
    MOST_SHAPES,
    Drawing,
    draw,
    draw_clip,
    random_clip,
    random_drawing,
)
from quire.demo.sounds import MOST_BEEPS, PITCHES, RATE, Beeps, play, random_beeps

SEED = 7_000_001
"""Far from the seeds of training."""

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
        clip = random_clip(rng, *rng.choice(seeing.SIZES), rng.randint(4, 8), direction)
        return Item(rng.choice(seeing.WAY), f"It moves {direction}.", clip=clip)
    size = rng.randint(84, 320)
    sides = size, round(size * rng.uniform(0.7, 1.5))
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
def loaded(folder: Path) -> tuple[Any, Any, Any]:
    """Return the network in float32, its tokenizer, and its processor of pictures or sounds."""
    import torch
    from transformers import (
        AutoFeatureExtractor,
        AutoImageProcessor,
        AutoTokenizer,
        Qwen2AudioForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
    )

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    if (folder / "video_preprocessor_config.json").is_file():
        network: Any = Qwen2VLForConditionalGeneration
        processor = AutoImageProcessor.from_pretrained(folder)
    else:
        network = Qwen2AudioForConditionalGeneration
        processor = AutoFeatureExtractor.from_pretrained(folder)
    return network.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer, processor


def answers(folder: Path, asked: Sequence[Item]) -> list[str]:
    """Return the greedy answer to each."""
    found: list[str] = []
    for start in range(0, len(asked), TOGETHER):
        found += _answers(folder, asked[start : start + TOGETHER])
    return found


def _answers(folder: Path, asked: Sequence[Item]) -> list[str]:
    import torch

    model, tokenizer, processor = loaded(folder)
    if any(item.sound for item in asked):
        inputs, counts = _sounds(processor, asked)
    else:
        inputs, counts = _pictures(processor, asked)
    texts = [_prompt(tokenizer, item, spread) for item, spread in zip(asked, counts, strict=True)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    if hasattr(model.config, "image_token_id"):
        ids = batch["input_ids"]
        image, video = model.config.image_token_id, model.config.video_token_id
        batch["mm_token_type_ids"] = (ids == image).long() + 2 * (ids == video).long()
    with torch.inference_mode():
        made = model.generate(**batch, **inputs, max_new_tokens=LIMIT, do_sample=False)
    rows = made[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def _pictures(processor: Any, asked: Sequence[Item]) -> tuple[dict[str, Any], list[list[int]]]:
    """Return the network's inputs, and how many tokens each medium of each item has."""
    import numpy as np
    import torch

    inputs: dict[str, Any] = {}
    shown = [draw(drawing) for item in asked for drawing in item.pictures]
    clips = [patches(draw_clip(item.clip)) for item in asked if item.clip]
    if shown:
        inputs = dict(processor(images=shown, return_tensors="pt"))
    if clips:
        inputs["pixel_values_videos"] = torch.from_numpy(
            np.concatenate([part for part, _ in clips])
        )
        inputs["video_grid_thw"] = torch.tensor([grid for _, grid in clips])
    grids = iter(inputs["image_grid_thw"].prod(-1).tolist() if shown else [])
    moving = iter([int(np.prod(grid)) for _, grid in clips])
    counts = [
        [next(moving) // 4] if item.clip else [next(grids) // 4 for _ in item.pictures]
        for item in asked
    ]
    return inputs, counts


def _sounds(extractor: Any, asked: Sequence[Item]) -> tuple[dict[str, Any], list[list[int]]]:
    """Return the network's inputs, and how many tokens each sound has."""
    sounds = [play(item.sound) for item in asked if item.sound is not None]
    made = extractor(
        sounds,
        sampling_rate=RATE,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    mask = made["attention_mask"]
    inputs = {"input_features": made["input_features"], "feature_attention_mask": mask}
    return inputs, [[((length - 1) // 2 + 1) // 2] for length in mask.sum(-1).tolist()]


def _prompt(tokenizer: Any, item: Item, counts: Sequence[int]) -> str:
    """Return the prompt by the folder's chat template, a placeholder for each feature."""
    kind, mark = "image", "<|image_pad|>"
    if item.clip:
        kind, mark = "video", "<|video_pad|>"
    elif item.sound is not None:
        kind, mark = "audio", "<|AUDIO|>"
    content = [*({"type": kind} for _ in counts), {"type": "text", "text": item.question}]
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    first, *others = text.split(mark)
    return first + "".join(mark * count + part for count, part in zip(counts, others, strict=True))


def graded(folder: Path, part: str, kind: str, count: int) -> list[tuple[Item, str]]:
    """Return the items that the model answers wrongly, of `count`, with what it says."""
    stream = items(part, kind)
    asked = [next(stream) for _ in range(count)]
    said = answers(folder, asked)
    return [(item, text) for item, text in zip(asked, said, strict=True) if text != item.answer]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the share of right answers of each kind."""
    parser = argparse.ArgumentParser(
        prog="python -m quire.demo.media_exam", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("part", choices=tuple(KINDS))
    parser.add_argument("--models", type=Path, default=MODELS, help="where the models lie")
    parser.add_argument("--count", type=int, default=100, help="questions of each kind")
    parser.add_argument("--show", action="store_true", help="print the wrong answers too")
    chosen = parser.parse_args(arguments)
    for kind in KINDS[chosen.part]:
        wrong = graded(chosen.models / chosen.part, chosen.part, kind, chosen.count)
        print(f"{kind}: {100 * (1 - len(wrong) / chosen.count):.1f} % right", flush=True)
        for item, said in wrong if chosen.show else ():
            print(f"  {item.question}  {item.answer!r}, said {said!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
