"""A decoder as a program: the list of operations of one step, and the kernels that they need.

Nothing here imports a kernel: a start with compiled kernels needs their names alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.block_forms import FORMS, PACKED_BY_KERNELS
from quire.engines.native.cpu.program.arguments import PHASES, STEP_PHASES
from quire.engines.native.models.layers.attention import AttentionSpec
from quire.engines.native.models.layers.delta_net import DeltaNetSpec, KimiDeltaSpec
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec, Mamba2Spec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.layers.short_conv import ShortConvSpec
from quire.engines.native.models.spec import DecoderSpec

KERNELS = {
    "step": "program.step:run_step",
    "embed": "program.step:embed",
    "layer_norm": "kernels.layer_norm:layer_norm",
    "project": "program.attention_step:project",
    "attend_float32": "program.attention_step:attend_float32",
    "attend_float16": "program.attention_step:attend_float16",
    "attend_int8": "program.attention_step:attend_int8",
    "project_delta": "program.delta_step:project_delta",
    "delta_rule": "program.delta_step:delta_rule",
    "delta_gates": "program.delta_step:delta_gates",
    "kimi_delta_rule": "program.delta_step:kimi_delta_rule",
    "short_conv": "program.short_conv_step:short_conv",
    "mamba2": "program.mamba2_step:mamba2",
    "mamba2_output": "program.mamba2_step:mamba2_output",
    "attention_output": "program.attention_step:attention_output",
    "attend_latents_float32": "program.latent_step:attend_latents_float32",
    "attend_latents_float16": "program.latent_step:attend_latents_float16",
    "attend_latents_int8": "program.latent_step:attend_latents_int8",
    "latent_project": "program.latent_step:latent_project",
    "latent_queries": "program.latent_step:latent_queries",
    "latent_values": "program.latent_step:latent_values",
    "dense_gate": "program.ffn_step:dense_gate",
    "dense_up": "program.ffn_step:dense_up",
    "dense_down": "program.ffn_step:dense_down",
    "dense_beside": "program.ffn_step:dense_beside",
    "route": "program.ffn_step:route",
    "experts_in": "program.ffn_step:experts_in",
    "add_experts": "program.ffn_step:add_experts",
    "experts_out": "program.ffn_step:experts_out",
    "add_media": "program.media_step:add_media",
    "layer_inputs": "program.layer_inputs_step:layer_inputs",
    "layer_gate": "program.layer_inputs_step:layer_gate",
    "layer_out": "program.layer_inputs_step:layer_out",
    **{
        name: f"program.altup_step:{name}"
        for name in (
            "altup_start",
            "altup_predict",
            "laurel",
            "cut_gate",
            "altup_correct",
            "altup_out",
            "altup_end",
        )
    },
    "logits": "program.step:logits",
    "linear_float32": "kernels.linear:columns_float32",
    "linear_bfloat16": "kernels.linear:columns_bfloat16",
    "linear_float8": "kernels.float8_linear:columns_float8",
    "linear_int8": "kernels.linear:columns_int8",
    "linear_int8_zeros": "kernels.linear:columns_int8_zeros",
    "linear_int4": "kernels.linear:columns_int4",
    "linear_int4_zeros": "kernels.linear:columns_int4_zeros",
    "round_rows": "kernels.linear:quantize_rows",
    "round_fast": "kernels.block_linear:round_fast",
    "round_exact": "kernels.block_linear:round_exact",
    **{f"order_{bits}": f"kernels.block_packing:INTERLEAVE.bits{bits}" for bits in (4, 5, 6, 8)},
    **{f"pack_{form}": f"kernels.block_packing:PACK.{form}" for form in PACKED_BY_KERNELS},
    "round_8_64": "kernels.rounding:ROUND.bits8_64",
    "round_8_32": "kernels.rounding:ROUND.bits8_32",
    "round_4_32": "kernels.rounding:ROUND.bits4_32",
    **{f"linear_{form}": f"kernels.block_linear:FAST.{form}" for form in FORMS},
    **{f"linear_{form}_exact": f"kernels.block_linear:EXACT.{form}" for form in FORMS},
    **{f"read_{form}": f"kernels.block_linear:READ.{form}" for form in FORMS},
    "lora": "program.lora:add_products",
    "lora_inner": "program.lora:add_inner_products",
}
"""The kernels that are compiled each by itself, with the place of each among the modules: the module, the
attribute and, of a dict, the key.
"""


ATTEND, ATTEND_LATENTS = "attend", "attend_latents"
MIXERS: Mapping[type[TokenMixer], tuple[str, ...]] = {
    AttentionSpec: ("project", ATTEND),
    LatentAttentionSpec: ("latent_project", "latent_queries", ATTEND_LATENTS, "latent_values"),
    DeltaNetSpec: ("project_delta", "delta_rule"),
    KimiDeltaSpec: ("project_delta", "delta_gates", "kimi_delta_rule"),
    ShortConvSpec: ("short_conv",),
    Mamba2Spec: ("mamba2",),
    AttentionAndMamba2Spec: ("project", ATTEND, "mamba2", "mamba2_output"),
}
"""The operations of each kind of mixer; `ATTEND` and `ATTEND_LATENTS` among them are attention over the
cache. `attention_output` follows."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a step: the name of its kernel, its layer if it has one, its first phase."""

    kernel: str
    layer: int | None
    phase: int


def decoder_program(spec: DecoderSpec, kv_kind: int) -> Iterator[Operation]:
    """The operations of a step, in order. `kv_kind` is how the KV cache is stored."""
    kind = {
        layout.KV_FLOAT32: "float32", layout.KV_FLOAT16: "float16", layout.KV_INT8: "int8"
    }[kv_kind]  # fmt: skip
    operations: list[tuple[str, int | None]] = [("embed", None)]
    if spec.layer_inputs:
        operations.append(("layer_inputs", None))
    if spec.altup:
        operations.append(("altup_start", None))
    for index, layer in enumerate(spec.layers):
        mixing = [*MIXERS[type(layer.mixer)], "attention_output"] if layer.mixer else []
        mixing = [f"{name}_{kind}" if name in (ATTEND, ATTEND_LATENTS) else name for name in mixing]
        names = ["altup_predict"] if spec.altup else []
        ffn = [*_ffn(layer, spec)]
        if layer.flow == "in_turn":
            names += [*mixing, *ffn]
        else:  # the FFN reads the residual stream before attention is added to it
            names += [*mixing[:-1], ffn[0], mixing[-1], *ffn[1:]]
        if index < spec.media.deep_layers:
            names.append("add_media")
        operations += [(name, index) for name in names]
    if spec.altup:
        operations.append(("altup_end", None))
    phase = STEP_PHASES
    for kernel, layer in (*operations, ("logits", None)):
        yield Operation(kernel, layer, phase)
        phase += PHASES[kernel]


def _ffn(layer: LayerSpec, spec: DecoderSpec) -> Iterator[str]:
    """The operations of a layer that follow attention."""
    if spec.altup:
        yield "laurel"
    if layer.ffn:
        yield "dense_gate" if layer.ffn.gated else "dense_up"
        if layer.ffn.gate_cutoff is not None:
            yield "cut_gate"
        yield "dense_beside" if layer.experts else "dense_down"
    if layer.experts:
        latent = layer.experts.latent_size > 0
        yield "route"
        yield from ("experts_in", "add_experts", "experts_out") if latent else ("add_experts",)
    if spec.altup:
        yield from ("altup_correct", "layer_gate", "altup_out")
    elif spec.layer_inputs:
        yield from ("layer_gate", "layer_out")


def num_phases(program: Sequence[Operation]) -> int:
    """The number of phases of a step that runs the program."""
    last = program[-1]
    return last.phase + PHASES[last.kernel]
