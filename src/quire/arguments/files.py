"""Mappings from YAML and JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from quire.errors import ConfigError

SUFFIXES = (".yaml", ".yml", ".json")


def parse_scalar(text: str) -> Any:
    """Read `text` as a YAML value; text that is no YAML stays as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds keys and values.

    Raises:
        ConfigError: no such file, not readable, or not keys and values.
    """
    path = path.expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"No such file: {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from None
    return _checked(_parse(path, text), path)


def _parse(path: Path, text: str) -> Any:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None


def _checked(content: Any, path: Path) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path} must hold keys and values, such as `template: qwen3`.")
    return content
