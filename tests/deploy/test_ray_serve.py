"""Ray Serve's YAML: its keys and types.

Ray is not installed here. The fields are those of Ray 2.60.0: LLMConfig, ModelLoadingConfig and
LoraConfig in ray/llm/_internal/serve/core/configs/llm_config.py, LLMServingArgs in
core/ingress/builder.py, DPOpenAiServingArgs in serving_patterns/data_parallel/builder.py. All of
them refuse a key that they do not know. `engine_kwargs` takes fields of vLLM's AsyncEngineArgs and
FrontendArgs, but not `model` and `served_model_name` (engines/vllm/vllm_models.py).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from quire.demo import demo_adapter_path, demo_model_path
from quire.deploy.ray_serve import ray_config
from quire.deploy.target import Target
from quire.engines.vllm.launch import import_vllm
from quire.errors import ConfigError
from tests.deploy.printed import blueprint_of, make_config

LLM_CONFIG = {
    "runtime_env", "model_loading_config", "llm_engine", "engine_kwargs", "accelerator_type",
    "accelerator_config", "placement_group_config", "lora_config", "deployment_config",
    "server_cls", "experimental_configs", "log_engine_metrics", "callback_config",
}  # fmt: skip
LORA_CONFIG = {
    "dynamic_lora_loading_path", "max_num_adapters_per_replica", "download_timeout_s",
    "max_download_tries",
}  # fmt: skip


@pytest.fixture(scope="module")
def vllms_fields() -> frozenset[str]:
    """What Ray lets through as `engine_kwargs`."""
    import_vllm()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    kinds: tuple[Any, ...] = (AsyncEngineArgs, FrontendArgs)
    return frozenset(item.name for kind in kinds for item in dataclasses.fields(kind))


def read(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one application and the one model in it, their keys checked."""
    content = yaml.safe_load(text)
    assert set(content) == {"http_options", "applications"}
    assert content["http_options"]["port"] == 8000
    (application,) = content["applications"]
    assert set(application) == {"name", "route_prefix", "import_path", "args"}
    args = application["args"]
    several = application["import_path"] == "ray.serve.llm:build_openai_app"
    assert list(args) == (["llm_configs"] if several else ["llm_config"])
    config = args["llm_configs"][0] if several else args["llm_config"]
    assert set(config) <= LLM_CONFIG
    assert set(config["model_loading_config"]) == {"model_id", "model_source"}
    assert set(config.get("lora_config", {})) <= LORA_CONFIG
    assert set(config["deployment_config"]) == {"autoscaling_config"}
    return application, config


def config_of(
    values: dict[str, Any], target: Target | None = None, storage: str | None = None
) -> dict[str, Any]:
    return read(ray_config(blueprint_of(values, target), storage))[1]


DEMO = {"model_name_or_path": str(demo_model_path())}
CPU = Target(gpus=0, memory=8 * 2**30)


def test_the_demo_model() -> None:
    application, config = read(ray_config(blueprint_of({**DEMO, "temperature": 0.25})))
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    assert config["model_loading_config"] == {
        "model_id": "chat",
        "model_source": str(demo_model_path()),
    }
    assert config["engine_kwargs"]["gpu_memory_utilization"] == 0.7
    assert config["engine_kwargs"]["override_generation_config"]["temperature"] == 0.25
    assert config["deployment_config"]["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 1,
    }
    assert "lora_config" not in config
    assert "accelerator_config" not in config


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (DEMO, Target()),
        (DEMO, CPU),
        ({**DEMO, "enable_thinking": False, "adapter_folder": "/adapters"}, Target(gpus=8)),
        (
            {**DEMO, "vllm_config": {"served_model_name": ["a", "b"], "disable_log_stats": True}},
            Target(),
        ),
        ({"model_name_or_path": "a/b", "vllm_config": {"model": "c/d", "seed": 1}}, Target()),
    ],
)
def test_engine_kwargs_are_vllms_and_none_that_ray_refuses(
    vllms_fields: frozenset[str], values: dict[str, Any], target: Target
) -> None:
    kwargs = config_of(values, target)["engine_kwargs"]
    assert set(kwargs) <= vllms_fields
    refused = {"model", "served_model_name", "distributed_executor_backend", "disable_log_stats"}
    assert not set(kwargs) & refused


def test_names_come_from_the_configuration() -> None:
    own = {"served_model_name": ["mine", "other"], "model": "c/d"}
    config = config_of({"model_name_or_path": "a/b", "vllm_config": own})
    assert config["model_loading_config"] == {"model_id": "mine", "model_source": "c/d"}
    assert config_of({"model_name_or_path": "/m/x:y"})["model_loading_config"]["model_id"] == "x-y"


def test_a_cpu_server() -> None:
    config = config_of(DEMO, CPU)
    assert config["accelerator_config"] == {"kind": "cpu"}
    found = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}  # the model is small
    assert config["runtime_env"] == {"env_vars": found}
    assert config["engine_kwargs"]["kv_cache_memory_bytes"] > 0


def test_adapters_lie_in_a_storage() -> None:
    path = demo_adapter_path("pirate")
    values = {**DEMO, "adapter_name_or_path": str(path)}
    config = config_of(values, storage="s3://bucket/there/")
    assert config["lora_config"] == {
        "dynamic_lora_loading_path": "s3://bucket/there",
        "max_num_adapters_per_replica": 16,
    }
    assert config["engine_kwargs"]["enable_lora"] is True
    assert config["engine_kwargs"]["max_lora_rank"] == 8
    placeholder = ray_config(blueprint_of(values))
    assert "Put your own storage in place of YOUR-BUCKET" in placeholder
    assert f"chat:{path.name}" in placeholder


def test_a_storage_that_ray_cannot_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="must begin with s3://"):
        ray_config(blueprint_of(DEMO), "/mnt/adapters")


def test_copies_fill_the_gpus(tmp_path: Path) -> None:
    folder = make_config(tmp_path / "model")
    config = config_of({"model_name_or_path": str(folder)}, Target(gpus=8))
    assert config["engine_kwargs"]["tensor_parallel_size"] == 4
    assert config["deployment_config"]["autoscaling_config"]["max_replicas"] == 2


def test_two_nodes() -> None:
    target = Target(gpus=8, nodes=2, multi_node="ray", address="10.0.0.1")
    text = ray_config(blueprint_of({"model_name_or_path": "someone/model"}, target))
    _, config = read(text)
    kwargs = config["engine_kwargs"]
    assert (kwargs["tensor_parallel_size"], kwargs["pipeline_parallel_size"]) == (8, 2)
    lines = [line.lstrip("# ") for line in text.splitlines()]
    assert "ray start --head --port=6379" in lines
    assert "ray start --address=10.0.0.1:6379" in lines
    assert "serve deploy serve.yaml" in lines
    assert yaml.safe_load(text)["http_options"]["host"] == "0.0.0.0"


def test_one_machine_answers_itself_alone() -> None:
    text = ray_config(blueprint_of(DEMO))
    assert yaml.safe_load(text)["http_options"]["host"] == "127.0.0.1"


def test_data_parallel_ranks_of_experts_have_their_own_builder(tmp_path: Path) -> None:
    folder = make_config(tmp_path / "model", num_experts=8)
    own = {"data_parallel_size": 4, "enable_expert_parallel": True}
    values = {"model_name_or_path": str(folder), "vllm_config": own}
    application, config = read(ray_config(blueprint_of(values, Target(gpus=8))))
    assert application["import_path"] == "ray.serve.llm:build_dp_openai_app"
    assert own.items() <= config["engine_kwargs"].items()
    assert config["deployment_config"]["autoscaling_config"]["max_replicas"] == 2  # groups


def test_data_parallel_ranks_without_experts_are_replicas(tmp_path: Path) -> None:
    folder = make_config(tmp_path / "model")
    values = {"model_name_or_path": str(folder), "vllm_config": {"data_parallel_size": 4}}
    application, config = read(ray_config(blueprint_of(values, Target(gpus=8))))
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    assert "data_parallel_size" not in config["engine_kwargs"]
    assert config["deployment_config"]["autoscaling_config"] == {
        "min_replicas": 4,
        "max_replicas": 8,
    }


def test_strange_characters_come_through(tmp_path: Path) -> None:
    folder = make_config(tmp_path / "a: 'b' \"c\" # - ü\x07\n{", num_attention_heads=8)
    own = {"hf_overrides": {"k": "no: yes # 'x'"}, "allowed_media_domains": ("a", "b")}
    config = config_of({"model_name_or_path": str(folder), "vllm_config": own})
    assert config["model_loading_config"]["model_source"] == str(folder)
    assert config["engine_kwargs"]["hf_overrides"] == own["hf_overrides"]
    assert config["engine_kwargs"]["allowed_media_domains"] == ["a", "b"]


def test_secrets_are_variables_to_set() -> None:
    text = ray_config(blueprint_of({**DEMO, "hf_hub_token": "hf_verysecret"}))
    assert "verysecret" not in text
    assert "Set HF_TOKEN where `ray start` runs" in text
