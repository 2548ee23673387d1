"""OpenAI's batch files: their requests answered by the server's APIs, their lines in its form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from quire.batch import run_batch
from quire.batch.job import BatchResult
from quire.batch.merging import merge
from quire.chat import ChatModel
from quire.cli.main import main
from quire.demo import demo_model_path
from quire.errors import BatchError, ConfigError
from quire.server.batches import make_api_answerer
from tests.batch.sources import lines_of

MakeEcho = Callable[..., ChatModel]

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}


def line(custom_id: str, body: Mapping[str, Any], url: str = CHAT) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def run(folder: Path, model: ChatModel, *lines: str, **words: object) -> BatchResult:
    """Run a batch file of these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "requests.jsonl"
    path.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    args = {
        "input": str(path),
        "output_dir": str(folder / "out"),
        "save_name": "out.jsonl",
        **words,
    }
    return run_batch(args, model=model, make_api_answerer=make_api_answerer)


ALL_APIS = (
    line("chat", HELLO),
    line("text", {"prompt": "Hello, how are you?", "max_tokens": 3}, "/v1/completions"),
    line("items", {"input": "Hello", "max_output_tokens": 2}, "/v1/responses"),
)


def test_each_api_answers_as_the_server_does(folder: Path, echo: MakeEcho) -> None:
    result = run(folder, echo(), *ALL_APIS)
    assert (result.ending, result.counts.failed) == ("finished", 0)
    chat, text, items = lines_of(result.files.answers)
    assert [list(one) for one in (chat, text, items)] == [
        ["id", "custom_id", "response", "error"]
    ] * 3
    assert [one["custom_id"] for one in (chat, text, items)] == ["chat", "text", "items"]
    assert {one["response"]["status_code"] for one in (chat, text, items)} == {200}
    assert chat["response"]["body"]["object"] == "chat.completion"
    assert "Hello!" in chat["response"]["body"]["choices"][0]["message"]["content"]
    assert text["response"]["body"]["choices"][0]["finish_reason"] == "length"
    assert items["response"]["body"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert result.counts.ended_by_length == 2
    assert result.counts.tokens_out > 5


def test_lines_hold_no_times_and_no_random_ids(folder: Path, echo: MakeEcho) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    asks = [*ALL_APIS, line("call", {**HELLO, "tools": [tool]})]
    reply = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    made = [run(folder / name, echo(reply=reply), *asks).files for name in ("one", "two")]
    assert made[0].answers.read_bytes() == made[1].answers.read_bytes()
    *_, call = lines_of(made[0].answers)
    answer = call["response"]["body"]
    (called,) = answer["choices"][0]["message"]["tool_calls"]
    assert called["function"]["name"] == "look"
    assert answer["created"] == 0
    ids = [one["id"] for one in lines_of(made[0].answers)]
    assert len({*ids, answer["id"], called["id"]}) == len(ids) + 2


def test_embeddings_of_the_demo_model(folder: Path) -> None:
    arguments = {"infer_backend": "native", "native_kv_cache_memory": "16MiB"}
    with ChatModel({"model_name_or_path": str(demo_model_path()), **arguments}) as model:
        asked = line("vector", {"input": ["Hello", "you"]}, "/v1/embeddings")
        sampled = [line(f"s{n}", {**HELLO, "temperature": 1.5, "max_tokens": 12}) for n in range(4)]
        results = [run(folder / name, model, asked, *sampled) for name in ("one", "two")]
    first, *texts = lines_of(results[0].files.answers)
    assert [one["index"] for one in first["response"]["body"]["data"]] == [0, 1]
    said = {one["response"]["body"]["choices"][0]["message"]["content"] for one in texts}
    assert len(said) > 1, "each row draws by a seed of its own"
    assert results[0].files.answers.read_bytes() == results[1].files.answers.read_bytes()


def test_seeds_follow_from_the_row_where_a_body_names_none(folder: Path, echo: MakeEcho) -> None:
    model = echo()
    seeds: list[int | None] = []
    for name, body in (("own", {**HELLO, "seed": 7}), ("row", HELLO), ("again", HELLO)):
        run(folder / name, model, line("a", body))
        params = model.engine.last_params  # type: ignore[attr-defined]
        seeds.append(params.seed)
    assert seeds[0] == 7
    assert seeds[1] == seeds[2] not in (None, 7, 42)


WRONG = (
    (line("stream", {**HELLO, "stream": True}), 400, "stream"),
    (line("model", {**HELLO, "model": "gpt-9"}), 404, "model_not_found"),
    (line("field", {**HELLO, "temprature": 1}), 400, "unknown_parameter"),
    (line("deep", {**HELLO, "metadata": json.loads("[" * 120 + "]" * 120)}), 400, "too_deep"),
    (line("many", {**HELLO, "n": 1000}), 400, "n"),
)


def test_what_the_api_refuses_is_a_response_with_its_error(folder: Path, echo: MakeEcho) -> None:
    result = run(folder, echo(), line("good", HELLO), *(one for one, _, _ in WRONG))
    assert [one["custom_id"] for one in lines_of(result.files.answers)] == ["good"]
    failed = lines_of(result.files.errors)
    assert len(failed) == len(WRONG)
    for one, (_, status, code) in zip(failed, WRONG, strict=True):
        assert one["error"] is None
        assert one["response"]["status_code"] == status
        error = one["response"]["body"]["error"]
        assert code in (error["code"], error["param"]), error


def test_what_is_no_request_has_an_error_and_no_response(folder: Path, echo: MakeEcho) -> None:
    result = run(
        folder,
        echo(),
        "\ufeff" + line("good", HELLO),
        "no json",
        line("url", HELLO, "/v1/images"),
        json.dumps({"messages": HELLO["messages"]}),
    )
    assert [one["custom_id"] for one in lines_of(result.files.answers)] == ["good"]
    failed = lines_of(result.files.errors)
    assert all(one["response"] is None for one in failed)
    assert [one["custom_id"] for one in failed] == [None, "url", None]
    assert [one["error"]["code"] for one in failed] == [
        "invalid_json_line",
        "invalid_url",
        "unsupported_option",
    ]
    assert "line 2" in failed[0]["error"]["message"]
    assert "Line 3" in failed[1]["error"]["message"]


def test_vllms_form_has_every_line_in_one_file(folder: Path, echo: MakeEcho) -> None:
    asks = (line("good", HELLO), line("model", {**HELLO, "model": "gpt-9"}), "no json")
    result = run(folder, echo(), *asks, api_form="vllm")
    good, refused, broken = lines_of(result.files.answers)
    assert good["error"] is None
    assert refused["response"]["status_code"] == 404
    assert "body" not in refused["response"]
    assert refused["error"]["code"] == "model_not_found"
    assert broken["response"]["status_code"] == 400
    assert (result.counts.answered, result.counts.failed) == (1, 2)


def test_a_file_of_which_all_rows_fail_comes_to_its_end(folder: Path, echo: MakeEcho) -> None:
    asks = [line(f"r{n}", {**HELLO, "model": "gpt-9"}) for n in range(30)]
    with pytest.raises(BatchError, match="The model 'gpt-9' is not served; served: echo"):
        run(folder / "early", echo(), *asks)
    result = run(folder / "all", echo(), *asks, stop_after_failures=0)
    assert (result.ending, result.counts.failed) == ("finished", 30)
    assert result.files.answers.read_bytes() == b""
    named = run(folder / "named", echo(), *asks, served_model_name="gpt-9")
    assert named.counts.failed == 0


def test_ids_that_repeat_are_refused_with_both_lines(folder: Path, echo: MakeEcho) -> None:
    with pytest.raises(ConfigError, match="first in line 1, and again in line 3"):
        run(folder, echo(), line("x", HELLO), line("y", HELLO), line("x", HELLO))


def test_failed_requests_are_tried_again_and_parts_are_joined(folder: Path, echo: MakeEcho) -> None:
    asks = [line(f"r{n}", {**HELLO, "model": "other" if n == 3 else None}) for n in range(8)]
    whole = run(folder / "whole", echo(), *asks)
    assert whole.counts.failed == 1
    again = run(folder / "whole", echo(), *asks, retry_failed=True)
    assert (again.counts.answered, again.counts.failed) == (7, 1)
    parts = [run(folder / f"{n}", echo(), *asks, shard=f"{n}/2").files for n in (1, 2)]
    merged = merge(folder / "merged.jsonl", [part.answers for part in parts])
    assert (merged.rows, merged.missing) == (7, 1)
    assert (folder / "merged.jsonl").read_bytes() == whole.files.answers.read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        {"min_p": 0.1},
        {"keep_columns": "*"},
        {"matrix_save_name": "scores.json"},
        {"cutoff_len": 100},
        {"save_name": "out.parquet"},
    ],
    ids=lambda words: next(iter(words)),
)
def test_arguments_that_mean_nothing_for_requests_are_refused(
    folder: Path, echo: MakeEcho, words: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(words))} is not for a file of OpenAI's"):
        run(folder, echo(), line("a", HELLO), **words)


def test_on_the_command_line(
    folder: Path, echo: MakeEcho, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / "requests.jsonl").write_text(f"{line('a', HELLO)}\n{line('b', HELLO)}\n")
    model = echo()
    words = [f"input={folder / 'requests.jsonl'}", f"output_dir={folder}", "save_name=out.jsonl"]
    assert main(["batch", str(demo_model_path()), *words], make_model=lambda _: model) == 0
    assert "2 of 2 rows have an answer" in capsys.readouterr().err
    assert [one["custom_id"] for one in lines_of(folder / "out.jsonl")] == ["a", "b"]


def test_a_program_that_gives_no_answerer_is_told_of_it(folder: Path, echo: MakeEcho) -> None:
    folder.mkdir()
    (folder / "requests.jsonl").write_text(line("a", HELLO) + "\n")
    with pytest.raises(BatchError, match=r"pip install 'quire-llm\[server\]'"):
        run_batch(
            {"input": str(folder / "requests.jsonl"), "output_dir": str(folder)}, model=echo()
        )
