"""The printed `vllm serve` lines, read by a shell and parsed by vLLM's own parser."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from quire.arguments import get_infer_args
from quire.demo import demo_adapter_path, demo_model_path, demo_reward_path
from quire.deploy.blueprint import DEFAULTS, IN_PROCESS
from quire.deploy.target import Target
from quire.deploy.vllm_serve import NO_FLAG, ONLY_SWITCHED_ON, vllm_commands
from quire.engines.vllm.launch import import_vllm
from quire.engines.vllm.model_facts import read_model_facts
from quire.engines.vllm.plan import AdapterNeeds, make_plan
from quire.errors import ConfigError, UnsupportedModelError
from tests.deploy.printed import (
    blueprint_of,
    make_config,
    option,
    read_commands,
    read_environment,
)

Parse = Callable[[list[str]], tuple[argparse.Namespace, Any]]


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    """vLLM's own parser of `vllm serve`."""
    import_vllm()
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser(prog="vllm serve", exit_on_error=False))


@pytest.fixture(scope="module")
def parse(parser: argparse.ArgumentParser) -> Parse:
    """Parses the words of a command as vLLM does; returns the server's and the engine's arguments."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    def parse(words: list[str]) -> tuple[argparse.Namespace, Any]:
        assert words[:2] == ["vllm", "serve"]
        args = parser.parse_args(words[2:])
        args.model = args.model_tag  # as vLLM's command does
        return args, AsyncEngineArgs.from_cli_args(args)

    return parse


def planned(values: Mapping[str, Any], target: Target, needs: AdapterNeeds) -> dict[str, Any]:
    """What VllmEngine would give to vLLM, less what is only for engines inside a program."""
    args, _, finetuning, _ = get_infer_args(values)
    facts = read_model_facts(Path(args.model_name_or_path))
    plan = make_plan(args, finetuning, facts, target.devices(), needs)
    kept = IN_PROCESS - set(args.vllm_config or {})
    return {key: value for key, value in plan.engine_args.items() if key not in kept}


def comparable(engine_args: Any) -> dict[str, Any]:
    """Fields and values; vLLM's configuration objects as what they hold."""
    values: dict[str, Any] = {
        f.name: getattr(engine_args, f.name) for f in dataclasses.fields(engine_args)
    }
    return {
        key: dataclasses.asdict(cast("Any", value)) if dataclasses.is_dataclass(value) else value
        for key, value in values.items()
    }


PIRATE, BUTLER = demo_adapter_path("pirate"), demo_adapter_path("butler")
MEMORY = 8 * 2**30
ONE_GPU, EIGHT_GPUS, CPU = Target(), Target(gpus=8), Target(gpus=0, memory=MEMORY)


@pytest.mark.parametrize(
    ("values", "target", "needs"),
    [
        ({}, ONE_GPU, AdapterNeeds()),
        ({}, CPU, AdapterNeeds()),
        ({"vllm_enforce_eager": True, "trust_remote_code": True}, ONE_GPU, AdapterNeeds()),
        (
            {"adapter_name_or_path": f"{PIRATE},{BUTLER}", "adapter_folder": str(PIRATE.parent)},
            ONE_GPU,
            AdapterNeeds(8, 2, True),
        ),
        ({"rope_scaling": "yarn"}, ONE_GPU, AdapterNeeds()),
        (
            {
                "vllm_config": {
                    "hf_overrides": {"text_config": {"rope": {"a": [1, 2]}, "name": 'quote " it\'s'}},
                    "mm_processor_kwargs": {"size": {"shortest_edge": 8}},
                    "allowed_media_domains": ["a.org", "b c.org"],
                    "disable_log_stats": True,
                    "enable_prefix_caching": False,
                    "max_num_batched_tokens": 4096,
                    "seed": 7,
                    "max_model_len": None,
                    "tensor_parallel_size": 1,
                    "quantization": "-odd",
                }
            },
            ONE_GPU,
            AdapterNeeds(),
        ),
    ],
)  # fmt: skip
def test_vllm_reads_the_plan_back(
    parse: Parse, values: dict[str, Any], target: Target, needs: AdapterNeeds
) -> None:
    values = {"model_name_or_path": str(demo_model_path()), **values}
    command = read_commands(vllm_commands(blueprint_of(values, target)))
    assert len(command) == 1
    found = comparable(parse(command[0])[1])
    bare = comparable(parse(["vllm", "serve", str(demo_model_path())])[1])
    expected = {**bare, **planned(values, target, needs)}
    sampling = found.pop("override_generation_config")
    assert set(sampling) == {"temperature", "top_p", "top_k", "repetition_penalty"}
    del expected["override_generation_config"]
    key = "structured_outputs_config"  # an object out of the parser, a dict in the plan
    assert expected.pop(key).items() <= found.pop(key).items()
    assert found == expected


@pytest.mark.parametrize(
    ("config", "target", "expected"),
    [
        # GPTQ's kernels want float16.
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            ONE_GPU,
            {"dtype": "float16"},
        ),
        # 28 heads, 4 of keys and values: 7 and 8 do not divide them.
        ({}, EIGHT_GPUS, {"tensor_parallel_size": 4, "dtype": "auto"}),
        ({"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 64},
         EIGHT_GPUS, {"tensor_parallel_size": 8}),
        ({"max_position_embeddings": 512}, ONE_GPU, {"max_model_len": 512}),
    ],
)  # fmt: skip
def test_models_of_a_config_alone(
    parse: Parse,
    tmp_path: Path,
    config: dict[str, Any],
    target: Target,
    expected: dict[str, Any],
) -> None:
    folder = make_config(tmp_path / "model", **config)
    script = vllm_commands(blueprint_of({"model_name_or_path": str(folder)}, target))
    _, found = parse(read_commands(script)[0])
    assert {key: getattr(found, key) for key in expected} == expected
    if expected.get("tensor_parallel_size") == 4:
        assert "Of 8 devices 4 are used" in script
        assert "4 of the 8 GPUs stay idle." in script


STRANGE = 'a folder\'s "$HOME" `x` \\ = , ünï;&#*'


def test_strange_characters_come_through(parse: Parse, tmp_path: Path) -> None:
    model = make_config(tmp_path / STRANGE / "mödel", num_attention_heads=8)
    pirate = tmp_path / STRANGE / "pi=rate"
    values = {
        "model_name_or_path": str(model),
        "adapter_name_or_path": [str(pirate), "/plain/butler"],
        "vllm_config": {"hf_overrides": {"key": STRANGE}},
    }
    script = vllm_commands(blueprint_of(values))
    args, found = parse(read_commands(script)[0])
    assert found.model == str(model)
    assert found.hf_overrides == {"key": STRANGE}
    assert [(one.name, one.path) for one in args.lora_modules] == [
        ("pi=rate", str(pirate)),
        ("butler", "/plain/butler"),
    ]


def test_a_control_character_is_refused() -> None:
    values = {"model_name_or_path": "/models/a\x1b[2Jb"}
    with pytest.raises(ConfigError, match="control character"):
        vllm_commands(blueprint_of(values))


def test_a_line_break_does_not_end_a_comment() -> None:
    blueprint = blueprint_of({"model_name_or_path": str(demo_model_path()), "template": "qwen3"})
    blueprint = dataclasses.replace(blueprint, notes=("one\nvllm two\rvllm three\x85vllm",))
    assert len(read_commands(vllm_commands(blueprint))) == 1


def test_adapters_and_the_servers_own_flags(parse: Parse) -> None:
    values = {
        "model_name_or_path": str(demo_model_path()),
        "adapter_name_or_path": f"{PIRATE},{BUTLER}",
        "adapter_folder": str(PIRATE.parent),
        "enable_thinking": False,
        "chat_template_kwargs": {"reasoning_effort": "low"},
        "temperature": 0.25,
        "max_new_tokens": 77,
    }
    script = vllm_commands(blueprint_of(values))
    args, found = parse(read_commands(script)[0])
    assert {one.name: one.path for one in args.lora_modules} == {
        PIRATE.name: str(PIRATE),
        BUTLER.name: str(BUTLER),
    }
    variables = {"enable_thinking": False, "reasoning_effort": "low"}
    assert args.default_chat_template_kwargs == variables
    assert found.override_generation_config["temperature"] == 0.25
    assert found.override_generation_config["max_new_tokens"] == 77
    assert read_environment(script, "VLLM_LORA_RESOLVER_CACHE_DIR") == str(PIRATE.parent)
    assert read_environment(script, "VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1"


def test_a_reward_model_has_no_sampling(parse: Parse) -> None:
    values = {"model_name_or_path": str(demo_reward_path("classifier")), "stage": "rm"}
    _, found = parse(read_commands(vllm_commands(blueprint_of(values)))[0])
    assert (found.runner, found.convert) == ("pooling", "classify")
    assert found.override_generation_config == {}


def test_a_head_that_vllm_does_not_apply_is_refused(tmp_path: Path) -> None:
    values = {"model_name_or_path": str(demo_reward_path("value_head")), "stage": "rm"}
    with pytest.raises(UnsupportedModelError, match="quire serve"):
        blueprint_of(values)
    with pytest.raises(UnsupportedModelError, match="no reward model"):
        blueprint_of({**values, "model_name_or_path": str(demo_model_path())})


def test_adapters_of_one_name_and_their_sum(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(PIRATE, tmp_path / name / "sft" / "checkpoint-5")
    values = {
        "model_name_or_path": str(demo_model_path()),
        "adapter_name_or_path": [str(tmp_path / name / "sft") for name in ("a", "b")],
        "adapter_folder": "checkpoint-5",
    }
    script = vllm_commands(blueprint_of(values))
    for name in ("a", "b"):
        assert f"{name}/sft={tmp_path}/{name}/sft/checkpoint-5" in script
    assert "the sum of a/sft and b/sft" in " ".join(script.replace("#", "").split())
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in script


def test_greedy_is_temperature_0(parse: Parse) -> None:
    for name in (str(demo_model_path()), "someone/not-here"):
        values = {"model_name_or_path": name, "do_sample": False}
        _, found = parse(read_commands(vllm_commands(blueprint_of(values)))[0])
        assert found.override_generation_config["temperature"] == 0


def test_a_model_of_the_hub_that_is_not_here(parse: Parse, tmp_path: Path) -> None:
    values = {
        "model_name_or_path": "someone/not-here",
        "cache_dir": str(tmp_path),
        "model_revision": "v2",
        "top_p": 0.5,
    }
    script = vllm_commands(blueprint_of(values, Target(gpus=4)))
    _, found = parse(read_commands(script)[0])
    assert (found.model, found.revision) == ("someone/not-here", "v2")
    assert found.download_dir == str(tmp_path)
    assert found.tensor_parallel_size == 4
    assert found.override_generation_config == {"top_p": 0.5}
    assert "nothing is known of it" in script


def test_secrets_are_variables_to_set() -> None:
    values = {
        "model_name_or_path": "someone/not-here",
        "hf_hub_token": "hf_verysecret",
        "vllm_config": {"hf_token": "hf_verysecret", "api_key": "verysecret"},
    }
    script = vllm_commands(blueprint_of(values))
    assert "verysecret" not in script
    assert "hf-token" not in script
    assert "Set HF_TOKEN in the environment" in script
    assert "Set VLLM_API_KEY in the environment" in script


def test_what_is_left_out_equals_vllms_defaults(parser: argparse.ArgumentParser) -> None:
    defaults = {action.dest: action.default for action in parser._actions}
    assert {key: defaults[key] for key in DEFAULTS} == DEFAULTS
    assert not any(defaults[key] for key in ONLY_SWITCHED_ON)


def test_every_engine_argument_has_its_flag(parser: argparse.ArgumentParser) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    names = {item.name for item in dataclasses.fields(AsyncEngineArgs)}
    without = {name for name in names if f"--{name.replace('_', '-')}" not in flags}
    assert {name for name in without if not name.startswith("_")} == NO_FLAG
    one_way = {
        name
        for name in names - without
        if isinstance(flags[f"--{name.replace('_', '-')}"], argparse._StoreTrueAction)
    }
    assert one_way == ONLY_SWITCHED_ON


def test_an_argument_without_a_flag_is_refused() -> None:
    values = {"model_name_or_path": "a/b", "vllm_config": {"model_weights": "s3://x"}}
    with pytest.raises(ConfigError, match="no flag"):
        vllm_commands(blueprint_of(values))


# --- several nodes ------------------------------------------------------------------------------


def test_two_nodes_with_vllms_own_launcher(parse: Parse, tmp_path: Path) -> None:
    folder = make_config(tmp_path / "model", num_attention_heads=32, num_key_value_heads=8)
    target = Target(gpus=8, nodes=2, address="10.0.0.1")
    first, second = read_commands(
        vllm_commands(blueprint_of({"model_name_or_path": str(folder)}, target))
    )
    assert [*first[:-1], "1", "--headless"] == second
    for rank, words in enumerate((first, second)):
        args, found = parse(words)
        assert (found.tensor_parallel_size, found.pipeline_parallel_size) == (8, 2)
        assert (found.nnodes, found.node_rank, found.master_addr) == (2, rank, "10.0.0.1")
        assert args.headless is (rank == 1)


def test_two_nodes_with_ray(parse: Parse, tmp_path: Path) -> None:
    folder = make_config(tmp_path / "model")
    target = Target(gpus=8, nodes=2, multi_node="ray", address="10.0.0.1")
    script = vllm_commands(blueprint_of({"model_name_or_path": str(folder)}, target))
    head, other, serve = read_commands(script)
    assert head == ["ray", "start", "--head", "--port=6379"]
    assert other == ["ray", "start", "--address=10.0.0.1:6379"]
    _, found = parse(serve)
    # 28 heads do not divide by 8: each layer in 4 parts, two stages on each node.
    assert (found.tensor_parallel_size, found.pipeline_parallel_size) == (4, 4)
    assert found.distributed_executor_backend == "ray"


def test_parts_divide_the_nodes_gpus_too(parse: Parse, tmp_path: Path) -> None:
    """7 divides this model, but a node's 8 GPUs only by leaving one idle."""
    folder = make_config(tmp_path / "model", num_key_value_heads=28, intermediate_size=5600)
    blueprint = blueprint_of({"model_name_or_path": str(folder)}, Target(gpus=8, nodes=2))
    _, found = parse(read_commands(vllm_commands(blueprint))[0])
    assert (found.tensor_parallel_size, found.pipeline_parallel_size) == (4, 4)


@pytest.mark.parametrize("launcher", ["vllm", "ray"])
def test_data_parallel_ranks_on_two_nodes(parse: Parse, launcher: Any) -> None:
    own = {"tensor_parallel_size": 4, "data_parallel_size": 4, "enable_expert_parallel": True}
    values = {"model_name_or_path": "someone/experts", "vllm_config": own}
    target = Target(gpus=8, nodes=2, multi_node=launcher)
    commands = read_commands(vllm_commands(blueprint_of(values, target)))
    _, found = parse(commands[-1])
    assert {key: getattr(found, key) for key in own} == own
    if launcher == "ray":
        assert (found.data_parallel_backend, found.data_parallel_size_local) == ("ray", 2)
    else:
        assert (found.nnodes, found.node_rank) == (2, 1)


@pytest.mark.parametrize(
    ("own", "target", "text"),
    [
        ({"tensor_parallel_size": 4}, Target(gpus=2), "take 4 GPUs, and the target has 2"),
        ({"tensor_parallel_size": "2"}, Target(gpus=2), "an integer above 0"),
        ({"tensor_parallel_size": 3}, Target(gpus=2, nodes=2), "do not divide by 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(own: dict[str, Any], target: Target, text: str) -> None:
    values = {"model_name_or_path": "someone/model", "vllm_config": own}
    with pytest.raises(ConfigError, match=text):
        blueprint_of(values, target)


def test_more_stages_than_layers_are_refused(tmp_path: Path) -> None:
    folder = make_config(tmp_path / "model", num_hidden_layers=2)
    with pytest.raises(ConfigError, match="2 layers cannot be cut into 4 stages"):
        blueprint_of({"model_name_or_path": str(folder)}, Target(gpus=8, nodes=2))


# --- what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "Planned for 1 GPU on one node"),
        ({"template": "qwen3"}, "The template qwen3 is quire's and cannot be carried over"),
        ({"default_system": "Be brief."}, "default_system is not carried over"),
        ({"add_special_tokens": "<a>"}, "are not carried over: save a tokenizer"),
        ({"adapter_name_or_path": str(PIRATE)}, "in quire it gets adapter."),
        ({"adapter_name_or_path": "/far/away"}, "not on this machine: away; their rank"),
        ({"max_new_tokens": 9}, "max_new_tokens 9 is also the most"),
        ({"max_length": 9}, "max_length counts the prompt too"),
        ({"skip_special_tokens": False}, "send skip_special_tokens: false"),
        ({"thinking_budget": 64}, "send thinking_token_budget: 64"),
        ({"trust_remote_code": True}, "runs Python code"),
    ],
)
def test_differences_are_said_in_comments(values: dict[str, Any], text: str) -> None:
    script = vllm_commands(blueprint_of({"model_name_or_path": str(demo_model_path()), **values}))
    said = " ".join(
        line.removeprefix("#").strip() for line in script.splitlines() if line[:1] == "#"
    )
    assert text in said


def test_a_cpu_server_is_described_and_bound_by_its_memory() -> None:
    values = {"model_name_or_path": str(demo_model_path())}
    script = vllm_commands(blueprint_of(values, CPU))
    assert "a CPU server with 8.0 GiB of free memory (as given)" in script
    assert "PackageNotFoundError" in script
    words = read_commands(script)[0]
    assert 0 < int(option(words, "--kv-cache-memory-bytes")) < MEMORY
    assert read_environment(script, "VLLM_CPU_OMP_THREADS_BIND") == "nobind"


def test_rope_scaling_needs_the_models_config() -> None:
    with pytest.raises(ConfigError, match="rope_scaling stretches"):
        blueprint_of({"model_name_or_path": "someone/not-here", "rope_scaling": "yarn"})


def test_json_in_the_command_is_json() -> None:
    words = read_commands(vllm_commands(blueprint_of({"model_name_or_path": "a/b"})))[0]
    assert json.loads(option(words, "--limit-mm-per-prompt"))["image"] > 0
