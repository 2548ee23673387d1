"""`quantization_config` as the writers make it, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError, UnsupportedModelError
from quire.quantization.formats import read_quantization
from quire.quantization.schemes import ModuleScheme, Quantization
from quire.weights import patterns
from quire.weights.hub_config import HubConfig

Q = "model.layers.3.self_attn.q_proj"
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
AWQ: dict[str, Any] = {
    "quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm",
}  # fmt: skip
FP8: dict[str, Any] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 64]}
WEIGHTS: dict[str, Any] = {
    "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32,
}  # fmt: skip


def found(settings: Any, key: str = "quantization_config") -> Quantization:
    quantization = read_quantization(HubConfig({key: settings}))
    assert quantization is not None
    return quantization


def of(settings: Any, module: str = Q) -> ModuleScheme | None:
    return found(settings).scheme_of(module, "Linear")


def packed(
    weights: Any = None, *, form: str | None = "pack-quantized", **changes: Any
) -> dict[str, Any]:
    """compressed-tensors' settings: one group over every linear map but the head."""
    group = {"targets": ["Linear"], "weights": {**WEIGHTS, **(weights or {})}, **changes}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def floats(weights: Any = None, **changes: Any) -> dict[str, Any]:
    """The same with 8-bit floats."""
    given = {"num_bits": 8, "type": "float", "strategy": "channel", **(weights or {})}
    return packed({**given, "group_size": None}, form="float-quantized", **changes)


def test_gptq() -> None:
    assert of(GPTQ) == ModuleScheme("gptq", 4, 128)
    assert of({**GPTQ, "checkpoint_format": "gptq_v2", "group_size": -1, "bits": 8}) == (
        ModuleScheme("gptq_v2", 8, 0)
    )
    assert of({**GPTQ, "desc_act": True, "sym": False}) == (
        ModuleScheme("gptq", 4, 128, symmetric=False, act_order=True)
    )
    newer = {"method": "gptq", "format": "gptq_v2", "bits": 4, "group_size": 64, "sym": True}
    assert of(newer) == ModuleScheme("gptq_v2", 4, 64)
    assert found(GPTQ).scheme_of("model.embed_tokens", "Embedding") is None


def test_gptq_dynamic() -> None:
    """GPTQModel's rules for single modules; the first that matches counts."""
    dynamic = {
        r"-:.*\.layers\.0\..*": {},
        r"+:.*\.layers\.[1-3]\..*": {"bits": 8, "group_size": 32},
        r".*down_proj": {"group_size": 64},
    }
    settings = {**GPTQ, "dynamic": dynamic}
    assert of(settings, "model.layers.0.mlp.down_proj") is None
    assert of(settings) == ModuleScheme("gptq", 8, 32)
    assert of(settings, "model.layers.9.mlp.down_proj") == ModuleScheme("gptq", 4, 64)
    assert of(settings, "model.layers.9.mlp.up_proj") == ModuleScheme("gptq", 4, 128)


def test_awq() -> None:
    scheme = ModuleScheme("awq", 4, 64, symmetric=False)
    assert of(AWQ) == scheme
    assert of({"w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"}) == scheme
    plain = {**AWQ, "modules_to_not_convert": ["mlp.gate", "layers.3.self_attn", "lm_head"]}
    assert of(plain) is None
    assert of(plain, "lm_head") is None
    assert of(plain, "model.layers.1.mlp.gate") is None
    assert of(plain, "model.layers.1.mlp.gate_proj") == scheme
    assert of(plain, "model.layers.30.self_attn.q_proj") == scheme


def test_compressed_tensors() -> None:
    assert of(packed()) == ModuleScheme("packed", 4, 32)
    assert of(packed(), "lm_head") is None
    assert of(packed({"actorder": "group"})) == ModuleScheme("packed", 4, 32, act_order=True)
    assert of(packed({"actorder": "weight"})) == ModuleScheme("packed", 4, 32)
    channel = {"strategy": "channel", "group_size": None, "num_bits": 8, "symmetric": False}
    per_channel = ModuleScheme("packed", 8, 0, symmetric=False)
    assert of(packed(channel)) == of(packed({**channel, "group_size": -1})) == per_channel
    tensor = {**channel, "strategy": "tensor"}
    assert of(packed(tensor, form="naive-quantized")) == (
        ModuleScheme("integers", 8, 0, symmetric=False)
    )
    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
    assert of(packed(channel, form="int-quantized", input_activations=inputs)) == (
        ModuleScheme("integers", 8, 0, symmetric=False)
    )


def test_8_bit_floats() -> None:
    """One scale a column or for all is seen in the folder, and so is what is left out."""
    blocks = ModuleScheme("float8", 8, 0, block=(128, 64))
    assert of({**FP8, "modules_to_not_convert": ["q_proj"]}) == blocks
    one = ModuleScheme("float8", 8, 0)
    assert of({"quant_method": "fp8", "activation_scheme": "static"}) == one
    assert of({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}) == one
    inputs = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    assert of(floats(input_activations=inputs)) == of(floats({"strategy": "tensor"})) == one
    assert of(floats({"strategy": "block", "block_structure": [128, 64]})) == blocks
    naive = packed({"type": "float", "num_bits": 8, "strategy": "tensor"}, form="naive-quantized")
    assert of(naive) == one
    assert of(floats(), "lm_head") is None


def test_compressed_tensors_targets() -> None:
    """A name beats a pattern, which beats a class; each group may have a format of its own."""
    settings = {
        "format": "mixed-precision",
        "ignore": ["re:.*layers\\.0\\..*"],
        "config_groups": {
            "a": {"targets": ["Linear"], "format": "pack-quantized", "weights": WEIGHTS},
            "b": {
                "targets": [r"re:.*q_proj", "lm_head", "Embedding"],
                "format": "int-quantized",
                "weights": {"num_bits": 8, "strategy": "channel"},
            },
        },
    }
    assert of(settings) == of(settings, "lm_head") == ModuleScheme("integers", 8, 0)
    assert of(settings, "model.layers.3.self_attn.k_proj") == ModuleScheme("packed", 4, 32)
    assert of(settings, "model.layers.0.self_attn.q_proj") is None
    embeddings = found(settings).scheme_of("model.embed_tokens", "Embedding")
    assert embeddings == ModuleScheme("integers", 8, 0)
    old = found(packed(), key="compression_config")
    assert (old.method, old.scheme_of(Q, "Linear")) == ("compressed-tensors", of(packed()))


def test_a_pattern_that_looks_ahead() -> None:
    settings = {**packed(), "ignore": [r"re:(?!.*layers\.3\.).*(?<!k_)proj"]}
    assert of(settings) == of(packed())
    assert of(settings, "model.layers.4.self_attn.q_proj") is None
    assert of(settings, "model.layers.4.self_attn.k_proj") == of(packed())


@pytest.mark.parametrize(
    "settings",
    [
        {**packed(), "ignore": [r"re:(([a-z0-9._]+)+)+X", r"re:((?=(a|.)*X).*)*X"]},
        {**GPTQ, "dynamic": {r"-:(([a-z0-9._]+)+)+X": {}}},
    ],
)
def test_patterns_that_backtracking_never_ends(settings: dict[str, Any]) -> None:
    for layer in range(50):
        assert of(settings, f"model.layers.{layer}.self_attn.q_proj") is not None


def test_patterns_that_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MOST_WORK", 10_000)
    quantization = found({**packed(), "ignore": [f"re:(.*{number}.*)*X" for number in range(500)]})
    with pytest.raises(ModelError, match="too long to match"):
        quantization.scheme_of(Q, "Linear")


def test_no_quantisation() -> None:
    assert read_quantization(HubConfig({})) is None
    assert read_quantization(HubConfig({"quantization_config": None})) is None


@pytest.mark.parametrize(
    ("name", "settings", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": True}, "gptq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 64, "version": "GEMM"}, "awq"),
    ],
)
def test_old_folders(tmp_path: Path, name: str, settings: Any, method: str) -> None:
    (tmp_path / name).write_text(json.dumps(settings))
    quantization = read_quantization(HubConfig({}), tmp_path)
    assert quantization is not None
    assert (quantization.method, quantization.source) == (method, str(tmp_path / name))
    scheme = quantization.scheme_of(Q, "Linear")
    assert scheme is not None
    assert scheme.act_order == (method == "gptq")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"quant_method": "quark"}, "quant_method is 'quark'.*awq, bitsandbytes, compress.*vllm"),
        ({"quant_method": "hqq", "nbits": 4}, "'hqq'"),
        ({}, "quant_method is None"),
        ({**GPTQ, "bits": 3}, "bits is 3.*4, 8"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({**GPTQ, "is_marlin_format": True}, "'marlin'"),
        ({**GPTQ, "pack_dtype": "int64"}, "pack_dtype is 'int64'"),
        ({**GPTQ, "rotation": "hadamard"}, "rotation is 'hadamard'.*without it"),
        ({**GPTQ, "dynamic": {"+:.*": {"bits": 2}}}, "bits is 2"),
        ({**AWQ, "version": "gemv"}, "version is 'gemv'.*gemm"),
        ({**AWQ, "version": "marlin"}, "version is 'marlin'"),
        ({**AWQ, "bits": 8}, "bits is 8"),
        (packed({"type": "int"}, form="float-quantized"), "weights: type is 'int'"),
        (floats({"num_bits": 4}), "num_bits is 4"),
        (floats({"strategy": "token"}), "strategy is 'token'"),
        (floats({"symmetric": False}), "symmetric is False"),
        (floats({"dynamic": True}), "dynamic is True"),
        (floats(input_activations={"num_bits": 4, "type": "mx"}), "input_activations type is 'mx'"),
        ({**FP8, "fmt": "e5m2"}, "fmt is 'e5m2'"),
        (packed(form="marlin-24"), "format is 'marlin-24'"),
        (packed(form="nvfp4-pack-quantized"), "'nvfp4-pack-quantized'"),
        (packed(form="dense"), "'dense'"),
        (packed(form=None), "format is None"),
        (packed({"type": "float"}), "weights: type is 'float'"),
        (packed({"num_bits": 3}), "weights: num_bits is 3"),
        (packed({"dynamic": True}), "dynamic is True"),
        (packed({"strategy": "block", "block_structure": [64, 64]}), "strategy is 'block'"),
        (packed(input_activations={"num_bits": 8, "type": "float"}), "input_activations type"),
        (packed(output_activations={"num_bits": 8}), "output_activations is"),
        ({**packed(), "sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparse-24-bitmask'"),
        (
            {**packed(), "transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
            "transform_config",
        ),
    ],
)
def test_refused_by_name(settings: Any, text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=text) as caught:
        found(settings)
    assert "quantization_config" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("gptq", "quantization_config is 'gptq'; it must be an object"),
        ({**GPTQ, "bits": None}, "bits is missing"),
        ({**GPTQ, "group_size": 0}, "group_size is 0"),
        ({**GPTQ, "sym": "yes"}, "sym is 'yes'"),
        ({**GPTQ, "dynamic": ["x"]}, "dynamic is"),
        ({**GPTQ, "dynamic": {"+:(": {}}}, "regular expression"),
        ({**GPTQ, "dynamic": {"+:a": 3}}, "must be an object"),
        ({**AWQ, "modules_to_not_convert": "lm_head"}, "a list of names"),
        ({**FP8, "weight_block_size": [128]}, "weight_block_size is .*two positive integers"),
        ({**FP8, "weight_block_size": [128, 0]}, "weight_block_size"),
        (floats({"strategy": "block"}), "block_structure is missing"),
        ({**packed(), "config_groups": {}}, "config_groups"),
        ({**packed(), "config_groups": {"W4A16": ["Linear"]}}, "config_groups W4A16"),
        ({**packed(), "ignore": [3]}, "ignore is"),
        ({**packed(), "ignore": ["re:("]}, "regular expression"),
        (packed({"group_size": None}), "group_size"),
        (packed(weights=None) | {"config_groups": {"g": {"targets": ["Linear"]}}}, "weights is mi"),
    ],
)
def test_contradictions_name_the_key(settings: Any, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        found(settings)
    assert not isinstance(caught.value, UnsupportedModelError)


@pytest.mark.parametrize("form", [{"format": "dense"}, {}, None])
def test_no_sparsity(form: Any) -> None:
    changes = {"sparsity_config": form, "transform_config": {"config_groups": {}}}
    assert of({**packed(), **changes}) == ModuleScheme("packed", 4, 32)
