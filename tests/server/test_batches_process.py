"""Batches of `quire serve` as a process: killed, drained, and gone on with."""

from __future__ import annotations

from pathlib import Path

from openai import OpenAI

from tests.polling import wait_until
from tests.server.batching import begin, lines_in, question, until_ended
from tests.server.processes import Running, running

ROWS = 300


def client_of(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def completed(client: OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return 0 if counts is None else counts.completed


def test_a_server_that_is_killed_or_drained_goes_on(tmp_path: Path) -> None:
    words = ("native_kv_cache_memory=64MiB", f"batches_dir={tmp_path / 'batches'}")
    asks = [question(n, model="quire-demo", max_tokens=24, ignore_eos=True) for n in range(ROWS)]
    with running(tmp_path, *words) as server:
        client = client_of(server)
        batch = begin(client, asks)
        wait_until(lambda: completed(client, batch.id) >= ROWS // 4)
    killed = completed_after(tmp_path, words, batch.id)
    assert killed >= ROWS // 4
    with running(tmp_path, *words) as server:
        done = until_ended(client_of(server), batch)
        assert done.status == "completed"
        answers = lines_in(client_of(server), done.output_file_id)
        tokens = server.metrics()["vllm:generation_tokens_total"]
    assert [one["custom_id"] for one in answers] == [f"q{n}" for n in range(ROWS)]
    assert {one["response"]["body"]["usage"]["completion_tokens"] for one in answers} == {24}
    assert tokens <= 24 * (ROWS - killed)


def completed_after(folder: Path, words: tuple[str, ...], batch_id: str) -> int:
    """Start the server, let it go on for a while, drain it, and say how far it has come."""
    with running(folder, *words) as server:
        client = client_of(server)
        before = completed(client, batch_id)
        wait_until(lambda: completed(client, batch_id) > before or before == ROWS)
        after = completed(client, batch_id)
        assert server.terminate(60) == 0
    return after
