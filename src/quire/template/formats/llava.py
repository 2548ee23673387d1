"""LLaVA, LLaVA-NeXT and Yi-VL: several text models with an image encoder."""

from __future__ import annotations

from quire.template.format import BOS, EOS, Format, MediaTokens

VICUNA = Format(
    name="vicuna",
    user="USER: {content} ASSISTANT:",
    default_system=(
        "A chat between a curious user and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
)

LLAVA = VICUNA.derive("llava", media=MediaTokens("Llava", image="<image>"))

LLAVA_NEXT = VICUNA.derive("llava_next", media=MediaTokens("LlavaNext", image="<image>"))

LLAVA_NEXT_VIDEO = VICUNA.derive(
    "llava_next_video", media=MediaTokens("LlavaNextVideo", image="<image>", video="<video>")
)

VIDEO_LLAVA = VICUNA.derive(
    "video_llava", media=MediaTokens("VideoLlava", image="<image>", video="<video>")
)

LLAVA_NEXT_LLAMA3 = Format(
    name="llava_next_llama3",
    user=(
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "{content}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    assistant="{content}<|eot_id|>",
    system="<|start_header_id|>system<|end_header_id|>\n\n{content}<|eot_id|>",
    observation=(
        "<|start_header_id|>ipython<|end_header_id|>\n\n"
        "{content}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    result_join="<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n",
    prefix=(BOS,),
    stop_words=("<|eot_id|>", "<|eom_id|>"),
    tools="llama3",
    replace_eos=True,
    media=MediaTokens("LlavaNext", image="<image>"),
)

LLAVA_NEXT_MISTRAL = Format(
    name="llava_next_mistral",
    user="[INST] {content}[/INST]",
    assistant=(" {content}", EOS),
    system="{content}\n\n",
    function=("[TOOL_CALLS] {content}", EOS),
    observation='[TOOL_RESULTS] {"content": {content}}[/TOOL_RESULTS]',
    result_join='}[/TOOL_RESULTS][TOOL_RESULTS] {"content": ',
    prefix=(BOS,),
    system_in_user=True,
    tools="mistral",
    media=MediaTokens("LlavaNext", image="<image>"),
)

LLAVA_NEXT_VIDEO_MISTRAL = LLAVA_NEXT_MISTRAL.derive(
    "llava_next_video_mistral",
    media=MediaTokens("LlavaNextVideo", image="<image>", video="<video>"),
)

LLAVA_NEXT_QWEN = Format(
    name="llava_next_qwen",
    user="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    assistant="{content}<|im_end|>\n",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    observation=(
        "<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    result_join="\n</tool_response>\n<tool_response>\n",
    default_system="You are a helpful assistant.",
    stop_words=("<|im_end|>",),
    tools="qwen",
    replace_eos=True,
    media=MediaTokens("LlavaNext", image="<image>"),
)

LLAVA_NEXT_YI = Format(
    name="llava_next_yi",
    user="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    assistant="{content}<|im_end|>\n",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    stop_words=("<|im_end|>",),
    media=MediaTokens("LlavaNext", image="<image>"),
)

LLAVA_NEXT_VIDEO_YI = LLAVA_NEXT_YI.derive(
    "llava_next_video_yi", media=MediaTokens("LlavaNextVideo", image="<image>", video="<video>")
)

YI_VL = Format(
    name="yi_vl",
    user="### Human: {content}\n### Assistant:",
    assistant="{content}\n",
    default_system=(
        "This is a chat between an inquisitive human and an AI assistant. Assume the role "
        "of the AI assistant. Read all the images carefully, and respond to the human's "
        "questions with informative, helpful, detailed and polite answers. "
        "这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。仔细阅读所有的图像，并对人类的问题做出信息丰富、有帮助、详细的和礼貌的回答。\n\n"
    ),
    stop_words=("###",),
    efficient_eos=True,
    media=MediaTokens("Llava", image="<image>"),
)

FORMATS = (
    VICUNA,
    LLAVA,
    LLAVA_NEXT,
    LLAVA_NEXT_VIDEO,
    VIDEO_LLAVA,
    LLAVA_NEXT_LLAMA3,
    LLAVA_NEXT_MISTRAL,
    LLAVA_NEXT_VIDEO_MISTRAL,
    LLAVA_NEXT_QWEN,
    LLAVA_NEXT_YI,
    LLAVA_NEXT_VIDEO_YI,
    YI_VL,
)
