"""A small model in the shape of gpt-oss: a chat template with harmony's messages, and parrots with it."""

from __future__ import annotations

from pathlib import Path

from tests.parrots import Lesson, make_parrot

MARKERS = (
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
    "<|endoftext|>",
)
NEXT = "<|end|><|start|>assistant"

# The rules of gpt-oss's own: one call a message, named results, thoughts of calls until an answer comes.
TEMPLATE = """\
{{- "<|start|>system<|message|>You are a model.\\nReasoning: " + (reasoning_effort or "medium") }}
{{- "\\n# Valid channels: analysis, commentary, final.<|end|>" }}
{%- set turns = messages %}
{%- set instructions = "" %}
{%- if messages[0].role == "system" %}
    {%- set instructions = messages[0].content %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- if instructions or tools %}
    {{- "<|start|>developer<|message|>" }}
    {%- if instructions %}{{- "# Instructions\\n\\n" + instructions + "\\n\\n" }}{%- endif %}
    {%- if tools %}
        {{- "# Tools\\n\\nnamespace functions {\\n" }}
        {%- for tool in tools %}
            {{- "// " + tool.function.description + "\\ntype " + tool.function.name + " = (_: {" }}
            {%- for name, schema in tool.function.parameters.properties.items() %}
                {{- name + ": " + schema.type + "," }}
            {%- endfor %}
            {{- "}) => any;\\n" }}
        {%- endfor %}
        {{- "}" }}
    {%- endif %}
    {{- "<|end|>" }}
{%- endif %}
{%- set last = namespace(name=none) %}
{%- for message in turns %}
    {%- if message.role == "assistant" %}
        {%- if "<|channel|>" in message.content %}
            {{- raise_exception("Put thoughts into `thinking`.") }}
        {%- endif %}
        {%- if "tool_calls" in message %}
            {%- set ahead = namespace(answered=false) %}
            {%- for later in turns[loop.index:] %}
                {%- if later.role == "assistant" and "tool_calls" not in later %}
                    {%- set ahead.answered = true %}
                {%- endif %}
            {%- endfor %}
            {%- if message.content and message.thinking %}
                {{- raise_exception("Give a call a text or a thought.") }}
            {%- endif %}
            {%- set thought = message.content or message.thinking %}
            {%- if thought and not ahead.answered %}
                {{- "<|start|>assistant<|channel|>analysis<|message|>" + thought + "<|end|>" }}
            {%- endif %}
            {%- set call = message.tool_calls[0].function %}
            {{- "<|start|>assistant to=functions." + call.name + "<|channel|>commentary json" }}
            {{- "<|message|>" + call.arguments | tojson + "<|call|>" }}
            {%- set last.name = call.name %}
        {%- elif loop.last and not add_generation_prompt %}
            {%- if message.thinking %}
                {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}
            {%- endif %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|return|>" }}
        {%- else %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
        {%- endif %}
    {%- elif message.role == "tool" %}
        {{- "<|start|>functions." + last.name + " to=assistant<|channel|>commentary<|message|>" }}
        {{- message.content | tojson + "<|end|>" }}
    {%- else %}
        {{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start|>assistant" }}{%- endif %}
"""


def make_gpt_oss(folder: Path, text: str, prompt: str = NEXT) -> Path:
    """Write the folder of a model that answers with `text` where a prompt ends so.

    Its files name `<|return|>` as EOS alone.
    """
    return make_parrot(
        folder,
        [Lesson(prompt, text)],
        chat_template=TEMPLATE,
        special=MARKERS,
        eos=["<|return|>"],
    )
