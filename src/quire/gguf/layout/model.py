"""All tensors of a model, by its architecture and its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

from quire.gguf.architectures.classic import FALCON_NORMS
from quire.gguf.architectures.declaration import ONE_NORM, Architecture
from quire.gguf.config.classic import XIELU
from quire.gguf.config.experts import FAMILIES
from quire.gguf.layout import gemma
from quire.gguf.layout.attention import attention
from quire.gguf.layout.experts import sparse
from quire.gguf.layout.mixers import delta_net, kimi_delta, latent, mamba2, short_conv
from quire.gguf.layout.sizes import Block, Sizes
from quire.gguf.layout.tensors import FolderTensor, StoredPart, whole

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"


class Layout:
    """The tensors of one model."""

    def __init__(
        self, architecture: Architecture, config: Mapping[str, Any], stored_biases: Set[str]
    ) -> None:
        self._architecture, self._config = architecture, config
        self._sizes = Sizes(architecture, config, stored_biases)
        self._blocks = [Block(self._sizes, layer) for layer in range(self._sizes.layers)]

    def tensors(self) -> Iterator[FolderTensor]:
        """All tensors, in the model's order."""
        table = (self._config["vocab_size"], self._sizes.hidden)
        architecture = self._architecture
        yield whole(self._own_name("model.embed_tokens.weight"), EMBEDDINGS, table)
        if architecture.positions:
            shape = (self._config["max_position_embeddings"], self._sizes.hidden)
            yield whole("model.embed_positions.weight", "position_embd.weight", shape)
        if architecture.embedding_norm:
            yield from _norm(self._sizes, "model.embed_norm", "token_embd_norm")
        if architecture.layer_inputs:
            yield from gemma.shared_tensors(self._sizes)
        for block in self._blocks:
            for tensor in _layer(block):
                yield replace(tensor, name=self._own_name(tensor.name))
        if architecture.norms:
            for tensor in _norm(self._sizes, "model.norm", architecture.final_norm):
                yield replace(tensor, name=self._own_name(tensor.name))
        if not self._config["tie_word_embeddings"]:
            yield whole("lm_head.weight", HEAD, table)
        if architecture.head_bias:
            yield whole("lm_head.bias", "output.bias", table[:1])

    def unused(self) -> Iterator[str]:
        """Tensors that a file may have and nothing reads: keys and values that a layer does not need."""
        for block in self._blocks:
            if self._sizes.shares_keys(block.layer):
                for role in ("attn_k", "attn_v", "attn_k_norm"):
                    yield f"{block.there}{role}.weight"

    def _own_name(self, name: str) -> str:
        for llama, own in self._architecture.renames:
            name = name.replace(llama, own)
        return name


def norms_of(architecture: Architecture, config: Mapping[str, Any]) -> Mapping[str, str]:
    """The norms of a layer: their names in a file, and in a folder."""
    if architecture.name == "stablelm" and config["use_parallel_residual"]:
        return ONE_NORM
    if architecture.name == "falcon":
        return FALCON_NORMS if config["num_ln_in_parallel_attn"] == 2 else ONE_NORM
    return architecture.norms


def _layer(block: Block) -> Iterator[FolderTensor]:
    yield from _norms(block)
    yield from _mixing(block)
    yield from _ffn(block)
    if block.sizes.architecture.layer_inputs:
        yield from gemma.layer_tensors(block)


def _norms(block: Block) -> Iterator[FolderTensor]:
    sizes, config = block.sizes, block.sizes.config
    for stored, name in norms_of(sizes.architecture, config).items():
        yield from _norm(sizes, f"{block.here}{name}", f"{block.there}{stored}")
    if "xielu_beta" in config:
        for one in XIELU:
            fill = config[f"xielu_{one}"][block.layer]
            yield FolderTensor(f"{block.here}mlp.act_fn.{one}", (1,), (), fill=fill)


def _norm(sizes: Sizes, name: str, stored: str) -> Iterator[FolderTensor]:
    """A norm of the residual stream."""
    shape, architecture = (sizes.hidden,), sizes.architecture
    # One of Falcon-H1's is stored without a suffix.
    ways = tuple((StoredPart(one, shape),) for one in (f"{stored}.weight", stored))
    yield FolderTensor(f"{name}.weight", shape, ways, shift=architecture.norm_shift)
    if architecture.norm_biases:
        yield whole(f"{name}.bias", f"{stored}.bias", shape)


def _mixing(block: Block) -> Iterator[FolderTensor]:
    """Attention, what is in its place, or both."""
    mixer = block.sizes.architecture.mixer
    kind = block.sizes.kind(block.layer) if mixer else "full_attention"
    if mixer == "latent" or (mixer == "kimi_delta" and kind == "full_attention"):
        yield from latent(block)
        return
    if mixer == "kimi_delta":
        yield from kimi_delta(block)
        return
    if kind == "linear_attention":
        yield from delta_net(block)
    elif kind == "conv":
        yield from short_conv(block)
    elif kind in ("mamba", "hybrid"):
        yield from mamba2(block)
    if kind in ("attention", "full_attention", "hybrid"):
        yield from attention(block)


def _ffn(block: Block) -> Iterator[FolderTensor]:
    config = block.sizes.config
    if block.sizes.architecture.one_part and block.sizes.kind(block.layer) not in ("mlp", "moe"):
        return
    family = FAMILIES.get(config["model_type"])
    has_experts = family is not None and bool(config.get(family.count))
    if family is not None and has_experts and family.is_sparse(config, block.layer):
        yield from sparse(block, family)
        if not family.beside_dense:
            return
    yield from _dense(block)


def _dense(block: Block) -> Iterator[FolderTensor]:
    hidden, ffn = block.sizes.hidden, block.sizes.ffn(block.layer)
    architecture = block.sizes.architecture
    if architecture.model_type == "granitemoehybrid":
        yield _fused_apart(block, hidden, ffn)
    elif architecture.fused_gate_up:
        yield block.whole("mlp.gate_up_proj.weight", "ffn_up.weight", (2 * ffn, hidden))
    else:
        for role in ("gate", "up") if architecture.gated else ("up",):
            yield from block.linear(f"mlp.{role}_proj", f"ffn_{role}", ffn, hidden)
    yield from block.linear("mlp.down_proj", "ffn_down", hidden, ffn)


def _fused_apart(block: Block, hidden: int, ffn: int) -> FolderTensor:
    """Gate and up, which a file has apart and the folder in one tensor."""
    parts = tuple(
        StoredPart(f"{block.there}ffn_{role}.weight", (ffn, hidden)) for role in ("gate", "up")
    )
    name = f"{block.here}shared_mlp.input_linear.weight"
    return FolderTensor(name, (2 * ffn, hidden), (parts,))
