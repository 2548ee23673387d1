"""The core runs without torch and transformers: they are oracles of the tests and nothing more."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import quire

SOURCE = Path(quire.__file__).parent
FORBIDDEN = {"torch", "transformers", "peft", "vllm"}
VLLM = (
    SOURCE / "engines" / "vllm",
    SOURCE / "chat" / "vllm_engine.py",
)  # the only ones that import it
IN_VLLM = tuple(SOURCE / "engines" / "vllm" / name for name in ("yi_vl.py", "cpu_seeds.py"))
"""Parts of vLLM's own processes: vLLM itself imports them."""
CONVERSION = SOURCE / "tokenizer" / "folder.py"  # `quire-llm[convert]`, inside one function
GENERAL = SOURCE / "media" / "families" / "general.py"  # the same: a model's own processor

WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "peft", "vllm", "scipy", "pandas", "llguidance"):
    sys.modules[name] = None  # importing it raises ImportError
from quire import ChatModel
from quire.demo import demo_model_path
with ChatModel({"model_name_or_path": str(demo_model_path())}) as model:
    response, = model.chat([{"role": "user", "content": "Hello!"}], max_new_tokens=4)
    assert response.response_length > 0
"""


def imports_of(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def allowed(path: Path) -> set[str]:
    return {"vllm"} if any(path == place or place in path.parents for place in VLLM) else set()


def test_no_file_of_the_core_imports_torch() -> None:
    offenders = {
        str(path.relative_to(SOURCE)): found
        for path in SOURCE.rglob("*.py")
        if path not in (CONVERSION, GENERAL, *IN_VLLM)
        and (found := (FORBIDDEN - allowed(path)) & set(imports_of(path)))
    }
    assert offenders == {}


def test_a_chat_without_torch() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, timeout=240)


def test_import_quire_is_light() -> None:
    code = "import sys, quire; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"numba", "numpy", "tokenizers", "pydantic", "rich", "jinja2"}
