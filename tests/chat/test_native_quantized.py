"""Quantised weights and narrow KV caches, as a user sets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire import ChatModel
from quire.demo import demo_model_path
from quire.errors import ConfigError

SUMS = ((27, 15), (8, 46), (31, 60), (19, 19))


pytestmark = pytest.mark.usefixtures("own_cache")


def answers(**arguments: Any) -> list[str]:
    given = {"model_name_or_path": str(demo_model_path()), "vllm_maxlen": 256, **arguments}
    with ChatModel({**given, "infer_backend": "native"}) as model:
        return [
            model.chat([{"role": "user", "content": f"What is {a} + {b}?"}], temperature=0.0)[
                0
            ].response_text
            for a, b in SUMS
        ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"native_quantization": "int8"},
        {"quantization_bit": 4},
        {"native_kv_cache_dtype": "float16"},
        {"native_kv_cache_dtype": "int8"},
        {"native_quantization": "int8", "native_kv_cache_dtype": "int8"},
    ],
    ids=str,
)
def test_sums_stay_right(arguments: dict[str, Any]) -> None:
    found = answers(**arguments)
    right = [str(a + b) in text for (a, b), text in zip(SUMS, found, strict=True)]
    assert sum(right) >= (3 if arguments.get("quantization_bit") == 4 else 4), found


def test_what_was_quantised_is_kept_and_used_again(own_cache: Path) -> None:
    first = answers(native_quantization="int8")
    (kept,) = own_cache.glob("weights-int8-*.safetensors")
    written = kept.stat().st_ino  # a file that is written anew is another one
    assert answers(native_quantization="int8") == first
    assert kept.stat().st_ino == written
    kept.write_bytes(kept.read_bytes()[:1000])  # a damaged one is made again
    assert answers(native_quantization="int8") == first
    assert kept.stat().st_size > 1000


def test_a_contradiction_is_refused() -> None:
    with pytest.raises(ConfigError, match="contradict"):
        answers(native_quantization="int8", quantization_bit=4)
