"""vLLM's engine arguments and environment variables, chosen from quire's arguments.

Nothing here imports vLLM, so that a plan can be made, shown and tested for another machine.
`vllm_config` overrides every engine argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire.arguments import FinetuningArguments, ModelArguments
from quire.engines.seam import Purpose
from quire.engines.vllm.devices import Devices, Precision, choose_placement, choose_precision
from quire.engines.vllm.model_facts import ModelFacts
from quire.errors import ConfigError, OutOfMemoryError, nearest, sentence
from quire.options import MAX_LOGPROBS

SEEDS_KEPT = "quire.engines.vllm.cpu_seeds.SeedsKept"
"""What mends vLLM's runner on a CPU: see there."""
UNIPROC = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The executor that runs its only worker in the engine's process. On a CPU vLLM replaces the short
name "uni" by the multiprocessing executor, which starts one more process, but keeps a class path."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for `max_lora_rank`."""

GUIDANCE = "guidance"
STRUCTURED_OUTPUTS = {
    "backend": GUIDANCE,
    "disable_any_whitespace": True,
    "enable_in_reasoning": True,
}
"""llguidance, as on the native engine, whose grammars it is given. They have the thought in them, so
that they hold from the first token, also beside a reasoning parser of `vllm_config`."""

CPU_SEQUENCES = 128
"""vLLM's own `max_num_seqs` for a server on a CPU; the KV cache is cut to what they can fill."""

_GENERATION_ONLY = ("max_logprobs", "structured_outputs_config")

MIB = 2**20

CPU_ONE_THREAD = 16 * MIB
"""Bytes of weights up to which one thread is used: several would wait for each other longer than
they work. With 64 streams on two cores, a model of 7 MiB ran 1.2 times as fast on one thread, a model
of 100 MiB 0.7 times."""


@dataclass(frozen=True, slots=True)
class AdapterNeeds:
    """What LoRA adapters require of the engine."""

    largest_rank: int = 0
    count: int = 0
    more_later: bool = False
    """Whether others may be loaded while the engine runs."""

    @property
    def any(self) -> bool:
        """Whether the engine needs LoRA at all."""
        return self.count > 0 or self.more_later


@dataclass(frozen=True)
class EnginePlan:
    """vLLM's engine arguments, its processes' environment, and notes on the choices for the log."""

    engine_args: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()
    scores: bool = False
    """Whether what is pooled becomes a score."""

    @property
    def purpose(self) -> Purpose:
        """What the engine is for: with vLLM's runner `pooling` it generates no text."""
        if self.engine_args.get("runner") != "pooling":
            return "generate"
        scores = self.scores or self.engine_args.get("convert") == "classify"
        return "score" if scores else "embed"


def make_plan(
    args: ModelArguments,
    finetuning: FinetuningArguments,
    model: ModelFacts,
    devices: Devices,
    adapters: AdapterNeeds | None = None,
    *,
    tokenizer: Path | None = None,
    known: frozenset[str] | None = None,
    missing: Mapping[str, str] | None = None,
    own_head: bool = False,
) -> EnginePlan:
    """Make the plan for one engine.

    Args:
        adapters: what LoRA adapters require; None for no adapters.
        tokenizer: a folder whose tokenizer replaces the model's own.
        known: the engine arguments of the installed vLLM, to check `vllm_config` against; None
            checks nothing.
        missing: packages that must be installed first, by the quantisation method that needs them.
        own_head: whether quire applies a reward model's head to what vLLM pools.

    Raises:
        ConfigError: vLLM cannot honour an argument, or `vllm_config` has an unknown key.
        UnsupportedModelError: the devices cannot run the weights' format.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """
    own = dict(args.vllm_config or {})
    _check_config(own, known)
    _refuse(args)
    precision = choose_precision(args, devices, model)
    values = _base(args, finetuning, model, precision)
    notes = [f"dtype {precision.note}"] if precision.note else []
    environment: dict[str, str] = {}
    if devices.is_cpu:
        notes += _add_cpu(values, environment, args, model, devices, precision, own)
    else:
        notes += _add_devices(values, model, devices, own)
    values |= _lora(args, adapters or AdapterNeeds())
    if tokenizer is not None:
        values["tokenizer"] = str(tokenizer)
    if own_head:
        values |= {"convert": "embed", "pooler_config": {"pooling_type": "LAST"}}
    values |= own
    _check_installed(values.get("quantization") or model.quantization, missing or {})
    if values.get("runner") == "pooling":
        values = {key: values[key] for key in values if key in own or key not in _GENERATION_ONLY}
    return EnginePlan(values, environment, tuple(notes), finetuning.stage == "rm")


def _check_config(own: Mapping[str, Any], known: frozenset[str] | None) -> None:
    for key in own:
        if known is not None and key not in known:
            raise ConfigError(
                sentence(
                    f"vllm_config: this vLLM has no engine argument {key!r}{nearest(key, known)}"
                )
            )
    for key, value in own.items():
        name = _of_main_module(value)
        if name is not None:
            raise ConfigError(
                f"vllm_config: {key} holds {name}, which the main module of this program defines. "
                "vLLM's processes do not import that: move it into a module of its own."
            )


def _of_main_module(value: Any) -> str | None:
    """The name of a class or function of the main module that `value` is, is of, or holds."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return next((name for name in map(_of_main_module, value) if name is not None), None)
    kind = value if hasattr(value, "__qualname__") else type(value)
    return kind.__qualname__ if kind.__module__ == "__main__" else None


def _check_installed(quantization: Any, missing: Mapping[str, str]) -> None:
    package = missing.get(str(quantization))
    if package is not None:
        raise ConfigError(
            f"Weights quantised with {quantization} need the package {package} beside this vLLM: "
            f"pip install {package} (and name it in VLLM_PLUGINS where that is set)."
        )


def _refuse(args: ModelArguments) -> None:
    if args.split_special_tokens:
        raise ConfigError(
            "split_special_tokens: users' text never becomes control tokens here, and the "
            "template's always do; leave it out."
        )
    if not args.use_kv_cache:
        raise ConfigError("use_kv_cache: vLLM always has a KV cache; leave it out.")


def _base(
    args: ModelArguments, finetuning: FinetuningArguments, model: ModelFacts, precision: Precision
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": str(model.folder),
        "trust_remote_code": args.trust_remote_code,
        "dtype": precision.dtype,
        "max_model_len": _max_model_len(args, model),
        "gpu_memory_utilization": args.vllm_gpu_util,
        "enforce_eager": args.vllm_enforce_eager,
        "max_logprobs": MAX_LOGPROBS,
        "scheduling_policy": "priority",  # requests of equal priority are served in order of arrival
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "limit_mm_per_prompt": {
            "image": args.max_images,
            "video": args.max_videos,
            "audio": args.max_audios,
        },
        "structured_outputs_config": dict(STRUCTURED_OUTPUTS),
    }
    if model.gguf is not None:
        # The plug-in would take config and tokenizer from the file's folder, where there are none.
        folder = str(model.folder)
        values |= {"model": str(model.gguf), "hf_config_path": folder, "tokenizer": folder}
    if precision.quantization is not None:
        values["quantization"] = precision.quantization
    overrides = dict(model.corrections)
    if args.rope_scaling is not None:
        overrides |= _rope_override(args.rope_scaling, model)
    if overrides:
        values["hf_overrides"] = overrides
    if finetuning.stage == "rm":
        values |= {"runner": "pooling", "convert": "classify"}
    return values


def _max_model_len(args: ModelArguments, model: ModelFacts) -> int:
    """The user's `vllm_maxlen`; its default is cut to the longest sequence that the model takes."""
    if "vllm_maxlen" in args.explicit():
        return args.vllm_maxlen
    longest = model.max_positions
    if args.rope_scaling is not None:
        longest = 2 * model.trained_positions
    return min(args.vllm_maxlen, longest)


def _rope_override(kind: str, model: ModelFacts) -> dict[str, Any]:
    """The override for LLaMA-Factory's `rope_scaling`, which doubles the trained length."""
    if model.is_part:
        raise ConfigError(
            "rope_scaling: the text decoder is one part of this model, and vLLM does not apply the "
            'scaling to it; give vllm_config {"hf_overrides": {...}} instead.'
        )
    trained = model.trained_positions
    own = model.rope or {}
    theta = {"rope_theta": own["rope_theta"]} if "rope_theta" in own else {}
    scaling = {"rope_type": kind, "factor": 2.0, **theta}
    if kind in ("yarn", "llama3"):
        scaling["original_max_position_embeddings"] = trained
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {"rope_parameters": scaling, "max_position_embeddings": 2 * trained}


def _add_devices(
    values: dict[str, Any], model: ModelFacts, devices: Devices, own: Mapping[str, Any]
) -> list[str]:
    """Add the tensor-parallel size, unless the user's `vllm_config` sets any parallel size."""
    spread = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    if any(key in own for key in spread):
        return []
    placement = choose_placement(devices, model)
    values["tensor_parallel_size"] = placement.tensor_parallel_size
    return [placement.note] if placement.note else []


def _add_cpu(
    values: dict[str, Any],
    environment: dict[str, str],
    args: ModelArguments,
    model: ModelFacts,
    devices: Devices,
    precision: Precision,
    own: Mapping[str, Any],
) -> list[str]:
    """Add what vLLM needs on a CPU: all cores, no process too many, an explicit KV cache size."""
    notes: list[str] = []
    values["worker_extension_cls"] = SEEDS_KEPT
    if all(own.get(key, 1) == 1 for key in ("tensor_parallel_size", "pipeline_parallel_size")):
        values["distributed_executor_backend"] = UNIPROC
        # vLLM's own binding reserves one core for its frontend, which is idle most of the time.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        cores = "all cores"
        if 0 < model.weight_bytes <= CPU_ONE_THREAD:
            environment["OMP_NUM_THREADS"] = "1"
            cores = "one thread for so small a model"
        notes.append(f"{cores}, the worker in the engine's own process")
    if "kv_cache_memory_bytes" not in own:
        size = _cpu_kv_bytes(args, model, devices, precision, own)
        if size:
            values["kv_cache_memory_bytes"] = size
            notes.append(f"{size / MIB:,.0f} MiB of KV cache")
    return notes


def _cpu_kv_bytes(
    args: ModelArguments,
    model: ModelFacts,
    devices: Devices,
    precision: Precision,
    own: Mapping[str, Any],
) -> int:
    """Bytes of KV cache: `vllm_gpu_util` of what the weights leave free, cut to what can be filled.

    0 where the model's config does not give the size of a token's entry: vLLM then chooses.

    Raises:
        OutOfMemoryError: one sequence would not fit.
    """
    token = model.kv_bytes_per_token(precision.element_bytes)
    if not token:
        return 0
    length = int(_given(own, "max_model_len", _max_model_len(args, model)))
    sequences = int(_given(own, "max_num_seqs", CPU_SEQUENCES))
    share = _given(own, "gpu_memory_utilization", args.vllm_gpu_util)
    weights = model.weight_bytes * (2 if precision.dtype == "float32" else 1)
    room = int(share * max(0, devices.free_memory - weights))
    block = 128  # tokens of a block of vLLM's KV cache on a CPU
    one = -(-length // block) * block * token  # bytes of one sequence
    if room < one:
        raise OutOfMemoryError(
            f"The KV cache of one sequence of {length:,} tokens needs {one / MIB:,.0f} MiB; "
            f"vllm_gpu_util {share:g} of what the weights leave free is {room / MIB:,.0f} MiB. Lower "
            "vllm_maxlen, or raise vllm_gpu_util."
        )
    return min(room, (sequences + 1) * one)  # vLLM keeps one block to itself


def _given(own: Mapping[str, Any], key: str, default: float) -> float:
    """The user's number, or `default` where it is missing, -1, or a word such as "auto"."""
    value = own.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return default
    return value if value > 0 else default


def _lora(args: ModelArguments, adapters: AdapterNeeds) -> dict[str, Any]:
    if not adapters.any:
        return {}
    slots = max(adapters.count, 4 if adapters.more_later else 1)
    return {
        "enable_lora": True,
        "max_loras": slots,
        "max_cpu_loras": max(slots, 16),
        "max_lora_rank": _lora_rank(args, adapters),
    }


def _lora_rank(args: ModelArguments, adapters: AdapterNeeds) -> int:
    """The largest rank of the adapters, or `vllm_max_lora_rank` if larger, as a rank of vLLM's."""
    asked = adapters.more_later or "vllm_max_lora_rank" in args.explicit()
    rank = max(adapters.largest_rank, args.vllm_max_lora_rank if asked else 1)
    for size in LORA_RANKS:
        if size >= rank:
            return size
    raise ConfigError(
        f"A LoRA rank of {rank} is more than vLLM takes ({LORA_RANKS[-1]}). Several adapters in "
        "adapter_name_or_path are also served as their sum, which has their ranks together: merge "
        "them into the model, or choose infer_backend native."
    )
