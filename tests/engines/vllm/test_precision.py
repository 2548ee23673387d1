"""The number format by model and device, and what a device cannot run."""

from __future__ import annotations

import pytest

from quire.engines.vllm.devices import choose_precision
from quire.errors import ConfigError, UnsupportedModelError
from tests.engines.vllm.facts import GIB, arguments, cpu, gpus, qwen

AVX2 = ("avx2",)
AVX512 = ("avx2", "avx512f")
BF16 = ("avx2", "avx512f", "avx512_bf16")


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
    for devices in (gpus(), cpu(*AVX2), cpu(*BF16)):
        model = qwen(quantization=None if devices.is_cpu else "gptq")
        precision = choose_precision(arguments(infer_dtype=wanted), devices, model)
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
