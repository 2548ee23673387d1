"""Batches of pictures and of sounds with their dialogues, and the loss on the answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tools.demo_models import hearing, seeing
from tools.demo_models.media_files import FRAMES, HOP, MERGE, PATCH
from tools.demo_models.media_network import (
    HIDDEN,
    new_extractor,
    patches,
    picture_features,
    sound_features,
)
from tools.demo_models.packing import IGNORED
from tools.demo_models.pictures import COLOURS, DIRECTIONS, SHAPES, Drawing, draw_clip
from tools.demo_models.sounds import MOST_BEEPS, PITCHES, RATE, Beeps, play
from tools.demo_models.train import half

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

LEAST_POWER = 0.02
"""What weaker components of a patch are held to: they are noise."""

SILENCE = 0.1
"""Seconds of silence after a sound in a batch: what the ear's convolutions see past its end."""


@dataclass(frozen=True, slots=True)
class Row:
    """A dialogue as tokens: the labels, and where each token stands in time, height and width."""

    ids: list[int]
    labels: list[int]
    places: NDArray[np.int64]


def grouped(stream: Iterator[tuple[Any, Any]], rows: int) -> Iterator[tuple[Any, list[Any]]]:
    """Yield `rows` tasks of one size together, as soon as there are so many."""
    waiting: dict[Any, list[Any]] = defaultdict(list)
    for size, task in stream:
        waiting[size].append(task)
        if len(waiting[size]) == rows:
            yield size, waiting.pop(size)


def segments(task: seeing.Task | hearing.Task, media: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield the dialogue's text, and whether the model learns to write it."""
    shown = "".join(media)
    system = f"<|im_start|>system\n{task.system}<|im_end|>\n" if task.system else ""
    for number, (question, answer) in enumerate(task.exchanges):
        asked = question if number else (question + shown if task.media_last else shown + question)
        yield f"{system}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n", False
        yield f"{answer}<|im_end|>\n", True
        system = ""


def see_text(task: seeing.Task) -> list[str]:
    """Return the control text of each picture and clip, a placeholder for each feature."""
    found: list[str] = []
    for frames in task.media:
        count = -(-len(frames) // FRAMES) * task.seen[0] * task.seen[1] // seeing.CELL**2
        name = "image" if len(frames) == 1 else "video"
        found.append(f"<|vision_start|>{f'<|{name}_pad|>' * count}<|vision_end|>")
    return found


def hear_text(task: hearing.Task) -> list[str]:
    """Return the control text of each sound."""
    count = round(task.media[0].seconds * RATE) // HOP // 4 if task.media else 0
    sounds = f"<|audio_bos|>{'<|AUDIO|>' * count}<|audio_eos|>"
    if task.numbered:
        return [f"Audio {number}: {sounds}\n" for number in range(1, len(task.media) + 1)]
    return [sounds] * len(task.media)


def encoded_row(
    tokenizer: Tokenizer, parts: Iterator[tuple[str, bool]], grids: Sequence[tuple[int, int, int]]
) -> Row:
    """Return the dialogue as tokens; each label is the next token, where it is to be learned."""
    ids: list[int] = []
    learned: list[bool] = []
    for text, learn in parts:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        ids += found
        learned += [learn] * len(found)
    labels = [
        token if learn else IGNORED for token, learn in zip(ids[1:], learned[1:], strict=True)
    ]
    pads = {tokenizer.token_to_id(f"<|{name}_pad|>") for name in ("image", "video")}
    return Row(ids, [*labels, IGNORED], places(ids, pads, grids))


def places(
    ids: Sequence[int], pads: set[int], grids: Sequence[tuple[int, int, int]]
) -> NDArray[np.int64]:
    """Return M-RoPE's positions, [3, tokens]; `grids` are (t, h, w) of each medium in patches."""
    parts: list[NDArray[np.int64]] = []
    spot, after, waiting = 0, 0, list(grids)
    while spot < len(ids):
        if ids[spot] in pads:
            t, h, w = waiting.pop(0)
            shape = (t, h // MERGE, w // MERGE)
            grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
            parts.append(after + grid)
            spot, after = spot + grid.shape[1], after + max(shape)
        else:
            parts.append(np.full((3, 1), after))
            spot, after = spot + 1, after + 1
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows of one length: ids and labels [rows, tokens], places [3, rows, tokens]."""

    ids: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor


def padded(rows: Sequence[Row]) -> Padded:
    """Pad on the right, which no real token sees under causal attention."""
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    labels = np.full((len(rows), longest), IGNORED, np.int64)
    spots = np.zeros((3, len(rows), longest), np.int64)
    for line, row in enumerate(rows):
        ids[line, : len(row.ids)] = row.ids
        labels[line, : len(row.ids)] = row.labels
        spots[:, line, : len(row.ids)] = row.places
    return Padded(*map(torch.from_numpy, (ids, labels, spots)))


def cells(frames: Sequence[Drawing], seen: tuple[int, int]) -> NDArray[np.int64]:
    """Return what each token of a picture or clip is to know, [tokens, 4].

    How many shapes have their centre in its cell, up to 3; where it is one, the shape, the colour,
    and in a clip the direction, each as its number, and `IGNORED` where there is nothing to know.
    """
    high, wide = seen[0] // seeing.CELL, seen[1] // seeing.CELL
    height, width = frames[0].height, frames[0].width
    found = np.full((-(-len(frames) // FRAMES), high, wide, 4), IGNORED)
    found[..., 0] = 0
    way = _way(frames)
    # Small shapes are counted, not named: one is told from another where it stands alone.
    named = len(frames) == 1 and len(frames[0].shapes) == 1
    for time, cell in enumerate(found):
        first, last = frames[time * FRAMES], frames[min(time * FRAMES + 1, len(frames) - 1)]
        for one, two in zip(first.shapes, last.shapes, strict=True):
            row, column = (one.y + two.y) / 2 / height, (one.x + two.x) / 2 / width
            spot = cell[_cell(row, high), _cell(column, wide)]
            spot[0] = min(3, spot[0] + 1)
            alone = spot[0] == 1
            spot[1] = SHAPES.index(one.name) if named else IGNORED
            spot[2] = tuple(COLOURS).index(one.colour) if alone else IGNORED
            spot[3] = way if alone else IGNORED
    return found.reshape(-1, 4)


def _cell(part: float, count: int) -> int:
    return min(count - 1, int(part * count))


def _way(frames: Sequence[Drawing]) -> int:
    """Return the number of the direction, `IGNORED` for a picture."""
    if len(frames) == 1:
        return IGNORED
    first, last = frames[0].shapes[0], frames[-1].shapes[0]
    moved = int(np.sign(round(last.x - first.x, 3))), int(np.sign(round(last.y - first.y, 3)))
    return tuple(DIRECTIONS.values()).index(moved)


CELL_SIZES = (4, len(SHAPES), len(COLOURS), len(DIRECTIONS))


def moments(sound: Beeps) -> NDArray[np.int64]:
    """Return what each token of a sound is to know, [tokens, 2].

    How many beeps have begun by then, and the pitch, `IGNORED` in silence.
    """
    count = round(sound.seconds * RATE) // HOP // 4
    time = (np.arange(count) + 0.5) * 4 * HOP / RATE
    begun = np.zeros(count, np.int64)
    pitch = np.full(count, IGNORED)
    for start, length in sound.spans:
        begun += time > start
        pitch[(time > start) & (time < start + length)] = tuple(PITCHES).index(sound.pitch)
    return np.stack([begun, pitch], axis=1)


MOMENT_SIZES = (MOST_BEEPS + 1, len(PITCHES))


def new_guide(sizes: Sequence[int], seed: int) -> Any:
    """Return the linear layer that reads what a tower knows of each token, for training alone."""
    import torch

    torch.manual_seed(seed)
    return torch.nn.Linear(HIDDEN, sum(sizes))


def whiten(tower: Any, seed: int, count: int) -> None:
    """Begin the patch embedding with the principal components of patches, all of like strength.

    From random filters nearly all that the tower sees is how bright a patch is; the edges, by which
    shapes differ, are lost beside that for a thousand steps.
    """
    import torch

    films = islice(seeing.seen_films(seed, seeing.SMALL), count)
    seen = np.concatenate([patches(draw_clip(film, size))[0] for size, film in films])
    powers, axes = np.linalg.eigh(seen.T @ seen / len(seen))
    width = tower.patch_embed.proj.weight.shape[0]
    filters = (axes / np.sqrt(np.maximum(powers, 0) + LEAST_POWER)).T[-width:]
    weight = tower.patch_embed.proj.weight
    weight.data.copy_(torch.from_numpy(np.ascontiguousarray(filters)).view_as(weight))


def tower_losses(model: Any, guide: Any, seed: int, rows: int) -> Iterator[torch.Tensor]:
    """Yield the loss of the guide alone: what the eye learns before it is asked anything.

    Pictures of several shapes teach several times as much a second as whole dialogues.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for (height, width), films in grouped(seeing.seen_films(seed, seeing.SMALL), rows):
        pixels = np.concatenate([patches(draw_clip(film, (height, width)))[0] for film in films])
        known = np.concatenate([cells(film, (height, width)) for film in films])
        with half(), sdpa_kernel(SDPBackend.MATH):
            features = picture_features(
                model.model.visual, torch.from_numpy(pixels), height // PATCH, width // PATCH
            )
            read = guide(features.flatten(0, -2)).float().split(CELL_SIZES, -1)
        yield _guided(read, torch.from_numpy(known))


def seeing_losses(
    model: Any,
    guide: Any,
    tokenizer: Tokenizer,
    seed: int,
    rows: int,
    kinds: dict[str, float] = seeing.KINDS,
    sizes: seeing.Sizes = (),
) -> Iterator[torch.Tensor]:
    """Yield the loss of one batch after another.

    The tower is guided: from each token's feature one is to read what stands in its cell. With the
    answers alone it takes several times as many pictures to tell shapes and to count them.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    inner = model.model
    pads = [tokenizer.token_to_id(f"<|{name}_pad|>") for name in ("image", "video")]
    for (height, width), tasks in grouped(seeing.seeing_tasks(seed, kinds, sizes), rows):
        cut = [
            patches(draw_clip(frames, (height, width))) for task in tasks for frames in task.media
        ]
        grids = iter([grid for _, grid in cut])
        batch = padded(
            [
                encoded_row(
                    tokenizer, segments(task, see_text(task)), [next(grids) for _ in task.media]
                )
                for task in tasks
            ]
        )
        pixels = torch.from_numpy(np.concatenate([part for part, _ in cut]))
        with half(), sdpa_kernel(SDPBackend.MATH):
            features = picture_features(inner.visual, pixels, height // PATCH, width // PATCH)
            features = features.flatten(0, -2)
            answered = _loss(inner.language_model, model.lm_head, batch, features, pads)
            known = [cells(frames, task.seen) for task in tasks for frames in task.media]
            read = guide(features).float().split(CELL_SIZES, -1)
        yield answered + _guided(read, torch.from_numpy(np.concatenate(known)))


def hearing_losses(
    model: Any, guide: Any, tokenizer: Tokenizer, seed: int, rows: int
) -> Iterator[torch.Tensor]:
    """Yield the loss of one batch after another."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    extractor = new_extractor()
    inner = model.model if hasattr(model, "model") else model
    pads = [tokenizer.token_to_id("<|AUDIO|>")]
    for seconds, tasks in grouped(hearing.hearing_tasks(seed), rows):
        batch = padded(
            [encoded_row(tokenizer, segments(task, hear_text(task)), []) for task in tasks]
        )
        quiet = np.zeros(round(SILENCE * RATE), np.float32)
        sounds = [np.concatenate([play(sound), quiet]) for task in tasks for sound in task.media]
        mel = extractor(sounds, sampling_rate=RATE, padding="longest", return_tensors="pt")
        with half(), sdpa_kernel(SDPBackend.MATH):
            frames = round(seconds * RATE) // HOP
            features = sound_features(model, mel["input_features"], frames).flatten(0, 1)
            answered = _loss(inner.language_model, model.lm_head, batch, features, pads)
            known = [moments(sound) for task in tasks for sound in task.media]
            read = guide(features).float().split(MOMENT_SIZES, -1)
        yield answered + _guided(read, torch.from_numpy(np.concatenate(known)))


def _guided(read: Sequence[torch.Tensor], known: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of each kind of knowledge, summed; `known` is [tokens, kinds]."""
    import torch

    losses = [
        torch.nn.functional.cross_entropy(logits, known[:, kind], ignore_index=IGNORED)
        for kind, logits in enumerate(read)
        if (known[:, kind] != IGNORED).any()
    ]
    return torch.stack(losses).sum()


def _loss(
    decoder: Any, head: Any, batch: Padded, features: torch.Tensor, pads: list[int]
) -> torch.Tensor:
    """Return the mean loss over the learned tokens, the features put in the pads' places."""
    import torch

    embeds = decoder.get_input_embeddings()(batch.ids)
    spots = torch.isin(batch.ids, torch.tensor(pads))
    embeds = embeds.masked_scatter(spots[..., None], features.to(embeds.dtype))
    flat = "Audio" in type(decoder).__name__ or "VL" not in type(decoder).__name__
    hidden = decoder(
        inputs_embeds=embeds,
        position_ids=batch.places[0] if flat else batch.places,
        use_cache=False,
    ).last_hidden_state
    learned = batch.labels != IGNORED
    logits = head(hidden[learned])
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels[learned])
