"""Let frameworks that nobody here wrote talk to `quire serve demo`, and print what works.

    python -m tools.frameworks [NAME ...]

The newest of each is installed into `build/frameworks` (about two minutes; Node.js and `npm` for the AI SDK).
Each answers a question, streams, runs a loop of tools and asks for a typed answer, over each API that it
speaks. Ends with 1 if something of it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "frameworks"
PYTHON = {  # names on the command line, and what pip installs for them
    "langchain": ["langchain", "langchain-openai", "langchain-anthropic"],
    "litellm": ["litellm"],
    "instructor": ["instructor", "anthropic"],
    "pydantic_ai": ["pydantic-ai-slim[openai]"],
    "llama_index": ["llama-index-core", "llama-index-llms-openai-like"],
    "dspy": ["dspy"],
    "smolagents": ["smolagents[openai]"],
    "haystack": ["haystack-ai"],
    "autogen": ["autogen-agentchat", "autogen-ext[openai]"],
    "crewai": ["crewai"],
    "semantic_kernel": ["semantic-kernel"],
    "strands": ["strands-agents[openai,anthropic]"],
    "agno": ["agno", "openai"],
}
JAVASCRIPT = ["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic", "zod"]


def main(names: list[str]) -> int:
    """Install, serve, ask; print a table."""
    known = [*PYTHON, "ai_sdk"]
    for name in names:
        if name not in known:
            print(f"There is no {name!r}. Known are {', '.join(known)}.", file=sys.stderr)
            return 2
    failed = False
    with server() as address:
        for name in names or known:
            try:
                command = install(name)
            except subprocess.CalledProcessError as error:
                print(f"{name}: could not be installed ({error}).", file=sys.stderr)
                failed = True
                continue
            lines = ask(command, address)
            failed = failed or not lines or any(line["wrong"] for line in lines)
            for line in lines:
                print(f"{name:16} {line['what']:38} {line['wrong'] or 'works'}", flush=True)
            if not lines:
                print(f"{name:16} ended without a word", flush=True)
    return int(failed)


def install(name: str) -> list[str]:
    """The command that asks with one framework, its packages installed; one environment for each."""
    folder = BUILD / name
    if name == "ai_sdk":
        if not (folder / "node_modules").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
            subprocess.run(["npm", "install", "--silent", *JAVASCRIPT], cwd=folder, check=True)
        shutil.copy(
            HERE / "ai_sdk.mjs", folder
        )  # Node.js looks for packages from a module's folder
        return ["node", str(folder / "ai_sdk.mjs")]
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PYTHON[name]], check=True)
        (folder / "installed").touch()
    return [str(python), str(HERE / "python_frameworks.py"), name]


def ask(command: list[str], address: str) -> list[dict[str, str]]:
    """What one framework's process says: a JSON line for each thing that was tried."""
    quiet = {
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_API_KEY": "none",
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "OTEL_SDK_DISABLED": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    done = subprocess.run(
        [*command, address],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    if done.returncode:
        lines.append({"what": "the end", "wrong": done.stderr.strip()[-300:]})
    return lines


@contextmanager
def server() -> Iterator[str]:
    """`quire serve demo` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "quire", "serve", "demo", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{address}/v1/models"):
                    break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
