"""quire under the names of LLaMA-Factory's chat stack.

The package `llamafactory` lies in `path/`, which stands last on `sys.path`: where the real
LLaMA-Factory is installed, that one is imported. Nothing heavy is imported here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import warnings
from pathlib import Path

__version__ = "0.2.0"

PATH = Path(__file__).parent / "path"
"""The folder that holds quire's package `llamafactory`."""

__all__ = ["PATH", "__version__", "activate", "check_alone", "first_found", "real_package"]


def activate() -> bool:
    """Make `llamafactory` importable where no `.pth` file does: `pip install --target`, an archive.

    Returns:
        True if `llamafactory` is quire's now; False, with a warning, where the real one is there.
    """
    real = real_package()
    if real:
        warnings.warn(f"`llamafactory` stays {real}, not quire's.", RuntimeWarning, stacklevel=2)
        return False
    if str(PATH) not in sys.path:
        sys.path.append(str(PATH))
    return True


def real_package() -> str | None:
    """Name the real LLaMA-Factory, if it is there: what it is, and where. Imports nothing."""
    origin = first_found()
    version = _installed_version()
    if origin and not origin.resolve().is_relative_to(PATH.resolve()):
        return f"the package in {origin.parent}"
    return f"LLaMA-Factory {version}, which is installed" if version else None


def check_alone() -> None:
    """Raise ImportError where quire's `llamafactory` hides an installed LLaMA-Factory.

    It stands last on `sys.path`, so that this takes an environment over another one, or an editable
    installation with a finder of its own.
    """
    version = _installed_version()
    if version:
        raise ImportError(
            f"LLaMA-Factory {version} is installed, but Python finds quire's `llamafactory` before "
            "it. Keep one of them: `pip uninstall quire-llamafactory` or `pip uninstall "
            "llamafactory`.",
            name="llamafactory",
        )


def _installed_version() -> str | None:
    """The version of the installed distribution `llamafactory`, which is never quire's."""
    try:
        return importlib.metadata.version("llamafactory")
    except importlib.metadata.PackageNotFoundError:
        return None


def first_found() -> Path | None:
    """The file of the `llamafactory` that Python imports; None too for a folder without code."""
    try:
        spec = importlib.util.find_spec("llamafactory")
    except ValueError:  # a module without a spec, put into sys.modules by hand
        return None
    return Path(spec.origin) if spec and spec.origin else None
