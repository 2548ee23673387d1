"""What a server does otherwise than quire's own engine, in sentences for comments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quire.arguments import DataArguments, GeneratingArguments, InferArgs, ModelArguments
from quire.deploy.adapters import ServedAdapter
from quire.deploy.model import ServedModel


def model_notes(
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


def server_notes(
    arguments: InferArgs,
    model: ServedModel,
    adapters: tuple[ServedAdapter, ...],
    sampling: Mapping[str, Any],
) -> Iterator[str]:
    """Every difference that this configuration brings."""
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
            f"Without an adapter's name a request gets the base model; in quire it gets "
            f"{adapters[0].name}."
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
