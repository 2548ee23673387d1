"""What LLaMA-Factory has and this package has not: an error that says so."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

ONLY_CHAT = "`llamafactory` is here quire's compatibility package, which has the chat stack alone"
_THE_REAL_ONE = "the real LLaMA-Factory does that, in an environment of its own"

ABSENT: Mapping[str, str] = {
    "llamafactory.api": "the server is started with `llamafactory-cli api`",
    "llamafactory.chat.kt_engine": "KTransformers is no engine of quire; use vllm or native",
    "llamafactory.chat.sglang_engine": "SGLang is no engine of quire; use vllm or native",
    "llamafactory.data": "a ChatModel renders the prompts itself; for data sets, " + _THE_REAL_ONE,
    "llamafactory.eval": _THE_REAL_ONE,
    "llamafactory.extras.logging": 'use Python\'s logging.getLogger("quire")',
    "llamafactory.extras.ploting": _THE_REAL_ONE,
    "llamafactory.hparams.evaluation_args": _THE_REAL_ONE,
    "llamafactory.hparams.megatron_bridge_args": _THE_REAL_ONE,
    "llamafactory.hparams.training_args": _THE_REAL_ONE,
    "llamafactory.model": "a ChatModel loads the model and its tokenizer itself",
    "llamafactory.third_party": _THE_REAL_ONE,
    "llamafactory.train": _THE_REAL_ONE,
    "llamafactory.v1": _THE_REAL_ONE,
    "llamafactory.webui": "the web chat is started with `llamafactory-cli webchat`",
}
"""Modules of the real package, and what to use in their place; their submodules are meant too."""


class AbsentFinder:
    """The last finder: it refuses what is in `ABSENT`, once no other has found it."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for an absent module; all others are none of our business."""
        for name, advice in ABSENT.items():
            if fullname == name or fullname.startswith(f"{name}."):
                raise ModuleNotFoundError(
                    f"No module {fullname!r}: {ONLY_CHAT}; {advice}.", name=fullname
                )
        return None

    @classmethod
    def install(cls) -> None:
        """Put this finder last, once."""
        if cls not in sys.meta_path:
            sys.meta_path.append(cls)


def missing(module: str, name: str, absent: Collection[str] = ()) -> Exception:
    """The error of a module's `__getattr__`: of `absent`, an ImportError that explains it."""
    if name in absent:
        return ImportError(f"No {name!r} in {module!r}: {ONLY_CHAT}; {_THE_REAL_ONE}.", name=module)
    return AttributeError(f"module {module!r} has no attribute {name!r}")
