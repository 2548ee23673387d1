"""What a batch asks a cluster for; no cluster is needed to know it."""

from __future__ import annotations

from typing import Any

import pytest

from quire.arguments import get_infer_args
from quire.batch.arguments import BatchArguments, get_batch_args
from quire.batch.ray_backend import plan_actors
from quire.batch.ray_pool import ActorNeeds
from quire.errors import ConfigError

CPUS = [{"CPU": 16.0}, {"CPU": 8.0}, {"memory": 1e9}]
LOADED = get_infer_args({"model_name_or_path": "m"})
GPUS = [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 8.0}]


@pytest.mark.parametrize(
    ("nodes", "arguments", "needs", "fitting"),
    [
        (CPUS, {"infer_backend": "native"}, ActorNeeds(8), 3),
        (CPUS, {"infer_backend": "native", "native_num_threads": 4}, ActorNeeds(4), 6),
        (CPUS, {"infer_backend": "vllm"}, ActorNeeds(8), 3),
        (CPUS, {"infer_backend": "remote"}, ActorNeeds(1), 1),
        (GPUS, {"infer_backend": "native"}, ActorNeeds(8), 9),
        (GPUS, {"infer_backend": "vllm"}, ActorNeeds(1, 4), 3),
        (GPUS, {"infer_backend": "auto"}, ActorNeeds(1, 4), 3),
        (
            GPUS,
            {"infer_backend": "vllm", "vllm_config": {"tensor_parallel_size": 1}},
            ActorNeeds(1, 1),
            12,
        ),
        (
            GPUS,
            {
                "infer_backend": "vllm",
                "vllm_config": {"tensor_parallel_size": 4, "pipeline_parallel_size": 2},
            },
            ActorNeeds(1, 8),
            1,
        ),
        ([], {"infer_backend": "native"}, ActorNeeds(1), 1),
    ],
)
def test_an_engine_takes_a_node_or_what_the_arguments_say(
    nodes: list[dict[str, float]], arguments: dict[str, Any], needs: ActorNeeds, fitting: int
) -> None:
    if arguments["infer_backend"] == "remote":
        arguments = {**arguments, "remote_base_url": "http://127.0.0.1:1"}
    model = get_infer_args({"model_name_or_path": "m", **arguments}).model
    assert plan_actors(model, nodes) == (needs, fitting)


def test_bounds_are_read() -> None:
    given: list[tuple[Any, tuple[int, int]]] = [("1-4", (1, 4)), ("3", (3, 3)), (2, (2, 2))]
    for actors, bounds in given:
        assert BatchArguments(ray_actors=actors).ray_actors == bounds
    wrong: Any
    for wrong in ("4-1", "0", "many", "1-", "-2", True):
        with pytest.raises(ConfigError, match="ray_actors"):
            BatchArguments(ray_actors=wrong)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="go with batch_backend: ray"):
        get_batch_args({"model_name_or_path": "m", "ray_actors": "2"}, has_rows=True)
    with pytest.raises(ConfigError, match="give the model's arguments and no model"):
        get_batch_args({"batch_backend": "ray"}, has_rows=True, loaded=LOADED)
