"""What kernels are told of weights: linear maps, norms, and the experts of a layer.

An `int` whose comment names a shape is the address of such an array. Nothing here needs a kernel, so that
a start with compiled kernels imports none.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.structs import Struct, Structs


class LinearMap(Struct):
    """A linear map: where its weight is, how that is stored, and what multiplies with it."""

    weight: int  # (columns, depth) as floats; the codes of quantised ones
    bias: int  # (columns,) float32, or 0
    columns: int
    depth: int
    kernel: int  # the address of the kernel that multiplies: see `linear.linear_columns`
    # Of quantised weights: see `quantized_tiles` and, for those in GGUF's blocks, `block_tiles`.
    rounder: int  # the address of the kernel that rounds rows for it: see `linear.quantize_for`
    row_bytes: int  # from one rounded row to the next
    scales: int
    zeros: int
    supers: int
    repeat: int
    span: int
    packed_depth: int
    unit: float


class Norm(Struct):
    """A norm of rows: see `rowwise.norm_row`."""

    kernel: int  # the address of the kernel of a layer norm; 0 for the root of the mean square
    weight: int  # (size,), or (heads, size); 0 for none, which layer norms may lack
    bias: int  # the same shape, or 0; layer norms alone have one
    stride: int  # bytes from one head's weights to the next one's; 0 if all have the same
    eps: float


class Xielu(Struct):
    """The numbers of a layer's xIELU: see `activations.xielu`."""

    positive: float
    negative: float
    beta: float
    eps: float


class Experts(Struct):
    """The sparse FFN of one layer, and the memory of routing, which all layers share."""

    norm: Norm | None
    post_norm: Norm | None
    stream_scale: float  # see `Output`
    # Of those beside a dense FFN.
    output_norm: Norm | None
    dense_norm: Norm | None  # of the dense FFN's output
    activation: int
    is_gated: bool
    count: int
    all: int  # with the shared expert
    per_token: int
    ffn: int
    width: int  # of what a chosen expert reads and gives
    latent_in: LinearMap | None  # None: they read the layer's input
    latent_entry: int  # of adapters, for it
    # How experts are chosen and weighted: see `RouterSpec`.
    router: LinearMap
    router_norm: Norm | None  # None: the router reads `norm`
    scores: int  # one of `layout`'s
    is_normalised: bool
    least_sum: float
    scale: float
    expert_scales: int  # (count,), or 0
    correction: int  # (count,), or 0
    groups: int
    chosen_groups: int
    is_best_only: bool  # a group is as good as its best expert
    weights_inputs: bool
    shared_score: LinearMap | None  # None: the shared expert has weight 1
    first_entry: int  # of the layer, among the expert entries of adapters
    maps: Structs[LinearMap]  # gate (or up again), up, down of each expert, the shared one last
    # One that rounds rows for gate and up of all experts that take them so.
    input_map: LinearMap | None
    router_scores: int  # (rows, count)
    choice: int  # the same, with the correction and without the groups that are out; or 0
    group_scores: int  # (rows, groups), where there is `choice`
    shared_scores: int  # (rows,)
    chosen: int  # (rows, per_token) int32
    chosen_weights: int  # (rows, per_token)
    starts: int  # (count + 2,) int64
    grouped_rows: int  # (rows * (per_token + 1),) int32
    grouped_weights: int  # the same, float32


class DeltaNet(Struct):
    """The gated delta rule of one layer: its sizes, its small weights, and the states of sequences."""

    key_heads: int
    value_heads: int  # a multiple of the key heads
    key_size: int
    value_size: int
    log_decay: int  # (value_heads,): A_log
    step_bias: int  # (value_heads,), or (value_heads, key_size) if each dimension has a decay
    has_sigmoids: bool  # the gates of the output are sigmoids, and not SiLUs
    rate_scale: float  # the most that a state learns of a row
    is_tiled: bool  # value heads leave in another order: see `delta_net.place_of`
    norm: int  # (value_size,)
    norm_eps: float
    states: int  # of this layer in slot 0: (value heads, slices, key size, COLUMNS)
