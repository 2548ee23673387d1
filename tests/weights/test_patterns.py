"""Patterns of module names: the same as peft's regular expressions, and never more than linear work."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from quire.weights import patterns
from quire.weights.patterns import PatternTable

NAMES = [
    f"{prefix}layers.{layer}.{module}"
    for prefix in ("model.", "model.language_model.", "")
    for layer in (0, 1, 10, 21)
    for module in ("self_attn.q_proj", "self_attn.k_proj", "mlp.experts.3.down_proj", "fc1")
]


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "model.layers.1.self_attn.q_proj",
        r"model\.layers\.1\.self_attn\.q_proj",
        "^model.layers.1.self_attn.q_proj",
        "^layers.1.self_attn.q_proj",
        "model.layers.(0|10).self_attn.(q|k)_proj",
        r".*layers\.[0-9]\..*",
        r"layers\.\d+\.mlp.*",
        r"layers\.1\d?\.[^.]+\.\w_proj",
        r"(?:self_attn\.)?[qk]_proj$",
        r"(?P<kind>down|up)_proj",
        r"(a*)*_proj",
        r".{3}\.fc1|q_proj",
        r"layers.\d{2,}.fc1",
        r"layers.\d{1}.fc1",
        r"layers.\d{,1}?.fc1",
        r"{q}_proj",
        r"\bfc\d\b",
        r"\Bfc1",
        r"[^\W_]+_proj",
        r"[]q_-]+proj",
        "",
        "proj",
        ".",
        r"(?!.*mlp).*layers\.1\..*",
        r"((?!fc1)[^.]+\.)*q_proj",
        r".*(?<!k_)(?<!q_)proj",
        r".*(?<=self_attn\.)[qk](?=_)\w+",
        r"(?:(?!layers\.(?:1|10)\.).)*fc1",
        r"model(?=\.(?!language)).*",
    ],
)
def test_as_peft_matches(pattern: str) -> None:
    table = PatternTable({pattern: 1})
    for name in NAMES:
        assert table.get(name, 0) == (get_pattern_key([pattern], name) == pattern), name


_PIECES = st.sampled_from(
    [
        *("a", "b", ".", r"\.", "_", "[ab]", "[^a]", r"\w", "(a|b.)", "(a|)", "(?:ab)", "(b+)"),
        *("^", "$", "(?=a)", "(?!.b)", "(?<=a)", r"(?<!\.)", "(?!(?=a)b|$)"),
    ]
)
_REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])


@st.composite
def _patterns(draw: st.DrawFn) -> str:
    pieces: list[str] = []
    for _ in range(draw(st.integers(0, 5))):
        piece = draw(_PIECES)
        is_assertion = piece in "^$" or piece.startswith(("(?=", "(?!", "(?<"))
        pieces.append(piece if is_assertion else piece + draw(_REPEATS))
    return "".join(pieces)


@settings(deadline=None, max_examples=300)
@given(st.lists(_patterns(), unique=True, max_size=6), st.lists(st.text("ab._", max_size=8)))
def test_the_first_of_many_that_matches(several: list[str], names: list[str]) -> None:
    table = PatternTable({pattern: pattern for pattern in several})
    for name in names:
        wanted = next((p for p in several if re.match(rf"(.*\.)?({p})$", name)), "none")
        assert table.get(name, "none") == wanted


@settings(deadline=None, max_examples=300)
@given(st.lists(_patterns(), unique=True, max_size=6), st.lists(st.text("ab._", max_size=8)))
def test_the_first_of_many_that_begins_a_name(several: list[str], names: list[str]) -> None:
    table = PatternTable({pattern: pattern for pattern in several}, prefixes=True)
    for name in names:
        wanted = next((p for p in several if re.match(p, name)), "none")
        assert table.get(name, "none") == wanted


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "not closed"),
        (")", "not opened"),
        ("[a", "too early"),
        ("a\\", "too early"),
        ("*a", "nothing"),
        ("a**", "repeated"),
        ("a*+", "possessive"),
        ("^*", "assertion"),
        ("[b-a]", "range"),
        ("a{3,2}", "wrong way round"),
        ("(?!a)*b", "repeated"),
        ("(?>a)b", "flags"),
        ("(?i)b", "flags"),
        (r"(a)\1", "is not read"),
        ("a{999999999}", "too long"),
        ("(" * 5000 + ")" * 5000, "deep"),
        ("{" * 500_000, "too long"),
    ],
)
def test_what_is_no_pattern(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        PatternTable({"fine": 1, pattern: 2})
    assert len(str(caught.value)) < 300


def test_full_names_of_a_large_mixture_of_experts() -> None:
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.{kind}_proj"
        for layer in range(10)
        for expert in range(128)
        for kind in ("gate", "up", "down")
    ]
    table = PatternTable({name: index for index, name in enumerate(names)})
    assert [table.get(name, -1) for name in names[::37]] == list(range(len(names)))[::37]
    assert table.get("model.layers.10.mlp.experts.0.up_proj", -1) == -1


@pytest.mark.parametrize("pattern", [r"(([a-z0-9._]+)+)+X", "(.*)*(.*)*X", "(a|.)*(.|a)*X"])
def test_a_pattern_that_backtracking_never_ends(pattern: str) -> None:
    table = PatternTable({pattern: 1})
    for name in NAMES:
        assert table.get(name, 0) == 0
        assert table.get(f"{name}X", 0) == 1


def test_hostile_patterns_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MOST_WORK", 100_000)
    table = PatternTable({f"(.*{number}.*)*X": 1 for number in range(500)})
    with pytest.raises(ValueError, match="too long to match"):
        for name in NAMES:
            table.get(name, 0)
