"""One plan for a server elsewhere, before it is written as a command or as YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quire.arguments import DataArguments, GeneratingArguments, InferArgs, ModelArguments
from quire.deploy.model import (
    ServedAdapter,
    ServedAdapters,
    ServedModel,
    adapter_needs,
    find_adapters,
    find_served_model,
)
from quire.deploy.target import Target, check_world, spread_over_nodes
from quire.engines.vllm.model_facts import weight_files
from quire.engines.vllm.plan import make_plan
from quire.engines.vllm.rewards import read_vllm_reward
from quire.errors import UnsupportedModelError
from quire.sampling import OptionResolver

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


_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
_ANY_LENGTH = 2**31


@dataclass(frozen=True)
class Blueprint:
    """What a server is started with.

    `engine_args` are vLLM's, without the model's name, what equals a default, and secrets;
    `server_args` are the OpenAI server's own. `environment` is that of its processes, and `secrets`
    names the variables that a person must set. `is_dense` says that the model is known to have no
    experts. `notes` are sentences for comments.
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
    adapters = find_adapters(args, model, scores=finetuning.stage == "rm")
    _check_head(arguments, model, adapters)
    own = dict(args.vllm_config or {})
    sizes, size_notes = spread_over_nodes(target, model.facts, own)
    plan = make_plan(
        args.replace(vllm_config={**own, **sizes}) if sizes else args,
        finetuning,
        model.facts,
        target.devices(),
        adapter_needs(args, adapters),
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
        server_args=_template_variables(data) if writes_text else {},
        environment=plan.environment,
        secrets=_secrets(args, own),
        adapters=adapters.configured,
        adapter_folder=adapters.folder,
        target=target,
        is_dense=model.is_known and not model.facts.num_experts,
        notes=(
            target.described(),
            *_model_notes(model, args, adapters.configured),
            *(f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in plan.notes),
            *size_notes,
            *_server_notes(arguments, model, adapters.configured, sampling),
        ),
    )


def _check_head(arguments: InferArgs, model: ServedModel, adapters: ServedAdapters) -> None:
    """Refuse a reward model whose head quire itself would have to apply."""
    if model.folder is None or not weight_files(model.folder):
        return
    reward = read_vllm_reward(arguments, model.folder, adapters.head_folders)
    if reward is not None and reward.head is not None:
        raise UnsupportedModelError(
            f"{model.name}: a server of vLLM's own applies no value head, and no score of an adapter. "
            "Serve it with `quire serve`, or save it as a sequence classification model."
        )


def _for_server(
    planned: Mapping[str, Any], own: Mapping[str, Any], args: ModelArguments, model: ServedModel
) -> dict[str, Any]:
    """The planned arguments that stand in the command: the user's own, and what is no default.

    Secrets never do.
    """
    values: dict[str, Any] = {}
    for key, value in planned.items():
        is_secret = key in SECRETS and not isinstance(value, bool)
        needless = key in IN_PROCESS or (key in DEFAULTS and DEFAULTS[key] == value)
        if value is not None and not is_secret and (key in own or not needless):
            values[key] = value
    if model.from_hub:  # VllmEngine gives vLLM the folder of the snapshot instead
        if args.model_revision != "main":
            values.setdefault("revision", args.model_revision)
        if args.cache_dir is not None:
            values.setdefault("download_dir", args.cache_dir)
    return values


def _template_variables(data: DataArguments) -> dict[str, Any]:
    """The server's own argument for what its chat template is given."""
    variables = dict(data.chat_template_kwargs or {})
    if data.enable_thinking is not None:
        variables["enable_thinking"] = data.enable_thinking
    if data.preserve_thinking:
        variables["preserve_thinking"] = True
    return {"default_chat_template_kwargs": variables} if variables else {}


def _secrets(args: ModelArguments, own: Mapping[str, Any]) -> tuple[str, ...]:
    names = [variable for key, variable in SECRETS.items() if isinstance(own.get(key), str)]
    if args.hf_hub_token is not None:
        names.append(SECRETS["hf_token"])
    return tuple(dict.fromkeys(names))


def sampling_defaults(generating: GeneratingArguments, model: ServedModel) -> dict[str, Any]:
    """The sampling of requests that set none, as quire has it: vLLM's `override_generation_config`.

    For a model that is not here these are the configured values alone: the server reads the rest from
    the model's own generation_config.json. `max_new_tokens` is there only where it is configured,
    because vLLM takes it for a limit of every request.
    """
    explicit = generating.explicit()
    resolver = OptionResolver(explicit, model.generation_config, context_length=_ANY_LENGTH)
    params = resolver.resolve({}, 1)
    chosen = [name for name in _SAMPLING if model.is_known or name in explicit]
    if params.greedy and "temperature" not in chosen:
        chosen.insert(0, "temperature")
    values: dict[str, Any] = {name: getattr(params, name) for name in chosen}
    if params.min_p:
        values["min_p"] = params.min_p
    if "max_new_tokens" in explicit:
        values["max_new_tokens"] = params.max_tokens
    return values


# --- notes: sentences for comments -------------------------------------------------------------------


def _model_notes(
    model: ServedModel, args: ModelArguments, adapters: tuple[ServedAdapter, ...]
) -> Iterator[str]:
    """What is known of the model, and where the server looks for its files."""
    if not model.is_known:
        yield (
            f"{model.name} is not on this machine, so nothing is known of it: check that its "
            "attention heads divide by the tensor-parallel size, and that it takes "
            f"{args.vllm_maxlen:,} tokens (vllm_maxlen)."
        )
    if not model.from_hub:
        yield "The model's folder must be at the same path on the server, on every node of it."
    unread = ", ".join(one.name for one in adapters if one.rank is None)
    if unread:
        yield (
            f"Adapters that are not on this machine: {unread}; their rank is taken to be at most "
            f"{args.vllm_max_lora_rank} (vllm_max_lora_rank)."
        )


def _server_notes(
    arguments: InferArgs,
    model: ServedModel,
    adapters: tuple[ServedAdapter, ...],
    sampling: Mapping[str, Any],
) -> Iterator[str]:
    """What the server does otherwise than quire's own engine would with this configuration."""
    args, data, finetuning, generating = arguments
    if finetuning.stage == "rm":
        yield "A reward model: the server scores under /classify and /pooling, and chats with nobody."
    else:
        yield from _sampling_notes(generating, model, sampling)
        yield from _prompt_notes(data)
    if args.add_tokens or args.add_special_tokens:
        yield (
            "add_tokens and add_special_tokens are not carried over: save a tokenizer that has them, "
            "and give its folder as vllm_config {tokenizer: FOLDER}."
        )
    if args.trust_remote_code:
        yield "trust_remote_code: the server runs Python code out of the model's repository."
    if adapters:
        yield (
            "Without an adapter's name a request gets the base model; in quire it gets "
            f"{_default_of(adapters)}."
        )


def _default_of(adapters: tuple[ServedAdapter, ...]) -> str:
    names = " and ".join(one.name for one in adapters)
    return (
        names if len(adapters) == 1 else f"the sum of {names} (merge them for a server of its own)"
    )


def _sampling_notes(
    generating: GeneratingArguments, model: ServedModel, sampling: Mapping[str, Any]
) -> Iterator[str]:
    yield (
        "Requests that set no sampling get override_generation_config here; quire's remote engine "
        "sends its own with each request."
    )
    if not model.is_known:
        yield (
            "What neither the configuration nor the model's generation_config.json sets is vLLM's "
            "default there (temperature 1, top_p 1), not quire's (0.95, 0.7, top_k 50)."
        )
    if "max_new_tokens" in sampling:
        yield (
            f"max_new_tokens {sampling['max_new_tokens']:,} is also the most that any request gets "
            "there, whatever it asks for; in quire it is a default."
        )
    elif "max_length" in generating.explicit():
        yield "max_length counts the prompt too, which the server cannot: send max_tokens."
    else:
        yield "Without max_tokens in a request the server's limit is its own, not quire's 1024."
    if not generating.skip_special_tokens:
        yield "skip_special_tokens is a request's own there: send skip_special_tokens: false."
    if (budget := generating.thinking_budget) is not None:
        yield f"thinking_budget is a request's own there: send thinking_token_budget: {budget}."


def _prompt_notes(data: DataArguments) -> Iterator[str]:
    if data.template is not None:
        yield (
            f"The template {data.template} is quire's and cannot be carried over: the server renders "
            "with the model's own chat template. quire's remote engine with the model's folder "
            "(remote_api: tokens) renders with the named one itself, and sends tokens."
        )
    if data.default_system:
        yield "default_system is not carried over: send it with each request, or use remote_api."
    yield (
        "The server reads tool calls only with --enable-auto-tool-choice and --tool-call-parser "
        "NAME, and thoughts with --reasoning-parser NAME; the remote engine with tokens needs none."
    )
