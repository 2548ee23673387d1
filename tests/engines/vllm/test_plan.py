"""From quire's arguments to vLLM's engine arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engines.vllm.launch import import_vllm
from quire.engines.vllm.plan import LORA_RANKS, UNIPROC, AdapterNeeds, EnginePlan, make_plan
from quire.errors import ConfigError, OutOfMemoryError, UnsupportedModelError
from quire.options import MAX_LOGPROBS
from tests.engines.vllm.facts import FOLDER, GIB, arguments, cpu, finetuning, gpus, qwen

KNOWN = frozenset(
    {"max_model_len", "gpu_memory_utilization", "tensor_parallel_size", "enable_lora"}
)
TOKEN = 2 * 28 * 4 * 128 * 4  # bytes of one token of `qwen` in float32


def plan_of(
    model: Any = None, devices: Any = None, adapters: AdapterNeeds | None = None, **given: Any
) -> EnginePlan:
    return make_plan(arguments(**given), finetuning(), model or qwen(), devices or gpus(), adapters)


def test_a_plan_for_gpus() -> None:
    plan = plan_of(devices=gpus(8), vllm_gpu_util=0.9, vllm_enforce_eager=True)
    assert plan.engine_args == {
        "model": str(FOLDER),
        "trust_remote_code": False,
        "dtype": "auto",
        "max_model_len": 4096,
        "gpu_memory_utilization": 0.9,
        "enforce_eager": True,
        "max_logprobs": MAX_LOGPROBS,
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "limit_mm_per_prompt": {"image": 4, "video": 2, "audio": 2},
        "structured_outputs_config": {
            "backend": "guidance",
            "disable_any_whitespace": True,
            "enable_in_reasoning": True,
        },
        "tensor_parallel_size": 4,
    }
    assert plan.environment == {}
    assert len(plan.notes) == 1
    assert "data_parallel_size" in plan.notes[0]


def test_a_gguf_file_takes_config_and_tokenizer_from_the_folder_made_of_it() -> None:
    model = qwen(gguf=Path("/models/m-Q4_0.gguf"), quantization="gguf")
    args = plan_of(model).engine_args
    assert args["model"] == str(Path("/models/m-Q4_0.gguf"))
    assert args["hf_config_path"] == args["tokenizer"] == str(FOLDER)
    plan = make_plan(arguments(), finetuning(), model, gpus(), tokenizer=Path("/scratch"))
    assert plan.engine_args["tokenizer"] == str(Path("/scratch"))
    with pytest.raises(UnsupportedModelError, match=r"GPUs only.*infer_backend: native"):
        plan_of(model, cpu())


def test_vllm_config_overrides_everything() -> None:
    full = plan_of(
        devices=gpus(2),
        adapters=AdapterNeeds(8, 1),
        rope_scaling="yarn",
        quantization_bit=4,
    )
    own = {name: f"mine-{name}" for name in full.engine_args}
    plan = plan_of(
        devices=gpus(2),
        adapters=AdapterNeeds(8, 1),
        rope_scaling="yarn",
        quantization_bit=4,
        vllm_config={**own, "seed": 3},
    )
    assert plan.engine_args == {**own, "seed": 3}


def test_the_callers_dictionaries_stay() -> None:
    config = {"max_model_len": 100, "limit_mm_per_prompt": {"image": 1}}
    args = arguments(vllm_config=config)
    make_plan(args, finetuning(), qwen(), gpus(2))
    assert args.vllm_config == {"max_model_len": 100, "limit_mm_per_prompt": {"image": 1}}
    first, second = plan_of(), plan_of()
    first.engine_args["limit_mm_per_prompt"]["image"] = 99
    assert second.engine_args["limit_mm_per_prompt"]["image"] == 4


def test_an_unknown_key_names_the_nearest() -> None:
    args = arguments(vllm_config={"max_model_length": 5})
    with pytest.raises(ConfigError, match=r"'max_model_length'; did you mean 'max_model_len'\?"):
        make_plan(args, finetuning(), qwen(), gpus(), known=KNOWN)
    with pytest.raises(ConfigError, match=r"'zzz'\.$"):
        make_plan(arguments(vllm_config={"zzz": 1}), finetuning(), qwen(), gpus(), known=KNOWN)
    known = arguments(vllm_config={"max_model_len": 5})
    make_plan(known, finetuning(), qwen(), gpus(), known=KNOWN)


@pytest.mark.parametrize(
    ("option", "value"), [("split_special_tokens", True), ("use_kv_cache", False)]
)
def test_what_vllm_cannot_do_is_refused_by_name(option: str, value: bool) -> None:
    with pytest.raises(ConfigError, match=option):
        make_plan(arguments(**{option: value}), finetuning(), qwen(), gpus())


def test_a_model_that_the_device_cannot_run() -> None:
    with pytest.raises(UnsupportedModelError, match="AVX-512"):
        plan_of(qwen(quantization="gptq"), cpu("avx2"))


def test_notes_say_why() -> None:
    plan = plan_of(qwen(quantization="gptq"))
    assert plan.engine_args["dtype"] == "float16"
    assert plan.notes == ("dtype float16, the only dtype of GPTQ's kernels",)
    assert "quantization" not in plan.engine_args


def test_quantisation_while_loading() -> None:
    plan = plan_of(quantization_bit=8, quantization_method="fp8")
    assert plan.engine_args["quantization"] == "fp8"


# --- the context's length ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "positions", "expected"),
    [
        ({}, 32768, 4096),
        ({}, 2048, 2048),
        ({"vllm_maxlen": 4096}, 2048, 4096),  # asked for: vLLM says that it cannot
        ({"vllm_maxlen": 100}, 2048, 100),
        ({"rope_scaling": "linear"}, 1024, 2048),
        ({"rope_scaling": "linear"}, 32768, 4096),
    ],
)
def test_an_explicit_length_and_a_wish(
    given: dict[str, Any], positions: int, expected: int
) -> None:
    plan = plan_of(qwen(max_positions=positions), **given)
    assert plan.engine_args["max_model_len"] == expected


def test_what_a_config_says_wrongly_is_overridden() -> None:
    corrections = {"tie_word_embeddings": False}
    assert plan_of(qwen(corrections=corrections)).engine_args["hf_overrides"] == corrections
    both = plan_of(qwen(corrections=corrections), rope_scaling="linear").engine_args["hf_overrides"]
    assert both.keys() == {"tie_word_embeddings", "rope_parameters", "max_position_embeddings"}
    own = {"hf_overrides": {"a": 1}}
    assert plan_of(qwen(corrections=corrections), vllm_config=own).engine_args["hf_overrides"] == {
        "a": 1
    }
    assert "hf_overrides" not in plan_of().engine_args


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_rope_scaling(kind: str) -> None:
    model = qwen(max_positions=8192, rope={"rope_type": "default", "rope_theta": 1e6})
    overrides = plan_of(model, rope_scaling=kind).engine_args["hf_overrides"]
    rope = overrides["rope_parameters"]
    assert overrides["max_position_embeddings"] == 16384
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == (kind, 2.0, 1e6)
    assert ("original_max_position_embeddings" in rope) == (kind in ("yarn", "llama3"))
    assert ("low_freq_factor" in rope) == (kind == "llama3")
    assert model.rope == {"rope_type": "default", "rope_theta": 1e6}


def test_a_model_without_a_theta() -> None:
    overrides = plan_of(rope_scaling="linear").engine_args["hf_overrides"]
    assert overrides["rope_parameters"] == {"rope_type": "linear", "factor": 2.0}


def test_a_reward_model() -> None:
    values = make_plan(arguments(), finetuning(stage="rm"), qwen(), gpus()).engine_args
    assert (values["runner"], values["convert"]) == ("pooling", "classify")
    assert not {"max_logprobs", "structured_outputs_config"} & set(values)
    assert "runner" not in plan_of().engine_args


def test_a_reward_model_whose_head_is_ours() -> None:
    plan = make_plan(arguments(), finetuning(stage="rm"), qwen(), gpus(), own_head=True)
    values = plan.engine_args
    assert (values["runner"], values["convert"]) == ("pooling", "embed")
    assert values["pooler_config"] == {"pooling_type": "LAST"}
    assert plan.purpose == "score"


def test_ranks_of_a_sum_beyond_vllms() -> None:
    with pytest.raises(ConfigError, match=r"640 .*as their sum.*native"):
        make_plan(arguments(), finetuning(), qwen(), gpus(), AdapterNeeds(640, 3))


def test_what_an_engine_is_for() -> None:
    assert plan_of().purpose == "generate"
    assert make_plan(arguments(), finetuning(stage="rm"), qwen(), gpus()).purpose == "score"
    plan = plan_of(vllm_config={"runner": "pooling", "max_logprobs": 3})
    assert plan.purpose == "embed"
    assert plan.engine_args["max_logprobs"] == 3, "the user has the last word"
    assert "structured_outputs_config" not in plan.engine_args
    assert plan.engine_args["scheduling_policy"] == "priority"


def test_another_tokenizer() -> None:
    plan = make_plan(arguments(), finetuning(), qwen(), gpus(), tokenizer=Path("/tokens"))
    assert plan.engine_args["tokenizer"] == "/tokens"
    assert "tokenizer" not in plan_of().engine_args


@pytest.mark.parametrize(
    "own", ["tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"]
)
def test_users_who_say_how_to_spread(own: str) -> None:
    plan = plan_of(devices=gpus(8), vllm_config={own: 2})
    assert plan.engine_args[own] == 2
    assert plan.notes == ()
    assert own == "tensor_parallel_size" or "tensor_parallel_size" not in plan.engine_args


# --- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (0, 1),
        (1, 1),
        (2, 8),
        (8, 8),
        (9, 16),
        (17, 32),
        (33, 64),
        (65, 128),
        (257, 320),
        (512, 512),
    ],
)
def test_ranks_are_rounded_up(rank: int, expected: int) -> None:
    values = plan_of(adapters=AdapterNeeds(rank, 1)).engine_args
    assert values["max_lora_rank"] == expected


def test_ranks_are_those_of_the_installed_vllm() -> None:
    import_vllm()
    from vllm.config.lora import MaxLoRARanks

    assert MaxLoRARanks.__args__ == LORA_RANKS


@given(st.integers(0, 512), st.integers(1, 512), st.booleans(), st.booleans())
def test_every_rank_fits(rank: int, asked: int, more: bool, explicit: bool) -> None:
    given = {"vllm_max_lora_rank": asked} if explicit else {}
    values = plan_of(adapters=AdapterNeeds(rank, 1, more), **given).engine_args
    needed = max(rank, asked) if explicit else rank
    assert values["max_lora_rank"] in LORA_RANKS
    assert values["max_lora_rank"] >= needed
    if more:  # others may come: those of the default rank are let in
        assert values["max_lora_rank"] >= (asked if explicit else 32)


def test_a_rank_that_is_too_large() -> None:
    with pytest.raises(ConfigError, match="rank of 513"):
        plan_of(adapters=AdapterNeeds(513, 1))


@pytest.mark.parametrize(
    ("needs", "loras", "on_cpu"),
    [
        (AdapterNeeds(8, 1), 1, 16),
        (AdapterNeeds(8, 3), 3, 16),
        (AdapterNeeds(8, 20), 20, 20),
        (AdapterNeeds(0, 0, True), 4, 16),
        (AdapterNeeds(8, 6, True), 6, 16),
    ],
)
def test_room_for_adapters(needs: AdapterNeeds, loras: int, on_cpu: int) -> None:
    values = plan_of(adapters=needs).engine_args
    assert values["enable_lora"] is True
    assert (values["max_loras"], values["max_cpu_loras"]) == (loras, on_cpu)


@pytest.mark.parametrize("needs", [None, AdapterNeeds()])
def test_no_adapters(needs: AdapterNeeds | None) -> None:
    assert not {"enable_lora", "max_loras"} & set(plan_of(adapters=needs).engine_args)


# --- on a CPU ------------------------------------------------------------------------------------


def test_a_plan_for_a_cpu() -> None:
    plan = plan_of(devices=cpu("avx2", free=9 * GIB))
    values = plan.engine_args
    assert values["distributed_executor_backend"] == UNIPROC
    assert "tensor_parallel_size" not in values
    assert plan.environment == {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    # float32 doubles the weights of 1 GiB; 0.7 of the 7 GiB that they leave
    assert values["kv_cache_memory_bytes"] == int(0.7 * 7 * GIB)
    assert [note.split(",")[0] for note in plan.notes] == ["dtype float32", "all cores", "5"]


def test_one_thread_computes_a_small_model() -> None:
    small = plan_of(qwen(weight_bytes=7 * 2**20), cpu())
    assert small.environment["OMP_NUM_THREADS"] == "1"
    assert "one thread" in " ".join(small.notes)
    for size in (0, 17 * 2**20):  # 0: files of a form that tells no size
        assert "OMP_NUM_THREADS" not in plan_of(qwen(weight_bytes=size), cpu()).environment


def test_no_more_kv_memory_than_can_be_filled() -> None:
    small = plan_of(devices=cpu(free=1000 * GIB), vllm_maxlen=100).engine_args
    assert small["kv_cache_memory_bytes"] == 129 * 128 * TOKEN  # one block of 128 tokens each
    fewer = plan_of(devices=cpu(free=1000 * GIB), vllm_config={"max_num_seqs": 4}).engine_args
    assert fewer["kv_cache_memory_bytes"] == 5 * 4096 * TOKEN


def test_the_users_own_numbers_of_kv_memory() -> None:
    own = {"max_model_len": 256, "gpu_memory_utilization": 0.5}
    plan = plan_of(devices=cpu(free=3 * GIB), vllm_config=own)
    assert plan.engine_args["kv_cache_memory_bytes"] == GIB // 2
    exact = plan_of(devices=cpu(free=0), vllm_config={"kv_cache_memory_bytes": 12345})
    assert exact.engine_args["kv_cache_memory_bytes"] == 12345


@pytest.mark.parametrize("word", [None, -1, "auto"])
def test_what_the_user_leaves_to_vllm(word: Any) -> None:
    own = {"max_model_len": word, "max_num_seqs": None, "gpu_memory_utilization": None}
    plan = plan_of(devices=cpu(free=9 * GIB), vllm_config=own)
    assert plan.engine_args["kv_cache_memory_bytes"] == int(0.7 * 7 * GIB)
    assert plan.engine_args["max_model_len"] == word


@pytest.mark.parametrize("free", [0, GIB, 2 * GIB, 2 * GIB + 600 * 2**20])
def test_too_little_memory_for_one_sequence(free: int) -> None:
    with pytest.raises(OutOfMemoryError, match=r"4,096 tokens needs 448 MiB.*vllm_maxlen"):
        plan_of(devices=cpu(free=free), infer_dtype="float32")


def test_just_enough_memory_for_one_sequence() -> None:
    plan = plan_of(devices=cpu(free=2 * GIB + 641 * 2**20), infer_dtype="float32")
    assert plan.engine_args["kv_cache_memory_bytes"] >= 4096 * TOKEN


def test_a_config_that_does_not_tell_the_size_of_a_token() -> None:
    plan = plan_of(qwen(num_layers=0), cpu())
    assert "kv_cache_memory_bytes" not in plan.engine_args


@pytest.mark.parametrize("own", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_several_workers_on_a_cpu_are_the_users_to_bind(own: str) -> None:
    plan = plan_of(devices=cpu(), vllm_config={own: 2})
    assert "distributed_executor_backend" not in plan.engine_args
    assert plan.environment == {}
    one = plan_of(devices=cpu(), vllm_config={own: 1})
    assert one.engine_args["distributed_executor_backend"] == UNIPROC


# --- packages beside vLLM ------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["vllm-bnb-plugin", "bitsandbytes"])
@pytest.mark.parametrize(
    ("model", "given"),
    [
        ({}, {"quantization_bit": 4}),
        ({"quantization": "bitsandbytes"}, {}),
        ({}, {"vllm_config": {"quantization": "bitsandbytes"}}),
    ],
    ids=["at load", "checkpoint", "vllm_config"],
)
def test_a_package_that_is_missing_is_named_before_loading(
    package: str, model: dict[str, Any], given: dict[str, Any]
) -> None:
    def plan(missing: dict[str, str]) -> EnginePlan:
        args = arguments(**given)
        return make_plan(args, finetuning(), qwen(**model), gpus(), missing=missing)

    with pytest.raises(ConfigError, match=f"pip install {package} "):
        plan({"bitsandbytes": package})
    assert plan({"another": package}) == plan({})
