"""The kernel of `docs/kernels.md`, as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

PAGE = Path(__file__).parents[5] / "docs" / "kernels.md"


def test_the_page_works(tmp_path: Path) -> None:
    kernel, test = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    file = tmp_path / "page.py"  # a kernel's source is read from its file
    file.write_text(f"{kernel}\n\n{test}", "utf-8")
    spec = importlib.util.spec_from_file_location("page", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.relu_squared.name == "page.relu_squared"
