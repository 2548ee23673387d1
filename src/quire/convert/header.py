"""The metadata of a model's GGUF file, by the architectures that llama.cpp has.

A file says less than a folder's `config.json`: much stands in llama.cpp's code. So what is written is
read again as any file is, and a model that would then be another one is refused (`check_header`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.convert.gemma import gemma_keys, proportional_divisors
from quire.convert.merging import MergedFolder
from quire.convert.mixers import WITH_ONE_MAP, delta_net_keys, kimi_delta_keys, latent_keys
from quire.engines.native.models.layers.attention import AttentionSpec
from quire.engines.native.models.layers.delta_net import DeltaNetSpec, KimiDeltaSpec
from quire.engines.native.models.layers.experts import Scores
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec, Mamba2Spec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.layers.short_conv import ShortConvSpec
from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.rope import inverse_frequencies, read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import UnsupportedModelError
from quire.gguf.architectures.declaration import Architecture
from quire.gguf.architectures.table import FORMS
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
_WRITTEN: Final = tuple(one for one in FORMS if one.is_written)
_ONE_PART_EPS: Final = "attention.layer_norm_epsilon"
"""Nemotron-H's small number in norms, which has the name of another kind of norms."""
_WITH_BETAS: Final = ("mistral3",)
"""The architectures for which llama.cpp reads YaRN's two betas."""
_SAME_ANGLES = 2e-6  # of a frequency: a file has divisors of frequencies, in float32
_FREE: Final = ("model_type", "names", "quantization", "is_split", "tiled_output", "media")
"""What a file need not say; media are of a tower, which is in another file."""
_ADDED_ROWS: Final = "layer_inputs.vocab_size"
"""What a file says by rows of zeros, which are not written when its header is checked."""
_Difference: TypeAlias = tuple[str, Any, Any]


def architecture_for(folder: Path, spec: DecoderSpec) -> Architecture:
    """llama.cpp's architecture for a folder's model. Some types have one for models with experts.

    Raises:
        UnsupportedModelError: it has none that quire writes.
    """
    unwanted = "all" if spec.experts is None else "none"
    some = [one for one in _WRITTEN if spec.model_type in one.model_types]
    found = next((one for one in some if one.experts != unwanted), None)
    if not some or (found is None and len(some) > 1):
        known = {model_type for one in _WRITTEN for model_type in one.model_types}
        raise UnsupportedModelError(
            f"{folder}: quire writes no GGUF file of the model_type {short(spec.model_type)}. It does so "
            f"for {', '.join(sorted(known))}"
        )
    return found or some[0]


def header_of(
    spec: DecoderSpec, architecture: Architecture, folder: Path, file_type: str
) -> dict[str, Written]:
    """The metadata of the model in a folder, without that of its tokenizer.

    Raises:
        UnsupportedModelError: llama.cpp does not compute something that the model has.
    """
    attention = _attention(spec)
    if attention is None:
        raise UnsupportedModelError(
            f"{folder}: no layer of this model has attention; quire writes no GGUF file of such a model"
        )
    keys: dict[str, Written | None] = {
        "block_count": spec.num_layers,
        "context_length": _context(folder, spec),
        "embedding_length": spec.hidden_size,
        "vocab_size": spec.vocab_size,
        "attention.head_count": attention.shape.heads,
        "attention.head_count_kv": _kv_heads(spec, attention),
        "attention.key_length": attention.shape.head_dim,
        "attention.value_length": attention.shape.value_dim,
        (_ONE_PART_EPS if architecture.one_part else eps_key(architecture)): float(
            spec.final_norm.eps
        ),
        "n_deepstack_layers": _deepstack_layers(folder, architecture),
        **_ffn(spec, architecture, folder),
        **_windows(spec, architecture),
        **_rope(spec, attention, architecture, folder),
        **_scales(spec, attention, architecture),
        **_of_old_kind(spec, attention, architecture),
        **_mixer(spec, architecture),
        **(gemma_keys(spec) if architecture.layer_inputs else {}),
    }
    return {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.name": naming_path(folder.absolute()).name,
        "general.file_type": FILE_TYPES[file_type],
        "general.quantization_version": BLOCKS_VERSION,
        **{f"{architecture.name}.{key}": value for key, value in keys.items() if value is not None},
    }


def _attention(spec: DecoderSpec) -> AttentionSpec | None:
    """The model's attention; of latents, what llama.cpp has in its cache of it."""
    mixers = (layer.mixer for layer in spec.layers)
    latent = next((one for one in mixers if isinstance(one, LatentAttentionSpec)), None)
    if latent is not None:
        return AttentionSpec(latent.shape, latent.rope, latent.scale)
    return spec.attention


def _of_old_kind(
    spec: DecoderSpec, attention: AttentionSpec, architecture: Architecture
) -> dict[str, Written | None]:
    keys: dict[str, Written | None] = {}
    if architecture.name in ("command-r", "cohere2"):
        keys["logit_scale"] = float(spec.head.scale)
    if architecture.name in ("gptneox", "stablelm"):
        keys["use_parallel_residual"] = spec.layers[0].flow != "in_turn"
    if attention.clip:
        keys["attention.clamp_kqv"] = float(attention.clip)
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


def _kv_heads(spec: DecoderSpec, attention: AttentionSpec) -> Written:
    """The heads of keys; if some layers have no attention, a list with 0 for these."""
    count = attention.shape.kv_heads
    heads = [count if layer.attention else 0 for layer in spec.layers]
    return np.array(heads, np.int32) if 0 in heads else count


def _mixer(spec: DecoderSpec, architecture: Architecture) -> dict[str, Written | None]:
    """What layers have besides attention, or in its place; they are all of one kind."""
    mixers = [layer.mixer for layer in spec.layers if layer.mixer]
    mixer = next((one for one in mixers if not isinstance(one, AttentionSpec)), None)
    if architecture.mixer == "kimi_delta":
        return _kimi(mixers)
    if isinstance(mixer, ShortConvSpec):
        return {"shortconv.l_cache": mixer.width}
    if isinstance(mixer, AttentionAndMamba2Spec):
        return _mamba2(mixer.mamba)
    if isinstance(mixer, DeltaNetSpec):
        recurrent = [isinstance(layer.mixer, DeltaNetSpec) for layer in spec.layers]
        assert spec.attention is not None
        return {**delta_net_keys(mixer, recurrent, spec.attention.shape.kv_heads)}
    if isinstance(mixer, LatentAttentionSpec):
        if architecture.name == WITH_ONE_MAP:
            return {**latent_keys(mixer, is_split=False)}
        return {**latent_keys(mixer, is_split=True), **_dense_latent(spec)}
    if not isinstance(mixer, Mamba2Spec):
        return {}
    if architecture.one_part:
        return {**_mamba2(mixer), **_of_one_part(spec)}
    dense = {} if spec.experts else {"expert_shared_feed_forward_length": _dense_size(spec)}
    return {**_mamba2(mixer), **dense, "rope.scaling.finetuned": spec.rope is not None}


def _of_one_part(spec: DecoderSpec) -> dict[str, Written | None]:
    """The FFNs of layers that are nothing else, dense or sparse; the width of other layers is 0."""
    experts = spec.experts
    sizes = [
        layer.ffn.size if layer.ffn else experts.ffn_size if experts and layer.experts else 0
        for layer in spec.layers
    ]
    return {
        "feed_forward_length": np.array(sizes, np.int32),
        "expert_shared_count": 1 if experts and experts.shared_size else None,
        "moe_latent_size": (experts.latent_size or None) if experts else None,
        "rope.scaling.finetuned": False,
    }


def _kimi(mixers: Sequence[TokenMixer]) -> dict[str, Written | None]:
    """Layers of Kimi Linear: those with latent attention have one head of keys, the others none."""
    latent = next(one for one in mixers if isinstance(one, LatentAttentionSpec))
    net = next((one for one in mixers if isinstance(one, KimiDeltaSpec)), None)
    if net is None or net.value_heads != latent.heads:
        raise UnsupportedModelError(
            "The layers of this Kimi Linear are all alike, or have other numbers of heads, which llama.cpp "
            "does not compute: it cannot be written as GGUF"
        )
    heads = [int(isinstance(one, LatentAttentionSpec)) for one in mixers]
    return {
        **latent_keys(latent, is_split=True),
        **kimi_delta_keys(net),
        "attention.head_count_kv": np.array(heads, np.int32),
        "rope.freq_base": None,
    }


def _dense_latent(spec: DecoderSpec) -> dict[str, Written | None]:
    """llama.cpp's architecture has experts: of a model without, all layers come before the first sparse one."""
    if spec.experts is not None:
        return {}
    return {
        "leading_dense_block_count": spec.num_layers,
        "expert_feed_forward_length": _dense_size(spec),
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
    own = _config_of(folder).get("max_position_embeddings")
    # Others may have it under another key.
    return own if isinstance(own, int) and spec.rope else spec.max_positions


def _config_of(folder: Path) -> dict[str, Any]:
    """What the folder's config says of the text decoder."""
    config = read_json(folder, "config.json")
    return {**config, **(config.get("text_config") or {})}


def _deepstack_layers(folder: Path, architecture: Architecture) -> int | None:
    """How many layers of Qwen3-VL's text take features of the tower, which is in another file."""
    if architecture.name not in ("qwen3vl", "qwen3vlmoe"):
        return None
    vision: dict[str, Any] = read_json(folder, "config.json").get("vision_config") or {}
    return len(vision.get("deepstack_visual_indexes") or ())


def _dense_size(spec: DecoderSpec) -> int | None:
    """The width of the dense FFN; None if all layers are sparse."""
    return next((layer.ffn.size for layer in spec.layers if layer.ffn), None)


def _ffn(spec: DecoderSpec, architecture: Architecture, folder: Path) -> dict[str, Written | None]:
    experts = spec.experts
    if experts is None:
        return {"feed_forward_length": _dense_size(spec)}
    # A folder of the type that files are read as has the keys that a file may have.
    family = FAMILIES["mixtral" if spec.model_type == "mixtral" else architecture.model_type]
    first, step = _sparse_layers(spec, family)
    # Where no layer is dense, its width is whatever the config says.
    dense = _dense_size(spec) or _config_of(folder).get(family.dense_size, experts.ffn_size)
    router, shared = experts.router, experts.shared_size
    counts_shared = bool(family.shared_count)
    keys: dict[str, Written | None] = {
        "feed_forward_length": dense,
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


def _sparse_layers(spec: DecoderSpec, family: ExpertFamily) -> tuple[int, int]:
    """The first sparse layer, and every how many layers there is one.

    Raises:
        UnsupportedModelError: llama.cpp does not compute a model of this family with such layers.
    """
    if family.sparse_kind:  # a file says of each layer what it is
        if _dense_size(spec):
            raise UnsupportedModelError(
                "The model has layers of experts and layers of a dense FFN, which llama.cpp does not compute "
                "for it: it cannot be written as GGUF"
            )
        return 0, 1
    first, step = _pattern([layer.experts is not None for layer in spec.layers])
    if (first and not family.first_sparse) or (step > 1 and not family.step):
        raise UnsupportedModelError(
            "The model has experts in some layers and one FFN in others, which llama.cpp does not "
            "compute for it: it cannot be written as GGUF"
        )
    return first, step


def _gating(scores: Scores, family: ExpertFamily) -> int | None:
    """How the router's logits become scores, where llama.cpp does not take it for granted."""
    if scores == "sigmoid":
        return SIGMOID
    if scores == "sigmoid_of_chosen":
        return None
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
    if architecture.windows == "chunks":
        keys = {}
    if architecture.windows == "all":
        return {} if spec.model_type in ("llama", "internlm3") else keys
    listed = [bool(one) for one in spec.windows]
    usual = [bool((layer + 1) % architecture.pattern) for layer in range(spec.num_layers)]
    if window and (architecture.name in ("olmo2", "exaone4") or listed != usual):
        keys["attention.sliding_window_pattern"] = np.array(listed)
    return keys if window or architecture.window else {}


def _scales(
    spec: DecoderSpec, attention: AttentionSpec, architecture: Architecture
) -> dict[str, Written | None]:
    keys: dict[str, Written | None] = {}
    caps = {
        "attn_logit_softcapping": attention.cap,
        "final_logit_softcapping": spec.head.cap,
    }
    for key, cap in caps.items():
        if cap or key in architecture.caps:
            keys[key] = float(cap)
    if architecture.name in ("granite", "granitemoe", "granitehybrid"):
        keys["attention.scale"] = float(attention.scale)
    if architecture.grows_queries and spec.query_scale:
        keys["attention.temperature_scale"] = spec.query_scale.beta
    if architecture.scales:
        keys |= {
            "embedding_scale": float(spec.embeddings.scale),
            "residual_scale": float(spec.residual_scale),
            "logit_scale": 1 / spec.head.scale,
        }
    return keys


# ---- rotary embeddings


def _rope(
    spec: DecoderSpec, attention: AttentionSpec, architecture: Architecture, folder: Path
) -> dict[str, Written | None]:
    rope = spec.rope
    if architecture.one_part:
        return {"rope.dimension_count": attention.shape.head_dim}
    if rope is None and architecture.mixer:  # for which files have the keys all the same
        rope = read_rope(HubConfig(_config_of(folder)))
    if rope is None:
        return {}
    local = next((one for one, _ in spec.ropes if one.is_local), None)
    head_dim = next((size for one, size in spec.ropes if one == rope), attention.shape.head_dim)
    if rope.kind == "dynamic":
        raise UnsupportedModelError(
            "The model scales its rotary embedding by the kind 'dynamic', which llama.cpp does not "
            "compute: it cannot be written as GGUF"
        )
    keys: dict[str, Written | None] = {
        "rope.freq_base": float(rope.theta),
        "rope.freq_base_swa": float(local.theta) if local else None,
        "rope.dimension_count": rope.size(head_dim),
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
        keys |= _yarn(rope, head_dim, architecture)
    if rope.kind == "longrope":
        keys["rope.scaling.attn_factor"] = float(_angles_scale(rope, head_dim))
    return keys


def _yarn(rope: RopeSpec, head_dim: int, architecture: Architecture) -> dict[str, Written | None]:
    """What a model's YaRN has besides its factor.

    llama.cpp passes over `yarn_attn_factor`, which its converter writes: it takes the usual scale of
    cosine and sine, times `attn_factor`. The betas it reads for few architectures.
    """
    usual = RopeSpec()
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
            1.0, _angles_scale(rope, head_dim) / _angles_scale(base, head_dim)
        ),
        "rope.scaling.yarn_beta_fast": _unless(usual.beta_fast, rope.beta_fast),
        "rope.scaling.yarn_beta_slow": _unless(usual.beta_slow, rope.beta_slow),
    }


def _unless(usual: float, value: float) -> float | None:
    return None if value == usual else float(value)


def _angles_scale(rope: RopeSpec, head_dim: int) -> float:
    """What cosine and sine are multiplied by."""
    return inverse_frequencies(rope, head_dim, rope.positions)[1]


def rope_tensors(spec: DecoderSpec) -> dict[str, NDArray[np.float32]]:
    """The tensors that hold divisors of the rotary frequencies, if the model has such."""
    for rope, head_dim in spec.ropes:
        if rope.kind == "proportional":
            return {"rope_freqs.weight": proportional_divisors(rope.partial, head_dim)}
        if rope.kind == "llama3":
            return {"rope_freqs.weight": _llama3_divisors(rope, rope.size(head_dim))}
        if rope.kind == "longrope":
            return {
                "rope_factors_long.weight": np.array(rope.long_factors, np.float32),
                "rope_factors_short.weight": np.array(rope.short_factors, np.float32),
            }
    return {}


def _llama3_divisors(rope: RopeSpec, size: int) -> NDArray[np.float32]:
    """Llama 3.1: 1 for fast dimensions, the factor for slow ones, something between for the others."""
    waves = 2 * math.pi * rope.theta ** (np.arange(0, size, 2, dtype=np.float64) / size)
    above = rope.positions / waves - rope.low_freq_factor
    between = rope.high_freq_factor - rope.low_freq_factor
    smooth = np.clip(above / between, 0, 1) if between else above > 0  # a step in Llama 4
    return (1 / ((1 - smooth) / rope.factor + smooth)).astype(np.float32)


# ---- what is read again


def check_header(file: GgufFile, spec: DecoderSpec, source: Path) -> None:
    """Check that a file's header describes the model of `spec`; the rotary tensors must be written.

    Raises:
        UnsupportedModelError: it describes another model, since llama.cpp's architecture has no key for
            something that this one has.
    """
    found = spec_of(HubConfig(config_of([file])))
    differing = next(chain(_differences(found, spec), _differing_angles(found, spec)), None)
    if differing is not None:
        name, theirs, own = differing
        raise UnsupportedModelError(
            f"{source}: a GGUF file cannot say all that this model is. llama.cpp would take its {name} "
            f"for {short(theirs)}, and it is {short(own)}"
        )


def _differences(found: Any, expected: Any, place: str = "") -> Iterator[_Difference]:
    """Where two specs differ: the field, the one's value and the other's."""
    if isinstance(found, RopeSpec) and isinstance(expected, RopeSpec):
        return  # several may say the same: see `_differing_angles`
    if dataclasses.is_dataclass(found) and type(found) is type(expected):
        for name in (one.name for one in dataclasses.fields(found) if one.name not in _FREE):
            inner = f"{place}.{name}" if place else name
            yield from _differences(getattr(found, name), getattr(expected, name), inner)
    elif isinstance(found, tuple) and isinstance(expected, tuple) and len(found) == len(expected):
        for index, pair in enumerate(zip(found, expected, strict=True)):
            yield from _differences(*pair, f"{place}[{index}]")
    elif place != _ADDED_ROWS and not _same(found, expected):
        yield place, found, expected


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):  # a file has float32
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _differing_angles(found: DecoderSpec, expected: DecoderSpec) -> Iterator[_Difference]:
    """Where layers that both rotate do not rotate by the same angles, in short texts and in long ones."""
    pairs = {
        (one.mixer.rope, other.mixer.rope, other.mixer.rope_dim): index
        for index, (one, other) in enumerate(zip(found.layers, expected.layers, strict=True))
        if one.mixer and other.mixer
    }
    for (theirs, own, head_dim), index in pairs.items():
        if theirs and own and not _same_angles(theirs, own, head_dim, expected.max_positions):
            yield f"layers[{index}].mixer.rope", theirs, own


def _same_angles(one: RopeSpec, other: RopeSpec, head_dim: int, max_positions: int) -> bool:
    if (one.partial, one.interleaved) != (other.partial, other.interleaved):
        return False
    for length in (other.positions, max_positions):
        frequencies, scale = inverse_frequencies(one, head_dim, length)
        expected, expected_scale = inverse_frequencies(other, head_dim, length)
        near = np.allclose(frequencies, expected, rtol=_SAME_ANGLES, atol=0)
        if not (near and math.isclose(scale, expected_scale, rel_tol=1e-6)):
            return False
    return True
