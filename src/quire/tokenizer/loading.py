"""A model folder's tokenizer with the tokens that the arguments add."""

from __future__ import annotations

from pathlib import Path

from quire.arguments import ModelArguments
from quire.errors import ConfigError
from quire.tokenizer.tokenizer import Tokenizer


def load_tokenizer(folder: Path, model_args: ModelArguments) -> Tokenizer:
    """Load it, and add `add_tokens` and `add_special_tokens`."""
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer.add_tokens(model_args.add_tokens or ())
    tokenizer.add_tokens(model_args.add_special_tokens or (), special=True)
    return tokenizer


def added_tokens(model_args: ModelArguments) -> tuple[str, ...]:
    """The tokens that the arguments add."""
    return (*(model_args.add_tokens or ()), *(model_args.add_special_tokens or ()))


def token_count(tokenizer: Tokenizer) -> int:
    """How many rows an embedding needs for all tokens of the tokenizer."""
    return max(tokenizer.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def check_vocabulary(tokenizer: Tokenizer, model_args: ModelArguments, rows: int) -> None:
    """A token that was added must have a row in the embedding, or it would be another's.

    Raises:
        ConfigError: there is no row left for it.
    """
    for token in added_tokens(model_args):
        number = tokenizer.token_to_id(token)
        if number is None or number >= rows:
            raise ConfigError(
                f"The token {token!r} cannot be added: the model's embedding has {rows:,} rows, and "
                "none is left for it. Use the folder that was saved after training with the token; "
                "on the native engine an adapter may bring its row (modules_to_save or "
                "save_embedding_layers), or resize_vocab: true makes one."
            )
