"""Adapters of more than pairs of linear maps: what the native engine is given, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from quire.adapters.book import AdapterBook
from quire.adapters.folder import check_fits, read_adapter, read_tensors
from quire.errors import AdapterError
from tests.adapters.adapter_folders import (
    Q_PROJ,
    SHAPES,
    V_PROJ,
    make_adapter,
    make_model,
    tensors_of,
)

PREFIX = "base_model.model."
EMBEDDINGS, HEAD = "model.embed_tokens", "lm_head"
WHOLE = {**SHAPES, EMBEDDINGS: (9, 4), HEAD: (9, 4)}


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(AdapterError) as caught:
        read_adapter(make_adapter(folder, **options), extended=True)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def everything() -> dict[str, NDArray[Any]]:
    """The tensors of an adapter with one of each kind."""
    return {
        **tensors_of(),
        f"{PREFIX}{Q_PROJ}.lora_B.bias": ones(6),
        f"{PREFIX}{EMBEDDINGS}.lora_embedding_A": ones(2, 9),
        f"{PREFIX}{EMBEDDINGS}.lora_embedding_B": ones(4, 2),
        f"{PREFIX}{EMBEDDINGS}.base_layer.weight": ones(9, 4),
        f"{PREFIX}{HEAD}.weight": ones(9, 4),
        f"{PREFIX}{V_PROJ}.base_layer.bias": ones(2),
    }


def test_every_kind_of_tensor(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "it", everything(), bias="all", modules_to_save=["lm_head"])
    adapter = read_adapter(folder, extended=True)
    assert adapter.modules == (HEAD, EMBEDDINGS, Q_PROJ, V_PROJ)
    check_fits(adapter, make_model(tmp_path / "model", dict(WHOLE)))
    tensors = read_tensors(adapter)
    assert set(tensors.pairs) == {Q_PROJ, V_PROJ}
    assert (tensors.pairs[Q_PROJ].b == 2).all()  # alpha 4 over rank 2
    assert tensors.pairs[Q_PROJ].bias is not None
    assert (tensors.pairs[Q_PROJ].bias == 2).all()
    assert tensors.pairs[V_PROJ].bias is None
    assert set(tensors.embeddings) == {EMBEDDINGS}
    assert (set(tensors.matrices), set(tensors.own)) == ({HEAD}, {EMBEDDINGS})
    assert set(tensors.biases) == {V_PROJ}


def test_a_plain_engine_refuses_each_of_them(tmp_path: Path) -> None:
    for number, name in enumerate(set(everything()) - set(tensors_of())):
        tensors = tensors_of() | {name: everything()[name]}
        with pytest.raises(AdapterError, match="is not served"):
            read_adapter(make_adapter(tmp_path / str(number), tensors))


def test_several_scalings(tmp_path: Path) -> None:
    tensors = {
        **tensors_of({Q_PROJ: SHAPES[Q_PROJ]}),
        **tensors_of({V_PROJ: SHAPES[V_PROJ]}, rank=3),
    }
    folder = make_adapter(
        tmp_path, tensors, rank_pattern={"v_proj": 3}, alpha_pattern={"q_proj": 5}, use_rslora=True
    )
    pairs = read_tensors(read_adapter(folder, extended=True)).pairs
    assert pairs[Q_PROJ].b[0, 0] == pytest.approx(5 / math.sqrt(2))
    assert pairs[V_PROJ].b[0, 0] == pytest.approx(4 / math.sqrt(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_values_of_each_type(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = make_adapter(tmp_path, everything(), modules_to_save=["lm_head"])
    torch.manual_seed(0)
    tensors = {name: torch.randn(t.shape).to(dtype) for name, t in everything().items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    values = read_tensors(read_adapter(folder, extended=True))
    wanted = tensors[f"{PREFIX}{Q_PROJ}.lora_A.weight"].float().numpy()
    np.testing.assert_array_equal(values.pairs[Q_PROJ].a, wanted)
    head = tensors[f"{PREFIX}{HEAD}.weight"]
    if dtype == torch.bfloat16:
        np.testing.assert_array_equal(values.matrices[HEAD], head.view(torch.uint16).numpy())
    else:
        np.testing.assert_array_equal(values.matrices[HEAD], head.float().numpy())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("trainable_token_indices", [3]),
        ("target_parameters", "experts.gate_up_proj"),
        ("layer_replication", [[0, 2]]),
        ("alora_invocation_tokens", [5]),
        ("bias", "some"),
        ("init_lora_weights", "pissa"),
        ("modules_to_save", ["lm_head"]),  # without weights for it
        ("modules_to_save", "lm_head"),
    ],
)
def test_options_that_stay_refused(tmp_path: Path, key: str, value: Any) -> None:
    assert key in refusal(tmp_path, **{key: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{Q_PROJ}.lora_B.bias": ones(5)}, "a bias [5]"),
        ({"other.lora_B.bias": ones(5)}, "the bias of lora_B of other, but no lora_A"),
        ({f"{EMBEDDINGS}.lora_embedding_A": ones(2, 9)}, "lora_A of model.embed_tokens, but no"),
        ({f"{Q_PROJ}.lora_magnitude_vector": ones(6)}, "lora_magnitude_vector"),
        ({f"{Q_PROJ}.lora_A.default.weight": ones(2, 4)}, "lora_A.default"),
        ({f"{HEAD}.weight": np.ones((9, 4), np.int8)}, "the weight of lm_head in I8"),
        ({f"{HEAD}.weight": ones(9, 4) * np.inf}, "infinity or NaN in the weight of lm_head"),
        ({f"{V_PROJ}.bias": ones(2) * np.nan}, f"infinity or NaN in the bias of {V_PROJ}"),
    ],
)
def test_tensors_that_are_refused(
    tmp_path: Path, changes: dict[str, NDArray[Any]], words: str
) -> None:
    tensors = tensors_of() | {PREFIX + name: values for name, values in changes.items()}
    assert words in refusal(tmp_path, tensors=tensors)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (f"{HEAD}.weight", ones(9, 5)),
        (f"{EMBEDDINGS}.weight", ones(9, 5)),
        (f"{V_PROJ}.bias", ones(3)),
        ("model.other.weight", ones(9, 4)),
    ],
)
def test_what_does_not_fit_the_model(
    tmp_path: Path, name: str, values: NDArray[np.float32]
) -> None:
    tensors = tensors_of() | {PREFIX + name: values}
    adapter = read_adapter(make_adapter(tmp_path / "it", tensors), extended=True)
    with pytest.raises(AdapterError, match=name.rpartition(".")[0]):
        check_fits(adapter, make_model(tmp_path / "model", dict(WHOLE)))


@pytest.mark.parametrize("rows", [7, 12])
@pytest.mark.parametrize(
    "name", [HEAD, EMBEDDINGS, f"{HEAD}.modules_to_save", f"{EMBEDDINGS}.original_module"]
)
def test_embeddings_of_another_vocabulary(tmp_path: Path, name: str, rows: int) -> None:
    tensors = tensors_of() | {f"{PREFIX}{name}.weight": ones(rows, 4)}
    adapter = read_adapter(make_adapter(tmp_path / "it", tensors), extended=True)
    assert adapter.vocabulary == rows
    check_fits(adapter, make_model(tmp_path / "model", dict(WHOLE)))


def test_the_head_of_a_model_that_stores_it_once(tmp_path: Path) -> None:
    tensors = tensors_of() | {f"{PREFIX}{HEAD}.weight": ones(9, 4)}
    shapes = {name: shape for name, shape in WHOLE.items() if name != HEAD}
    model = make_model(tmp_path / "model", dict(shapes))
    names = check_fits(read_adapter(make_adapter(tmp_path / "it", tensors), extended=True), model)
    assert names[HEAD] == HEAD


def test_a_book_reads_as_its_engine_serves(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", dict(WHOLE))
    tensors = tensors_of() | {f"{PREFIX}{HEAD}.weight": ones(9, 4)}
    folder = make_adapter(tmp_path / "it", tensors, modules_to_save=["lm_head"])
    assert AdapterBook([str(folder)], model_folder=model, extended=True).adapters[0].extended
    with pytest.raises(AdapterError, match="modules_to_save"):
        AdapterBook([str(folder)], model_folder=model)
