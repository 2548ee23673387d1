"""`quire serve` under load, on the demo model: what it promises of queues, memory and blocks."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.polling import wait_until
from tests.server.processes import (
    Running,
    asked,
    listening_port,
    posted,
    read_all,
    running,
    started,
)

STREAMS = 1000
CANCELLED = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    with running(folder, "native_kv_cache_memory=64MiB", "max_waiting=1500") as one:
        yield one


def running_and_waiting(server: Running) -> float:
    now = server.metrics()
    return now["vllm:num_requests_running"] + now["vllm:num_requests_waiting"]


async def idle(server: Running) -> None:
    """Wait until nothing runs, nothing waits, and all blocks are free: what is prepared is neither."""

    def is_idle() -> bool:
        now = server.metrics()
        counts = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        return not any(now[f"vllm:{name}"] for name in counts)

    await asyncio.to_thread(wait_until, is_idle)


async def test_a_thousand_streams_at_once(server: Running) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    before = server.peak_memory()
    answers = await asyncio.gather(*(read_all(server.port, asked(8)) for _ in range(STREAMS)))
    assert Counter(status for status, _ in answers) == {200: STREAMS}
    for _, answer in answers:
        assert '"finish_reason":"length"' in answer
        assert "data: [DONE]" in answer
        assert '"error"' not in answer
    await idle(server)
    assert server.peak_memory() - before < 200 * 2**20


async def test_requests_cancelled_at_any_moment_leave_nothing(server: Running) -> None:
    chance = random.Random(6)
    room = asyncio.Semaphore(100)

    async def cancel_one() -> None:
        async with room:
            options = {"n": chance.choice((1, 1, 2)), "stream": chance.random() < 0.7}
            reader, writer = await posted(server.port, asked(24, **options))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.02)
            elif chance.random() < 0.7:
                await reader.read(chance.randint(1, 2000))
            writer.transport.abort()

    await asyncio.gather(*(cancel_one() for _ in range(CANCELLED)))
    await idle(server)
    assert (await read_all(server.port, asked(2)))[0] == 200


async def test_a_client_that_goes_frees_its_blocks(server: Running) -> None:
    connections = [await posted(server.port, asked(3000, n=2)) for _ in range(4)]
    for reader, _ in connections:
        await reader.read(300)
    assert server.metrics()["vllm:kv_cache_usage_perc"] > 0
    for _, writer in connections:
        writer.transport.abort()
    await idle(server)


async def test_a_body_and_headers_that_drip_harm_nobody(server: Running) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health HTTP/1.1\r\nx-endless: ")
    with pytest.raises(ConnectionError):
        while True:
            writer.write(b"a" * 16384)
            await writer.drain()
    assert (await read_all(server.port, asked(2)))[0] == 200


async def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "max_running=2", "max_waiting=2") as server:
        streams = [await posted(server.port, asked(3000)) for _ in range(4)]
        for reader, _ in streams[:2]:
            await reader.read(300)
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            await asyncio.to_thread(wait_until, lambda: running_and_waiting(server) == 4)
            for _ in range(20):
                answer = await client.post("/v1/chat/completions", json=asked(1))
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["code"] == "overloaded"
        for _, writer in streams:
            writer.transport.abort()
        await idle(server)


async def test_keys_and_a_full_disk(tmp_path: Path) -> None:
    """No request is harmed by a log that cannot be written; the lines are counted."""
    key = "a-key-of-its-own"
    config = tmp_path / "server.yaml"
    config.write_text("log_file: /dev/full\nhost: 0.0.0.0\n")
    with started(tmp_path, str(config), "port=0", API_KEY=f"another-key,{key}") as process:
        port = await asyncio.to_thread(listening_port, process)
        server = Running(process, tmp_path / "stderr", port, {"authorization": f"Bearer {key}"})
        await asyncio.to_thread(server.until_ready)
        for headers, status in ((server.headers, 200), ({}, 401)):
            answer = await asyncio.to_thread(
                httpx.post, f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 2},
                headers=headers, timeout=30,
            )  # fmt: skip
            assert answer.status_code == status
        assert server.metrics()["quire:log_events_dropped_total"] >= 4
        assert server.terminate(60) == 0
        assert server.log.read_text() == ""


async def test_sigterm_under_load_ends_every_stream(tmp_path: Path) -> None:
    with running(tmp_path, "max_running=4", "drain_timeout=5") as server:
        streams = [asyncio.ensure_future(read_all(server.port, asked(4000))) for _ in range(8)]
        await asyncio.to_thread(wait_until, lambda: running_and_waiting(server) == 8)
        server.process.send_signal(signal.SIGTERM)
        url = f"{server.url}/ready"
        await asyncio.to_thread(wait_until, lambda: httpx.get(url, timeout=60).status_code == 503)
        answer = await asyncio.to_thread(httpx.get, url, timeout=60)
        assert answer.json()["error"]["code"] == "not_ready"
        for status, answer in await asyncio.gather(*streams):
            assert status in (200, 503)
            assert '"finish_reason":"' in answer or "shut down" in answer
            assert status == 503 or "data: [DONE]" in answer
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        assert server.events()[-1]["event"] == "stopped"
