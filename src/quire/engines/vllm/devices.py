"""The devices that vLLM runs on, and how a model is placed on them: number format, parallel sizes.

Only `find_devices` imports vLLM.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from quire.arguments import ModelArguments
from quire.engines.vllm.model_facts import ModelFacts
from quire.errors import ConfigError, UnsupportedModelError
from quire.machine.cpus import instruction_sets
from quire.machine.memory import available_memory

_ON_LOAD = {("bnb", 4): "bitsandbytes", ("fp8", 8): "fp8"}
"""vLLM's name for what it can quantise while it loads, by LLaMA-Factory's method and bits."""

_NEED_AVX512 = {"gptq", "awq", "gptq_marlin", "awq_marlin", "auto-round"}
"""Methods that vLLM loads on an x86 CPU without AVX-512 as well, where its first step then crashes."""

_NEED_GPU = {"bitsandbytes", "hqq", "aqlm", "quip", "exl2", "eetq", "mxfp4", "modelopt"}
"""Methods that vLLM runs on GPUs only."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices that vLLM would use.

    Attributes:
        kind: "cuda", "cpu", or vLLM's name for another platform.
        count: how many there are; 1 for a CPU.
        features: instruction sets of the CPU, where that is the device.
        free_memory: bytes of the machine's memory, where a CPU is the device.
        architecture: of the CPU, as `platform.machine` names it.
    """

    kind: str
    count: int = 1
    features: frozenset[str] = frozenset()
    free_memory: int = 0
    architecture: str = "x86_64"

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def fast_bfloat16(self) -> bool:
        """Whether the CPU has instructions for bfloat16; without them float32 is faster."""
        return bool(self.features & {"avx512_bf16", "amx_bf16", "bf16"})

    @property
    def has_avx512(self) -> bool:
        return "avx512f" in self.features


def find_devices() -> Devices:
    """Ask vLLM for its platform, and the platform for its devices.

    No device's runtime is initialised, since vLLM cannot fork its processes once CUDA is.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return Devices("cpu", 1, instruction_sets(), available_memory(), platform.machine())
    kind = "cuda" if current_platform.is_cuda() else str(current_platform.device_type)
    count: Any = current_platform.device_count  # typed as optional: not every platform counts
    return Devices(kind, max(1, int(count())))


# --- number format -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Precision:
    """vLLM's `dtype` and `quantization`, and what follows from them."""

    dtype: str
    quantization: str | None
    element_bytes: int
    """Bytes of one element of the KV cache."""
    note: str = ""
    """Why this dtype was chosen, for the log; empty where the user or vLLM chooses."""


def choose_precision(args: ModelArguments, devices: Devices, model: ModelFacts) -> Precision:
    """Choose the number format from the model's own, the device, and the user's arguments.

    Raises:
        ConfigError: `quantization_bit` asks for something that vLLM cannot do while it loads.
        UnsupportedModelError: this device cannot run the weights' format.
    """
    quantization = _quantization_on_load(args, devices)
    _check_device(model.quantization, devices)
    dtype, note = _dtype(args.infer_dtype, devices, model)
    full = dtype == "float32" or (dtype == "auto" and model.weight_dtype == "float64")
    return Precision(dtype, quantization, 4 if full else 2, note)


def _dtype(wanted: str, devices: Devices, model: ModelFacts) -> tuple[str, str]:
    if wanted != "auto":
        return wanted, ""
    if not devices.is_cpu:
        if model.quantization == "gptq":
            return "float16", "float16, the only dtype of GPTQ's kernels"
        return "auto", ""
    if devices.fast_bfloat16:
        return "bfloat16", "bfloat16, for which this CPU has instructions"
    needed = model.weight_bytes * (1 if model.weight_dtype == "float32" else 2)
    if model.quantization is None and needed > 0.8 * devices.free_memory:
        return "auto", "the weights' own format, since they would not fit in memory as float32"
    return "float32", "float32, since this CPU has no instructions for bfloat16"


def _quantization_on_load(args: ModelArguments, devices: Devices) -> str | None:
    """vLLM's `quantization` for the user's `quantization_bit` and `quantization_method`."""
    if args.quantization_bit is None:
        return None
    wanted = (args.quantization_method, args.quantization_bit)
    if wanted not in _ON_LOAD:
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
    return _ON_LOAD[wanted]


def _check_device(quantization: str | None, devices: Devices) -> None:
    if quantization is None or not devices.is_cpu:
        return
    on_x86 = devices.architecture.lower() in ("x86_64", "amd64")
    if quantization in _NEED_AVX512 and on_x86 and not devices.has_avx512:
        raise UnsupportedModelError(
            f"The weights are quantised with {quantization}, whose kernels in vLLM need AVX-512; "
            "this CPU has none. Use the model before quantisation, or a GPU."
        )
    if quantization == "gguf":
        raise UnsupportedModelError(
            "vLLM reads GGUF files through its plug-in vllm-gguf-plugin, which runs on GPUs only. On a "
            "CPU the native engine runs them: infer_backend: native."
        )
    if quantization in _NEED_GPU:
        raise UnsupportedModelError(
            f"The weights are quantised with {quantization}, which vLLM runs on GPUs only. Use the "
            "model before quantisation, or a GPU."
        )


# --- parallel sizes ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is spread over the devices of one machine."""

    tensor_parallel_size: int
    note: str = ""
    """Which settings would use the devices that are left over; empty where all are used."""


def choose_placement(devices: Devices, model: ModelFacts) -> Placement:
    """Choose the largest number of devices that divides the model evenly."""
    sizes = [size for size in range(1, devices.count + 1) if _divides(size, model)]
    size = max(sizes, default=1)
    left = devices.count - size
    if not left:
        return Placement(size)
    replicas = devices.count // size
    note = (
        f"Of {devices.count} devices {size} are used: a larger number does not divide the model's "
        f"{model.num_heads} attention heads ({model.num_kv_heads} for keys and values). "
    )
    if replicas > 1:
        idle = devices.count - replicas * size
        rest = f"; {idle} would still be idle" if idle else ""
        note += (
            f"To use more, run {replicas} copies side by side: vllm_config "
            f'{{"data_parallel_size": {replicas}}}{rest}.'
        )
    else:
        width = max(size for size in sizes if devices.count % size == 0)
        note += (
            f"To use the other {left} too, split the layers: vllm_config "
            f'{{"tensor_parallel_size": {width}, '
            f'"pipeline_parallel_size": {devices.count // width}}}.'
        )
    return Placement(size, note)


def _divides(size: int, model: ModelFacts) -> bool:
    """Whether vLLM can run this model with a tensor-parallel size of `size`.

    Attention heads and feed-forward rows must divide evenly. Heads of keys and values must too, or,
    where there are fewer of them than devices, each is copied to the same number of devices.
    """
    heads, kv_heads = model.num_heads, model.num_kv_heads
    return (
        heads % size == 0
        and (kv_heads % size == 0 or size % max(kv_heads, 1) == 0)
        and model.intermediate_size % size == 0
    )
