"""`batch_backend: ray`: the rows of one driver, answered by engines in actors on a cluster."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import threading
from array import array
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from quire.arguments import ModelArguments
from quire.batch.answering import Prepared, answerer_for, lines_for
from quire.batch.arguments import BatchArgs
from quire.batch.files import json_line
from quire.batch.journal import Record
from quire.batch.ray_actor import ActorOrder
from quire.batch.ray_pool import LOOK_EVERY, ActorLost, ActorNeeds, ActorPool
from quire.batch.rows import ChatRow, Row, RowError
from quire.chat.chat_model import ChatModel
from quire.errors import ConfigError, QuireError

FEW_ROWS = 64
"""Rows below which a second actor is not worth its start."""
_PARALLEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
DEATHS = 2
"""Deaths after which a row is tried alone; at one more it is set aside."""


class RayAnswerer:
    """Answers rows on the actors of a pool. They are prepared there, too."""

    def __init__(self, pool: ActorPool, args: BatchArgs, in_flight: int) -> None:
        """`in_flight`: rows that keep as many engines full as there may be."""
        self._pool, self._lines, self.in_flight = pool, lines_for(args), in_flight

    def failed(self, row: Row, error: RowError) -> Record:
        """See Answerer."""
        return self._lines.failed(row, error)

    async def prepare(self, row: Row) -> Prepared:
        """See Answerer. The driver has no tokenizer: rows are compared by what they say."""
        return Prepared(row, None, _outline(row))

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait until an actor has room for one more row."""
        return self._pool.turn()

    async def answer(self, prepared: Prepared, started: Callable[[], None] | None) -> Record:
        """See Answerer. A row whose actor dies is tried again elsewhere."""
        deaths = 0
        while True:
            try:
                if deaths < DEATHS:
                    outcome = await self._pool.answer(prepared.row, started)
                else:
                    outcome = await self._pool.answer_alone(prepared.row)
            except ActorLost as lost:
                deaths += 1
                if deaths > DEATHS:
                    told = RowError(
                        "engine",
                        f"Engines died {deaths} times of this row, the last one with nothing else "
                        f"in flight: {lost}",
                        "engine_died",
                    )
                    return self.failed(prepared.row, told)
                continue
            if isinstance(outcome, QuireError):
                raise outcome
            return outcome


def _outline(row: Row) -> Sequence[int]:
    """What a conversation says, in pieces of four bytes, which are about as long as tokens."""
    if not isinstance(row.work, ChatRow):
        return ()
    request = row.work.request
    text = json_line([request.tools, request.system, request.messages]).encode()
    return array("I", text + bytes(-len(text) % 4))


@asynccontextmanager
async def ray_answerer(
    args: BatchArgs,
    make_model: Callable[[Mapping[str, Any]], ChatModel],
    *,
    rows: int | None,
    compat: bool,
    is_ended: Callable[[], bool],
) -> AsyncGenerator[RayAnswerer | None]:
    """Answer on a cluster. None comes where the batch was ended before an engine was there.

    Args:
        rows: how many are to be answered, if that is known.
        is_ended: whether the batch is to end before it has begun.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
        ModelError, EngineError: no engine could be had.
    """
    with _connected(args.batch.ray_address) as ray:
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs, fitting = plan_actors(args.infer.model, alive)
        least, most = args.batch.ray_actors or (1, fitting)
        pool = ActorPool(
            ActorOrder(
                args.model,
                make_model,
                partial(answerer_for, args, compat=compat),
                os.getcwd(),
                _threads(args.infer.model, needs),
            ),
            needs,
            (least, most),
            slots=args.batch.max_in_flight,
            max_deaths=args.batch.max_engine_restarts,
        )
        starting = asyncio.create_task(pool.start(most if rows is None else -(-rows // FEW_ROWS)))
        try:
            while not (starting.done() or is_ended()):
                await asyncio.wait([starting], timeout=LOOK_EVERY)
            if starting.done():
                yield RayAnswerer(pool, args, in_flight=starting.result() * most)
            else:
                yield None
        finally:
            starting.cancel()
            await pool.close()


@contextmanager
def _connected(address: str | None) -> Generator[Any]:
    """Ray, connected to a cluster; to the one that the program has connected to, if it has.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    # Ray reports to its makers where it starts a cluster, unless it is told not to before its import.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(
            f"batch_backend: ray needs a package ({error}): pip install 'quire-llm[ray]'."
        ) from error
    if ray.is_initialized():
        yield ray
        return
    with _own_signals():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"Ray's cluster at {address or 'the default address'} cannot be reached: {error} Give "
                "ray_address the head's HOST:6379, or leave it out."
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Generator[None]:
    """Ray puts a handler of SIGTERM of its own in the place of the batch's, which drains."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def plan_actors(
    model: ModelArguments, nodes: Sequence[Mapping[str, float]]
) -> tuple[ActorNeeds, int]:
    """What each engine needs, and how many of them the cluster has room for.

    An engine takes a whole node, as it takes a whole machine elsewhere, unless the arguments say how
    much: vLLM's parallel sizes, or `native_num_threads`. Where nodes differ, the smallest one counts.

    Args:
        nodes: what each node has, in Ray's words.
    """
    if model.infer_backend == "remote":
        return ActorNeeds(1), 1  # all actors would ask the same servers
    with_gpus = [int(node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
    with_cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if with_gpus and model.infer_backend in ("vllm", "auto"):
        needs = ActorNeeds(1, _parallel_size(model) or min(with_gpus))
    elif model.infer_backend == "vllm":
        needs = ActorNeeds(min(with_cpus, default=1))
    else:
        needs = ActorNeeds(model.native_num_threads or min(with_cpus, default=1))
    return needs, max(1, sum(_fitting(needs, node) for node in nodes))


def _parallel_size(model: ModelArguments) -> int:
    """GPUs of one engine; 0 where the arguments do not say."""
    own = model.vllm_config or {}
    sizes = [own[name] for name in _PARALLEL_SIZES if isinstance(own.get(name), int)]
    return math.prod(sizes) if sizes else 0


def _fitting(needs: ActorNeeds, node: Mapping[str, float]) -> int:
    on_cpus = int(node.get("CPU", 0)) // needs.cpus
    return min(on_cpus, int(node.get("GPU", 0)) // needs.gpus) if needs.gpus else on_cpus


def _threads(model: ModelArguments, needs: ActorNeeds) -> int | None:
    """Threads of a native engine; None for others."""
    return None if needs.gpus or model.infer_backend in ("vllm", "remote") else needs.cpus
