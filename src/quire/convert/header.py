"""The metadata of a model's GGUF file, by the architectures that llama.cpp has.

A file says less than a folder's `config.json`: much stands in llama.cpp's code. So what is written is
read again as any file is, and a model that would then be another one is refused (`check_header`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quire.convert.merging import MergedFolder
from quire.convert.mixers import delta_net_keys, latent_keys, without_form
from quire.engines.native.models.layers.delta_net import DeltaNetSpec
from quire.engines.native.models.layers.experts import Scores
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec, Mamba2Spec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.layers.short_conv import ShortConvSpec
from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.rope import inverse_frequencies
from quire.engines.native.models.spec import DecoderSpec, RopeSpec
from quire.errors import UnsupportedModelError
from quire.gguf.architectures.declaration import Architecture
from quire.gguf.architectures.table import ARCHITECTURES
from quire.gguf.config.classic import eps_key
from quire.gguf.config.experts import FAMILIES, SIGMOID, SOFTMAX, ExpertFamily
from quire.gguf.config.reading import config_of
from quire.gguf.reader import GgufFile
from quire.gguf.writer import Written
from quire.weights.folder import read_json
from quire.weights.hub.cache import naming_path
from quire.weights.hub_config import HubConfig, short

logger = logging.getLogger("quire")

FILE_TYPES: Final[Mapping[str, int]] = {"f32": 0, "f16": 1, "q8_0": 7, "q4_k_m": 15, "bf16": 32}
"""The types of whole files, and llama.cpp's numbers for them."""
BLOCKS_VERSION = 2
"""Of the blocks of quantised types, since 2023."""
_OF_TYPES: Final[Mapping[str, Architecture]] = {
    model_type: architecture
    for architecture in ARCHITECTURES.values()
    if architecture.is_written
    for model_type in architecture.model_types
}
_QWEN3_5_SECTIONS: Final = (11, 11, 10)  # where the config names none
_WITH_BETAS: Final = ("mistral3",)
"""The architectures for which llama.cpp reads YaRN's two betas."""
_SAME_ANGLES = 2e-6  # of a frequency: a file has divisors of frequencies, in float32


def architecture_for(folder: Path, model_type: str) -> Architecture:
    """llama.cpp's architecture for a folder's model_type.

    Raises:
        UnsupportedModelError: it has none that quire writes.
    """
    found = _OF_TYPES.get(model_type)
    if found is None:
        raise UnsupportedModelError(
            f"{folder}: quire writes no GGUF file of the model_type {short(model_type)}. It does so for "
            f"{', '.join(sorted(_OF_TYPES))}"
        )
    return found


def header_of(
    spec: DecoderSpec, architecture: Architecture, folder: Path, file_type: str
) -> dict[str, Written]:
    """The metadata of the model in a folder, without that of its tokenizer.

    Raises:
        UnsupportedModelError: llama.cpp does not compute something that the model has.
    """
    keys: dict[str, Written | None] = {
        "block_count": spec.num_layers,
        "context_length": _context(folder, spec),
        "embedding_length": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "attention.head_count": spec.num_heads,
        "attention.head_count_kv": _kv_heads(spec),
        "attention.key_length": spec.head_dim,
        "attention.value_length": spec.head_dim,
        eps_key(architecture): float(spec.norm_eps),
        "n_deepstack_layers": _deepstack_layers(folder, architecture),
        "rope.dimension_sections": _sections(folder, architecture),
        **_ffn(spec, architecture),
        **_windows(spec, architecture),
        **(_rope(spec, architecture) if spec.has_rope or architecture.mixer else {}),
        **_scales(spec, architecture),
        **_of_old_kind(spec, architecture),
        **_mixer(spec),
    }
    return {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.name": naming_path(folder.absolute()).name,
        "general.file_type": FILE_TYPES[file_type],
        "general.quantization_version": BLOCKS_VERSION,
        **{f"{architecture.name}.{key}": value for key, value in keys.items() if value is not None},
    }


def _of_old_kind(spec: DecoderSpec, architecture: Architecture) -> dict[str, Written | None]:
    keys: dict[str, Written | None] = {}
    if architecture.name in ("command-r", "cohere2"):
        keys["logit_scale"] = float(spec.logits_scale)
    if architecture.name in ("gptneox", "stablelm"):
        keys["use_parallel_residual"] = spec.parallel
    if spec.qkv_clip:
        keys["attention.clamp_kqv"] = float(spec.qkv_clip)
    return keys


def xielu_keys(spec: DecoderSpec, source: MergedFolder) -> dict[str, Written]:
    """The numbers of Apertus' activation in each layer, which llama.cpp has in the metadata."""
    keys: dict[str, list[float]] = {}
    for layer in range(spec.num_layers):
        for tensor in spec.layer_tensors(layer):
            if tensor.role.startswith("xielu_"):
                key = tensor.role.replace("_", ".", 1)
                keys.setdefault(key, []).append(float(source.rows(tensor, np.arange(1))[0]))
    return {key: np.array(values, np.float32) for key, values in keys.items()}


def _kv_heads(spec: DecoderSpec) -> Written:
    """The heads of keys; if some layers have no attention, a list with 0 for these."""
    if not spec.mixers:
        return spec.num_kv_heads
    heads = [0 if one and not one.attends else spec.num_kv_heads for one in spec.mixers]
    return np.array(heads, np.int32) if 0 in heads else spec.num_kv_heads


def _mixer(spec: DecoderSpec) -> dict[str, Written | None]:
    """What layers have in place of attention; they are all of one kind."""
    mixer = next((one for one in spec.mixers if one), None)
    if isinstance(mixer, ShortConvSpec):
        return {"shortconv.l_cache": mixer.width}
    if isinstance(mixer, AttentionAndMamba2Spec):
        return _mamba2(mixer.mamba)
    if isinstance(mixer, DeltaNetSpec):
        recurrent = [one is not None for one in spec.mixers]
        return {**delta_net_keys(mixer, recurrent, spec.num_kv_heads)}
    if isinstance(mixer, LatentAttentionSpec):
        return {**latent_keys(mixer), **_dense_latent(spec)}
    if not isinstance(mixer, Mamba2Spec):
        return {}
    dense = {} if spec.experts else {"expert_shared_feed_forward_length": spec.ffn_size}
    return {**_mamba2(mixer), **dense, "rope.scaling.finetuned": not spec.no_rope}


def _dense_latent(spec: DecoderSpec) -> dict[str, Written | None]:
    """llama.cpp's architecture has experts: of a model without, all layers come before the first sparse one."""
    if spec.experts is not None:
        return {}
    return {
        "leading_dense_block_count": spec.num_layers,
        "expert_feed_forward_length": spec.ffn_size,
        "expert_shared_count": 0,
    }


def _mamba2(mixer: Mamba2Spec) -> dict[str, Written | None]:
    return {
        "ssm.conv_kernel": mixer.width,
        "ssm.inner_size": mixer.inner,
        "ssm.state_size": mixer.state_size,
        "ssm.time_step_rank": mixer.heads,
        "ssm.group_count": mixer.groups,
    }


def _context(folder: Path, spec: DecoderSpec) -> int:
    """The config's own context, which YaRN may stretch."""
    config = read_json(folder, "config.json")
    own: Any = {**config, **(config.get("text_config") or {})}.get("max_position_embeddings")
    has_own = isinstance(own, int) and spec.has_rope  # others may have it under another key
    return own if has_own else spec.max_positions


def _deepstack_layers(folder: Path, architecture: Architecture) -> int | None:
    """How many layers of Qwen3-VL's text take features of the tower, which is in another file."""
    if architecture.name != "qwen3vl":
        return None
    vision: dict[str, Any] = read_json(folder, "config.json").get("vision_config") or {}
    return len(vision.get("deepstack_visual_indexes") or ())


def _sections(folder: Path, architecture: Architecture) -> Written | None:
    """M-RoPE's sections of Qwen3.5, which llama.cpp asks for, though a text is the same with any."""
    if not architecture.tiled_values:
        return None
    config = read_json(folder, "config.json")
    text: dict[str, Any] = config.get("text_config") or config
    rope: dict[str, Any] = text.get("rope_parameters") or {}
    sections: Sequence[int] = rope.get("mrope_section") or _QWEN3_5_SECTIONS
    return np.array([*sections, 0, 0, 0, 0][:4], np.int32)


def _ffn(spec: DecoderSpec, architecture: Architecture) -> dict[str, Written | None]:
    experts = spec.experts
    if experts is None:
        return {"feed_forward_length": spec.ffn_size}
    # A folder of the type that files are read as has the keys that a file may have.
    family = FAMILIES["mixtral" if spec.model_type == "mixtral" else architecture.model_type]
    router = experts.router
    first, step = _pattern(experts.sparse)
    if (first and not family.first_sparse) or (step > 1 and not family.step):
        raise UnsupportedModelError(
            "The model has experts in some layers and one FFN in others, which llama.cpp does not "
            "compute for it: it cannot be written as GGUF"
        )
    shared = experts.shared_size
    counts_shared = bool(family.shared_count)
    keys: dict[str, Written | None] = {
        "feed_forward_length": spec.ffn_size,
        "expert_count": experts.count,
        "expert_used_count": experts.per_token,
        "expert_feed_forward_length": None if spec.model_type == "mixtral" else experts.ffn_size,
        "expert_shared_count": shared // experts.ffn_size if counts_shared else None,
        "expert_shared_feed_forward_length": (
            _shared_width(spec, architecture) if shared else None
        ),
        "expert_gating_func": _gating(router.scores, family),
        "leading_dense_block_count": first if family.first_sparse else None,
        "interleave_moe_layer_step": step if family.step else None,
    }
    if family.grouped:
        keys |= {
            "expert_weights_norm": router.normalised,
            "expert_weights_scale": router.scale,
            "expert_group_count": router.groups,
            "expert_group_used_count": router.chosen_groups,
        }
    return keys


def _gating(scores: Scores, family: ExpertFamily) -> int | None:
    """How the router's logits become scores, where llama.cpp does not take it for granted."""
    if scores == "sigmoid":
        return SIGMOID
    return SOFTMAX if family.gating == SIGMOID else None


def _pattern(sparse: Sequence[bool]) -> tuple[int, int]:
    """The first sparse layer, or the one from which on every so many layers are; and that number."""
    layers = [layer for layer, one in enumerate(sparse) if one]
    step = layers[1] - layers[0] if len(layers) > 1 else 1
    # The layers before it are dense also where the step would make one of them sparse.
    first = layers[0] - step + 1
    return max(first, 0), step


def _shared_width(spec: DecoderSpec, architecture: Architecture) -> int:
    """llama.cpp multiplies that of Ling by the number of shared experts."""
    assert spec.experts is not None
    is_ling = architecture.name == "bailingmoe2"
    return spec.experts.ffn_size if is_ling else spec.experts.shared_size


def _windows(spec: DecoderSpec, architecture: Architecture) -> dict[str, Written | None]:
    window = max(spec.windows)
    if architecture.windows == "none":
        return {}
    keys: dict[str, Written | None] = {"attention.sliding_window": window}
    if architecture.windows == "all":
        return {} if spec.model_type in ("llama", "internlm3") else keys
    listed = [bool(one) for one in spec.windows]
    usual = [bool((layer + 1) % architecture.pattern) for layer in range(spec.num_layers)]
    if window and (architecture.name in ("olmo2", "exaone4") or listed != usual):
        keys["attention.sliding_window_pattern"] = np.array(listed)
    return keys if window or architecture.window else {}


def _scales(spec: DecoderSpec, architecture: Architecture) -> dict[str, Written | None]:
    keys: dict[str, Written | None] = {}
    caps = {
        "attn_logit_softcapping": spec.attention_cap,
        "final_logit_softcapping": spec.logits_cap,
    }
    for key, cap in caps.items():
        if cap or key in architecture.caps:
            keys[key] = float(cap)
    if architecture.name in ("granite", "granitemoe", "granitehybrid"):
        keys["attention.scale"] = float(spec.attention_scale)
    if architecture.grows_queries and spec.query_scale:
        keys["attention.temperature_scale"] = spec.query_scale.beta
    if architecture.scales:
        keys |= {
            "embedding_scale": float(spec.embedding_scale),
            "residual_scale": float(spec.residual_scale),
            "logit_scale": 1 / spec.logits_scale,
        }
    return keys


# ---- rotary embeddings


def _rope(spec: DecoderSpec, architecture: Architecture) -> dict[str, Written | None]:
    rope, local = spec.rope, spec.local_rope
    if rope.kind == "dynamic":
        raise UnsupportedModelError(
            "The model scales its rotary embedding by the kind 'dynamic', which llama.cpp does not "
            "compute: it cannot be written as GGUF"
        )
    keys: dict[str, Written | None] = {
        "rope.freq_base": float(rope.theta),
        "rope.freq_base_swa": float(local.theta) if local else None,
        "rope.dimension_count": spec.rotary_dim,
    }
    if rope.sections:
        sections = [*rope.sections, 0, 0, 0, 0]
        keys["rope.dimension_sections"] = np.array(sections[:4], np.int32)
    if rope.kind in ("linear", "yarn", "longrope") and architecture.name != "phi3":
        keys["rope.scaling.type"] = rope.kind
    if rope.kind in ("linear", "yarn"):
        keys["rope.scaling.factor"] = float(rope.factor)
    if rope.kind == "yarn" or architecture.name == "phi3":
        keys["rope.scaling.original_context_length"] = rope.positions
    if rope.kind == "yarn":
        keys |= _yarn(spec, architecture)
    if rope.kind == "longrope":
        keys["rope.scaling.attn_factor"] = float(_angles_scale(spec, rope))
    return keys


def _yarn(spec: DecoderSpec, architecture: Architecture) -> dict[str, Written | None]:
    """What a model's YaRN has besides its factor.

    llama.cpp passes over `yarn_attn_factor`, which its converter writes: it takes the usual scale of
    cosine and sine, times `attn_factor`. The betas it reads for few architectures.
    """
    rope, usual = spec.rope, RopeSpec()
    if architecture.mixer == "latent":  # one weight for the scale of angles and that of scores
        factor = 0.1 * rope.mscale_all_dim if rope.mscale_all_dim else None
        return {"rope.scaling.yarn_log_multiplier": factor}
    weight = rope.mscale_all_dim if architecture.grows_queries and rope.mscale == 1 else None
    base = dataclasses.replace(
        rope, attention_factor=None, mscale=1.0 if weight else None, mscale_all_dim=weight
    )
    has_betas = (rope.beta_fast, rope.beta_slow) != (usual.beta_fast, usual.beta_slow)
    if has_betas and architecture.name not in _WITH_BETAS:
        logger.warning(
            "The model's YaRN has beta_fast %g and beta_slow %g. llama.cpp takes %g and %g whatever the "
            "file says, and will answer otherwise; quire takes the model's own.",
            rope.beta_fast, rope.beta_slow, usual.beta_fast, usual.beta_slow,
        )  # fmt: skip
    return {
        "rope.scaling.yarn_log_multiplier": weight or None,
        "rope.scaling.attn_factor": _unless(
            1.0, _angles_scale(spec, rope) / _angles_scale(spec, base)
        ),
        "rope.scaling.yarn_beta_fast": _unless(usual.beta_fast, rope.beta_fast),
        "rope.scaling.yarn_beta_slow": _unless(usual.beta_slow, rope.beta_slow),
    }


def _unless(usual: float, value: float) -> float | None:
    return None if value == usual else float(value)


def _angles_scale(spec: DecoderSpec, rope: RopeSpec) -> float:
    """What cosine and sine are multiplied by."""
    return inverse_frequencies(rope, spec.head_dim, rope.positions)[1]


def rope_tensors(spec: DecoderSpec) -> dict[str, NDArray[np.float32]]:
    """The tensors that hold divisors of the rotary frequencies, if the model has such."""
    rope = spec.rope
    if rope.kind == "llama3":
        return {"rope_freqs.weight": _llama3_divisors(rope, spec.rotary_dim)}
    if rope.kind == "longrope":
        return {
            "rope_factors_long.weight": np.array(rope.long_factors, np.float32),
            "rope_factors_short.weight": np.array(rope.short_factors, np.float32),
        }
    return {}


def _llama3_divisors(rope: RopeSpec, size: int) -> NDArray[np.float32]:
    """Llama 3.1: 1 for fast dimensions, the factor for slow ones, something between for the others."""
    waves = 2 * math.pi * rope.theta ** (np.arange(0, size, 2, dtype=np.float64) / size)
    between = rope.high_freq_factor - rope.low_freq_factor
    smooth = np.clip((rope.positions / waves - rope.low_freq_factor) / between, 0, 1)
    return (1 / ((1 - smooth) / rope.factor + smooth)).astype(np.float32)


# ---- what is read again


def check_header(file: GgufFile, spec: DecoderSpec, source: Path) -> None:
    """Check that a file's header describes the model of `spec`; the rotary tensors must be written.

    Raises:
        UnsupportedModelError: it describes another model, since llama.cpp's architecture has no key for
            something that this one has.
    """
    found = spec_of(HubConfig(config_of([file])))
    free = ("model_type", "names", "quantization", "rope", "local_rope")
    expected = dataclasses.replace(spec, **{name: getattr(found, name) for name in free})
    expected = dataclasses.replace(expected, experts=_with_names(expected, found))
    if _same(found.attention_scale, spec.attention_scale):  # which None may stand for
        expected = dataclasses.replace(expected, attention_multiplier=found.attention_multiplier)
    expected = dataclasses.replace(expected, mixers=_without_form(expected.mixers))
    found = dataclasses.replace(found, mixers=_without_form(found.mixers))
    differing = [
        one.name
        for one in dataclasses.fields(DecoderSpec)
        if not _same(getattr(found, one.name), getattr(expected, one.name))
    ]
    if not _same_ropes(found, spec):
        differing.append("rope")
    if differing:
        name = differing[0]
        raise UnsupportedModelError(
            f"{source}: a GGUF file cannot say all that this model is. llama.cpp would take its {name} "
            f"for {short(getattr(found, name))}, and it is {short(getattr(spec, name))}"
        )


def _without_form(mixers: Sequence[TokenMixer | None]) -> tuple[TokenMixer | None, ...]:
    """The mixers without what tells the form that their tensors have where they are stored."""
    return tuple(without_form(one) if one else None for one in mixers)


def _with_names(expected: DecoderSpec, found: DecoderSpec) -> Any:
    if expected.experts is None or found.experts is None:
        return expected.experts
    return dataclasses.replace(expected.experts, names=found.experts.names)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):  # a file has float32
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _same_ropes(found: DecoderSpec, expected: DecoderSpec) -> bool:
    """Whether all layers rotate by the same angles, in short texts and in long ones."""
    ropes = {(found.rope_of(layer), expected.rope_of(layer)) for layer in range(found.num_layers)}
    return all(
        one is other
        or (
            one is not None
            and other is not None
            and one.partial == other.partial
            and _same_angles(one, other, expected)
        )
        for one, other in ropes
    )


def _same_angles(one: RopeSpec, other: RopeSpec, spec: DecoderSpec) -> bool:
    for length in (other.positions, spec.max_positions):
        frequencies, scale = inverse_frequencies(one, spec.head_dim, length)
        expected, expected_scale = inverse_frequencies(other, spec.head_dim, length)
        near = np.allclose(frequencies, expected, rtol=_SAME_ANGLES, atol=0)
        if not (near and math.isclose(scale, expected_scale, rel_tol=1e-6)):
            return False
    return True
