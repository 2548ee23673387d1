"""From a folder's `config.json` to a `DecoderSpec`, by model_type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from quire.engines.native.models import (
    apertus,
    arcee,
    bailing_moe,
    bamba,
    bloom,
    cohere,
    cwm,
    deepseek,
    dots1,
    ernie4_5,
    ernie4_5_moe,
    exaone4,
    falcon,
    falcon_h1,
    flex_olmo,
    gemma,
    gemma2,
    gemma3,
    gemma3n,
    gemma4,
    glm,
    glm4_moe,
    glm4v,
    gpt2,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granite_hybrid,
    granite_moe,
    helium,
    hunyuan,
    hunyuan_moe,
    hyperclovax,
    internlm2,
    internlm3,
    kimi_linear,
    latent,
    lfm2,
    llama,
    llama4,
    llava,
    minicpm,
    minimax_m2,
    ministral3,
    mistral,
    mixtral,
    nemotron,
    nemotron_h,
    olmo,
    olmo_hybrid,
    olmoe,
    opt,
    phi,
    phi3,
    qwen2,
    qwen2_moe,
    qwen2_vl,
    qwen3,
    qwen3_5,
    qwen3_moe,
    qwen3_next,
    qwen3_vl,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
    telechat3,
    vaultgemma,
)
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import UnsupportedModelError
from quire.quantization.formats import read_quantization
from quire.weights.hub_config import LLAMA_NAMES, HubConfig, short


@dataclass(frozen=True, slots=True)
class ModelType:
    """A type of model that the native engine runs."""

    models: str
    """The models that have it, for people."""
    decoder: Callable[[HubConfig], DecoderSpec]
    """Reads its configs."""


DECODERS: dict[str, ModelType] = {
    "bailing_moe": ModelType("Ling 2.0", bailing_moe.decoder),
    "bailing_moe_v2": ModelType("Ling 2.0", bailing_moe.decoder),
    "apertus": ModelType("Apertus", apertus.decoder),
    "arcee": ModelType("Arcee's AFM", arcee.decoder),
    "bloom": ModelType("BLOOM, BLOOMZ", bloom.decoder),
    "cohere": ModelType("Command R, Command R+, Aya", cohere.decoder),
    "cohere2": ModelType("Command R7B, Command A", cohere.cohere2),
    "bamba": ModelType("Bamba", bamba.decoder),
    "cwm": ModelType("CWM", cwm.decoder),
    "deepseek_v2": ModelType("DeepSeek V2, V2-Lite, Coder V2", deepseek.v2),
    "deepseek_v3": ModelType("DeepSeek V3, R1, V3.1, Moonlight", deepseek.v3),
    "dots1": ModelType("dots.llm1", dots1.decoder),
    "ernie4_5": ModelType("ERNIE 4.5", ernie4_5.decoder),
    "ernie4_5_moe": ModelType("ERNIE 4.5 with experts", ernie4_5_moe.decoder),
    "exaone4": ModelType("EXAONE 4", exaone4.decoder),
    "exaone4_5": ModelType("EXAONE 4.5", exaone4.multimodal),
    "flex_olmo": ModelType("FlexOlmo", flex_olmo.decoder),
    "falcon": ModelType("Falcon 7B, 40B, 180B, 11B, RW", falcon.decoder),
    "falcon_h1": ModelType("Falcon-H1", falcon_h1.decoder),
    "gemma": ModelType("Gemma", gemma.decoder),
    "gemma2": ModelType("Gemma 2", gemma2.decoder),
    "gemma3": ModelType("Gemma 3", gemma3.multimodal),
    "gemma3_text": ModelType("Gemma 3, its text alone", gemma3.decoder),
    "gemma3n": ModelType("Gemma 3n", gemma3n.multimodal),
    "gemma3n_text": ModelType("Gemma 3n, its text alone", gemma3n.decoder),
    "gemma4": ModelType("Gemma 4, dense and with experts", gemma4.multimodal),
    "gemma4_text": ModelType("Gemma 4, its text alone", gemma4.decoder),
    "glm": ModelType("GLM-4", glm.decoder),
    "glm4": ModelType("GLM-4-0414", glm.with_post_norms),
    "glm4_moe": ModelType("GLM-4.5, GLM-4.6, GLM-4.5-Air", glm4_moe.decoder),
    "glm4_moe_lite": ModelType("GLM-4.7-Flash", deepseek.glm4_moe_lite),
    "glm4v": ModelType("GLM-4.1V", glm4v.multimodal),
    "glm4v_text": ModelType("GLM-4.1V, its text alone", glm4v.decoder),
    "gpt2": ModelType("GPT-2", gpt2.decoder),
    "gpt_neox": ModelType("GPT-NeoX, Pythia", gpt_neox.decoder),
    "gptj": ModelType("GPT-J", gptj.decoder),
    "gpt_oss": ModelType("gpt-oss", gpt_oss.decoder),
    "granite": ModelType("Granite 3", granite.decoder),
    "granitemoe": ModelType("Granite 3 with experts", granite_moe.decoder),
    "granitemoeshared": ModelType("Granite 3 with a shared expert", granite_moe.shared),
    "granitemoehybrid": ModelType("Granite 4 H", granite_hybrid.decoder),
    "helium": ModelType("Helium", helium.decoder),
    "hunyuan_v1_dense": ModelType("Hunyuan 0.5B to 7B, Hy-MT2", hunyuan.decoder),
    "hunyuan_v1_moe": ModelType("Hunyuan-A13B", hunyuan_moe.decoder),
    "hyperclovax": ModelType("HyperCLOVA X SEED", hyperclovax.decoder),
    "internlm2": ModelType("InternLM2, InternLM2.5", internlm2.decoder),
    "internlm3": ModelType("InternLM3", internlm3.decoder),
    "internvl": ModelType("InternVL 3 and 3.5, in transformers' form", llava.internvl),
    "kimi_k2": ModelType("Kimi K2", deepseek.v3),
    "lfm2": ModelType("LFM2, LFM2.5", lfm2.decoder),
    "lfm2_moe": ModelType("LFM2 with experts", lfm2.with_experts),
    "llama": ModelType(
        "Llama 2 to 3.3, Yi, SmolLM2 and whatever else has Llama's form", llama.decoder
    ),
    "llama4": ModelType("Llama 4", llama4.multimodal),
    "llama4_text": ModelType("Llama 4, its text alone", llama4.decoder),
    "llava": ModelType("LLaVA 1.5, Yi-VL", llava.llava),
    "mimo": ModelType("MiMo 7B", qwen2.decoder),
    "minicpm": ModelType("MiniCPM 1, 2 and 4", minicpm.decoder),
    "minicpm3": ModelType("MiniCPM 3", latent.minicpm3),
    "minimax_m2": ModelType("MiniMax-M2", minimax_m2.decoder),
    "ministral": ModelType("Ministral", mistral.ministral),
    "ministral3": ModelType("Ministral 3, its text alone", ministral3.decoder),
    "mistral": ModelType("Mistral", mistral.decoder),
    "mistral3": ModelType("Mistral Small 3, Ministral 3", mistral.multimodal),
    "mixtral": ModelType("Mixtral", mixtral.decoder),
    "kimi_linear": ModelType("Kimi Linear", kimi_linear.decoder),
    "nemotron_h": ModelType("Nemotron-H, Nemotron Nano 2, Nemotron 3", nemotron_h.decoder),
    "nemotron": ModelType("Nemotron-4, Minitron", nemotron.decoder),
    "olmo": ModelType("OLMo 1", olmo.olmo),
    "olmo2": ModelType("OLMo 2", olmo.olmo2),
    "olmo3": ModelType("OLMo 3", olmo.olmo3),
    "olmo_hybrid": ModelType("OLMo Hybrid", olmo_hybrid.decoder),
    "olmoe": ModelType("OLMoE", olmoe.decoder),
    "opt": ModelType("OPT", opt.decoder),
    "phi": ModelType("Phi-1, Phi-1.5, Phi-2", phi.decoder),
    "phi3": ModelType("Phi-3, Phi-3.5, Phi-4", phi3.decoder),
    "qwen2": ModelType("Qwen2, Qwen2.5", qwen2.decoder),
    "qwen2_5_vl": ModelType("Qwen2.5-VL", qwen2_vl.decoder),
    "qwen2_audio": ModelType("Qwen2-Audio", llava.qwen2_audio),
    "qwen2_moe": ModelType("Qwen1.5-MoE, Qwen2-MoE", qwen2_moe.decoder),
    "qwen2_vl": ModelType("Qwen2-VL", qwen2_vl.decoder),
    "qwen3": ModelType("Qwen3", qwen3.decoder),
    "qwen3_5": ModelType("Qwen3.5, Qwen3.6", qwen3_5.multimodal),
    "qwen3_5_moe": ModelType("Qwen3.5 and Qwen3.6 with experts", qwen3_5.sparse_multimodal),
    "qwen3_5_moe_text": ModelType(
        "Qwen3.5 and Qwen3.6 with experts, their text alone", qwen3_5.sparse_decoder
    ),
    "qwen3_5_text": ModelType("Qwen3.5 and Qwen3.6, their text alone", qwen3_5.decoder),
    "qwen3_moe": ModelType("Qwen3-MoE", qwen3_moe.decoder),
    "qwen3_next": ModelType("Qwen3-Next", qwen3_next.decoder),
    "qwen3_vl": ModelType("Qwen3-VL", qwen3_vl.multimodal),
    "qwen3_vl_moe": ModelType("Qwen3-VL with experts", qwen3_vl.sparse_multimodal),
    "qwen3_vl_moe_text": ModelType(
        "Qwen3-VL with experts, its text alone", qwen3_vl.sparse_decoder
    ),
    "qwen3_vl_text": ModelType("Qwen3-VL, its text alone", qwen3_vl.decoder),
    "seed_oss": ModelType("Seed-OSS", seed_oss.decoder),
    "smollm3": ModelType("SmolLM3", smollm3.decoder),
    "solar_open": ModelType("Solar Open", glm4_moe.solar_open),
    "stablelm": ModelType("StableLM", stablelm.decoder),
    "starcoder2": ModelType("StarCoder2", starcoder2.decoder),
    "telechat3": ModelType("TeleChat3", telechat3.decoder),
    "vaultgemma": ModelType("VaultGemma", vaultgemma.decoder),
    "youtu": ModelType("Youtu-LLM", latent.youtu),
}
"""By `model_type`. `python docs/model_table.py` writes the table of docs/models.md anew."""

_LONGEST = 100  # letters of a model_type that are compared: files may hold anything


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
    found = DECODERS.get(model_type) if isinstance(model_type, str) else None
    if found is None:
        raise UnsupportedModelError(
            f"{config.source}: model_type {_problem(model_type)}. The native engine runs "
            f"{', '.join(sorted(DECODERS))}; infer_backend: vllm may run others"
        )
    spec = replace(found.decoder(config), quantization=read_quantization(config, folder))
    if config.flag(LLAMA_NAMES):
        spec = spec.with_llama_names()
    return spec


def _problem(model_type: Any) -> str:
    """What is wrong with a model_type that is not known."""
    if model_type is None:
        return "is missing"
    near = get_close_matches(str(model_type)[:_LONGEST], DECODERS, n=1)
    nearest = f" (the nearest known is {near[0]})" if near else ""
    return f"{short(model_type)} is not known{nearest}"
