"""Which arguments the native engine honours: the others are refused, or named as without effect.

What one request may ask for is checked by the engine itself (`native/input_processor.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

from quire.arguments import FinetuningArguments, ModelArguments
from quire.errors import ConfigError

logger = logging.getLogger("quire")

_WITHOUT_EFFECT = (
    "use_fast_tokenizer",
    "trust_remote_code",
    "use_kv_cache",
    "vllm_gpu_util",
    "vllm_enforce_eager",
    "vllm_max_lora_rank",
    "vllm_config",
    "vllm_start_timeout",
    "vllm_max_restarts",
    "remote_base_url",
    "remote_api",
    "remote_model",
    "remote_api_key",
)
"""They change no answer: tokenizers are always the fast ones, no remote code is ever run, the KV
cache is always used, and the rest is vLLM's own."""


def check_arguments(model_args: ModelArguments, finetuning_args: FinetuningArguments) -> None:
    """Refuse by name what would change answers, and name in one line what has no effect.

    Raises:
        ConfigError: an argument that the native engine cannot honour.
    """
    problems = list(_problems(model_args, finetuning_args))
    if problems:
        raise ConfigError(" ".join(problems))
    ignored = [name for name in _WITHOUT_EFFECT if name in model_args.explicit()]
    if ignored:
        logger.info("Without effect on the native engine: %s.", ", ".join(ignored))


def quantization(model_args: ModelArguments) -> Literal["int8", "int4"] | None:
    """How weights are rounded at load; `quantization_bit`, whatever its method, is ours."""
    if model_args.quantization_bit is not None:
        return "int8" if model_args.quantization_bit == 8 else "int4"
    return model_args.native_quantization


def _problems(model_args: ModelArguments, finetuning_args: FinetuningArguments) -> Iterator[str]:
    if model_args.quantization_bit not in (None, 4, 8):
        yield (
            f"quantization_bit {model_args.quantization_bit}: the native engine rounds weights to 8 "
            "or 4 bits."
        )
    elif model_args.native_quantization not in (None, quantization(model_args)):
        yield (
            f"quantization_bit {model_args.quantization_bit} and native_quantization "
            f"{model_args.native_quantization} contradict each other: leave one out."
        )
    if model_args.split_special_tokens:
        yield (
            "split_special_tokens: users' text never becomes control tokens here, and the "
            "template's always do; leave it out."
        )
    if finetuning_args.stage == "rm" and (
        model_args.adapter_name_or_path or model_args.adapter_folder
    ):
        yield (
            "stage rm with adapter_name_or_path or adapter_folder: the native engine reads a reward "
            "model's head beside the model itself, not in an adapter's folder; export the merged "
            "model with its value_head.safetensors."
        )
