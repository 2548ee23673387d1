"""The four groups of arguments, named as in LLaMA-Factory, with quire's own `native_*` settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from quire.arguments.base import (
    Arguments,
    ByteSize,
    Dictionary,
    Float,
    Integer,
    NameList,
    NonNegativeInteger,
    PathStr,
    PositiveInteger,
)


def _none_is_null(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("", "none") else value


def _none_for_full(value: Any) -> Any:
    return None if value in ("none", "") else value


def _native_for_huggingface(value: Any) -> Any:
    name = str(value).lower()
    if name in ("sglang", "ktransformers", "kt"):
        raise ValueError(f"{value} is no engine of quire; use auto, vllm, native or remote")
    return "native" if name in ("huggingface", "hf") else value


def _known_stage(value: Any) -> Any:
    if value in ("ppo", "dpo", "kto"):
        raise ValueError(
            f"{value} is a way of training; leave stage out to chat with what came of it, or give rm "
            "for a reward model"
        )
    return value


Backend = Annotated[
    Literal["auto", "vllm", "native", "remote"], BeforeValidator(_native_for_huggingface)
]
RopeScaling = Annotated[
    Literal["linear", "dynamic", "yarn", "llama3"] | None, BeforeValidator(_none_is_null)
]


class ModelArguments(Arguments):
    """Which model, on which engine, and how the engine runs it."""

    model_name_or_path: PathStr = Field(min_length=1)
    """A folder in Hugging Face's form, or a name on the Hugging Face Hub."""
    adapter_name_or_path: NameList = None
    """LoRA adapters; the first is the default of every request."""
    adapter_folder: PathStr | None = None
    """Where adapters named by a request are looked for."""
    cache_dir: PathStr | None = None
    model_revision: str = "main"
    hf_hub_token: SecretStr | None = None
    use_fast_tokenizer: bool = True
    split_special_tokens: bool = False
    add_tokens: NameList = None
    add_special_tokens: NameList = None
    trust_remote_code: bool = False

    infer_backend: Backend = "auto"
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    rope_scaling: RopeScaling = None
    quantization_bit: Integer | None = None
    quantization_method: Literal[
        "bnb", "gptq", "awq", "aqlm", "quanto", "eetq", "hqq", "mxfp4", "fp8"
    ] = "bnb"
    use_kv_cache: bool = True

    image_max_pixels: PositiveInteger = 768 * 768
    image_min_pixels: PositiveInteger = 32 * 32
    video_max_pixels: PositiveInteger = 256 * 256
    video_min_pixels: PositiveInteger = 16 * 16
    video_fps: Annotated[Float, Field(gt=0)] = 2.0
    """Frames a second that are sampled from a video."""
    video_maxlen: PositiveInteger = 128
    """The most frames sampled from one video."""
    max_images: NonNegativeInteger = 4
    max_videos: NonNegativeInteger = 2
    max_audios: NonNegativeInteger = 2
    """The most images, videos and audios of one prompt."""
    use_audio_in_video: bool = False
    audio_sampling_rate: PositiveInteger = 16000
    """Hertz."""

    vllm_maxlen: PositiveInteger = 4096
    """The most tokens of prompt and answer together, on every engine."""
    vllm_gpu_util: Annotated[Float, Field(gt=0, le=1)] = 0.7
    vllm_enforce_eager: bool = False
    vllm_max_lora_rank: PositiveInteger = 32
    vllm_config: Dictionary | None = None
    """Engine arguments of vLLM that override all others: a dict, JSON text, or a file's path."""
    vllm_start_timeout: Annotated[Float, Field(gt=0)] = 600.0
    """Seconds that vLLM may take to start; then it is ended, with an error."""
    vllm_max_restarts: Annotated[Integer, Field(ge=0)] = 0
    """How often an engine of vLLM that died is started again, in all."""

    remote_base_url: NameList = None
    """Addresses of running vLLM or quire servers, such as `http://10.0.0.5:8000`; the one with the
    fewest requests of this process in flight gets the next."""
    remote_api: Literal["auto", "tokens", "chat"] = "auto"
    """What is sent there: token ids (needs the model's folder here, for its template and
    tokenizer), or messages; auto takes tokens where `model_name_or_path` is a folder."""
    remote_model: str | None = None
    """The model's name at the servers; None takes the first that they list."""
    remote_api_key: SecretStr | None = None
    """None takes the environment's QUIRE_REMOTE_API_KEY, if it is there."""

    native_block_size: Annotated[Integer, Field(ge=1, le=1024)] = 16
    """Tokens in one block of the KV cache."""
    native_kv_cache_memory: ByteSize | None = None
    """Bytes of the KV cache, or text such as `2GiB`; None takes a share of what is free."""
    native_memory_util: Annotated[Float, Field(gt=0, le=1)] = 0.7
    """The share of free memory that the KV cache may take at most."""
    native_max_sequences: PositiveInteger = 256
    """The most sequences that run at once; others wait."""
    native_max_batch_tokens: PositiveInteger = 2048
    """The most tokens computed in one step; longer prompts are computed in several."""
    native_num_threads: PositiveInteger | None = None
    """Threads of the kernels; None takes all cores that this process may use."""
    native_prefix_caching: bool = True
    native_kv_cache_dtype: Literal["auto", "float32", "float16", "int8"] = "auto"
    """The type of the KV cache: float16 halves its memory and its traffic, int8 nearly quarters them.
    auto is float16 where weights are quantised, else float32."""
    native_quantization: Annotated[
        Literal["int8", "int4"] | None, BeforeValidator(_none_for_full)
    ] = None
    """Round the weights to so many bits at load; the result is kept in the cache folder."""
    native_speculation: Annotated[Integer, Field(ge=0, le=64)] = 0
    """The most tokens that a stream guesses ahead in one step, from what followed the same words in
    its prompt and answer; 0 for none. It makes answers that repeat their prompt faster and changes
    no token; 8 is a good number."""

    def hub_token(self) -> str | None:
        """The hub's token in plain text, for the hub's client alone."""
        return None if self.hf_hub_token is None else self.hf_hub_token.get_secret_value()

    @model_validator(mode="after")
    def _check_pixels(self) -> Self:
        for kind in ("image", "video"):
            low, high = getattr(self, f"{kind}_min_pixels"), getattr(self, f"{kind}_max_pixels")
            if high < low:
                raise ValueError(
                    f"{kind}_max_pixels ({high:,}) cannot be below {kind}_min_pixels ({low:,})"
                )
        return self


class DataArguments(Arguments):
    """How conversations become prompts, and where batches come from."""

    template: Annotated[str | None, BeforeValidator(_none_is_null)] = None
    """A named template; None takes the model's own chat template."""
    tool_format: Annotated[str | None, BeforeValidator(_none_is_null)] = None
    default_system: str | None = None
    enable_thinking: bool | None = True
    """False asks a reasoning model to answer at once; None leaves it to the template."""
    preserve_thinking: bool = False
    """Whether thoughts of earlier turns stay in the prompt."""
    media_dir: PathStr | None = None
    """Where relative paths of media are looked for first, before the current folder."""

    # For runs over data sets; nothing reads these yet, and the log says so (see `foreign.py`).
    dataset: NameList = None
    dataset_dir: PathStr = "data"
    cutoff_len: PositiveInteger = 2048
    max_samples: PositiveInteger | None = None


class FinetuningArguments(Arguments):
    """How the model was trained, as far as inference must know."""

    stage: Annotated[Literal["pt", "sft", "rm"], BeforeValidator(_known_stage)] = "sft"
    """`pt` and `sft` generate, `rm` scores."""
    finetuning_type: Literal["lora", "oft", "freeze", "full"] = "lora"


class GeneratingArguments(Arguments):
    """The configuration's sampling settings; a request's own win over them."""

    do_sample: bool = True
    temperature: Annotated[Float, Field(ge=0, le=100)] = 0.95
    top_p: Annotated[Float, Field(ge=0, le=1)] = 0.7
    """0 means unset: 1.0."""
    top_k: Annotated[Integer, Field(ge=-1)] = 50
    """0 and -1 mean all tokens."""
    num_beams: Annotated[Integer, Field(ge=1)] = 1
    max_length: PositiveInteger = 1024
    max_new_tokens: PositiveInteger = 1024
    repetition_penalty: Annotated[Float, Field(ge=0, le=100)] = 1.0
    """0 means unset: 1.0."""
    length_penalty: Float = 1.0
    skip_special_tokens: bool = True

    @model_validator(mode="before")
    @classmethod
    def _non_positive_is_unset(cls, values: Any) -> Any:
        """LLaMA-Factory reads `max_new_tokens: 0` or below as "use max_length"."""
        if not isinstance(values, dict):
            return values
        value = values.get("max_new_tokens")
        unset = isinstance(value, (int, float)) and not isinstance(value, bool) and value <= 0
        return {k: v for k, v in values.items() if not (unset and k == "max_new_tokens")}

    @model_validator(mode="after")
    def _refuse_beams(self) -> Self:
        if self.num_beams != 1:
            raise ValueError(
                "num_beams above 1 (beam search) is not supported; sample several answers with "
                "num_return_sequences"
            )
        if self.length_penalty != 1.0:
            raise ValueError("length_penalty belongs to beam search, which is not supported")
        return self
