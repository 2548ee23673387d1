"""What Gemma 3n and 4 have besides: inputs of layers, several residual streams (AltUp), LAuReL."""

from __future__ import annotations

from collections.abc import Iterator

from quire.gguf.config.gemma import STORED_ROWS
from quire.gguf.layout.sizes import Block, Sizes
from quire.gguf.layout.tensors import FolderTensor, StoredPart, whole


def shared_tensors(sizes: Sizes) -> Iterator[FolderTensor]:
    """The tensors of all layers together."""
    config, hidden = sizes.config, sizes.hidden
    size = config["hidden_size_per_layer_input"]
    if size:
        width, tokens = sizes.layers * size, config["vocab_size_per_layer_input"]
        table = StoredPart("per_layer_token_embd.weight", (config[STORED_ROWS], width))
        part = table if tokens == table.shape[0] else table._replace(rows=tokens)
        name = "model.embed_tokens_per_layer.weight"
        yield FolderTensor(name, (tokens, width), ((part,),))
        for name, stored, shape in (
            ("model_projection", "per_layer_model_proj", (width, hidden)),
            ("projection_norm", "per_layer_proj_norm", (size,)),
        ):
            yield whole(f"model.per_layer_{name}.weight", f"{stored}.weight", shape)
    for name, stored in (("", "altup_proj"), ("unembed_", "altup_unembd_proj")):
        others = config.get("altup_num_inputs", 1) - 1
        for stream in range(others):
            stack = (others, hidden, hidden)
            part = StoredPart(f"{stored}.weight", stack, stream * hidden, hidden)
            full = f"model.altup_{name}projections.{stream}.weight"
            yield FolderTensor(full, stack[1:], ((part,),))


def layer_tensors(block: Block) -> Iterator[FolderTensor]:
    """The tensors of one layer."""
    config, hidden = block.sizes.config, block.sizes.hidden
    size = config["hidden_size_per_layer_input"]
    if size:
        for name, stored, shape in (
            ("per_layer_input_gate", "inp_gate", (size, hidden)),
            ("per_layer_projection", "proj", (hidden, size)),
            ("post_per_layer_input_norm", "post_norm", (hidden,)),
        ):
            yield block.whole(f"{name}.weight", f"{stored}.weight", shape)
    if "altup_num_inputs" in config:
        yield from _altup(block, config["altup_num_inputs"], config["laurel_rank"])
    if block.sizes.architecture.name == "gemma4":
        yield block.whole("layer_scalar", "layer_output_scale.weight", (1,))


def _altup(block: Block, streams: int, rank: int) -> Iterator[FolderTensor]:
    hidden = block.sizes.hidden
    for name, stored, shape in (
        ("altup.router_norm.weight", "altup_router_norm", (hidden,)),
        ("altup.modality_router.weight", "altup_router", (streams, hidden)),
        ("altup.prediction_coefs.weight", "altup_predict_coef", (streams * streams, streams)),
        ("altup.correction_coefs.weight", "altup_correct_coef", (streams, streams)),
        ("laurel.linear_left.weight", "laurel_l", (rank, hidden)),
        ("laurel.linear_right.weight", "laurel_r", (hidden, rank)),
        ("laurel.post_laurel_norm.weight", "laurel_post_norm", (hidden,)),
    ):
        yield block.whole(name, f"{stored}.weight", shape)
    if block.sizes.config["altup_correct_scale"]:
        name = "altup.correct_output_scale"
        yield block.whole(name, "altup_correct_scale.weight", (hidden,))
