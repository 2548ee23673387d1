"""The number format that a model is run in, and what a device cannot run."""

from __future__ import annotations

from dataclasses import dataclass

from quire.arguments import ModelArguments
from quire.engines.vllm.devices import Devices
from quire.engines.vllm.model_facts import ModelFacts
from quire.errors import ConfigError, UnsupportedModelError

_IN_FLIGHT = {("bnb", 4): "bitsandbytes", ("fp8", 8): "fp8"}
"""What vLLM quantises while it loads, by LLaMA-Factory's method and bits."""

_NEED_AVX512 = {"gptq", "awq", "gptq_marlin", "awq_marlin", "auto-round"}
"""On x86 CPUs vLLM loads these without AVX-512 too, and dies at the first step."""

_NEED_GPU = {"bitsandbytes", "hqq", "aqlm", "quip", "exl2", "eetq", "mxfp4", "modelopt"}


@dataclass(frozen=True, slots=True)
class Precision:
    """vLLM's `dtype` and `quantization`, bytes of an element of the KV cache, and why."""

    dtype: str
    quantization: str | None
    element_bytes: int
    note: str = ""


def choose_precision(args: ModelArguments, devices: Devices, model: ModelFacts) -> Precision:
    """Choose by the model's own format, the device, and what the user asked for.

    Raises:
        ConfigError: `quantization_bit` in a form that vLLM does not take.
        UnsupportedModelError: weights in a format that this device cannot run.
    """
    quantization = _in_flight(args, devices)
    _check_device(model.quantization, devices)
    dtype, note = _dtype(args.infer_dtype, devices, model)
    full = dtype == "float32" or (dtype == "auto" and model.weight_dtype == "float64")
    return Precision(dtype, quantization, 4 if full else 2, note)


def _dtype(wanted: str, devices: Devices, model: ModelFacts) -> tuple[str, str]:
    if wanted != "auto":
        return wanted, ""
    if not devices.is_cpu:
        if model.quantization == "gptq":
            return "float16", "float16, which GPTQ's kernels are made for"
        return "auto", ""
    if devices.fast_bfloat16:
        return "bfloat16", "bfloat16, which this CPU multiplies by itself"
    needed = model.weight_bytes * (1 if model.weight_dtype == "float32" else 2)
    if model.quantization is None and needed > 0.8 * devices.free_memory:
        return "auto", "the weights' own format, since they would not fit the memory as float32"
    return "float32", "float32, since this CPU has no instructions for bfloat16"


def _in_flight(args: ModelArguments, devices: Devices) -> str | None:
    """What `quantization_bit` and `quantization_method` ask vLLM to do while loading."""
    if args.quantization_bit is None:
        return None
    wanted = (args.quantization_method, args.quantization_bit)
    if wanted not in _IN_FLIGHT:
        raise ConfigError(
            f"quantization_bit {args.quantization_bit} with quantization_method "
            f"{args.quantization_method} cannot be done by vLLM while it loads: it takes bnb with 4 "
            "bits and fp8 with 8 bits. Or use a folder with weights quantised before."
        )
    if devices.is_cpu:
        raise ConfigError(
            "quantization_bit needs a GPU with vLLM; on a CPU use a folder with weights quantised "
            "before, or infer_backend: native."
        )
    return _IN_FLIGHT[wanted]


def _check_device(quantization: str | None, devices: Devices) -> None:
    if quantization is None or not devices.is_cpu:
        return
    on_x86 = devices.architecture.lower() in ("x86_64", "amd64")
    if quantization in _NEED_AVX512 and on_x86 and not devices.has_avx512:
        raise UnsupportedModelError(
            f"The weights are quantised with {quantization}, whose kernels in vLLM need AVX-512; "
            "this CPU has none. Use the model before quantisation, or a GPU."
        )
    if quantization in _NEED_GPU:
        raise UnsupportedModelError(
            f"The weights are quantised with {quantization}, which vLLM runs on GPUs only. Use the "
            "model before quantisation, or a GPU."
        )
