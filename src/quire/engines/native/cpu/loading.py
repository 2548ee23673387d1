"""From a model's folder to a runner."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from quire.engines.native.cpu.kernels.layout import BLOCK_SIZES
from quire.engines.native.cpu.memory.kv_cache import (
    KV_KINDS,
    CacheBudget,
    KvDtype,
    block_bytes,
    blocks_of,
    count_blocks,
)
from quire.engines.native.cpu.memory.states import count_slots, slot_bytes
from quire.engines.native.cpu.program.machine_code import load_kernels, load_step
from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.tables.ffn import expert_scratch_bytes
from quire.engines.native.cpu.tables.model import kernels_of, scratch_widths
from quire.engines.native.cpu.weights.decoder import Weights, WeightsDtype, load_weights
from quire.engines.native.cpu.weights.packed import QuantizedKind
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.rope import override_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import ConfigError, OutOfMemoryError
from quire.machine.cpus import default_threads
from quire.quantization.formats import are_quantized
from quire.weights.folder import is_gguf_folder
from quire.weights.safetensors import WeightsFolder

DENSE_BATCH_TOKENS, SPARSE_BATCH_TOKENS = 512, 2048
"""Tokens of one step, of models without and with experts; see `default_batch_tokens`."""

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
    max_batch_tokens: int | None = None,
    max_sequences: int = 256,
    with_head: bool = True,
    known_tokens: int = 0,
    rows: int = 0,
    exact: bool = False,
    on_compile: Callable[[str], None] | None = None,
) -> CpuRunner:
    """Load the model in `folder`.

    Args:
        dtype: of the matrices; "auto" keeps what is stored, but makes float16 float32.
        quantize: round full-precision matrices to so many bits.
        rope_scaling: one of `rope.OVERRIDES`; None or "none" keeps the model's own.
        max_model_len: the most tokens of one sequence; None takes the model's own limit.
        max_model_len_is_wish: take the model's own limit if it is lower, without an error.
        kv_dtype: of the KV cache's elements; "auto" is float16 if activations are rounded to 8 bits
            for quantised weights, else float32.
        kv_cache_memory: bytes; None takes `memory_util` of what is free.
        num_threads: None takes one for each core that this process may use.
        max_batch_tokens: the most tokens of one batch, which scratch memory is made for; a picture whose
            tokens see each other may come on top. None takes `default_batch_tokens`.
        max_sequences: the most sequences at once, which the KV cache need not exceed.
        with_head: False for a model that writes no text, and may lack the head.
        known_tokens, rows: of embeddings and head, if more than the model has; see `load_weights`.
        exact: of blocks of GGUF and MXFP4; see `load_weights`.
        on_compile: gets one line of text if the kernels must be compiled, or the weights rounded.

    Raises:
        ModelError: the model cannot be read or run: see `read_spec` and `load_weights`.
        ConfigError: an argument does not fit the model.
        OutOfMemoryError: the KV cache would not hold one sequence, or there is no memory for a step.
    """
    if block_size not in BLOCK_SIZES:
        known = ", ".join(map(str, BLOCK_SIZES))
        raise ConfigError(f"native_block_size {block_size} is not one of {known}")
    spec = _spec_to_load(folder, rope_scaling, quantize)
    length = _model_length(spec, max_model_len, max_model_len_is_wish)
    threads = num_threads or default_threads()
    weights = load_weights(
        spec,
        folder,
        dtype,
        quantize,
        threads=threads,
        on_progress=on_compile,
        with_head=with_head,
        known_tokens=known_tokens,
        rows=rows,
        exact=exact,
    )
    size = weights_bytes(weights)
    if kv_dtype == "auto":
        kv_dtype = "float16" if rounds_to_bytes(weights) else "float32"
    max_batch_tokens = max_batch_tokens or default_batch_tokens(spec, max_sequences)
    reserved = size + scratch_bytes(spec, max_batch_tokens + spec.media.whole_tokens)
    num_slots, num_blocks = _cache_sizes(
        spec,
        CacheBudget.of(kv_cache_memory, memory_util, reserved),
        max_model_len=length,
        max_sequences=max_sequences,
        block_size=block_size,
        kv_dtype=kv_dtype,
    )
    load_kernels(kernels_of(weights, KV_KINDS[kv_dtype]), on_compile)
    try:
        runner = CpuRunner(
            weights,
            load_step(on_compile),
            max_model_len=length,
            num_blocks=num_blocks,
            num_slots=num_slots,
            block_size=block_size,
            num_threads=threads,
            max_batch_tokens=max_batch_tokens,
            kv_dtype=kv_dtype,
        )
    except MemoryError as error:
        raise OutOfMemoryError(
            f"The memory for a step of this model cannot be had: {error}. Lower "
            "native_max_batch_tokens, or check the sizes in config.json."
        ) from None
    runner.weights_bytes = size
    return runner


def _spec_to_load(
    folder: Path | str, rope_scaling: str | None, quantize: QuantizedKind | None
) -> DecoderSpec:
    """The spec of the model in a folder, as the arguments would have it.

    Raises:
        ModelError: the folder cannot be read: see `read_spec`.
        ConfigError: weights are to be rounded that are quantised already.
    """
    spec = override_rope(read_spec(folder), rope_scaling)
    if quantize is None:
        return spec
    if is_gguf_folder(Path(folder)):
        raise ConfigError(
            f"native_quantization {quantize}: {Path(folder).name} is a GGUF file, which is computed with "
            "as it is; leave it out, or take a file of another type"
        )
    if spec.quantization is not None and are_quantized(WeightsFolder(folder).names()):
        raise ConfigError(
            f"native_quantization {quantize}: the weights are quantised already "
            f"({spec.quantization.method}); leave it out"
        )
    return dataclasses.replace(spec, quantization=None)


def _cache_sizes(
    spec: DecoderSpec,
    budget: CacheBudget,
    *,
    max_model_len: int,
    max_sequences: int,
    block_size: int,
    kv_dtype: KvDtype,
) -> tuple[int, int]:
    """How many slots of states, and blocks of the KV cache, a budget pays for.

    Raises:
        OutOfMemoryError: it does not pay for one sequence.
    """
    num_slots = count_slots(
        spec,
        max_sequences=max_sequences,
        sequence_bytes=blocks_of(max_model_len, block_size)
        * block_bytes(spec, block_size, kv_dtype),
        budget=budget,
    )
    num_blocks = count_blocks(
        spec,
        block_size=block_size,
        max_model_len=max_model_len,
        max_sequences=max_sequences,
        budget=budget.without(num_slots * slot_bytes(spec)),
        kv_dtype=kv_dtype,
    )
    return num_slots, num_blocks


def _model_length(spec: DecoderSpec, length: int | None, is_wish: bool) -> int:
    """The most tokens of one sequence."""
    if length is None or (is_wish and length > spec.max_positions):
        return spec.max_positions
    if length > spec.max_positions:
        raise ConfigError(
            f"vllm_maxlen {length} is more than the {spec.max_positions} positions that this model "
            "knows; lower it, or set rope_scaling (linear, dynamic, yarn or llama3) to stretch them"
        )
    return length


def rounds_to_bytes(weights: Weights) -> bool:
    """Whether activations are rounded to 8 bits for a matrix of a layer."""
    tensors = (one for layer in weights.layers for one in layer.values())
    return any(not isinstance(one, np.ndarray) and not one.exact for one in tensors)


def default_batch_tokens(spec: DecoderSpec, max_sequences: int) -> int:
    """Tokens of one step, where nobody says how many.

    From 256 rows on a step of a dense model multiplies as fast as it can (measured from 135 M to 1 B
    parameters, in float32, 8 and 4 bits); more rows take memory, and keep other sequences' next tokens
    waiting. Experts share a step's rows among them, and are read at each step: 512 rows cost them 2 to 5 %.
    """
    return max(DENSE_BATCH_TOKENS if spec.experts is None else SPARSE_BATCH_TOKENS, max_sequences)


def weights_bytes(weights: Weights) -> int:
    """Bytes of all tensors; tied ones count once."""
    return sum({id(tensor): tensor.nbytes for tensor in weights.all_tensors()}.values())


def scratch_bytes(spec: DecoderSpec, rows: int) -> int:
    """Bytes of the activations of a batch of `rows`."""
    columns = sum(scratch_widths(spec).values())
    routing = expert_scratch_bytes(spec.experts, rows) if spec.experts else 0
    return 4 * rows * columns + routing
