"""Small LLaVA and Yi-VL checkpoints as vLLM takes them: names as on the hub, tokenizer, processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedModel

from quire.engines.vllm.plan import UNIPROC
from quire.media.values import Picture
from tests.chat.model_folders import add_tokenizer
from tests.engines.native.media.random_media_models import IMAGE, PATCH, make_media_model, picture

HEAD = 32  # the smallest that vLLM has on a CPU
NEW_TOKENS = 12
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": 2**24,
    "distributed_executor_backend": UNIPROC,
    "limit_mm_per_prompt": {"image": 2},
}
"""vLLM's arguments for a quick start."""

Seen = tuple[list[int], list[Picture]]
"""A prompt's token ids, with one placeholder a picture, and its pictures."""


def prompts() -> list[Seen]:
    """Text alone, a picture, two, and other pictures after the same text."""
    found: list[Seen] = []
    for seed, count in ((0, 0), (1, 1), (1, 2), (1, 1)):
        generator = np.random.default_rng(seed)
        ids = generator.integers(3, 250, 5).tolist()
        for _ in range(count):
            ids += [IMAGE, *generator.integers(3, 250, 4).tolist()]
        found.append((ids, [picture(16, 16, 10 * len(found) + i) for i in range(count)]))
    return found


def vllm_input(prompt: Seen) -> dict[str, Any]:
    """The prompt as vLLM's own API takes it."""
    ids, pictures = prompt
    images = [Image.fromarray(picture.pixels) for picture in pictures]
    media = {"multi_modal_data": {"image": images}} if images else {}
    return {"prompt_token_ids": ids, **media}


def make_llava(folder: Path, kind: str, **changes: Any) -> PreTrainedModel:
    """Write a random model of `llava` or `yi_vl`; return transformers' own."""
    model = make_media_model(folder, kind, head_dim=HEAD, **changes)
    _name_as_on_hub(folder / "model.safetensors")
    add_tokenizer(folder)
    _add_image_token(folder)
    return model


def _name_as_on_hub(path: Path) -> None:
    """The tower's names of old, which vLLM asks for and transformers 5 does not write."""
    old, new = "vision_tower.vision_model.", "vision_tower."
    weights = {
        name if name.startswith(old) else name.replace(new, old, 1): weight
        for name, weight in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})


def _add_image_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["<image>"] = IMAGE
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken("<image>", special=True)])
    assert tokenizer.token_to_id("<image>") == IMAGE
    tokenizer.save(str(path))
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
