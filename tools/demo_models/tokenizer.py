"""The demo models' tokenizer: byte-level BPE of 2,048 tokens, digits one by one.

Digits stand alone so that sums can be learned column by column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tools.demo_models.corpus import dialogues
from tools.demo_models.exchange import segments
from tools.demo_models.manners import MANNERS, mannered
from tools.demo_models.rewards import pairs

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 2048
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Added, but not special: they are part of what the model says and are shown in its text.
MARKS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
# Words with the space or sign before them, single digits, runs of signs, line breaks, spaces.
SPLIT = (
    r"'(?:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SAMPLE = 30_000

CHAT_TEMPLATE = """\
{%- set turns = messages -%}
{%- set system = '' -%}
{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' + system + '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -}}
    {%- for tool in tools -%}
        {%- if tool.function is defined -%}
            {{- '\\n' + (tool | tojson) -}}
        {%- else -%}
            {{- '\\n' + ({'type': 'function', 'function': tool} | tojson) -}}
        {%- endif -%}
    {%- endfor -%}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' -}}
{%- elif system -%}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for turn in turns -%}
    {%- if turn.role == 'assistant' -%}
        {%- set text = (turn.content or '').split('</think>')[-1].lstrip('\\n') -%}
        {{- '<|im_start|>assistant\\n' + text -}}
        {%- for call in turn.tool_calls or [] -%}
            {%- set call = call.function if call.function is defined else call -%}
            {{- '\\n' if text or not loop.first else '' -}}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
            {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif turn.role == 'tool' -%}
        {{- '\\n' if loop.previtem is defined and loop.previtem.role == 'tool' else '<|im_start|>user\\n' -}}
        {{- '<tool_response>\\n' + turn.content + '\\n</tool_response>' -}}
        {%- if loop.last or loop.nextitem.role != 'tool' -%}
            {{- '<|im_end|>\\n' -}}
        {%- endif -%}
    {%- else -%}
        {{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and not enable_thinking -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""


def train_tokenizer(seed: int, sample: int = SAMPLE) -> Tokenizer:
    """Train the tokenizer on a sample of all that the demo models read and write."""
    from tokenizers import AddedToken

    tokenizer = trained(_texts(seed, sample), VOCABULARY - len(MARKS), CONTROL)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKS])
    return tokenizer


def trained(texts: Iterable[str], size: int, control: Sequence[str]) -> Tokenizer:
    """Train byte-level BPE of `size` tokens, the control tokens among them."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in control]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, template: bool = True) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    more = {"chat_template": CHAT_TEMPLATE} if template else {}
    save_with_settings(tokenizer, folder, CONTROL, MARKS, more)


def save_with_settings(
    tokenizer: Tokenizer,
    folder: Path,
    control: Sequence[str],
    marks: Sequence[str],
    more: Mapping[str, object],
) -> None:
    """Write the files, with `more` settings beside those that all demo models have."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(text)): _added(text, text in control)
            for text in (*control, *marks)
        },
        **more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def _added(text: str, special: bool) -> dict[str, object]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": text, **flags, "special": special}


def _texts(seed: int, sample: int) -> Iterator[str]:
    """Yield text without its control tokens and marks, which are never merged."""
    for dialogue in islice(dialogues(seed), sample):
        yield from _cut(segments(dialogue)[-2].text + segments(dialogue)[-1].text)
    for manner in MANNERS:
        for dialogue in islice(mannered(manner, seed), sample // 10):
            yield from _cut(segments(dialogue)[-1].text)
    for pair in islice(pairs(seed), sample // 20):
        yield from pair


def _cut(text: str) -> list[str]:
    for mark in CONTROL + MARKS:
        text = text.replace(mark, "\0")
    return [part for part in text.split("\0") if part]
