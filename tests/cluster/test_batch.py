"""Batches on a cluster: the same files as without one, whatever dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from quire.batch.job import BatchJob, BatchResult, MakeModel
from quire.batch.rows import ChatRow, Row, SeeChunk
from quire.batch.runner import FIRST_WINDOW
from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.errors import EngineDeadError, ModelNotFoundError
from quire.request import ChatRequest
from tests.batch.sources import Questions, batch_args, lines_of, make_tokenizer, run_job
from tests.chat.echo_engine import EchoEngine
from tests.cluster import models
from tests.cluster.cluster import RayNodes
from tests.polling import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return tmp_path / "out"


def run_on_ray(folder: Path, source: Questions, make: MakeModel, **values: object) -> BatchResult:
    args = batch_args(folder, batch_backend="ray", **values)
    return BatchJob(args, source, make_model=make).run()


@dataclass
class HeldQuestions(Questions):
    """Questions of which only half come before `released` is set, however late that is."""

    released: threading.Event = field(default_factory=threading.Event)

    def rows(self, see_chunk: SeeChunk | None = None) -> Iterator[Row]:
        for row in super().rows(see_chunk):
            assert row.index < self.count // 2 or self.released.wait(300)
            yield row


def test_a_node_dies_under_a_batch_and_the_files_are_those_of_a_local_one(
    folder: Path, nodes: RayNodes
) -> None:
    source = HeldQuestions(240, broken=frozenset({7}), text="Say {} in other words.")
    settings = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "infer_dtype": "float32",
        "max_new_tokens": 24,
        "native_kv_cache_memory": "64MiB",
    }
    made = folder.with_name("made")
    few = {"max_in_flight": 8, "batch_size": 16}
    args = batch_args(folder, batch_backend="ray", ray_actors="3", **few, **settings)
    job = BatchJob(args, source, make_model=partial(models.make_demo, made))

    def kill() -> None:
        wait_until(lambda: len(list(made.iterdir())) == 3)
        before = job.progress.done
        wait_until(lambda: job.progress.done > min(before + 12, 90))
        nodes.kill_other()
        source.released.set()

    killer = threading.Thread(target=kill)
    killer.start()
    result = job.run()
    killer.join()
    assert result.ending == "finished"
    with ChatModel(settings) as model:
        local = run_job(folder.with_name("local"), source, model, {"max_new_tokens": 24})
    assert result.files.answers.read_bytes() == local.files.answers.read_bytes()
    assert result.files.errors.read_bytes() == local.files.errors.read_bytes()
    assert result.counts == local.counts


def test_a_row_that_kills_its_engine_is_set_aside_and_no_other(
    folder: Path, nodes: RayNodes
) -> None:
    settings = {"ray_actors": "2", "max_in_flight": 16}
    with pytest.raises(EngineDeadError, match="An engine on Ray has died"):
        run_on_ray(folder, Questions(60), models.make_deadly, **settings, max_engine_restarts=1)
    result = run_on_ray(folder, Questions(60), models.make_deadly, **settings)
    (error,) = lines_of(result.files.errors)
    assert (error["index"], error["stage"], error["code"]) == (20, "engine", "engine_died")
    assert "3 times" in error["message"]
    assert [one["index"] for one in lines_of(result.files.answers)] == [
        index for index in range(60) if index != 20
    ]


class WithALongOne(Questions):
    """Questions of which one does not fit."""

    def rows(self, see_chunk: SeeChunk | None = None) -> Iterator[Row]:
        for row in super().rows(see_chunk):
            if row.index == 2:
                message = {"role": "user", "content": "word " * 5000}
                row = replace(row, work=ChatRow(ChatRequest([message])))
            yield row


def test_actors_come_while_all_are_full_and_a_drained_batch_goes_on_without_a_cluster(
    folder: Path, nodes: RayNodes
) -> None:
    made = folder.with_name("made")
    source = WithALongOne(2000)  # they take 20 s at least, within which a second actor comes
    args = batch_args(folder, batch_backend="ray", ray_actors="1-2", max_in_flight=2)
    job = BatchJob(args, source, make_model=partial(models.make_echo, made, 0.02))
    # All of the first window are asked by then, in whatever order: it is that of their prompts.
    enough = FIRST_WINDOW + 4

    def drain() -> None:
        wait_until(lambda: len(list(made.iterdir())) == 2 and job.progress.done > enough)
        job.drain()

    drainer = threading.Thread(target=drain)
    drainer.start()
    result = job.run()
    drainer.join()
    assert result.ending == "drained"
    assert enough < result.counts.rows < 2000
    (error,) = lines_of(result.files.errors)
    assert (error["index"], error["stage"], error["code"]) == (2, "prepare", "prompt_too_long")
    with ChatModel.from_engine(EchoEngine(make_tokenizer())) as model:
        assert run_job(folder, source, model).ending == "finished"
        local = run_job(folder.with_name("local"), source, model)
    assert result.files.answers.read_bytes() == local.files.answers.read_bytes()
    assert result.files.errors.read_bytes() == local.files.errors.read_bytes()


def test_a_model_that_cannot_be_loaded_is_told_as_it_is_elsewhere(
    folder: Path, nodes: RayNodes
) -> None:
    with pytest.raises(ModelNotFoundError, match="no such model on this node"):
        run_on_ray(folder, Questions(3), models.make_none, ray_actors="2")
