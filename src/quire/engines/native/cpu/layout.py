"""What the compiled step reads: int64 tables of sizes and addresses, and the shape of the caches.

Python fills these tables and compiled code reads them; nothing here needs Numba, so that a start
with compiled kernels does not import it.
"""

from __future__ import annotations

import os

import llvmlite.binding as llvm


def cpu_features() -> frozenset[str]:
    """What this processor can do, in LLVM's words; QUIRE_SIMD=avx2 leaves out what came after."""
    found = {name for name, there in dict(llvm.get_host_cpu_features()).items() if there}
    if os.environ.get("QUIRE_SIMD") == "avx2":
        found = {name for name in found if not name.startswith(("avx512", "avxvnni"))}
    return frozenset(found)


LANES = 16 if "avx512f" in cpu_features() else 8
"""Float32 values of one register: 16 with AVX-512, else 8 (a narrower machine splits it in two)."""

CHUNK = 128  # positions of the context between two rescalings of the softmax
SCORE_STRIDE = CHUNK + 16  # floats between the scores of two pairs: no power of 2, for the cache
TILE_PAIRS = 24  # (row, query head) pairs of a tile that share the keys and values they read
COLUMN_GRAIN = 16  # columns, so that threads do not write to one cache line
BLOCK_SIZES = (16, 32, 64, 128)  # whole registers, whole parts of a chunk

# The table: the model's sizes, its addresses, scratch, and the batch of this step.
(
    LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB, BLOCK_SIZE,
    EPS, SCALE, UNIT,  # float32, in the first 4 bytes of their word
    EMBEDDINGS, EMBEDDINGS_NARROW, FINAL_NORM, HEAD_MAP, LAYER_TABLE,
    RESIDUAL, NORMED, QUERIES, KEYS, VALUES, MIXED, GATE, UP,
    TILES, COUNTERS, SYNC, SCRATCH, SCRATCH_BYTES, THREADS,
    COSINES, SINES, ROWS, SEQUENCES, TOKEN_IDS, POSITIONS, SLOTS, QUERY_START,
    BLOCK_TABLES, TABLE_WIDTH, TILE_COUNT, LOGITS_ROWS, LOGITS_COUNT, LOGITS,
    ACTIVATION, EMBEDDING_SCALE, RESIDUAL_SCALE, LOGITS_SCALE, ATTENTION_CAP, LOGITS_CAP,
    ROTARY_DIM, INTERLEAVED, WIDTH_NORMS, LOCAL_COSINES, LOCAL_SINES,
    KV_KIND, QUANTIZED, OWN_QUANTIZED,  # rows in whole numbers: all threads', and how far on in a thread's scratch
    ADAPTERS,
    NORMED_COUNT,  # rows of LOGITS_ROWS that get the last norm; the head is for the first of them
    TIMES,  # where the clock is written at the end of each phase, or 0
    CONTEXT_LENS, NUM_BLOCKS, MAX_LEN,
    UNSOUND,  # set by a step whose batch points outside its arrays; it computes nothing
    ROPE_POSITIONS,  # which of COSINES and SINES turn a row: POSITIONS, but where M-RoPE has its own
    GIVEN, GIVEN_PLACES,  # embeddings that the batch brings, and for each row which of them or -1; or 0
    TABLE_WORDS,
) = range(69)  # fmt: skip
SILU, GELU_TANH = range(2)  # what ACTIVATION may be

# One linear map: addresses of the weight (columns, depth) and of the bias or 0, what the weight is.
(
    WEIGHT, KIND, BIAS, MAP_COLUMNS, MAP_DEPTH,
    SCALES, ZEROS, REPEAT, SPAN, QUANT_DEPTH, UNIT_SCALE,  # of quantised ones: see `quantized_tiles`
    MAP_WORDS,
) = range(12)  # fmt: skip
FLOAT32, BFLOAT16, INT8, INT4 = range(4)  # what KIND may be
KV_FLOAT32, KV_FLOAT16, KV_INT8 = range(3)  # what KV_KIND may be
QUANT_BLOCK = 16  # columns of a quantised map that lie together

# One layer's row. Each linear map is the address of its MAP_WORDS.
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

# The experts of one layer: sizes, maps, and scratch that all layers share.
(
    EXPERT_COUNT, ALL_EXPERTS,  # without and with the shared one
    PER_TOKEN, NORMALISED, EXPERT_FFN, ROUTER_MAP, SHARED_SCORE_MAP,
    EXPERT_MAPS,  # gate, up, down of each expert, the shared one last: MAP_WORDS each
    ROUTER_SCORES, SHARED_SCORES, CHOSEN, CHOSEN_WEIGHTS,
    EXPERT_STARTS, GROUPED_ROWS, GROUPED_WEIGHTS,
    EXPERTS_WORDS,
) = range(16)  # fmt: skip

# What the threads of a step share. Each phase has two counters: tasks taken, tasks done.
LINE = 64  # bytes of a cache line; what different threads write lies on different ones
OPEN, INSIDE, ASLEEP = 0, LINE, 2 * LINE  # the step's number or 0; threads in it; one for each
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
TASKS_PER_THREAD = 4  # so that a thread that is late, or off its CPU, leaves its part to the others
OWN_ROWS = 64  # norms of so few rows (times threads) are not worth a phase: each thread has its own
# An expert's rows, too, are taken so many at a time.

# The adapters of a batch in which some row has one: the address of these words is in ADAPTERS.
(
    RUN_COUNT, RUNS, HEAD_RUN_COUNT, HEAD_RUNS, HEAD_COUNT, HEADS_OF_ROWS,
    LORA_H, LORA_H_BYTES, LORA_H_STRIDE, LORA_MASK,
    ADAPTERS_WORDS,
) = range(11)  # fmt: skip
# A run of rows: what they have (an adapter's table; in HEADS_OF_ROWS a head's map, or 0).
RUN_ADAPTER, RUN_FIRST, RUN_ROWS, RUN_WORDS = range(4)
# An adapter's table: its own embeddings or 0, then an entry for each map: the MAP_WORDS of a, where
# b and shift are or 0. LORA_MASK has the bits of the entries of one layer, over all layers.
OWN_EMBEDDINGS, OWN_EMBEDDINGS_NARROW, FIRST_ENTRY = range(3)
LORA_B, LORA_SHIFT, LORA_WORDS = range(MAP_WORDS, MAP_WORDS + 3)
EMBEDDINGS_ENTRY, HEAD_ENTRY, FIRST_LAYER_ENTRY = range(3)
LORA_MAPS = len(LINEARS)  # entries of a layer
LORA_PANEL = 16  # columns of b that lie together; whole registers
LORA_GRAIN, LORA_PIECES = (
    4,
    4,
)  # the rank is cut into so many columns at least, so many pieces at most
LORA_RUN_ROWS = 64  # at most, for the tasks and for the cache


def padded(size: int) -> int:
    """`size` rounded up to whole registers."""
    return -(-size // LANES) * LANES


def scratch_floats(group: int, head_dim: int, hidden: int = 0) -> int:
    """The floats that one thread needs, for its own norms or, at another time, for attention.

    Attention keeps scores, queries, outputs and states of its pairs.
    """
    pairs = max(TILE_PAIRS, group)
    return max(OWN_ROWS * hidden, pairs * (SCORE_STRIDE + padded(head_dim) * 2 + 2 * LANES))


def quantized_row_bytes(depth: int, span: int) -> int:
    """Bytes from one quantised row to the next: see `quantized`. `depth` is a multiple of `span`."""
    return (depth + 8 * (depth // span) + LINE - 1) // LINE * LINE


def kv_head_bytes(kind: int, size: int, block_size: int) -> int:
    """Bytes of one head in a block of keys, or (for padded sizes) of values: see `kv_cache`."""
    if kind == KV_INT8:
        return size * block_size + 4 * block_size
    return size * block_size * (4 if kind == KV_FLOAT32 else 2)


def sync_words(threads: int) -> int:
    """The int64 that so many threads share."""
    return (ASLEEP + threads * LINE) // 8


def num_phases(layers: int) -> int:
    """The phases of a step."""
    return FIRST_PHASES + LAYER_PHASES * layers + LAST_PHASES


def tiles_needed(rows: int, sequences: int, group: int) -> int:
    """The most tiles that `plan_tiles` makes of this many rows and sequences."""
    return rows // max(1, TILE_PAIRS // group) + sequences
