"""Models of a local store of Ollama's: names, manifests, layers, and what is said of them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from quire.arguments import get_infer_args
from quire.chat import ChatModel
from quire.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from quire.gguf import ollama
from quire.gguf.folder import gguf_file_of
from quire.gguf.ollama import OllamaName, find_ollama, ollama_folder
from quire.model_folder import with_model_defaults
from quire.weights.folder import read_json
from quire.weights.model_names import is_ollama_name
from tests.gguf.chat_files import END, STOP, write_chat
from tests.gguf.ollama_store import LIST, Link, OllamaStore

LIBRARY = "registry.ollama.ai/library"
TEMPLATE = b"{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of a model's file."""
    return write_chat(tmp_path_factory.mktemp("model") / "m.gguf").read_bytes()


@pytest.fixture(scope="module")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    return write_chat(path, {"tokenizer.chat_template": None}).read_bytes()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OllamaStore:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    return OllamaStore(tmp_path / "models")


def content(name: str) -> bytes:
    return find_ollama(name).file.read_bytes()


# ---- names


@pytest.mark.parametrize(
    ("text", "key", "shown"),
    [
        ("llama3.2", ("registry.ollama.ai", "library", "llama3.2", "latest"), "llama3.2:latest"),
        ("llama3.2:1b", ("registry.ollama.ai", "library", "llama3.2", "1b"), "llama3.2:1b"),
        ("me/Bot:v1", ("registry.ollama.ai", "me", "bot", "v1"), "me/Bot:v1"),
        (
            "ollama.com/library/x",
            ("registry.ollama.ai", "library", "x", "latest"),
            "x:latest",
        ),
        (
            "hf.co/bartowski/X-GGUF:Q4_K_M",
            ("hf.co", "bartowski", "x-gguf", "q4_k_m"),
            "hf.co/bartowski/X-GGUF:Q4_K_M",
        ),
        ("localhost:5000/a/b", ("localhost:5000", "a", "b", "latest"), "localhost:5000/a/b:latest"),
    ],
)
def test_names(text: str, key: tuple[str, ...], shown: str) -> None:
    name = OllamaName.of(text)
    assert (name.key, str(name)) == (key, shown)


@pytest.mark.parametrize(
    "text", ["", ":1b", "a:", "../a", "a/../b", "a/b/c/d/e", "https://x/y/z", "a b"]
)
def test_what_is_no_name(store: OllamaStore, text: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no name that Ollama could have"):
        find_ollama(f"ollama:{text}")
    assert is_ollama_name(f"Ollama:{text}")


@pytest.mark.parametrize(
    "name", ["ollama:tiny", "ollama:TINY:Latest", "OLLAMA:library/tiny:latest"]
)
def test_a_model_by_its_name(store: OllamaStore, model: bytes, name: str) -> None:
    store.name(f"{LIBRARY}/Tiny/latest", store.manifest(store.layer("model", model)))
    assert content(name) == model


def test_models_of_other_hosts(store: OllamaStore, model: bytes) -> None:
    store.name("hf.co/bartowski/X/Q4_K_M", store.manifest(store.layer("model", model)))
    assert content("ollama:hf.co/Bartowski/x:q4_k_m") == model


def test_an_unknown_name_tells_the_nearest(store: OllamaStore, model: bytes) -> None:
    for tag in ("llama3.2/1b", "llama3.2/3b", "qwen3/latest"):
        store.name(f"{LIBRARY}/{tag}", store.manifest(store.layer("model", model)))
    with pytest.raises(ModelNotFoundError, match=r"no llama3.2:latest in") as caught:
        find_ollama("ollama:llama3.2")
    text = str(caught.value)
    assert "It has llama3.2:1b, llama3.2:3b and 1 more. " in text
    assert "ollama pull llama3.2:latest" in text
    with pytest.raises(ModelNotFoundError, match=r"It has llama3.2:1b, llama3.2:3b, qwen3:latest"):
        find_ollama("ollama:zzz")


# ---- stores


def test_the_users_store_and_then_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(ollama, "_SERVICE", tmp_path / "service")
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(
        ModelNotFoundError, match=r"holds none.*ollama pull a:latest.*OLLAMA_MODELS"
    ):
        find_ollama("ollama:a")
    service = OllamaStore(tmp_path / "service")
    service.name(f"{LIBRARY}/a/latest", service.manifest(service.layer("model", model)))
    assert find_ollama("ollama:a").file.is_relative_to(tmp_path / "service")
    own = OllamaStore(tmp_path / "home" / ".ollama" / "models")
    own.name(f"{LIBRARY}/b/latest", own.manifest(own.layer("model", model)))
    assert find_ollama("ollama:a").file.is_relative_to(tmp_path / "service")
    assert find_ollama("ollama:b").file.is_relative_to(tmp_path / "home")


def test_a_store_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: OllamaStore, model: bytes
) -> None:
    store.name(f"{LIBRARY}/a/latest", store.manifest(store.layer("model", model)))

    def refuse(folder: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(ollama, "_inside", refuse)
    with pytest.raises(ModelNotFoundError, match=r"may not be read by this user.*usermod"):
        find_ollama("ollama:a")


def test_a_blob_that_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch, store: OllamaStore, model: bytes
) -> None:
    store.name(f"{LIBRARY}/a/latest", store.manifest(store.layer("model", model)))
    opened = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.startswith("sha256-") and path.stat().st_size == len(model):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelNotFoundError, match=r"sha256-\w+ may not be read by this user"):
        ollama_folder("ollama:a")


# ---- the second tree of manifests


@pytest.mark.parametrize("link", ["symbolic", "hard", "copy"])
def test_the_second_tree_comes_first(store: OllamaStore, model: bytes, link: Link) -> None:
    store.name(f"{LIBRARY}/a/latest", store.manifest(store.layer("model", b"GGUF old")))
    manifest = store.manifest(store.layer("model", model), runner="llamacpp", format="gguf")
    store.name("ollama.com/library/a/latest", manifest, "manifests-v2", link)
    assert content("ollama:a") == model
    assert content("ollama:registry.ollama.ai/library/a") == model


def test_a_port_in_the_name_of_a_host(store: OllamaStore, model: bytes) -> None:
    manifest = store.manifest(store.layer("model", model))
    store.name("localhost%3A5000/me/a/latest", manifest, "manifests-v2", "symbolic")
    assert content("ollama:localhost:5000/me/a") == model


def child(store: OllamaStore, runner: str, content: bytes, form: str = "gguf") -> dict[str, Any]:
    return store.manifest(store.layer("model", content), runner=runner, format=form)


def listed(*children: dict[str, Any]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": LIST, "manifests": list(children)}


def reference(store: OllamaStore, manifest: dict[str, Any]) -> dict[str, Any]:
    """A child of a list that says no more than where it is."""
    digest = store.blob(json.dumps(manifest).encode())["digest"]
    known = {key: manifest[key] for key in ("mediaType", "runner", "format")}
    return {**known, "digest": digest}


@pytest.mark.parametrize("form", [lambda store, one: one, reference], ids=["bodies", "digests"])
def test_a_list_has_one_for_llama_cpp(
    store: OllamaStore, model: bytes, form: Callable[[OllamaStore, dict[str, Any]], dict[str, Any]]
) -> None:
    children = [
        form(store, child(store, "mlx", b"{}", "safetensors")),
        form(store, child(store, "ggml", b"GGUF of the old runner")),
        form(store, child(store, "llamacpp", model)),
    ]
    store.name("ollama.com/library/a/latest", listed(*children), "manifests-v2")
    assert content("ollama:a") == model


def test_a_child_that_was_not_downloaded_is_passed_over(store: OllamaStore, model: bytes) -> None:
    absent = {"runner": "llamacpp", "format": "gguf", "digest": f"sha256:{'0' * 64}"}
    store.name(
        "ollama.com/library/a/latest", listed(absent, child(store, "ollama", model)), "manifests-v2"
    )
    assert content("ollama:a") == model


def test_a_list_without_gguf_is_refused(store: OllamaStore) -> None:
    only = listed(child(store, "mlx", b"{}", "safetensors"))
    store.name("ollama.com/library/a/latest", only, "manifests-v2")
    with pytest.raises(UnsupportedModelError, match=r"ollama:a:latest is .*for mlx alone"):
        find_ollama("ollama:a")


# ---- what is refused


def test_other_kinds_of_models(store: OllamaStore, model: bytes) -> None:
    layer = store.layer("model", model)
    cloud = {"remote_host": "https://ollama.com", "remote_model": "big"}
    store.name(f"{LIBRARY}/big/cloud", store.manifest(config=cloud))
    tensors = store.manifest(store.layer("tensor", b"x"), config={"model_format": "safetensors"})
    store.name(f"{LIBRARY}/mlx/latest", tensors)
    store.name(f"{LIBRARY}/lora/latest", store.manifest(layer, store.layer("adapter", b"GGUF")))
    store.name(f"{LIBRARY}/none/latest", store.manifest(store.layer("license", b"MIT")))
    store.name(f"{LIBRARY}/two/latest", store.manifest(layer, store.layer("model", b"GGUF")))
    for name, text in {
        "big:cloud": r"ollama:big:cloud is a cloud model of https://ollama.com",
        "mlx": r"ollama:mlx:latest has its weights as safetensors",
        "lora": r"ollama:lora:latest is a model with an adapter in GGUF",
        "none": r"ollama:none:latest has no GGUF file",
        "two": r"ollama:two:latest has 2 files",
    }.items():
        with pytest.raises(UnsupportedModelError, match=text):
            find_ollama(f"ollama:{name}")


@pytest.mark.parametrize(
    "digest",
    [
        None,
        7,
        "",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "G" * 64,
        "md5:" + "0" * 64,
        "sha256:../../../etc/passwd",
        "sha256-" + "../" * 20 + "etc/passwd0",
        "sha256:" + "0" * 64 + "\n",
    ],
)
def test_digests_that_are_none(store: OllamaStore, model: bytes, digest: Any) -> None:
    layer = {**store.layer("model", model), "digest": digest}
    store.name(f"{LIBRARY}/a/latest", store.manifest(layer))
    with pytest.raises(WeightsError, match=r"where a digest should be"):
        find_ollama("ollama:a")


def test_both_ways_to_write_a_digest(store: OllamaStore, model: bytes) -> None:
    layer = store.layer("model", model)
    layer["digest"] = layer["digest"].replace(":", "-")
    store.name(f"{LIBRARY}/a/latest", store.manifest(layer))
    assert content("ollama:a") == model


def test_links_out_of_the_store(store: OllamaStore, model: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(model)
    layer = store.layer("model", model)
    manifest = store.manifest(layer)
    blob = store.root / "blobs" / layer["digest"].replace(":", "-")
    blob.unlink()
    blob.symlink_to(secret)
    place = store.name(f"{LIBRARY}/a/latest", manifest)
    with pytest.raises(WeightsError, match=r"leads out of Ollama's store"):
        find_ollama("ollama:a")
    secret.write_text(json.dumps(manifest))
    place.unlink()
    place.symlink_to(secret)
    with pytest.raises(WeightsError, match=r"latest is a link that leads out"):
        find_ollama("ollama:a")


def test_blobs_may_be_on_another_disk(store: OllamaStore, model: bytes, tmp_path: Path) -> None:
    store.name(f"{LIBRARY}/a/latest", store.manifest(store.layer("model", model)))
    shutil.move(store.root / "blobs", tmp_path / "disk")
    (store.root / "blobs").symlink_to(tmp_path / "disk")
    assert content("ollama:a") == model


def test_a_download_that_is_not_finished(store: OllamaStore, model: bytes) -> None:
    layer = store.layer("model", model)
    store.name(f"{LIBRARY}/a/1b", store.manifest(layer))
    blob = store.root / "blobs" / layer["digest"].replace(":", "-")
    blob.write_bytes(model[:-100])
    with pytest.raises(WeightsError, match=r"its manifest says \d+. .*ollama pull a:1b"):
        find_ollama("ollama:a:1b")
    blob.unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks .*ollama pull a:1b"):
        find_ollama("ollama:a:1b")


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", '"x"'])
def test_a_manifest_that_is_none(store: OllamaStore, text: str) -> None:
    place = store.name(f"{LIBRARY}/a/latest", {})
    place.write_text(text, encoding="latin-1")
    with pytest.raises(WeightsError, match=r"latest (is|holds) no JSON"):
        find_ollama("ollama:a")


def test_a_manifest_of_any_size_is_not_read(store: OllamaStore) -> None:
    place = store.name(f"{LIBRARY}/a/latest", {})
    with place.open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(WeightsError, match=r"larger than"):
        find_ollama("ollama:a")


# ---- layers beside the file


def test_parameters_are_defaults(store: OllamaStore, model: bytes) -> None:
    params = {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0,
        "repeat_penalty": 1.05,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "seed": 7,
        "stop": ["<|stop|>", "User:", "<|im_end|>"],
    }
    manifest = store.manifest(store.layer("model", model), store.layer("params", params))
    store.name(f"{LIBRARY}/a/latest", manifest)
    folder = ollama_folder("ollama:a")
    assert read_json(folder, "generation_config.json") == {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0,
        "repetition_penalty": 1.05,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "seed": 7,
        "stop_strings": ["User:"],
        "eos_token_id": [END, STOP],
    }
    assert gguf_file_of(folder).read_bytes() == model
    other = store.manifest(store.layer("model", model), store.layer("params", {"top_k": 5}))
    store.name(f"{LIBRARY}/a/latest", other)
    assert read_json(ollama_folder("ollama:a"), "generation_config.json") == {
        "top_k": 5,
        "eos_token_id": [END],
    }


def test_defaults_of_a_chat(store: OllamaStore, model: bytes) -> None:
    """Each holds where the user gives none: neither to the model nor with a request."""
    params = {"seed": 7, "num_ctx": 48, "stop": "bb", "temperature": 3.0}
    manifest = store.manifest(
        store.layer("model", model),
        store.layer("system", b"ABCABC\n"),
        store.layer("params", params),
    )
    store.name(f"{LIBRARY}/a/latest", manifest)
    given = {"model_name_or_path": "ollama:a", "infer_backend": "native", "max_new_tokens": 8}
    hello = [{"role": "user", "content": "HI"}]
    with ChatModel(given) as chat:
        assert chat.engine.info.context_length == 48
        (answer,) = chat.chat(hello)
        (again,) = chat.chat(hello)
        (other,) = chat.chat(hello, seed=8)
        assert answer.prompt_length == len("ABCABC.HI.")
        assert answer.response_text == again.response_text != other.response_text
        (bare,) = chat.chat(hello, system="A")
        assert bare.prompt_length == len("A.HI.")
        prepared = chat.engine.tokens.preparation
        assert prepared.params({}, 1).stop == ("bb",)
        assert prepared.params({"stop": ["c"]}, 1).stop == ("c",)
    with ChatModel({**given, "default_system": "", "vllm_maxlen": 32}) as chat:
        assert chat.engine.info.context_length == 32
        assert chat.chat(hello)[0].prompt_length == len("HI.")


def test_a_context_is_cut_to_what_the_model_knows(store: OllamaStore, model: bytes) -> None:
    layers = store.layer("model", model), store.layer("params", {"num_ctx": 1 << 20})
    store.name(f"{LIBRARY}/a/latest", store.manifest(*layers))
    folder = ollama_folder("ollama:a")
    arguments = get_infer_args({"model_name_or_path": "ollama:a"})
    positions = read_json(folder, "config.json")["max_position_embeddings"]
    assert with_model_defaults(arguments, folder).model.vllm_maxlen == positions < 1 << 20
    given = get_infer_args({"model_name_or_path": "ollama:a", "vllm_maxlen": 1 << 20})
    assert with_model_defaults(given, folder) == given


def test_what_is_not_taken_over_is_said(
    store: OllamaStore, model: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"num_predict": 9, "num_ctx": 0, "seed": -1, "stop": [7], "temperature": "hot"}
    manifest = store.manifest(
        store.layer("model", model),
        store.layer("projector", b"GGUF"),
        store.layer("template", TEMPLATE),
        store.layer("params", params),
    )
    store.name(f"{LIBRARY}/a/latest", manifest)
    with caplog.at_level(logging.INFO, "quire"):
        folder = ollama_folder("ollama:a")
    assert read_json(folder, "generation_config.json") == {"eos_token_id": [END]}
    for text in (
        "Go's language and is not run; the file's own is used",
        "left aside: text alone",
        'num_predict 9 (here max_new_tokens), num_ctx 0, seed -1, stop [7], temperature "hot"',
    ):
        assert text in caplog.text


def test_a_template_of_gos_is_never_jinja(
    store: OllamaStore, without_template: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """See ramalama #1856."""
    layers = store.layer("model", without_template), store.layer("template", TEMPLATE)
    store.name(f"{LIBRARY}/a/latest", store.manifest(*layers))
    folder = ollama_folder("ollama:a")
    assert "chat_template" not in read_json(folder, "tokenizer_config.json")
    assert "the file has none of its own: name one as template" in caplog.text


@pytest.mark.parametrize("params", [b"[]", b"{", b"\xff\xfe"])
def test_parameters_that_are_none(store: OllamaStore, model: bytes, params: bytes) -> None:
    layers = store.layer("model", model), store.layer("params", params)
    store.name(f"{LIBRARY}/a/latest", store.manifest(*layers))
    with pytest.raises(WeightsError, match=r"no JSON object"):
        find_ollama("ollama:a")
