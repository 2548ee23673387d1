"""The encoder: what it refuses, what it keeps, and how a video or a short sound is read."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers.utils
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media import libraries
from quire.engines.native.media.encoder import FeatureCache, MediaEncoder, media_kinds
from quire.engines.native.media.qwen2_vl import sampled_fps, video_pixels
from quire.engines.native.media.qwen3_vl import Qwen3VLTower
from quire.engines.native.media.qwen_vision import vision_positions
from quire.errors import ConfigError, MediaError, ModelError, UnsupportedModelError, WeightsError
from quire.media.families.family import MediaFamily
from quire.media.families.gemma3 import Gemma3
from quire.media.families.intern_vl import InternVL
from quire.media.families.qwen3_vl import Qwen3VL
from quire.media.families.settings import MediaSettings
from quire.prompt import MediaItem, Prompt
from tests.engines.native.media.random_media_models import (
    clip,
    make_media_model,
    picture,
    sound,
)
from tests.engines.native.random_models import make_random_model


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2_vl")
    make_media_model(folder, "qwen2_vl")
    return folder


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2_audio")
    make_media_model(folder, "qwen2_audio")
    return folder


def test_kinds(seeing: Path, hearing: Path, tmp_path: Path) -> None:
    assert media_kinds(seeing) == {"image", "video"}
    assert media_kinds(hearing) == {"audio"}
    assert media_kinds(make_random_model(tmp_path / "text", "llama2")) == set()


def test_what_a_model_does_not_take(seeing: Path) -> None:
    with pytest.raises(MediaError, match="no audio input"):
        MediaEncoder.of_folder(seeing).features(sound(100))


def test_a_picture_that_the_processor_refuses(seeing: Path) -> None:
    with pytest.raises(MediaError, match="too narrow") as caught:
        MediaEncoder.of_folder(seeing).features(picture(8, 8 * 300))
    assert "aspect" not in str(caught.value)


def test_sounds_of_a_wrong_rate_or_of_nothing(hearing: Path) -> None:
    encoder = MediaEncoder.of_folder(hearing)
    with pytest.raises(MediaError, match="set audio_sampling_rate"):
        encoder.features(dataclasses.replace(sound(4_000), rate=8_000))
    with pytest.raises(MediaError, match="too short"):
        encoder.features(sound(100))
    longest = encoder.features(sound(2 * 16_000))
    assert len(encoder.features(sound(9 * 16_000)).values) == len(longest.values) == 50


def test_each_medium_is_computed_once(seeing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = MediaEncoder.of_folder(seeing), []
    compute = encoder._tower.features
    monkeypatch.setattr(
        encoder._tower, "features", lambda one: calls.append(one.content_hash) or compute(one)
    )
    first, second = picture(24, 24), picture(24, 24, 1)
    items = [MediaItem("image", one, one.content_hash, 9 * n, 9) for n, one in enumerate((first, second, first))]  # fmt: skip
    prompt = encoder.encode(Prompt((1,) * 30, tuple(items)))
    assert calls == [first.content_hash, second.content_hash]
    assert prompt.media[0].data is prompt.media[2].data
    assert (encoder.cache.queries, encoder.cache.hits) == (3, 1)
    assert encoder.encode(prompt) == prompt
    assert encoder.encode(Prompt((1, 2))) == Prompt((1, 2))


def test_the_cache_keeps_what_was_used_last() -> None:
    def of(name: str) -> MediaFeatures:
        return MediaFeatures(np.zeros((2, 5), np.float32))

    cache = FeatureCache(max_bytes=100)
    cache.add(("image", "a"), of("a"))
    cache.add(("image", "b"), of("b"))
    assert cache.get(("image", "a")) is not None
    cache.add(("image", "c"), of("c"))
    assert cache.get(("image", "b")) is None
    assert cache.get(("image", "a")) is not None
    assert cache.num_bytes == 80
    large = MediaFeatures(np.zeros((9, 9), np.float32))
    cache.add(("image", "large"), large)  # alone, it may be larger than the cache
    assert cache.get(("image", "large")) is large
    assert cache.num_bytes == large.values.nbytes


def test_places_of_a_video() -> None:
    found = vision_positions(3, 1, 2, 1.7)
    assert found.tolist() == [[0, 0, 1, 1, 3, 3], [0] * 6, [0, 1] * 3]


def test_frames_of_a_second() -> None:
    video = clip(6, 8, 8)  # half a second apart
    assert sampled_fps(video) == 2.0
    bare = dataclasses.replace(video, fps=0.0, timestamps=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25))
    assert sampled_fps(bare) == 4.0
    assert sampled_fps(dataclasses.replace(bare, timestamps=())) == 1.0


@pytest.mark.parametrize("shape", [(5, 40, 32), (2, 100, 60), (3, 30, 250), (9, 20, 24)])
def test_clips_of_qwen3_vl_are_cut_as_its_video_processor_cuts_them(
    shape: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly where frames are scaled by torchvision as well; Pillow rounds otherwise between its passes."""
    make_media_model(tmp_path, "qwen3_vl")
    settings = tmp_path / "video_preprocessor_config.json"
    colours = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.2, 0.4]}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | colours))
    tower = Qwen3VLTower(tmp_path)
    video = clip(*shape)
    patches, grid = tower.clip_patches(video)
    processor: Any = Qwen3VLVideoProcessor.from_pretrained(tmp_path, cap_pixels_per_frame=False)
    wanted = processor(
        list(video.frames), do_sample_frames=False, return_tensors="np",
        input_data_format="channels_last",
    )  # fmt: skip
    assert wanted["video_grid_thw"].tolist() == [list(grid)]
    np.testing.assert_allclose(patches, wanted["pixel_values_videos"], atol=1e-5)
    monkeypatch.setattr(transformers.utils, "is_torchvision_available", lambda: False)
    plain, same_grid = tower.clip_patches(video)
    assert same_grid == grid
    assert np.abs(plain - patches).mean() < 0.02
    family = Qwen3VL(MediaSettings.from_folder(tmp_path))
    features = tower.features(video)
    assert family.expansion(video, 0).count("<|video_pad|>") == len(features.values)
    assert features.nbytes == 3 * features.values.nbytes


@pytest.mark.parametrize(
    ("kind", "family", "token"),
    [
        ("gemma3", Gemma3, "<image_soft_token>"),
        ("internvl", InternVL, "<IMG_CONTEXT>"),
        ("qwen3_vl", Qwen3VL, "<|image_pad|>"),
        ("qwen3_5", Qwen3VL, "<|image_pad|>"),
    ],
)
def test_families_count_what_towers_give(
    kind: str, family: type[MediaFamily], token: str, tmp_path: Path
) -> None:
    make_media_model(tmp_path, kind)
    if family is not Qwen3VL:
        (tmp_path / "processor_config.json").write_text('{"image_seq_length": 16}')
    encoder, written = MediaEncoder.of_folder(tmp_path), family(MediaSettings.from_folder(tmp_path))
    for size in ((20, 30), (64, 8), (100, 100), (33, 47)):
        seen = picture(*size)
        count = written.expansion(seen, 0).count(token)
        assert len(encoder.features(seen).values) == count > 0
    if "video" in encoder.kinds:
        seen = clip(3, 30, 20)
        count = written.expansion(seen, 0).count(written.feature_tokens("video")[0])
        assert len(encoder.features(seen).values) == count > 0


def test_how_large_frames_are(tmp_path: Path) -> None:
    assert video_pixels(tmp_path) == (128 * 28 * 28, 768 * 28 * 28)
    for name, values, wanted in (
        ("preprocessor_config.json", {"min_pixels": 5, "max_pixels": 6}, (5, 6)),
        ("processor_config.json", {"image_processor": {"min_pixels": 4}}, (4, 768 * 28 * 28)),
        ("video_preprocessor_config.json", {"size": {"shortest_edge": 7, "longest_edge": 8}}, (7, 8)),
        ("processor_config.json", {"video_processor": {"min_pixels": 9}}, (9, 768 * 28 * 28)),
    ):  # fmt: skip
        (tmp_path / name).write_text(json.dumps(values))
        assert video_pixels(tmp_path) == wanted


def test_a_folder_without_a_processor_or_a_weight(tmp_path: Path) -> None:
    make_media_model(tmp_path, "llava")
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["intermediate_size"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"has shape .* asks for"):
        MediaEncoder.of_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="AutoImageProcessor cannot be read"):
        MediaEncoder.of_folder(tmp_path)
    config["vision_config"] = {"model_type": "pixtral"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="no tower 'pixtral'"):
        MediaEncoder.of_folder(tmp_path)


def test_without_torch(seeing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"quire-llm\[towers\]"):
        MediaEncoder.of_folder(seeing)
    assert media_kinds(seeing) == {"image", "video"}
    assert libraries.EXTRA == "quire-llm[towers]"


def test_the_engine_imports_no_torch() -> None:
    code = "import sys, quire.engines.native.media.encoder; print('torch' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "kind",
    [
        "gemma3",
        "internvl",
        "llava",
        "qwen2_5_vl",
        "qwen2_audio",
        "qwen3_vl",
        "qwen3_5_moe",
        "yi_vl",
    ],
)
def test_narrow_weights_are_computed_in_float32(kind: str, tmp_path: Path) -> None:
    model = make_media_model(tmp_path, kind, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    model.save_pretrained(tmp_path / "wide")
    for processor in ("preprocessor_config.json", "processor_config.json"):
        if (tmp_path / processor).exists():
            shutil.copy(tmp_path / processor, tmp_path / "wide")
    one = sound(9_000) if kind == "qwen2_audio" else picture(24, 24)
    narrow, wide = (MediaEncoder.of_folder(f).features(one) for f in (tmp_path, tmp_path / "wide"))
    assert narrow.values.dtype == np.float32
    np.testing.assert_array_equal(narrow.values, wide.values)
