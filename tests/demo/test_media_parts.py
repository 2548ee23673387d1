"""What the media models' training is made of: drawings, sounds, towers on many media at once."""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from tools.demo_models import hearing, seeing
from tools.demo_models.media_files import train_media_tokenizer
from tools.demo_models.media_network import (
    new_extractor,
    new_hearing_model,
    new_seeing_model,
    patches,
    picture_features,
    sound_features,
)
from tools.demo_models.media_train import (
    CELL_SIZES,
    MOMENT_SIZES,
    cells,
    encoded_row,
    grouped,
    hear_text,
    hearing_losses,
    moments,
    new_guide,
    see_text,
    seeing_losses,
    segments,
)
from tools.demo_models.packing import IGNORED
from tools.demo_models.pictures import (
    DIRECTIONS,
    GAP,
    SHAPES,
    Drawing,
    Shape,
    draw,
    draw_clip,
    random_clip,
    random_drawing,
)
from tools.demo_models.sounds import FADE, PITCHES, RATE, Beeps, play, random_beeps

SIZES = [(84, 84), (84, 112), (112, 84), (112, 112), (84, 140), (140, 84), (56, 140), (140, 56)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_media_tokenizer(1, 300)


def test_the_same_drawing_is_the_same_pixels() -> None:
    for seed in range(20):
        one, other = (random_drawing(Random(seed), 84, 112, 3) for _ in range(2))
        np.testing.assert_array_equal(draw(one), draw(other))
        assert draw(one).shape == (84, 112, 3)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_where_it_is_drawn(name: str) -> None:
    shape = Shape(name, "red", x=30, y=40, radius=12, paint=(200, 0, 0))
    painted = draw(Drawing(84, 84, (shape,), (0, 0, 0)))[..., 0] > 100
    rows, columns = np.nonzero(painted)
    assert painted[40, 30]
    assert 17 <= columns.min() < columns.max() <= 43
    assert 27 <= rows.min() < rows.max() <= 53
    # Its area, in circles of the same radius: each shape has one of its own.
    area = painted.sum() / (np.pi * 12**2)
    expected = {"circle": 1.0, "square": 0.92, "triangle": 0.41}
    assert area == pytest.approx(expected[name], abs=0.06)


def test_a_picture_is_seen_at_the_size_that_the_processor_makes_of_it() -> None:
    rng = Random(9)
    sizes = [seeing.random_size(rng, 640) for _ in range(3000)]
    sizes += [(side, side) for side in (20, 84, 112, 191, 1000)] + [(20, 900), (900, 20), (56, 84)]
    for size in sizes:
        wanted = smart_resize(*size, seeing.CELL, seeing.MIN_PIXELS, seeing.MAX_PIXELS)
        assert seeing.seen_size(*size) == tuple(wanted)
    assert {seeing.seen_size(*size) for size in sizes[:3000]} == set(SIZES)


def test_a_picture_is_scaled_as_the_processor_scales_it() -> None:
    processor = Qwen2VLImageProcessorPil(min_pixels=seeing.MIN_PIXELS, max_pixels=seeing.MAX_PIXELS)
    for size in ((61, 97), (200, 150), (256, 256)):
        drawing = random_drawing(Random(1), *size, 3)
        expected = processor(images=[draw(drawing)], return_tensors="np")["pixel_values"]
        found, _ = patches(draw_clip([drawing], seeing.seen_size(*size)))
        np.testing.assert_allclose(found, expected, atol=0.03)


def test_shapes_do_not_touch() -> None:
    for seed in range(40):
        drawing = random_drawing(Random(seed), 56, 84, 4)
        for place, one in enumerate(drawing.shapes):
            assert one.radius <= one.x <= 84 - one.radius
            assert one.radius <= one.y <= 56 - one.radius
            for other in drawing.shapes[:place]:
                far = np.hypot(one.x - other.x, one.y - other.y)
                assert far > one.radius + other.radius + GAP


def test_a_crowd_stands_closer_and_is_counted_right() -> None:
    rng, gaps = Random(8), list[float]()
    for _ in range(400):
        task = seeing.seeing_task(rng, (60, 60), "crowd")
        (((drawing,),), ((question, answer),)) = task.media, task.exchanges
        assert question in seeing.COUNT
        assert answer == seeing.counted(len(drawing.shapes))
        for place, one in enumerate(drawing.shapes):
            for other in drawing.shapes[:place]:
                far = np.hypot(one.x - other.x, one.y - other.y)
                gaps.append(far - 1.05 * (one.radius + other.radius))
    assert GAP / 5 < min(gaps) < GAP / 2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_clip_moves_as_it_says(direction: str) -> None:
    frames = random_clip(Random(3), 84, 84, 6, direction)
    film = draw_clip(frames)
    assert film.shape == (6, 84, 84, 3)
    background = np.asarray(frames[0].background)
    centres = [np.argwhere(np.abs(frame - background).sum(-1) > 90).mean(0) for frame in film]
    down, right = centres[-1] - centres[0]
    along, aside = (right, down) if direction in ("left", "right") else (down, right)
    assert abs(along) > 15 > 3 > abs(aside)
    assert (along > 0) == (direction in ("right", "down"))


def test_beeps_can_be_counted_and_have_their_pitch() -> None:
    rng = Random(4)
    for count in (1, 2, 3, 4):
        for pitch, (low, high) in PITCHES.items():
            sound = random_beeps(rng, 2.0, count, pitch)
            samples = play(sound)
            assert samples.shape == (2 * RATE,)
            loud = np.abs(samples) > 0.5 * sound.loudness
            windows = loud[: len(loud) // 320 * 320].reshape(-1, 320).any(1)
            assert int((np.diff(windows.astype(int), prepend=0) == 1).sum()) == count
            peak = np.abs(np.fft.rfft(samples)).argmax() / 2.0
            assert low - 8 <= peak <= high + 8
            assert all(length > 4 * FADE for _, length in sound.spans)


def test_patches_are_those_of_the_processor() -> None:
    processor = Qwen2VLImageProcessorPil(min_pixels=seeing.MIN_PIXELS, max_pixels=seeing.MAX_PIXELS)
    for height, width in SIZES:
        picture = draw(random_drawing(Random(1), height, width, 2))
        expected = processor(images=[picture], return_tensors="np")
        found, grid = patches(picture[None])
        np.testing.assert_allclose(found, expected["pixel_values"], atol=1e-6)
        assert grid == tuple(expected["image_grid_thw"][0])


def test_many_frames_at_once_have_the_features_of_each_alone(tokenizer: Any) -> None:
    model = new_seeing_model(tokenizer, 1)
    rng = Random(5)
    films = [draw_clip(random_clip(rng, 56, 84, count, "up")) for count in (4, 5, 1)]
    cut = [patches(film) for film in films]
    pixels = torch.from_numpy(np.concatenate([part for part, _ in cut]))
    grids = torch.tensor([grid for _, grid in cut])
    with torch.inference_mode():
        found = picture_features(model.model.visual, pixels, 4, 6)
        expected = model.model.visual(pixels, grid_thw=grids).pooler_output
    torch.testing.assert_close(found.flatten(0, -2), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["single", "clip", "several", "text"])
def test_positions_are_those_of_transformers(tokenizer: Any, kind: str) -> None:
    model = new_seeing_model(tokenizer, 1)
    task = seeing.seeing_task(Random(6), (100, 190), kind)
    grids = [(-(-len(frames) // 2), 4, 10) for frames in task.media]
    row = encoded_row(tokenizer, segments(task, see_text(task)), grids)
    ids = torch.tensor([row.ids])
    image, video = model.config.image_token_id, model.config.video_token_id
    kinds = (ids == image).int() + 2 * (ids == video).int()
    still = [grid for grid, frames in zip(grids, task.media, strict=True) if len(frames) == 1]
    moving = [grid for grid in grids if grid not in still]
    expected, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=kinds,
        image_grid_thw=torch.tensor(still) if still else None,
        video_grid_thw=torch.tensor(moving) if moving else None,
    )
    np.testing.assert_array_equal(row.places, expected[:, 0].numpy())


def test_short_sounds_have_the_features_of_whole_half_minutes(tokenizer: Any) -> None:
    model = new_hearing_model(tokenizer, 1).eval()
    extractor = new_extractor()
    rng = Random(7)
    sounds = [play(random_beeps(rng, 1.2, count, "middle")) for count in (1, 3)]
    quiet = np.zeros(RATE // 10, np.float32)
    short = extractor(
        [np.concatenate([sound, quiet]) for sound in sounds],
        sampling_rate=RATE,
        padding="longest",
        return_tensors="pt",
    )
    whole = extractor(
        sounds,
        sampling_rate=RATE,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    seen: list[torch.Tensor] = []
    inner = getattr(model, "model", model)
    inner.multi_modal_projector.register_forward_hook(lambda *given: seen.append(given[-1]))
    pads = torch.full((2, 30), model.config.audio_token_id)
    with torch.inference_mode():
        model(
            input_ids=pads,
            input_features=whole["input_features"],
            feature_attention_mask=whole["attention_mask"],
        )
        found = sound_features(model, short["input_features"], 120)
    torch.testing.assert_close(found, seen[0][:, :30], atol=1e-4, rtol=1e-3)


def test_answers_are_learned_and_nothing_else(tokenizer: Any) -> None:
    streams: list[Any] = [
        (seeing.seeing_tasks(2), see_text),
        (hearing.hearing_tasks(2), hear_text),
    ]
    for stream, shown in streams:
        for size, task in islice(stream, 60):
            grids = [
                (-(-len(frames) // 2), size[0] // 14, size[1] // 14)
                for frames in (task.media if shown is see_text else ())
            ]
            row = encoded_row(tokenizer, segments(task, shown(task)), grids)
            kept = [label for label in row.labels if label != IGNORED]
            text = "".join(f"{answer}<|im_end|>\n" for _, answer in task.exchanges)
            assert tokenizer.decode(kept, skip_special_tokens=False) == text
            assert row.places.shape == (3, len(row.ids))


def test_cells_know_what_stands_in_them() -> None:
    def shape(x: float, y: float) -> Shape:
        return Shape("square", "blue", x, y, 8, (0, 0, 255))

    picture = Drawing(84, 84, (shape(10, 10), shape(70, 40), shape(60, 52)), (0, 0, 0))
    found = cells([picture], (84, 84)).reshape(3, 3, 4)
    assert found[..., 0].tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert found[0, 0].tolist() == [1, IGNORED, 4, IGNORED]
    assert found[1, 2].tolist() == [2, IGNORED, IGNORED, IGNORED]
    large = Drawing(150, 200, (shape(10, 10), shape(140, 140)), (0, 0, 0))
    assert cells([large], (84, 112))[:, 0].tolist() == [1, 0, 0, 0] + [0] * 4 + [0, 0, 1, 0]
    alone = Drawing(84, 84, (shape(10, 10),), (0, 0, 0))
    assert cells([alone], (84, 84))[0].tolist() == [1, 1, 4, IGNORED]
    for number, direction in enumerate(DIRECTIONS):
        clip = cells(random_clip(Random(2), 84, 84, 5, direction), (84, 84)).reshape(3, 9, 4)
        assert clip[..., 0].sum(1).tolist() == [1, 1, 1]
        assert set(clip[..., 3][clip[..., 0] == 1].tolist()) == {number}


def test_moments_know_what_is_heard() -> None:
    sound = Beeps("high", 2000, 0.5, ((0.09, 0.2), (0.49, 0.1)), seconds=0.8)
    begun, pitch = moments(sound).T
    assert begun.tolist() == [0] * 2 + [1] * 10 + [2] * 8
    assert [spot for spot, value in enumerate(pitch) if value == 2] == [2, 3, 4, 5, 6, 12, 13, 14]


def test_batches_hold_one_size() -> None:
    for size, tasks in islice(grouped(seeing.seeing_tasks(3), 5), 12):
        assert len(tasks) == 5
        for task in tasks:
            for frames in task.media:
                assert {seeing.seen_size(frame.height, frame.width) for frame in frames} == {size}
    for size, tasks in islice(grouped(seeing.seeing_tasks(3, sizes=seeing.SMALL), 5), 12):
        shown = {frame for task in tasks for frames in task.media for frame in frames}
        assert {(frame.height, frame.width) for frame in shown} <= {size} <= set(seeing.SMALL)


def test_losses_reach_every_weight(tokenizer: Any) -> None:
    makers: list[Any] = [
        (new_seeing_model, CELL_SIZES, seeing_losses),
        (new_hearing_model, MOMENT_SIZES, hearing_losses),
    ]
    for new, sizes, losses in makers:
        model, guide = new(tokenizer, 1), new_guide(sizes, 1)
        next(losses(model, guide, tokenizer, 1, 8)).backward()
        assert guide.weight.grad.any()
        missed = [
            name
            for name, weight in model.named_parameters()
            if weight.requires_grad and (weight.grad is None or not weight.grad.any())
        ]
        assert missed == []
