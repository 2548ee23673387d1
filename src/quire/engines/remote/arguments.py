"""Which arguments the remote engine honours: the others are refused, or named as without effect."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from quire.arguments import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
)
from quire.errors import ConfigError

logger = logging.getLogger("quire")

KEY_VARIABLE = "QUIRE_REMOTE_API_KEY"

_WITHOUT_EFFECT = ("use_fast_tokenizer", "trust_remote_code", "use_kv_cache")
_WITHOUT_EFFECT_PREFIXES = ("native_", "vllm_")  # but vllm_maxlen
_SERVERS_OWN = ("rope_scaling", "quantization_bit", "infer_dtype")


def sends_tokens(model_args: ModelArguments) -> bool:
    """Whether token ids are sent: as `remote_api` says, or where the model's folder is here.

    Raises:
        ConfigError: token ids are wanted and the folder is not here.
    """
    is_here = Path(model_args.model_name_or_path).expanduser().is_dir()
    if model_args.remote_api == "tokens" and not is_here:
        raise ConfigError(
            "remote_api tokens needs the model's tokenizer and template: model_name_or_path must be "
            f"its folder here, and {model_args.model_name_or_path} is none. Without one, use "
            "remote_api: chat."
        )
    return is_here and model_args.remote_api != "chat"


def api_key(model_args: ModelArguments) -> str | None:
    """The key in plain text, for the servers alone: `remote_api_key`, else the environment's."""
    if model_args.remote_api_key is not None:
        return model_args.remote_api_key.get_secret_value()
    return os.environ.get(KEY_VARIABLE)


def check_arguments(model_args: ModelArguments, finetuning_args: FinetuningArguments) -> None:
    """Refuse by name what would change answers, and name in one line what has no effect.

    Raises:
        ConfigError: an argument that the remote engine cannot honour.
    """
    problems = list(_problems(model_args, finetuning_args))
    if problems:
        raise ConfigError(" ".join(problems))
    ignored = [
        name
        for name in model_args.explicit()
        if name in _WITHOUT_EFFECT
        or (name.startswith(_WITHOUT_EFFECT_PREFIXES) and name != "vllm_maxlen")
    ]
    if ignored:
        logger.info("Without effect on the remote engine: %s.", ", ".join(ignored))


def check_chat_arguments(
    model_args: ModelArguments,
    data_args: DataArguments,
    generating_args: GeneratingArguments,
    context_length: int | None,
) -> None:
    """Refuse what only a local tokenizer and template could do.

    Raises:
        ConfigError: an argument that `remote_api: chat` cannot honour.
    """
    problems = list(_chat_problems(model_args, data_args, generating_args, context_length))
    if problems:
        raise ConfigError(" ".join(problems))


def _problems(model_args: ModelArguments, finetuning_args: FinetuningArguments) -> Iterator[str]:
    if model_args.adapter_name_or_path or model_args.adapter_folder:
        yield (
            "adapter_name_or_path and adapter_folder: a remote server has its own adapters "
            "(vLLM's --lora-modules); name one as remote_model, or with a request's adapter."
        )
    given = model_args.explicit()
    for name in _SERVERS_OWN:
        if given.get(name) not in (None, "auto"):
            yield f"{name}: the server decides it; start the server with it, and leave it out here."
    if model_args.split_special_tokens:
        yield (
            "split_special_tokens: users' text never becomes control tokens here, and the "
            "template's always do; leave it out."
        )
    if finetuning_args.stage == "rm":
        yield "stage rm: the remote engine scores no texts yet."


def _chat_problems(
    model_args: ModelArguments,
    data_args: DataArguments,
    generating_args: GeneratingArguments,
    context_length: int | None,
) -> Iterator[str]:
    for group, names in (
        (data_args, ("template", "tool_format")),
        (model_args, ("add_tokens", "add_special_tokens")),
    ):
        for name in names:
            if getattr(group, name):
                yield f"{name}: with remote_api chat the server has the template and the tokenizer; leave it out."
    own = generating_args.explicit()
    if "max_length" in own and "max_new_tokens" not in own:
        yield "max_length counts the prompt's tokens, which only the server knows; give max_new_tokens."
    length = model_args.explicit().get("vllm_maxlen")
    if length is not None and (context_length is None or length < context_length):
        yield "vllm_maxlen: with remote_api chat the server's own limit holds; leave it out."
