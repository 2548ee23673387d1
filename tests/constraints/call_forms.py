"""The forms of calls of several families, written by hand."""

from __future__ import annotations

from quire.tools.call_form import (
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)

NAME, ARGUMENTS, ID, INDEX = Slot.NAME, Slot.ARGUMENTS, Slot.ID, Slot.INDEX

FORMS: dict[str, CallForm] = {
    "hermes": CallForm(
        ('{"name": "', NAME, '", "arguments": ', ARGUMENTS, "}"),
        JsonArguments(),
        open="<tool_call>\n",
        close="\n</tool_call>",
        between="\n",
    ),
    "llama3": CallForm(('{"name": "', NAME, '", "parameters": ', ARGUMENTS, "}"), JsonArguments(), most=1),
    "mistral_list": CallForm(
        ('{"name": "', NAME, '", "arguments": ', ARGUMENTS, ', "id": "', ID, '"}'),
        JsonArguments(),
        begin="[TOOL_CALLS][",
        between=", ",
        end="]",
    ),
    "text_arguments": CallForm(
        ('{"name": "', NAME, '", "arguments": ', ARGUMENTS, "}"),
        JsonArguments(as_text=True),
        begin="<tool_calls>[",
        between=", ",
        end="]</tool_calls>",
    ),
    "indented": CallForm(
        ('{\n        "name": "', NAME, '",\n        "arguments": ', ARGUMENTS, "\n    }"),
        JsonArguments(comma=",\n            "),
        begin="<|tool_call|>[",
        open="\n    ",
        between=",",
        end="\n]",
    ),
    "mistral": CallForm((NAME, "[ARGS]", ARGUMENTS), JsonArguments(), open="[TOOL_CALLS]"),
    "deepseek_v3": CallForm(
        ("function<｜tool▁sep｜>", NAME, "\n```json\n", ARGUMENTS, "\n```"),
        JsonArguments(),
        begin="<｜tool▁calls▁begin｜>",
        open="<｜tool▁call▁begin｜>",
        close="<｜tool▁call▁end｜>",
        between="\n",
        end="<｜tool▁calls▁end｜>",
    ),
    "kimi_k2": CallForm(
        (ID, "<|tool_call_argument_begin|>", ARGUMENTS),
        JsonArguments(),
        begin="<|tool_calls_section_begin|>",
        open="<|tool_call_begin|>",
        close="<|tool_call_end|>",
        end="<|tool_calls_section_end|>",
    ),
    "kimi_k2_split": CallForm(
        ("functions.", NAME, ":", INDEX, "<|tool_call_argument_begin|>", ARGUMENTS),
        JsonArguments(),
        begin="<|tool_calls_section_begin|>",
        open="<|tool_call_begin|>",
        close="<|tool_call_end|>",
        end="<|tool_calls_section_end|>",
    ),
    "qwen3_coder": CallForm(
        ("<function=", NAME, ">\n", ARGUMENTS, "\n</function>"),
        TagArguments("<parameter=", ">\n", "\n</parameter>", "\n"),
        open="<tool_call>\n",
        close="\n</tool_call>",
        between="\n",
    ),
    "glm4": CallForm(
        (NAME, "\n", ARGUMENTS),
        TagArguments("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>", "\n"),
        open="<tool_call>",
        close="\n</tool_call>",
        between="\n",
    ),
    "deepseek_v32": CallForm(
        ('<invoke name="', NAME, '">\n', ARGUMENTS, "\n</invoke>"),
        TagArguments(
            '<parameter name="',
            '" string="false">',
            "</parameter>",
            "\n",
            string_middle='" string="true">',
        ),
        begin="<function_calls>\n",
        between="\n",
        end="\n</function_calls>",
    ),
    "named_twice": CallForm(
        (" to=", NAME, '<|message|>{"call": "', NAME, '", "with": ', ARGUMENTS, "}"), JsonArguments()
    ),
    "pythonic": CallForm(
        (NAME, "(", ARGUMENTS, ")"), PythonArguments(), begin="[", between=", ", end="]"
    ),
    "pythonic_quotes": CallForm(
        (NAME, "(", ARGUMENTS, ")"), PythonArguments(quote="'"), begin="[", between=", ", end="]"
    ),
    "gemma4": CallForm(
        ("call:", NAME, ARGUMENTS),
        BraceArguments('<|"|>'),
        open="<|tool_call>",
        close="<tool_call|>",
    ),
}  # fmt: skip
