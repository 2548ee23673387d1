"""Whole models from GGUF files: what they compute equals transformers on the dequantised weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quire import ChatModel
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.weights.blocks import PackedBlocks
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.models.registry import read_spec
from quire.errors import AdapterError, ConfigError, WeightsError
from quire.gguf.folder import make_folder, open_source
from tests.engines.native.cpu.batches import logits_of
from tests.engines.native.cpu.kernels.test_block_linear import HALVES
from tests.engines.native.random_adapters import checked, load_peft, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.gguf.block_models import WORDS, Oracle, divergence, metadata, write_blocks
from tests.gguf.model_files import write_model
from tests.gguf.model_folders import (
    KIMI_LINEAR,
    LLAMA_4,
    MINICPM_3,
    NEMOTRON_3,
    make_model_folder,
)

KINDS = sorted(HALVES)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_is_the_model_of_the_dequantised_weights(kind: str, tmp_path: Path) -> None:
    """And fast is near it; both in chunks as at once."""
    folder = make_folder(write_blocks(tmp_path / "model.gguf", kind))
    ids = np.random.default_rng(5).integers(3, WORDS, 90).tolist()
    reference = Oracle(folder).logits(ids)
    for exact, most in ((True, 1e-6), (False, 5e-2)):
        runner = load_model(
            folder, exact=exact, num_threads=2, kv_cache_memory=1 << 22, kv_dtype="float32"
        )
        logits = logits_of(runner, ids)
        assert divergence(reference, logits).max() < most
        chunked = logits_of(runner, ids, chunks=(1, 7, 30), first_block=10)
        assert np.array_equal(chunked, logits)
        runner.close()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of several types, as files of people are, with biases."""
    path = tmp_path_factory.mktemp("mixed") / "Mixed-Q4_K_M.gguf"
    return write_blocks(path, "Q6_K", "qwen2")


@pytest.fixture(scope="module")
def chat(mixed: Path) -> Iterator[ChatModel]:
    arguments = {"model_name_or_path": str(mixed), "native_kv_cache_memory": "16MiB"}
    with ChatModel(arguments) as model:
        yield model


GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 24, "ignore_eos": True}


def test_a_conversation_with_a_file(chat: ChatModel, mixed: Path) -> None:
    """The file's template, its ids, and the greedy tokens of the dequantised model."""
    messages = [{"role": "user", "content": "Say ab, cd."}]
    ids: list[int] = []
    for delta in chat.stream(messages, **GREEDY):
        ids += delta.token_ids
    folder = make_folder(mixed)
    tokenizer = chat.engine.tokenizer
    prompt = tokenizer.encode("<|im_start|>user\nSay ab, cd.<|im_end|>\n<|im_start|>assistant\n")
    oracle = Oracle(folder)
    for count, token in enumerate(ids):
        logits = oracle.logits([*prompt, *ids[:count]])[-1]
        assert logits[token] > logits.max() - 1e-3


def test_streams_of_a_file_do_not_disturb_each_other(chat: ChatModel) -> None:
    import asyncio

    async def answers() -> list[str]:
        chats = (
            chat.achat([{"role": "user", "content": f"Say {number % 3}."}], **GREEDY)
            for number in range(12)
        )
        return [answer[0].response_text for answer in await asyncio.gather(*chats)]

    texts = asyncio.run(answers())
    alone = [
        chat.chat([{"role": "user", "content": f"Say {number}."}], **GREEDY)[0].response_text
        for number in range(3)
    ]
    assert texts == alone * 4


def test_weights_can_be_floats(mixed: Path, chat: ChatModel) -> None:
    """infer_dtype float32 dequantises at load, and the answer stays."""
    arguments = {"model_name_or_path": str(mixed), "native_kv_cache_memory": "16MiB"}
    question = [{"role": "user", "content": "ab"}]
    with ChatModel({**arguments, "infer_dtype": "float32"}) as model:
        assert model.chat(question, **GREEDY)[0].response_text == (
            chat.chat(question, **GREEDY)[0].response_text
        )


def test_blocks_are_not_rounded_once_more(mixed: Path) -> None:
    with pytest.raises(ConfigError, match=r"native_quantization int4.*GGUF"):
        ChatModel({"model_name_or_path": str(mixed), "native_quantization": "int4"})


def test_a_broken_scale_is_named(tmp_path: Path) -> None:
    path = write_blocks(tmp_path / "broken.gguf", "Q8_0")
    source = open_source(make_folder(path))
    tensor = source.tensor("model.layers.1.mlp.down_proj.weight")
    content = bytearray(path.read_bytes())
    at = content.find(tensor.data.tobytes()[:68])
    content[at : at + 2] = np.float16(np.nan).tobytes()
    other = tmp_path / "nan.gguf"
    other.write_bytes(content)
    with pytest.raises(WeightsError, match=r"down_proj.weight.*NaN"):
        ChatModel({"model_name_or_path": str(other)})


# ---- delta nets

_WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_value_head_dim": 128,
}


@pytest.mark.parametrize("matrices", ["Q8_0", "Q4_0"])
def test_value_heads_in_the_order_of_llama_cpp(matrices: str, tmp_path: Path) -> None:
    """A head of the output map is part of a block of its weights, so that the heads go to its columns."""
    folder = make_random_model(tmp_path / "folder", "qwen3_5_text", **_WIDE)
    keys = {key: value for key, value in metadata("").items() if key.startswith("tokenizer.")}
    file = write_model(folder, tmp_path / "a.gguf", matrices=matrices, metadata=keys)
    made = make_folder(file)
    ids = np.random.default_rng(5).integers(3, WORDS, 90).tolist()
    reference = Oracle(made).logits(ids)
    runner = load_model(made, exact=True, num_threads=2, max_sequences=2, kv_dtype="float32")
    logits = logits_of(runner, ids)
    assert divergence(reference, logits).max() < 1e-5
    np.testing.assert_array_equal(logits_of(runner, ids, chunks=(1, 7, 30)), logits)
    runner.close()


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        (
            "qwen3_5_text",
            ["q_proj", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"],
        ),
        ("qwen3_5_moe_text", ["o_proj", "in_proj_qkv", "out_proj"]),
        ("qwen3_next", ["q_proj", "o_proj", "out_proj"]),
    ],
)
def test_delta_nets_with_an_adapter(kind: str, targets: list[str], tmp_path: Path) -> None:
    """The adapter's rows and columns are in the folder's order, whatever the file's is."""
    sizes: dict[str, Any] = {"mlp_only_layers": []} if kind == "qwen3_next" else {}
    folder = make_random_model(tmp_path / "folder", kind, **sizes)
    keys = {key: value for key, value in metadata("").items() if key.startswith("tokenizer.")}
    made = make_folder(write_model(folder, tmp_path / "a.gguf", metadata=keys))
    adapter = make_random_adapter(tmp_path / "adapter", folder, target_modules=targets)
    ids = np.random.default_rng(5).integers(3, WORDS, 60).tolist()
    runner = load_model(made, num_threads=2, max_sequences=2, kv_dtype="float32")
    loaded = runner.load_adapter(checked(adapter, made))
    with torch.inference_mode():
        plain = load_oracle(folder)(torch.tensor([ids])).logits[0].numpy()
        tuned = load_peft(folder, adapter)(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(runner, ids), plain, atol=1e-4)
    np.testing.assert_allclose(logits_of(runner, ids, adapter=loaded), tuned, atol=1e-4)
    runner.close()


# ---- Gemma 3n and 4

_WIDE_INPUTS: dict[str, Any] = {
    "intermediate_size": 128,
    "hidden_size_per_layer_input": 32,
    "head_dim": 32,
    "global_head_dim": 64,
}


@pytest.mark.parametrize("matrices", ["F32", "Q8_0", "Q4_0"])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gemma3n_text", {"hidden_size_per_layer_input": 32, "intermediate_size": [128] * 6}),
        ("gemma4_small", _WIDE_INPUTS),
    ],
)
def test_inputs_of_layers(matrices: str, kind: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    """Their table, too, may be in blocks."""
    folder = make_random_model(tmp_path / "folder", kind, **sizes, laurel_rank=32)
    made = make_folder(with_vocabulary(folder, tmp_path / "a.gguf", matrices=matrices))
    assert_same_logits(made, Oracle(made).logits)


def test_experts_beside_an_ffn(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path / "folder", "gemma4_moe")
    made = make_folder(with_vocabulary(folder, tmp_path / "a.gguf"))
    oracle = load_oracle(folder)

    def logits(ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return oracle(torch.tensor([ids])).logits[0].double()

    assert_same_logits(made, logits)


def with_vocabulary(folder: Path, target: Path, **options: Any) -> Path:
    """The file of a folder, with a tokenizer."""
    keys = {key: value for key, value in metadata("").items() if key.startswith("tokenizer.")}
    return write_model(folder, target, metadata=keys, **options)


def assert_same_logits(made: Path, reference: Callable[[list[int]], torch.Tensor]) -> None:
    ids = np.random.default_rng(5).integers(3, WORDS, 90).tolist()
    runner = load_model(made, exact=True, num_threads=2, max_sequences=2, kv_dtype="float32")
    logits = logits_of(runner, ids)
    assert divergence(reference(ids), logits).max() < 1e-5
    np.testing.assert_array_equal(logits_of(runner, ids, chunks=(1, 7, 30)), logits)
    runner.close()


# ---- files that say less than their folders


@pytest.mark.parametrize(
    "name",
    [
        *("minicpm3 with longrope", "llama4", "bamba", "glm4v", "qwen3_vl_moe", "kimi_linear"),
        *("nemotron_h with experts", "nemotron_h with experts of latents"),
    ],
)
def test_a_file_answers_as_its_folder(name: str, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path, name)
    made = make_folder(with_vocabulary(folder, tmp_path / "a.gguf"))
    ids = np.random.default_rng(5).integers(3, WORDS, 90).tolist()
    options: Any = {"num_threads": 2, "max_sequences": 2, "kv_dtype": "float32"}
    logits: list[Any] = []
    for place in (folder, made):
        runner = load_model(place, dtype="float32", **options)
        logits.append(logits_of(runner, ids))
        runner.close()
    # A file has -exp of a decay, whose logarithm may be its neighbour in float32.
    close = 1e-5 if read_spec(folder).state_floats else 0.0
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=close)


_SIZES: dict[str, dict[str, Any]] = {
    "kimi_linear": {
        **KIMI_LINEAR,
        "kv_lora_rank": 64,
        "linear_head_dim": 32,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
    },
    "llama4_text": {**LLAMA_4, "head_dim": 32, "intermediate_size_mlp": 128},
    "minicpm3": {**MINICPM_3, "q_lora_rank": 32, "kv_lora_rank": 64},
    "nemotron_h_latent": {
        **NEMOTRON_3,
        "moe_latent_size": 64,
        "moe_shared_expert_intermediate_size": 96,
    },
}


@pytest.mark.parametrize("kind", _SIZES)
def test_blocks_of_later_models(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 64, "moe_intermediate_size": 64}
    folder = make_random_model(tmp_path / "folder", kind, **{**sizes, **_SIZES[kind]})
    made = make_folder(with_vocabulary(folder, tmp_path / "a.gguf", matrices="Q8_0"))
    ids = np.random.default_rng(5).integers(3, WORDS, 90).tolist()
    options: Any = {"num_threads": 2, "max_sequences": 2, "kv_dtype": "float32"}
    runner = load_model(made, dtype="float32", **options)
    reference = torch.tensor(logits_of(runner, ids)).double()
    runner.close()
    runner = load_model(made, exact=True, **options)
    logits = logits_of(runner, ids)
    assert divergence(reference, logits).median() < 1e-6
    np.testing.assert_array_equal(logits_of(runner, ids, chunks=(1, 7, 30)), logits)
    runner.close()


# ---- adapters


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A random model's folder, its GGUF file in float32, and an adapter that was trained on the folder."""
    place = tmp_path_factory.mktemp("tuned")
    folder = make_random_model(place / "folder", "llama3")
    keys = {key: value for key, value in metadata("llama").items() if key.startswith("tokenizer.")}
    file = write_model(folder, place / "model.gguf", metadata=keys)
    adapter = make_random_adapter(place / "adapter", folder, strength=0.3)
    return folder, file, adapter


def test_an_adapter_of_the_folder_fits_the_file(tuned: tuple[Path, Path, Path]) -> None:
    """Rows of queries and keys lie in another order in the file: the adapter's are the folder's."""
    folder, file, adapter = tuned
    arguments = {"model_name_or_path": str(file), "adapter_name_or_path": str(adapter)}
    with ChatModel({**arguments, "native_kv_cache_memory": "16MiB"}) as model:
        ids: list[int] = []
        for delta in model.stream([{"role": "user", "content": "Say ab."}], **GREEDY):
            ids += delta.token_ids
        tokenizer = model.engine.tokenizer
    prompt = tokenizer.encode("<|im_start|>user\nSay ab.<|im_end|>\n<|im_start|>assistant\n")
    oracle = load_peft(folder, adapter)
    with torch.inference_mode():
        logits = oracle(torch.tensor([[*prompt, *ids]])).logits[0].double()
    for count, token in enumerate(ids):
        row = logits[len(prompt) + count - 1]
        assert row[token] > row.max() - 1e-3


def test_an_adapter_of_another_model_is_refused(
    mixed: Path, tuned: tuple[Path, Path, Path]
) -> None:
    arguments = {"model_name_or_path": str(mixed), "adapter_name_or_path": str(tuned[2])}
    with pytest.raises(AdapterError, match=r"shape|does not fit|size"):
        ChatModel(arguments)


# ---- latent attention


@pytest.mark.parametrize("matrices", ["Q8_0", "Q4_0"])
def test_heads_of_latent_attention(matrices: str, tmp_path: Path) -> None:
    """Their maps stay in blocks, for which the rows of each head are rounded."""
    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "moe_intermediate_size": 64,
        "q_lora_rank": 32,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
    }
    folder = make_random_model(tmp_path / "folder", "deepseek_v3", **sizes)
    keys = {key: value for key, value in metadata("").items() if key.startswith("tokenizer.")}
    made = make_folder(write_model(folder, tmp_path / "a.gguf", matrices=matrices, metadata=keys))
    layer = load_weights(read_spec(made), made).layers[0]
    assert all(isinstance(layer[role], PackedBlocks) for role in ("k.0", "k.3", "v.0", "v.3"))
    ids = np.random.default_rng(5).integers(3, WORDS, 150).tolist()
    options: Any = {"num_threads": 2, "max_sequences": 2, "kv_dtype": "float32"}
    runner = load_model(made, dtype="float32", **options)
    reference = torch.tensor(logits_of(runner, ids)).double()
    runner.close()
    for exact, most, typical in ((True, 1e-6, 1e-7), (False, np.inf, 1e-2)):
        runner = load_model(made, exact=exact, **options)
        logits = logits_of(runner, ids)
        found = divergence(reference, logits)
        # Rounded to 8 bits, a row whose experts are nearly equal may go to others.
        assert found.max() < most
        assert found.median() < typical
        np.testing.assert_array_equal(logits_of(runner, ids, chunks=(1, 7, 80)), logits)
        runner.close()
