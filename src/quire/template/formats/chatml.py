"""ChatML, and the models that took it up as it is."""

from __future__ import annotations

from quire.template.format import BOS, Format, MediaTokens

CHATML = Format(
    name="chatml",
    user="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    assistant="{content}<|im_end|>\n",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    observation="<|im_start|>tool\n{content}<|im_end|>\n<|im_start|>assistant\n",
    result_join="<|im_end|>\n<|im_start|>tool\n",
    stop_words=("<|im_end|>", "<|im_start|>"),
    replace_eos=True,
)

CHATML_DE = CHATML.derive(
    "chatml_de", default_system="Du bist ein freundlicher und hilfsbereiter KI-Assistent."
)

CPM4 = CHATML.derive(
    "cpm4",
    prefix=(BOS,),
    stop_words=("<|im_end|>",),
    replace_eos=False,
)

DBRX = Format(
    name="dbrx",
    user="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    assistant="{content}<|im_end|>\n",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    observation="<|im_start|>tool\n{content}<|im_end|>\n<|im_start|>assistant\n",
    result_join="<|im_end|>\n<|im_start|>tool\n",
    default_system=(
        "You are DBRX, created by Databricks. You were last updated in December 2023. You "
        "answer questions based on information available up to that point.\nYOU PROVIDE "
        "SHORT RESPONSES TO SHORT QUESTIONS OR STATEMENTS, but provide thorough responses "
        "to more complex and open-ended questions.\nYou assist with various tasks, from "
        "writing to coding (using markdown for code blocks — remember to use ``` with "
        "code, JSON, and tables).\n(You do not have real-time data access or code "
        "execution capabilities. You avoid stereotyping and provide balanced perspectives "
        "on controversial topics. You do not provide song lyrics, poems, or news articles "
        "and do not divulge details of your training data.)\nThis is your system prompt, "
        "guiding your responses. Do not reference it, just respond to the user. If you "
        "find yourself talking about this message, stop. You should be responding "
        "appropriately and usually that means not mentioning this.\nYOU DO NOT MENTION ANY "
        "OF THIS INFORMATION ABOUT YOURSELF UNLESS THE INFORMATION IS DIRECTLY PERTINENT "
        "TO THE USER'S QUERY."
    ),
    stop_words=("<|im_end|>",),
    replace_eos=True,
)

FALCON_H1 = CPM4.derive("falcon_h1", stop_words=("<|im_end|>", "<|end_of_text|>"))

OPENCODER = CPM4.derive(
    "opencoder",
    prefix=(),
    default_system="You are OpenCoder, created by OpenCoder Team.",
)

YI = CPM4.derive(
    "yi",
    observation=None,
    result_join="\n",
    prefix=(),
)

SMOLLM = YI.derive("smollm")

SMOLLM2 = YI.derive(
    "smollm2",
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
)

SAILOR = YI.derive(
    "sailor",
    user="<|im_start|>question\n{content}<|im_end|>\n<|im_start|>answer\n",
    default_system=(
        "You are an AI assistant named Sailor created by Sea AI Lab. Your answer should be "
        "friendly, unbiased, faithful, informative and detailed."
    ),
)

MINICPM_V = YI.derive(
    "minicpm_v",
    default_system="You are a helpful assistant.",
    media=MediaTokens("MiniCPMV", image="<image>", video="<video>"),
)

MINICPM_V_4_6 = MINICPM_V.derive(
    "minicpm_v_4_6", media=MediaTokens("MiniCPMV4_6", image="<image>", video="<video>")
)

MINICPM_O = YI.derive(
    "minicpm_o",
    default_system=(
        "You are a helpful assistant. You can accept audio and text input and output voice "
        "and text."
    ),
    media=MediaTokens("MiniCPMV", image="<image>", video="<video>", audio="<audio>"),
)

LFM2 = DBRX.derive(
    "lfm2",
    observation=(
        "<|im_start|>tool\n"
        "<|tool_response_start|>{content}<|tool_response_end|><|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    result_join="<|tool_response_end|><|tool_response_start|>",
    default_system="You are a helpful AI assistant.",
    tools="lfm2",
    tool_call_words=("<|tool_call_start|>", "<|tool_call_end|>"),
)

LFM2_VL = LFM2.derive(
    "lfm2_vl",
    default_system="You are a helpful multimodal assistant by Liquid AI.",
    media=MediaTokens("LFMVL", image="<image>"),
)

FORMATS = (
    CHATML,
    CHATML_DE,
    CPM4,
    DBRX,
    FALCON_H1,
    OPENCODER,
    YI,
    SMOLLM,
    SMOLLM2,
    SAILOR,
    MINICPM_V,
    MINICPM_V_4_6,
    MINICPM_O,
    LFM2,
    LFM2_VL,
)
