"""The table of docs/models.md, from the registries of decoders, GGUF architectures and towers.

`python docs/model_table.py` writes it anew; a test says when that is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quire.engines.native.cpu.kernels.layout import LINEARS, UNROUNDED
from quire.engines.native.cpu.weights.adapter import is_inner
from quire.engines.native.media.encoder import TOWERS
from quire.engines.native.models.registry import DECODERS, spec_of
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import ModelError
from quire.gguf.architectures.table import FORMS
from quire.quantization.formats import METHODS
from quire.weights.hub_config import HubConfig

PAGE = Path(__file__).parent / "models.md"
START, END = "<!-- made by docs/model_table.py -->\n", "<!-- end -->\n"
ROUNDED = {*LINEARS} - {*UNROUNDED}
_HEAD_DIMS = (128, 64)
"""M-RoPE's usual sections ask for one of these."""
_REQUIRED: dict[str, Any] = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
    "num_kv_shared_layers": 0,
    "hybrid_override_pattern": "M-*E",
}
"""What some types have no defaults for, or defaults for more layers than these."""


def page() -> str:
    """The page with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return before + START + "\n".join(["", *_lines(), ""]) + "\n" + END + after


def _lines() -> Iterator[str]:
    yield "| `model_type` | models | FFN | LoRA | int8, int4 | GGUF | besides text |"
    yield "|---|---|---|---|---|---|---|"
    for model_type in sorted(DECODERS):
        yield f"| {' | '.join(_cells(model_type))} |"
    yield ""
    methods = ", ".join(sorted(METHODS))
    yield f"Checkpoints of these formats are read for every type: {methods}."


def _cells(model_type: str) -> tuple[str, ...]:
    spec = _spec(model_type)
    tower = TOWERS.get(model_type)
    files = [f"`{one.name}`" for one in FORMS if model_type in one.model_types]
    roles = _matrices(spec)
    return (
        f"`{model_type}`",
        DECODERS[model_type].models,
        "experts" if spec.experts else "dense",
        _of_maps(roles, {role for role in roles if role in LINEARS or is_inner(role)}),
        _of_maps(roles, {role for role in roles if role.rpartition(".")[2] in ROUNDED}),
        ", ".join(files) or "no",
        ", ".join(sorted(tower.kinds)) if tower else "no",
    )


def _spec(model_type: str) -> DecoderSpec:
    """A small model of the type. What a config may say beyond sizes is as usual."""
    problem: ModelError | None = None
    for head_dim in _HEAD_DIMS:
        sizes: dict[str, Any] = {
            "vocab_size": 64,
            "hidden_size": 4 * head_dim,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": head_dim,
            "max_position_embeddings": 64,
            **_REQUIRED,
        }
        try:
            return spec_of(HubConfig({**sizes, "model_type": model_type, "text_config": sizes}))
        except ModelError as error:
            problem = error
    assert problem is not None
    raise problem


def _matrices(spec: DecoderSpec) -> set[str]:
    """The roles of the matrices of all layers; those of an expert without its number."""
    tensors = (one for layer in range(spec.num_layers) for one in spec.layer_tensors(layer))
    roles = (one.role.split(".") for one in tensors if len(one.shape) == 2)
    return {".".join((parts[0], parts[-1])) if len(parts) > 1 else parts[0] for parts in roles}


def _of_maps(roles: set[str], served: set[str]) -> str:
    """Which of a model's maps are served, in words."""
    without = sorted(roles - served)
    if not without:
        return "yes"
    parts = {role.partition(".")[0].replace("_", " ") for role in without}
    return f"yes, but {', '.join(sorted(parts))}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
