"""Whole quantised folders on the engine: equal to transformers with the weights multiplied out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, PreTrainedModel

from quire.engines.native.core.engine import Engine
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix
from quire.engines.native.models.registry import read_spec
from quire.errors import UnsupportedModelError, WeightsError
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.weights.safetensors import widen
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.cpu.reference_runner import ReferenceRunner
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.quantization import plain_formats as plain

# transformers warns that `dequantize` is set beside the folder's own settings: it is meant.
pytestmark = pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")

IDS = random_ids(40)
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
AWQ: dict[str, Any] = {
    "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
}  # fmt: skip

# Name: the model's kind, its `quantization_config`, and whether the head is quantised too.
WRITTEN: dict[str, tuple[str, dict[str, Any], bool]] = {
    "gptq": ("llama2", {**GPTQ, "desc_act": False}, False),
    "gptq act-order": ("qwen2", {**GPTQ, "desc_act": True}, False),
    "gptq head": ("qwen3", {**GPTQ, "desc_act": True, "lm_head": True, "sym": True}, True),
    "gptq v2": ("mistral", {**GPTQ, "checkpoint_format": "gptq_v2", "bits": 8}, False),
    "gptq columns": ("llama3", {**GPTQ, "group_size": -1}, False),
    "awq": ("llama2", AWQ, False),
    "awq head": ("qwen3", {**AWQ, "group_size": 64}, True),
    "awq tied": ("qwen2", {**AWQ, "modules_to_not_convert": ["layers.1.mlp"]}, False),
}


def quantise_folder(folder: Path, name: str, **options: Any) -> tuple[Path, Path]:
    """A quantised model and the same in full precision."""
    kind, settings, head = WRITTEN[name]
    source = make_random_model(folder / "source", kind, vocab_size=304, intermediate_size=128)
    kept = settings.get("modules_to_not_convert", [])

    def module(stem: str, weight: NDArray[np.float32]) -> Any:
        if "embed_tokens" in stem or (stem == "lm_head" and not head):
            return None
        if any(part in stem for part in kept):
            return None
        v2 = settings.get("checkpoint_format") == "gptq_v2"
        is_gptq = settings["quant_method"] == "gptq"
        written = plain.quantise(
            weight,
            bits=settings["bits"],
            group=settings["group_size"],
            symmetric=settings.get("sym", False),
            act_order=settings.get("desc_act", False),
            lowest_zero=int(is_gptq and not v2),
        )
        parts = plain.gptq(written, v2=v2) if is_gptq else plain.awq(written)
        return parts, written.weight()

    quantised = folder / "quantised"
    return quantised, plain.write_quantised(source, quantised, settings, module, **options)


def runner_logits(folder: Path) -> NDArray[np.float32]:
    runner = ReferenceRunner(
        load_weights(read_spec(folder), folder, "float32"), max_model_len=64, num_blocks=4
    )
    return logits_of(runner, IDS)


def oracle_logits(model: PreTrainedModel) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("name", WRITTEN)
def test_logits_equal_transformers_with_the_weights_multiplied_out(
    name: str, tmp_path: Path
) -> None:
    folder, full = quantise_folder(tmp_path, name)
    np.testing.assert_allclose(runner_logits(folder), oracle_logits(load_oracle(full)), atol=1e-4)
    tied = read_spec(folder).head.tied
    weights = load_weights(read_spec(folder), folder, "float32")
    assert (weights.tensors["head"] is weights.tensors["embeddings"]) == tied


@pytest.mark.parametrize("name", WRITTEN)
def test_whole_numbers_give_nearly_the_same_logits(name: str, tmp_path: Path) -> None:
    """As the kernels compute it: weights stay as they are stored, activations become bytes."""
    folder, full = quantise_folder(tmp_path, name)
    runner = load_model(folder, max_model_len=128, max_batch_tokens=64, num_threads=2)
    spec = read_spec(folder)
    kinds = {type(one) for layer in load_weights(spec, folder).layers for one in layer.values()}
    assert PackedMatrix in kinds
    found, wanted = logits_of(runner, IDS), oracle_logits(load_oracle(full))
    runner.close()
    error = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    assert 0 < error < 0.05


class NoText:
    """A detokenizer for models without a tokenizer."""

    def add(self, token: int) -> str:
        return ""

    def read(self, tokens: Sequence[int]) -> str:
        return ""

    def flush(self) -> str:
        return ""


@pytest.fixture(params=["gptq act-order", "awq head"])
def engine_and_oracle(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Engine, Any]]:
    folder, full = quantise_folder(tmp_path, request.param)
    runner = load_model(
        folder, dtype="float32", max_model_len=128, max_batch_tokens=16, num_threads=1
    )
    engine = Engine(runner, lambda params: NoText(), max_sequences=4, max_batch_tokens=16)
    yield engine, load_oracle(full)
    engine.close()


def test_tokens_equal_transformers(engine_and_oracle: tuple[Engine, Any]) -> None:
    engine, oracle = engine_and_oracle
    prompts = [IDS[:length] for length in (1, 17, 40)]
    params = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(str(number), Prompt(tuple(prompt)), params)
    found: dict[str, list[int]] = {}
    while engine.has_work:
        for request_id, delta in engine.step():
            found.setdefault(request_id, []).extend(delta.token_ids)
    for number, prompt in enumerate(prompts):
        with torch.inference_mode():
            ids = oracle.generate(
                torch.tensor([prompt]), do_sample=False, min_new_tokens=16, max_new_tokens=16,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        assert found[str(number)] == ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("file", "settings_file"),
    [
        ("gptq_model-4bit-32g.safetensors", "quantize_config.json"),
        ("model.safetensors", "quantize_config.json"),
        ("model.safetensors", "quant_config.json"),
    ],
)
def test_old_folders(tmp_path: Path, file: str, settings_file: str) -> None:
    name = "gptq act-order" if settings_file == "quantize_config.json" else "awq"
    folder, full = quantise_folder(tmp_path, name, file=file, settings_file=settings_file)
    np.testing.assert_allclose(runner_logits(folder), oracle_logits(load_oracle(full)), atol=1e-4)


def test_bfloat16_on_request(tmp_path: Path) -> None:
    folder, full = quantise_folder(tmp_path, "awq")
    up = load_weights(read_spec(folder), folder, "bfloat16").layers[1]["up"]
    wanted = torch.from_numpy(
        load_file(full / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    )
    np.testing.assert_array_equal(widen(up), wanted.bfloat16().float().numpy())


def test_settings_that_leave_a_quantised_module_alone(tmp_path: Path) -> None:
    folder, _ = quantise_folder(tmp_path, "awq")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = ["down_proj"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"layers\.0\.mlp\.down_proj\.qweight.*full precision"):
        load_weights(read_spec(folder), folder)
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"q_proj\.qweight.*says nothing"):
        load_weights(read_spec(folder), folder)


def test_a_damaged_tensor_is_named(tmp_path: Path) -> None:
    folder, _ = quantise_folder(tmp_path, "gptq")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.2.mlp.down_proj.scales"
    tensors[name] = np.ascontiguousarray(tensors[name][:-1])
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"2\.mlp\.down_proj\.scales has shape \(3, 64\)"):
        load_weights(read_spec(folder), folder)


# ---- compressed-tensors, written and read back by its own package

INPUTS = {"num_bits": 8, "strategy": "token", "dynamic": True}
WRITTEN_BY_PACKAGE: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str | None]] = {
    "int4 groups": ({"num_bits": 4, "strategy": "group", "group_size": 32}, None, None),
    "int4 act-order": (
        {"num_bits": 4, "symmetric": False, "group_size": 32, "strategy": "group",
         "actorder": "group"}, None, None,
    ),
    "int4 columns": ({"num_bits": 4, "symmetric": False, "strategy": "channel"}, None, None),
    "int8 columns": ({"num_bits": 8, "strategy": "channel"}, None, None),
    "W8A8": ({"num_bits": 8, "strategy": "channel"}, INPUTS, None),
    "W8A8 free": ({"num_bits": 8, "symmetric": False, "strategy": "channel"}, INPUTS, None),
    "W4A8": ({"num_bits": 4, "strategy": "group", "group_size": 64}, INPUTS, None),
    "one scale": ({"num_bits": 8, "strategy": "tensor"}, None, "naive-quantized"),
    "naive": ({"num_bits": 4, "strategy": "group", "group_size": 32}, None, "naive-quantized"),
}  # fmt: skip


def compress(
    source: Path, folder: Path, name: str, ignore: list[str], targets: list[str]
) -> PreTrainedModel:
    """Quantise with the package's own classes, each scale from the range of its weights.

    Returns the model with its weights multiplied out again.
    """
    weights, inputs, form = WRITTEN_BY_PACKAGE[name]
    group: Any = {"targets": targets, "weights": weights, "input_activations": inputs}
    model = AutoModelForCausalLM.from_pretrained(source)
    apply_quantization_config(
        model, QuantizationConfig(config_groups={"group_0": group}, ignore=ignore)
    )
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            _set_scales(module, scheme.weights, generator)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=form)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    compressor.decompress_model(model)
    return model.eval()


def _set_scales(module: Any, args: Any, generator: torch.Generator) -> None:
    weight = module.weight.data
    if hasattr(module, "weight_g_idx"):
        order = torch.randperm(weight.shape[1], generator=generator)
        module.weight_g_idx.data[order] = (torch.arange(len(order)) // args.group_size).int()
        weight = weight[:, order]
    if args.strategy == "tensor":
        parts = weight.reshape(1, 1, -1)
    else:
        parts = weight.reshape(len(weight), -1, args.group_size or weight.shape[1])
    scales, zeros = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    module.weight_scale.data.copy_(scales.reshape(module.weight_scale.shape))
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data.copy_(zeros.reshape(module.weight_zero_point.shape))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind: make_random_model(
            tmp_path_factory.mktemp(kind), kind, vocab_size=304, intermediate_size=128
        )
        for kind in ("llama2", "qwen2")
    }


@pytest.mark.parametrize("kind", ["llama2", "qwen2"])
@pytest.mark.parametrize("name", WRITTEN_BY_PACKAGE)
def test_compressed_tensors(name: str, kind: str, sources: dict[str, Path], tmp_path: Path) -> None:
    """The head of llama2 is quantised too where it has whole groups; qwen2's is its embeddings."""
    tied = kind == "qwen2"
    ignore = ["lm_head", r"re:.*layers\.1\.mlp.*"] if tied else []
    folder = tmp_path / "model"
    compress(sources[kind], folder, name, ignore, ["Linear"])
    oracle = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=CompressedTensorsConfig(dequantize=True)
    ).eval()
    weights = load_weights(read_spec(folder), folder, "float32")
    assert (weights.tensors["head"] is weights.tensors["embeddings"]) == tied
    for layer, module in zip(weights.layers, oracle.model.layers, strict=True):
        for role, linear in (
            ("q", module.self_attn.q_proj), ("o", module.self_attn.o_proj),
            ("up", module.mlp.up_proj), ("down", module.mlp.down_proj),
        ):  # fmt: skip
            np.testing.assert_array_equal(layer[role], linear.weight.detach().numpy())
    if WRITTEN_BY_PACKAGE[name][1] is None:  # else the oracle rounds the activations too
        np.testing.assert_allclose(runner_logits(folder), oracle_logits(oracle), atol=1e-4)


def test_compressed_embeddings(sources: dict[str, Path], tmp_path: Path) -> None:
    """transformers cannot load such a folder; the model that wrote it is the oracle."""
    folder = tmp_path / "model"
    targets = ["Linear", "Embedding"]
    oracle = compress(sources["llama2"], folder, "int8 columns", ["lm_head"], targets)
    assert "model.embed_tokens.weight_packed" in load_file(folder / "model.safetensors")
    np.testing.assert_allclose(runner_logits(folder), oracle_logits(oracle), atol=1e-4)


def test_other_methods_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path, "llama2")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "quark"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"'quark'.*infer_backend: vllm"):
        read_spec(folder)
