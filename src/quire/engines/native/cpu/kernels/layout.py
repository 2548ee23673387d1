"""Sizes and kinds that Python and compiled code agree on.

Nothing here needs a kernel, so that a start with compiled kernels imports none.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.targets import current


def _has(feature: str, *, unless: str) -> bool:
    return feature in current().features and unless not in current().features


LANES = 16 if "avx512f" in current().features else 8
"""Float32 values in one register: 16 with AVX-512, else 8. LLVM splits 8 where registers hold 4."""

LINE = 64  # bytes of a cache line
HAS_PAIRS = _has("avx512bw", unless="avx512vnni") if LANES == 16 else _has("avx2", unless="avxvnni")
"""Whether the processor multiplies pairs of bytes, unsigned times signed, to 16-bit sums that saturate, and has
nothing better: x86 before VNNI."""
WIDE_BYTES = 2 if HAS_PAIRS else 0
"""What a value of a rounded row takes beside its int8: the same as int16, for weights of which pairs of
products would saturate."""
CHUNK = 128  # positions of the context between two rescalings of the softmax
# Floats between the scores of two pairs. A power of two would put all pairs into the same few sets
# of the cache, which then evict each other.
SCORE_STRIDE = CHUNK + 16
TILE_PAIRS = (
    24  # (row, query head) pairs of an attention tile, which share the keys and values read
)
COLUMN_GRAIN = 16  # columns that fill a cache line: two threads seldom write to the same one
BLOCK_SIZES = (16, 32, 64, 128)  # each holds whole registers, and CHUNK holds whole blocks
RUN = 128
"""Blocks of a head that are stored together, before those of the next head: a power of two. The system
provides memory in huge pages: if all blocks of a head were together, the first token would take a page for
each head. With runs of 32, steps at 8,000 tokens take some per cent longer."""

# Activations of an FFN.
SILU, GELU_TANH, CLAMPED_SWIGLU, NO_ACTIVATION, GELU, RELU, RELU2, XIELU = range(8)
SOFTMAX, SIGMOID, SIGMOID_OF_CHOSEN = range(3)  # what a router makes of its logits
KV_FLOAT32, KV_FLOAT16, KV_INT8 = range(3)  # kinds of KV caches
LEAST_SPAN = 64  # depths that a scale of 8-bit floats serves at least: a cache line of codes
QUANT_BLOCK = 16  # columns of a quantised map that are stored together
# The linear maps of a layer, by role. Those of one input follow each other: q, k, v and, in layers with
# gates, z, rate and decay; gate and up; q_a and kv_a.
LINEARS = ("q", "k", "v", "z", "rate", "decay", "o", "gate", "up", "down", "q_a", "kv_a", "q_b",
           "layer_inputs", "layer_gate", "layer_out", "laurel_left", "laurel_right", "in",
           "ssm_o", "latent_in", "latent_out", "z_b", "decay_b")  # fmt: skip
UNROUNDED = ("rate", "decay", "decay_b")  # small ones that stay floats: errors of a state's add up

# What the threads of a step share: the number of the step that runs, or 0; the number of threads
# inside it; and for each thread whether it sleeps. Each has a cache line of its own, since different
# threads write them.
OPEN, INSIDE, ASLEEP = 0, LINE, 2 * LINE
# Each phase has two counters, each in its own line: tasks taken, and at DONE tasks finished.
PHASE_BYTES, DONE = 2 * LINE, LINE
# With several tasks for each thread, one that is late or off its CPU leaves its share to the others.
TASKS_PER_THREAD = 4
# If there are no more rows than this (times threads), each thread computes norms and quantised rows
# for itself: that takes less time than a phase, at whose end threads wait for each other. The rows of
# an expert are computed in pieces of this size, too.
SCRATCH_ROWS = 64

# Adapters have an entry for the embeddings, one for the head, and then LORA_MAPS for each layer.
EMBEDDINGS_ENTRY, HEAD_ENTRY, FIRST_LAYER_ENTRY = range(3)
LORA_MAPS = len(LINEARS)  # entries of a layer
LORA_MAPS_OF_INPUT = 6  # the most that read one input
# They may have further ones, whose small products each task computes for itself: for the sparse FFN of each
# layer router, shared score, and gate, up and down of each expert; then for latent attention the map of each
# head's key, and of each head's value.
ROUTER_ENTRY, SHARED_SCORE_ENTRY, FIRST_EXPERT_ENTRY = range(3)
LORA_PANEL = 16  # columns of b that are stored together; whole registers
LORA_GRAIN, LORA_PIECES = 4, 4  # the rank is cut into at most 4 pieces, of at least 4 each
LORA_RUN_ROWS = 64  # at most, so that there are tasks for all threads and a run stays in the cache

EXPERT_MAPS = ("gate", "up", "down")  # the linear maps of an expert, by role


def expert_entries(experts: int) -> int:
    """How many entries adapters have for a sparse FFN of so many experts, the shared one included."""
    return FIRST_EXPERT_ENTRY + len(EXPERT_MAPS) * experts


def expert_entry(role: str) -> int:
    """The entry of a linear map of a sparse FFN among those of its layer."""
    if role in ("router", "shared_score"):
        return ROUTER_ENTRY if role == "router" else SHARED_SCORE_ENTRY
    _, expert, own = role.split(".")
    return FIRST_EXPERT_ENTRY + len(EXPERT_MAPS) * int(expert) + EXPERT_MAPS.index(own)


def inner_entries(experts: int, heads: int) -> int:
    """How many of these entries a layer has, with so many experts and heads of latent attention."""
    return expert_entries(experts) + 2 * heads


def head_entry(role: str, experts: int, heads: int) -> int:
    """The entry of a head's map, `k.<i>` or `v.<i>`, among those of its layer."""
    which, _, head = role.partition(".")
    return expert_entries(experts) + ("k", "v").index(which) * heads + int(head)


def padded(size: int) -> int:
    """`size` rounded up to whole registers."""
    return -(-size // LANES) * LANES


def scratch_floats(group: int, head_dim: int, value_dim: int, hidden: int = 0) -> int:
    """The floats that one thread needs for itself; `group` query heads share a key-value head.

    Attention keeps the scores, queries, outputs and softmax states of its pairs there; at other
    times the thread keeps the norms of few rows in the same memory.
    """
    pairs = max(TILE_PAIRS, group)
    return max(
        SCRATCH_ROWS * hidden,
        pairs * (SCORE_STRIDE + padded(head_dim) + padded(value_dim) + 2 * LANES),
    )


def quantized_row_bytes(depth: int, span: int) -> int:
    """Bytes from one quantised row to the next, whole cache lines: see `linear.quantize_rows`.

    `depth` is a multiple of `span`.
    """
    size = depth * (1 + WIDE_BYTES) + 8 * (depth // span)
    return (size + LINE - 1) // LINE * LINE


def kv_head_bytes(kind: int, size: int, block_size: int) -> int:
    """Bytes of one head in a block of keys, or (for a padded size) of values: see `attention`."""
    if kind == KV_INT8:
        return size * block_size + 4 * block_size
    return size * block_size * (4 if kind == KV_FLOAT32 else 2)


def latent_block_bytes(kind: int, rank: int, rope: int, block_size: int) -> int:
    """Bytes of a block of latents and rotated keys: see `latent_attention`."""
    latent = (rank + LANES - 1) // LANES * LANES
    rotated = (rope + LANES - 1) // LANES * LANES
    if kind == KV_INT8:
        return block_size * (latent + 4 + 2 * rotated)
    row = (rank + rope + LANES - 1) // LANES * LANES
    return row * block_size * (4 if kind == KV_FLOAT32 else 2)


def sync_words(threads: int) -> int:
    """How many int64 the threads of a step share: OPEN, INSIDE, and ASLEEP of each."""
    return (ASLEEP + threads * LINE) // 8


def tiles_needed(rows: int, sequences: int, group: int) -> int:
    """The most tiles that `plan_tiles` makes of this many rows and sequences."""
    return rows // max(1, TILE_PAIRS // group) + sequences
