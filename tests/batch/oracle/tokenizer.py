"""The tokenizer of the recorded renderings: the demo model's, with control tokens of many formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

DEMO = Path(__file__).parents[3] / "src" / "quire" / "demo" / "models" / "chat"
CONTROLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<s>",
    "</s>",
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|im_sep|>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
)


def make_folder(folder: Path) -> Path:
    """Write the tokenizer's files; the model's own configuration goes with them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(DEMO / name, folder / name)
    content = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((DEMO / "tokenizer_config.json").read_text(encoding="utf-8"))
    last = max(token["id"] for token in content["added_tokens"])
    for number, text in enumerate(CONTROLS, last + 1):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        content["added_tokens"].append({"id": number, "content": text, **flags, "special": True})
        config["added_tokens_decoder"][str(number)] = {"content": text, **flags, "special": True}
    config["bos_token"] = "<s>"
    config["chat_template"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
