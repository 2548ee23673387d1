"""`quire deploy`: a configuration as the command of a server elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TextIO, get_args

from cyclopts import Parameter

from quire.cli.terminal import show_log
from quire.cli.words import Flag, Value, Words, read_integer, refuse_misspelt_options
from quire.errors import ConfigError, nearest

if TYPE_CHECKING:
    from quire.deploy.target import Target

KINDS = ("vllm", "ray", "ray-llm")


@Parameter(name="*")
@dataclass(frozen=True)
class DeployOptions:
    """The command's own options, as they were given."""

    gpus: Value = None
    """GPUs of the server: 1 if not given; 0 is a server with a CPU alone. With ray, those of each
    replica."""
    nodes: Value = None
    """Machines of the server."""
    gpus_per_node: Value = None
    """GPUs on each of them."""
    multi_node: Value = None
    """What joins them: vllm, its own launcher, or ray."""
    address: Value = None
    """The first machine's address, as the others reach it."""
    memory: Value = None
    """Free memory of a CPU server, such as 64GiB; this machine's if not given."""
    adapter_storage: Value = None
    """Where Ray's LLM application finds the adapters, such as s3://bucket/adapters."""
    replicas: Value = None
    """With ray: how many replicas, such as 2, or 1-4 for as many as there is work for."""
    start: Flag = False
    """With ray: start it, instead of printing it."""


_NONE = DeployOptions()


def deploy(*words: Words, options: DeployOptions = _NONE) -> int:
    """Print the vllm serve command, or Ray Serve's YAML, of a configuration.

    Neither vLLM nor a GPU is needed here: the server's are described by options.
    ray is quire's own server in replicas, ray-llm Ray's application for vLLM.

      quire deploy vllm config.yaml --gpus 4
      quire deploy vllm config.yaml --nodes 2 --gpus-per-node 8 --multi-node ray
      quire deploy ray config.yaml --replicas 1-4 > serve.yaml
      quire deploy ray config.yaml --replicas 2 --start
      quire deploy ray-llm config.yaml --gpus 8 > serve.yaml
    """
    show_log(logging.WARNING)
    write_deployment(words, options, sys.stdout)
    return 0


def write_deployment(words: Sequence[str], options: DeployOptions, output: TextIO) -> None:
    """Plan the server that the words describe, and write its command or its YAML.

    Raises:
        QuireError: the words, the options, or what they name are wrong.
    """
    kind, rest = _split_kind(words)
    if kind == "ray":
        _deploy_on_ray(rest, options, output)
        return
    target = _read_target(kind, options)
    from quire.arguments import get_infer_args, read_assignments, read_words, split_source
    from quire.deploy.blueprint import make_blueprint

    keys = read_assignments(split_source(rest)[1])
    refuse_misspelt_options(keys, (field.name for field in fields(DeployOptions)))
    blueprint = make_blueprint(get_infer_args(read_words(rest)), target)
    if kind == "ray-llm":
        from quire.deploy.ray_serve import ray_config

        output.write(ray_config(blueprint, options.adapter_storage))
    else:
        from quire.deploy.vllm_serve import vllm_commands

        output.write(vllm_commands(blueprint))
    output.flush()


def _deploy_on_ray(words: Sequence[str], options: DeployOptions, output: TextIO) -> None:
    from quire.arguments import read_assignments, split_source

    keys = read_assignments(split_source(words)[1])
    refuse_misspelt_options(keys, (field.name for field in fields(DeployOptions)))
    for name in ("nodes", "gpus_per_node", "multi_node", "address", "memory", "adapter_storage"):
        if getattr(options, name) is not None:
            shown = name.replace("_", "-")
            raise ConfigError(
                f"--{shown} goes with vllm and ray-llm: quire's replicas take the cluster as it is."
            )
    from quire.cli.deploy_ray import ray_yaml, read_ray_server, start_on_ray

    gpus = None if options.gpus is None else read_integer("--gpus", options.gpus, 0)
    server = read_ray_server(words, options.replicas, gpus)
    if options.start:
        start_on_ray(server)
    else:
        output.write(ray_yaml(server))
        output.flush()


def _split_kind(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    if not words:
        raise ConfigError("Say what for: quire deploy vllm CONFIG.yaml, or quire deploy ray ...")
    kind, *rest = words
    if kind not in KINDS:
        near = nearest(kind, KINDS) or "; there are vllm, ray and ray-llm."
        raise ConfigError(f"Nothing is deployed on {kind!r}{near}")
    if not rest:
        raise ConfigError(f"Which model? quire deploy {kind} CONFIG.yaml, or a folder or a name.")
    return kind, rest


def _read_target(kind: str, options: DeployOptions) -> Target:
    from quire.deploy.target import MultiNode, Target

    nodes = 1 if options.nodes is None else read_integer("--nodes", options.nodes, 1)
    if options.gpus is not None and options.gpus_per_node is not None:
        raise ConfigError("--gpus and --gpus-per-node are the same: give one of them.")
    if nodes > 1 and options.gpus is None and options.gpus_per_node is None:
        raise ConfigError("--nodes needs --gpus-per-node, the number of GPUs on each.")
    _check_together(kind, nodes, options)
    given = options.gpus_per_node if options.gpus is None else options.gpus
    launcher = options.multi_node or ("ray" if kind == "ray-llm" else "vllm")
    for known in get_args(MultiNode):
        if known == launcher:
            return Target(
                gpus=1 if given is None else read_integer("--gpus", given, 0),
                nodes=nodes,
                multi_node=known,
                address=options.address or "ADDRESS",
                memory=_read_size(options.memory),
            )
    raise ConfigError(f"--multi-node is vllm or ray, not {launcher!r}.")


def _check_together(kind: str, nodes: int, options: DeployOptions) -> None:
    if nodes == 1 and (options.multi_node is not None or options.address is not None):
        raise ConfigError("--multi-node and --address go with --nodes of 2 or more.")
    if options.replicas is not None or options.start:
        raise ConfigError("--replicas and --start go with quire deploy ray.")
    if kind == "ray-llm" and options.multi_node not in (None, "ray"):
        raise ConfigError("Ray Serve joins its nodes with Ray: leave --multi-node out.")
    if kind != "ray-llm" and options.adapter_storage is not None:
        raise ConfigError("--adapter-storage goes with quire deploy ray-llm.")


def _read_size(text: str | None) -> int | None:
    if text is None:
        return None
    from pydantic import TypeAdapter, ValidationError

    from quire.arguments.base import ByteSize

    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise ConfigError(f"--memory is a size, such as 64GiB, not {text!r}.") from None
