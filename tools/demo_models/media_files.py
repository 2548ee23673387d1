"""The files beside the weights of the media models: tokenizer, chat template, processors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.demo_models.hearing import hearing_tasks
from tools.demo_models.seeing import MAX_PIXELS, MIN_PIXELS, SMALL, seeing_tasks
from tools.demo_models.sounds import RATE
from tools.demo_models.tokenizer import CONTROL, save_with_settings, trained

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 512
# The control tokens of both families; the one tokenizer serves both models.
MEDIA = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_eos|>",
)
PATCH, MERGE, FRAMES = 14, 2, 2
"""Pixels of a patch's side, patches of a token's side, and frames of a patch."""

# The mean and deviation of CLIP's pictures, which Qwen2-VL's processor takes.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
MEL_BINS, HOP, WINDOW, LONGEST = 80, 160, 400, 30

_HEAD = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
"""
_TAIL = """\
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
SEE_TEMPLATE = (
    _HEAD
    + """\
{%- if part.type in ('image', 'image_url') -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type in ('video', 'video_url') -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
"""
    + _TAIL
)
HEAR_TEMPLATE = (
    "{%- set heard = namespace(count=0) -%}\n"
    + _HEAD
    + """\
{%- if part.type in ('audio', 'audio_url', 'input_audio') -%}
{%- set heard.count = heard.count + 1 -%}
{{- 'Audio ' ~ heard.count ~ ': <|audio_bos|><|AUDIO|><|audio_eos|>\\n' -}}
"""
    + _TAIL
)


def train_media_tokenizer(seed: int, sample: int) -> Tokenizer:
    """Train byte-level BPE on what both media models read and write."""
    return trained(_texts(seed, sample), VOCABULARY, CONTROL + MEDIA)


def _texts(seed: int, sample: int) -> Iterator[str]:
    yield "system\nuser\nassistant\nAudio 1: \nAudio 2: \n"
    tasks: Iterable[Any] = (
        task
        for stream in (seeing_tasks(seed, sizes=SMALL), hearing_tasks(seed))
        for _, task in islice(stream, sample)
    )
    for task in tasks:
        yield f"system\n{task.system}\nuser\nassistant\n"
        for question, answer in task.exchanges:
            yield question
            yield answer


def save_media_tokenizer(tokenizer: Tokenizer, folder: Path, template: str) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.json`."""
    more = {"additional_special_tokens": list(MEDIA), "chat_template": template}
    save_with_settings(tokenizer, folder, CONTROL + MEDIA, (), more)
    _write(folder / "chat_template.json", {"chat_template": template})


def save_picture_processor(folder: Path) -> None:
    """Write the processor's settings for pictures and for clips, in Qwen2-VL's form."""
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_std": list(DEVIATION),
        "max_pixels": MAX_PIXELS,
        "merge_size": MERGE,
        "min_pixels": MIN_PIXELS,
        "patch_size": PATCH,
        "processor_class": "Qwen2VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": MAX_PIXELS, "shortest_edge": MIN_PIXELS},
        "temporal_patch_size": FRAMES,
    }
    pictures = {"image_processor_type": "Qwen2VLImageProcessor", **common}
    clips = {"video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False, **common}
    _write(folder / "preprocessor_config.json", pictures)
    _write(folder / "video_preprocessor_config.json", clips)


def save_sound_processor(folder: Path) -> None:
    """Write the processor's settings for sounds, in Qwen2-Audio's form."""
    settings = {
        "chunk_length": LONGEST,
        "dither": 0.0,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": MEL_BINS,
        "hop_length": HOP,
        "n_fft": WINDOW,
        "n_samples": LONGEST * RATE,
        "nb_max_frames": LONGEST * RATE // HOP,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "Qwen2AudioProcessor",
        "return_attention_mask": True,
        "sampling_rate": RATE,
    }
    _write(folder / "preprocessor_config.json", settings)


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
