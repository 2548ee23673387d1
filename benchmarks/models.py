"""The random model that speed is measured on; made once, and ignored by git."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "models"

QWEN2_26M = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def qwen2_26m() -> Path:
    """A Qwen2 model of 26 million random parameters, with a tokenizer of 4,096 tokens."""
    folder = FOLDER / "qwen2-26m"
    if not (folder / "tokenizer.json").is_file():
        _make_weights(folder)
        _make_tokenizer(folder)
    return folder


def _make_weights(folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    # As wide as trained weights: logits then differ enough for greedy tokens to be stable.
    model = Qwen2ForCausalLM(Qwen2Config(**QWEN2_26M, initializer_range=0.05))
    model.to(torch.float32).save_pretrained(folder)


def _make_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer, trained on quire's own source."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=QWEN2_26M["vocab_size"],
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    root = Path(__file__).parents[1]
    sources = sorted(map(str, [*root.glob("src/quire/**/*.py"), *root.glob("tests/**/*.py")]))
    tokenizer.train(sources, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
