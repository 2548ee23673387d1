"""The tables that Python fills and compiled code reads: what each int64 word of them holds.

Compiled code gets one address, that of the runner's table. From there it follows further addresses:
to the table of each layer, to the words of each linear map, to scratch memory, to the arrays of the
batch. Sizes and addresses are int64; a float is a float32 in the first 4 bytes of its word.

Nothing here needs a kernel, so that a start with compiled kernels imports none.
"""

from __future__ import annotations

import os

import llvmlite.binding as llvm


def cpu_features() -> frozenset[str]:
    """The features of this processor, by LLVM's names.

    QUIRE_SIMD=avx2 hides those that came after AVX2, so that an AVX-512 machine can test that path.
    """
    features = {name for name, has in dict(llvm.get_host_cpu_features()).items() if has}
    if os.environ.get("QUIRE_SIMD") == "avx2":
        features = {name for name in features if not name.startswith(("avx512", "avxvnni"))}
    return frozenset(features)


LANES = 16 if "avx512f" in cpu_features() else 8
"""Float32 values in one register: 16 with AVX-512, else 8. LLVM splits 8 where registers hold 4."""

WORD = 8  # bytes of a word of these tables
LINE = 64  # bytes of a cache line
CHUNK = 128  # positions of the context between two rescalings of the softmax
# Floats between the scores of two pairs. A power of two would put all pairs into the same few sets
# of the cache, which then evict each other.
SCORE_STRIDE = CHUNK + 16
TILE_PAIRS = (
    24  # (row, query head) pairs of an attention tile, which share the keys and values read
)
COLUMN_GRAIN = 16  # columns that fill a cache line: two threads seldom write to the same one
BLOCK_SIZES = (16, 32, 64, 128)  # each holds whole registers, and CHUNK holds whole blocks

# The runner's table: the model's sizes and addresses, scratch memory, and the batch of this step.
(
    LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB, BLOCK_SIZE,
    EPS, ATTENTION_SCALE, ONE_FLOAT,  # floats; ONE_FLOAT is 1.0
    EMBEDDINGS, EMBEDDINGS_BFLOAT16, FINAL_NORM, HEAD_MAP, LAYER_TABLE,
    RESIDUAL, NORMED, QUERIES, KEYS, VALUES, ATTENTION_OUT, GATE, UP,
    TILES, COUNTERS, SYNC, SCRATCH, SCRATCH_BYTES, THREADS,
    COSINES, SINES, ROWS, SEQUENCES, TOKEN_IDS, POSITIONS, SLOTS, QUERY_START,
    BLOCK_TABLES, TABLE_WIDTH, TILE_COUNT, LOGITS_ROWS, LOGITS_COUNT, LOGITS,
    ACTIVATION, EMBEDDING_SCALE, RESIDUAL_SCALE, LOGITS_SCALE, ATTENTION_CAP, LOGITS_CAP,
    ROTARY_DIM, INTERLEAVED, WIDTH_NORMS, LOCAL_COSINES, LOCAL_SINES,
    KV_KIND,
    QUANTIZED,  # rows of activations as int8, shared by all threads
    SCRATCH_QUANTIZED,  # the offset in a thread's own scratch of the same, for few rows
    ADAPTERS,  # the address of ADAPTERS_WORDS; 0 where no row has an adapter
    NORMED_COUNT,  # rows of LOGITS_ROWS that get the last norm; the first LOGITS_COUNT get the head
    PHASE_TIMES,  # where the clock is written at the end of each phase, or 0
    CONTEXT_LENS, NUM_BLOCKS, MAX_LEN,
    INVALID_BATCH,  # set by a step whose batch points outside its arrays; it computes nothing
    ROPE_POSITIONS,  # each row's index into COSINES and SINES; POSITIONS unless M-RoPE gives others
    EMBEDS, EMBED_INDEX,  # embeddings that the batch brings; each row's index into them, -1 for none
    PROGRAM, PROGRAM_LENGTH,  # the operations of a step: OP_WORDS each
    TABLE_WORDS,
) = range(71)  # fmt: skip
# One operation: the address of its kernel, that of its layer's table or 0, and its first phase.
OP_KERNEL, OP_LAYER, OP_PHASE, OP_WORDS = range(4)
SILU, GELU_TANH = range(2)  # what ACTIVATION may be

# One linear map: the weight (columns, depth), the bias or 0, and how the weight is stored.
(
    WEIGHT, KIND, BIAS, MAP_COLUMNS, MAP_DEPTH,
    SCALES, ZEROS, REPEAT, SPAN, QUANT_DEPTH, UNIT_SCALE,  # of quantised ones: see `quantized_tiles`
    MAP_KERNEL,  # the address of the kernel that multiplies with it: see `linear.linear_columns`
    MAP_WORDS,
) = range(13)  # fmt: skip
FLOAT32, BFLOAT16, INT8, INT4 = range(4)  # what KIND may be; the quantised ones come last
KV_FLOAT32, KV_FLOAT16, KV_INT8 = range(3)  # what KV_KIND may be
QUANT_BLOCK = 16  # columns of a quantised map that are stored together

# One layer's table. Each linear map is the address of its MAP_WORDS.
(
    WINDOW, ATTENTION_NORM, FFN_NORM, Q_NORM, K_NORM, K_CACHE, V_CACHE,
    POST_ATTENTION_NORM, POST_FFN_NORM, ROPE,
    FIRST_LINEAR,
) = range(11)  # fmt: skip
NO_ROPE, GLOBAL_ROPE, LOCAL_ROPE = range(3)  # what ROPE may be
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
Q_MAP, K_MAP, V_MAP, O_MAP, GATE_MAP, UP_MAP, DOWN_MAP = (
    FIRST_LINEAR + i for i in range(len(LINEARS))
)
EXPERTS = FIRST_LINEAR + len(LINEARS)  # the address of EXPERTS_WORDS; 0 where the FFN is dense
LAYER_WORDS = EXPERTS + 1

# The experts of one layer: sizes, maps, and scratch memory that all layers share.
(
    EXPERT_COUNT, ALL_EXPERTS,  # without and with the shared expert
    PER_TOKEN, NORMALISED, EXPERT_FFN, ROUTER_MAP, SHARED_SCORE_MAP,
    EXPERT_MAPS,  # gate, up, down of each expert, the shared one last: MAP_WORDS each
    ROUTER_SCORES, SHARED_SCORES, CHOSEN, CHOSEN_WEIGHTS,
    EXPERT_STARTS, GROUPED_ROWS, GROUPED_WEIGHTS,
    EXPERTS_WORDS,
) = range(16)  # fmt: skip

# What the threads of a step share: the number of the step that runs, or 0; the number of threads
# inside it; and for each thread whether it sleeps. Each has a cache line of its own, since different
# threads write them.
OPEN, INSIDE, ASLEEP = 0, LINE, 2 * LINE
# Each phase has two counters, each in its own line: tasks taken, and at DONE tasks finished.
PHASE_BYTES, DONE = 2 * LINE, LINE
(
    ATTENTION_NORM_PHASE, PROJECT_PHASE, ATTEND_PHASE, OUTPUT_PHASE,
    FFN_NORM_PHASE, GATE_PHASE, DOWN_PHASE,
    WIDTH_NORM_PHASE, ATTENTION_SUM_PHASE, FFN_SUM_PHASE,
    PROJECT_ROWS_PHASE, OUTPUT_ROWS_PHASE, GATE_ROWS_PHASE, DOWN_ROWS_PHASE,
    SCORE_PHASE, CHOOSE_PHASE, GROUP_PHASE,
    LORA_PROJECT_PHASE, LORA_OUTPUT_PHASE, LORA_GATE_PHASE, LORA_DOWN_PHASE,
    LAYER_PHASES,
) = range(22)  # fmt: skip
LAST_NORM_PHASE, HEAD_ROWS_PHASE, LORA_HEAD_PHASE, HEAD_PHASE, LAST_PHASES = range(5)
CHECK_PHASE, EMBED_PHASE, FIRST_PHASES = range(3)
# With several tasks for each thread, one that is late or off its CPU leaves its share to the others.
TASKS_PER_THREAD = 4
# If there are no more rows than this (times threads), each thread computes norms and quantised rows
# for itself: that takes less time than a phase, at whose end threads wait for each other. The rows of
# an expert are computed in pieces of this size, too.
SCRATCH_ROWS = 64

# The adapters of a batch in which some row has one.
(
    RUN_COUNT, RUNS, HEAD_RUN_COUNT, HEAD_RUNS, HEAD_COUNT, HEADS_OF_ROWS,
    LORA_H, LORA_H_BYTES, LORA_H_STRIDE, LORA_MASK,
    LORA_KERNEL,  # the address of the kernel that adds their products: see `lora.add_lora`
    ADAPTERS_WORDS,
) = range(12)  # fmt: skip
# A run of neighbouring rows with one adapter. RUN_ADAPTER is the address of its table; in
# HEADS_OF_ROWS it is that of a head's map, or 0 for the model's.
RUN_ADAPTER, RUN_FIRST, RUN_ROWS, RUN_WORDS = range(4)
# An adapter's table: its own embeddings or 0, then one entry for each linear map. An entry is the
# MAP_WORDS of a, then the addresses of b and of a bias, or 0.
ADAPTER_EMBEDDINGS, ADAPTER_EMBEDDINGS_BFLOAT16, FIRST_ENTRY = range(3)
LORA_B, LORA_BIAS, LORA_WORDS = range(MAP_WORDS, MAP_WORDS + 3)
# LORA_MASK has one bit for each entry of these two and of one layer: whether any layer uses it.
EMBEDDINGS_ENTRY, HEAD_ENTRY, FIRST_LAYER_ENTRY = range(3)
LORA_MAPS = len(LINEARS)  # entries of a layer
LORA_PANEL = 16  # columns of b that are stored together; whole registers
LORA_GRAIN, LORA_PIECES = 4, 4  # the rank is cut into at most 4 pieces, of at least 4 each
LORA_RUN_ROWS = 64  # at most, so that there are tasks for all threads and a run stays in the cache


def padded(size: int) -> int:
    """`size` rounded up to whole registers."""
    return -(-size // LANES) * LANES


def scratch_floats(group: int, head_dim: int, hidden: int = 0) -> int:
    """The floats that one thread needs for itself.

    Attention keeps the scores, queries, outputs and softmax states of its pairs there; at other
    times the thread keeps the norms of few rows in the same memory.
    """
    pairs = max(TILE_PAIRS, group)
    return max(SCRATCH_ROWS * hidden, pairs * (SCORE_STRIDE + padded(head_dim) * 2 + 2 * LANES))


def quantized_row_bytes(depth: int, span: int) -> int:
    """Bytes from one quantised row to the next, whole cache lines: see `linear.quantize_rows`.

    `depth` is a multiple of `span`.
    """
    return (depth + 8 * (depth // span) + LINE - 1) // LINE * LINE


def kv_head_bytes(kind: int, size: int, block_size: int) -> int:
    """Bytes of one head in a block of keys, or (for a padded size) of values: see `attention`."""
    if kind == KV_INT8:
        return size * block_size + 4 * block_size
    return size * block_size * (4 if kind == KV_FLOAT32 else 2)


def sync_words(threads: int) -> int:
    """How many int64 the threads of a step share: OPEN, INSIDE, and ASLEEP of each."""
    return (ASLEEP + threads * LINE) // 8


def num_phases(layers: int) -> int:
    """The number of phases of a step."""
    return FIRST_PHASES + LAYER_PHASES * layers + LAST_PHASES


def tiles_needed(rows: int, sequences: int, group: int) -> int:
    """The most tiles that `plan_tiles` makes of this many rows and sequences."""
    return rows // max(1, TILE_PAIRS // group) + sequences
