"""What vLLM would run on here; a model over the devices of one machine; its number format on them."""

from __future__ import annotations

import json
import platform
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.vllm.devices import (
    Devices,
    choose_placement,
    choose_precision,
    find_devices,
)
from quire.engines.vllm.launch import import_vllm
from quire.errors import ConfigError, UnsupportedModelError
from quire.machine.cpus import instruction_sets
from tests.engines.vllm.facts import GIB, arguments, cpu, gpus, qwen

SIZES = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 16, 20, 24, 25, 28, 32, 40, 48, 64, 71])
AVX2 = ("avx2",)
AVX512 = ("avx2", "avx512f")
BF16 = ("avx2", "avx512f", "avx512_bf16")


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "fast", "avx512"),
    [
        (set(), False, False),
        ({"avx2"}, False, False),
        ({"avx512f"}, False, True),
        ({"avx512f", "avx512_bf16"}, True, True),
        ({"amx_bf16"}, True, False),
        ({"asimd", "bf16"}, True, False),
    ],
)
def test_what_a_cpu_can_do(features: set[str], fast: bool, avx512: bool) -> None:
    cpu = Devices("cpu", features=frozenset(features))
    assert cpu.is_cpu
    assert (cpu.fast_bfloat16, cpu.has_avx512) == (fast, avx512)
    assert not Devices("cuda", 2).is_cpu


def test_the_devices_of_the_installed_vllm() -> None:
    import_vllm()
    from vllm.platforms import current_platform

    found = find_devices()
    assert found.is_cpu == current_platform.is_cpu()
    assert found.count >= 1
    if found.is_cpu:
        assert found.features == instruction_sets()
        assert found.architecture == platform.machine()
        assert found.free_memory > 0


@pytest.mark.parametrize(("count", "expected"), [(8, 8), (1, 1), (0, 1)])
def test_devices_of_another_platform(
    monkeypatch: pytest.MonkeyPatch, count: int, expected: int
) -> None:
    import_vllm()
    import vllm.platforms

    class Eight:
        device_type = "xpu"
        cuda = False

        def is_cpu(self) -> bool:
            return False

        def is_cuda(self) -> bool:
            return self.cuda

        def device_count(self) -> int:
            return count

    monkeypatch.setattr(vllm.platforms, "_current_platform", Eight())
    assert find_devices() == Devices("xpu", expected)
    monkeypatch.setattr(Eight, "cuda", True)
    assert find_devices() == Devices("cuda", expected)


# --- placement -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vllm_takes() -> Any:
    """Whether vLLM's own checks pass for these heads and this tensor-parallel size."""
    import_vllm()
    from vllm.config.model import ModelConfig
    from vllm.distributed.utils import divide

    def check(heads: int, kv_heads: int, rows: int, size: int, layers: int = 1) -> None:
        model: Any = SimpleNamespace(
            model_arch_config=SimpleNamespace(total_num_attention_heads=heads),
            registry=SimpleNamespace(is_pp_supported_model=lambda *_: True),
            architectures=["LlamaForCausalLM"],
            multimodal_config=None,
        )
        parallel: Any = SimpleNamespace(
            enable_hc_sp=False,
            tensor_parallel_size=size,
            pipeline_parallel_size=layers,
            enable_expert_parallel=False,
            decode_context_parallel_size=1,
        )
        ModelConfig.verify_with_parallel_config(model, parallel)
        # QKVParallelLinear copies heads of keys and values where there are more devices than heads.
        divide(size, kv_heads) if size >= kv_heads else divide(kv_heads, size)
        divide(rows, size)

    return check


def offered(note: str) -> dict[str, int]:
    """The settings that a note offers."""
    found = re.search(r"vllm_config (\{.*?\})", note)
    return {} if found is None else json.loads(found[1])


@pytest.mark.parametrize(
    ("devices", "heads", "kv_heads", "size", "offer"),
    [
        (1, 28, 4, 1, {}),
        (2, 28, 4, 2, {}),
        (8, 28, 4, 4, {"data_parallel_size": 2}),
        (3, 28, 4, 2, {"tensor_parallel_size": 1, "pipeline_parallel_size": 3}),
        (6, 28, 4, 4, {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}),
        (5, 28, 4, 4, {"tensor_parallel_size": 1, "pipeline_parallel_size": 5}),
        (8, 64, 8, 8, {}),
        (8, 32, 2, 8, {}),
        (8, 14, 2, 2, {"data_parallel_size": 4}),
        (7, 12, 12, 6, {"tensor_parallel_size": 1, "pipeline_parallel_size": 7}),
    ],
)
def test_the_largest_size_that_divides(
    devices: int, heads: int, kv_heads: int, size: int, offer: dict[str, int]
) -> None:
    model = qwen(num_heads=heads, num_kv_heads=kv_heads, intermediate_size=0)
    placement = choose_placement(gpus(devices), model)
    assert placement.tensor_parallel_size == size
    assert offered(placement.note) == offer
    assert bool(placement.note) == (size != devices)


def test_the_note_says_what_is_left_over() -> None:
    placement = choose_placement(gpus(11), qwen())
    assert placement.tensor_parallel_size == 4
    assert "Of 11 devices 4 are used" in placement.note
    assert "28 attention heads (4 for keys and values)" in placement.note
    assert '{"data_parallel_size": 2}; 3 would still be idle' in placement.note


def test_feed_forward_rows_count_too() -> None:
    assert choose_placement(gpus(4), qwen(intermediate_size=18942)).tensor_parallel_size == 2


@given(st.integers(1, 16), SIZES, SIZES, st.sampled_from([0, 1, 768, 11008, 18944, 13824, 9999]))
@settings(deadline=None)
def test_vllm_takes_every_placement(
    vllm_takes: Any, devices: int, kv_heads: int, groups: int, rows: int
) -> None:
    heads = kv_heads * groups
    model = qwen(num_heads=heads, num_kv_heads=kv_heads, intermediate_size=rows)
    placement = choose_placement(gpus(devices), model)
    size = placement.tensor_parallel_size
    vllm_takes(heads, kv_heads, rows, size)
    for larger in range(size + 1, devices + 1):
        with pytest.raises((ValueError, AssertionError)):
            vllm_takes(heads, kv_heads, rows, larger)
    offer = {"tensor_parallel_size": size, **offered(placement.note)}
    width, layers = offer["tensor_parallel_size"], offer.get("pipeline_parallel_size", 1)
    vllm_takes(heads, kv_heads, rows, width, layers)
    used = width * layers * offer.get("data_parallel_size", 1)
    assert size <= used <= devices


# --- number formats ------------------------------------------------------------------------------


def test_gptq_is_float16_and_the_callers_arguments_stay() -> None:
    args = arguments()
    before = args.model_dump()
    precision = choose_precision(args, gpus(), qwen(quantization="gptq"))
    assert (precision.dtype, precision.quantization) == ("float16", None)
    assert "GPTQ" in precision.note
    assert args.infer_dtype == "auto"
    assert args.model_dump() == before


@pytest.mark.parametrize(
    "method", ["awq", "fp8", "compressed-tensors", "bitsandbytes", "mxfp4", "modelopt", "gguf"]
)
def test_other_formats_are_let_through_on_gpus(method: str) -> None:
    precision = choose_precision(arguments(), gpus(2), qwen(quantization=method))
    assert (precision.dtype, precision.quantization, precision.element_bytes) == ("auto", None, 2)


@pytest.mark.parametrize("wanted", ["float16", "bfloat16", "float32"])
def test_what_the_user_asks_for_is_taken(wanted: str) -> None:
    for machine in (gpus(), cpu(*AVX2), cpu(*BF16)):
        model = qwen(quantization=None if machine.is_cpu else "gptq")
        precision = choose_precision(arguments(infer_dtype=wanted), machine, model)
        assert (precision.dtype, precision.note) == (wanted, "")
        assert precision.element_bytes == (4 if wanted == "float32" else 2)


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_that_multiplies_bfloat16_gets_it(feature: str) -> None:
    precision = choose_precision(arguments(), cpu("avx2", feature), qwen())
    assert (precision.dtype, precision.element_bytes) == ("bfloat16", 2)


def test_other_cpus_get_float32() -> None:
    precision = choose_precision(arguments(), cpu(*AVX512), qwen())
    assert (precision.dtype, precision.element_bytes) == ("float32", 4)


@pytest.mark.parametrize(
    ("stored", "weights", "dtype"),
    [
        ("bfloat16", 6, "float32"),  # 12 of 16 GiB
        ("bfloat16", 7, "auto"),  # 14 of 16 GiB
        ("float32", 12, "float32"),  # as large as the files
        ("float32", 13, "auto"),
    ],
)
def test_float32_only_where_the_weights_fit(stored: str, weights: int, dtype: str) -> None:
    model = qwen(weight_dtype=stored, weight_bytes=weights * GIB)
    assert choose_precision(arguments(), cpu(*AVX2), model).dtype == dtype


@pytest.mark.parametrize("method", ["gptq", "awq", "gptq_marlin", "awq_marlin", "auto-round"])
def test_kernels_that_need_avx512(method: str) -> None:
    model = qwen(quantization=method)
    with pytest.raises(UnsupportedModelError, match=rf"{method}.*AVX-512"):
        choose_precision(arguments(), cpu(*AVX2), model)
    choose_precision(arguments(), cpu(*AVX512), model)
    choose_precision(arguments(), cpu("asimd", architecture="aarch64"), model)


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "aqlm", "exl2", "mxfp4", "modelopt"])
def test_formats_of_gpus_alone(method: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{method}.*GPUs only"):
        choose_precision(arguments(), cpu(*BF16), qwen(quantization=method))


@pytest.mark.parametrize("method", ["fp8", "compressed-tensors"])
def test_formats_that_vllm_may_run_on_cpus(method: str) -> None:
    assert choose_precision(arguments(), cpu(*BF16), qwen(quantization=method)).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("method", "bits", "name"), [("bnb", 4, "bitsandbytes"), ("fp8", 8, "fp8")]
)
def test_quantisation_while_loading(method: str, bits: int, name: str) -> None:
    args = arguments(quantization_bit=bits, quantization_method=method)
    assert choose_precision(args, gpus(), qwen()).quantization == name
    with pytest.raises(ConfigError, match="needs a GPU"):
        choose_precision(args, cpu(*BF16), qwen())


@pytest.mark.parametrize(("method", "bits"), [("bnb", 8), ("gptq", 4), ("fp8", 4), ("hqq", 4)])
def test_what_vllm_cannot_quantise_is_refused(method: str, bits: int) -> None:
    args = arguments(quantization_bit=bits, quantization_method=method)
    with pytest.raises(ConfigError, match=rf"quantization_bit {bits}.*{method}"):
        choose_precision(args, gpus(), qwen())
