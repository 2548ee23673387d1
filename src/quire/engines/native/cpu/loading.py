"""From a model's folder to a runner."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from quire.engines.native.cpu.expert_tables import expert_scratch_bytes
from quire.engines.native.cpu.layout import BLOCK_SIZES
from quire.engines.native.cpu.machine_code import load_step
from quire.engines.native.cpu.memory import KvDtype, count_blocks
from quire.engines.native.cpu.packed import PackedMatrix
from quire.engines.native.cpu.packer import QuantizedKind
from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.weights import Weights, WeightsDtype, load_weights
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.rope import override_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import ConfigError
from quire.machine.cpus import default_threads

logger = logging.getLogger("quire")


def load_model(
    folder: Path | str,
    *,
    dtype: WeightsDtype = "auto",
    quantize: QuantizedKind | None = None,
    rope_scaling: str | None = None,
    max_model_len: int | None = None,
    max_model_len_is_wish: bool = False,
    block_size: int = 16,
    kv_cache_memory: int | None = None,
    kv_dtype: KvDtype | Literal["auto"] = "auto",
    memory_util: float = 0.7,
    num_threads: int | None = None,
    max_batch_tokens: int = 2048,
    max_sequences: int = 256,
    with_head: bool = True,
    on_compile: Callable[[str], None] | None = None,
) -> CpuRunner:
    """Load the model in `folder`.

    Args:
        dtype: of the matrices; "auto" keeps what is stored, float16 becomes float32.
        quantize: round matrices of full precision to so many bits.
        rope_scaling: a kind of `rope.OVERRIDES`; None or "none" keeps the model's own.
        max_model_len: the most tokens of one sequence; None takes the model's own number.
        max_model_len_is_wish: take the model's own number where it is smaller, without an error.
        kv_dtype: of the KV cache's elements; "auto" is float16 where weights are quantised, else
            float32.
        kv_cache_memory: bytes; None takes `memory_util` of what is free.
        num_threads: None takes a thread for each core that this process may use.
        max_batch_tokens: the most rows of one batch; scratch is sized by it.
        max_sequences: the most sequences at once; the KV cache never holds more.
        with_head: False for a model that writes no text, and may lack the head.
        on_compile: gets one line of text when the kernels must be compiled first.

    Raises ModelError (see `read_spec` and `load_weights`), ConfigError (an argument that does not
    fit the model) or OutOfMemoryError (the KV cache would not hold one sequence).
    """
    if block_size not in BLOCK_SIZES:
        known = ", ".join(map(str, BLOCK_SIZES))
        raise ConfigError(f"native_block_size {block_size} is not one of {known}")
    spec = override_rope(read_spec(folder), rope_scaling)
    length = _model_length(spec, max_model_len, max_model_len_is_wish)
    if quantize is not None and spec.quantization is not None:
        raise ConfigError(
            f"native_quantization {quantize}: the weights are quantised already "
            f"({spec.quantization.method}); leave it out"
        )
    threads = num_threads or default_threads()
    weights = load_weights(
        spec, folder, dtype, quantize, threads=threads, say=on_compile, with_head=with_head
    )
    size = weights_bytes(weights)
    if kv_dtype == "auto":
        kv_dtype = "float16" if has_packed(weights) else "float32"
    num_blocks = count_blocks(
        spec,
        block_size=block_size,
        max_model_len=length,
        max_sequences=max_sequences,
        memory=kv_cache_memory,
        memory_util=memory_util,
        reserved=size + scratch_bytes(spec, max_batch_tokens),
        kv_dtype=kv_dtype,
    )
    runner = CpuRunner(
        weights,
        load_step(on_compile),
        max_model_len=length,
        num_blocks=num_blocks,
        block_size=block_size,
        num_threads=threads,
        max_batch_tokens=max_batch_tokens,
        kv_dtype=kv_dtype,
    )
    runner.weights_bytes = size
    return runner


def _model_length(spec: DecoderSpec, wanted: int | None, wish: bool) -> int:
    if wanted is None or (wish and wanted > spec.max_positions):
        return spec.max_positions
    if wanted > spec.max_positions:
        raise ConfigError(
            f"vllm_maxlen {wanted} is more than the {spec.max_positions} positions that this model "
            "knows; lower it, or set rope_scaling (linear, dynamic, yarn or llama3) to stretch them"
        )
    return wanted


def has_packed(weights: Weights) -> bool:
    """Whether some matrix is quantised."""
    tensors = (one for layer in weights.layers for one in layer.values())
    return any(isinstance(one, PackedMatrix) for one in tensors)


def weights_bytes(weights: Weights) -> int:
    """Bytes of all tensors, those that are tied counted once."""
    return sum({id(tensor): tensor.nbytes for tensor in weights.all_tensors()}.values())


def scratch_bytes(spec: DecoderSpec, rows: int) -> int:
    """Bytes of the activations of a batch of `rows`."""
    columns = 2 * (spec.hidden_size + spec.q_size + spec.kv_size + spec.ffn_width)
    routing = expert_scratch_bytes(spec.experts, rows) if spec.experts else 0
    return 4 * rows * columns + routing
