"""`quire deploy`: a configuration as the command of a server elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, get_args

from quire.errors import ConfigError, nearest

if TYPE_CHECKING:
    from quire.deploy.target import Target

KINDS = ("vllm", "ray")


@dataclass(frozen=True)
class DeployOptions:
    """The command's own options as they were given; see `quire deploy --help`."""

    gpus: str | None = None
    nodes: str | None = None
    gpus_per_node: str | None = None
    multi_node: str | None = None
    address: str | None = None
    memory: str | None = None
    adapter_storage: str | None = None


def write_deployment(words: Sequence[str], options: DeployOptions, output: TextIO) -> None:
    """Plan the server that the words describe, and write its command or its YAML.

    Raises:
        QuireError: the words, the options, or what they name are wrong.
    """
    kind, rest = _split_kind(words)
    target = _read_target(kind, options)
    from quire.arguments import get_infer_args, read_words
    from quire.deploy.blueprint import make_blueprint

    _check_keys(rest)
    blueprint = make_blueprint(get_infer_args(read_words(rest)), target)
    if kind == "ray":
        from quire.deploy.ray_serve import ray_config

        output.write(ray_config(blueprint, options.adapter_storage))
    else:
        from quire.deploy.vllm_serve import vllm_commands

        output.write(vllm_commands(blueprint))
    output.flush()


def _split_kind(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    if not words:
        raise ConfigError("Say what for: quire deploy vllm CONFIG.yaml, or quire deploy ray ...")
    kind, *rest = words
    if kind not in KINDS:
        near = nearest(kind, KINDS) or "; there are vllm and ray."
        raise ConfigError(f"Nothing is deployed on {kind!r}{near}")
    if not rest:
        raise ConfigError(f"Which model? quire deploy {kind} CONFIG.yaml, or a folder or a name.")
    return kind, rest


def _check_keys(words: Sequence[str]) -> None:
    """A misspelt option of this command looks like an argument: name the option."""
    from quire.arguments import FIELDS, read_assignments, split_source

    names = [name.replace("_", "-") for name in DeployOptions.__dataclass_fields__]
    for key in read_assignments(split_source(words)[1]):
        word = key.replace("_", "-")
        near = nearest(word, names)
        if key not in FIELDS and not nearest(key, FIELDS) and near:
            offer = near.replace(" '", " '--")
            raise ConfigError(f"Unknown option '--{word}'{offer}")


def _read_target(kind: str, options: DeployOptions) -> Target:
    from quire.deploy.target import MultiNode, Target

    nodes = _whole("--nodes", options.nodes, 1)
    if options.gpus is not None and options.gpus_per_node is not None:
        raise ConfigError("--gpus and --gpus-per-node are the same: give one of them.")
    if nodes > 1 and options.gpus is None and options.gpus_per_node is None:
        raise ConfigError("--nodes needs --gpus-per-node, the number of GPUs on each.")
    _check_together(kind, nodes, options)
    given = options.gpus_per_node if options.gpus is None else options.gpus
    launcher = options.multi_node or ("ray" if kind == "ray" else "vllm")
    for known in get_args(MultiNode):
        if known == launcher:
            return Target(
                gpus=_whole("--gpus", given, 0, 1),
                nodes=nodes,
                multi_node=known,
                address=options.address or "ADDRESS",
                memory=_size(options.memory),
            )
    raise ConfigError(f"--multi-node is vllm or ray, not {launcher!r}.")


def _check_together(kind: str, nodes: int, options: DeployOptions) -> None:
    if nodes == 1 and (options.multi_node is not None or options.address is not None):
        raise ConfigError("--multi-node and --address go with --nodes of 2 or more.")
    if kind == "ray" and options.multi_node not in (None, "ray"):
        raise ConfigError("Ray Serve joins its nodes with Ray: leave --multi-node out.")
    if kind != "ray" and options.adapter_storage is not None:
        raise ConfigError("--adapter-storage goes with quire deploy ray.")


def _whole(name: str, text: str | None, least: int, default: int = 1) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {text!r}.")
    return int(text)


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    from pydantic import TypeAdapter, ValidationError

    from quire.arguments.base import ByteSize

    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise ConfigError(f"--memory is a size, such as 64GiB, not {text!r}.") from None
