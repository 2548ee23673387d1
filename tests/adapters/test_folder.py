"""An adapter's folder by itself: what is read, and what is refused."""

from __future__ import annotations

import logging
import math
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from quire.adapters.folder import Adapter, read_adapter
from quire.demo import demo_adapter_path, demo_model_path
from quire.errors import AdapterError
from tests.adapters.adapter_folders import Q_PROJ, SHAPES, V_PROJ, make_adapter, tensors_of

A = f"base_model.model.{Q_PROJ}.lora_A.weight"
B = f"base_model.model.{Q_PROJ}.lora_B.weight"


def _refusal(folder: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def _adapter_or_refusal(folder: Path) -> Adapter | str:
    try:
        return read_adapter(folder)
    except AdapterError as error:
        return str(error)


def test_what_is_read(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "pirate")
    assert read_adapter(folder) == Adapter(
        name="pirate",
        path=folder,
        rank=2,
        alpha=4.0,
        use_rslora=False,
        modules=(Q_PROJ, V_PROJ),
        base_model="someone/small",
    )
    assert read_adapter(folder, "other").name == "other"


@pytest.mark.parametrize("name", ["pirate", "butler"])
def test_the_demo_adapters(name: str) -> None:
    adapter = read_adapter(demo_adapter_path(name))
    assert (adapter.rank, adapter.scaling, len(adapter.modules)) == (8, 2.0, 28)
    assert adapter.modules[0] == "model.layers.0.mlp.down_proj"


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_adapter(tmp_path / "pirate")
    monkeypatch.chdir(folder)
    adapter = read_adapter(Path("."))
    assert (adapter.path, adapter.name) == (folder, "pirate")


def test_rslora_divides_by_the_root(tmp_path: Path) -> None:
    adapter = read_adapter(make_adapter(tmp_path, use_rslora=True))
    assert adapter.scaling == pytest.approx(4 / math.sqrt(2))


class TestMissing:
    def test_no_folder(self, tmp_path: Path) -> None:
        assert "no adapter folder" in _refusal(tmp_path / "nothing")

    def test_a_whole_model(self) -> None:
        text = _refusal(demo_model_path())
        assert "whole model" in text
        assert "model_name_or_path" in text

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        text = _refusal(tmp_path)
        assert "no adapter_config.json" in text
        assert "whole model" not in text

    @pytest.mark.parametrize("text", ["", "{", "[1]", "\xff", "[" * 100_000, '{"r": ' + "9" * 5000])
    def test_no_json(self, tmp_path: Path, text: str) -> None:
        (make_adapter(tmp_path) / "adapter_config.json").write_bytes(text.encode("latin-1"))
        assert "adapter_config.json" in _refusal(tmp_path)

    def test_no_weights(self, tmp_path: Path) -> None:
        (make_adapter(tmp_path) / "adapter_model.safetensors").unlink()
        assert "no adapter_model.safetensors" in _refusal(tmp_path)

    @pytest.mark.parametrize("key", ["r", "lora_alpha", "target_modules"])
    def test_no_setting(self, tmp_path: Path, key: str) -> None:
        assert f"does not say {key}" in _refusal(make_adapter(tmp_path, **{key: None}))


def test_a_pickle_is_not_opened_and_its_conversion_works(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "with 'quotes'")
    (folder / "adapter_model.safetensors").unlink()
    tensors = {name: torch.from_numpy(values) for name, values in tensors_of().items()}
    torch.save(tensors, folder / "adapter_model.bin")
    text = _refusal(folder)
    assert "pickle" in text
    command = shlex.split(text.splitlines()[-1])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=300)
    assert read_adapter(folder).modules == (Q_PROJ, V_PROJ)


class TestOptions:
    @pytest.mark.parametrize(
        ("key", "value", "named"),
        [
            ("peft_type", "LOHA", "'LOHA'"),
            ("peft_type", None, "None"),
            ("modules_to_save", ["embed_tokens", "lm_head"], "'lm_head'"),
            ("trainable_token_indices", [3], "[3]"),
            ("trainable_token_indices", {"embed_tokens": [3]}, "embed_tokens"),
            ("target_parameters", ["experts.gate_up_proj"], "experts.gate_up_proj"),
            ("layer_replication", [[0, 2], [1, 3]], "[0, 2]"),
            ("use_dora", True, "use_dora True"),
            ("lora_bias", True, "lora_bias True"),
            ("fan_in_fan_out", True, "fan_in_fan_out True"),
            ("use_qalora", True, "use_qalora True"),
            ("use_bdlora", {"nblocks": 2}, "nblocks"),
            ("alora_invocation_tokens", [5, 6], "[5, 6]"),
            ("arrow_config", {"top_k": 3}, "top_k"),
            ("kasa_config", {"beta": 1}, "beta"),
            ("monteclora_config", {"n": 1}, "monteclora_config"),
            ("megatron_config", {"tp": 2}, "megatron_config"),
            ("bias", "all", "bias 'all'"),
            ("bias", "lora_only", "bias 'lora_only'"),
            ("init_lora_weights", "pissa", "'pissa'"),
            ("init_lora_weights", "pissa_niter_4", "path_initial_model_for_weight_conversion"),
            ("init_lora_weights", "olora", "'olora'"),
            ("init_lora_weights", "corda", "'corda'"),
            ("init_lora_weights", "loftq", "'loftq'"),
            ("init_lora_weights", "lora_ga", "'lora_ga'"),
            ("r", 0, "r 0"),
            ("r", True, "r True"),
            ("r", "8", "r '8'"),
            ("r", 10**300, "no rank"),
            ("lora_alpha", 0, "changes nothing"),
            ("lora_alpha", math.nan, "lora_alpha nan"),
            ("lora_alpha", 10**400, "no factor"),
            ("lora_alpha", [1], "no factor"),
            ("rank_pattern", {"(": 2}, "rank_pattern"),
            ("rank_pattern", {"q_proj": 0}, "no rank"),
            ("rank_pattern", ["q_proj"], "rank_pattern"),
            ("alpha_pattern", {"q_proj": "x"}, "no factor"),
            ("alpha_pattern", 7, "alpha_pattern"),
            ("target_modules", 7, "target_modules"),
            ("target_modules", ["q_proj", "v_proj", "c_attn"], "'c_attn'"),
        ],
    )
    def test_refused_by_name(self, tmp_path: Path, key: str, value: Any, named: str) -> None:
        text = _refusal(make_adapter(tmp_path, **{key: value}))
        assert key in text or key == "r"
        assert named in text
        assert len(text) < 600

    @pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
    def test_starts_that_leave_the_base_as_it_is(self, tmp_path: Path, start: Any) -> None:
        assert read_adapter(make_adapter(tmp_path, init_lora_weights=start)).rank == 2

    @pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", [Q_PROJ, "v_proj"]])
    def test_other_forms_of_target_modules(self, tmp_path: Path, targets: Any) -> None:
        adapter = read_adapter(make_adapter(tmp_path, target_modules=targets))
        assert adapter.modules == (Q_PROJ, V_PROJ)

    def test_an_unknown_option_gives_one_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = make_adapter(tmp_path, use_new_thing=True, other_thing={"a": 1}, off_thing=False)
        with caplog.at_level(logging.WARNING, "quire"):
            read_adapter(folder)
        (record,) = caplog.records
        assert "other_thing, use_new_thing" in record.getMessage()
        assert "off_thing" not in record.getMessage()


class TestPatterns:
    def test_ranks_that_keep_one_scaling(self, tmp_path: Path) -> None:
        tensors = {
            **tensors_of({Q_PROJ: SHAPES[Q_PROJ]}, rank=2),
            **tensors_of({V_PROJ: SHAPES[V_PROJ]}, rank=8),
        }
        folder = make_adapter(
            tmp_path, tensors, rank_pattern={"v_proj": 8}, alpha_pattern={"v_proj": 16}
        )
        adapter = read_adapter(folder)
        assert (adapter.rank, adapter.alpha, adapter.scaling) == (8, 16.0, 2.0)

    def test_two_scalings(self, tmp_path: Path) -> None:
        text = _refusal(make_adapter(tmp_path, alpha_pattern={"self_attn.v_proj": 16}))
        assert V_PROJ in text
        assert "by 8 and others by 2" in text

    def test_a_pattern_matches_whole_parts_of_the_name(self, tmp_path: Path) -> None:
        assert read_adapter(make_adapter(tmp_path, alpha_pattern={"proj": 16})).scaling == 2.0


class TestWeights:
    @pytest.mark.parametrize(
        "name",
        [
            "base_model.model.model.embed_tokens.lora_embedding_A",
            f"base_model.model.{Q_PROJ}.lora_magnitude_vector",
            f"base_model.model.{Q_PROJ}.lora_B.bias",
            f"base_model.model.{Q_PROJ}.lora_A.default.weight",
            f"{Q_PROJ}.lora_A.weight",
            "base_model.model.lm_head.weight",
        ],
    )
    def test_other_tensors(self, tmp_path: Path, name: str) -> None:
        tensors = tensors_of() | {name: np.ones((2, 4), np.float32)}
        assert name in _refusal(make_adapter(tmp_path, tensors))

    @pytest.mark.parametrize(("gone", "there"), [(A, "lora_B"), (B, "lora_A")])
    def test_half_a_pair(self, tmp_path: Path, gone: str, there: str) -> None:
        tensors = tensors_of()
        del tensors[gone]
        text = _refusal(make_adapter(tmp_path, tensors))
        assert f"{there} of {Q_PROJ}, but no" in text

    @pytest.mark.parametrize("shape", [(6, 3), (6,), (6, 2, 1), (0, 2)])
    def test_a_pair_of_two_ranks(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        text = _refusal(make_adapter(tmp_path, tensors_of() | {B: np.ones(shape, np.float32)}))
        assert Q_PROJ in text
        assert str(list(shape)) in text

    def test_another_rank_than_the_config_says(self, tmp_path: Path) -> None:
        assert "rank 2" in _refusal(make_adapter(tmp_path, r=4))

    def test_no_tensors(self, tmp_path: Path) -> None:
        assert "changes nothing" in _refusal(make_adapter(tmp_path, {}))

    def test_integers(self, tmp_path: Path) -> None:
        text = _refusal(make_adapter(tmp_path, tensors_of(dtype=np.int8)))
        assert "I8" in text

    def test_a_file_that_is_no_safetensors(self, tmp_path: Path) -> None:
        (make_adapter(tmp_path) / "adapter_model.safetensors").write_bytes(b"")
        assert "truncated" in _refusal(tmp_path)

    def test_a_pointer_of_git_lfs(self, tmp_path: Path) -> None:
        text = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
        (make_adapter(tmp_path) / "adapter_model.safetensors").write_bytes(text)
        assert "it is a git-lfs pointer" in _refusal(tmp_path)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def _save(folder: Path, change: Callable[[dict[str, Any]], object], dtype: Any) -> Path:
    make_adapter(folder)
    tensors = {name: torch.from_numpy(values).to(dtype) for name, values in tensors_of().items()}
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
class TestValues:
    def test_ones(self, tmp_path: Path, dtype: Any) -> None:
        assert read_adapter(_save(tmp_path, lambda tensors: None, dtype)).rank == 2

    @pytest.mark.parametrize("side", ["lora_A", "lora_B"])
    @pytest.mark.parametrize("zero", [0.0, -0.0])
    def test_zeros_change_nothing(self, tmp_path: Path, dtype: Any, side: str, zero: float) -> None:
        def clear(tensors: dict[str, Any]) -> None:
            for name in tensors:
                if side in name:
                    tensors[name][...] = zero

        assert "changes nothing" in _refusal(_save(tmp_path, clear, dtype))

    def test_one_smallest_number_is_a_change(self, tmp_path: Path, dtype: Any) -> None:
        def almost_clear(tensors: dict[str, Any]) -> None:
            for name in tensors:
                if "lora_B" in name:
                    tensors[name][...] = 0
            words = {2: torch.int16, 4: torch.int32, 8: torch.int64}
            tensors[B].view(words[dtype.itemsize])[5, 1] = 1

        assert read_adapter(_save(tmp_path, almost_clear, dtype)).rank == 2

    def test_a_and_b_in_different_modules_change_nothing(self, tmp_path: Path, dtype: Any) -> None:
        def cross(tensors: dict[str, Any]) -> None:
            tensors[A][...] = 0
            tensors[f"base_model.model.{V_PROJ}.lora_B.weight"][...] = 0

        assert "changes nothing" in _refusal(_save(tmp_path, cross, dtype))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("name", [A, B])
    def test_no_number(self, tmp_path: Path, dtype: Any, value: float, name: str) -> None:
        def spoil(tensors: dict[str, Any]) -> None:
            tensors[name][1, 1] = value

        text = _refusal(_save(tmp_path, spoil, dtype))
        assert "infinity or NaN" in text
        assert Q_PROJ in text

    def test_the_largest_number(self, tmp_path: Path, dtype: Any) -> None:
        def grow(tensors: dict[str, Any]) -> None:
            tensors[A][1, 1] = torch.finfo(dtype).max

        assert read_adapter(_save(tmp_path, grow, dtype)).rank == 2


def test_data_at_an_odd_address(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path)
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].rstrip()
    header += b" " * (1 - len(header) % 2)
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    assert len(header) % 2 == 1
    assert read_adapter(folder).rank == 2


_UNTOUCHED = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_UNTOUCHED
@given(data=st.data())
def test_truncated_anywhere(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]))
    path = make_adapter(tmp_path) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    _refusal(tmp_path)


@_UNTOUCHED
@given(data=st.data())
def test_a_changed_byte_gives_an_adapter_or_an_adapter_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]))
    path = make_adapter(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    result = _adapter_or_refusal(tmp_path)
    assert str(tmp_path) in result if isinstance(result, str) else len(result.modules) == 2


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
_KEYS = [
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "bias",
    "init_lora_weights",
    "peft_type",
    "use_rslora",
    "base_model_name_or_path",
    "modules_to_save",
    "exclude_modules",
    "use_dora",
]


@_UNTOUCHED
@given(key=st.sampled_from(_KEYS), value=_JSON)
def test_any_value_of_an_option(tmp_path: Path, key: str, value: Any) -> None:
    folder = make_adapter(tmp_path, **{key: value})
    result = _adapter_or_refusal(folder)
    assert str(folder) in result if isinstance(result, str) else result.rank >= 2
