"""The arguments of a batch: LLaMA-Factory's names where it has them, and quire's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from quire.arguments import FIELDS, ArgumentSource, InferArgs, get_infer_args
from quire.arguments.base import (
    Arguments,
    ByteSize,
    Float,
    Integer,
    NameList,
    PathStr,
    PositiveInteger,
)
from quire.arguments.foreign import DATA_SET_KEYS, FOREIGN_KEYS
from quire.arguments.groups import GeneratingArguments
from quire.arguments.infer import read_arguments
from quire.batch.api_lines import ApiForm, ApiSettings
from quire.errors import ConfigError, UnknownArgumentError, nearest, sentence
from quire.options import REQUEST_OPTIONS

_SAMPLING = frozenset(GeneratingArguments.model_fields) & REQUEST_OPTIONS


def _numbers(value: Any) -> Any:
    """Numbers: a list, or one string with commas between them."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, (int, float)) else value


def _shard(value: Any) -> Any:
    """`2/8`: the second of eight parts."""
    if value is None or isinstance(value, (tuple, list)):
        return value
    part, slash, count = str(value).partition("/")
    if not (slash and part.strip().isdigit() and count.strip().isdigit()):
        raise ValueError(f"a part is named such as 1/8, not {value!r}")
    if not 1 <= int(part) <= int(count):
        raise ValueError(f"the part must be from 1 to {int(count)}, not {int(part)}")
    return (int(part), int(count))


def read_bounds(value: Any) -> Any:
    """`1-8`: the fewest and the most; `4`: exactly so many."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    least, dash, most = value.partition("-")
    most = most if dash else least
    if not (least.strip().isdigit() and most.strip().isdigit()):
        raise ValueError(f"a number such as 4 or bounds such as 1-8, not {value!r}")
    if not 1 <= int(least) <= int(most):
        raise ValueError(f"the fewest are at least 1, and at most as many as the most: {value!r}")
    return (int(least), int(most))


class BatchArguments(Arguments):
    """What is read, what is written, and when a batch gives up."""

    # --- what is read
    input: PathStr | None = None
    """A file of conversations or of OpenAI's batch requests, instead of data sets; `-` is standard
    input."""
    eval_dataset: NameList = None
    """Data sets to answer; it wins over `dataset`, as with LLaMA-Factory's `do_predict`."""
    val_size: Annotated[Float, Field(ge=0)] = 0.0
    """Of `dataset`, answer a random part only: a share below 1, or so many rows."""
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = (
        "concat"
    )
    """How several data sets become one: after one another, or drawn from in turns until the first,
    or the last, has ended; `interleave_once` repeats no row."""
    interleave_probs: Annotated[tuple[Float, ...] | None, BeforeValidator(_numbers)] = None
    """The share of each data set where they are interleaved."""
    shard: Annotated[tuple[int, int] | None, BeforeValidator(_shard)] = None
    """Answer one part of the rows only, such as `1/8`; `quire batch merge` joins the parts' files."""
    id_column: str | None = None
    """The column with each row's own name, which must differ; None takes `custom_id` or `id` where rows
    have it, an empty text none."""
    max_line_bytes: ByteSize = 64 * 1024 * 1024
    """A row of more bytes is refused, as that row's error."""

    # --- what is written
    output_dir: PathStr | None = None
    """The folder of all files that are written; None is the current folder."""
    save_name: PathStr = "generated_predictions.jsonl"
    """The file of answers; `.parquet` at its end writes that format."""
    matrix_save_name: PathStr | None = None
    """The file of metrics; None writes none, but for LLaMA-Factory's predict files."""
    overwrite_output_dir: bool = False
    """Whether files of another job, or of this one, are written over from the start."""
    output_order: Literal["input", "completion"] = "input"
    """The order of the answers: that of their rows, or that in which they end."""
    every_row: bool = False
    """Whether the file of answers has a line for each row, those that failed too."""
    keep_columns: NameList = None
    """Columns of the source that are written beside the answer; `*` is all of them."""
    api_form: ApiForm = "openai"
    """How failed requests of a batch file are written: a refused one as a response of OpenAI's service,
    or with its `error` and in the file of answers too, as `vllm run-batch` does."""

    # --- how it runs
    served_model_name: str | None = None
    """The name that requests of a batch file give as `model`; null takes the model's folder's."""
    seed: Integer | None = 42
    """From it and a row's place follows the seed of each row; null draws seeds at random."""
    batch_size: PositiveInteger = 1024
    """Rows of a window, in which those that begin alike are put together."""
    max_in_flight: PositiveInteger | None = None
    """Requests at the engine at once; None takes what keeps it full."""
    batch_backend: Literal["local", "ray"] = "local"
    """Where engines run: here, or in actors on a cluster of Ray."""
    ray_address: str | None = None
    """The cluster, such as `HOST:6379`; None takes RAY_ADDRESS, or one on this machine, which is
    started where there is none."""
    ray_actors: Annotated[tuple[int, int] | None, BeforeValidator(read_bounds)] = None
    """How many engines the cluster runs, such as `4`, or `1-8` for as many as there is work for; None
    takes what it has room for when the batch begins."""
    sync_interval: Annotated[Float, Field(gt=0)] = 5.0
    """Seconds after which what was answered is safe from a power cut; a process that is killed loses
    less than a second's."""
    drain_timeout: Annotated[Float, Field(ge=0)] = 30.0
    """Seconds that rows in flight may still take after SIGTERM."""
    retry_failed: bool = False
    """Whether rows that failed are tried again."""
    stop_after_failures: Annotated[Integer, Field(ge=0)] = 20
    """The batch ends where the first so many rows all fail; 0 goes on in any case."""
    max_failure_rate: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """The batch ends where, after 100 rows, a larger share has failed."""
    max_engine_restarts: Annotated[Integer, Field(ge=0)] = 10
    """How often an engine that dies is started again."""

    # --- LLaMA-Factory's words for the same thing
    do_predict: bool | None = None
    """True, or left out: a batch predicts."""
    predict_with_generate: bool | None = None
    """True, or left out: a batch generates."""

    @property
    def api_settings(self) -> ApiSettings:
        """How the requests of a batch file are asked."""
        return ApiSettings(
            self.seed,
            served_model_name=self.served_model_name,
            form=self.api_form,
            every_row=self.every_row,
        )


@dataclass(frozen=True, slots=True)
class BatchArgs:
    """All arguments of a batch."""

    infer: InferArgs
    model: Mapping[str, Any]
    """The arguments of the `ChatModel`, as they were given."""
    batch: BatchArguments
    options: Mapping[str, Any]
    """Request options that hold for all rows."""

    @property
    def cutoff_len(self) -> int | None:
        """The tokens to which prompts are cut with their labels; None where nobody asked for it."""
        given = "cutoff_len" in self.infer.data.model_fields_set
        return self.infer.data.cutoff_len if given else None


def get_batch_args(
    args: ArgumentSource = None, *, has_rows: bool = False, loaded: InferArgs | None = None
) -> BatchArgs:
    """Read and check the arguments of a batch.

    Args:
        args: see `get_infer_args`.
        has_rows: whether the caller has rows, so that no argument names any.
        loaded: the arguments of a model that the caller has loaded already. Then sampling settings
            are options of the requests, and all others of a model are refused.

    Raises:
        ConfigError: a value is not allowed, or none of `input`, `dataset`, `eval_dataset` is given.
        UnknownArgumentError: a key is unknown.
    """
    values = read_arguments(args)
    own = {key: values.pop(key) for key in [*values] if key in BatchArguments.model_fields}
    options = {
        key: values.pop(key) for key in [*values] if key in REQUEST_OPTIONS and key not in FIELDS
    }
    data_sets = {key: values.pop(key) for key in [*values] if key in DATA_SET_KEYS}
    _refuse_misspelt(values)
    batch = BatchArguments(**own)
    if (
        loaded is None
        and data_sets.get("cutoff_len") is not None
        and values.get("vllm_maxlen") is None
    ):
        values["vllm_maxlen"] = _length(data_sets["cutoff_len"], values)
    if loaded is None:
        infer = get_infer_args(values)
    else:
        infer, sampling = loaded, {key: values.pop(key) for key in [*values] if key in _SAMPLING}
        options |= GeneratingArguments(**sampling).explicit()
        _refuse_of_model(values)
    infer = infer._replace(data=infer.data.replace(**data_sets))
    _check(batch, infer, has_rows=has_rows)
    _check_ray(batch, has_model=loaded is not None)
    return BatchArgs(infer, values, batch, options)


def _refuse_misspelt(values: Mapping[str, Any]) -> None:
    """Refuse a key that is no argument, but nearly one of a batch's own."""
    for key in values:
        near = nearest(key, BatchArguments.model_fields)
        if near and key not in FIELDS and key not in FOREIGN_KEYS:
            raise UnknownArgumentError(sentence(f"Unknown argument {key!r}{near}"))


def _refuse_of_model(values: Mapping[str, Any]) -> None:
    """Refuse arguments that a model cannot take once it is loaded."""
    if values:
        raise ConfigError(
            f"The model is loaded already and cannot take {', '.join(values)}: leave them out, or give "
            "them when it is made."
        )


def _length(cutoff: Any, values: Mapping[str, Any]) -> Any:
    """A context for prompts that are cut to `cutoff` tokens, and their answers, as LLaMA-Factory has it."""
    answer = values.get("max_new_tokens") or GeneratingArguments().max_new_tokens
    return cutoff + answer if isinstance(cutoff, int) and isinstance(answer, int) else None


def _check(batch: BatchArguments, infer: InferArgs, *, has_rows: bool) -> None:
    sets = batch.eval_dataset or infer.data.dataset
    if has_rows and (batch.input is not None or sets):
        raise ConfigError("The rows were given by the caller: leave out input and data sets.")
    if batch.input is not None and sets:
        raise ConfigError("Rows come from input or from data sets: leave one of them out.")
    if not (has_rows or batch.input is not None or sets):
        raise ConfigError(
            "A batch needs rows: name data sets (dataset: NAME, from dataset_info.json in "
            "dataset_dir), or a file (input: FILE)."
        )
    if batch.do_predict is False or batch.predict_with_generate is False:
        name = "do_predict" if batch.do_predict is False else "predict_with_generate"
        raise ConfigError(f"{name}: false asks for no answers; leave it out.")


def _check_ray(batch: BatchArguments, *, has_model: bool) -> None:
    if batch.batch_backend != "ray" and (batch.ray_actors or batch.ray_address):
        raise ConfigError("ray_actors and ray_address go with batch_backend: ray.")
    if batch.batch_backend == "ray" and has_model:
        raise ConfigError(
            "With batch_backend: ray the engines are made on the cluster: give the model's arguments "
            "and no model."
        )
