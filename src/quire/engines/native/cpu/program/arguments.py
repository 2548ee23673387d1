"""What the operations of a step are told: of the step itself, and each of its own layer.

An `int` whose comment names a shape is the address of such an array, of float32 unless it says otherwise.
After the structure of an operation come its phases, as `phases` has them. Nothing here needs a kernel, so
that a start with compiled kernels imports none.
"""

from __future__ import annotations

from collections.abc import Mapping

from quire.engines.native.cpu.compiler.structs import Struct, Structs
from quire.engines.native.cpu.kernels.arguments import DeltaNet, LinearMap, Norm, Xielu

# ---- the step


class Instruction(Struct):
    """One operation of a program: the addresses of its kernel and of its arguments, its first phase."""

    kernel: int
    arguments: int
    phase: int


class LoraEntry(Struct):
    """What an adapter has for one linear map: `x @ a.T @ b`, and a bias."""

    a: LinearMap  # where there is b
    b: int  # panels of LORA_PANEL columns, each (rank, LORA_PANEL); 0 if there is no product
    bias: int  # (columns,), or 0


class LoraAdapter(Struct):
    """An adapter: its own embeddings or 0, and what it has for each linear map."""

    embeddings: int  # (vocabulary, hidden)
    is_bfloat16: bool
    entries: Structs[LoraEntry]  # EMBEDDINGS_ENTRY, HEAD_ENTRY, then LORA_MAPS of each layer
    inner_entries: Structs[LoraEntry] | None  # see `layout.inner_entries`


class LoraRun(Struct):
    """Neighbouring rows with one adapter."""

    adapter: LoraAdapter
    first: int
    rows: int


class HeadRun(Struct):
    """Neighbouring rows of the logits with one head: an adapter's own, or the model's."""

    head: LinearMap | None
    first: int
    rows: int


class LoraBatch(Struct):
    """The adapters of a batch in which some row has one."""

    kernel: int  # the address of the kernel that adds their products: see `lora.add_lora`
    mask: int  # a bit for each entry of embeddings, head and one layer: whether any layer uses it
    runs: Structs[LoraRun]
    run_count: int
    head_runs: Structs[LoraRun]
    head_run_count: int
    heads: Structs[HeadRun]
    head_count: int
    h: int  # the small products x @ a.T, of the maps of one input
    h_bytes: int  # from one map's to the next
    h_stride: int  # from one row to the next, of the largest rank
    inner_kernel: int  # the address of `lora.add_inner_products`; 0 if no adapter has such entries
    thread_h: int  # for the small products of these: SCRATCH_ROWS rows of each thread
    thread_h_bytes: int  # from one thread's to the next


class Step(Struct):
    """What all operations share: the model's sizes, scratch memory, and the batch of this step."""

    program: Structs[Instruction]
    program_length: int
    # The model's sizes.
    hidden: int
    vocab: int
    group: int  # the most query heads of a layer that share a key-value head
    residual_scale: float
    # The KV cache's.
    block_size: int
    num_blocks: int
    kv_kind: int
    k_run: int  # bytes from one run of a head's blocks of keys to its next: see `attention`
    v_run: int  # the same of values
    max_len: int
    # Those of sequences' states, of models that have some.
    num_slots: int
    state_stride: int  # bytes from one slot to the next
    # The team of threads: see `phases`.
    threads: int
    sync: int
    counters: int
    phase_times: int  # where the clock is written at the end of each phase, or 0
    scratch: int  # of each thread for itself
    scratch_bytes: int  # of one thread
    scratch_quantized: int  # the offset in that of few rows as int8
    # Activations of all rows.
    residual: int
    normed: int
    quantized: int  # rows as int8
    queries: int
    keys: int
    values: int
    attention_out: int
    gate: int
    up: int
    layer_inputs: int  # (rows, layers * size), of models that have some
    beside: (
        int  # (rows, hidden), of models with experts beside dense FFNs, or LAuReL beside attention
    )
    latents: int  # (rows, latent_size), of models whose experts have latents
    streams: int  # (streams, rows, hidden), of models with AltUp
    tiles: int  # (tiles, 3) int64: see `attention.plan_tiles`
    tile_count: int
    # The batch.
    is_invalid: bool  # set by a step whose batch points outside its arrays; it computes nothing
    rows: int
    sequences: int
    token_ids: int  # (rows,) int32
    positions: int  # (rows,) int32
    rope_positions: (
        int  # (rows,) int32: indices into angles; `positions` unless M-RoPE gives others
    )
    slots: int  # (rows,) int64
    query_start: int  # (sequences + 1,) int32
    context_lens: int  # (sequences,) int32
    block_tables: int  # (sequences, table_width) int32
    table_width: int
    state_slots: int  # (sequences,) int32: where the state of each is
    state_saves: (
        int  # (rows,) int32: a slot that also gets the state after the row, -1 for none; or 0
    )
    last_seen: (
        int  # (rows,) int32: the last position that each sees; `positions` unless media see more
    )
    embeds: int  # (embed_count, hidden) embeddings that the batch brings
    embed_count: int
    embed_index: int  # (rows,) int32: each row's index into them, -1 for none; or 0
    deep_embeds: int  # (layers, embed_count, hidden), which are added after these layers; or 0
    logits_rows: int  # (normed_count,) int32
    normed_count: int  # rows that get the last norm; the first `logits_count` get the head
    logits_count: int
    logits: int  # (logits_count, vocab)
    adapters: LoraBatch | None


CHECK_PHASE, STEP_PHASES = range(2)


# ---- its operations


class TokenEmbeddings(Struct):
    """`embed`: the beginning of the residual stream."""

    table: int  # (vocab, hidden), or 0
    is_bfloat16: bool
    packed: LinearMap | None  # the table, if it is in blocks
    reader: int  # the address of the kernel that reads its rows: see `block_linear.READ`
    scale: float
    positions: int  # (positions, hidden), which are added to them; or 0
    norm: Norm | None


EMBED_PHASE, EMBED_PHASES = range(2)


class Angles(Struct):
    """The tables of a rotary embedding."""

    cosines: int  # (positions, rotary_dim / 2)
    sines: int


class QueryFactors(Struct):
    """What queries are multiplied by, depending on their position."""

    factors: int  # (positions,)


(INPUT_NORM, INPUT_ROWS, INPUT_LORA, INPUT_PHASES) = range(4)
"""The first phases of an operation that norms the residual stream: see `linear_phases.input_phases`."""
(MAP_LORA, MAP_ROWS, MAP_COLUMNS, MAP_PHASES) = range(4)
"""Those of a linear map by itself: see `linear_phases.map_columns`."""


class Projection(Struct):
    """`project`: norm, queries, keys and values, rotary embedding, and the write to the cache."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    norm: Norm | None
    units: int  # heads of queries, keys, values and gates that are made of the norm
    q: LinearMap
    k: LinearMap | None  # None: the keys and values of another layer are used
    v: LinearMap | None  # None: what `k` makes are the values too
    z: LinearMap | None  # the gate of what attention gives, computed into `step.gate`
    clip: float  # of queries, keys and values; 0 for none
    q_norm: Norm | None  # of a head, or of all heads with `norms_widths`
    k_norm: Norm | None
    v_norm: Norm | None
    norms_widths: bool  # a norm is over all heads of a row
    norms_last: bool  # the norms of heads come after the rotary embedding
    angles: Angles | None
    rotary_dim: int
    is_interleaved: bool
    scale: float  # of the scores, which queries are multiplied by
    value_scale: float
    query_factors: QueryFactors | None  # and this
    k_cache: int
    v_cache: int
    entry: int  # of adapters, for q; k, v and z follow


(PROJECT_HEADS, PROJECT_WIDTHS, PROJECT_PHASES) = range(INPUT_PHASES, INPUT_PHASES + 3)


class Attention(Struct):
    """`attend_...`: attention over the cache."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    k_cache: int  # of latents too
    v_cache: int
    window: int
    is_chunked: bool
    cap: float
    out: int  # (rows, heads, value_dim)
    sinks: int  # (heads,), or 0
    is_gated: bool  # by the sigmoid of `step.gate`
    slopes: int  # (heads,) of ALiBi, or 0


ATTEND_PHASE, ATTEND_PHASES = range(2)


class LatentAttention(Struct):
    """`latent_project`, `latent_queries` and `latent_values`, around attention over latents."""

    norm: Norm | None
    heads: int
    q_rank: int  # 0: `q_a` makes the queries
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    q_a: LinearMap
    q_a_norm: int  # (q_rank,)
    q_b: LinearMap | None
    kv_a: LinearMap  # the rotated key, then the latent
    kv_a_norm: int  # (kv_rank,)
    keys: Structs[LinearMap]  # for each head, what its query is multiplied by
    values: Structs[LinearMap]  # for each head, what makes its value of the latent
    eps: float
    angles: Angles | None
    is_interleaved: bool
    scale: float  # of the scores
    cache: int  # of latents and rotated keys
    entry: int  # of adapters, for q_a and kv_a
    q_b_entry: int
    heads_entry: int  # of the keys of heads among the inner ones; those of values follow


(LATENT_MAPS, LATENT_STORE, LATENT_PHASES) = range(INPUT_PHASES, INPUT_PHASES + 3)
QUERY_HEADS, QUERY_PHASES = range(MAP_PHASES, MAP_PHASES + 2)
VALUE_HEADS, VALUE_PHASES = range(2)


class InputMap(Struct):
    """The norm and the input map of a layer without attention, which is computed into `step.gate`."""

    norm: Norm | None
    linear: LinearMap
    entry: int


class CausalConv(Struct):
    """A causal convolution over each channel: see `causal_conv`."""

    channels: int
    width: int
    taps: int  # (width, channels)
    bias: int  # (channels,), or 0
    is_silu: bool
    states: int  # of this layer in slot 0: (width - 1, channels)


class GatedDeltaNet(Struct):
    """`project_delta` and `delta_rule`: the maps of a gated delta net, its convolutions, its rule."""

    norm: Norm | None
    q: LinearMap
    k: LinearMap
    v: LinearMap
    z: LinearMap  # the gate of the output
    rate: LinearMap  # a column for each value head
    decay: LinearMap  # the same
    entry: int  # of adapters, for q; those for the others follow
    # Of Kimi's, whose z and decay make small vectors: what reads these; else None.
    z_b: LinearMap | None
    z_b_entry: int
    decay_b: LinearMap | None
    decay_b_entry: int
    q_conv: CausalConv
    k_conv: CausalConv
    v_conv: CausalConv
    net: DeltaNet


DELTA_HEADS, DELTA_PROJECT_PHASES = range(INPUT_PHASES, INPUT_PHASES + 2)
(DELTA_SLICES, DELTA_GATES, DELTA_RULE_PHASES) = range(3)
SMALL_GATES, SMALL_DECAYS, SMALL_FINISH = 0, MAP_PHASES, 2 * MAP_PHASES
SMALL_PHASES = SMALL_FINISH + 1


class ShortConv(Struct):
    """`short_conv`: an input map of three parts, and their convolution."""

    input: InputMap
    conv: CausalConv


SHORT_CONV_CHANNELS, SHORT_CONV_PHASES = range(INPUT_PHASES, INPUT_PHASES + 2)


class Mamba2(Struct):
    """`mamba2`: an input map of five parts, the convolution of three, the scan, and the gate."""

    input: InputMap
    multipliers: int  # (columns,) of the input map, or 0
    conv: CausalConv
    heads: int
    head_dim: int
    groups: int
    state_size: int
    a: int  # (heads,)
    d: int  # (heads,)
    dt_bias: int  # (heads,)
    least_step: float
    largest_step: float
    states: int  # of this layer in slot 0: (heads, state_size, head_dim)
    gate_norm: int  # (heads * head_dim,), or 0
    eps: float
    norm_groups: int
    gates_last: bool
    out_scale: float
    is_beside_attention: bool  # then what is read goes to `step.up`, else to `step.attention_out`


MAMBA2_COLUMNS = INPUT_PHASES
MAMBA2_SCAN, MAMBA2_GATE, MAMBA2_PHASES = range(MAMBA2_COLUMNS + 1, MAMBA2_COLUMNS + 4)


class Output(Struct):
    """`attention_output`: a linear map that is added to the residual stream."""

    linear: LinearMap
    post_norm: Norm | None
    stream_scale: float  # what the sum is multiplied by, after a norm
    entry: int


OUTPUT_SUM, OUTPUT_PHASES = range(MAP_PHASES, MAP_PHASES + 2)


class DenseFfn(Struct):
    """`dense_gate` or, without a gate, `dense_up`; and `dense_down`."""

    norm: Norm | None
    gate: LinearMap  # without a gate, this is up
    up: LinearMap
    activation: int
    xielu: Xielu | None
    cutoff: float  # of `cut_gate`, with its activation; `dense_gate` has none then
    cut_activation: int
    entry: int  # of adapters, for gate; that for up follows
    gate_scale: float
    up_scale: float
    down: Output


GATE_COLUMNS, GATE_PHASES = range(INPUT_PHASES, INPUT_PHASES + 2)
(ROUTE_NORM, ROUTE_ROWS, ROUTE_SCORES, ROUTE_CHOICE, ROUTE_GROUPS, ROUTE_PHASES) = range(6)
(EXPERTS_ROWS, EXPERTS_GATE, EXPERTS_GATED, EXPERTS_DOWN, EXPERTS_SUM, EXPERTS_PHASES) = range(6)


class LayerInputs(Struct):
    """`layer_inputs`: what each layer gets of a token besides the residual stream."""

    linear: LinearMap  # (layers * layer_size, hidden)
    entry: int
    norm: Norm
    table: int  # (vocabulary, layers * layer_size), or 0
    is_bfloat16: bool
    packed: LinearMap | None  # the table, if it is in blocks: (vocabulary * layers, layer_size)
    reader: int  # as in `TokenEmbeddings`
    vocabulary: int
    layers: int
    layer_size: int
    scale: float  # of what the map gives, before the norm
    table_scale: float
    sum_scale: float


(INPUTS_ROWS, INPUTS_LORA, INPUTS_LAYERS, INPUTS_PHASES) = range(4)


class LayerGate(Struct):
    """`layer_gate` and `layer_out`: how a layer uses its part of these."""

    gate: LinearMap  # (size, hidden)
    entry: int
    activation: int
    first: int  # of the layer's part of a row
    width: int  # of a row
    streams: int  # of `altup_out`, which adds to all of them but the first
    out: Output


class LayerMedia(Struct):
    """`add_media`: what the rows of media get after a layer."""

    layer: int


MEDIA_PHASE, MEDIA_PHASES = range(2)

(LAYER_GATE_ROWS, LAYER_GATE_LORA, LAYER_GATE_COLUMNS, LAYER_GATE_PHASES) = range(4)


class AltUpEnds(Struct):
    """`altup_start` and `altup_end`: all streams from the first, and one from all."""

    streams: int
    maps: Structs[LinearMap]  # of each but the first: (hidden, hidden)


class AltUp(Struct):
    """`altup_predict` and `altup_correct`: what a layer does with all streams, before and after."""

    streams: int
    active: int
    router_norm: Norm
    router: LinearMap  # (streams, hidden)
    prediction: LinearMap  # (streams * streams, streams)
    correction: LinearMap  # (streams, streams)
    output_scale: int  # (hidden,), or 0


class Laurel(Struct):
    """`laurel`: a map of low rank beside attention."""

    active: int
    norm: Norm
    left: LinearMap  # (rank, hidden)
    entry: int
    right: Output


(ALTUP_MAPS, ALTUP_ROWS, ALTUP_END_PHASES) = range(3)
LAUREL_COLUMNS, LAUREL_RIGHT = range(INPUT_PHASES, INPUT_PHASES + 2)


class Head(Struct):
    """`logits`: the last norm, and the head."""

    norm: Norm | None
    linear: LinearMap | None  # a reward model has none
    scale: float
    cap: float


(LAST_NORM, HEAD_ROWS, HEAD_LORA, HEAD_COLUMNS, HEAD_PHASES) = range(5)

PHASES: Mapping[str, int] = {
    "embed": EMBED_PHASES,
    "project": PROJECT_PHASES,
    "attend_float32": ATTEND_PHASES,
    "attend_float16": ATTEND_PHASES,
    "attend_int8": ATTEND_PHASES,
    "project_delta": DELTA_PROJECT_PHASES,
    "delta_rule": DELTA_RULE_PHASES,
    "delta_gates": SMALL_PHASES,
    "kimi_delta_rule": DELTA_RULE_PHASES,
    "short_conv": SHORT_CONV_PHASES,
    "mamba2": MAMBA2_PHASES,
    "mamba2_output": OUTPUT_PHASES,
    "attention_output": OUTPUT_PHASES,
    "attend_latents_float32": ATTEND_PHASES,
    "attend_latents_float16": ATTEND_PHASES,
    "attend_latents_int8": ATTEND_PHASES,
    "latent_project": LATENT_PHASES,
    "latent_queries": QUERY_PHASES,
    "latent_values": VALUE_PHASES,
    "dense_gate": GATE_PHASES,
    "dense_up": GATE_PHASES,
    "dense_down": OUTPUT_PHASES,
    "dense_beside": OUTPUT_PHASES,
    "route": ROUTE_PHASES,
    "experts_in": MAP_PHASES,
    "add_experts": EXPERTS_PHASES,
    "experts_out": OUTPUT_PHASES,
    "add_media": MEDIA_PHASES,
    "layer_inputs": INPUTS_PHASES,
    "layer_gate": LAYER_GATE_PHASES,
    "layer_out": OUTPUT_PHASES,
    "altup_start": ALTUP_END_PHASES,
    "altup_predict": 1,
    "altup_correct": 1,
    "altup_out": OUTPUT_PHASES,
    "altup_end": ALTUP_END_PHASES,
    "laurel": LAUREL_RIGHT + OUTPUT_PHASES,
    "cut_gate": 1,
    "logits": HEAD_PHASES,
}
"""The number of phases of each operation, by the name of its kernel."""
