"""/v1/files and /v1/batches, driven by OpenAI's official client."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from quire.batch.files import LinesFile
from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.errors import ConfigError, EngineDeadError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.server.batches import manager
from quire.server.batches.manager import BatchManager
from quire.server.batches.store import BatchStore, StoredBatch
from quire.server.middleware.keys import KeyRing
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine, EchoTokens
from tests.polling import wait_until
from tests.server.batching import (
    CHAT,
    Batching,
    batching,
    begin,
    content_of,
    lines_in,
    question,
    until_ended,
)

ONE, TWO = "the-key-of-one", "the-key-of-two"

MakeEcho = Callable[..., ChatModel]


@pytest.fixture
def echo(tokenizer: Tokenizer) -> Iterator[MakeEcho]:
    made: list[ChatModel] = []

    def make(**options: Any) -> ChatModel:
        made.append(ChatModel.from_engine(EchoEngine(tokenizer, **options)))
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.fixture
def served(echo: MakeEcho, tmp_path: Path) -> Iterator[Batching]:
    with batching(echo(), tmp_path / "batches") as server:
        yield server


def test_a_batch_from_its_file_to_its_answers(served: Batching) -> None:
    client = served.client
    batch = begin(client, [question(n) for n in range(20)], metadata={"night": "7"})
    assert batch.status == "validating"
    assert batch.expires_at == batch.created_at + 24 * 3600
    done = until_ended(client, batch)
    assert done.status == "completed"
    assert done.metadata == {"night": "7"}
    assert (done.request_counts.total, done.request_counts.completed) == (20, 20)  # type: ignore[union-attr]
    assert done.error_file_id is None
    assert done.errors is None
    moments = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert moments == sorted(moments)  # type: ignore[type-var]
    answers = lines_in(client, done.output_file_id)
    assert [one["custom_id"] for one in answers] == [f"q{n}" for n in range(20)]
    for number, one in enumerate(answers):
        body = one["response"]["body"]
        assert f"Question {number}?" in body["choices"][0]["message"]["content"]
        assert body["created"] == batch.created_at
    output = client.files.retrieve(done.output_file_id or "")
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_on_the_native_engine(tmp_path: Path) -> None:
    arguments = {"infer_backend": "native", "native_kv_cache_memory": "16MiB"}
    model_args = {"model_name_or_path": str(demo_model_path()), **arguments}
    with ChatModel(model_args) as model, batching(model, tmp_path) as served:
        asks = [question(n, max_tokens=8, temperature=1) for n in range(6)]
        done = until_ended(served.client, begin(served.client, asks))
        answers = lines_in(served.client, done.output_file_id)
    assert done.status == "completed"
    assert {one["response"]["status_code"] for one in answers} == {200}
    assert all(one["response"]["body"]["usage"]["completion_tokens"] for one in answers)


def test_requests_that_fail_are_in_the_error_file(served: Batching) -> None:
    asks = [question(0), question(1, model="gpt-9"), question(2, stream=True)]
    done = until_ended(served.client, begin(served.client, asks))
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 2)
    failed = lines_in(served.client, done.error_file_id)
    assert [one["response"]["status_code"] for one in failed] == [404, 400]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "/etc/hostname", "http://127.0.0.1/a.png"])
def test_media_are_under_the_servers_policy(served: Batching, url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    asks = [question(0, messages=[{"role": "user", "content": content}])]
    done = until_ended(served.client, begin(served.client, asks))
    (failed,) = lines_in(served.client, done.error_file_id)
    assert failed["response"]["status_code"] == 400
    direct = httpx.post(f"{served.url}{CHAT}", json=asks[0]["body"], timeout=60)
    assert direct.json() == failed["response"]["body"]


def test_what_a_line_asks_is_what_the_server_takes(served: Batching) -> None:
    bodies = (
        {"top_k": -5},
        {"n": 2},
        {"max_tokens": 1},
        {"tool_choice": "required"},
        {"colour": 1},
    )
    asks = [question(n, temperature=0, seed=1, **body) for n, body in enumerate(bodies)]
    done = until_ended(served.client, begin(served.client, asks))
    lines = lines_in(served.client, done.output_file_id) + lines_in(
        served.client, done.error_file_id
    )
    answers = {one["custom_id"]: one["response"] for one in lines}
    for ask in asks:
        direct = httpx.post(f"{served.url}{CHAT}", json=ask["body"], timeout=60)
        answer = answers[ask["custom_id"]]
        assert answer["status_code"] == direct.status_code
        changing = {"id": None, "created": None, "usage": None}
        assert {**answer["body"], **changing} == {**direct.json(), **changing}


def test_a_batch_of_which_all_requests_fail_completes_without_answers(served: Batching) -> None:
    asks = [question(n, model="gpt-9") for n in range(40)]
    done = until_ended(served.client, begin(served.client, asks))
    assert done.status == "completed"
    assert done.output_file_id is None
    assert len(lines_in(served.client, done.error_file_id)) == 40


def test_a_file_with_wrong_lines_fails_with_all_of_them(served: Batching) -> None:
    asks = [
        question(0),
        "no json",
        {**question(1), "url": "/v1/embeddings"},
        {**question(2), "method": "GET"},
        question(0),
        {"messages": []},
    ]
    done = until_ended(served.client, begin(served.client, asks))
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert [(one.line, one.code) for one in done.errors.data] == [
        (2, "invalid_json_line"),
        (3, "mismatched_url"),
        (4, "invalid_method"),
        (5, "duplicate_custom_id"),
        (6, "missing_required_parameter"),
    ]
    assert done.output_file_id is None


def test_a_cancelled_batch_keeps_what_is_answered(echo: MakeEcho, tmp_path: Path) -> None:
    with batching(echo(delay=0.01), tmp_path) as served:
        client = served.client
        batch = begin(client, [question(n) for n in range(300)])

        def has_begun() -> bool:
            counts = client.batches.retrieve(batch.id).request_counts
            return counts is not None and counts.completed >= 4

        wait_until(has_begun)
        assert client.batches.cancel(batch.id).status in ("cancelling", "finalizing", "cancelled")
        done = until_ended(client, batch)
        assert done.status == "cancelled"
        assert done.request_counts is not None
        completed, failed = done.request_counts.completed, done.request_counts.failed
        assert completed >= 4
        assert completed + failed == 300
        assert len(lines_in(client, done.output_file_id)) == completed
        unrun = lines_in(client, done.error_file_id)
        assert len(unrun) == failed
        assert {one["error"]["code"] for one in unrun} == {"batch_cancelled"}
        assert client.batches.cancel(batch.id).status == "cancelled"
        wait_until(lambda: not served.service.admission.running)


def test_a_batch_whose_time_is_over_expires(echo: MakeEcho, tmp_path: Path) -> None:
    with batching(echo(delay=0.02), tmp_path) as served:
        done = until_ended(
            served.client, begin(served.client, [question(n) for n in range(2000)], "1s")
        )
        assert done.status == "expired"
        assert done.expired_at is not None
        assert done.request_counts is not None
        unrun = lines_in(served.client, done.error_file_id)
        assert {one["error"]["code"] for one in unrun} == {"batch_expired"}
        assert len(unrun) == done.request_counts.failed
        assert done.request_counts.completed + done.request_counts.failed == 2000


def test_a_server_that_is_started_again_goes_on(echo: MakeEcho, tmp_path: Path) -> None:
    asks = [question(n) for n in range(60)]
    with batching(echo(delay=0.005), tmp_path) as served:
        batch = begin(served.client, asks)
        waits = begin(served.client, asks)

        def has_begun() -> bool:
            counts = served.client.batches.retrieve(batch.id).request_counts
            return counts is not None and counts.completed >= 10

        wait_until(has_begun)
    engine = EchoEngine(Tokenizer.from_folder(demo_model_path()))
    with ChatModel.from_engine(engine) as model, batching(model, tmp_path) as served:
        done = until_ended(served.client, batch)
        assert done.status == "completed"
        answers = lines_in(served.client, done.output_file_id)
        assert [one["custom_id"] for one in answers] == [f"q{n}" for n in range(60)]
        assert until_ended(served.client, waits).status == "completed"
    whole = BatchStore(tmp_path)
    assert not list(whole.jobs_folder.iterdir())
    whole.close()


def test_a_key_sees_its_own_files_and_batches_alone(echo: MakeEcho, tmp_path: Path) -> None:
    ring = KeyRing([(ONE, "x"), (TWO, "x")], [])
    with batching(echo(), tmp_path, ring=ring, api_key=f"{ONE},{TWO}") as served:
        one, two = served.client_with(ONE), served.client_with(TWO)
        done = until_ended(one, begin(one, [question(1)]))
        assert done.status == "completed"
        assert [batch.id for batch in one.batches.list()] == [done.id]
        assert not list(two.batches.list())
        assert not list(two.files.list())
        for ask in (
            lambda: two.batches.retrieve(done.id),
            lambda: two.batches.cancel(done.id),
            lambda: two.files.retrieve(done.input_file_id),
            lambda: two.files.content(done.output_file_id or ""),
            lambda: two.files.delete(done.input_file_id),
            lambda: two.batches.create(
                input_file_id=done.input_file_id, endpoint=CHAT, completion_window="24h"
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
        with pytest.raises(openai.AuthenticationError):
            served.client.files.list()
    again = KeyRing([("another-key", "y"), (ONE, "x")], [])
    with batching(echo(), tmp_path, ring=again, api_key=ONE) as served:
        assert len(list(served.client_with(ONE).batches.list())) == 1
        assert not list(served.client_with("another-key").batches.list())


def test_lists_come_in_pages_the_newest_first(served: Batching) -> None:
    client = served.client
    made = [begin(client, [question(1)]).id for _ in range(5)]
    first = client.batches.list(limit=2)
    assert [batch.id for batch in first.data] == made[:-3:-1]
    assert first.has_more
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    files = [file.created_at for file in client.files.list(order="asc", purpose="batch")]
    assert files == sorted(files)
    with pytest.raises(openai.BadRequestError, match="limit must be from 1"):
        client.batches.list(limit=0)
    with pytest.raises(openai.BadRequestError, match="there is no 'nobody' here"):
        client.batches.list(after="nobody")


def test_a_file_is_deleted_once_no_batch_reads_it(echo: MakeEcho, tmp_path: Path) -> None:
    with batching(echo(delay=0.01), tmp_path) as served:
        client = served.client
        batch = begin(client, [question(n) for n in range(200)])
        with pytest.raises(openai.ConflictError, match="cancel it first"):
            client.files.delete(batch.input_file_id)
        wait_until(lambda: client.batches.retrieve(batch.id).status == "in_progress")
        client.batches.cancel(batch.id)
        done = until_ended(client, batch)
        assert client.files.delete(batch.input_file_id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(batch.input_file_id)
        assert client.files.delete(done.error_file_id or "").deleted


def test_limits_of_size_and_number(echo: MakeEcho, tmp_path: Path) -> None:
    limits: dict[str, Any] = {
        "max_file_bytes": 20_000,
        "max_files": 4,
        "max_batches": 1,
        "max_batch_requests": 10,
        "max_batch_completions": 1,
    }
    with batching(echo(delay=10), tmp_path, **limits) as served:
        client = served.client
        with pytest.raises(openai.APIStatusError) as caught:
            client.files.create(file=("a.jsonl", b" " * 3_000_000), purpose="batch")
        assert caught.value.status_code == 413
        many = begin(client, [question(n) for n in range(11)])
        done = until_ended(client, many)
        assert done.errors is not None
        assert done.errors.data is not None
        assert [one.code for one in done.errors.data] == ["too_many_requests"]
        begin(client, [question(n) for n in range(10)])
        with pytest.raises(openai.RateLimitError, match="max_batches"):
            begin(client, [question(1)])
        client.files.create(file=("b.jsonl", b"{}"), purpose="batch")
        with pytest.raises(openai.RateLimitError, match="max_files"):
            client.files.create(file=("c.jsonl", b"{}"), purpose="batch")
    assert not list((tmp_path / "files").glob("*.part"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"purpose": "fine-tune"}, "purpose must be 'batch'"),
        ({"purpose": "batch", "colour": "red"}, "Unknown parameter 'colour'"),
        (
            {
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "5",
            },
            "expires_after must have the anchor",
        ),
    ],
)
def test_wrong_uploads_are_refused(served: Batching, fields: dict[str, str], told: str) -> None:
    answer = httpx.post(
        f"{served.url}/v1/files", data=fields, files={"file": ("a.jsonl", b"{}")}, timeout=60
    )
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


def test_what_is_no_form_is_refused(served: Batching) -> None:
    url = f"{served.url}/v1/files"
    form = {"content-type": "multipart/form-data; boundary=x"}
    for content, headers in (
        (b"{}", {"content-type": "application/json"}),
        (b"--x\r\n", form),
        (b"--x\r\ncontent-disposition: form-data; name=file; filename=a\r\n\r\nabc", form),
        (b"--x\r\n\r\nabc\r\n--x--", form),
        (b"--x--", form),
        (b"--x" + b"y" * 20_000, form),
    ):
        answer = httpx.post(url, content=content, headers=headers, timeout=60)
        assert answer.status_code == 400, content
    assert not list(served.client.files.list())


def test_a_file_comes_back_as_it_was_sent(served: Batching) -> None:
    content = content_of(["\r\n--x", *(question(n) for n in range(3000))]) + b"\r\n--"
    file = served.client.files.create(
        file=("../../etc/pass\u00e9.jsonl", content),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.filename == "pass\u00e9.jsonl"
    assert file.bytes == len(content)
    assert file.expires_at == file.created_at + 3600
    assert served.client.files.content(file.id).content == content


def test_a_web_page_cannot_upload_to_a_server_without_keys(echo: MakeEcho, tmp_path: Path) -> None:
    form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}")}}
    origin = {"origin": "https://page.example"}
    with batching(echo(), tmp_path / "one") as served:
        assert (
            httpx.post(f"{served.url}/v1/files", headers=origin, **form, timeout=60).status_code
            == 403
        )
    with batching(echo(), tmp_path / "two", cors_origins="https://page.example") as served:
        assert (
            httpx.post(f"{served.url}/v1/files", headers=origin, **form, timeout=60).status_code
            == 200
        )


def test_wrong_batches_are_refused(served: Batching) -> None:
    file = served.client.files.create(file=("a.jsonl", content_of([question(1)])), purpose="batch")
    good = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    for wrong in (
        {"endpoint": "/v1/images"},
        {"completion_window": "soon"},
        {"completion_window": "400d"},
        {"metadata": {"x": "y" * 600}},
        {"colour": "red"},
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
    ):
        answer = httpx.post(f"{served.url}/v1/batches", json={**good, **wrong}, timeout=60)
        assert answer.status_code == 400, answer.text
    assert (
        httpx.post(
            f"{served.url}/v1/batches", json={**good, "input_file_id": "x"}, timeout=60
        ).status_code
        == 404
    )


def test_files_and_batches_are_off_without_a_folder(echo: MakeEcho) -> None:
    from tests.server.serving import serving

    with serving(echo()) as served:
        assert httpx.get(f"{served.url}/v1/files", timeout=60).status_code == 404
        assert httpx.post(f"{served.url}/v1/batches", json={}, timeout=60).status_code == 404


def test_two_servers_do_not_share_a_folder(served: Batching, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another server uses"):
        BatchStore(tmp_path / "batches")


class DyingTokens(EchoTokens):
    """Dies at every request until it has died `deaths` times."""

    deaths = 3

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        if self.deaths:
            self.deaths -= 1
            raise EngineDeadError("It died.")
        async for delta in super().generate(prompt, params):
            yield delta


class DyingEngine(EchoEngine):
    def make_tokens(self, tokenizer: Tokenizer, **options: object) -> EchoTokens:
        return DyingTokens(tokenizer, **options)  # type: ignore[arg-type]


def test_requests_of_which_the_engine_died_are_asked_again(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with (
        ChatModel.from_engine(DyingEngine(tokenizer)) as model,
        batching(model, tmp_path) as served,
    ):
        done = until_ended(served.client, begin(served.client, [question(n) for n in range(12)]))
        assert done.status == "completed"
        assert done.request_counts is not None
        assert done.request_counts.completed == 12


def test_a_job_that_cannot_be_run_is_a_failed_batch(
    echo: MakeEcho, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: LinesFile, line: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with batching(echo(), tmp_path) as served:
        monkeypatch.setattr(LinesFile, "write", failing)
        failed = until_ended(served.client, begin(served.client, [question(1)]))
        assert failed.status == "failed"
        assert failed.errors is not None
        assert failed.errors.data is not None
        (told,) = failed.errors.data
        assert "No space left on device" in (told.message or "")
        assert str(tmp_path) not in (told.message or "")
        monkeypatch.undo()
        done = until_ended(served.client, begin(served.client, [question(1)]))
        assert done.status == "completed"


def test_a_batch_that_waits_for_an_engine_can_be_ended(echo: MakeEcho, tmp_path: Path) -> None:
    """The engine may be loaded for minutes, or not come at all."""
    with batching(echo(), tmp_path) as served:
        served.service.admission.close("The model is being loaded.")
        late = begin(served.client, [question(1)], "1s")
        batch = begin(served.client, [question(n) for n in range(3)])
        wait_until(lambda: served.client.batches.retrieve(batch.id).status == "in_progress")
        served.client.batches.cancel(batch.id)
        done = until_ended(served.client, batch)
        assert done.status == "cancelled"
        unrun = lines_in(served.client, done.error_file_id)
        assert [one["error"]["code"] for one in unrun] == ["batch_cancelled"] * 3
        assert until_ended(served.client, late).status == "expired"


def test_an_end_that_cannot_be_written_is_written_later(
    echo: MakeEcho, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk may be mended, and no client waits for the server's next start."""
    tried: list[str] = []
    end = BatchManager._end

    def end_late(self: BatchManager, batch: StoredBatch, changes: Mapping[str, Any]) -> None:
        tried.append(batch.status)
        if len(tried) <= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        end(self, batch, changes)

    monkeypatch.setattr(BatchManager, "_end", end_late)
    monkeypatch.setattr(manager, "_STUCK_PAUSE", 0.0)
    with batching(echo(), tmp_path) as served:
        done = until_ended(served.client, begin(served.client, [question(1)]))
        assert done.status == "completed"
        (answer,) = lines_in(served.client, done.output_file_id)
        assert answer["custom_id"] == "q1"
        assert len(tried) == 3


def test_a_batch_whose_key_is_gone_fails(echo: MakeEcho, tmp_path: Path) -> None:
    with batching(echo(delay=0.05), tmp_path, ring=KeyRing([(ONE, "")], []), api_key=ONE) as served:
        batch = begin(served.client_with(ONE), [question(n) for n in range(100)])
    with batching(echo(), tmp_path, ring=KeyRing([(TWO, "")], []), api_key=TWO):
        state = tmp_path / "state.sqlite"

        def has_failed() -> bool:
            with sqlite3.connect(state) as database:
                query = "SELECT document FROM batches WHERE id = ?"
                return (
                    "none of the server's any more"
                    in database.execute(query, (batch.id,)).fetchone()[0]
                )

        wait_until(has_failed)
