"""The goals as ratios of figures of one run, and the machine's limits as tokens a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.points import Point

Figures = Mapping[str, Mapping[str, float]]
"""Point, configuration, figure."""

FULL, INT8, INT4 = "quire full precision", "quire int8", "quire int4"
LLAMA, LLAMA8, LLAMA4 = "llama.cpp f32", "llama.cpp Q8_0", "llama.cpp Q4_0"
OPENVINO, OPENVINO8 = "OpenVINO 16-bit weights, f32", "OpenVINO 8-bit weights"
CT2, CT2_8 = "CTranslate2 f32", "CTranslate2 int8"
VLLM = "vLLM f32, no prefix cache"
QUANTISED_BYTES = {"8-bit": 1.0625, "4-bit": 0.5625}
"""Bytes of a weight with its share of a 16-bit scale for 32 of them, as Q8_0 and Q4_0 have."""


@dataclass(frozen=True)
class Facts:
    """The model's sizes and the machine's limits."""

    folder: Path
    limits: Mapping[str, float]

    @property
    def weights_bytes(self) -> int:
        """Bytes as stored: each is read once for a token, the tied embedding as the head."""
        return (self.folder / "model.safetensors").stat().st_size

    @property
    def config(self) -> dict[str, int]:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @property
    def parameters(self) -> int:
        config = self.config
        dtype = str(config.get("dtype") or config.get("torch_dtype"))
        return self.weights_bytes // (4 if dtype == "float32" else 2)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of one position, in float32."""
        c = self.config
        head = c["hidden_size"] // c["num_attention_heads"]
        return 2 * 4 * head * c["num_key_value_heads"] * c["num_hidden_layers"]

    def limit(self, point: Point, bytes_each: float | None = None) -> float | None:
        """Tokens a second if reading weights, or multiplying in float32, were all there is."""
        size = self.weights_bytes if bytes_each is None else self.parameters * bytes_each
        read = self.limits["read"] / size
        multiply = self.limits["multiply"] / (2 * self.parameters)
        if point.kind == "decode":
            return min(point.streams * read, multiply)
        if point.kind == "prefill":
            embedding = self.config["vocab_size"] * self.config["hidden_size"]
            return self.limits["multiply"] / (2 * (self.parameters - embedding))
        return None

    def rows(self, points: Sequence[Point]) -> list[tuple[str, list[float | None]]]:
        """A row of limits as stored; and for quantised weights where reading is what limits."""
        read, multiply = (self.limits[name] / 1e9 for name in ("read", "multiply"))
        title = f"the machine's limit, f32 ({read:.1f} GB/s, {multiply:.0f} GFLOP/s)"
        found = [(title, [self.limit(point) for point in points])]
        for name, size in QUANTISED_BYTES.items():
            alone = [p.kind == "decode" and p.streams == 1 for p in points]
            limits = [
                self.limit(p, size) if one else None for p, one in zip(points, alone, strict=True)
            ]
            if any(limits):
                found.append((f"the machine's limit, {name} weights", limits))
        return found


@dataclass(frozen=True)
class Goal:
    """`ratio` gives None where a figure is missing."""

    text: str
    wanted: float
    ratio: Callable[[Figures, Facts], float | None]
    at_most: bool = False


def _over(point: str, own: str, *others: str) -> Callable[[Figures, Facts], float | None]:
    """quire's figure over the best of the others'."""

    def ratio(figures: Figures, _: Facts) -> float | None:
        found = figures.get(point, {})
        best = [found[name] for name in others if name in found]
        if own not in found or not best:
            return None
        less_is_better = point.startswith(("cold", "prefix"))
        return found[own] / (min(best) if less_is_better else max(best))

    return ratio


def _of_memory_limit(figures: Figures, facts: Facts) -> float | None:
    value, limit = figures.get("decode-1", {}).get(FULL), facts.limit(Point("", "decode"))
    return None if value is None or limit is None else value / limit


def _cold(figures: Figures, _: Facts) -> float | None:
    return figures.get("cold", {}).get(FULL)


def _context(figures: Figures, facts: Facts) -> float | None:
    """Seconds that the cache's bytes explain, over those that a token takes longer."""
    short, long = (figures.get(f"context-{n}", {}).get(FULL) for n in (128, 4000))
    if short is None or long is None:
        return None
    explained = (4000 - 128) * facts.kv_bytes / facts.limits["read"]
    return explained / max(1 / long - 1 / short, 1e-9)


def _prefix(figures: Figures, _: Facts) -> float | None:
    found = figures.get("prefix-1000", {})
    return found[VLLM] / found[FULL] if FULL in found and VLLM in found else None


GOALS = (
    Goal("full precision, 1 stream: of the memory limit", 0.8, _of_memory_limit),
    Goal("full precision, 1 stream: × llama.cpp, CTranslate2", 1.3, _over("decode-1", FULL, LLAMA, CT2)),
    Goal("full precision, 8 streams: × OpenVINO", 1.3, _over("decode-8", FULL, OPENVINO)),
    Goal("full precision, 64 streams: × OpenVINO", 1.15, _over("decode-64", FULL, OPENVINO)),
    Goal("8-bit, 1 stream: × llama.cpp Q8_0", 1.3, _over("decode-1", INT8, LLAMA8)),
    *(
        Goal(
            f"8-bit, {n} streams: × the best peer",
            1.3,
            _over(f"decode-{n}", INT8, LLAMA8, OPENVINO8, CT2_8),
        )
        for n in (32, 64)
    ),
    Goal("4-bit, 1 stream: × llama.cpp Q4_0", 1.2, _over("decode-1", INT4, LLAMA4)),
    Goal("prefill of 1,024 tokens: × OpenVINO", 1.1, _over("prefill-1024", FULL, OPENVINO)),
    Goal("cold process to first token, seconds", 1.2, _cold, at_most=True),
    Goal("cold process to first token: × OpenVINO", 0.6, _over("cold", FULL, OPENVINO), at_most=True),
    Goal("context of 4,000 against 128: of the read limit", 0.7, _context),
    Goal("shared prefix: × vLLM without its prefix cache", 8, _prefix),
)  # fmt: skip
