"""The random models that speed is measured on; made once, and ignored by git."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "models"

QWEN2_26M: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
QWEN2_05B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
QWEN2_1B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
QWEN3_4B: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
QWEN2_VL_TOWER: dict[str, Any] = {
    "depth": 8,
    "embed_dim": 384,
    "num_heads": 6,
    "hidden_size": 512,
}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def qwen2_26m() -> Path:
    """A Qwen2 model of 26 million random parameters (float32, 103 MB), with 4,096 tokens."""
    return _make("qwen2-26m", QWEN2_26M, "float32")


def qwen2_05b() -> Path:
    """Random weights in the shape of Qwen2-0.5B, stored as it is: bfloat16, 1 GB."""
    return _make("qwen2-0.5b", QWEN2_05B, "bfloat16")


def qwen2_1b() -> Path:
    """A Qwen2 model of random weights in the sizes of Llama-3.2-1B: bfloat16, 2.5 GB."""
    return _make("qwen2-1b", QWEN2_1B, "bfloat16")


def qwen3_4b() -> Path:
    """A Qwen3 model of random weights in the sizes of Qwen3-4B: bfloat16, 8 GB, in parts."""
    return _make("qwen3-4b", QWEN3_4B, "bfloat16")


def llama_8b() -> Path:
    """A Llama model of random weights in the sizes of Llama-3.1-8B: bfloat16, 16 GB, in parts."""
    return _make("llama-8b", LLAMA_8B, "bfloat16")


def qwen2_vl_42m() -> Path:
    """A Qwen2-VL of random parameters: `qwen2_26m` below a tower of 16 million."""
    folder = FOLDER / "qwen2-vl-42m"
    if not (folder / "tokenizer_config.json").is_file():
        _make_seeing_weights(folder)
        _make_tokenizer(folder, QWEN2_26M["vocab_size"], VISION)
    return folder


def _make(name: str, config: dict[str, Any], dtype: str) -> Path:
    folder = FOLDER / name
    if not (folder / "tokenizer_config.json").is_file():
        if "model_type" in config:
            _make_large_weights(folder, config, dtype)
        else:
            _make_weights(folder, config, dtype)
        _make_tokenizer(folder, config["vocab_size"])
    return folder


def _make_weights(folder: Path, config: dict[str, Any], dtype: str) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    # As wide as trained weights: logits then differ enough for greedy tokens to be stable.
    settings = Qwen2Config(**config, initializer_range=0.05, bos_token_id=0, eos_token_id=0)
    model = Qwen2ForCausalLM(settings)
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def _make_large_weights(folder: Path, config: dict[str, Any], dtype: str) -> None:
    """A part at a time, so that no more than two layers are in memory."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settings: Any = AutoConfig.for_model(**config, bos_token_id=0, eos_token_id=0)
    settings.save_pretrained(folder)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(settings)
    shapes = {
        name: tensor.shape
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" or not settings.tie_word_embeddings
    }
    parts: dict[str, list[str]] = {}
    for name in shapes:
        words = name.split(".")
        parts.setdefault(words[2] if words[1] == "layers" else words[-2], []).append(name)
    places: dict[str, str] = {}
    for part, names in parts.items():
        file = f"model-{part}.safetensors"
        tensors: dict[str, Any] = {}
        for name in names:
            made = torch.empty(shapes[name], dtype=getattr(torch, dtype))
            # Uniform numbers of the deviation that matters are made four times as quickly as normal ones.
            tensors[name] = made.fill_(1.0) if made.ndim == 1 else made.uniform_(-0.06, 0.06)
            places[name] = file
        save_file(tensors, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _make_seeing_weights(folder: Path) -> None:
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    torch.manual_seed(0)
    first = len(SPECIAL)
    ids = {f"{name}_id": first + number for number, name in enumerate(
        ("vision_start_token", "vision_end_token", "image_token", "video_token")
    )}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    text = {**QWEN2_26M, "rope_parameters": rope, "initializer_range": 0.05, **ends}
    config = Qwen2VLConfig(text_config=text, vision_config=QWEN2_VL_TOWER, **ends, **ids)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    Qwen2VLVideoProcessor().save_pretrained(folder)


def _make_tokenizer(folder: Path, size: int, more: Sequence[str] = ()) -> None:
    """A byte-level BPE tokenizer, trained on quire's own source, filled up to `size` tokens.

    What fills it is made-up words that no text contains; a large vocabulary then costs what it costs.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, QWEN2_26M["vocab_size"]),
        special_tokens=[*SPECIAL, *more],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    root = Path(__file__).parents[1]
    sources = sorted(map(str, [*root.glob("src/quire/**/*.py"), *root.glob("tests/**/*.py")]))
    tokenizer.train(sources, trainer)
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    for number in range(len(vocabulary), size):
        vocabulary[f"Ġfiller{number:06d}"] = number
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    # The class that any version of transformers knows, so that every peer's converter reads it.
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
