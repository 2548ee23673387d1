"""The arguments: read from a dict, a YAML or JSON file, or the command line, and checked once."""

from quire.arguments.base import parse_scalar
from quire.arguments.command_line import (
    FIELDS,
    read_assignments,
    read_words,
    split_bare_words,
    split_source,
)
from quire.arguments.groups import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
)
from quire.arguments.infer import ArgumentSource, InferArgs, get_infer_args, read_arguments

__all__ = [
    "FIELDS",
    "ArgumentSource",
    "DataArguments",
    "FinetuningArguments",
    "GeneratingArguments",
    "InferArgs",
    "ModelArguments",
    "get_infer_args",
    "parse_scalar",
    "read_arguments",
    "read_assignments",
    "read_words",
    "split_bare_words",
    "split_source",
]
