"""Two nodes of Ray on this machine, for all tests that need a cluster.

Ray's own nodes are processes; those of one node have an address of their own, of this machine alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from quire.server.arguments import ServerArguments
from quire.server.lifecycle.ray_app import proxy_environment
from tests.server.processes import kept_port

HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 would be turned into the host's own address
_STORE = 80 * 2**20  # bytes of the objects of a node, the least that Ray takes


STATS_PORT, METRICS_PORT = kept_port(), kept_port()  # of the proxy
SERVED = ServerArguments(
    host="0.0.0.0",  # the proxy of one node reaches the replicas of the others
    port=kept_port(),
    served_model_name="demo",
    admin_key=SecretStr("the admin's"),
    read_timeout=2,
    reader_timeout=3,
    drain_timeout=2,
)
"""The server of the tests: its limits are for processes that are started before it."""

_QUICK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,  # a busy node is not dead
    "health_check_failure_threshold": 3,
}
"""A node that was killed is known to be dead in two seconds, and not in thirty."""


def environment(folder: Path) -> dict[str, str]:
    """What Ray reads from the environment: nothing is sent anywhere, nothing is left in the home."""
    root = Path(__file__).parents[2]
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_TMPDIR": str(folder),
        "RAY_DEDUP_LOGS": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        **proxy_environment(SERVED),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(STATS_PORT),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(METRICS_PORT),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy.state"),
        "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}",
    }


class RayNodes:
    """A head, which stays, and a second node, which may be killed and comes again."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self._other: Any = None
        self.add_other()

    def add_other(self) -> None:
        """Start the second node, if it is not there."""
        if self._other is None:
            self._other = self._cluster.add_node(
                num_cpus=1, node_ip_address=OTHER, object_store_memory=_STORE
            )
            self._cluster.wait_for_nodes()

    def kill_other(self) -> None:
        """Kill all processes of the second node."""
        self._cluster.remove_node(self._other, allow_graceful=False)
        self._other = None


@contextmanager
def two_nodes() -> Iterator[RayNodes]:
    """A cluster to which this process is connected."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # paths of sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        head = {
            "num_cpus": 2,
            "node_ip_address": HEAD,
            "object_store_memory": _STORE,
            "include_dashboard": False,
            "include_log_monitor": False,
            "_system_config": _QUICK,
        }
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        try:
            nodes = RayNodes(cluster)
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            yield nodes
        finally:
            ray.shutdown()
            cluster.shutdown()
            with suppress(OSError):
                shutil.rmtree(folder)
