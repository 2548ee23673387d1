"""The demo models: small, made by `python -m tools.demo_models`, and kept in this package.

Nothing heavy is imported here.
"""

from __future__ import annotations

from pathlib import Path

from quire.errors import ModelNotFoundError, nearest, sentence

MODELS = Path(__file__).parent / "models"

NAMES = {"demo": "chat", "demo-see": "see", "demo-hear": "hear", "demo-reward": "reward"}
"""What `model_name_or_path` may say for the folders of these models."""

DEMO_CONVERSATION: tuple[str, ...] = (
    "Hello! Who are you?",
    "What is PagedAttention?",
    "What is 17 + 25?",
    "Give me a JSON object with name Ada and age 36.",
    "How do I stream an answer?",
    "Thanks!",
)
"""What the user says in the scripted conversation of `make demo`."""


def named_demo_path(name: str) -> Path | None:
    """Return the folder of the demo model that `NAMES` names so; None for any other name.

    Raises:
        ModelNotFoundError: it is one, and the installation holds no demo models.
    """
    return _folder(NAMES[name]) if name in NAMES else None


def demo_model_path() -> Path:
    """Return the folder of the chat model.

    Raises:
        ModelNotFoundError: the installation holds no demo models.
    """
    return _folder("chat")


def demo_adapter_path(name: str = "pirate") -> Path:
    """Return the folder of a LoRA adapter of the chat model: `pirate` or `butler`.

    Raises:
        ModelNotFoundError: there is no such adapter.
    """
    return _folder({"pirate": "adapter", "butler": "adapter_butler"}.get(name, f"adapter_{name}"))


def demo_reward_path(form: str = "value_head") -> Path:
    """Return the folder of a reward model: `value_head` (LLaMA-Factory's form) or `classifier`.

    Raises:
        ModelNotFoundError: there is no such form.
    """
    return _folder({"value_head": "reward", "classifier": "reward_classifier"}.get(form, form))


def demo_see_path() -> Path:
    """Return the folder of the model that sees: a Qwen2-VL for drawn shapes and short clips.

    Raises:
        ModelNotFoundError: the installation holds no demo models.
    """
    return _folder("see")


def demo_hear_path() -> Path:
    """Return the folder of the model that hears: a Qwen2-Audio for tones and beeps.

    Raises:
        ModelNotFoundError: the installation holds no demo models.
    """
    return _folder("hear")


def _folder(name: str) -> Path:
    folder = MODELS / name
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        known = sorted(path.name for path in MODELS.glob("*") if path.is_dir())
        raise ModelNotFoundError(
            sentence(f"There is no demo model {name!r} in {MODELS}{nearest(name, known)}")
            + " `python -m tools.demo_models` makes them (see docs/demo.md)."
        )
    return folder
