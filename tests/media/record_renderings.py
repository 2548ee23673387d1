"""Records what the models' own processors in transformers make of media: `renderings.json`.

Run it with a Python that has transformers and torchvision (which the tests themselves do not need):

    python -m tests.media.record_renderings

Each family has a small processor of our own making, saved as a folder; the files' JSON is kept beside
the renderings, so that the tests read what transformers wrote. Entries that are not made here stay:
MiniCPM-V's is of the code in its own repository.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

RENDERINGS = Path(__file__).parent / "renderings.json"
SIZES = [(64, 48), (30, 200), (333, 517), (700, 301), (1000, 1000), (90, 91), (1400, 500)]
"""Height and width of the pictures."""
CLIPS = [(4, 60, 90), (7, 120, 50), (2, 301, 333), (3, 40, 40)]
"""Frames, height and width of the clips."""
SOUNDS = [1600, 16000, 40123, 500000]
"""Samples of the sounds, at 16,000 a second."""
FPS = 2.0


def tokenizer(**named: str) -> PreTrainedTokenizerFast:
    """Bytes, and the special tokens named."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {name: text for name, text in named.items() if name.endswith("_token")}
    others = [text for name, text in named.items() if not name.endswith("_token")]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=special,
        additional_special_tokens=others or None,
    )


def shorten(text: str) -> str:
    """`<|image_pad|>` 64 times is `<|image_pad|>{64}`."""
    repeated = re.compile(r"(<[^<>]+>|\[[A-Z_]+\])\1+")
    return repeated.sub(lambda match: f"{match[1]}{{{len(match[0]) // len(match[1])}}}", text)


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.zeros((*size, 3), np.uint8))


def times(frames: int) -> list[float]:
    return [index / FPS for index in range(frames)]


def run(processor: Any, text: str, **media: Any) -> str:
    made = processor(text=[text], **media)
    ids = made["input_ids"][0]
    return shorten(processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def files_of(processor: Any, model: dict[str, Any]) -> dict[str, Any]:
    """The JSON files that describe the processor, as transformers saves them."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = {path.name: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    named = files.get("tokenizer_config.json", {})
    keep = {k: v for k, v in named.items() if k.endswith("_token") or k == "extra_special_tokens"}
    files = {k: v for k, v in files.items() if "tokenizer" not in k and "chat" not in k}
    return files | {"tokenizer_config.json": keep, "config.json": model}


def images(processor: Any, text: str, **options: Any) -> Iterator[dict[str, Any]]:
    for height, width in SIZES:
        try:
            made = run(processor, text, images=[picture((height, width))], **options)
        except ValueError:
            continue
        yield {"image": [height, width], "text": made}


def videos(processor: Any, text: str, **options: Any) -> Iterator[dict[str, Any]]:
    for frames, height, width in CLIPS:
        clip = np.zeros((frames, height, width, 3), np.uint8)
        metadata = {
            "fps": FPS,
            "duration": frames / FPS,
            "total_num_frames": frames,
            "frames_indices": list(range(frames)),
        }
        try:
            made = run(
                processor,
                text,
                videos=[clip],
                video_metadata=[metadata],
                do_sample_frames=False,
                **options,
            )
        except (ValueError, RuntimeError) as error:
            print("left out", type(processor).__name__, frames, height, width, error)
            continue
        yield {"video": [frames, height, width], "text": made}


def sounds(processor: Any, text: str, **options: Any) -> Iterator[dict[str, Any]]:
    for samples in SOUNDS:
        sound = np.zeros(samples, np.float32)
        made = run(processor, text, audio=[sound], sampling_rate=16000, **options)
        yield {"audio": samples, "text": made}


Recorded = dict[str, Any]


def entry(
    family: str,
    processor: Any,
    cases: list[dict[str, Any]],
    model: dict[str, Any],
    tokens: dict[str, str] | None = None,
) -> Recorded:
    return {
        "family": family,
        "tokens": tokens,
        "files": files_of(processor, model),
        "cases": cases,
    }


def qwen2_vl(name: str = "Qwen2VL", **pixels: Any) -> Recorded:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    words = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        a="<|vision_start|>",
        b="<|vision_end|>",
    )
    made = Qwen2VLProcessor(Qwen2VLImageProcessor(**pixels), words, Qwen2VLVideoProcessor(**pixels))
    before, after = "<|vision_start|>", "<|vision_end|>"
    cases = [
        *images(made, f"{before}<|image_pad|>{after}"),
        *videos(made, f"{before}<|video_pad|>{after}"),
    ]
    return entry(name, made, cases, {"model_type": "qwen2_vl"})


def qwen2_vl_small() -> Recorded:
    return qwen2_vl(min_pixels=16 * 28 * 28, max_pixels=100 * 28 * 28)


def qwen3_vl() -> Recorded:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    words = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        a="<|vision_start|>",
        b="<|vision_end|>",
    )
    image = Qwen2VLImageProcessor(
        patch_size=16, size={"shortest_edge": 65536, "longest_edge": 400000}
    )
    made = Qwen3VLProcessor(image, words, Qwen3VLVideoProcessor())
    cases = [
        *images(made, "<|vision_start|><|image_pad|><|vision_end|>"),
        *videos(made, "<|video_pad|>"),  # the model's form: no wrappers around the whole clip
    ]
    return entry("Qwen3VL", made, cases, {"model_type": "qwen3_vl"})


def glm(version: str) -> Recorded:
    import transformers

    words = tokenizer(
        image_token="<|image|>",
        video_token="<|video|>",
        a="<|begin_of_image|>",
        b="<|end_of_image|>",
        c="<|begin_of_video|>",
        d="<|end_of_video|>",
    )
    parts = [
        getattr(transformers, f"{version}{part}") for part in ("ImageProcessor", "VideoProcessor")
    ]
    made = getattr(transformers, f"{version}Processor")(parts[0](), words, parts[1]())
    cases = [
        *images(made, "<|begin_of_image|><|image|><|end_of_image|>"),
        *videos(made, "<|begin_of_video|><|video|><|end_of_video|>"),
    ]
    return entry("GLM4V", made, cases, {"model_type": version.lower()})


def ernie() -> Recorded:
    from transformers import (
        Ernie4_5_VLMoeImageProcessor,
        Ernie4_5_VLMoeProcessor,
        Ernie4_5_VLMoeVideoProcessor,
    )

    words = tokenizer(
        image_token="<|IMAGE_PLACEHOLDER|>",
        image_start_token="<|IMAGE_START|>",
        image_end_token="<|IMAGE_END|>",
        video_token="<|VIDEO_PLACEHOLDER|>",
        video_start_token="<|VIDEO_START|>",
        video_end_token="<|VIDEO_END|>",
    )
    video = Ernie4_5_VLMoeVideoProcessor(draw_on_frames=False)
    made = Ernie4_5_VLMoeProcessor(Ernie4_5_VLMoeImageProcessor(), words, video)
    made.video_processor.font = ""
    cases = [
        *images(made, "Picture 1:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"),
        *videos(
            made, "Video 1:<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>", draw_on_frames=False
        ),
    ]
    return entry("ErnieVL", made, cases, {"model_type": "ernie4_5_vl_moe"})


def llava(strategy: str = "default", **options: Any) -> Recorded:
    from transformers import CLIPImageProcessor, LlavaProcessor

    options = options or {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    made = LlavaProcessor(
        CLIPImageProcessor(**options),
        tokenizer(image_token="<image>"),
        patch_size=14,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
    )
    cases = list(images(made, "<image>"))
    return entry("Llava", made, cases, {"model_type": "llava"})


def llava_next() -> Recorded:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    pins = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    image = LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=pins
    )
    made = LlavaNextProcessor(
        image,
        tokenizer(image_token="<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return entry("LlavaNext", made, list(images(made, "<image>")), {"model_type": "llava_next"})


def llava_next_video() -> Recorded:
    from transformers import (
        LlavaNextImageProcessor,
        LlavaNextVideoProcessor,
        LlavaNextVideoVideoProcessor,
    )

    size: Any = {"size": {"shortest_edge": 84}, "crop_size": {"height": 84, "width": 84}}
    made = LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(**size),
        LlavaNextImageProcessor(**size, image_grid_pinpoints=[[84, 168], [168, 84], [168, 168]]),
        tokenizer(image_token="<image>", video_token="<video>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    cases = [*images(made, "<image>"), *videos(made, "<video>")]
    return entry("LlavaNextVideo", made, cases, {"model_type": "llava_next_video"})


def video_llava() -> Recorded:
    from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    size: Any = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    made = VideoLlavaProcessor(
        VideoLlavaImageProcessor(**size),
        VideoLlavaVideoProcessor(**size),
        tokenizer(image_token="<image>", video_token="<video>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    cases = [*images(made, "<image>"), *videos(made, "<video>")]
    return entry("VideoLlava", made, cases, {"model_type": "video_llava"})


def pixtral(merge: int) -> Recorded:
    from transformers import PixtralImageProcessor, PixtralProcessor

    words = tokenizer(image_token="[IMG]", a="[IMG_BREAK]", b="[IMG_END]")
    image = PixtralImageProcessor(
        size={"longest_edge": 512}, patch_size={"height": 16, "width": 16}
    )
    made = PixtralProcessor(image, words, patch_size=16, spatial_merge_size=merge)
    return entry("Pixtral", made, list(images(made, "[IMG]")), {"model_type": "mistral3"})


def intern_vl() -> Recorded:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    image = GotOcr2ImageProcessor(size={"height": 112, "width": 112}, max_patches=12)
    video = InternVLVideoProcessor(size={"height": 112, "width": 112})
    made = InternVLProcessor(image, words, video, image_seq_length=4)
    cases = [*images(made, "<IMG_CONTEXT>"), *videos(made, "<video>")]
    return entry("InternVL", made, cases, {"model_type": "internvl"})


def lfm2_vl() -> Recorded:
    from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

    rows = {f"r{r}{c}": f"<|img_row_{r}_col_{c}|>" for r in range(1, 11) for c in range(1, 11)}
    words = tokenizer(
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
        **rows,
    )
    made = Lfm2VlProcessor(Lfm2VlImageProcessor(), words)
    return entry("LFMVL", made, list(images(made, "<image>")), {"model_type": "lfm2_vl"})


GEMMA = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}


def gemma3() -> Recorded:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    made = Gemma3Processor(Gemma3ImageProcessor(), tokenizer(**GEMMA), image_seq_length=16)
    return entry("Gemma3", made, list(images(made, "<start_of_image>")), {"model_type": "gemma3"})


def gemma3n() -> Recorded:
    from transformers import Gemma3nAudioFeatureExtractor, Gemma3nProcessor, SiglipImageProcessor

    made = Gemma3nProcessor(
        Gemma3nAudioFeatureExtractor(),
        SiglipImageProcessor(),
        tokenizer(**GEMMA),
        audio_seq_length=12,
        image_seq_length=16,
    )
    cases = [*images(made, "<image_soft_token>"), *sounds(made, "<audio_soft_token>")]
    return entry("Gemma3n", made, cases, {"model_type": "gemma3n"})


def gemma4() -> Recorded:
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    words = tokenizer(
        image_token="<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
        v="<|video|>",
    )
    made = Gemma4Processor(
        Gemma4AudioFeatureExtractor(), Gemma4ImageProcessor(), words, Gemma4VideoProcessor()
    )
    cases = [
        *images(made, "<|image|>"),
        *videos(made, "<|video|>"),
        *sounds(made, "<|audio|>"),
    ]
    return entry("Gemma4", made, cases, {"model_type": "gemma4"})


def paligemma() -> Recorded:
    from transformers import PaliGemmaProcessor, SiglipImageProcessor

    image: Any = SiglipImageProcessor(size={"height": 56, "width": 56})
    image.image_seq_length = 16
    made = PaliGemmaProcessor(image, tokenizer(image_token="<image>"))
    return entry("PaliGemma", made, list(images(made, "<image>a")), {"model_type": "paligemma"})


def llama4() -> Recorded:
    from transformers import Llama4ImageProcessor, Llama4Processor

    names = ("image_start", "image_end", "patch", "tile_x_separator", "tile_y_separator")
    words = tokenizer(image_token="<|image|>", **{name: f"<|{name}|>" for name in names})
    image = Llama4ImageProcessor(size={"height": 112, "width": 112}, max_patches=12)
    made = Llama4Processor(image, words)
    cases = list(images(made, "<|image|>", return_tensors="pt"))
    return entry("Llama4", made, cases, {"model_type": "llama4"})


def qwen2_audio() -> Recorded:
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    words = tokenizer(
        audio_token="<|AUDIO|>", audio_bos_token="<|audio_bos|>", audio_eos_token="<|audio_eos|>"
    )
    made = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=80), words)
    cases = list(sounds(made, "<|audio_bos|><|AUDIO|><|audio_eos|>"))
    return entry("Qwen2Audio", made, cases, {"model_type": "qwen2_audio"})


def omni(third: bool) -> Recorded:
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3OmniMoeProcessor,
        WhisperFeatureExtractor,
    )

    a, b = ("start", "end") if third else ("bos", "eos")
    tokens = {
        kind: f"<|{kind}_pad|>" if third else f"<|{kind.upper()}|>"
        for kind in ("image", "video", "audio")
    }
    words = tokenizer(
        **{f"{kind}_token": token for kind, token in tokens.items()},
        vision_bos_token=f"<|vision_{a}|>",
        vision_eos_token=f"<|vision_{b}|>",
        audio_bos_token=f"<|audio_{a}|>",
        audio_eos_token=f"<|audio_{b}|>",
    )
    cls: Callable[..., Any] = Qwen3OmniMoeProcessor if third else Qwen2_5OmniProcessor
    patch: Any = {"patch_size": 16} if third else {}
    made = cls(
        Qwen2VLImageProcessor(**patch),
        Qwen2VLVideoProcessor(**patch),
        WhisperFeatureExtractor(feature_size=80, chunk_length=300),
        words,
    )
    vision, sound = f"<|vision_{a}|>{{}}<|vision_{b}|>", f"<|audio_{a}|>{{}}<|audio_{b}|>"
    video = vision.format(tokens["video"])
    cases = [
        *images(made, vision.format(tokens["image"])),
        *videos(made, video),
        *sounds(made, sound.format(tokens["audio"])),
    ]
    for frames, height, width in CLIPS:
        clip, heard = (
            np.zeros((frames, height, width, 3), np.uint8),
            np.zeros(int(frames / FPS * 16000)),
        )
        text = run(
            made,
            video,
            videos=[clip],
            audio=[heard.astype(np.float32)],
            fps=FPS,
            use_audio_in_video=True,
            do_sample_frames=False,
        )
        cases.append({"video": [frames, height, width], "heard": len(heard), "text": text})
    model = {"model_type": "qwen3_omni_moe" if third else "qwen2_5_omni"}
    return entry("Qwen2Omni", made, cases, model, tokens)


def minicpm_v_4_6(**options: Any) -> Recorded:
    from transformers import (
        MiniCPMV4_6ImageProcessor,
        MiniCPMV4_6Processor,
        MiniCPMV4_6VideoProcessor,
    )

    words = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        image_start_token="<image>",
        image_end_token="</image>",
        slice_start_token="<slice>",
        slice_end_token="</slice>",
        image_id_start_token="<image_id>",
        image_id_end_token="</image_id>",
    )
    made = MiniCPMV4_6Processor(
        MiniCPMV4_6ImageProcessor(**options), MiniCPMV4_6VideoProcessor(**options), words
    )
    cases = [*images(made, "<|image_pad|>"), *videos(made, "<|video_pad|>")]
    return entry("MiniCPMV4_6", made, cases, {"model_type": "minicpmv4_6"})


def kimi_vl() -> Recorded:
    """Counted by vLLM: the model's processor is no part of transformers."""
    from vllm.model_executor.models.kimi_vl import KimiVLProcessingInfo

    settings = {
        "patch_size": 14,
        "pad_input": True,
        "in_token_limit": 400,
        "merge_kernel_size": [2, 2],
    }
    processor = SimpleNamespace(image_processor=SimpleNamespace(**settings))
    info: Any = SimpleNamespace(get_hf_processor=lambda: processor)
    cases: list[dict[str, Any]] = []
    for height, width in SIZES:
        count = KimiVLProcessingInfo.get_num_image_tokens(
            info, image_width=width, image_height=height
        )
        text = "<|media_start|>image<|media_content|>" + "<|media_pad|>" * count + "<|media_end|>"
        cases.append({"image": [height, width], "text": shorten(text)})
    files = {"preprocessor_config.json": settings, "config.json": {"model_type": "kimi_vl"}}
    return {"family": "KimiVL", "tokens": None, "files": files, "cases": cases}


def minicpm_o(pool: int) -> Recorded:
    """Sounds alone, by vLLM's copy of the model's processor."""
    from vllm.transformers_utils.processors.minicpmo import MiniCPMOProcessor

    processor: Any = SimpleNamespace(
        pool_step=pool,
        feature_extractor=SimpleNamespace(hop_length=160),
        tokenizer=SimpleNamespace(audio_start="<|audio_start|>", audio_end="<|audio_end|>"),
    )
    cases = [
        {
            "audio": samples,
            "text": shorten(MiniCPMOProcessor.get_audio_placeholder(processor, samples, True, 1)),
        }
        for samples in SOUNDS
    ]
    named = {"audio_start": "<|audio_start|>", "audio_end": "<|audio_end|>"}
    model = {"model_type": "minicpmo", "audio_pool_step": pool, "audio_chunk_length": 1.0}
    files = {"config.json": model, "tokenizer_config.json": named}
    tokens = {"image": "<image>", "video": "<video>", "audio": "<audio>"}
    return {"family": "MiniCPMV", "tokens": tokens, "files": files, "cases": cases}


def record() -> dict[str, Recorded]:
    return {
        "qwen2_vl": qwen2_vl(),
        "qwen2_vl-small": qwen2_vl_small(),
        "qwen3_vl": qwen3_vl(),
        "glm4v": glm("Glm4v"),
        "glm46v": glm("Glm46V"),
        "ernie_vl": ernie(),
        "llava": llava(),
        "llava-full": llava("full"),
        "llava_next": llava_next(),
        "llava_next_video": llava_next_video(),
        "video_llava": video_llava(),
        "pixtral": pixtral(1),
        "mistral3": pixtral(2),
        "intern_vl": intern_vl(),
        "lfm2_vl": lfm2_vl(),
        "gemma3": gemma3(),
        "gemma3n": gemma3n(),
        "gemma4": gemma4(),
        "paligemma": paligemma(),
        "llama4": llama4(),
        "qwen2_audio": qwen2_audio(),
        "qwen2_omni": omni(third=False),
        "qwen3_omni": omni(third=True),
        "kimi_vl": kimi_vl(),
        "minicpm_o": minicpm_o(2),
        "minicpm_o-4.5": minicpm_o(5),
        "minicpm_v_4_6": minicpm_v_4_6(),
        "minicpm_v_4_6-4x": minicpm_v_4_6(downsample_mode="4x", scale_resolution=224),
    }


if __name__ == "__main__":
    made = json.loads(RENDERINGS.read_text(encoding="utf-8")) | record()
    text = json.dumps(made, indent=1, ensure_ascii=False)
    RENDERINGS.write_text(text + "\n", encoding="utf-8")
