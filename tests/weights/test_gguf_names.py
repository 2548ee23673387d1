"""Which GGUF files are one model, which are none, and which one a word means."""

from __future__ import annotations

import pytest

from quire.errors import ModelNotFoundError
from quire.weights.gguf_names import (
    choose,
    cut_piece,
    matching,
    model_parts,
    model_stem,
    named_models,
    quants,
    split_quant,
)
from quire.weights.model_names import is_hub_name

NAMES = (
    "Model-BF16.gguf",
    "Model-F16.gguf",
    "Model-IQ4_XS.gguf",
    "Model-Q4_XS.gguf",
    "Model-Q4_K_M.gguf",
    "Model-UD-Q4_K_XL.gguf",
    "model.Q8_0.gguf",
    "Q5_K_M/Model-Q5_K_M-00001-of-00002.gguf",
    "Q5_K_M/Model-Q5_K_M-00002-of-00002.gguf",
    "UD-Q6_K_XL/Model-UD-Q6_K_XL.gguf",
    "Q6_K_XL/Model-Q6_K_XL.gguf",
)
MODELS = named_models(dict.fromkeys(NAMES, 1000))


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("F16", "Model-F16.gguf"),
        ("bf16", "Model-BF16.gguf"),
        ("Q4_XS", "Model-Q4_XS.gguf"),
        ("iq4_xs", "Model-IQ4_XS.gguf"),
        ("q4_k_m", "Model-Q4_K_M.gguf"),
        ("UD-Q4_K_XL", "Model-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "Model-UD-Q4_K_XL.gguf"),
        ("Q6_K_XL", "Q6_K_XL/Model-Q6_K_XL.gguf"),
        ("UD-Q6_K_XL", "UD-Q6_K_XL/Model-UD-Q6_K_XL.gguf"),
        ("Q8_0", "model.Q8_0.gguf"),
        ("Q5_K_M", "Q5_K_M/Model-Q5_K_M-00001-of-00002.gguf"),
        ("model-f16.gguf", "Model-F16.gguf"),
        ("Model-Q4_K_M", "Model-Q4_K_M.gguf"),
        ("Q5_K_M/Model-Q5_K_M-00002-of-00002.gguf", "Q5_K_M/Model-Q5_K_M-00001-of-00002.gguf"),
    ],
)
def test_whole_words_choose(quant: str, file: str) -> None:
    assert choose(MODELS, quant, "x").first == file


@pytest.mark.parametrize("quant", ["Q4_K", "K_M", "Q4", "6", "Q4_K_M.", "Q4.K_M", "(", "Q5_K_S"])
def test_parts_of_words_choose_nothing(quant: str) -> None:
    """And nothing in them is an expression: a point is a point."""
    assert matching(MODELS, quant) == []


def test_a_miss_lists_what_there_is() -> None:
    with pytest.raises(ModelNotFoundError, match=r"no GGUF model Q4KM; it has") as caught:
        choose(MODELS, "Q4KM", "owner/name")
    text = str(caught.value)
    assert "Q4_K_M (1.0 kB)" in text
    assert "Q5_K_M (2.0 kB)" in text
    assert "Did you mean owner/name:Q4_K_M?" in text


def test_of_several_all_are_listed_with_their_sizes() -> None:
    models = named_models({"a-Q8_0.gguf": 2_500_000_000, "a-Q4_0.gguf": 1_000_000_000})
    with pytest.raises(ModelNotFoundError) as caught:
        choose(models, None, "owner/name")
    assert str(caught.value) == (
        "owner/name has 2 GGUF models: Q4_0 (1.0 GB), Q8_0 (2.5 GB). Say which one, such as "
        "owner/name:Q4_0."
    )


def test_a_word_that_means_several_needs_more_words() -> None:
    models = named_models({"big-Q4_0.gguf": 9, "small-Q4_0.gguf": 5, "small-Q8_0.gguf": 8})
    with pytest.raises(ModelNotFoundError, match=r"x:Q4_0 means 2 GGUF models") as caught:
        choose(models, "Q4_0", "x")
    assert "such as x:small-Q4_0.gguf" in str(caught.value)
    assert choose(models, "small-Q4_0.gguf", "x").first == "small-Q4_0.gguf"
    assert choose(models, "small-Q4_0", "x").first == "small-Q4_0.gguf"
    assert quants(models) == ("small-Q4_0.gguf", "Q8_0", "big-Q4_0.gguf")


@pytest.mark.parametrize(
    "name",
    [
        "mmproj-F16.gguf",
        "Model-mmproj-Q8_0.gguf",
        "mmproj.GGUF",
        "imatrix.gguf",
        "Model.imatrix.gguf",
        "mtp-Model-Q4_0.gguf",
        "sub/eagle3-Model.gguf",
        "dflash-x.gguf",
        "dspark-x.gguf",
        "Model-Q4_0.gguf.part1of2",
        "Model-Q4_0.gguf-split-a",
        "README.md",
    ],
)
def test_what_is_no_model_by_its_name(name: str) -> None:
    assert named_models({name: 1}) == []


@pytest.mark.parametrize(
    "name", ["GLM-MTP-Q6_K.gguf", "Model-Q4_K_M-imatrix.gguf", "Model-eagle3-Q8_0.GGUF", "x.gguf"]
)
def test_what_may_be_one(name: str) -> None:
    """MTP and imatrix are in names of models as well; see huggingface.js #2400."""
    assert [model.first for model in named_models({name: 1})] == [name]


def test_parts_are_one_model() -> None:
    parts = model_parts("m-00002-of-00003.gguf")
    assert parts == tuple(f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3))
    (model,) = named_models({parts[0]: 5, parts[2]: 7, "m.txt": 1})
    assert (model.files, model.size, model.missing) == (parts, 12, (parts[1],))
    with pytest.raises(ModelNotFoundError, match=r"x lacks m-00002-of-00003.gguf: parts"):
        choose([model], None, "x")


def test_a_count_out_of_reason_is_no_count() -> None:
    assert model_parts("m-00001-of-99999.gguf") == ("m-00001-of-99999.gguf",)


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("m.gguf.part1of2", True),
        ("m.gguf-split-a", True),
        ("m-Q8_0.gguf.part1", True),
        ("m.gguf", False),
    ],
)
def test_pieces_of_a_cut_file(name: str, piece: bool) -> None:
    assert cut_piece(["a.txt", name]) == (name if piece else None)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("m-Q4_0.gguf", "m-Q4_0"),
        ("m-Q4_0-00001-of-00002.gguf", "m-Q4_0"),
        ("m.GGUF", "m"),
        ("blob", "blob"),
    ],
)
def test_what_a_file_is_called(name: str, stem: str) -> None:
    assert model_stem(name) == stem


@pytest.mark.parametrize(
    ("name", "parts", "on_hub"),
    [
        ("owner/name", ("owner/name", None), True),
        ("owner/name:Q4_K_M", ("owner/name", "Q4_K_M"), True),
        ("owner/name:UD/m.gguf", ("owner/name", "UD/m.gguf"), True),
        ("owner/name:", ("owner/name", None), True),
        ("C:/name", ("C:/name", None), False),
        ("C:\\models\\m:Q4_0", ("C:\\models\\m", "Q4_0"), False),
        ("http://host/x", ("http", "//host/x"), False),
        ("ollama:owner/name:1b", ("ollama:owner/name", "1b"), False),
        ("./owner/name:Q4_0", ("./owner/name", "Q4_0"), False),
        ("name:Q4_0", ("name", "Q4_0"), False),
        ("/a/b:Q4_0", ("/a/b", "Q4_0"), False),
    ],
)
def test_names_with_colons(name: str, parts: tuple[str, str | None], on_hub: bool) -> None:
    assert split_quant(name) == parts
    assert is_hub_name(name) is on_hub
