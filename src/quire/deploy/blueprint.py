"""One plan for a server elsewhere, before it is written as a command or as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.arguments import InferArgs, ModelArguments
from quire.deploy.adapters import ServedAdapter, find_adapters, needs
from quire.deploy.differences import model_notes, server_notes
from quire.deploy.model import ServedModel, find_served_model
from quire.deploy.sampling import sampling_defaults
from quire.deploy.spread import check_world, spread_over_nodes
from quire.deploy.target import Target
from quire.engines.vllm.plan import make_plan

IN_PROCESS = frozenset({"disable_log_stats", "use_tqdm_on_load"})
"""Planned for an engine inside a program; a server keeps its statistics and its progress bars."""

DEFAULTS: Mapping[str, Any] = {
    "trust_remote_code": False,
    "dtype": "auto",
    "enforce_eager": False,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
}
"""vLLM's own defaults of what the plan always holds: planned values equal to these are left out."""

SECRETS: Mapping[str, str] = {"hf_token": "HF_TOKEN", "api_key": "VLLM_API_KEY"}
"""Keys of `vllm_config` that may hold a secret, and the variables that take their place."""


@dataclass(frozen=True)
class Blueprint:
    """What a server is started with.

    `engine_args` are vLLM's, without the model's name, what equals a default, and secrets;
    `server_args` are the OpenAI server's own. `is_dense` is a model known to have no experts. `environment` is that of its processes, and `secrets`
    names the variables that a person must set. `notes` are sentences for comments.
    """

    model: str
    engine_args: Mapping[str, Any]
    server_args: Mapping[str, Any]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    adapters: tuple[ServedAdapter, ...]
    adapter_folder: str | None
    target: Target
    is_dense: bool
    notes: tuple[str, ...]


def make_blueprint(arguments: InferArgs, target: Target) -> Blueprint:
    """Plan as VllmEngine does, for the target's devices.

    Raises:
        ConfigError: an argument that vLLM cannot honour, or sizes that do not fit the target.
        ModelError: the model or an adapter is here and cannot be used.
        OutOfMemoryError: a CPU server's memory would not hold one sequence.
    """
    args, data, finetuning, generating = arguments
    model = find_served_model(args)
    adapters = find_adapters(args, model)
    own = dict(args.vllm_config or {})
    sizes, size_notes = spread_over_nodes(target, model.facts, own)
    plan = make_plan(
        args.replace(vllm_config={**own, **sizes}) if sizes else args,
        finetuning,
        model.facts,
        target.devices(),
        needs(args, adapters),
    )
    values = dict(plan.engine_args)
    size_notes += check_world(target, values)
    name = str(values.pop("model"))
    writes_text = finetuning.stage != "rm"
    sampling = sampling_defaults(generating, model) if writes_text else {}
    if sampling:
        values.setdefault("override_generation_config", sampling)
    return Blueprint(
        model=name,
        engine_args=_for_server(values, own, args, model),
        server_args=_thinking(data.explicit().get("enable_thinking", True)) if writes_text else {},
        environment=plan.environment,
        secrets=_secrets(args, own),
        adapters=adapters,
        adapter_folder=args.adapter_folder,
        target=target,
        is_dense=model.is_known and not model.facts.num_experts,
        notes=(
            target.described(),
            *model_notes(model, args, adapters),
            *(f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in plan.notes),
            *size_notes,
            *server_notes(arguments, model, adapters, sampling),
        ),
    )


def _for_server(
    planned: Mapping[str, Any], own: Mapping[str, Any], args: ModelArguments, model: ServedModel
) -> dict[str, Any]:
    """The planned arguments that a server is told; the user's own always are, but for secrets."""
    values: dict[str, Any] = {}
    for key, value in planned.items():
        is_secret = key in SECRETS and not isinstance(value, bool)
        untold = key in IN_PROCESS or (key in DEFAULTS and DEFAULTS[key] == value)
        if value is not None and not is_secret and (key in own or not untold):
            values[key] = value
    if model.from_hub:  # VllmEngine gives vLLM the folder of the snapshot instead
        if args.model_revision != "main":
            values.setdefault("revision", args.model_revision)
        if args.cache_dir is not None:
            values.setdefault("download_dir", args.cache_dir)
    return values


def _thinking(enabled: bool | None) -> dict[str, Any]:
    """Templates think unless they are told not to."""
    return {"default_chat_template_kwargs": {"enable_thinking": False}} if enabled is False else {}


def _secrets(args: ModelArguments, own: Mapping[str, Any]) -> tuple[str, ...]:
    names = [variable for key, variable in SECRETS.items() if isinstance(own.get(key), str)]
    if args.hf_hub_token is not None:
        names.append(SECRETS["hf_token"])
    return tuple(dict.fromkeys(names))
