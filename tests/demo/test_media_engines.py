"""The media models from real files: NativeEngine's greedy tokens are those of transformers.

The folders are loaded as they are, by transformers' Auto classes and by ChatModel.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from fractions import Fraction
from random import Random
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from quire import ChatModel
from quire.demo import demo_hear_path, demo_see_path
from tools.demo_models.pictures import (
    DIRECTIONS,
    Pixels,
    draw,
    draw_clip,
    random_clip,
    random_drawing,
)
from tools.demo_models.seeing import counted, sentence
from tools.demo_models.sounds import RATE, play, random_beeps

# So many frames a second are kept of a clip (`video_fps`): of these clips, all.
FPS = 2


def png(picture: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def gif(film: Pixels) -> bytes:
    file = io.BytesIO()
    first, *others = (Image.fromarray(frame).quantize(64) for frame in film)
    first.save(file, "GIF", save_all=True, append_images=others, duration=1000 // FPS, loop=0)
    return file.getvalue()


def mp4(film: Pixels) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width = film.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.time_base = Fraction(1, FPS)
        for frame in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def wav(samples: np.ndarray, rate: int = RATE, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(channels)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes((samples.repeat(channels) * 32767).astype("<i2").tobytes())
    return file.getvalue()


# --- the other way to read these files ----------------------------------------------------------


def read_png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def read_gif(data: bytes) -> np.ndarray:
    frames = ImageSequence.Iterator(Image.open(io.BytesIO(data)))
    return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])


def read_mp4(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_wav(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as source:
        samples = np.frombuffer(source.readframes(source.getnframes()), "<i2")
    return samples.astype(np.float32) / 32768


class Oracle:
    """Greedy generation by transformers, from the model's folder as it is."""

    def __init__(self, folder: Any, network: Any) -> None:
        self._processor = AutoProcessor.from_pretrained(folder)
        self._network = network.from_pretrained(folder, dtype=torch.float32).eval()

    def tokens(self, kinds: list[str], question: str, **media: Any) -> list[int]:
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if "audio" in media:
            media["sampling_rate"] = RATE
        inputs = self._processor(text=[text], **media, return_tensors="pt")
        with torch.inference_mode():
            made = self._network.generate(**inputs, max_new_tokens=40, do_sample=False)
        return made[0, inputs["input_ids"].shape[1] :].tolist()


def chat_model(name: str) -> ChatModel:
    return ChatModel(
        {
            "model_name_or_path": name,
            "vllm_maxlen": 1024,
            "native_num_threads": 1,
            "video_fps": FPS,
        }
    )


@pytest.fixture(scope="module")
def seeing() -> Iterator[ChatModel]:
    with chat_model("demo-see") as model:
        yield model


@pytest.fixture(scope="module")
def hearing() -> Iterator[ChatModel]:
    with chat_model("demo-hear") as model:
        yield model


@pytest.fixture(scope="module")
def sight() -> Oracle:
    return Oracle(demo_see_path(), AutoModelForImageTextToText)


def said(model: ChatModel, question: str, **media: Any) -> tuple[list[int], str]:
    """The greedy answer: its tokens (the last ends it) and its text."""
    messages = [{"role": "user", "content": question}]
    deltas = list(model.stream(messages, do_sample=False, max_new_tokens=40, **media))
    tokens = [token for delta in deltas for token in delta.token_ids]
    return tokens, "".join(delta.text for delta in deltas)


def same(found: list[int], wanted: list[int]) -> bool:
    """Whether they are the same answer; an engine may keep the token that ends it to itself."""
    return len(found) >= len(wanted) - 1 > 3 and found == wanted[: len(found)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_picture_file_is_counted(seeing: ChatModel, sight: Oracle, count: int) -> None:
    data = png(draw(random_drawing(Random(f"count {count}"), 200, 260, count)))
    question = "How many shapes are there?"
    tokens, text = said(seeing, question, images=[data])
    assert same(tokens, sight.tokens(["image"], question, images=[read_png(data)]))
    assert text.strip() == counted(count)


def test_four_picture_files_are_named(seeing: ChatModel, sight: Oracle) -> None:
    drawings = [random_drawing(Random(f"four {n}"), 150, 120, 1) for n in range(4)]
    files = [png(draw(drawing)) for drawing in drawings]
    question = "What is in each picture?"
    tokens, text = said(seeing, question, images=files)
    wanted = sight.tokens(["image"] * 4, question, images=[read_png(data) for data in files])
    assert same(tokens, wanted)
    assert text.strip() == sentence(", ".join(each.shapes[0].words for each in drawings))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("write", "read"), [(gif, read_gif), (mp4, read_mp4)])
def test_a_clip_file_moves(
    seeing: ChatModel, sight: Oracle, direction: str, write: Any, read: Any
) -> None:
    film = draw_clip(random_clip(Random(f"clip {direction}"), 96, 128, 6, direction))
    data = write(film)
    question = "Which way does the shape move?"
    tokens, text = said(seeing, question, videos=[data])
    frames = read(data)
    assert len(frames) == 6
    assert same(tokens, sight.tokens(["video"], question, videos=[frames]))
    assert text.strip() == f"It moves {direction}."


def test_a_sound_file_is_heard(hearing: ChatModel) -> None:
    oracle = Oracle(demo_hear_path(), AutoModelForMultimodalLM)
    for count, pitch in ((1, "low"), (2, "high"), (3, "middle"), (4, "low")):
        data = wav(play(random_beeps(Random(f"sound {count}"), 2.3, count, pitch)))
        for question, answer in (
            ("How many beeps do you hear?", f"There {'is' if count == 1 else 'are'} {count} beep"),
            ("Is the tone low, middle or high?", f"The tone is {pitch}."),
        ):
            tokens, text = said(hearing, question, audios=[data])
            assert same(tokens, oracle.tokens(["audio"], question, audio=[read_wav(data)]))
            assert text.startswith(answer)


def test_a_sound_of_another_rate_is_heard(hearing: ChatModel) -> None:
    sound = play(random_beeps(Random(8), 2.0, 3, "middle"))
    # Linear, which is near enough for tones far below the rate.
    spots = np.arange(round(2.0 * 44_100)) * RATE / 44_100
    data = wav(np.interp(spots, np.arange(len(sound)), sound), rate=44_100, channels=2)
    assert said(hearing, "Count the beeps.", audios=[data])[1].strip() == "There are 3 beeps."
