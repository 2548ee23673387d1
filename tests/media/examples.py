"""Media made of nothing, of any size, and a tokenizer that has the tokens of every family."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from quire.media.families.registry import FAMILIES
from quire.media.families.settings import MediaSettings
from quire.media.values import Clip, Medium, Picture, Sound
from quire.tokenizer import Tokenizer

RENDERINGS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "renderings.json").read_text(encoding="utf-8")
)
FPS = 2.0
_REPEATED = re.compile(r"(<[^<>]+>|\[[A-Z_]+\])\{(\d+)\}")


def lengthen(text: str) -> str:
    """`<|image_pad|>{64}` is `<|image_pad|>` 64 times."""
    return _REPEATED.sub(lambda match: match[1] * int(match[2]), text)


def picture(height: int = 64, width: int = 48) -> Picture:
    return Picture(np.broadcast_to(np.uint8(0), (height, width, 3)), f"p{height}x{width}")


def sound(samples: int = 16000, rate: int = 16000) -> Sound:
    return Sound(np.broadcast_to(np.float32(0), (samples,)), rate, f"s{samples}")


def clip(frames: int = 4, height: int = 60, width: int = 90, heard: Sound | None = None) -> Clip:
    return Clip(
        frames=np.broadcast_to(np.uint8(0), (frames, height, width, 3)),
        timestamps=tuple(index / FPS for index in range(frames)),
        frame_indices=tuple(range(frames)),
        fps=FPS,
        duration=frames / FPS,
        total_frames=frames,
        sound=heard,
        content_hash=f"c{frames}x{height}x{width}",
    )


def medium(case: dict[str, Any]) -> Medium:
    """The medium of a recorded case."""
    if "image" in case:
        return picture(*case["image"])
    if "video" in case:
        return clip(*case["video"], heard=sound(case["heard"]) if "heard" in case else None)
    return sound(case["audio"])


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    """The files of a recorded processor."""
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


@functools.cache
def byte_tokenizer(*more: str) -> Tokenizer:
    """Bytes, the tokens that the recorded families write, and `more`, all of them special."""
    texts = [case["text"] for entry in RENDERINGS.values() for case in entry["cases"]]
    words = {word for text in texts for word in re.findall(r"<[^<>\s]+>|\[[A-Z_]+\]", text)}
    for family in FAMILIES.values():
        made = family(MediaSettings())
        words |= set(made.controls) | set(made.media_tokens.texts)
    words |= {"<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<unk>", *more}
    words = {word for word in words if not re.fullmatch(r"<\d+\.\d+", word)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(word, normalized=False) for word in sorted(words)])
    return Tokenizer(backend, special_tokens={"bos_token": "<bos>", "eos_token": "<eos>"})
