"""quire's server in replicas of Ray Serve: one engine and one application in each.

Serve's HAProxy is in front of them. It has the connections, so the limits of `Connection` are its own
there (`proxy_environment`); everything else is as in `quire serve`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI

from quire.adapters.folder import Adapter
from quire.arguments import ModelArguments, get_infer_args
from quire.errors import ConfigError, EngineClosedError, EngineError, QuireError
from quire.machine.cpus import default_threads
from quire.server.arguments import ServerArguments, read_server_arguments
from quire.server.errors import ServerError
from quire.server.lifecycle.run import ServedApp, engine_maker
from quire.server.middleware.keys import KeyRing
from quire.server.observability.log import EventLog, fault

logger = logging.getLogger("quire")

APPLICATION, DEPLOYMENT = "quire", "Quire"
BUILDER = f"{__name__}:build"
"""What `applications` of Serve's YAML import."""
SESSION_HEADER = "x-session-id"
"""Requests with one value of it go to one replica, as long as that is not overloaded."""

_SEQUENCES = 256  # that an engine runs at once, where its arguments do not say
_OTHERS = 64  # requests at once that need no engine: probes, lists of models, the page
_DEREGISTERING = 2  # seconds for which a replica that ends still takes requests
_ENDING = 10  # seconds to end requests that are cut, and the engine
_BESIDE_HEADERS = 16 * 2**10  # bytes of HAProxy's buffer, so that too large headers get quire's 431
_FULL = 0.8  # of a replica's capacity; more than that on average asks for another replica
_PATIENCE = 60.0  # seconds for all replicas to load an adapter
_PROXY_STARTS = 20  # seconds; a proxy has them three times, as long as `serve.start` waits
_LOOK = 0.5  # seconds between two looks at whether the replica is to end


def proxy_environment(arguments: ServerArguments) -> dict[str, str]:
    """What Serve's processes must find in their environment, on every node.

    Serve has no setting for the time in which headers must arrive, nor for hashing by a header; both
    belong to the section of HAProxy's file into which the balance algorithm is written.
    """
    balance = [
        f"hdr({SESSION_HEADER})",
        "hash-type consistent",
        "hash-balance-factor 200",  # no replica gets more than twice the average
        f"timeout http-request {math.ceil(arguments.read_timeout)}s",
    ]
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "\n    ".join(balance),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(arguments.max_header_bytes + _BESIDE_HEADERS),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(math.ceil(arguments.reader_timeout)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DEREGISTERING),
        # On a busy machine Serve's own 5 kill a proxy that is still importing, and with it `serve.start`.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(_PROXY_STARTS),
    }


class QuireReplica:
    """One replica. Ray Serve calls the methods by their names."""

    def __init__(
        self, values: Mapping[str, Any], arguments: ServerArguments, threads: int | None
    ) -> None:
        """`threads`: CPUs that the replica has; None where the engine is not the native one."""
        if threads is not None:
            values = {"native_num_threads": min(threads, default_threads()), **values}
        log = EventLog.opened(arguments.log_file, arguments.log_format)
        self._log, self._arguments = log, arguments
        self._served = ServedApp(
            engine_maker(values, arguments),
            arguments,
            KeyRing.of(arguments),
            log,
            stop=lambda: None,  # Serve replaces a replica whose health check fails
            when_loaded=True,
        )
        self._served.service.peers = self
        self._tasks: set[asyncio.Task[None]] = set()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        self._tasks.add(asyncio.ensure_future(self._end_in_time()))
        self._tasks.add(asyncio.ensure_future(self._catch_up()))
        return self._served.app

    async def check_health(self) -> None:
        """As /ready does: raise where no request would be served."""
        self._served.admission.check_open()
        await self._served.service.engine.health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """How much of the engine's capacity is wanted, by what runs and by what waits."""
        admission = self._served.admission
        return {"load": (admission.running_completions + admission.waiting) / admission.capacity}

    # --- the end ---------------------------------------------------------------------------------

    async def _end_in_time(self) -> None:
        """End what runs too long with an error of its own, before Serve kills the replica.

        Serve says nothing to user code until all requests are over, so its task is looked for.
        """
        while not any(map(_is_shutdown, asyncio.all_tasks())):
            await asyncio.sleep(_LOOK)
        self._log.event("draining", running=self._served.admission.running)
        await asyncio.sleep(self._arguments.drain_timeout)
        error = EngineClosedError("The server was shut down before the answer was complete.")
        self._served.admission.end_all(error)

    # --- adapters that are loaded while it serves ------------------------------------------------

    async def loaded(self, adapter: Adapter) -> None:
        """Let all replicas load an adapter that this one has loaded; see `AdapterPeers`."""
        await _broadcast("take_adapter", str(adapter.path), adapter.name)

    async def dropped(self, name: str) -> None:
        """Let all replicas drop an adapter; see `AdapterPeers`."""
        await _broadcast("leave_adapter", name)

    async def take_adapter(self, path: str, name: str) -> str | None:
        """Load an adapter that another replica has loaded; returns what is wrong, if anything is."""
        try:
            engine = self._served.service.engine
            if name not in {adapter.name for adapter in engine.adapters}:
                await engine.load_adapter(path, name)
        except (QuireError, ServerError) as error:
            self._log.event("adapter_lost", "error", adapter=name, **fault(error))
            return str(error)
        return None

    async def leave_adapter(self, name: str) -> str | None:
        """Drop an adapter that another replica has dropped; returns what is wrong, if anything is."""
        try:
            engine = self._served.service.engine
            if name in {adapter.name for adapter in engine.adapters}:
                await engine.drop_adapter(name)
        except (QuireError, ServerError) as error:
            return str(error)
        return None

    async def adapters(self) -> list[tuple[str, str]]:
        """The paths and names of the adapters that are served here."""
        service = self._served.service
        adapters: Sequence[Adapter] = service.engine.adapters if service.is_attached else ()
        return [(str(adapter.path), adapter.name) for adapter in adapters]

    async def _catch_up(self) -> None:
        """Load what the other replicas have loaded before this one was there."""
        with suppress(QuireError):
            await self._served.lifecycle.loaded()
            for found in await _broadcast("adapters"):
                for path, name in found:
                    await self.take_adapter(path, name)


def _is_shutdown(task: asyncio.Task[Any]) -> bool:
    name = getattr(task.get_coro(), "__qualname__", "")
    return name.endswith("_perform_graceful_shutdown")


async def _broadcast(method: str, *words: str) -> list[Any]:
    """Call a method of all replicas.

    Raises:
        EngineError: a replica has failed at it, or cannot be reached.
    """
    from ray import serve

    handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
    try:
        sent = handle.broadcast(method, *words)
        answers = await asyncio.to_thread(lambda: sent.results(timeout_s=_PATIENCE))
    except Exception as error:  # Ray's own, of several kinds
        raise EngineError(f"Not all replicas could be reached: {error}") from error
    faults = [answer for answer in answers if isinstance(answer, str)]
    if faults:
        raise EngineError(f"{len(faults)} of {len(answers)} replicas have failed: {faults[0]}")
    return answers


def replicas_wanted(context: Any) -> tuple[int, dict[str, Any]]:
    """Serve's autoscaling policy: as many replicas as what runs and waits would fill to `_FULL`."""
    loads: Mapping[Any, float] = (context.aggregated_metrics or {}).get("load") or {}
    if not loads:
        return context.target_num_replicas, {}
    return max(1, math.ceil(sum(loads.values()) / _FULL)), {}


def build(args: Mapping[str, Any]) -> Any:
    """The application of Serve's YAML; its `args` are `arguments`, `replicas` and `gpus`.

    Raises:
        ConfigError: an argument is wrong.
    """
    arguments, values = read_server_arguments(args["arguments"])
    least, most = args.get("replicas") or (1, 1)
    return application(values, arguments, (least, most), gpus=args.get("gpus", 0))


def application(
    values: Mapping[str, Any],
    arguments: ServerArguments,
    replicas: tuple[int, int],
    *,
    gpus: int = 0,
    per_node: int | None = None,
) -> Any:
    """The application for `serve.run`.

    Args:
        values: the engine's arguments.
        replicas: the fewest and the most.
        gpus: GPUs of each; without any it takes a node's CPUs, or its part of them.
        per_node: the most replicas on one node; None for as many as fit.

    Raises:
        ConfigError: an argument is wrong.
    """
    import ray
    from ray import serve
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    if arguments.batches_dir is not None:
        raise ConfigError(
            "batches_dir is one server's own, and replicas would share it: leave it out, and serve "
            "/v1/batches by a quire serve beside them."
        )
    model = get_infer_args({"media_dir": arguments.media_root, **values}).model
    KeyRing.of(arguments)  # a key file that cannot be read is told here, and not by a replica
    least, most = replicas
    many: dict[str, Any] = {"num_replicas": least}
    if least != most:
        policy = AutoscalingPolicy(policy_function=f"{__name__}:replicas_wanted")
        config = AutoscalingConfig(min_replicas=least, max_replicas=most, policy=policy)
        many = {"autoscaling_config": config}
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = cpus_of_replica(model, most, gpus, alive)
    is_native = not gpus and model.infer_backend in ("native", "auto")
    own: Any = serve.ingress()(QuireReplica)
    deployment: Any = serve.deployment(
        own,
        name=DEPLOYMENT,
        max_ongoing_requests=_most_at_once(model, arguments) + _OTHERS,
        health_check_period_s=5,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=_DEREGISTERING + arguments.drain_timeout + _ENDING,
        ray_actor_options={"num_gpus": gpus, "num_cpus": cpus},
        **({} if per_node is None else {"max_replicas_per_node": per_node}),
        **many,
    )
    return deployment.bind(dict(values), arguments, cpus if is_native else None)


def cpus_of_replica(
    model: ModelArguments, most: int, gpus: int, nodes: Sequence[Mapping[str, float]]
) -> int:
    """CPUs that a replica reserves: as many as `most` of them can have, at most those of a node.

    Args:
        nodes: what each node has, in Ray's words.
    """
    if gpus or model.infer_backend == "remote":
        return 1
    if model.native_num_threads is not None:
        return model.native_num_threads
    found = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    for cpus in range(min(found, default=1), 1, -1):
        if sum(count // cpus for count in found) >= most:
            return cpus
    return 1


def _most_at_once(model: ModelArguments, arguments: ServerArguments) -> int:
    """Requests that a replica holds at once; Serve would let the others wait where quire cannot see
    them, nor refuse them."""
    if arguments.max_running is not None:
        running = arguments.max_running
    elif model.infer_backend == "native":
        running = math.ceil(model.native_max_sequences * 9 / 8)
    else:
        running = 4 * int((model.vllm_config or {}).get("max_num_seqs") or _SEQUENCES)
    return running + arguments.max_waiting
