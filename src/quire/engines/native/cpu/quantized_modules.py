"""A tensor of the model out of the tensors of a quantised module."""

from __future__ import annotations

from collections.abc import Callable

from quire.engines.native.models.spec import TensorSpec
from quire.errors import WeightsError
from quire.quantization import awq, compressed_tensors, gptq
from quire.quantization.quantized import QuantizedMatrix
from quire.quantization.schemes import Layout, ModuleScheme, Quantization
from quire.quantization.stored import ModuleTensors, TensorSource

_Reader = Callable[[ModuleTensors, tuple[int, int], ModuleScheme], QuantizedMatrix]

# layout: the tensor that holds the numbers, and what reads it.
_LAYOUTS: dict[Layout, tuple[str, _Reader]] = {
    "gptq": ("qweight", gptq.read),
    "gptq_v2": ("qweight", gptq.read),
    "awq": ("qweight", awq.read),
    "packed": ("weight_packed", compressed_tensors.read),
    "integers": ("weight", compressed_tensors.read),
}


def read_quantized(
    source: TensorSource, tensor: TensorSpec, quantization: Quantization | None
) -> QuantizedMatrix | None:
    """The matrix that `tensor` names; None where the folder holds it in full precision.

    A module that the settings would have quantised may be plain in the folder (writers skip some,
    the head above all). Raises WeightsError where the settings leave a module in full precision
    that the folder has in numbers alone, and where a tensor is missing or not as it must be.
    """
    if len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
        return None
    module = tensor.name.removesuffix(".weight")
    kind = "Embedding" if tensor.role == "embeddings" else "Linear"
    scheme = quantization.scheme_of(module, kind) if quantization is not None else None
    tensors = ModuleTensors(source, module)
    if scheme is None:
        _check_plain(tensors, quantization)
        return None
    part, read = _LAYOUTS[scheme.layout]
    if part not in tensors or (part == "weight" and tensors.type_of(part) != "I8"):
        return None
    columns, depth = tensor.shape
    return read(tensors, (columns, depth), scheme)


def _check_plain(tensors: ModuleTensors, quantization: Quantization | None) -> None:
    if "weight" in tensors:
        return
    for part in ("qweight", "weight_packed"):
        if part in tensors:
            where = quantization.source if quantization is not None else "config.json"
            said = "leaves this module in full precision" if quantization else "says nothing of it"
            raise WeightsError(
                f"The folder holds {tensors.name(part)}, quantised, and no {tensors.name('weight')}; "
                f"{where} {said}. Copy config.json and quantize_config.json of the same model again"
            )
