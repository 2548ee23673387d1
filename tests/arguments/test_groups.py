"""The four groups: contract's names and defaults, checks, and errors in our own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from quire.arguments import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from quire.errors import ConfigError, UnknownArgumentError

CONTRACT: dict[Any, dict[str, Any]] = {
    ModelArguments: {
        "adapter_name_or_path": None,
        "adapter_folder": None,
        "cache_dir": None,
        "model_revision": "main",
        "hf_hub_token": None,
        "use_fast_tokenizer": True,
        "split_special_tokens": False,
        "add_tokens": None,
        "add_special_tokens": None,
        "trust_remote_code": False,
        "infer_backend": "auto",
        "infer_dtype": "auto",
        "rope_scaling": None,
        "quantization_bit": None,
        "use_kv_cache": True,
        "image_max_pixels": 589824,
        "image_min_pixels": 1024,
        "video_max_pixels": 65536,
        "video_min_pixels": 256,
        "video_fps": 2.0,
        "video_maxlen": 128,
        "use_audio_in_video": False,
        "audio_sampling_rate": 16000,
        "vllm_maxlen": 4096,
        "vllm_gpu_util": 0.7,
        "vllm_enforce_eager": False,
        "vllm_max_lora_rank": 32,
        "vllm_config": None,
    },
    DataArguments: {
        "template": None,
        "tool_format": None,
        "default_system": None,
        "enable_thinking": None,
        "preserve_thinking": False,
        "dataset": None,
        "dataset_dir": "data",
        "media_dir": None,
        "cutoff_len": 2048,
        "max_samples": None,
    },
    FinetuningArguments: {"stage": "sft", "finetuning_type": "lora"},
    GeneratingArguments: {
        "do_sample": True,
        "temperature": 0.95,
        "top_p": 0.7,
        "top_k": 50,
        "num_beams": 1,
        "max_length": 1024,
        "max_new_tokens": 1024,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "skip_special_tokens": True,
        "thinking_budget": None,
    },
}


def model(**values: Any) -> ModelArguments:
    return ModelArguments(**{"model_name_or_path": "folder", **values})


@pytest.mark.parametrize("group", list(CONTRACT))
def test_defaults_are_the_contracts(group: Any) -> None:
    made = model() if group is ModelArguments else group()
    assert {key: getattr(made, key) for key in CONTRACT[group]} == CONTRACT[group]


def test_the_models_name_is_required() -> None:
    with pytest.raises(ConfigError, match=r"^model_name_or_path is required\.$"):
        ModelArguments()  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="model_name_or_path"):
        ModelArguments(model_name_or_path="")


def test_explicit_tells_what_was_given() -> None:
    given = GeneratingArguments(temperature=0.95, top_k=None)  # pyright: ignore[reportArgumentType]
    assert given.explicit() == {"temperature": 0.95}
    assert given.top_k == 50
    assert GeneratingArguments().explicit() == {}


def test_null_is_kept_where_it_has_a_meaning() -> None:
    assert DataArguments(enable_thinking=None).explicit() == {"enable_thinking": None}


def test_groups_do_not_change_but_can_be_replaced() -> None:
    given = GeneratingArguments(temperature=0.5)
    with pytest.raises(ValidationError):
        given.temperature = 0.1  # type: ignore[misc]
    other = given.replace(top_p=0.3)
    assert other.explicit() == {"temperature": 0.5, "top_p": 0.3}
    assert given.explicit() == {"temperature": 0.5}
    with pytest.raises(ConfigError, match="top_p must be at most 1"):
        given.replace(top_p=3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"infer_dtype": "int3"}, "infer_dtype must be one of 'auto', .* not 'int3'"),
        ({"vllm_maxlen": 0}, "vllm_maxlen must be at least 1, not 0"),
        ({"vllm_maxlen": True}, "vllm_maxlen: a number is needed, not true or false"),
        ({"vllm_maxlen": 12.5}, "vllm_maxlen must be an integer, not 12.5"),
        ({"vllm_gpu_util": 1.5}, "vllm_gpu_util must be at most 1"),
        ({"trust_remote_code": "perhaps"}, "trust_remote_code must be true or false"),
        (
            {"image_max_pixels": 5},
            r"image_max_pixels \(5\) cannot be below image_min_pixels \(1,024\)",
        ),
        ({"video_min_pixels": 10**6}, "video_max_pixels .* cannot be below"),
        ({"video_fps": float("nan")}, "video_fps must be a finite number"),
        (
            {"infer_backend": "sglang"},
            "infer_backend: sglang is no engine of quire; use auto, vllm",
        ),
        ({"infer_backend": "tgi"}, "infer_backend must be one of"),
        ({"rope_scaling": "ntk"}, "rope_scaling must be one of"),
        ({"adapter_name_or_path": [{}]}, "adapter_name_or_path must be text"),
        (
            {"native_kv_cache_memory": "much"},
            "native_kv_cache_memory: a size is needed, such as 2GiB",
        ),
        ({"native_kv_cache_memory": 0}, "native_kv_cache_memory must be at least 1"),
        ({"vllm_config": "{no json"}, "vllm_config: no valid JSON"),
        ({"vllm_config": [1]}, r"vllm_config must be a dictionary, not \[1\]"),
        ({"vllm_config": "absent.yaml"}, r"vllm_config: No such file: absent\.yaml\.$"),
    ],
)
def test_wrong_values_name_key_value_and_way_out(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        model(**values)
    assert "pydantic" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": -1}, "temperature must be at least 0, not -1"),
        ({"top_p": 2}, "top_p must be at most 1, not 2"),
        ({"top_k": -2}, "top_k must be at least -1"),
        ({"num_beams": 4}, "num_return_sequences"),
        ({"length_penalty": 1.2}, "length_penalty belongs to beam search"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"do_sample": 3}, "do_sample must be true or false"),
    ],
)
def test_wrong_sampling_settings(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GeneratingArguments(**values)


def test_several_problems_are_all_named() -> None:
    with pytest.raises(ConfigError, match="temperature") as caught:
        GeneratingArguments(temperature=-1, top_p=2)
    assert "top_p" in str(caught.value)


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UnknownArgumentError, match=r"'tempreature'; did you mean 'temperature'\?$"):
        GeneratingArguments(tempreature=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("value", [0, -1])
def test_max_new_tokens_below_one_means_unset(value: int) -> None:
    assert GeneratingArguments(max_new_tokens=value, max_length=99).explicit() == {"max_length": 99}


def test_names_come_as_a_list_or_with_commas() -> None:
    assert model(adapter_name_or_path="a, b").adapter_name_or_path == ("a", "b")
    assert model(adapter_name_or_path=["a", "b,c"]).adapter_name_or_path == ("a", "b,c")
    assert model(adapter_name_or_path="").adapter_name_or_path is None
    assert model(adapter_name_or_path=Path("a,b")).adapter_name_or_path == ("a,b",)
    assert model(adapter_name_or_path=[Path("a"), "b"]).adapter_name_or_path == ("a", "b")
    assert model(adapter_folder=Path("a")).adapter_folder == "a"
    both = DataArguments(dataset="x,y")  # pyright: ignore[reportArgumentType]
    assert both.dataset == ("x", "y")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("512MB", 512 * 10**6),
        ("512 mb", 512 * 10**6),
        ("4k", 4000),
        ("1024", 1024),
        (4096, 4096),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert model(native_kv_cache_memory=text).native_kv_cache_memory == size


def test_vllm_config_from_dict_json_and_files(tmp_path: Path) -> None:
    wanted = {"max_num_seqs": 4, "compilation_config": {"level": 0}}
    yaml_file, json_file = tmp_path / "engine.yaml", tmp_path / "engine.json"
    yaml_file.write_text("max_num_seqs: 4\ncompilation_config: {level: 0}\n")
    json_file.write_text(json.dumps(wanted))
    for given in (wanted, json.dumps(wanted), str(yaml_file), json_file):
        assert model(vllm_config=given).vllm_config == wanted


def test_names_of_backends_and_scalings() -> None:
    assert model(infer_backend="huggingface").infer_backend == "native"
    assert model(rope_scaling="none").rope_scaling is None
    assert model(rope_scaling="yarn").rope_scaling == "yarn"
    assert DataArguments(template="").template is None


def test_a_stage_of_training_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="leave stage out"):
        FinetuningArguments(stage="dpo")  # pyright: ignore[reportArgumentType]


def test_the_token_is_never_shown() -> None:
    given = model(hf_hub_token="hf_secret")
    assert given.hub_token() == "hf_secret"
    assert model().hub_token() is None
    assert "hf_secret" not in f"{given!r}{given}{given.to_dict()}{given.explicit()}"
    with pytest.raises(ConfigError) as caught:
        model(hf_hub_token=["hf_secret"])
    assert "hf_secret" not in str(caught.value)
