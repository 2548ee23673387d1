"""Record LLaMA-Factory's prompts and labels, token for token. Run by hand, and never in CI.

It needs an environment of its own, with LLaMA-Factory's sources at commit ff6d4d12 on the path:

    python3.11 -m venv ENV
    ENV/bin/pip install torch==2.13.0 datasets==4.0.0 transformers==5.2.0 'accelerate<=1.11' \
        'peft>=0.18,<0.18.2' 'trl<=0.24' fire av sentencepiece omegaconf einops
    PYTHONPATH=LLAMA_FACTORY/src DISABLE_VERSION_CHECK=1 \
        ENV/bin/python tests/batch/oracle/record.py [LLAMA_FACTORY/data]

Without an argument the sets of `data/` are recorded into `renderings.json`, row by row; with
LLaMA-Factory's own data folder its demo sets, of which only a digest of all rows is kept
(`demo_renderings.json`): these sets are not in this repository.
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import tempfile
import types
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
for name in ("torchaudio",):  # imported, and used for sounds alone
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules.setdefault(name, module)

from llamafactory.data import get_template_and_fix_tokenizer, tool_utils  # noqa: E402
from llamafactory.data.loader import _get_dataset_processor, _get_merged_dataset  # noqa: E402
from llamafactory.hparams import DataArguments, ModelArguments  # noqa: E402
from record_digest import DAY, digest, summary  # noqa: E402
from tokenizer import make_folder  # noqa: E402
from transformers import AutoTokenizer, Seq2SeqTrainingArguments  # noqa: E402


class RecordedDay(datetime):
    """The clock of the recordings."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> RecordedDay:
        return cls(DAY.year, DAY.month, DAY.day, tzinfo=tz)


tool_utils.datetime = RecordedDay

TEMPLATES = (
    "default",
    "chatml",
    "qwen",
    "qwen3",
    "llama3",
    "llama2",
    "glm4",
    "mistral",
    "gemma2",
    "phi4",
    "deepseek3",
    "deepseekr1",
)
OWN_SETS = (
    "alpaca",
    "alpaca_plain",
    "alpaca_tools",
    "sharegpt",
    "sharegpt_tags",
    "openai",
    "kto",
)
DEMO_SETS = (
    "identity",
    "alpaca_en_demo",
    "alpaca_zh_demo",
    "glaive_toolcall_en_demo",
    "glaive_toolcall_zh_demo",
    "kto_en_demo",
)


def rows_of(
    name: str, folder: str, template: str, thinking: bool, model: str
) -> list[dict[str, Any] | None]:
    """Each row's prompt and label; None where LLaMA-Factory drops the row, the error where it ends."""
    data = DataArguments(
        dataset=name,
        dataset_dir=folder,
        template=template,
        cutoff_len=1 << 30,
        enable_thinking=thinking,
    )
    training = Seq2SeqTrainingArguments(output_dir=tempfile.mkdtemp(), use_cpu=True)
    arguments = ModelArguments(model_name_or_path=model, cache_dir=tempfile.mkdtemp())
    tokenizer = AutoTokenizer.from_pretrained(model)
    made = get_template_and_fix_tokenizer(tokenizer, data)
    aligned = _get_merged_dataset(data.dataset, arguments, data, training, "ppo")
    processor = _get_dataset_processor(data, "ppo", made, tokenizer, None)
    found: list[dict[str, Any] | None] = []
    for row in aligned:
        try:
            result = processor.preprocess_dataset({key: [value] for key, value in row.items()})
        except Exception as error:
            found.append({"error": type(error).__name__})
            continue
        if not result.get("input_ids"):
            found.append(None)
            continue
        prompt, label = result["input_ids"][0], result["labels"][0]
        found.append(
            {
                "prompt": [len(prompt), digest(prompt), prompt[-6:]],
                "label": [len(label), digest(label), label[:6]],
            }
        )
    return found


def main() -> None:
    demo = sys.argv[1] if len(sys.argv) > 1 else None
    recorded: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = str(make_folder(Path(folder)))
        for name in DEMO_SETS if demo else OWN_SETS:
            for template in TEMPLATES:
                for thinking in (True, False):
                    key = f"{name}/{template}/{'thinking' if thinking else 'plain'}"
                    rows = rows_of(name, demo or str(HERE / "data"), template, thinking, model)
                    recorded[key] = summary(rows) if demo else rows
                    print(key, len(rows), flush=True)
    target = HERE / ("demo_renderings.json" if demo else "renderings.json")
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in recorded.items())
    target.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
