"""`quire deploy ray`: quire's own server on a cluster of Ray, as Serve's YAML, or started at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from quire.cli.serve import ServerWords, read_server
from quire.cli.terminal import note
from quire.errors import ConfigError


@dataclass(frozen=True)
class RayServer(ServerWords):
    """A server on a cluster, as the words describe it."""

    replicas: tuple[int, int]
    gpus: int
    """GPUs of each replica."""


def read_ray_server(words: Sequence[str], replicas: str | None, gpus: int | None) -> RayServer:
    """Read the words of `quire deploy ray`.

    Raises:
        ConfigError: the words make no sense, or the server's packages are not installed.
    """
    read = read_server(words, extra="ray")
    from quire.arguments import get_infer_args
    from quire.batch.arguments import read_bounds

    try:
        bounds = read_bounds(replicas or "1")
    except ValueError as error:
        raise ConfigError(f"--replicas: {error}.") from None
    model = get_infer_args(read.values).model
    if gpus is None:
        own = model.vllm_config or {}
        gpus = int(own.get("tensor_parallel_size", 1)) * int(own.get("pipeline_parallel_size", 1))
        gpus = gpus if model.infer_backend == "vllm" else 0
    return RayServer(read.given, read.values, read.arguments, bounds, gpus)


def ray_yaml(server: RayServer) -> str:
    """Serve's YAML, below comments on how it is started."""
    import yaml

    from quire.arguments import FIELDS
    from quire.arguments.base import is_secret
    from quire.deploy.shell import comments, ray_cluster_commands, shown
    from quire.server.arguments import ServerArguments
    from quire.server.lifecycle.ray_app import APPLICATION, BUILDER, proxy_environment

    arguments = server.arguments
    fields = {**FIELDS, **ServerArguments.model_fields}
    args: dict[str, Any] = {
        "arguments": {
            key: value
            for key, value in server.given.items()
            if key not in fields or not is_secret(fields[key])
        },
        "replicas": list(server.replicas),
        "gpus": server.gpus,
    }
    application = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": BUILDER,
        "args": args,
    }
    content = {
        "proxy_location": "EveryNode",
        "http_options": {"host": arguments.host, "port": arguments.port},
        "applications": [application],
    }
    exports = [
        f"export {name}={_in_bash(value)}" for name, value in proxy_environment(arguments).items()
    ]
    head, other = (line for _, line in ray_cluster_commands("ADDRESS"))
    lines = [
        comments(
            [
                (
                    "quire's own server in replicas of Ray Serve. On each node, with the same quire "
                    "(pip install 'quire-llm[ray]') and the model at the same path, in bash:"
                )
            ]
        ),
        *map(shown, [*exports, head]),
        comments(["and, on every node but the first, in the place of the last line:"]),
        shown(other),
        comments(
            [
                (
                    "Keys (API_KEY, QUIRE_ADMIN_KEY) and tokens are set there, too; they are not written "
                    "here. Where there are several nodes, host must be an address that all reach, such as "
                    "0.0.0.0. Ray itself asks for no password: keep its ports on a network of your own."
                ),
                "Then, with this file as serve.yaml:",
            ]
        ),
        shown("serve deploy serve.yaml"),
    ]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return "\n".join([*lines, "", text])


def _in_bash(value: str) -> str:
    """A value as bash takes it, on one line."""
    import shlex

    return shlex.quote(value) if value.isprintable() else f"$'{_escaped(value)}'"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")


def start_on_ray(server: RayServer) -> None:
    """Start the server on the cluster that is there, or on one of its own, until a signal comes.

    Raises:
        ConfigError: Ray is not installed, or the arguments do not go with the cluster.
        EngineStartError: no proxy, or no replica, could be started.
    """
    from quire.errors import EngineStartError
    from quire.server.lifecycle.ray_app import APPLICATION, application, proxy_environment

    environment = proxy_environment(server.arguments)
    os.environ.update(environment)  # Serve reads it when it is imported
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray import serve
        from ray.exceptions import RayError
    except ImportError as error:
        raise ConfigError(
            f"This needs a package that is not here ({error}): pip install 'quire-llm[ray]'."
        ) from error
    is_own = _connect(ray, environment)
    try:
        _check_nodes(server, [node for node in ray.nodes() if node["Alive"]])
        options: Any = {"host": server.arguments.host, "port": server.arguments.port}
        try:
            serve.start(proxy_location="EveryNode", http_options=options)
        except (RayError, TimeoutError) as error:
            raise EngineStartError(
                "Serve's proxy could not be started: the port is taken, or a node is too busy. Ray's log "
                f"says more, and the same command tries again. ({error})"
            ) from error
        app = application(server.values, server.arguments, server.replicas, gpus=server.gpus)
        try:
            serve.run(app, name=APPLICATION)
        except RuntimeError as error:
            raise EngineStartError(f"No replica could be started: {error}") from error
        address = f"http://{server.arguments.host}:{server.arguments.port}/v1"
        if not is_own:
            note(f"Serving at {address}. `serve status` shows it, `serve shutdown` ends it.")
            return
        with _ended() as ended:
            note(f"Serving at {address}; Ctrl-C ends it.")
            ended.wait()
            note(
                f"Ending after the requests in flight, within {server.arguments.drain_timeout:g} s."
            )
        serve.delete(APPLICATION)
    finally:
        if is_own:
            serve.shutdown()
        ray.shutdown()


def _connect(ray: Any, environment: Mapping[str, str]) -> bool:
    """Connect to the cluster that is there, or start one; returns whether it is our own.

    Raises:
        ConfigError: the cluster that RAY_ADDRESS names cannot be reached.
    """
    from ray.exceptions import RayError

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        ray.init(address="auto", runtime_env={"env_vars": dict(environment)}, **quiet)
    except (ConnectionError, RayError) as error:  # no cluster, or no token for any
        if "RAY_ADDRESS" in os.environ:
            named = os.environ["RAY_ADDRESS"]
            raise ConfigError(f"Ray's cluster at {named} cannot be reached: {error}") from error
        ray.init(address="local", **quiet)
        return True
    return False


def _check_nodes(server: RayServer, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what the cluster has no room for: Serve would wait for it for ever.

    Raises:
        ConfigError: it has not, or its nodes would not reach one another.
    """
    from quire.arguments import get_infer_args
    from quire.server.arguments import is_loopback
    from quire.server.lifecycle.ray_app import cpus_of_replica

    if len(nodes) > 1 and is_loopback(server.arguments.host):
        raise ConfigError(
            f"The cluster has {len(nodes)} nodes, and at {server.arguments.host} the proxy of one reaches "
            "no replica of another: give host=0.0.0.0, with API_KEY in the environment."
        )
    resources = [node["Resources"] for node in nodes]
    model = get_infer_args(server.values).model
    cpus = cpus_of_replica(model, server.replicas[1], server.gpus, resources)
    needed = {"CPU": cpus, **({"GPU": server.gpus} if server.gpus else {})}
    room = sum(
        min(int(one.get(kind, 0)) // count for kind, count in needed.items()) for one in resources
    )
    if room < server.replicas[0]:
        needs = " and ".join(f"{kind} {count}" for kind, count in needed.items())
        raise ConfigError(
            f"The cluster has room for {room} replicas (each needs {needs} on one node), and "
            f"{server.replicas[0]} are asked for: change --replicas, --gpus or native_num_threads, or add "
            "nodes."
        )


@contextmanager
def _ended() -> Generator[threading.Event]:
    """An event that a signal sets."""
    ended = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: ended.set()) for number in numbers]
    try:
        yield ended
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
