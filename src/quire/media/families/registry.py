"""Families by name, and the one of a model whose own chat template is used."""

from __future__ import annotations

from pathlib import Path

from quire.media.families.ernie_vl import ErnieVL
from quire.media.families.family import MediaFamily
from quire.media.families.gemma3 import Gemma3
from quire.media.families.gemma3n import Gemma3n
from quire.media.families.gemma4 import Gemma4
from quire.media.families.general import General
from quire.media.families.glm4v import GLM4V
from quire.media.families.intern_vl import InternVL
from quire.media.families.kimi_vl import KimiVL
from quire.media.families.lfm2_vl import LFMVL
from quire.media.families.llama4 import Llama4
from quire.media.families.llava import Llava
from quire.media.families.llava_next import LlavaNext
from quire.media.families.llava_next_video import LlavaNextVideo
from quire.media.families.minicpm_v import MiniCPMV
from quire.media.families.minicpm_v_4_6 import MiniCPMV4_6
from quire.media.families.mllama import Mllama
from quire.media.families.paligemma import PaliGemma
from quire.media.families.pixtral import Pixtral
from quire.media.families.qwen2_audio import Qwen2Audio
from quire.media.families.qwen2_omni import Qwen2Omni
from quire.media.families.qwen2_vl import Qwen2VL
from quire.media.families.qwen3_vl import Qwen3VL
from quire.media.families.settings import MediaSettings
from quire.media.families.video_llava import VideoLlava
from quire.media.families.youtu_vl import YoutuVL
from quire.template.format import MediaTokens
from quire.template.template import Template

_FAMILIES: tuple[type[MediaFamily], ...] = (
    ErnieVL,
    GLM4V,
    Gemma3,
    Gemma3n,
    Gemma4,
    General,
    InternVL,
    KimiVL,
    LFMVL,
    Llama4,
    Llava,
    LlavaNext,
    LlavaNextVideo,
    MiniCPMV,
    MiniCPMV4_6,
    Mllama,
    PaliGemma,
    Pixtral,
    Qwen2Audio,
    Qwen2Omni,
    Qwen2VL,
    Qwen3VL,
    VideoLlava,
    YoutuVL,
)
FAMILIES: dict[str, type[MediaFamily]] = {family.name: family for family in _FAMILIES}

_QWEN3_OMNI = MediaTokens(
    "Qwen2Omni", image="<|image_pad|>", video="<|video_pad|>", audio="<|audio_pad|>"
)
_MINICPM_O = MediaTokens("MiniCPMV", image="<image>", video="<video>", audio="<audio>")
_MODEL_TYPES: dict[str, tuple[str, MediaTokens | None]] = {
    "ernie4_5_moe_vl": ("ErnieVL", None),
    "ernie4_5_vl_moe": ("ErnieVL", None),
    "gemma3": ("Gemma3", None),
    "gemma3n": ("Gemma3n", None),
    "gemma4": ("Gemma4", None),
    "glm46v": ("GLM4V", None),
    "glm4v": ("GLM4V", None),
    "glm4v_moe": ("GLM4V", None),
    "glm_ocr": ("GLM4V", None),
    "internvl": ("InternVL", None),
    "internvl_chat": ("InternVL", None),
    "interns1": ("InternVL", None),
    "kimi_vl": ("KimiVL", None),
    "lfm2_vl": ("LFMVL", None),
    "llama4": ("Llama4", None),
    "llava": ("Llava", None),
    "llava_next": ("LlavaNext", None),
    "llava_next_video": ("LlavaNextVideo", None),
    "minicpmo": ("MiniCPMV", _MINICPM_O),
    "minicpmv": ("MiniCPMV", None),
    "minicpmv4_6": ("MiniCPMV4_6", None),
    "mistral3": ("Pixtral", None),
    "mllama": ("Mllama", None),
    "paligemma": ("PaliGemma", None),
    "qwen2_5_omni": ("Qwen2Omni", None),
    "qwen2_5_vl": ("Qwen2VL", None),
    "qwen2_audio": ("Qwen2Audio", None),
    "qwen2_vl": ("Qwen2VL", None),
    "qwen3_5": ("Qwen3VL", None),
    "qwen3_5_moe": ("Qwen3VL", None),
    "qwen3_omni_moe": ("Qwen2Omni", _QWEN3_OMNI),
    "qwen3_vl": ("Qwen3VL", None),
    "qwen3_vl_moe": ("Qwen3VL", None),
    "video_llava": ("VideoLlava", None),
}


def get_family(
    template: Template, folder: Path | None, *, use_audio_in_video: bool = False
) -> MediaFamily | None:
    """The family that writes media for this template and this model's folder; None takes text alone.

    A named template names its family. For a model's own chat template it is that of the model's type;
    a type that is not known has the general family, where the folder holds a processor.

    Raises:
        ModelNotFoundError: a file of the folder holds no JSON.
    """
    settings = MediaSettings.from_folder(folder) if folder else MediaSettings()
    name, tokens = template.media_family, template.media
    if name == "Base":
        if not template.is_models_own:
            return None
        name, tokens = _of_model(settings)
    if not name:
        return None
    return FAMILIES[name](settings, tokens, use_audio_in_video=use_audio_in_video)


def _of_model(settings: MediaSettings) -> tuple[str, MediaTokens | None]:
    if settings.model_type == "llava" and settings.vision.get("model_type") == "pixtral":
        return "Pixtral", None
    if settings.model_type in _MODEL_TYPES:
        return _MODEL_TYPES[settings.model_type]
    towers = ("vision_config", "audio_config", "vision_tower", "thinker_config")
    has_tower = any(settings.model.get(tower) for tower in towers)
    return ("General" if has_tower and (settings.image or settings.processor) else ""), None
