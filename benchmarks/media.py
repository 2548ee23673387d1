"""Media: the time to the first token of a picture beside vLLM fed directly, decoding, and its pauses.

`first`: one vLLM engine, JPEG files that nobody has seen before, in turns: through ChatModel, or
opened with Pillow and given to AsyncLLM with the prompt's token ids. `decode`: a photograph of 12
megapixels to the pixels of a prompt. `pauses`: how late an event loop is while eight of them are decoded.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import in_turns, paired, report, seconds, table
from benchmarks.models import qwen2_vl_42m

ROUNDS = 24
SIDES = (640, 480)
PHOTOGRAPH = (4000, 3000)
AT_ONCE = 8
QUESTION = [{"role": "user", "content": "<image>What is in this picture?"}]
OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 4, "ignore_eos": True}


def photograph(width: int, height: int, seed: int, form: str = "JPEG") -> bytes:
    """A file with the detail of a photograph: noise over a picture of large soft shapes."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    pixels = np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-12, 13, pixels.shape, np.int16)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, form, quality=90)
    return file.getvalue()


class First:
    """One engine, asked by both ways."""

    def __init__(self) -> None:
        from quire import ChatModel
        from quire.chat.vllm_engine import VllmEngine

        arguments = {
            "model_name_or_path": str(qwen2_vl_42m()),
            "template": "qwen2_vl",
            "infer_backend": "vllm",
            "infer_dtype": "float32",
            "vllm_maxlen": 2048,
            # The same pixels on both sides: no scaling on ours, none is needed on the other.
            "image_max_pixels": SIDES[0] * SIDES[1],
        }
        self.model = ChatModel(arguments)
        engine = self.model.engine
        assert isinstance(engine, VllmEngine)
        self.raw: Any = engine.token_engine._supervisor.current().engine
        self.number = 0
        from quire.request import ChatRequest, MediaLists

        request = self.model._loop.run(
            engine.tokens.preparation.prepare(
                ChatRequest(QUESTION, media=MediaLists([photograph(*SIDES, 0)]), options=OPTIONS)
            )
        )
        self.ids = list(request.prompt.token_ids)

    async def quire(self, file: bytes) -> float:
        began = time.perf_counter()
        async for _ in self.model.astream(QUESTION, images=[file], **OPTIONS):
            return time.perf_counter() - began
        raise RuntimeError("no token came")

    async def vllm(self, file: bytes) -> float:
        from PIL import Image
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        began = time.perf_counter()
        image = Image.open(io.BytesIO(file)).convert("RGB")
        settings = SamplingParams(
            temperature=0.0, max_tokens=4, ignore_eos=True, output_kind=RequestOutputKind.DELTA
        )
        self.number += 1
        prompt = {"prompt_token_ids": self.ids, "multi_modal_data": {"image": image}}
        async for _ in self.raw.generate(prompt, settings, f"raw-{self.number}"):
            return time.perf_counter() - began
        raise RuntimeError("no token came")

    def run(self, side: str, file: bytes) -> float:
        if side == "vllm":  # in the engine's own loop, as a server would run it
            return self.model._loop.run(self.vllm(file))
        return asyncio.run(self.quire(file))


def measure_first() -> None:
    """Pairs of new pictures, the order of the two sides changing from pair to pair."""
    bench = First()
    numbers = itertools.count(1)

    def on(side: str) -> Callable[[], float]:
        return lambda: bench.run(side, photograph(*SIDES, next(numbers)))

    pairs = paired(on("quire"), on("vllm"), ROUNDS, warm_up=3)
    bench.raw = None
    bench.model.close()
    mine, other = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(quire / vllm for quire, vllm in pairs)
    rows = [[f"{SIDES[0]} x {SIDES[1]} JPEG", f"{mine:.1f}", f"{other:.1f}", f"{ratio:.2f}"]]
    header = ["time to first token, ms", "ChatModel", "AsyncLLM and Pillow", "ratio"]
    report("media_first", "A picture's first token", table(header, rows), {"pairs": pairs})


def _loader() -> Any:
    from quire.arguments import ModelArguments
    from quire.media.loading import MediaLoader

    return MediaLoader(ModelArguments(model_name_or_path="none"))


def measure_decode() -> None:
    """Decoding and scaling one photograph, beside Pillow alone doing the same."""
    from PIL import Image

    from quire.messages import Media

    loader, file = _loader(), photograph(*PHOTOGRAPH, 0)

    def ours() -> None:
        asyncio.run(loader.load([Media("image", file)]))

    def pillow() -> None:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        np.asarray(image.resize((886, 665), Image.Resampling.BICUBIC))

    figures = in_turns(
        {"quire": lambda: seconds(ours), "Pillow": lambda: seconds(pillow)}, 9, warm_up=1
    )
    rows = [[name, f"{1000 * took:.0f}"] for name, took in figures.items()]
    title = "A JPEG of 12 megapixels to pixels of a prompt"
    report("media_decode", title, table(["", "ms"], rows), figures)
    loader.close()


def measure_pauses() -> None:
    """The latest that a loop's timer of one millisecond came, beyond that millisecond."""
    rows: list[list[object]] = []
    figures: dict[str, list[float]] = {}
    for form in ("JPEG", "PNG"):
        file = photograph(*PHOTOGRAPH, 0, form)
        worst = [1000 * asyncio.run(_worst_pause(file)) for _ in range(7)]
        figures[form] = worst
        rows.append([form, f"{statistics.median(worst):.1f}", f"{max(worst):.1f}"])
    header = [f"{AT_ONCE} decoded at once", "worst pause, ms, median of 7 runs", "of all"]
    report("media_pauses", "Pauses of the event loop", table(header, rows), figures)


async def _worst_pause(file: bytes) -> float:
    from quire.messages import Media

    loader = _loader()
    await loader.load([Media("image", photograph(64, 64, 0))])  # the libraries are imported
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - began - 0.001)

    ticking = asyncio.create_task(tick())
    await loader.load([Media("image", file)] * AT_ONCE)
    ticking.cancel()
    loader.close()
    return worst


def main(names: list[str]) -> None:
    parts: dict[str, Callable[[], None]] = {
        "decode": measure_decode,
        "pauses": measure_pauses,
        "first": measure_first,
    }
    for name in names or parts:
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
