"""The tool formats by name, and the one that a model's own chat template speaks."""

from __future__ import annotations

from quire.errors import ConfigError, nearest, sentence
from quire.tools.base import ToolFormat
from quire.tools.call_form import CallForm, JsonArguments, Slot
from quire.tools.default import DefaultFormat
from quire.tools.gemma4 import Gemma4Format
from quire.tools.glm4 import GLM4Format
from quire.tools.glm4_moe import GLM4MoeFormat
from quire.tools.learned import LearnedFormat
from quire.tools.lfm2 import LFM2Format
from quire.tools.ling import LingFormat
from quire.tools.llama3 import Llama3Format
from quire.tools.minimax1 import MiniMax1Format
from quire.tools.minimax2 import MiniMax2Format
from quire.tools.mistral import MistralFormat
from quire.tools.phi4_mini import Phi4MiniFormat
from quire.tools.qwen import QwenFormat
from quire.tools.qwen3_5 import Qwen35Format
from quire.tools.seed_oss import SeedFormat

_FORMATS: dict[str, ToolFormat] = {
    form.name: form
    for form in (
        DefaultFormat(),
        Gemma4Format(),
        GLM4Format(),
        GLM4MoeFormat(),
        LFM2Format(),
        LingFormat(),
        Llama3Format(),
        MiniMax1Format(),
        MiniMax2Format(),
        MistralFormat(),
        Phi4MiniFormat(),
        QwenFormat(),
        Qwen35Format(),
        SeedFormat(),
    )
}

_KIMI = CallForm(
    call=(
        "functions.",
        Slot.NAME,
        ":",
        Slot.INDEX,
        "<|tool_call_argument_begin|>",
        Slot.ARGUMENTS,
    ),
    arguments=JsonArguments(comma=",", colon=":"),
    begin="<|tool_calls_section_begin|>",
    open="<|tool_call_begin|>",
    close="<|tool_call_end|>",
    end="<|tool_calls_section_end|>",
    markers=(
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ),
)
_GRANITE = CallForm(
    call=('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}"),
    arguments=JsonArguments(),
    begin="<|tool_call|>[",
    between=", ",
    end="]",
    markers=("<|tool_call|>",),
)
_UNWRITTEN = (("<|tool_call_begin|>", _KIMI), ("<|tool_call|>", _GRANITE))
"""Forms of models whose chat templates tell of calls, or show their results, but write none that
could be learned from: what such a template contains, and the form."""

# What a chat template of each format contains, the most specific first.
_SIGNS: tuple[tuple[str, str], ...] = (
    ("<minimax:tool_call>", "minimax2"),
    ("<seed:tool_call>", "seed_oss"),
    ("<|tool_call_start|>", "lfm2"),
    ("<|tool_call>call:", "gemma4"),
    ("<arg_key>", "glm4_moe"),
    ("<function=", "qwen3_5"),
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_calls>", "minimax1"),
    ("<tool_call>", "qwen"),
    ("<|python_tag|>", "llama3"),
    ('{"name": function name, "parameters":', "llama3"),
    ("Action Input:", "default"),
    ("请使用 Json 格式表示调用的参数", "glm4"),
)


def get_tool_format(name: str) -> ToolFormat:
    """The format of this name, as LLaMA-Factory's `tool_format` argument names it.

    Raises:
        ConfigError: no format has this name.
    """
    if name not in _FORMATS:
        known = ", ".join(tool_format_names())
        raise ConfigError(
            sentence(f"Unknown tool_format {name!r}{nearest(name, _FORMATS)}")
            + f" Known are {known}."
        )
    return _FORMATS[name]


def tool_format_names() -> tuple[str, ...]:
    """All names that `get_tool_format` knows, sorted."""
    return tuple(sorted(_FORMATS))


def detect_tool_format(chat_template: str) -> ToolFormat | None:
    """The format in which the model with this chat template (Jinja) writes calls.

    It is recognised by the strings that the template writes for calls; None where it has none of
    them.
    """
    for sign, name in _SIGNS:
        if sign in chat_template:
            return _FORMATS[name]
    return next((LearnedFormat(form) for sign, form in _UNWRITTEN if sign in chat_template), None)
