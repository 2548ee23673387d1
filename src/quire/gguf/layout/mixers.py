"""What layers have in place of attention, or beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from quire.gguf.config.mixers import SPLIT_MAPS
from quire.gguf.layout.sizes import Block
from quire.gguf.layout.tensors import FolderTensor, StoredPart, Way, whole


def latent(block: Block) -> Iterator[FolderTensor]:
    """Latent attention, whose maps of heads a file has apart, those of keys on their side."""
    config, hidden, own = block.sizes.config, block.sizes.hidden, f"{block.here}self_attn."
    heads, rank, q_rank = block.sizes.heads, config["kv_lora_rank"], config["q_lora_rank"]
    nope, rope, value = (
        config[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    )
    q = heads * (nope + rope)
    if q_rank:
        yield whole(f"{own}q_a_proj.weight", f"{block.there}attn_q_a.weight", (q_rank, hidden))
        yield whole(f"{own}q_a_layernorm.weight", f"{block.there}attn_q_a_norm.weight", (q_rank,))
        yield whole(f"{own}q_b_proj.weight", f"{block.there}attn_q_b.weight", (q, q_rank))
    else:
        yield whole(f"{own}q_proj.weight", f"{block.there}attn_q.weight", (q, hidden))
    both = (rank + rope, hidden)
    yield whole(f"{own}kv_a_proj_with_mqa.weight", f"{block.there}attn_kv_a_mqa.weight", both)
    yield whole(f"{own}kv_a_layernorm.weight", f"{block.there}attn_kv_a_norm.weight", (rank,))
    if config[SPLIT_MAPS]:
        for role, rows, columns in (("k", rank, nope), ("v", value, rank)):
            stack = StoredPart(f"{block.there}attn_{role}_b.weight", (heads, rows, columns))
            shape = (heads * rows, columns)
            yield FolderTensor(f"{own}{role}_b_proj.weight", shape, ((stack,),))
    else:
        shape = (heads * (nope + value), rank)
        yield whole(f"{own}kv_b_proj.weight", f"{block.there}attn_kv_b.weight", shape)
    yield whole(f"{own}o_proj.weight", f"{block.there}attn_output.weight", (hidden, heads * value))


def kimi_delta(block: Block) -> Iterator[FolderTensor]:
    """Kimi Delta Attention, whose convolutions are over queries, keys and values apart."""
    config, hidden, own = block.sizes.config, block.sizes.hidden, f"{block.here}self_attn."
    heads, size = config["linear_num_heads"], config["linear_head_dim"]
    width, taps = heads * size, config["linear_conv_kernel_dim"]
    for role in "qkv":
        map_of = f"{block.there}attn_{role}.weight"
        yield whole(f"{own}{role}_proj.weight", map_of, (width, hidden))
        shape = (width, 1, taps)
        yield whole(f"{own}{role}_conv1d.weight", f"{block.there}ssm_conv1d_{role}.weight", shape)
    for name, stored, shape in (
        ("b_proj", "ssm_beta", (heads, hidden)),
        ("f_a_proj", "ssm_f_a", (size, hidden)),
        ("f_b_proj", "ssm_f_b", (width, size)),
        ("g_a_proj", "ssm_g_a", (size, hidden)),
        ("g_b_proj", "ssm_g_b", (width, size)),
        ("o_norm", "ssm_norm", (size,)),
        ("o_proj", "attn_output", (hidden, width)),
    ):
        yield whole(f"{own}{name}.weight", f"{block.there}{stored}.weight", shape)
    yield whole(f"{own}dt_bias", f"{block.there}ssm_dt.bias", (width,))
    decays = StoredPart(f"{block.there}ssm_a", (heads, 1))
    yield FolderTensor(f"{own}A_log", (heads,), ((decays,),), is_negative_exp=True)


def delta_net(block: Block) -> Iterator[FolderTensor]:
    """A gated delta net, whose value heads may be in llama.cpp's order."""
    config, hidden, own = block.sizes.config, block.sizes.hidden, f"{block.here}linear_attn."
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    size, group = config["linear_value_head_dim"], values // keys
    both, width = 2 * keys * config["linear_key_head_dim"], values * size
    order = [head % group * keys + head // group for head in range(values)]
    order = order if block.sizes.architecture.tiled_values else list(range(values))

    def heads(stored: str, shape: tuple[int, ...], first: int, rows: int) -> Way:
        """The value heads of a tensor in a folder's order, from row `first` on."""
        return tuple(StoredPart(stored, shape, first + rows * head, rows) for head in order)

    for name, stored, columns in (
        ("in_proj_qkv.weight", "attn_qkv.weight", (hidden,)),
        ("conv1d.weight", "ssm_conv1d.weight", (config["linear_conv_kernel_dim"],)),
    ):
        shape = (both + width, *columns)
        way = (
            StoredPart(block.there + stored, shape, 0, both),
            *heads(block.there + stored, shape, both, size),
        )
        mine = (both + width, 1, *columns) if name.startswith("conv") else shape
        ways = (way, _old_parts(block, (0, 1, 2))) if name.startswith("in_proj") else (way,)
        yield FolderTensor(own + name, mine, ways)
    shape = (width, hidden)
    ways = (heads(f"{block.there}attn_gate.weight", shape, 0, size), _old_parts(block, (3,)))
    yield FolderTensor(f"{own}in_proj_z.weight", shape, ways)
    for index, (name, stored) in enumerate((("b", "ssm_beta"), ("a", "ssm_alpha"))):
        way = heads(f"{block.there}{stored}.weight", (values, hidden), 0, 1)
        together = StoredPart(f"{block.there}ssm_ba.weight", (2 * values, hidden))
        starts = range(index * group, 2 * values, 2 * group)
        fused = tuple(together._replace(first=start, rows=group) for start in starts)
        yield FolderTensor(f"{own}in_proj_{name}.weight", (values, hidden), (way, fused))
    decays = heads(f"{block.there}ssm_a", (values,), 0, 1)
    yield FolderTensor(f"{own}A_log", (values,), (decays,), is_negative_exp=True)
    yield FolderTensor(
        f"{own}dt_bias", (values,), (heads(f"{block.there}ssm_dt.bias", (values,), 0, 1),)
    )
    yield whole(f"{own}norm.weight", f"{block.there}ssm_norm.weight", (size,))
    out = whole(f"{own}out_proj.weight", f"{block.there}ssm_out.weight", (hidden, width))
    tiles = (keys, group) if block.sizes.architecture.tiled_values else (1, 1)
    yield replace(out, tiles=tiles)


def _old_parts(block: Block, parts: tuple[int, ...]) -> Way:
    """Parts of a tensor of all maps, as in the first files of Qwen3-Next: by key head q, k, v and z."""
    config = block.sizes.config
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key_size = config["linear_key_head_dim"]
    wide = values // keys * config["linear_value_head_dim"]
    sizes = (key_size, key_size, wide, wide)
    each = sum(sizes)
    whole = StoredPart(f"{block.there}ssm_in.weight", (keys * each, block.sizes.hidden))
    return tuple(
        whole._replace(first=head * each + sum(sizes[:part]), rows=sizes[part])
        for part in parts
        for head in range(keys)
    )


def short_conv(block: Block) -> Iterator[FolderTensor]:
    """LFM2's convolution and the maps around it, all as wide as the model."""
    hidden, width = block.sizes.hidden, block.sizes.config["conv_L_cache"]
    maps = (("in_proj", 3 * hidden), ("out_proj", hidden))
    for name, rows in maps:
        stored = f"{block.there}shortconv.{name}.weight"
        yield whole(f"{block.here}conv.{name}.weight", stored, (rows, hidden))
    taps = StoredPart(f"{block.there}shortconv.conv.weight", (hidden, width))
    yield FolderTensor(f"{block.here}conv.conv.weight", (hidden, 1, width), ((taps,),))


def mamba2(block: Block) -> Iterator[FolderTensor]:
    """Mamba-2. A file has what `A_log` is the logarithm of, with its sign, and columns of one."""
    config = block.sizes.config
    heads, groups = config["mamba_n_heads"], config["mamba_n_groups"]
    inner, width = heads * config["mamba_d_head"], config["mamba_d_conv"]
    channels = inner + 2 * groups * config["mamba_d_state"]
    here, there = f"{block.here}mamba.", f"{block.there}ssm_"
    own = (inner + channels + heads, block.sizes.hidden)
    yield whole(f"{here}in_proj.weight", f"{there}in.weight", own)
    taps = StoredPart(f"{there}conv1d.weight", (channels, width))
    yield FolderTensor(f"{here}conv1d.weight", (channels, 1, width), ((taps,),))
    if config["mamba_conv_bias"]:
        yield whole(f"{here}conv1d.bias", f"{there}conv1d.bias", (channels,))
    yield whole(f"{here}out_proj.weight", f"{there}out.weight", (block.sizes.hidden, inner))
    yield whole(f"{here}dt_bias", f"{there}dt.bias", (heads,))
    for name, stored in (("A_log", "a"), ("D", "d")):
        way = (StoredPart(f"{there}{stored}", (heads, 1)),)
        yield FolderTensor(f"{here}{name}", (heads,), (way,), is_negative_exp=name == "A_log")
    if config.get("mamba_rms_norm", True):
        norm = StoredPart(f"{there}norm.weight", (groups, inner // groups))
        yield FolderTensor(f"{here}norm.weight", (inner,), ((norm,),))
