"""Ray Serve's configuration of a server.

The fields are those of ray.serve.llm's LLMConfig and LLMServingArgs in Ray 2.60.0
(python/ray/llm/_internal/serve/core), which refuse any other. Ray is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from quire.deploy.blueprint import Blueprint
from quire.deploy.shell import SERVER_PORT, comments, ray_cluster_commands, shown
from quire.deploy.target import DATA, world_size
from quire.errors import ConfigError

STORAGE = "s3://YOUR-BUCKET/adapters"
_STORAGES = ("s3://", "gs://", "abfss://", "azure://")

_RAYS_OWN = frozenset({"distributed_executor_backend", "served_model_name", "disable_log_stats"})
"""Ray sets these itself, and refuses to be told otherwise."""
_RANKS = frozenset(
    {DATA, "data_parallel_size_local", "data_parallel_backend", "data_parallel_address"}
)


def ray_config(blueprint: Blueprint, storage: str | None = None) -> str:
    """The YAML that `serve run` and `serve deploy` take, below comments on what it assumes.

    Args:
        storage: where Ray finds the adapters, each in a folder of its own: s3://, gs://, abfss://
            or azure://.

    Raises:
        ConfigError: Ray cannot read from such a storage.
    """
    if storage is not None and not storage.startswith(_STORAGES):
        raise ConfigError(
            f"--adapter-storage must begin with {', '.join(_STORAGES)}: Ray Serve reads adapters "
            f"from nowhere else, and {storage!r} does not."
        )
    application = {
        "name": "quire",
        "route_prefix": "/",
        **_builder(blueprint, _llm_config(blueprint, storage)),
    }
    content = yaml.safe_dump(
        {"http_options": _http_options(blueprint), "applications": [application]},
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
    )
    return f"{_head(blueprint, storage)}\n\n{content}"


def _http_options(blueprint: Blueprint) -> dict[str, Any]:
    """Where the server listens. Ray Serve asks for no key: a single machine answers itself alone."""
    host = "127.0.0.1" if blueprint.target.nodes == 1 else "0.0.0.0"
    return {"host": host, "port": SERVER_PORT}


def _builder(blueprint: Blueprint, config: Mapping[str, Any]) -> dict[str, Any]:
    """Ray Serve's builder: ranks of data parallelism that work together have one of their own."""
    if _ranks(blueprint) > 1 and not blueprint.is_dense:
        return {
            "import_path": "ray.serve.llm:build_dp_openai_app",
            "args": {"llm_config": config},
        }
    return {"import_path": "ray.serve.llm:build_openai_app", "args": {"llm_configs": [config]}}


def _llm_config(blueprint: Blueprint, storage: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_loading_config": {
            "model_id": model_id(blueprint),
            "model_source": blueprint.model,
        },
        "engine_kwargs": _engine_kwargs(blueprint),
        "deployment_config": {"autoscaling_config": _replicas(blueprint)},
    }
    if not blueprint.target.gpus:
        config["accelerator_config"] = {"kind": "cpu"}
    if _has_adapters(blueprint):
        most = blueprint.engine_args.get("max_cpu_loras", 16)
        config["lora_config"] = {
            "dynamic_lora_loading_path": (storage or STORAGE).rstrip("/"),
            "max_num_adapters_per_replica": most,
        }
    if blueprint.environment:
        config["runtime_env"] = {"env_vars": dict(blueprint.environment)}
    return config


def model_id(blueprint: Blueprint) -> str:
    """The name that requests give; what follows a colon would be an adapter's."""
    given = blueprint.engine_args.get("served_model_name")
    name = given[0] if isinstance(given, (list, tuple)) and given else given
    return str(name or PurePosixPath(blueprint.model).name).replace(":", "-")


def _engine_kwargs(blueprint: Blueprint) -> dict[str, Any]:
    values = {**blueprint.engine_args, **blueprint.server_args}
    left_out = _RAYS_OWN | (_RANKS if blueprint.is_dense else set())
    return {key: _plain(value) for key, value in values.items() if key not in left_out}


def _plain(value: Any) -> Any:
    """The value as lists and dictionaries alone, which YAML writes without tags."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value


def _ranks(blueprint: Blueprint) -> int:
    return blueprint.engine_args.get(DATA, 1)


def _replicas(blueprint: Blueprint) -> dict[str, int]:
    """As many replicas as the GPUs hold; of a model with experts, groups of data-parallel ranks."""
    groups = max(1, blueprint.target.total_gpus // world_size(blueprint.engine_args))
    least = _ranks(blueprint) if blueprint.is_dense else 1
    return {"min_replicas": least, "max_replicas": groups * least}


def _has_adapters(blueprint: Blueprint) -> bool:
    return bool(blueprint.adapters or blueprint.adapter_folder)


def _head(blueprint: Blueprint, storage: str | None) -> str:
    name = model_id(blueprint)
    notes = [
        f"Ray Serve's configuration of {blueprint.model}, as quire's VllmEngine would run it.",
        *blueprint.notes,
        *(
            f"Set {variable} where `ray start` runs, on every node; it is not shown here."
            for variable in blueprint.secrets
        ),
    ]
    if _ranks(blueprint) > 1 and blueprint.is_dense:
        notes.append(f"The model has no experts, so its {_ranks(blueprint)} ranks are replicas.")
    if _has_adapters(blueprint):
        notes += _adapter_notes(blueprint, name, storage)
    return "\n".join([comments(notes), *_how_to_start(blueprint, name)])


def _how_to_start(blueprint: Blueprint, name: str) -> list[str]:
    lines = [
        comments(["Ray Serve asks for no key. Save this as serve.yaml, and on each node:"]),
        shown("pip install 'ray[serve,llm]'"),
    ]
    several = blueprint.target.nodes > 1
    for where, line in ray_cluster_commands(blueprint.target.address) if several else ():
        lines += [comments([where]), shown(line)]
    lines += [
        comments(["On the first node:" if several else "Start it with:"]),
        shown("serve deploy serve.yaml" if several else "serve run serve.yaml"),
    ]
    server = f"http://{blueprint.target.address if several else '127.0.0.1'}:{SERVER_PORT}"
    note = (
        f"quire talks to it with infer_backend: remote, remote_base_url: {server} and "
        f"remote_model: {name} (docs/remote.md)."
    )
    return [*lines, comments([note])]


def _adapter_notes(blueprint: Blueprint, name: str, storage: str | None) -> list[str]:
    notes = [
        f"Copy the adapter's folder {one.path} to {storage or STORAGE}/{one.name}; requests ask for "
        f"it as {name}:{one.name}."
        for one in blueprint.adapters
    ]
    if blueprint.adapter_folder:
        notes.append(
            f"Copy the folders in {blueprint.adapter_folder} to {storage or STORAGE}, too; requests "
            f"ask for them as {name}:FOLDER."
        )
    if storage is None:
        notes.append("Put your own storage in place of YOUR-BUCKET, or give --adapter-storage.")
    return notes
