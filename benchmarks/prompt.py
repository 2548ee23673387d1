"""From messages to token ids, beside transformers' `apply_chat_template` with its fast tokenizer.

One process, one tokenizer file, the same conversations, taken in turns. quire reads and checks the
messages, renders with the model's own chat template or a named one, and encodes so that literal
text makes no control tokens; transformers renders and encodes. The ids are compared first.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

from benchmarks.measure import in_turns, report, seconds, table

ROOT = Path(__file__).parents[1]
TURNS = (1, 10, 100)
REPEATS = 41
WORDS_ASKED, WORDS_ANSWERED = 30, 90
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if loop.first and message.role != 'system' %}"
    "{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- if message.role == 'assistant' and message.tool_calls %}"
    "{{- raise_exception('no calls here') }}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def make_tokenizer(text: str) -> Tokenizer:
    """A byte-level BPE tokenizer in the form of Qwen's, trained on the project's own text."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(SPLIT), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=8000, show_progress=False, initial_alphabet=alphabet)
    backend.train_from_iterator([text], trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return backend


def project_text() -> str:
    """The project's documentation and source: what there is to train and to talk of."""
    paths = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("src/quire/**/*.py")])
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def conversation(turns: int, words: list[str]) -> list[dict[str, Any]]:
    """So many questions and answers, and a last question."""
    pick = random.Random(turns)

    def say(role: str, count: int) -> dict[str, Any]:
        return {"role": role, "content": " ".join(pick.choices(words, k=count))}

    messages: list[dict[str, Any]] = []
    for _ in range(turns - 1):
        messages += [say("user", WORDS_ASKED), say("assistant", WORDS_ANSWERED)]
    return [*messages, say("user", WORDS_ASKED)]


def runs(messages: list[dict[str, Any]], text: str) -> dict[str, Callable[[], list[int]]]:
    """The ways to token ids that are compared."""
    from transformers import PreTrainedTokenizerFast

    from quire.messages import read_conversation
    from quire.template.registry import get_template
    from quire.tokenizer import Tokenizer as OurTokenizer

    names = {"eos_token": "<|im_end|>"}
    ours = OurTokenizer(make_tokenizer(text), special_tokens=names, chat_template=TEMPLATE)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(text), chat_template=TEMPLATE, **names
    )
    own, named = get_template(None, ours), get_template("qwen", ours)
    return {
        "transformers": lambda: theirs.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        ),
        "quire, own template": lambda: list(own.encode(read_conversation(messages), ours)),
        "quire, named template": lambda: list(named.encode(read_conversation(messages), ours)),
    }


def main() -> None:
    text = project_text()
    # Control words among the words are text for quire, and control tokens for transformers.
    words = [word for word in text.split() if "<|" not in word]
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    for turns in TURNS:
        made = runs(conversation(turns, words), text)
        results = [run() for run in made.values()]
        assert all(ids == results[0] for ids in results), "the ids differ"
        timed = {name: (lambda run=run: seconds(run)) for name, run in made.items()}
        medians = in_turns(timed, REPEATS, warm_up=3)
        rows.append(
            [turns, len(results[0]), *(f"{1000 * value:.2f}" for value in medians.values())]
        )
        figures[str(turns)] = {"tokens": len(results[0]), "seconds": medians}
    header = ["turns", "tokens", *(f"{name}, ms" for name in made)]
    report("prompt", "Messages to token ids (medians)", table(header, rows), figures)


if __name__ == "__main__":
    main()
