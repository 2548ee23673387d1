"""What quire uses of vLLM is there in each version that is supported: recorded, and read from our source."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quire
from quire.engines.vllm import errors, requests
from quire.engines.vllm.launch import import_vllm
from quire.engines.vllm.plan import LORA_RANKS, UNIPROC, AdapterNeeds, make_plan
from tests.engines.vllm.facts import arguments, cpu, finetuning, gpus, qwen
from tests.engines.vllm.record_signatures import ATTRIBUTES, record

FOLDER = Path(__file__).parent / "signatures"
RECORDED = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
SOURCE = Path(quire.__file__).parent
FILES = [*sorted((SOURCE / "engines" / "vllm").glob("*.py")), SOURCE / "chat" / "vllm_engine.py"]

CALLS: dict[str, tuple[int, set[str]]] = {
    # what quire calls: the most values it passes by position, and those by name
    "engine.generate": (3, {"lora_request", "priority"}),
    "engine.encode": (3, {"lora_request", "priority"}),
    "engine.add_lora": (1, set()),
    "engine.remove_lora": (1, set()),
    "engine.shutdown": (0, set()),
    "AsyncLLM.from_vllm_config": (
        1,
        {"usage_context", "stat_loggers", "disable_log_stats", "enable_log_requests"},
    ),
    "arguments.create_engine_config": (1, set()),
    "AsyncEngineArgs": (0, {"**"}),
    "SamplingParams": (0, {"**"}),
    "StructuredOutputsParams": (0, {"**"}),
    "PoolingParams": (0, {"task", "use_activation"}),
    "LoRARequest": (3, set()),
    "ModelRegistry.register_model": (2, set()),
    "tokens_input": (1, set()),
}
IMPORTS = {
    "vllm": {
        "SamplingParams", "PoolingParams", "RequestOutput", "CompletionOutput", "ModelRegistry",
    },
    "vllm.config": {"ModelConfig", "VllmConfig"},
    "vllm.engine.arg_utils": {"AsyncEngineArgs"},
    "vllm.inputs": {"tokens_input"},
    "vllm.lora.request": {"LoRARequest"},
    "vllm.model_executor.layers.linear": {"ReplicatedLinear"},
    "vllm.model_executor.layers.quantization": {"QUANTIZATION_METHODS", "QuantizationConfig"},
    "vllm.model_executor.models": {"llava"},
    "vllm.platforms": {"current_platform"},
    "vllm.plugins": {"load_general_plugins"},
    "vllm.sampling_params": {"RequestOutputKind", "StructuredOutputsParams"},
    "vllm.usage.usage_lib": {"UsageContext"},
    "vllm.v1.engine.async_llm": {"AsyncLLM"},
    "vllm.v1.engine.exceptions": {"EngineDeadError"},
    "vllm.v1.metrics.loggers": {"AggregateStatLoggerBase", "PrometheusStatLogger"},
    "vllm.v1.metrics.stats": {"BaseCacheStats", "SchedulerStats"},
    "vllm.v1.worker.cpu_model_runner": {"CPUModelRunner"},
}  # fmt: skip
"""All that quire imports of vLLM; `record_signatures.py` takes each from the same module."""


@pytest.fixture(params=sorted(RECORDED))
def version(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RECORDED[request.param]


def nodes() -> Iterator[ast.AST]:
    for path in FILES:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def passed() -> dict[str, tuple[int, set[str]]]:
    """How the source calls what is vLLM's: the most values by position, and all names."""
    found: dict[str, tuple[int, set[str]]] = {}
    for node in nodes():
        if not isinstance(node, ast.Call):
            continue
        # `started.engine.generate(...)` and `AsyncLLM.from_vllm_config(...)` by their last two names
        words = ast.unparse(node.func).split(".")
        name = ".".join(words[-2:])
        if name not in CALLS:
            name = words[-1] if words[-1] in CALLS else ""
        if not name or words[0] in ("self",):
            continue
        most, names = found.get(name, (0, set()))
        keywords = {keyword.arg or "**" for keyword in node.keywords}
        found[name] = (max(most, len(node.args)), names | keywords)
    return found


def parameters(version: dict[str, Any], call: str) -> list[str]:
    """What the call takes in a version; a star before those that are given by name alone."""
    owner, _, method = call.rpartition(".")
    if owner in ("engine", "AsyncLLM"):
        return version["AsyncLLM"][method]
    if owner == "ModelRegistry":
        return version["sources"]["_ModelRegistry"][method]
    if call == "AsyncEngineArgs":
        return list(version["AsyncEngineArgs"])
    return version["fields"].get(call) or version[method]


# --- the lists above are what the source does ----------------------------------------------------


def test_the_calls_are_those_of_the_source() -> None:
    assert passed() == CALLS


def test_the_imports_are_those_of_the_source() -> None:
    found: dict[str, set[str]] = {}
    for node in nodes():
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            found.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
    # `import vllm` and then vllm.SamplingParams
    attributes = {
        node.attr
        for node in nodes()
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "vllm"
    }
    found["vllm"] |= attributes
    assert found == IMPORTS


def test_the_recording_is_that_of_the_installed_vllm() -> None:
    import_vllm()
    found = json.loads(json.dumps(record()))
    assert found == RECORDED[found["version"]]


def test_three_versions_are_recorded() -> None:
    assert set(RECORDED) == {"0.20.2", "0.27.1", "0.32.0"}
    assert all(recorded["version"] == name for name, recorded in RECORDED.items())


# --- each version has what is used ---------------------------------------------------------------


@pytest.mark.parametrize("call", sorted(CALLS))
def test_what_is_passed_is_taken(version: dict[str, Any], call: str) -> None:
    by_position, by_name = CALLS[call]
    names = parameters(version, call)
    positional = [name for name in names if not name.startswith("*")]
    assert by_position <= len(positional)
    assert by_name - {"**"} <= {name.lstrip("*") for name in names}


def test_positions_mean_the_same(version: dict[str, Any]) -> None:
    methods = version["AsyncLLM"]
    assert methods["generate"][:3] == ["prompt", "sampling_params", "request_id"]
    assert methods["encode"][:3] == ["prompt", "pooling_params", "request_id"]
    assert version["fields"]["LoRARequest"][:3] == ["lora_name", "lora_int_id", "lora_path"]
    assert methods["remove_lora"] == ["lora_id"]
    assert methods["add_lora"] == ["lora_request"]
    assert methods["from_vllm_config"][0] == "vllm_config"
    assert version["create_engine_config"][0] == "usage_context"
    assert version["tokens_input"][0] == "prompt_token_ids"


def plans() -> Iterator[dict[str, Any]]:
    """Plans that together set every engine argument that any plan may set."""
    needs = AdapterNeeds(8, 2, True)
    tokenizer = Path("/tokens")
    for devices in (gpus(8), cpu("avx512_bf16")):
        for stage in ("sft", "rm"):
            args = arguments(rope_scaling="yarn")
            plan = make_plan(
                args, finetuning(stage=stage), qwen(), devices, needs, tokenizer=tokenizer
            )
            yield dict(plan.engine_args)
    rewards = make_plan(arguments(), finetuning(stage="rm"), qwen(), gpus(), own_head=True)
    yield dict(rewards.engine_args)
    args = arguments(quantization_bit=4)
    yield dict(make_plan(args, finetuning(), qwen(), gpus()).engine_args)
    file = qwen(gguf=Path("/models/m-Q4_0.gguf"), quantization="gguf")
    yield dict(make_plan(arguments(), finetuning(), file, gpus()).engine_args)


def keys_in_the_source() -> set[str]:
    """Every text in plan.py that names an engine argument of the newest version."""
    known = set(RECORDED["0.32.0"]["AsyncEngineArgs"])
    tree = ast.parse((SOURCE / "engines" / "vllm" / "plan.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str)} & known


def test_every_engine_argument_of_a_plan_is_there(version: dict[str, Any]) -> None:
    used = set().union(*plans())
    assert used <= set(version["AsyncEngineArgs"])
    assert keys_in_the_source() <= set(version["AsyncEngineArgs"])


def test_the_plans_here_set_all_that_any_may_set() -> None:
    only_read = {"pipeline_parallel_size", "data_parallel_size", "max_num_seqs"}
    assert set().union(*plans()) == keys_in_the_source() - only_read


def test_what_a_plan_says_of_structured_outputs(version: dict[str, Any]) -> None:
    for values in plans():
        settings = set(values.get("structured_outputs_config", {}))
        assert settings <= set(version["fields"]["StructuredOutputsConfig"])
    # a factory makes the default, which tells launch.py the class
    assert version["AsyncEngineArgs"]["structured_outputs_config"] == "made"


@pytest.mark.vllm
def test_every_sampling_setting_is_there(version: dict[str, Any]) -> None:
    from quire.sampling import SamplingParams

    passed = set(requests.vllm_arguments(SamplingParams(max_tokens=1)))
    assert passed <= set(version["fields"]["SamplingParams"])
    kinds = {"json", "json_object", "regex", "choice", "grammar"}
    assert kinds <= set(version["fields"]["StructuredOutputsParams"])


def test_members_and_attributes_are_there(version: dict[str, Any]) -> None:
    assert {"CUMULATIVE", "DELTA", "FINAL_ONLY"} <= set(version["members"]["RequestOutputKind"])
    assert "OPENAI_API_SERVER" in version["members"]["UsageContext"]
    assert version["AsyncLLM attributes"] == list(ATTRIBUTES)
    assert {"disable_log_stats", "enable_log_requests"} <= set(version["AsyncEngineArgs"])
    assert set(version["exported"]) == IMPORTS["vllm"]
    assert version["UniProcExecutor"] is True
    assert UNIPROC == "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    assert version["max_lora_rank"] == list(LORA_RANKS)
    assert {"is_cpu", "is_cuda"} <= set(version["platforms"]["vllm.platforms.interface"])
    for name in ("cuda", "rocm"):
        assert "device_count" in version["platforms"][f"vllm.platforms.{name}"]


def test_what_is_read_of_outputs_is_there(version: dict[str, Any]) -> None:
    tree = ast.parse(Path(requests.__file__).read_text(encoding="utf-8"))
    read: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            read.setdefault(node.value.id, set()).add(node.attr)
    fields = version["fields"]
    assert read["output"] == {
        "prompt_logprobs", "prompt_token_ids", "outputs", "num_cached_tokens",
    }  # fmt: skip
    assert read["output"] <= {name.lstrip("*") for name in version["RequestOutput"]}
    assert read["completion"] >= {"index", "text", "token_ids", "finish_reason", "stop_reason"}
    assert read["completion"] <= set(fields["CompletionOutput"])
    assert read["entry"] | read["chosen"] == {"rank", "logprob"}
    assert {"rank", "logprob"} <= set(fields["Logprob"])
    assert "data" in fields["PoolingOutput"]


def test_vllm_tells_of_itself(version: dict[str, Any]) -> None:
    """What `stats.py` is given at each step and reads of it, and what `launch.py` tells requests by."""
    sources = version["sources"]
    assert sources["OutputProcessor"]["has_unfinished_requests"] == []
    assert len(sources["OutputProcessor"]["propagate_error"]) == 1
    assert sources["AggregateStatLoggerBase"]["__init__"] == ["vllm_config", "engine_indexes"]
    logger = sources["PrometheusStatLogger"]
    assert logger["__init__"] == ["vllm_config", "engine_indexes"]
    assert logger["record"] == [
        "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx",
    ]  # fmt: skip
    read = {
        "SchedulerStats": {
            "kv_cache_usage", "num_running_reqs", "num_skipped_waiting_reqs", "num_waiting_reqs",
            "prefix_cache_stats", "spec_decoding_stats",
        },
        "BaseCacheStats": {"hits", "queries"},
        "PrefixCacheStats": {"preempted_requests"},
        "SpecDecodingStats": {"num_accepted_tokens", "num_draft_tokens"},
    }  # fmt: skip
    for name, attributes in read.items():
        assert attributes <= set(sources[name]["attributes"]), name


def test_llava_can_be_given_another_projector(version: dict[str, Any]) -> None:
    """What `plugin.py` reads of the registry, and `yi_vl.py` of vLLM's model."""
    sources = version["sources"]
    assert "module_name" in sources["_LazyRegisteredModel"]["attributes"]
    assert "models" in sources["_ModelRegistry"]["attributes"]
    model = sources["LlavaForConditionalGeneration"]
    assert model["__init__"] == ["*vllm_config", "*prefix"]
    assert model["load_weights"] == ["weights"]
    assert model["attributes"] == ["config", "multi_modal_projector"]
    assert sources["LlavaMultiModalProjector"]["forward"] == ["image_features"]
    linear = sources["ReplicatedLinear"]["__init__"]
    assert linear[:2] == ["input_size", "output_size"]
    assert {"params_dtype", "quant_config", "prefix"} <= set(linear)


# --- exceptions ----------------------------------------------------------------------------------

KNOWN = {
    *errors._DEAD, *errors._BUSY, *errors._NO_ADAPTER, *errors._WRONG_REQUEST,
    "EngineGenerateError",
}  # fmt: skip
BUILT_IN = {"ValueError", "TypeError"}


def test_the_exceptions_that_are_told_apart_are_real() -> None:
    real = set().union(*(recorded["exceptions"] for recorded in RECORDED.values()))
    assert real >= KNOWN - BUILT_IN


def test_each_versions_exceptions_are_told_apart(version: dict[str, Any]) -> None:
    found = {name: {name, *above} for name, above in version["exceptions"].items()}
    assert found["EngineDeadError"] & errors._DEAD
    assert found["LoRAAdapterNotFoundError"] & errors._NO_ADAPTER
    assert "EngineGenerateError" in found
    for name in ("VLLMValidationError", "VLLMNotFoundError"):
        assert found[name] & errors._WRONG_REQUEST
    for name, names in found.items():
        if "VLLMServerError" in names or "GracefulHTTPError" in names:
            assert not names & errors._WRONG_REQUEST, f"{name} is no fault of the request"
        if "VLLMClientError" in names:
            assert names & errors._WRONG_REQUEST, f"{name} is a wrong request"
