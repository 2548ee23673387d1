"""From a folder's `config.json` to a `DecoderSpec`, by model_type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quire.errors import UnsupportedModelError
from quire.native.models import llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe
from quire.native.models.config import HubConfig
from quire.native.models.spec import DecoderSpec

DECODERS: dict[str, Callable[[HubConfig], DecoderSpec]] = {
    "llama": llama.decoder,  # Yi too: its folders say llama
    "mistral": mistral.decoder,
    "mixtral": mixtral.decoder,
    "qwen2": qwen2.decoder,
    "qwen2_moe": qwen2_moe.decoder,
    "qwen3": qwen3.decoder,
    "qwen3_moe": qwen3_moe.decoder,
}


def read_spec(folder: Path | str) -> DecoderSpec:
    """The spec of the model in `folder`.

    Raises ModelNotFoundError (no such folder, no config.json), UnsupportedModelError (a model_type,
    a rope type, an activation or a quantisation that this engine does not run) or ModelError (a
    config.json that cannot be read or contradicts itself).
    """
    return spec_of(HubConfig.read(Path(folder)))


def spec_of(config: HubConfig) -> DecoderSpec:
    """The spec of a config that was read already; raises as `read_spec` does."""
    model_type = config.get("model_type")
    builder = DECODERS.get(model_type) if isinstance(model_type, str) else None
    if builder is None:
        said = "is missing" if model_type is None else f"{model_type!r} is not known"
        raise UnsupportedModelError(
            f"{config.source}: model_type {said}. The native engine runs "
            f"{', '.join(sorted(DECODERS))}; infer_backend: vllm may run others"
        )
    if "quantization_config" in config:
        raise UnsupportedModelError(
            f"{config.source}: the weights are quantised, which the native engine does not run. "
            "infer_backend: vllm may run this model"
        )
    return builder(config)
