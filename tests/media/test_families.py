"""What each family writes, against the models' own processors and the reference."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.errors import MediaError, QuireError
from quire.media.families.family import MediaFamily
from quire.media.families.registry import FAMILIES, get_family
from quire.media.families.settings import MediaSettings
from quire.media.families.youtu_vl import YoutuVL
from quire.media.placement import place_media
from quire.media.values import Medium
from quire.messages import read_conversation
from quire.prompt import TextElement
from quire.template.format import MediaTokens
from quire.template.registry import get_template, template_names
from tests.media.examples import (
    RENDERINGS,
    byte_tokenizer,
    clip,
    lengthen,
    medium,
    picture,
    sound,
    write_folder,
)

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "media_formats.json").read_text(encoding="utf-8")
)
SHORT = json.loads((Path(__file__).parent / "short.json").read_text(encoding="utf-8"))
CASES = [(name, scenario) for name in GOLDEN["templates"] for scenario in GOLDEN["scenarios"]]


def recorded_family(name: str, folder: Path) -> MediaFamily:
    entry = RENDERINGS[name]
    write_folder(folder, entry["files"])
    cls = FAMILIES[entry["family"]]
    tokens = MediaTokens(entry["family"], **entry["tokens"]) if entry["tokens"] else None
    heard = any("heard" in case for case in entry["cases"])
    return cls(MediaSettings.from_folder(folder), tokens, use_audio_in_video=heard)


@pytest.mark.parametrize("name", RENDERINGS)
def test_expansions_are_those_of_the_models_processor(name: str, tmp_path: Path) -> None:
    family = recorded_family(name, tmp_path)
    for case in RENDERINGS[name]["cases"]:
        written = family.expansion(medium(case), 0)
        expected = lengthen(case["text"])
        if name == "paligemma":
            element = family.finish([], [medium(case)], form="expanded")[0]
            assert isinstance(element, TextElement)
            written, expected = element.text, expected.removesuffix("<bos>a\n")
        assert written == expected, case


@pytest.mark.parametrize("name", RENDERINGS)
def test_media_are_found_in_the_ids(name: str, tmp_path: Path) -> None:
    """Twice all recorded media, with text between that holds the very same tokens as text."""
    family = recorded_family(name, tmp_path)
    media = [medium(case) for case in RENDERINGS[name]["cases"]] * 2
    if name.startswith("minicpm_v"):
        media = [item for item in media if item.kind == "image"]
    tokenizer = byte_tokenizer()
    hostile = family.expansion(media[0], 0) or "<image>"
    elements = family.finish([], media, form="expanded")
    ids = [number for part in elements for number in tokenizer.encode(part.text)]  # type: ignore[union-attr]
    borders: list[tuple[int, int]] = []
    for item, text in zip(media, family.texts(media, "expanded"), strict=True):
        ids += tokenizer.encode_literal(f"a {hostile} b", family.controls)
        start = len(ids)
        ids += tokenizer.encode(text)
        borders.append((start, len(ids)))
        assert item.kind in family.kinds
    features = {
        tokenizer.token_to_id(t) for kind in family.kinds for t in family.feature_tokens(kind)
    }
    items = family.find_media(ids, media, tokenizer)
    for given, item, (start, end) in zip(media, items, borders, strict=True):
        assert item.data is given
        assert item.kind == given.kind
        inside = ids[item.start : item.start + item.length]
        assert inside[0] in features
        assert inside[-1] in features
        if name != "paligemma":
            assert start <= item.start
            assert item.start + item.length <= end
            own = Counter(ids[start:end])
            assert Counter(inside)[inside[0]] == own[inside[0]]


@pytest.mark.parametrize(("name", "scenario"), CASES, ids=[f"{n}-{s}" for n, s in CASES])
def test_short_forms_are_the_references(name: str, scenario: str, tmp_path: Path) -> None:
    entry, made = GOLDEN["templates"][name], GOLDEN["scenarios"][scenario]
    expected = entry["prompts"][scenario]
    if expected is None:
        expected = SHORT[name].get(scenario)
        if expected is None:
            assert (name, scenario) == ("minicpm_v_4_6", "video")  # the reference fails
            expected = "(<image>./</image>)Describe."
        expected = lengthen(expected)
    if entry["family"] == "InternVL":
        write_folder(tmp_path, RENDERINGS["intern_vl"]["files"])
    family = get_family(get_template(name, None), tmp_path)
    assert family is not None
    assert family.name == entry["family"]
    conversation = read_conversation([{"role": "user", "content": made["content"]}])
    media: list[Medium] = [picture()] * made["images"] + [clip()] * made["videos"]
    media += [sound()] * made["audios"]
    given = {kind: ["x"] * made[kind] for kind in ("images", "videos", "audios")}
    if isinstance(expected, dict):
        with pytest.raises(MediaError):
            family.write(
                place_media(conversation, **given, kinds=family.kinds), media, form="short"
            )
        return
    placed = place_media(conversation, **given, kinds=family.kinds)
    written = family.write(placed, media, form="short")
    assert written.messages[0].text == expected
    assert not written.messages[0].media


def test_every_family_of_the_templates_is_there() -> None:
    names = {get_template(name, None).media_family for name in template_names()}
    assert names - {"Base"} == set(FAMILIES) - {"General"}
    assert len(names) == 24


def test_a_template_of_text_alone_has_no_family(tmp_path: Path) -> None:
    assert get_family(get_template("qwen", None), tmp_path) is None


@pytest.mark.parametrize("name", ["minicpm_v", "minicpm_v_4_6"])
def test_minicpm_refuses_pictures_beside_clips(name: str, tmp_path: Path) -> None:
    family = get_family(get_template(name, None), tmp_path)
    assert family is not None
    with pytest.raises(MediaError, match="not both"):
        family.check([picture(), clip()])


@pytest.mark.torch
def test_qwen3_vls_clips_have_their_wrappers_once_on_vllm(tmp_path: Path) -> None:
    """This transformers replaces the token alone, and vLLM with it."""
    family = get_family(get_template("qwen3_vl", None), tmp_path)
    assert family is not None
    assert family.texts([picture(), clip()], "vllm") == [
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|video_pad|>",
    ]
    assert family.texts([clip()], "short") == ["<|vision_start|><|video_pad|><|vision_end|>"]


def test_youtu_vl_has_the_patches_of_its_processor(tmp_path: Path) -> None:
    """What the model's own processor (transformers 4.56, remote code) was seen to give."""
    family = FAMILIES["YoutuVL"](MediaSettings())
    assert isinstance(family, YoutuVL)
    seen = {
        (224, 224): (14, 14),
        (330, 330): (22, 22),
        (2048, 2048): (128, 128),
        (1080, 1920): (68, 120),
        (3000, 4000): (166, 220),
        (330, 500): (22, 32),
        (100, 3000): (8, 188),
        (32, 32): (2, 2),
    }
    assert {size: family.patch_grid(*size) for size in seen} == seen
    assert family.expansion(picture(3000, 4000), 0).count("<|image_pad|>") == 9130


def test_a_strip_is_refused_with_its_size(tmp_path: Path) -> None:
    family = get_family(get_template("qwen2_vl", None), tmp_path)
    assert family is not None
    with pytest.raises(MediaError, match="30 x 9000"):
        family.expansion(picture(9000, 30), 0)


def test_a_sound_of_another_rate_is_refused(tmp_path: Path) -> None:
    family = get_family(get_template("qwen2_audio", None), tmp_path)
    assert family is not None
    with pytest.raises(MediaError, match="audio_sampling_rate to 16000"):
        family.expansion(sound(8000, rate=8000), 0)


def test_what_vllm_is_given(tmp_path: Path) -> None:
    template = get_template("qwen2_omni", None)
    family = get_family(template, tmp_path, use_audio_in_video=True)
    assert family is not None
    media = [picture(), clip(heard=sound(32000)), sound(), clip()]
    data, hashes = family.vllm_data(media)
    assert {kind: len(items) for kind, items in data.items()} == {
        "image": 1,
        "video": 2,
        "audio": 2,
    }
    assert hashes["audio"] == ["s32000", "s16000"]
    assert data["image"][0].size == (48, 64)
    frames, metadata = data["video"][0]
    assert frames.shape == (4, 60, 90, 3)
    assert metadata["frames_indices"] == [0, 1, 2, 3]
    assert metadata["fps"] == 2.0
    assert data["audio"][1][1] == 16000
    assert family.vllm_options(media) == {"use_audio_in_video": True}
    assert family.vllm_options([clip()]) == {}


def test_recorded_settings_are_read_in_older_forms(tmp_path: Path) -> None:
    """`preprocessor_config.json` with `min_pixels`, as older folders have it."""
    old: dict[str, Any] = {"patch_size": 14, "min_pixels": 16 * 784, "max_pixels": 100 * 784}
    write_folder(tmp_path, {"preprocessor_config.json": old})
    family = FAMILIES["Qwen2VL"](MediaSettings.from_folder(tmp_path))
    for case in RENDERINGS["qwen2_vl-small"]["cases"]:
        assert family.expansion(medium(case), 0) == lengthen(case["text"])


HOSTILE: list[Any] = [10**30, float("inf"), -1, "x", [[]], {"height": [], "width": 10**400}]
SIZES = re.compile(r"size|.*_size|.*_edge|.*_pixels|height|width|.*processor|vision_config")


def sizes_in(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items() if isinstance(values, dict) else ():
        if SIZES.fullmatch(key):
            yield (*path, key)
        yield from sizes_in(value, (*path, key))


@pytest.mark.parametrize("name", RENDERINGS)
def test_no_size_of_a_processor_does_harm(name: str, tmp_path: Path) -> None:
    """Whatever stands in the files, it is the default, or an error of ours."""
    entry = RENDERINGS[name]
    seen = medium(entry["cases"][0])
    for path in sizes_in(entry["files"]):
        for value in HOSTILE:
            files = copy.deepcopy(entry["files"])
            holder = files
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            write_folder(tmp_path, files)
            family = FAMILIES[entry["family"]](MediaSettings.from_folder(tmp_path))
            with contextlib.suppress(QuireError):
                family.expansion(seen, 0)


def test_controls_hold_every_token_that_is_written(tmp_path: Path) -> None:
    for number, name in enumerate(RENDERINGS):
        (folder := tmp_path / str(number)).mkdir()
        family = recorded_family(name, folder)
        for case in RENDERINGS[name]["cases"]:
            words = re.findall(
                r"<\|?/?[a-zA-Z_/][^<>\s]*>|\[[A-Z_]+\]", family.expansion(medium(case), 0)
            )
            assert set(words) <= family.controls, name
