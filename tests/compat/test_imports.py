"""Every import path that users of the chat stack have, and clear errors for the others."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.arguments import get_infer_args

pytestmark = pytest.mark.usefixtures("compat")
RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("path", "original"),
    [
        ("llamafactory.chat:ChatModel", "quire.chat:ChatModel"),
        ("llamafactory.chat:BaseEngine", "quire.chat:BaseEngine"),
        ("llamafactory.chat:Response", "quire.chat:Response"),
        ("llamafactory.chat.chat_model:ChatModel", "quire.chat:ChatModel"),
        ("llamafactory.chat.base_engine:BaseEngine", "quire.chat:BaseEngine"),
        ("llamafactory.chat.base_engine:Response", "quire.chat:Response"),
        (
            "llamafactory.chat.hf_engine:HuggingfaceEngine",
            "quire.chat.native_engine:NativeEngine",
        ),
        ("llamafactory.hparams:get_infer_args", "quire.arguments:get_infer_args"),
        ("llamafactory.hparams.parser:get_infer_args", "quire.arguments:get_infer_args"),
        ("llamafactory.hparams:ModelArguments", "quire.arguments:ModelArguments"),
        ("llamafactory.hparams:DataArguments", "quire.arguments:DataArguments"),
        ("llamafactory.hparams:FinetuningArguments", "quire.arguments:FinetuningArguments"),
        ("llamafactory.hparams:GeneratingArguments", "quire.arguments:GeneratingArguments"),
        ("llamafactory.hparams.model_args:ModelArguments", "quire.arguments:ModelArguments"),
        ("llamafactory.hparams.data_args:DataArguments", "quire.arguments:DataArguments"),
        (
            "llamafactory.hparams.finetuning_args:FinetuningArguments",
            "quire.arguments:FinetuningArguments",
        ),
        (
            "llamafactory.hparams.generating_args:GeneratingArguments",
            "quire.arguments:GeneratingArguments",
        ),
        ("llamafactory:__version__", "quire:__version__"),
        ("llamafactory.extras.env:VERSION", "quire:__version__"),
    ],
)
def test_the_name_is_quires_own(path: str, original: str) -> None:
    assert _get(path) is _get(original)


def _get(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def test_the_module_of_vllm_engine_needs_no_vllm(run_python: RunPython) -> None:
    result = run_python(
        "-c",
        "import sys, llamafactory.chat.vllm_engine\n"
        "print({'vllm', 'quire.chat.vllm_engine'} & set(sys.modules))",
    )
    assert (result.stdout, result.stderr) == ("set()\n", "")


_VLLM_ENGINE = """
def outcome(module):
    try:
        return getattr(importlib.import_module(module), "VllmEngine")
    except Exception as error:
        return type(error), str(error)

import importlib
print(outcome("llamafactory.chat.vllm_engine") == outcome("quire.chat.vllm_engine"))
"""


def test_vllm_engine_is_quires_own_or_quires_own_error(run_python: RunPython) -> None:
    result = run_python("-c", _VLLM_ENGINE)
    assert result.stdout == "True\n", result.stderr


def test_huggingface_engine_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    module = importlib.import_module("llamafactory.chat.hf_engine")
    with caplog.at_level(logging.INFO, logger="quire"):
        assert module.HuggingfaceEngine is not None
    assert "HuggingfaceEngine is quire's own NativeEngine" in caplog.text


def test_helpers_around_a_chat_model() -> None:
    constants = importlib.import_module("llamafactory.extras.constants")
    placeholders = (constants.IMAGE_PLACEHOLDER, constants.VIDEO_PLACEHOLDER)
    assert (*placeholders, constants.AUDIO_PLACEHOLDER) == ("<image>", "<video>", "<audio>")
    assert _get("llamafactory.extras.misc:torch_gc")() is None
    is_there = importlib.util.find_spec("vllm") is not None
    assert _get("llamafactory.extras.packages:is_vllm_available")() is is_there


def test_get_infer_args_reads_what_quires_reads(tmp_path: Path) -> None:
    arguments = {
        "model_name_or_path": "some/model",
        "adapter_name_or_path": "first,second",
        "template": "qwen3",
        "infer_backend": "vllm",
        "vllm_config": '{"max_num_seqs": 8}',
        "temperature": 0.5,
        "preprocessing_num_workers": 16,
    }
    theirs = importlib.import_module("llamafactory.hparams").get_infer_args(arguments)
    assert theirs == get_infer_args(arguments)
    model, data, finetuning, generating = theirs
    assert model.adapter_name_or_path == ("first", "second")
    assert model.vllm_config == {"max_num_seqs": 8}
    assert (data.template, finetuning.stage, generating.temperature) == ("qwen3", "sft", 0.5)


@pytest.mark.parametrize(
    ("lines", "backend", "adapters"),
    [
        ("infer_backend: huggingface  # choices: [huggingface, vllm]\n", "native", None),
        ("adapter_name_or_path: saves/sft\ninfer_backend: huggingface\n", "native", ("saves/sft",)),
        ("infer_backend: vllm\nvllm_enforce_eager: true\n", "vllm", None),
    ],
)
def test_inference_yaml_is_taken_unchanged(
    lines: str, backend: str, adapters: tuple[str, ...] | None, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "### an example of inference\n\nmodel_name_or_path: saves/my-model\n"
        f"template: qwen3_nothink\ntrust_remote_code: true\n{lines}"
    )
    model, data, _, _ = importlib.import_module("llamafactory.hparams").get_infer_args(config)
    assert (model.infer_backend, model.adapter_name_or_path) == (backend, adapters)
    assert model.vllm_enforce_eager is (backend == "vllm")
    assert (data.template, model.trust_remote_code) == ("qwen3_nothink", True)


# --- what is not here ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("llamafactory.train", "the real LLaMA-Factory"),
        ("llamafactory.train.tuner", "the real LLaMA-Factory"),
        ("llamafactory.train.sft.trainer", "the real LLaMA-Factory"),
        ("llamafactory.data", "a ChatModel renders the prompts itself"),
        ("llamafactory.data.mm_plugin", "a ChatModel renders the prompts itself"),
        ("llamafactory.eval.evaluator", "the real LLaMA-Factory"),
        ("llamafactory.model", "a ChatModel loads the model"),
        ("llamafactory.webui.interface", "llamafactory-cli webchat"),
        ("llamafactory.api.app", "llamafactory-cli api"),
        ("llamafactory.v1.core.data_engine", "the real LLaMA-Factory"),
        ("llamafactory.chat.sglang_engine", "SGLang is no engine of quire"),
        ("llamafactory.hparams.training_args", "the real LLaMA-Factory"),
        ("llamafactory.extras.logging", 'logging.getLogger("quire")'),
    ],
)
def test_an_absent_module_says_why(name: str, advice: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="quire's compatibility package") as caught:
        importlib.import_module(name)
    assert advice in str(caught.value)
    assert "chat stack alone" in str(caught.value)
    assert name.startswith(caught.value.name or "nothing")


@pytest.mark.parametrize(
    "statement",
    [
        "from llamafactory import data",
        "from llamafactory.data import get_dataset, get_template_and_fix_tokenizer",
        "from llamafactory.hparams import get_train_args",
        "from llamafactory.hparams.parser import get_eval_args",
        "from llamafactory.extras.misc import get_device_count",
        "from llamafactory.extras.constants import IGNORE_INDEX",
        "from llamafactory.extras.packages import is_transformers_version_greater_than",
    ],
)
def test_an_absent_name_says_why(statement: str) -> None:
    with pytest.raises(ImportError, match="quire's compatibility package"):
        exec(statement, {})


def test_what_nobody_knows_is_an_ordinary_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'llamafactory\.chta'$"):
        importlib.import_module("llamafactory.chta")
    hparams = importlib.import_module("llamafactory.hparams")
    with pytest.raises(AttributeError, match="'get_infr_args'"):
        _ = hparams.get_infr_args
    assert not hasattr(importlib.import_module("llamafactory"), "datta")


def test_importing_loads_no_engine_and_no_foreign_library(run_python: RunPython) -> None:
    result = run_python(
        "-c",
        "import sys, llamafactory.chat, llamafactory.hparams, llamafactory.cli\n"
        "print({'torch', 'transformers', 'vllm', 'numba'} & set(sys.modules))",
    )
    assert (result.stdout, result.stderr) == ("set()\n", "")
