"""Adapters merged into models of today's kinds: the same answers as with the adapter beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quire.engines.native.cpu.loading import load_model
from quire.errors import AdapterError, UnsupportedModelError
from quire.gguf.folder import make_folder
from quire.gguf.quantize import encode
from quire.gguf.reader import GgufFile
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.random_adapters import LINEARS, checked, load_peft, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.engines.native.random_mxfp4 import make_mxfp4_model
from tests.gguf.converting import file_of, run, with_tokenizer
from tests.gguf.model_folders import (
    KIMI_LINEAR,
    LATENT_YARN,
    LLAMA_4,
    MINICPM_3,
    NEMOTRON_3,
    NEMOTRON_H,
)

FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
FEED_FORWARD = ["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]
BLOCK_SPARSE = ["block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"]
UNGATED = ["mixer.experts.up_proj", "mixer.experts.down_proj"]
GRANITE_4 = {"max_position_embeddings": 2**20}

# The model's kind and what is changed of it; the adapter's options.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "experts": ("qwen3_moe", {}, {"target_parameters": FUSED}),
    "experts of Mixtral, down alone": (
        "mixtral",
        {"sliding_window": None},
        {"target_modules": [], "target_parameters": FUSED[1:]},
    ),
    "experts after a dense layer, and their router": (
        "glm4_moe",
        {},
        {"target_parameters": [*FUSED, "mlp.gate.weight"], "r": 3},
    ),
    "shared experts": (
        "granitemoeshared",
        {},
        {"target_modules": ["v_proj", "input_linear"], "target_parameters": BLOCK_SPARSE[:1]},
    ),
    "experts on their side": ("llama4_text", LLAMA_4, {"target_parameters": FEED_FORWARD}),
    "gates and ups in turn": (
        "gpt_oss",
        {},
        {"target_modules": ["q_proj", "o_proj"], "target_parameters": FUSED},
    ),
    "delta nets": (
        "qwen3_5_text",
        {},
        {"target_modules": [*LINEARS, "in_proj_qkv", "in_proj_z", "in_proj_b", "out_proj"]},
    ),
    "delta nets and experts": (
        "qwen3_5_moe_text",
        {},
        {"target_modules": ["q_proj", "in_proj_a", "out_proj"], "target_parameters": FUSED},
    ),
    "Gemma 3n": (
        "gemma3n_text",
        {},
        {"target_modules": [*LINEARS, "per_layer_projection", "linear_left", "linear_right"]},
    ),
    "Gemma 4": (
        "gemma4_small",
        {},
        {"target_modules": [*LINEARS, "per_layer_input_gate", "per_layer_model_projection"]},
    ),
    "Gemma 4 with experts": (
        "gemma4_moe",
        {},
        {
            "target_modules": "all-linear",
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        },
    ),
    "latent attention": (
        "deepseek_v3",
        {"rope_parameters": LATENT_YARN},
        {
            "target_modules": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"],
            "target_parameters": FUSED,
        },
    ),
    "latent attention with one map": (
        "minicpm3",
        MINICPM_3,
        {"target_modules": ["q_b_proj", "kv_b_proj", "o_proj"]},
    ),
    "Kimi Linear": (
        "kimi_linear",
        KIMI_LINEAR,
        {
            "target_modules": ["q_proj", "v_proj", "b_proj", "o_proj"],
            "target_parameters": BLOCK_SPARSE,
        },
    ),
    "short convolutions": (
        "lfm2",
        {},
        {"target_modules": ["in_proj", "out_proj", "q_proj", "w1", "w2"], "r": 5},
    ),
    "short convolutions and experts": (
        "lfm2_moe",
        {"routed_scaling_factor": 1.0},
        {"target_modules": ["in_proj", "q_proj"], "target_parameters": FEED_FORWARD},
    ),
    "Nemotron-H": (
        "nemotron_h",
        NEMOTRON_H,
        {"target_modules": ["in_proj", "q_proj", "up_proj", "down_proj"]},
    ),
    "experts without gates": (
        "nemotron_h_moe",
        NEMOTRON_3,
        {"target_modules": ["in_proj", "up_proj"], "target_parameters": UNGATED},
    ),
    "experts of latents": (
        "nemotron_h_latent",
        NEMOTRON_3,
        {"target_modules": ["fc1_latent_proj"], "target_parameters": UNGATED},
    ),
    "Granite 4": (
        "granite4_h",
        {**GRANITE_4, "intermediate_size": 72},
        {"target_modules": ["in_proj", "out_proj", "o_proj", "input_linear", "output_linear"]},
    ),
    "Granite 4 with experts": (
        "granite4_h_moe",
        GRANITE_4,
        {"target_modules": ["in_proj", "q_proj"], "target_parameters": BLOCK_SPARSE},
    ),
}
COUNT = 8  # greedy tokens


def make_pair(
    tmp_path: Path, kind: str, sizes: dict[str, Any], **options: Any
) -> tuple[Path, Path]:
    """A folder with a tokenizer, and an adapter that was trained on it."""
    folder = make_random_model(tmp_path / "folder", kind, **sizes)
    adapter = make_random_adapter(tmp_path / "adapter", folder, strength=0.1, **options)
    return with_tokenizer(folder), adapter


def answer(
    model: Path, ids: list[int], adapter: Path | None = None
) -> tuple[NDArray[np.float32], list[int]]:
    """The logits of a prompt, and the greedy tokens after it, of a folder or a file."""
    place = model if model.is_dir() else make_folder(model)
    runner = load_model(place, dtype="float32", num_threads=2, max_sequences=2, kv_dtype="float32")
    loaded = runner.load_adapter(checked(adapter, place)) if adapter else None
    prompt = logits_of(runner, ids, adapter=loaded)
    tokens = [int(prompt[-1].argmax())]
    while len(tokens) < COUNT:
        logits = logits_of(runner, [*ids, *tokens], adapter=loaded)
        tokens.append(int(logits[-1].argmax()))
    runner.close()
    return prompt, tokens


@pytest.mark.parametrize("name", KINDS)
def test_a_merged_file_answers_as_its_base_with_the_adapter(tmp_path: Path, name: str) -> None:
    kind, sizes, options = KINDS[name]
    folder, adapter = make_pair(tmp_path, kind, sizes, **options)
    file = run(folder, tmp_path / "base.gguf", type="f32")
    ids = random_ids(40)
    wanted, tokens = answer(file, ids, adapter)
    plain, _ = answer(file, ids)
    assert np.abs(wanted - plain).max() > 0.5, "the adapter hardly changes anything"
    of_file = run(file, tmp_path / "merged.gguf", adapters=(adapter,))
    of_folder = run(folder, tmp_path / "direct.gguf", adapters=(adapter,), type="f32")
    for merged in (of_file, of_folder):
        found, own = answer(merged, ids)
        np.testing.assert_allclose(found, wanted, atol=3e-4)
        assert own == tokens


# ---- folders with the experts in stacks


STACKS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "in stacks": ("qwen3_moe", {"fused_experts": True}, FUSED),
    "apart": ("qwen3_moe", {}, FUSED),
    "gates and ups in turn": ("gpt_oss", {}, FUSED),
    "on their side": ("llama4_text", LLAMA_4, FEED_FORWARD),
}
NO_FOLDER = ("on their side",)  # quire makes none of a file of Llama 4


@pytest.mark.parametrize(
    ("name", "is_file"),
    [
        (name, is_file)
        for name in STACKS
        for is_file in (False, True)
        if name not in NO_FOLDER or not is_file
    ],
)
def test_a_merged_folder_is_pefts(tmp_path: Path, name: str, is_file: bool) -> None:
    """With two adapters, of a folder, where stacks are changed as they lie, and of a file."""
    kind, sizes, parameters = STACKS[name]
    folder, first = make_pair(
        tmp_path, kind, sizes, target_parameters=parameters, target_modules=[]
    )
    second = make_random_adapter(
        tmp_path / "second", folder, seed=2, target_modules=[], target_parameters=parameters[1:]
    )
    source = run(folder, tmp_path / "base.gguf", type="f32") if is_file else folder
    merged = run(source, tmp_path / "merged", adapters=(first, second))
    ids = torch.tensor([random_ids(40)])
    with torch.inference_mode():
        found = load_oracle(merged)(ids).logits
        wanted = load_peft(folder, first, second)(ids).logits
        plain = load_oracle(folder)(ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (wanted - plain).abs().max() > 0.5


# ---- quantised bases


def floats(file: GgufFile, name: str) -> NDArray[np.float32]:
    return file.data(file.tensors[name]).view(np.float32)


def test_experts_in_blocks_are_rounded_once_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the adapter changes is that of the dequantised file, rounded as before; all else stays."""
    sizes = {"moe_intermediate_size": 32}
    options: dict[str, Any] = {"target_modules": ["q_proj"], "target_parameters": FUSED[1:]}
    folder, adapter = make_pair(tmp_path, "qwen3_moe", sizes, **options)
    file = run(folder, tmp_path / "base.gguf", type="q8_0")
    base = GgufFile(file)
    merged = GgufFile(run(file, tmp_path / "merged.gguf", adapters=(adapter,)))
    exact = GgufFile(run(file, tmp_path / "exact.gguf", adapters=(adapter,), type="f32"))
    assert "rounded once more" in caplog.text
    changed = [
        name
        for name, entry in base.tensors.items()
        if not np.array_equal(base.data(entry), merged.data(merged.tensors[name]))
    ]
    assert {name.partition(".")[2].partition(".")[2] for name in changed} == {
        "attn_q.weight",
        "ffn_down_exps.weight",
    }
    for name in changed:
        entry = merged.tensors[name]
        assert entry.type.name == "Q8_0"
        rows = floats(exact, name).reshape(-1, entry.shape[-1])
        assert np.array_equal(merged.data(entry).reshape(len(rows), -1), encode("Q8_0", rows))


def test_experts_in_mxfp4(tmp_path: Path) -> None:
    """They stay in their blocks but for those that an adapter changes, which get the type asked for."""
    packed, plain = make_mxfp4_model(tmp_path)
    adapter = make_random_adapter(
        tmp_path / "adapter",
        plain,
        strength=0.1,
        target_modules=["q_proj"],
        target_parameters=FUSED[1:],
    )
    with_tokenizer(packed)
    merged = run(packed, tmp_path / "merged.gguf", adapters=(adapter,), type="f32")
    types = {name: one.type.name for name, one in GgufFile(merged).tensors.items()}
    assert types["blk.0.ffn_gate_exps.weight"] == types["blk.2.ffn_up_exps.weight"] == "MXFP4"
    assert types["blk.0.ffn_down_exps.weight"] == types["blk.0.attn_q.weight"] == "F32"
    ids = random_ids(40)
    wanted, tokens = answer(packed, ids, adapter)
    found, own = answer(merged, ids)
    np.testing.assert_allclose(found, wanted, atol=3e-4)
    assert own == tokens
    with pytest.raises(
        UnsupportedModelError, match=r"experts\.0\.down_proj.*blocks of MXFP4.*GGUF"
    ):
        run(packed, tmp_path / "merged", adapters=(adapter,))
    file = run(packed, tmp_path / "base.gguf", type="bf16")
    with pytest.raises(UnsupportedModelError, match=r"ffn_down_exps.weight, which is MXFP4.*type="):
        run(file, tmp_path / "other.gguf", adapters=(adapter,))
    floats_of_file = run(file, tmp_path / "other.gguf", adapters=(adapter,), type="f32")
    assert GgufFile(floats_of_file).tensors["blk.0.ffn_gate_exps.weight"].type.name == "F32"


# ---- what is refused


@pytest.mark.parametrize(
    ("kind", "sizes", "module"),
    [
        ("deepseek_v3", {"rope_parameters": LATENT_YARN}, "kv_b_proj"),
        ("qwen3_next", {"mlp_only_layers": []}, "in_proj_ba"),
    ],
)
def test_maps_that_files_have_in_another_form(
    tmp_path: Path, kind: str, sizes: dict[str, Any], module: str
) -> None:
    """The adapter is merged into the folder, and a file is made of that."""
    folder, adapter = make_pair(tmp_path, kind, sizes, target_modules=[module])
    file = run(folder, tmp_path / "base.gguf", type="f32")
    with pytest.raises(
        AdapterError, match=rf"{module}, which is no module.*in another form.*folder"
    ):
        run(file, tmp_path / "merged.gguf", adapters=(adapter,))
    merged = run(folder, tmp_path / "merged.gguf", adapters=(adapter,), type="f32")
    ids = random_ids(40)
    wanted, tokens = answer(folder, ids, adapter)
    found, own = answer(merged, ids)
    np.testing.assert_allclose(found, wanted, atol=3e-4)
    assert own == tokens


def test_adapters_of_other_experts(tmp_path: Path) -> None:
    folder = with_tokenizer(make_random_model(tmp_path / "folder", "qwen3_moe"))
    options: dict[str, Any] = {"target_modules": [], "target_parameters": FUSED}
    fewer = make_random_model(tmp_path / "fewer", "qwen3_moe", num_experts=7)
    adapter = make_random_adapter(tmp_path / "adapter", fewer, **options)
    with pytest.raises(AdapterError, match=r"as 7 matrices.*has 20 experts of shape"):
        run(folder, tmp_path / "merged.gguf", adapters=(adapter,))
    dense = with_tokenizer(make_random_model(tmp_path / "dense", "qwen3"))
    with pytest.raises(AdapterError, match=r"has no experts of that name"):
        run(dense, tmp_path / "merged.gguf", adapters=(adapter,))


def test_files_with_gates_and_ups_in_one_tensor(tmp_path: Path) -> None:
    """Such files are read, and not written."""
    folder, adapter = make_pair(tmp_path, "qwen3_moe", {}, target_parameters=FUSED)
    file = file_of(folder, tmp_path / "base.gguf", experts="gate_up")
    with pytest.raises(UnsupportedModelError, match=r"no tensor of its own in today's form"):
        run(file, tmp_path / "merged.gguf", adapters=(adapter,))
