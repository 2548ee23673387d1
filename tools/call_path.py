"""Count what one token costs: the files and functions of quire that a request enters.

    python -m tools.call_path            ChatModel.stream_chat on the demo model
    python -m tools.call_path --http     a streamed chat completion, over a real socket

A profiler sees every thread. What is compiled (kernels, Rust, C) is not counted; what runs while the
model loads is not either, since a first request goes before those that are counted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType

import quire
from quire.chat import ChatModel
from quire.cli.main import main as run_command
from quire.demo import demo_model_path

SOURCE = str(Path(quire.__file__).parent)
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


class CallCounter:
    """Counts calls of functions of quire, a resumed generator as one more call."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()
        self._counting = False

    def install(self) -> None:
        """See every thread that is started from now on, and this one."""
        threading.setprofile(self._see)
        sys.setprofile(self._see)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what happens inside."""
        self.calls = Counter()
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def _see(self, frame: FrameType, event: str, argument: object) -> None:
        if self._counting and event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            self.calls[frame.f_code] += 1

    @property
    def files(self) -> set[str]:
        """The files entered."""
        return {code.co_filename for code in self.calls}


def count(ask: Callable[[int], object], counter: CallCounter) -> dict[str, object]:
    """Ask for one token, then for more: what one enters, and what each further one adds."""
    ask(1)  # what is read once, at the first request
    with counter.counting():
        ask(1)
    one = counter.calls.copy()
    files, functions, calls = len(counter.files), len(one), one.total()
    before = [code for code in one if "/native/" not in code.co_filename]
    per_file = Counter(path.co_filename.removeprefix(SOURCE + "/") for path in one)
    with counter.counting():
        ask(21)
    further = (counter.calls.total() - calls) / 20
    return {
        "files": files,
        "functions": functions,
        "calls": calls,
        "further": further,
        "files_before": len({code.co_filename for code in before}),
        "functions_before": len(before),
        "per_file": per_file,
    }


def ask_model(counter: CallCounter) -> dict[str, object]:
    """The library's own way."""
    with ChatModel({"model_name_or_path": str(demo_model_path())}) as model:

        def ask(tokens: int) -> None:
            for _ in model.stream_chat(MESSAGES, max_new_tokens=tokens, ignore_eos=True):
                pass

        return count(ask, counter)


def ask_server(counter: CallCounter) -> dict[str, object]:
    """`quire serve` in this thread, asked by another thread over a socket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    results: list[dict[str, object]] = []

    def client() -> None:
        sys.setprofile(None)
        try:
            wait_until_ready(port)
            results.append(count(lambda tokens: post(port, tokens), counter))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=client).start()
    words = ["--port", str(port), "--served_model_name", "demo", "--log_file", os.devnull]
    run_command(["serve", str(demo_model_path()), *words])
    if not results:
        raise RuntimeError("the client has failed")
    return results[0]


def wait_until_ready(port: int) -> None:
    """Ask until the model is loaded, for two minutes at most."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(ConnectionError):
            if fetch(port, "GET", "/ready", None)[0] == 200:
                return
        time.sleep(0.2)
    raise TimeoutError("the server has not become ready")


def post(port: int, tokens: int) -> None:
    """Stream one chat completion."""
    body = {"model": "demo", "messages": MESSAGES, "max_tokens": tokens, "ignore_eos": True}
    status, text = fetch(port, "POST", "/v1/chat/completions", json.dumps(body | {"stream": True}))
    if status != 200 or not text.endswith(b"data: [DONE]\n\n"):
        raise RuntimeError(f"status {status}: {text.decode()}")


def fetch(port: int, method: str, path: str, body: str | None) -> tuple[int, bytes]:
    """The status and the whole body of an answer."""
    headers = {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", action="store_true", help="a streamed request over HTTP")
    parser.add_argument(
        "--files", action="store_true", help="list the files, and functions of each"
    )
    options = parser.parse_args()
    counter = CallCounter()
    counter.install()
    found = (ask_server if options.http else ask_model)(counter)
    print(
        f"one token: {found['files']} files, {found['functions']} functions, "
        f"{found['calls']} calls; each further token: {found['further']:.0f} calls\n"
        f"without the native engine's own: {found['files_before']} files, "
        f"{found['functions_before']} functions"
    )
    if options.files:
        per_file = found["per_file"]
        assert isinstance(per_file, Counter)
        for name, functions in sorted(per_file.items()):
            print(f"  {functions:3} {name}")


if __name__ == "__main__":
    main()
