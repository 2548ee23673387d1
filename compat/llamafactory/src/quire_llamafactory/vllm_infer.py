"""`vllm_infer.py`: LLaMA-Factory's script for batches, by its own words, as a batch of quire.

Exit codes are quire's: 0 done, 1 the engine, the model or the batch failed, 2 the words are wrong,
130 ended by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from quire.cli.terminal import note, run_command, show_log
from quire.errors import ConfigError, sentence
from quire_llamafactory.fire_words import FireOption, asks_for_help, read_fire_words

OPTIONS = (
    FireOption("model_name_or_path", "text", None, "the model: a folder, or a name on a hub"),
    FireOption("adapter_name_or_path", "names", None, "a LoRA adapter; the first alone", True),
    FireOption("dataset", "names", "alpaca_en_demo", "data sets of dataset_info.json, by comma"),
    FireOption("dataset_dir", "text", "data", "the folder of dataset_info.json"),
    FireOption("template", "text", "default", "a named template; None for the model's own", True),
    FireOption("cutoff_len", "integer", 2048, "the tokens that prompt and label are cut to"),
    FireOption("max_samples", "integer", None, "of each data set the first so many rows", True),
    FireOption("vllm_config", "dictionary", {}, "vLLM's engine arguments, over all others", True),
    FireOption("save_name", "text", "generated_predictions.jsonl", "the file of answers"),
    FireOption("matrix_save_name", "text", None, "the file of metrics", True),
    FireOption("temperature", "number", 0.95, "0 is greedy"),
    FireOption("top_p", "number", 0.7, "0 is 1"),
    FireOption("top_k", "integer", 50, "0 is all"),
    FireOption("max_new_tokens", "integer", 1024, "the most tokens of an answer"),
    FireOption("repetition_penalty", "number", 1.0, "0 is 1"),
    FireOption("skip_special_tokens", "flag", True, "leave them out of what is written"),
    FireOption("default_system", "text", None, "in the place of the template's", True),
    FireOption("enable_thinking", "flag", True, "let the model think", True),
    FireOption("seed", "integer", None, "the same one for every row", True),
    FireOption("pipeline_parallel_size", "integer", 1, "groups of GPUs that share the layers"),
    FireOption("image_max_pixels", "integer", 768 * 768, "of an image, and of a video's frame"),
    FireOption("image_min_pixels", "integer", 32 * 32, "of an image, and of a video's frame"),
    FireOption("video_fps", "number", 2.0, "frames a second that are taken of a video"),
    FireOption("video_maxlen", "integer", 128, "the most frames of a video"),
    FireOption("batch_size", "integer", 1024, "the rows that are put in order together"),
)
_DEFAULTS = {option.name: option.default for option in OPTIONS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a batch by the words of this process's command line, and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: run(words))


def run(words: Sequence[str]) -> int:
    """Run the batch that the words describe.

    Raises:
        QuireError: the words are wrong, or the batch failed.
    """
    if asks_for_help(words):
        print(help_text())
        return 0
    show_log(logging.WARNING)
    arguments = batch_arguments(read_fire_words(words, OPTIONS, _explain))
    from quire.batch import open_job
    from quire.cli.batch import run_job

    return run_job(open_job(arguments, compat=True))


def batch_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a batch of quire, from the values of this command's options.

    Raises:
        ConfigError: no model is named, or vLLM cannot be spread as it is wanted.
    """
    if not given.get("model_name_or_path"):
        raise ConfigError("Which model? vllm_infer.py --model_name_or_path FOLDER ...; see --help.")
    values = {**_DEFAULTS, **given}
    stages = values.pop("pipeline_parallel_size")
    config = _vllm_config(values.pop("vllm_config"), stages)
    adapters = [one.strip() for one in (values.pop("adapter_name_or_path") or "").split(",")]
    if len(adapters) > 1:
        note(f"quire: of the adapters only the first is used, as in LLaMA-Factory: {adapters[0]}")
    metrics = values.pop("matrix_save_name")
    return {
        **values,
        # In the current folder; quire puts it beside the answers.
        "matrix_save_name": None if metrics is None else os.path.abspath(metrics),
        "adapter_name_or_path": adapters[0] or None,
        "vllm_config": config or None,
        "top_p": values["top_p"] or 1.0,
        "top_k": values["top_k"] or -1,
        "repetition_penalty": values["repetition_penalty"] or 1.0,
        "video_max_pixels": values["image_max_pixels"],
        "video_min_pixels": values["image_min_pixels"],
        "vllm_maxlen": values["cutoff_len"] + values["max_new_tokens"],
        "trust_remote_code": True,
        "overwrite_output_dir": True,
    }


def _vllm_config(value: Any, stages: int) -> dict[str, Any]:
    """The engine arguments that were given, over those that follow from the pipeline's size."""
    if isinstance(value, str) and value:
        from pathlib import Path

        from quire.arguments.base import read_mapping

        value = read_mapping(Path(value))
    return {**_spread(stages), **(value or {})}


def _spread(stages: int) -> dict[str, int]:
    """vLLM's parallel sizes, where the layers are to be shared out."""
    if stages == 1:
        return {}  # quire chooses how many devices share each layer
    if stages < 1:
        raise ConfigError(f"--pipeline_parallel_size must be at least 1, not {stages}.")
    from quire.engines.vllm.devices import find_devices
    from quire.engines.vllm.presence import vllm_is_installed

    count = find_devices().count if vllm_is_installed() else 0
    if stages > count:
        raise ConfigError(
            f"--pipeline_parallel_size {stages} needs as many devices of vLLM's; here it has {count}."
        )
    return {"pipeline_parallel_size": stages, "tensor_parallel_size": count // stages}


def _explain(name: str) -> str | None:
    """What became of an option that this command has not."""
    from quire.arguments import FIELDS
    from quire.arguments.foreign import RENAMED
    from quire.batch import BatchArguments

    if name in RENAMED:
        return sentence(f"Unknown option '--{name}': it is now called {RENAMED[name]!r}")
    if name in FIELDS or name in BatchArguments.model_fields:
        return f"Unknown option '--{name}': vllm_infer.py has none, but `quire batch` has {name}."
    return None


def help_text() -> str:
    """What `--help` shows."""
    width = max(len(option.name) for option in OPTIONS)
    lines = [
        f"  --{option.name:<{width}}  {option.meaning}"
        + ("" if option.default in (None, {}) else f" ({option.default})")
        for option in OPTIONS
    ]
    return "\n".join(
        [
            "Usage: vllm_infer.py MODEL [--OPTION VALUE | --OPTION=VALUE ...]",
            "",
            "Answer all rows of data sets, as LLaMA-Factory's script of this name: the same words, and",
            "a file of the same three keys first, which is written over. It runs on quire: `quire",
            "batch` has further options.",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
