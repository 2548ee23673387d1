"""get_infer_args: every source, LLaMA-Factory's own files, training keys, unknown keys."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from quire.arguments import GeneratingArguments, get_infer_args
from quire.arguments.command_line import FIELDS
from quire.arguments.foreign import FOREIGN_KEYS, TRAINING_KEYS
from quire.errors import ConfigError, UnknownArgumentError
from quire.options import OPTIONS_BY_NAME

# The keys of LLaMA-Factory's own inference files, and of a training file that users also pass.
INFERENCE_YAML = """
model_name_or_path: saves/qwen3-4b
adapter_name_or_path: saves/qwen3-4b/lora/sft
template: qwen3_nothink
infer_backend: huggingface  # choices: [huggingface, vllm, sglang, ktransformers]
trust_remote_code: true
"""
TRAINING_YAML = """
model_name_or_path: saves/qwen3-4b
image_max_pixels: 262144
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4
output_dir: saves/qwen3-4b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
deepspeed: examples/deepspeed/ds_z3_config.json
seed: 42
"""


def read(**values: Any) -> Any:
    return get_infer_args({"model_name_or_path": "folder", **values})


def test_every_source_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"model_name_or_path": "folder", "template": "llama2", "temperature": 0.5}
    yaml_file, json_file = tmp_path / "a.yaml", tmp_path / "a.json"
    yaml_file.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    json_file.write_text(json.dumps(values))
    words = [f"{key}={value}" for key, value in values.items()]
    monkeypatch.setattr("sys.argv", ["quire", *words])
    expected = get_infer_args(values)
    for source in (yaml_file, str(json_file), words, None, [str(yaml_file)]):
        assert get_infer_args(source) == expected
    assert expected[3].explicit() == {"temperature": 0.5}


def test_the_callers_dictionary_is_not_changed() -> None:
    values = {"model_name_or_path": "m", "adapter_name_or_path": "a,b", "vllm_config": {"a": 1}}
    before = json.dumps(values)
    get_infer_args(values)
    assert json.dumps(values) == before


def test_llama_factorys_inference_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "qwen3_lora_sft.yaml"
    file.write_text(INFERENCE_YAML)
    with caplog.at_level(logging.INFO, "quire"):
        model, data, _, _ = get_infer_args(file)
    assert model.infer_backend == "native"
    assert model.adapter_name_or_path == ("saves/qwen3-4b/lora/sft",)
    assert data.template == "qwen3_nothink"
    assert [record.getMessage() for record in caplog.records] == [
        "infer_backend huggingface is taken as native, quire's own engine."
    ]


@pytest.mark.parametrize(
    "text",
    [
        (
            "model_name_or_path: saves/full\ntemplate: llama3\ninfer_backend: vllm\n"
            "vllm_enforce_eager: true\ntrust_remote_code: true\n"
        ),
        (
            "model_name_or_path: vision/model\ntemplate: qwen3_vl_nothink\n"
            "infer_backend: huggingface  # choices: [huggingface, vllm]\ntrust_remote_code: true\n"
        ),
        "model_name_or_path: m\ntemplate: llava\ninfer_backend: huggingface\n",
        (
            "model_name_or_path: m\nadapter_name_or_path: a\ntemplate: llama3\n"
            "finetuning_type: lora\ninfer_backend: huggingface\n"
        ),
    ],
)
def test_llama_factorys_other_inference_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "inference.yaml"
    file.write_text(text)
    model, data, _, _ = get_infer_args(file)
    assert model.infer_backend == ("vllm" if "vllm_" in text else "native")
    assert data.template
    assert data.template in text


@pytest.mark.parametrize("name", ["sglang", "ktransformers"])
def test_an_engine_that_quire_lacks_is_refused_by_name(name: str) -> None:
    settings = {"cpu_infer": 32, "chunk_size": 8192, "kt_maxlen": 4096, "sglang_maxlen": 4096}
    with pytest.raises(ConfigError, match=f"{name} is no engine of quire; use auto, vllm"):
        read(infer_backend=name, **settings)


def test_a_training_file_is_read_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(TRAINING_YAML)
    model, data, finetuning, _ = get_infer_args(file)
    assert (model.image_max_pixels, data.dataset) == (262144, ("identity", "alpaca_en_demo"))
    assert finetuning.finetuning_type == "lora"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "learning_rate" in line
    assert "deepspeed" in line
    assert "template" not in line
    for key in ("dataset", "cutoff_len", "max_samples"):
        assert key in line


def test_contract_example() -> None:
    model, data, _, _ = get_infer_args(
        {
            "model_name_or_path": "M",
            "template": "llama2",
            "infer_backend": "vllm",
            "vllm_maxlen": 4096,
            "vllm_gpu_util": 0.9,
        }
    )
    assert (model.infer_backend, model.vllm_gpu_util, data.template) == ("vllm", 0.9, "llama2")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tempreature": 1}, r"Unknown argument 'tempreature'; did you mean 'temperature'\?$"),
        ({"lerning_rate": 1}, r"did you mean 'learning_rate'\?$"),
        ({"qqqqqq": 1}, r"^Unknown argument 'qqqqqq'\.$"),
        ({"vllm_dtype": "float16"}, "'vllm_dtype' is now called 'infer_dtype'"),
        ({"min_p": 0.1}, "given with a request"),
    ],
)
def test_unknown_keys_name_the_nearest(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UnknownArgumentError, match=words):
        read(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"use_kt": True}, "use_kt is refused: KTransformers"),
        ({"train_from_scratch": True}, "random weights"),
        ({"mixture_of_depths": "load"}, "mixture-of-depths"),
        ({"quantization_type": "fp4"}, "bitsandbytes"),
        ({"new_special_tokens_config": "x.yaml"}, "add_special_tokens"),
        ({"infer_backend": "sglang"}, "use auto, vllm, native or remote"),
        (
            {"adapter_name_or_path": "a", "finetuning_type": "full"},
            "finetuning_type lora, not full",
        ),
    ],
)
def test_what_would_change_answers_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(**values)


def test_what_changes_nothing_is_named_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    read(flash_attn="fa2", sglang_maxlen=4096, use_kt=False, swanlab_api_key="sk-secret")
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 2
    for key in ("flash_attn", "sglang_maxlen", "use_kt", "swanlab_api_key"):
        assert key in text
    assert "sk-secret" not in text


def test_keys_are_either_ours_or_foreign() -> None:
    assert not FOREIGN_KEYS & set(FIELDS)
    assert "temperature" in FIELDS
    assert set(GeneratingArguments.model_fields) <= set(OPTIONS_BY_NAME)
    assert {"per_device_train_batch_size", "lora_rank", "output_dir", "deepspeed"} <= TRAINING_KEYS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", "- 1\n", "must hold keys and values"),
        ("a.yaml", "1: 2\n", "must hold keys and values"),
        ("a.yaml", "a: [1\n", r"a.yaml cannot be read: .* at line 2"),
        ("a.yaml", "seed: 1\ntemplate: qwen3\nseed: 2\n", "the key 'seed' stands twice"),
        ("a.json", '{"seed": 1, "seed": 2}', "the key 'seed' stands twice"),
        ("a.json", '{"a": }', "a.json cannot be read"),
        ("a.yaml", "", "model_name_or_path is required"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        get_infer_args(file)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        get_infer_args(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Cannot read"):
        get_infer_args(tmp_path)
