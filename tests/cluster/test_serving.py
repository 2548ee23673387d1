"""quire behind Ray Serve, on two nodes: sessions, limits, adapters, a node that dies, the end."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from quire.arguments import get_infer_args
from quire.demo import demo_adapter_path, demo_model_path
from quire.server.lifecycle.ray_app import (
    APPLICATION,
    SESSION_HEADER,
    application,
    cpus_of_replica,
    replicas_wanted,
)
from tests.cluster.cluster import SERVED, STATS_PORT, RayNodes
from tests.polling import wait_until

MODEL = {
    "model_name_or_path": str(demo_model_path()),
    "infer_backend": "native",
    "infer_dtype": "float32",
    "native_kv_cache_memory": "128MiB",
}

HOST = "127.0.0.1"
KEY = f"Bearer {SERVED.admin_key.get_secret_value()}" if SERVED.admin_key else ""


def servers_up() -> int:
    """How many replicas the proxy has found to be well."""
    connection = http.client.HTTPConnection(HOST, STATS_PORT, timeout=10)
    try:
        connection.request("GET", "/stats;csv")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum("SERVE_REPLICA" in line and ",UP," in line for line in lines)


@pytest.fixture(scope="module")
def served(started_nodes: RayNodes) -> Iterator[RayNodes]:
    """Two replicas, each on a node of its own, behind the head's proxy."""
    started_nodes.add_other()
    from ray import serve

    options: Any = {"host": SERVED.host, "port": SERVED.port}
    serve.start(proxy_location="HeadOnly", http_options=options)
    try:
        serve.run(application(MODEL, SERVED, (2, 2), per_node=1), name=APPLICATION)
        wait_until(lambda: servers_up() == 2)
        yield started_nodes
    finally:
        serve.shutdown()


@dataclass
class Answer:
    """A response, as far as it came."""

    status: int
    body: bytes = b""
    is_cut: bool = False

    @property
    def text(self) -> str:
        """The text of the events that came whole."""
        events = [part for part in self.body.split(b"\n\n")[:-1] if part.startswith(b"data: {")]
        choices = [one for event in events for one in json.loads(event[6:]).get("choices", ())]
        return "".join(one["delta"].get("content") or "" for one in choices if not one["index"])

    @property
    def is_whole(self) -> bool:
        return not self.is_cut and self.body.endswith(b"data: [DONE]\n\n")


def ask(
    body: Mapping[str, Any] | None,
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
    begun: Barrier | None = None,
) -> Answer:
    """Send a request, and read its answer until it ends or is cut."""
    connection = http.client.HTTPConnection(HOST, SERVED.port, timeout=60)
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(
            "GET" if body is None else "POST",
            path,
            content,
            {"content-type": "application/json", "authorization": KEY, **(headers or {})},
        )
        response = connection.getresponse()
        answer = Answer(response.status)
        try:
            while piece := response.read1(65536):
                answer.body += piece
                if begun is not None:
                    begun.wait(60)
                    begun = None
        except (http.client.HTTPException, ConnectionError):
            answer.is_cut = True
        return answer
    finally:
        connection.close()


def question(**options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    return {"model": "demo", "messages": messages, "temperature": 0, **options}


LONG = question(stream=True, max_tokens=700, ignore_eos=True, enable_thinking=False)


def figure(name: str, headers: Mapping[str, str]) -> float:
    """A figure of the replica to which such requests go."""
    lines = ask(None, "/metrics", headers).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_requests_of_a_session_go_to_one_replica(served: RayNodes) -> None:
    name = "quire:generation_tokens_total"
    sessions = [{SESSION_HEADER: f"session {number}"} for number in range(8)]
    for session in sessions:
        before = figure(name, session)
        for _ in range(4):
            assert ask(question(max_tokens=4), headers=session).status == 200
        assert figure(name, session) == before + 16
    assert len({figure(name, session) for session in sessions}) == 2, "all are on one replica"


def test_headers_that_do_not_come_are_not_waited_for(served: RayNodes) -> None:
    with socket.create_connection((HOST, SERVED.port)) as client:
        client.settimeout(0.2)
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        said = b""

        def is_refused() -> bool:
            nonlocal said
            try:
                client.sendall(b"x-slow: yes\r\n")
                said += client.recv(1000)
            except TimeoutError:
                pass
            except ConnectionError:
                return True
            return bool(said)

        wait_until(is_refused)
        assert b" 408 " in said
    assert ask(None, "/ready", {"x-large": "a" * SERVED.max_header_bytes}).status == 431


def test_a_reader_that_stands_still_is_given_up(served: RayNodes) -> None:
    session = {SESSION_HEADER: "slow"}
    # More than sockets on the way may hold: 32 MB where the system lets them grow so far.
    asked = {**LONG, "max_tokens": 1800, "n": 16, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(asked).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\n{SESSION_HEADER}: slow\r\n"
        f"Authorization: {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((HOST, SERVED.port))
        client.sendall(head.encode() + body)
        wait_until(lambda: figure("quire:num_requests_running", session) > 0)
        wait_until(lambda: figure("quire:num_requests_running", session) == 0)
        client.settimeout(60)
        received = b""
        with pytest.raises(ConnectionError):
            while piece := client.recv(65536):
                received += piece
            raise ConnectionError("closed")
        assert b"[DONE]" not in received


def test_an_adapter_is_loaded_on_all_replicas(served: RayNodes) -> None:
    path = str(demo_adapter_path("pirate"))
    loaded = ask({"path": path, "name": "pirate"}, "/v1/adapters")
    assert loaded.status == 200, loaded.body
    answers = [ask({**question(max_tokens=4), "model": "pirate"}) for _ in range(6)]
    assert [one.status for one in answers] == [200] * 6


def test_a_node_dies_under_load(served: RayNodes) -> None:
    begun = Barrier(17)
    with ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(ask, {**LONG, "n": 2}, begun=begun) for _ in range(16)]
        begun.wait(60)
        served.kill_other()
        answers = [stream.result(60) for stream in streams]
    whole = [one for one in answers if one.is_whole]
    cut = [one for one in answers if not one.is_whole]
    assert whole, "no stream was on the node that lives"
    assert cut, "no stream was on the node that was killed"
    assert all(one.is_cut for one in cut), "a stream ended as if it were whole"
    (text,) = {one.text for one in whole}
    assert all(text.startswith(one.text) and one.text != text for one in cut)
    later = [ask(question(max_tokens=4)).status for _ in range(20)]
    assert later == [200] * 20


def test_what_is_cut_at_the_end_is_told_so(served: RayNodes) -> None:
    from ray import serve

    begun = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        endless = {**LONG, "max_tokens": 900, "n": 16, "logprobs": True, "top_logprobs": 20}
        stream = pool.submit(ask, endless, begun=begun)
        begun.wait(60)
        ending = pool.submit(serve.delete, APPLICATION)
        answer = stream.result(60)
        ending.result(60)
    assert answer.is_whole
    assert b"The server was shut down before the answer was complete." in answer.body


@pytest.mark.parametrize(
    ("loads", "wanted"),
    [([0.0], 1), ([0.7], 1), ([0.9], 2), ([1.6, 1.6], 4), ([0.1, 0.1, 0.1], 1), ([], 3)],
)
def test_replicas_follow_what_runs_and_waits(loads: list[float], wanted: int) -> None:
    metrics = {"load": dict(enumerate(loads))} if loads else {}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=3)
    assert replicas_wanted(context) == (wanted, {})


@pytest.mark.parametrize(
    ("arguments", "most", "gpus", "cpus"),
    [
        ({"infer_backend": "native"}, 2, 0, 8),
        ({"infer_backend": "native"}, 3, 0, 8),
        ({"infer_backend": "native"}, 4, 0, 5),
        ({"infer_backend": "native"}, 100, 0, 1),
        ({"infer_backend": "native", "native_num_threads": 3}, 2, 0, 3),
        ({"infer_backend": "vllm"}, 2, 0, 8),
        ({"infer_backend": "vllm"}, 2, 4, 1),
    ],
)
def test_replicas_share_the_cpus_of_the_nodes(
    arguments: dict[str, Any], most: int, gpus: int, cpus: int
) -> None:
    nodes = [{"CPU": 16.0}, {"CPU": 8.0}, {"memory": 1e9}]
    model = get_infer_args({"model_name_or_path": "m", **arguments}).model
    assert cpus_of_replica(model, most, gpus, nodes) == cpus
