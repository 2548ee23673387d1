"""The tensors of a model: their names and shapes in a folder, and where a file may have them.

llama.cpp's names have changed over the years, and some tensors may be fused or not: each tensor has one
or several ways to be found, of which the first that the file has is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from quire.gguf.architectures.classic import FALCON_NORMS
from quire.gguf.architectures.declaration import ONE_NORM, Architecture
from quire.gguf.config.biases import BIASES
from quire.gguf.config.classic import XIELU
from quire.gguf.config.experts import FAMILIES, ExpertFamily
from quire.gguf.config.mixers import SPLIT_MAPS

_ROLES = ("gate", "up", "down")
EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"


class StoredPart(NamedTuple):
    """A stored tensor, or some of its rows. Those of a vector are its elements."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    first: int = 0
    rows: int = 0
    """How many from the first; 0 for all."""


Way = tuple[StoredPart, ...]
"""Parts that lie below each other in a folder's tensor."""


@dataclass(frozen=True, slots=True)
class FolderTensor:
    """A tensor of a folder, and the ways in which a file may have it. No way: it is `fill` everywhere."""

    name: str
    shape: tuple[int, ...]
    ways: tuple[Way, ...]
    heads: int = 0
    """The file has the rows of so many heads in llama.cpp's order; 0 for the folder's."""
    shift: float = 0.0
    """What the file's values are larger by."""
    is_negative_exp: bool = False
    """The file's values are -exp of the folder's."""
    tiles: tuple[int, int] = (1, 1)
    """The file has the columns of value heads in llama.cpp's order: so many key heads, and value heads of
    each."""
    fill: float = 0.0


class Layout:
    """The tensors of one model, by its architecture and its config."""

    def __init__(
        self, architecture: Architecture, config: Mapping[str, Any], stored_biases: Set[str]
    ) -> None:
        self._architecture, self._config = architecture, config
        self._stored_biases = stored_biases
        self._hidden: int = config["hidden_size"]
        self._ffn: int = config["intermediate_size"]
        self._heads: int = config["num_attention_heads"]
        self._kv_heads: int = config["num_key_value_heads"]
        self._head_dim: int = config["head_dim"]
        self._has_biases = {
            role
            for key, roles in BIASES.get(config["model_type"], {}).items()
            if not key or config.get(key)
            for role in roles
        }

    def tensors(self) -> Iterator[FolderTensor]:
        """All tensors, in the model's order."""
        table = (self._config["vocab_size"], self._hidden)
        architecture = self._architecture
        yield _whole("model.embed_tokens.weight", EMBEDDINGS, table)
        if architecture.positions:
            shape = (self._config["max_position_embeddings"], self._hidden)
            yield _whole("model.embed_positions.weight", "position_embd.weight", shape)
        if architecture.embedding_norm:
            yield from self._norm("model.embed_norm", "token_embd_norm")
        for layer in range(self._config["num_hidden_layers"]):
            for tensor in self._layer(layer):
                yield replace(tensor, name=self._own_name(tensor.name))
        if architecture.norms:
            for tensor in self._norm("model.norm", architecture.final_norm):
                yield replace(tensor, name=self._own_name(tensor.name))
        if not self._config["tie_word_embeddings"]:
            yield _whole("lm_head.weight", HEAD, table)
        if architecture.head_bias:
            yield _whole("lm_head.bias", "output.bias", table[:1])

    def _own_name(self, name: str) -> str:
        for llama, own in self._architecture.renames:
            name = name.replace(llama, own)
        return name

    def _layer(self, layer: int) -> Iterator[FolderTensor]:
        """`here` is how names in a folder begin, `there` those in a file."""
        here, there = f"model.layers.{layer}.", f"blk.{layer}."
        yield from self._norms(here, there)
        yield from self._mixing(layer, here, there)
        family = FAMILIES.get(self._config["model_type"])
        if family and self._config[family.count] and family.is_sparse(self._config, layer):
            yield from self._sparse(here, there, family)
        elif self._architecture.name == "granitehybrid":
            yield self._fused_apart(here, there)
            yield from self._map(here, there, "mlp.down_proj", "ffn_down", self._hidden, self._ffn)
        elif self._architecture.fused_gate_up:
            shape = (2 * self._ffn, self._hidden)
            yield _whole(f"{here}mlp.gate_up_proj.weight", f"{there}ffn_up.weight", shape)
            yield from self._map(here, there, "mlp.down_proj", "ffn_down", self._hidden, self._ffn)
        else:
            for role in ("gate", "up") if self._architecture.gated else ("up",):
                name, stored = f"mlp.{role}_proj", f"ffn_{role}"
                yield from self._map(here, there, name, stored, self._ffn, self._hidden)
            yield from self._map(here, there, "mlp.down_proj", "ffn_down", self._hidden, self._ffn)

    def _mixing(self, layer: int, here: str, there: str) -> Iterator[FolderTensor]:
        """Attention, what is in its place, or both."""
        mixer = self._architecture.mixer
        if mixer == "latent":
            yield from self._latent(here, there)
            return
        kind = self._config["layer_types"][layer] if mixer else "full_attention"
        if kind == "linear_attention":
            yield from self._delta_net(here, there)
        elif kind == "conv":
            yield from self._short_conv(here, there)
        elif kind in ("mamba", "hybrid"):
            yield from self._mamba2(here, there)
        if kind in ("attention", "full_attention", "hybrid"):
            yield from self._attention(here, there)

    def _fused_apart(self, here: str, there: str) -> FolderTensor:
        """Gate and up, which a file has apart and the folder in one tensor."""
        parts = tuple(
            StoredPart(f"{there}ffn_{role}.weight", (self._ffn, self._hidden))
            for role in ("gate", "up")
        )
        name = f"{here}shared_mlp.input_linear.weight"
        return FolderTensor(name, (2 * self._ffn, self._hidden), (parts,))

    def _norms(self, here: str, there: str) -> Iterator[FolderTensor]:
        for stored, name in norms_of(self._architecture, self._config).items():
            yield from self._norm(f"{here}{name}", f"{there}{stored}")
        if "xielu_beta" in self._config:
            layer = int(here.split(".")[2])
            for one in XIELU:
                fill = self._config[f"xielu_{one}"][layer]
                yield FolderTensor(f"{here}mlp.act_fn.{one}", (1,), (), fill=fill)

    def _norm(self, name: str, stored: str) -> Iterator[FolderTensor]:
        """A norm of the residual stream."""
        shape, shift = (self._hidden,), self._architecture.norm_shift
        # One of Falcon-H1's is stored without a suffix.
        ways = tuple((StoredPart(one, shape),) for one in (f"{stored}.weight", stored))
        yield FolderTensor(f"{name}.weight", shape, ways, shift=shift)
        if self._architecture.norm_biases:
            yield _whole(f"{name}.bias", f"{stored}.bias", shape)

    def _query_key_norms(self, here: str, there: str) -> Iterator[FolderTensor]:
        kind, shift = self._architecture.query_key_norms, self._architecture.norm_shift
        if not self._has_norms_of_heads(kind):
            kind = ""
        for role, heads in (("q", self._heads), ("k", self._kv_heads)) if kind else ():
            size = self._head_dim * (heads if kind in ("width", "each") else 1)
            shape = (heads, self._head_dim) if kind == "each" else (size,)
            part = StoredPart(f"{there}attn_{role}_norm.weight", shape)
            name = f"{here}self_attn.{self._architecture.norm_names[role]}.weight"
            yield FolderTensor(name, (size,), ((part,),), shift=shift)

    def _has_norms_of_heads(self, kind: str) -> bool:
        if kind == "each":  # some of the architecture's models have them
            return bool(self._config.get("use_qk_norm") or self._config.get("qk_layernorm"))
        return bool(self._config.get("use_qk_norm", True))

    def _map(
        self, here: str, there: str, name: str, stored: str, rows: int, columns: int
    ) -> Iterator[FolderTensor]:
        """A linear map of its own, and its bias."""
        yield _whole(f"{here}{name}.weight", f"{there}{stored}.weight", (rows, columns))
        if stored in self._has_biases:
            bias = _whole(f"{here}{name}.bias", f"{there}{stored}.bias", (rows,))
            yield bias if stored in self._stored_biases else _zeros(bias)

    def _attention(self, here: str, there: str) -> Iterator[FolderTensor]:
        """Queries, keys and values, which a file may have in one tensor, and the output."""
        yield from self._query_key_norms(here, there)
        out, kv = self._heads * self._head_dim, self._kv_heads * self._head_dim
        q = 2 * out if self._architecture.gated_attention else out
        roles = (("q", q, self._heads), ("k", kv, self._kv_heads), ("v", kv, 0))
        if self._architecture.fused_qkv:
            shape = (q + 2 * kv, self._hidden)
            apart = tuple(
                StoredPart(f"{there}attn_{role}.weight", (rows, self._hidden))
                for role, rows, _ in roles
            )
            ways = ((StoredPart(f"{there}attn_qkv.weight", shape),), apart)
            yield FolderTensor(f"{here}self_attn.qkv_proj.weight", shape, ways)
        else:
            first = 0
            for role, rows, heads in roles:
                yield from self._slice(here, there, role, first, rows, heads)
                first += rows
        yield from self._map(here, there, "self_attn.o_proj", "attn_output", self._hidden, out)
        if self._architecture.sinks:
            yield _whole(f"{here}self_attn.sinks", f"{there}attn_sinks.weight", (self._heads,))

    def _slice(
        self, here: str, there: str, role: str, first: int, rows: int, heads: int
    ) -> Iterator[FolderTensor]:
        """Queries, keys or values: tensors of their own, or rows of fused ones."""
        total = (self._heads + 2 * self._kv_heads) * self._head_dim
        stored = f"attn_{role}"
        for suffix, columns in (("weight", (self._hidden,)), ("bias", ())):
            if suffix == "bias" and stored not in self._has_biases:
                continue
            own = StoredPart(f"{there}{stored}.{suffix}", (rows, *columns))
            fused = StoredPart(f"{there}attn_qkv.{suffix}", (total, *columns), first, rows)
            heads = heads if self._architecture.interleaved else 0
            name = f"{here}self_attn.{role}_proj.{suffix}"
            wanted = FolderTensor(name, own.shape, ((own,), (fused,)), heads)
            absent = suffix == "bias" and stored not in self._stored_biases
            yield _zeros(wanted) if absent else wanted

    def _latent(self, here: str, there: str) -> Iterator[FolderTensor]:
        """Latent attention, whose maps of heads a file has apart, those of keys on their side."""
        config, hidden, own = self._config, self._hidden, f"{here}self_attn."
        heads, rank, q_rank = self._heads, config["kv_lora_rank"], config["q_lora_rank"]
        nope, rope, value = (
            config[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        q = heads * (nope + rope)
        if q_rank:
            yield _whole(f"{own}q_a_proj.weight", f"{there}attn_q_a.weight", (q_rank, hidden))
            yield _whole(f"{own}q_a_layernorm.weight", f"{there}attn_q_a_norm.weight", (q_rank,))
            yield _whole(f"{own}q_b_proj.weight", f"{there}attn_q_b.weight", (q, q_rank))
        else:
            yield _whole(f"{own}q_proj.weight", f"{there}attn_q.weight", (q, hidden))
        both = (rank + rope, hidden)
        yield _whole(f"{own}kv_a_proj_with_mqa.weight", f"{there}attn_kv_a_mqa.weight", both)
        yield _whole(f"{own}kv_a_layernorm.weight", f"{there}attn_kv_a_norm.weight", (rank,))
        if config[SPLIT_MAPS]:
            for role, rows, columns in (("k", rank, nope), ("v", value, rank)):
                stack = StoredPart(f"{there}attn_{role}_b.weight", (heads, rows, columns))
                shape = (heads * rows, columns)
                yield FolderTensor(f"{own}{role}_b_proj.weight", shape, ((stack,),))
        else:
            shape = (heads * (nope + value), rank)
            yield _whole(f"{own}kv_b_proj.weight", f"{there}attn_kv_b.weight", shape)
        yield _whole(f"{own}o_proj.weight", f"{there}attn_output.weight", (hidden, heads * value))

    def _delta_net(self, here: str, there: str) -> Iterator[FolderTensor]:
        """A gated delta net, whose value heads may be in llama.cpp's order."""
        config, hidden, own = self._config, self._hidden, f"{here}linear_attn."
        keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
        size, group = config["linear_value_head_dim"], values // keys
        both, width = 2 * keys * config["linear_key_head_dim"], values * size
        order = [head % group * keys + head // group for head in range(values)]
        order = order if self._architecture.tiled_values else list(range(values))

        def heads(stored: str, shape: tuple[int, ...], first: int, rows: int) -> Way:
            """The value heads of a tensor in a folder's order, from row `first` on."""
            return tuple(StoredPart(stored, shape, first + rows * head, rows) for head in order)

        for name, stored, columns in (
            ("in_proj_qkv.weight", "attn_qkv.weight", (hidden,)),
            ("conv1d.weight", "ssm_conv1d.weight", (config["linear_conv_kernel_dim"],)),
        ):
            shape = (both + width, *columns)
            way = (
                StoredPart(there + stored, shape, 0, both),
                *heads(there + stored, shape, both, size),
            )
            mine = (both + width, 1, *columns) if name.startswith("conv") else shape
            ways = (
                (way, self._old_parts(there, (0, 1, 2))) if name.startswith("in_proj") else (way,)
            )
            yield FolderTensor(own + name, mine, ways)
        shape = (width, hidden)
        ways = (heads(f"{there}attn_gate.weight", shape, 0, size), self._old_parts(there, (3,)))
        yield FolderTensor(f"{own}in_proj_z.weight", shape, ways)
        for index, (name, stored) in enumerate((("b", "ssm_beta"), ("a", "ssm_alpha"))):
            way = heads(f"{there}{stored}.weight", (values, hidden), 0, 1)
            together = StoredPart(f"{there}ssm_ba.weight", (2 * values, hidden))
            starts = range(index * group, 2 * values, 2 * group)
            fused = tuple(together._replace(first=start, rows=group) for start in starts)
            yield FolderTensor(f"{own}in_proj_{name}.weight", (values, hidden), (way, fused))
        decays = heads(f"{there}ssm_a", (values,), 0, 1)
        yield FolderTensor(f"{own}A_log", (values,), (decays,), is_negative_exp=True)
        yield FolderTensor(
            f"{own}dt_bias", (values,), (heads(f"{there}ssm_dt.bias", (values,), 0, 1),)
        )
        yield _whole(f"{own}norm.weight", f"{there}ssm_norm.weight", (size,))
        out = _whole(f"{own}out_proj.weight", f"{there}ssm_out.weight", (hidden, width))
        tiles = (keys, group) if self._architecture.tiled_values else (1, 1)
        yield replace(out, tiles=tiles)

    def _old_parts(self, there: str, parts: tuple[int, ...]) -> Way:
        """Parts of a tensor of all maps, as in the first files of Qwen3-Next: by key head q, k, v and z."""
        config = self._config
        keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
        key_size = config["linear_key_head_dim"]
        wide = values // keys * config["linear_value_head_dim"]
        sizes = (key_size, key_size, wide, wide)
        each = sum(sizes)
        whole = StoredPart(f"{there}ssm_in.weight", (keys * each, self._hidden))
        return tuple(
            whole._replace(first=head * each + sum(sizes[:part]), rows=sizes[part])
            for part in parts
            for head in range(keys)
        )

    def _short_conv(self, here: str, there: str) -> Iterator[FolderTensor]:
        """LFM2's convolution and the maps around it, all as wide as the model."""
        hidden, width = self._hidden, self._config["conv_L_cache"]
        maps = (("in_proj", 3 * hidden), ("out_proj", hidden))
        for name, rows in maps:
            stored = f"{there}shortconv.{name}.weight"
            yield _whole(f"{here}conv.{name}.weight", stored, (rows, hidden))
        taps = StoredPart(f"{there}shortconv.conv.weight", (hidden, width))
        yield FolderTensor(f"{here}conv.conv.weight", (hidden, 1, width), ((taps,),))

    def _mamba2(self, here: str, there: str) -> Iterator[FolderTensor]:
        """Mamba-2. A file has what `A_log` is the logarithm of, with its sign, and columns of one."""
        config = self._config
        heads, groups = config["mamba_n_heads"], config["mamba_n_groups"]
        inner, width = heads * config["mamba_d_head"], config["mamba_d_conv"]
        channels = inner + 2 * groups * config["mamba_d_state"]
        here, there = f"{here}mamba.", f"{there}ssm_"
        own = (inner + channels + heads, self._hidden)
        yield _whole(f"{here}in_proj.weight", f"{there}in.weight", own)
        taps = StoredPart(f"{there}conv1d.weight", (channels, width))
        yield FolderTensor(f"{here}conv1d.weight", (channels, 1, width), ((taps,),))
        if config["mamba_conv_bias"]:
            yield _whole(f"{here}conv1d.bias", f"{there}conv1d.bias", (channels,))
        yield _whole(f"{here}out_proj.weight", f"{there}out.weight", (self._hidden, inner))
        yield _whole(f"{here}dt_bias", f"{there}dt.bias", (heads,))
        for name, stored in (("A_log", "a"), ("D", "d")):
            way = (StoredPart(f"{there}{stored}", (heads, 1)),)
            yield FolderTensor(f"{here}{name}", (heads,), (way,), is_negative_exp=name == "A_log")
        if config.get("mamba_rms_norm", True):
            norm = StoredPart(f"{there}norm.weight", (groups, inner // groups))
            yield FolderTensor(f"{here}norm.weight", (inner,), ((norm,),))

    def _sparse(self, here: str, there: str, family: ExpertFamily) -> Iterator[FolderTensor]:
        """The router and the experts of a layer."""
        count, size = self._config[family.count], self._config[family.size]
        whole = (count, self._hidden)
        yield _whole(f"{here}{family.router}.weight", f"{there}ffn_gate_inp.weight", whole)
        if family.biases:
            yield _whole(f"{here}{family.router}.bias", f"{there}ffn_gate_inp.bias", (count,))
        if family.correction:
            shape = (1, count) if family.correction_is_row else (count,)
            bias = _whole(f"{here}{family.correction}", f"{there}exp_probs_b.bias", shape)
            yield bias if "exp_probs_b" in self._stored_biases else _zeros(bias)
        for expert in range(count):
            own = f"{here}{family.experts.format(expert)}"
            for role, name in zip(_ROLES, family.maps, strict=True):
                yield self._expert(f"{own}{name}.weight", there, role, expert, count, size)
                if family.biases:
                    rows = self._hidden if role == "down" else size
                    stored = f"{there}ffn_{role}_exps.bias"
                    part = StoredPart(stored, (count, rows), expert * rows, rows)
                    yield FolderTensor(f"{own}{name}.bias", (rows,), ((part,),))
        shared = family.shared_width(self._config)
        if shared:
            yield from self._shared(here, there, family, shared)

    def _shared(
        self, here: str, there: str, family: ExpertFamily, size: int
    ) -> Iterator[FolderTensor]:
        """The shared expert, in which a folder may have gate and up fused."""
        if family.shared_score:
            score = f"{there}ffn_gate_inp_shexp.weight"
            yield _whole(f"{here}{family.shared_score}.weight", score, (1, self._hidden))
        gate, up = (
            StoredPart(f"{there}ffn_{role}_shexp.weight", (size, self._hidden))
            for role in ("gate", "up")
        )
        *first, last = family.shared_maps
        ways = ((gate, up),) if len(first) == 1 else ((gate,), (up,))
        for name, way in zip(first, ways, strict=True):
            shape = (size * len(way), self._hidden)
            yield FolderTensor(f"{here}{family.shared}{name}.weight", shape, (way,))
        down = f"{there}ffn_down_shexp.weight"
        yield _whole(f"{here}{family.shared}{last}.weight", down, (self._hidden, size))

    def _expert(
        self, name: str, there: str, role: str, expert: int, experts: int, size: int
    ) -> FolderTensor:
        """A map of one expert: rows of a tensor of all, or a tensor of its own, as before April 2024."""
        shape = (self._hidden, size) if role == "down" else (size, self._hidden)
        rows, columns = shape
        stacked = StoredPart(
            f"{there}ffn_{role}_exps.weight", (experts, *shape), expert * rows, rows
        )
        ways = [(stacked,)]
        if role != "down":
            first = 2 * rows * expert + (rows if role == "up" else 0)
            both = (experts, 2 * rows, columns)
            ways.append((StoredPart(f"{there}ffn_gate_up_exps.weight", both, first, rows),))
        ways.append((StoredPart(f"{there}ffn_{role}.{expert}.weight", shape),))
        return FolderTensor(name, shape, tuple(ways))


def norms_of(architecture: Architecture, config: Mapping[str, Any]) -> Mapping[str, str]:
    """The norms of a layer: their names in a file, and in a folder."""
    if architecture.name == "stablelm" and config["use_parallel_residual"]:
        return ONE_NORM
    if architecture.name == "falcon":
        return FALCON_NORMS if config["num_ln_in_parallel_attn"] == 2 else ONE_NORM
    return architecture.norms


def _whole(name: str, stored: str, shape: tuple[int, ...], shift: float = 0.0) -> FolderTensor:
    """A tensor that a file has as a folder has it."""
    return FolderTensor(name, shape, ((StoredPart(stored, shape),),), shift=shift)


def _zeros(wanted: FolderTensor) -> FolderTensor:
    """A bias that no layer of the file has."""
    return FolderTensor(wanted.name, wanted.shape, ())
