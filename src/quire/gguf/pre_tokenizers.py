r"""How each `tokenizer.ggml.pre` splits a text into the words that byte pairs are merged in.

A GGUF file has only a name for this. What stands here is what the `tokenizer.json` of the models of
that name has, as far as it is known: normaliser, steps, patterns. llama.cpp's own patterns imitate these
with what its expressions can do (it has no `(?i:...)`, and takes `[^a-z]` for `\p{Lu}`), so ids
may differ from its in rare texts; those of transformers are right, as the model was trained with them.

The choices beyond that:
- `default` and a missing name: llama.cpp's own, a likeness of Falcon's, unless the architecture says more.
- `afmoe`: groups of three digits from the right of any script, as llama.cpp counts them.
- `kimi-k2`: the pattern of its `tokenization_kimi.py`.
- NFC comes first where the models of a name have it: GPT-NeoX (olmo, mpt), Qwen, Command R, StableLM 2.
- `whitespace` drops the spaces of a text, so that a model's answer could not be read: refused.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

Step = dict[str, Any]
"""A pre-tokenizer of the tokenizers library, as its JSON has it."""


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of splitting texts."""

    steps: tuple[Step, ...]
    normalizer: Step | None = None
    ignores_merges: bool = False
    """A word that is a token is that token, whatever its merges would make of it."""
    adds_bos: bool = False
    """Whether BOS is put before a text where the file does not say."""
    is_raw: bool = False
    """Tokens are texts as they are, with `▁` for spaces and `<0xXX>` for bytes, not in byte letters."""

    def to_json(self) -> Step | None:
        if not self.steps:
            return None
        return {"type": "Sequence", "pretokenizers": list(self.steps)}


def _split(pattern: str) -> Step:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level(use_regex: bool) -> Step:
    options = {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel", **options}


def _one(pattern: str, **more: Any) -> PreTokenizer:
    """One pattern that splits everything, and then bytes as letters."""
    return PreTokenizer((_split(pattern), _byte_level(use_regex=False)), **more)


def _several(*patterns: str | Step, **more: Any) -> PreTokenizer:
    steps = [_split(one) if isinstance(one, str) else one for one in patterns]
    return PreTokenizer((*steps, _byte_level(use_regex=False)), **more)


_NFC: Final[Step] = {"type": "NFC"}
_DIGITS: Final[Step] = {"type": "Digits", "individual_digits": True}
_NUMBERS: Final[Step] = {"type": "Digits", "individual_digits": False}
_PUNCTUATION: Final[Step] = {"type": "Punctuation", "behavior": "Contiguous"}
SPACES: Final[Step] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHER = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ASCII_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"


def _cased(upper: str, lower: str, suffix: str) -> str:
    """Words as o200k has them: capitals and then small letters, as in `CamelCase`."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{upper}*{lower}+{suffix}|{before}{upper}+{lower}*{suffix}"


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}|{_END}"
_QWEN2 = rf"{_SUFFIX}|{_WORD}|\p{{N}}|{_OTHER}|{_END}"
_QWEN35 = (
    rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_END}"
)
_O200K_END = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}"
_O200K = rf"{_cased(_UPPER, _LOWER, f'{_SUFFIX}?')}|\p{{N}}{{1,3}}|{_O200K_END}"
_TEKKEN = rf"{_cased(_UPPER, _LOWER, '')}|\p{{N}}|{_O200K_END}"
_YOUTU = rf"{_cased(_UPPER, _LOWER, f'{_SUFFIX}?')}|\p{{N}}|{_O200K_END}"
_KIMI = (
    r"[\p{Han}]+|"
    + _cased(f"{_UPPER[:-1]}&&[^\\p{{Han}}]]", f"{_LOWER[:-1]}&&[^\\p{{Han}}]]", f"{_SUFFIX}?")
    + rf"|\p{{N}}{{1,3}}|{_OTHER}|{_END}"
)
_DEEPSEEK_WORDS = rf"{_ASCII_WORD}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_END}"
_DEEPSEEK3 = (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK_WORDS)
_SPARK = rf"{_ASCII_WORD}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+"
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-"
    "\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-"
    "\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-"
    "\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-"
    "\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2"
    "\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)

_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+"
    "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_AFMOE_SCRIPTS = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
    "\u1100-\u11ff]+"
)
_SPACE_RUNS = "|".join(rf"\s{{{2**power}}}(?!\S)" for power in range(9, 1, -1))

_KINDS: Final[tuple[tuple[str, PreTokenizer], ...]] = (
    (
        "default",
        _several(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    ),
    (
        "falcon",  # digits are looked for among the letters of bytes, ² and ¼ of other bytes as well
        PreTokenizer(
            (_PUNCTUATION, _byte_level(use_regex=True), _NUMBERS, _split("[0-9][0-9][0-9]"))
        ),
    ),
    (
        "gpt-2 phi-2 jais gigachat a.x-4.0 mellum exaone4 trillion granite-docling roberta-bpe",
        PreTokenizer((_byte_level(use_regex=True),)),
    ),
    (
        "jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code",
        PreTokenizer((_byte_level(use_regex=True),)),
    ),
    ("olmo mpt modern-bert", PreTokenizer((_byte_level(use_regex=True),), _NFC)),
    (
        "starcoder refact smollm codeshell exaone minerva-7b mellum2",
        PreTokenizer((_DIGITS, _byte_level(use_regex=True))),
    ),
    ("command-r", PreTokenizer((_DIGITS, _byte_level(use_regex=True)), _NFC)),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        _one(_LLAMA3, ignores_merges=True, adds_bos=True),
    ),
    ("dbrx smaug-bpe chatglm-bpe", _one(_LLAMA3)),
    ("glm4 glm5", _one(_LLAMA3, ignores_merges=True)),
    (
        "jais-2",
        _one(
            rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}|\s*[\r\n]+|{_SPACE_RUNS}|\s{{1,2}}(?!\S)|\s{{1}}"
        ),
    ),
    (
        "minicpm5",
        _several(
            r"\p{N}{1,3}", rf"{_SUFFIX}|{_WORD}|\p{{N}}+|{_OTHER}|{_END}", ignores_merges=True
        ),
    ),
    ("qwen2 deepseek-r1-qwen f2llmv2 stablelm2", _one(_QWEN2, normalizer=_NFC)),
    ("kormo megrez hunyuan grok-2 solar-open", _one(_QWEN2)),
    ("qwen35", _one(_QWEN35, normalizer=_NFC)),
    ("laguna", _several(r"[^\n]+|[\n]+", _QWEN2)),
    ("ufakzeka", _one(rf"{_WORD}|\p{{N}}|{_OTHER}|{_END}")),
    (
        "seed-coder",
        _one(rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_END}"),
    ),
    ("bailingmoe bailingmoe2 llada-moe", _one(_BAILING)),
    (
        "exaone-moe",
        _one(
            rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
    ),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", _one(_O200K)),
    ("granite-embed-multi-97m", _one(_O200K, ignores_merges=True)),
    ("tiny_aya cohere2moe", _several(r"\d{1,3}(?=(?:\d{3})*\b)", _O200K)),
    ("tekken", _one(_TEKKEN, ignores_merges=True, adds_bos=True)),
    ("youtu", _several(_YOUTU_SCRIPTS, _YOUTU, ignores_merges=True)),
    ("kimi-k2", _one(_KIMI)),
    (
        "deepseek-llm",
        _several(
            r"[\r\n]",
            rf"\s?[{_LETTERS}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CJK,
            _DIGITS,
        ),
    ),
    ("deepseek-coder", _several(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _DIGITS)),
    ("deepseek-v3 hunyuan-dense hy_v4 joyai-llm", _several(*_DEEPSEEK3)),
    ("spark2_5", _several(*_DEEPSEEK3[:2], _SPARK, r"\p{N}")),
    (
        "afmoe",
        _several(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _AFMOE_SCRIPTS, _DEEPSEEK_WORDS),
    ),
    ("superbpe", _several(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    ("bloom poro-chat gpt3-finnish", _one(_BLOOM)),
    ("viking", _several(_BLOOM, _DIGITS)),
    (
        "chameleon",
        _several(
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            _DIGITS,
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
            adds_bos=True,
        ),
    ),
    (
        "gemma4 granite-embed-multi-311m",
        PreTokenizer((), SPACES, adds_bos=True, is_raw=True),
    ),
    ("sarvam-moe", PreTokenizer((), SPACES, is_raw=True)),
)
PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    name: kind for names, kind in _KINDS for name in names.split()
}
_OF_ARCHITECTURES: Final[Mapping[str, str]] = {
    architecture: name
    for name, architectures in {
        "gpt-2": "gpt2 phi2",
        "olmo": "gptneox olmo olmoe",
        "mpt": "mpt",
        "falcon": "falcon",
        "starcoder": "starcoder starcoder2",
        "refact": "refact",
        "codeshell": "codeshell",
        "bloom": "bloom",
        "command-r": "command-r cohere2",
        "dbrx": "dbrx olmo2",
        "llama4": "llama4",
        "gpt-4o": "gpt-oss",
        "qwen2": "qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe qwen3next",
        "qwen35": "qwen35 qwen35moe",
        "chatglm-bpe": "chatglm",
        "glm4": "glm4 glm4moe",
        "llama-bpe": "smollm3",
        "tekken": "mistral3",
        "exaone": "exaone",
        "exaone4": "exaone4",
        "lfm2": "lfm2 lfm2moe",
        "hunyuan": "hunyuan-moe",
        "hunyuan-dense": "hunyuan-dense",
        "minimax-m2": "minimax-m2",
        "jais": "jais",
    }.items()
    for architecture in architectures.split()
}
"""Architectures whose models all split texts in one way."""


def recognise(architecture: str, tokens: Container[str]) -> str | None:
    """The name that a file without one, or with "default", should have had; None if nothing tells.

    Converters of spring 2024 wrote no name, and Ollama's writes "default" for what it does not know.
    """
    if architecture == "llama" and "<|begin_of_text|>" in tokens and "<|eot_id|>" in tokens:
        return "llama-bpe"
    return _OF_ARCHITECTURES.get(architecture)
