"""What a model folder says about its tokenizer: the files that transformers reads, read alike."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.errors import ModelNotFoundError, UnsupportedModelError
from quire.json_files import read_json_object
from quire.machine.cache import file_digest, keep, key_of, read_kept
from quire.machine.content import foreign_content

ChatTemplate: TypeAlias = str | dict[str, str] | None
"""One chat template, or several by name, or none."""

_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_OLD_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
_CONVERTERS = ("transformers", "tokenizers", "sentencepiece", "tiktoken", "protobuf")
"""The packages that a conversion follows from."""
DECLARATIONS = ("response_template", "response_schema")
"""The entries of tokenizer_config.json that declare how the model answers; the first counts."""
_WEIGHTS = frozenset(
    {".bin", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".pt", ".pth", ".safetensors"}
)


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """The special tokens by name, the chat template, and what else is said of answers."""

    special_tokens: dict[str, str]
    chat_template: ChatTemplate
    declarations: dict[str, Any]
    """The entries of tokenizer_config.json that declare how the model answers, as they are."""


def load_backend(folder: Path) -> Backend:
    """Load `tokenizer.json`, or convert the older files of a folder without it.

    Raises:
        ModelNotFoundError: the folder holds no tokenizer.
        UnsupportedModelError: the tokenizer's files cannot be read.
    """
    path = folder / "tokenizer.json"
    is_old = not path.is_file()
    if is_old and not any((folder / name).is_file() for name in _OLD_FILES):
        raise ModelNotFoundError(f"{folder} holds no tokenizer: tokenizer.json is missing.")
    converted = _converted(folder) if is_old else None
    try:
        backend = (
            Backend.from_file(str(path)) if converted is None else Backend.from_buffer(converted)
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises Exception itself, and its panics are none
        text = foreign_content(path) or str(error)[:500]
        raise UnsupportedModelError(f"{path} is no tokenizer that can be read: {text}.") from None
    # Many files keep the settings of training, which would cut prompts or fill them up.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _converted(folder: Path) -> bytes:
    """A SentencePiece (or other older) tokenizer as a `tokenizer.json`, converted once and kept."""
    try:
        name = f"tokenizer-{_conversion_key(folder)}.json"
    except OSError:  # a file that cannot be read, and that transformers need not read
        return _convert(folder)
    kept = read_kept(name)
    if kept is not None:
        return bytes(kept)
    content = _convert(folder)
    keep(name, lambda path: path.write_bytes(content), "converted tokenizers")
    return content


def _conversion_key(folder: Path) -> str:
    """A name for everything that a conversion follows from.

    What transformers reads depends on the kind of tokenizer, which config.json may say or the
    folder's own path. So this is every file of the folder but its weights.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix not in _WEIGHTS]
    digests = [(path.name, file_digest(path)) for path in files if path.is_file()]
    return key_of(str(folder.absolute()), digests, [_version_of(name) for name in _CONVERTERS])


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _convert(folder: Path) -> bytes:
    """Convert with transformers."""
    try:
        from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UnsupportedModelError(
            f"{folder} has no tokenizer.json, only an older form of tokenizer. Converting it needs "
            "pip install 'quire-llm[convert]'; or save it once with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        ) from None
    try:
        converted = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        return converted.backend_tokenizer.to_str().encode()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        foreign = (text for name in _OLD_FILES if (text := foreign_content(folder / name)))
        raise UnsupportedModelError(
            f"The tokenizer of {folder} cannot be converted: {next(foreign, None) or error}."
        ) from None


def load_settings(folder: Path, backend: Backend) -> TokenizerSettings:
    """Read the configuration files, and give the backend the added tokens that they name.

    Raises:
        UnsupportedModelError: a file is no valid JSON of its kind.
    """
    config = _read_json(folder / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        decoder = {}
        # Older versions of transformers wrote these into two further files.
        config.update(_read_json(folder / "special_tokens_map.json"))
        for text, number in _read_json(folder / "added_tokens.json").items():
            if backend.id_to_token(number) != text:
                decoder[str(number)] = {"content": text}
    try:
        named = _named_tokens(config)
        wanted = [token for _, token in sorted(decoder.items(), key=lambda item: int(item[0]))]
        _add_tokens(backend, wanted, list(named.values()), _extra_tokens(config))
        special = {name: str(_text(token)) for name, token in named.items()}
        declarations = {key: config[key] for key in DECLARATIONS if key in config}
        return TokenizerSettings(special, _chat_template(folder, config), declarations)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{folder / 'tokenizer_config.json'} holds tokens or templates of an unknown form: "
            f"{type(error).__name__}: {error}."
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_json_object(path)
    except ValueError as error:
        raise UnsupportedModelError(f"{path} cannot be read: {error}.") from None


def _text(token: Any) -> str | None:
    """A token's text: written as a string, or as an object with its flags."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _named_tokens(config: dict[str, Any]) -> dict[str, Any]:
    """The special tokens by the names that a chat template may use.

    Besides those that every tokenizer has, these are a model's own: each `..._token` of the
    configuration, and `extra_special_tokens` where that gives names.
    """
    own = [name for name in config if name.endswith("_token") and name not in _NAMED]
    named = {name: config.get(name) for name in (*_NAMED, *own)}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= extra
    return {name: token for name, token in named.items() if _text(token)}


def _extra_tokens(config: dict[str, Any]) -> list[Any]:
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    return list(extra.values()) if isinstance(extra, dict) else list(extra)


def _add_tokens(backend: Backend, listed: list[Any], named: list[Any], extra: list[Any]) -> None:
    """Add what the backend lacks: listed tokens with their flags, the others as special ones."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    missing: list[AddedToken] = []
    names = {_text(token) for token in named}
    for token in listed:
        made = _make_token(token, special=_text(token) in names)
        old = known.get(made.content)
        if old is None or any(getattr(old, flag) != getattr(made, flag) for flag in _FLAGS):
            missing.append(made)
            known[made.content] = made
    for token in (*named, *extra):
        if (text := _text(token)) and text not in known:
            known[text] = _make_token(token, special=True)
            missing.append(known[text])
    if missing:
        backend.add_tokens(missing)


def _make_token(token: Any, special: bool) -> AddedToken:
    flags = token if isinstance(token, dict) else {}
    text = _text(token)
    if not text:
        raise ValueError(f"a token without text, {repr(token)[:200]}")
    special = special or bool(flags.get("special", False))
    chosen = {flag: bool(flags[flag]) for flag in _FLAGS[:4] if flag in flags}
    return AddedToken(text, special=special, **{"normalized": not special, **chosen})


def _chat_template(folder: Path, config: dict[str, Any]) -> ChatTemplate:
    """The chat template: files of its own win over the configuration's entry."""
    files: dict[str, str] = {}
    single = folder / "chat_template.jinja"
    if single.is_file():
        files["default"] = single.read_text(encoding="utf-8")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        files[path.stem] = path.read_text(encoding="utf-8")
    if not files:
        entry = _read_json(folder / "chat_template.json").get("chat_template")
        return _named_templates(entry or config.get("chat_template"))
    return files["default"] if list(files) == ["default"] else files


def _named_templates(entry: Any) -> ChatTemplate:
    """One template as a string; several as a list of names and templates, or by name."""
    if isinstance(entry, list):
        entry = {item["name"]: item["template"] for item in entry if isinstance(item, dict)}
    if isinstance(entry, dict):
        return {str(name): str(text) for name, text in entry.items()} or None
    return entry if isinstance(entry, str) else None
