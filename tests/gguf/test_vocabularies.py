"""Tokenizers of real GGUF files, held to llama.cpp's ids.

The vocabularies of llama.cpp are third parties', so they are read from its sources where these are at hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.errors import UnsupportedModelError
from quire.gguf.reader import GgufFile
from quire.gguf.tokenizer import GgufTokenizer, read_tokenizer
from tests.gguf.llama_cpp import LLAMA_CPP, llama_cpp
from tests.gguf.real_files import gemma3, smollm2
from tests.gguf.tokenizer_files import load

# ---- llama.cpp's vocabularies

SEPARATOR = "\n__ggml_vocab_test__\n"
REFUSED = ("bert-bge", "nomic-bert-moe")
DIFFERENT: dict[str, set[str]] = {
    # Recorded with llama.cpp, which has no normal forms. Qwen 3.5's tokenizer.json begins with NFC.
    "qwen35": {"e\u0301", "re\u0301sume\u0301", "a\u0300" * 200},
}
"""Texts whose recorded ids are not those of the model's own tokenizer, by set."""
SETS = (
    *("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe"),
    *("llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
)
WITHOUT_TEXTS = ("aquila", "baichuan", "gpt-neox")


def vocabulary(name: str) -> Path:
    folder = llama_cpp()
    if folder is None:
        pytest.skip(f"{LLAMA_CPP} names no folder with the sources of llama.cpp")
    path = folder / "models" / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the sources of llama.cpp")
    return path


def read(path: Path) -> GgufTokenizer:
    return read_tokenizer(GgufFile(path).metadata, path.name)


@pytest.mark.parametrize("name", SETS)
def test_recorded_ids(tmp_path: Path, name: str) -> None:
    path = vocabulary(name)
    tokenizer = load(tmp_path, read(path))
    with open(f"{path}.inp", encoding="utf-8", newline="") as file:
        inputs = file.read().split(SEPARATOR)
    outputs = Path(f"{path}.out").read_text().split("\n")
    assert len(inputs) >= 46
    different = {
        text
        for text, ids in zip(inputs, outputs, strict=False)
        if tokenizer.encode(text) != [int(number) for number in ids.split()]
    }
    assert different == DIFFERENT.get(name, set())


@pytest.mark.parametrize("name", [*SETS, *WITHOUT_TEXTS])
def test_every_text_comes_back(tmp_path: Path, name: str) -> None:
    tokenizer = load(tmp_path, read(vocabulary(name)))
    for text in ("Hello,  world!\n", "a é 你好 🦆 ½", "def f(x):\n\treturn x  # 12345"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", REFUSED)
def test_sets_that_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.ggml\.model is"):
        read(vocabulary(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gemma-4", ["<eos>", "<|tool_response>", "<turn|>"]),
        ("llama-bpe", ["<|end_of_text|>", "<|eot_id|>"]),
        ("phi-3", ["<|endoftext|>", "<|end|>"]),  # `</s>` is user-defined: no end for transformers
        ("qwen2", ["<|endoftext|>", "<|im_end|>"]),  # `</s>` is plain: llama.cpp ends there
        ("deepseek-llm", ["<｜end▁of▁sentence｜>"]),
    ],
)
def test_ends_of_sets(tmp_path: Path, name: str, expected: list[str]) -> None:
    made = read(vocabulary(name))
    tokenizer = load(tmp_path, made)
    assert [tokenizer.id_to_token(number) for number in made.end_ids] == expected


@pytest.mark.parametrize("name", ["llama-spm", "gemma-4", "llama-bpe", "qwen2"])
def test_a_users_text_has_no_control_tokens(tmp_path: Path, name: str) -> None:
    """The guard works on these tokenizers: all their control tokens at once stay text."""
    tokenizer = load(tmp_path, read(vocabulary(name)))
    said = "".join(sorted(tokenizer.special_texts)[:300])
    ids = tokenizer.encode_literal(f"a {said} b")
    assert not tokenizer.special_ids.intersection(ids)
    assert tokenizer.decode(ids) == f"a {said} b"


# ---- real models, with the ids of llama.cpp 0.3.36 (its Python binding), special tokens parsed and added

TEXTS = (
    "Hello,  world!\n",
    "a  b and    c",
    "I'LL say 12345 x's\t\r\n\n\n  end",
    "é e\u0301 你好世界 🦆🦆 नमस्ते ½²",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<start_of_turn>user\nHi<end_of_turn>\n",
    "\n\n\n<table><b>x</b></s>",
    "def f(x):\n        return x  # ok",
)
IDS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": [
        [19556, 28, 216, 905, 17, 198],
        [81, 216, 278, 284, 333, 265],
        [57, 23, 16421, 1643, 216, 33, 34, 35, 36, 37, 1792, 506, 197, 201, 1116, 3805, 1112],
        [
            2756,
            297,
            151,
            219,
            216,
            18645,
            250,
            48392,
            138,
            7906,
            240,
            178,
            239,
            230,
            15107,
            116,
            224,
            10813,
            116,
            224,
            12335,
            118,
            35090,
            38770,
            16525,
            26293,
            30581,
            216,
            16738,
            19133,
        ],
        [1, 4093, 198, 26843, 2, 198],
        [
            44,
            3738,
            79,
            1714,
            79,
            20589,
            46,
            4093,
            198,
            26843,
            44,
            486,
            79,
            1714,
            79,
            20589,
            46,
            198,
        ],
        [1116, 198, 44, 6413, 21198, 82, 46, 104, 9617, 82, 29299, 99, 46],
        [1604, 275, 24, 104, 727, 448, 1003, 1792, 216, 907, 10907],
    ],
    "gemma-3-270m-q4_k_m.gguf": [
        [2, 9259, 236764, 138, 12392, 236888, 107],
        [2, 236746, 138, 236763, 532, 140, 236755],
        [
            2,
            236777,
            236789,
            2182,
            1879,
            236743,
            236770,
            236778,
            236800,
            236812,
            236810,
            1123,
            236789,
            236751,
            255968,
            251,
            109,
            138,
            643,
        ],
        [
            2,
            236859,
            545,
            238288,
            43758,
            237389,
            12811,
            236743,
            249494,
            249494,
            173040,
            47041,
            238131,
        ],
        [
            2,
            236820,
            236909,
            548,
            236779,
            3041,
            111038,
            2364,
            107,
            10979,
            236820,
            236909,
            548,
            236779,
            643,
            111038,
            107,
        ],
        [2, 105, 2364, 107, 10979, 106, 107],
        [2, 109, 168, 200, 236781, 209, 212],
        [2, 2063, 517, 236769, 236781, 1473, 107, 144, 2060, 1123, 138, 236865, 7546],
    ],
}


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", ["<|im_end|>", "<|endoftext|>", "<reponame>"]),
        (
            "gemma-3-270m-q4_k_m.gguf",
            ["<eos>", "<end_of_turn>"],
        ),  # of which the file names the first
    ],
)
def test_real_models(tmp_path: Path, name: str, ends: list[str]) -> None:
    made = read(smollm2() if name.startswith("Smol") else gemma3(tmp_path))
    tokenizer = load(tmp_path, made)
    assert [tokenizer.encode_whole(text) for text in TEXTS] == IDS[name]
    assert [tokenizer.id_to_token(number) for number in made.end_ids] == ends
    assert made.notes == ()
    for text in TEXTS:
        if text[0] != "<":
            assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
