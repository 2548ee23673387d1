"""ChatGLM, GLM-4 and their kin."""

from __future__ import annotations

from quire.template.format import Format, MediaTokens, token

CHATGLM3 = Format(
    name="chatglm3",
    user=(token("<|user|>"), "\n", "{content}", token("<|assistant|>")),
    assistant=("\n", "{content}"),
    system=(token("<|system|>"), "\n", "{content}"),
    function="{content}",
    observation=(token("<|observation|>"), "\n", "{content}", token("<|assistant|>")),
    prefix=(token("[gMASK]"), token("sop")),
    stop_words=("<|user|>", "<|observation|>"),
    tools="glm4",
    efficient_eos=True,
)

GLM4 = CHATGLM3.derive(
    "glm4",
    user="<|user|>\n{content}<|assistant|>",
    assistant="\n{content}",
    system="<|system|>\n{content}",
    observation="<|observation|>\n{content}<|assistant|>",
    result_join="<|observation|>\n",
    prefix="[gMASK]<sop>",
)

GLM4_MOE = GLM4.derive(
    "glm4_moe",
    tools="glm4_moe",
    reasoning=True,
)

GLM4V = GLM4_MOE.derive(
    "glm4v",
    stop_words=("<|user|>", "<|observation|>", "</answer>"),
    tools="glm4",
    media=MediaTokens("GLM4V", image="<|image|>", video="<|video|>"),
)

GLM4_5V = GLM4V.derive("glm4_5v", tools="glm4_moe")

GLM_OCR = GLM4.derive("glm_ocr", media=MediaTokens("GLM4V", image="<|image|>", video="<|video|>"))

GLM4_7 = GLM4_MOE.derive(
    "glm4_7",
    thought_words=("<think>", "</think>"),
    empty_thought="</think>",
)

GLMZ1 = GLM4_MOE.derive("glmz1", tools="glm4")

AEVA = GLM4_7.derive(
    "aeva",
    default_system=(
        "You are an AI assistant named Aeva created by Zongzhi Lou. Your answer should be "
        "friendly, unbiased, faithful, informative and detailed."
    ),
)

FORMATS = (
    CHATGLM3,
    GLM4,
    GLM4_MOE,
    GLM4V,
    GLM4_5V,
    GLM_OCR,
    GLM4_7,
    GLMZ1,
    AEVA,
)
