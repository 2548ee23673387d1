"""From a folder's `config.json` to a `DecoderSpec`, by model_type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from quire.engines.native.models import (
    gemma,
    gemma2,
    gemma3,
    glm,
    granite,
    internlm2,
    latent,
    llama,
    llava,
    mistral,
    mixtral,
    olmo,
    olmoe,
    phi3,
    qwen2,
    qwen2_moe,
    qwen2_vl,
    qwen3,
    qwen3_moe,
    smollm3,
)
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import UnsupportedModelError
from quire.quantization.formats import read_quantization
from quire.weights.hub_config import HubConfig, short

DECODERS: dict[str, Callable[[HubConfig], DecoderSpec]] = {
    "gemma": gemma.decoder,
    "gemma2": gemma2.decoder,
    "gemma3": gemma3.multimodal,
    "gemma3_text": gemma3.decoder,
    "glm": glm.decoder,
    "glm4": glm.with_post_norms,
    "granite": granite.decoder,
    "internlm2": internlm2.decoder,
    "llama": llama.decoder,  # Yi too: its configs say llama
    "llava": llava.llava,  # Yi-VL too
    "minicpm3": latent.minicpm3,
    "ministral": mistral.ministral,
    "mistral": mistral.decoder,
    "mistral3": mistral.multimodal,
    "mixtral": mixtral.decoder,
    "olmo2": olmo.olmo2,
    "olmo3": olmo.olmo3,
    "olmoe": olmoe.decoder,
    "phi3": phi3.decoder,  # Phi-4 too
    "qwen2": qwen2.decoder,
    "qwen2_5_vl": qwen2_vl.decoder,
    "qwen2_audio": llava.qwen2_audio,
    "qwen2_moe": qwen2_moe.decoder,
    "qwen2_vl": qwen2_vl.decoder,
    "qwen3": qwen3.decoder,
    "qwen3_moe": qwen3_moe.decoder,
    "smollm3": smollm3.decoder,
    "youtu": latent.youtu,
}


def read_spec(folder: Path | str) -> DecoderSpec:
    """The spec of the model in `folder`.

    Raises:
        ModelNotFoundError: there is no such folder, or no config.json in it.
        UnsupportedModelError: the native engine does not run this model_type, or this rotary
            embedding, activation or quantisation.
        ModelError: config.json cannot be read, or contradicts itself.
    """
    folder = Path(folder)
    return spec_of(HubConfig.read(folder), folder)


def spec_of(config: HubConfig, folder: Path | None = None) -> DecoderSpec:
    """The spec of a config that was read already; raises what `read_spec` raises.

    Old folders have their quantisation settings in a file of their own, which is looked for in
    `folder`.
    """
    model_type = config.get("model_type")
    builder = DECODERS.get(model_type) if isinstance(model_type, str) else None
    if builder is None:
        problem = "is missing" if model_type is None else f"{short(model_type)} is not known"
        raise UnsupportedModelError(
            f"{config.source}: model_type {problem}. The native engine runs "
            f"{', '.join(sorted(DECODERS))}; infer_backend: vllm may run others"
        )
    return replace(builder(config), quantization=read_quantization(config, folder))
