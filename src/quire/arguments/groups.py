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
    """LoRA adapters, each a folder or a name on the Hub; a request that names none gets the sum of all,
    in order."""
    adapter_folder: PathStr | None = None
    """A subfolder of each adapter, such as `checkpoint-500`, where one has it; else the folder in
    which adapters named by a request are looked for."""
    cache_dir: PathStr | None = None
    """Where downloads from the Hugging Face Hub are kept; None takes the Hub's own folder."""
    model_revision: str = "main"
    """The branch, tag or commit of a model on the Hub, and of adapters there."""
    hf_hub_token: SecretStr | None = None
    """For models on the Hub that are not public; None takes the Hub's own settings."""
    ms_hub_token: SecretStr | None = None
    """For models on ModelScope that are not public. Names are ModelScope's where the environment's
    USE_MODELSCOPE_HUB is 1."""
    use_fast_tokenizer: bool = True
    """Without effect: tokenizers are always the fast ones."""
    split_special_tokens: bool = False
    """Refused: users' text never becomes control tokens, and the template's always do."""
    add_tokens: NameList = None
    """Tokens that the tokenizer gets beside its own."""
    add_special_tokens: NameList = None
    """The same for special tokens, which `skip_special_tokens` leaves out of answers."""
    resize_vocab: bool = False
    """Whether the native engine makes rows of the embeddings and the head for added tokens."""
    trust_remote_code: bool = False
    """Whether vLLM may run Python code of the model's repository; the native engine never does."""

    infer_backend: Backend = "auto"
    """The engine; auto is vLLM where it is installed and a GPU is present, else native."""
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """What the model computes in; auto is the checkpoint's own, as far as the engine has it."""
    rope_scaling: RopeScaling = None
    """How a context longer than the trained one is reached, up to `vllm_maxlen`."""
    quantization_bit: Integer | None = None
    """Round the weights to so many bits at load: 8 or 4."""
    quantization_method: Literal[
        "bnb", "gptq", "awq", "aqlm", "quanto", "eetq", "hqq", "mxfp4", "fp8"
    ] = "bnb"
    """How vLLM rounds at load: bnb with 4 bits, fp8 with 8. The native engine has its own way."""
    use_kv_cache: bool = True
    """Without effect: there always is a KV cache."""

    image_max_pixels: PositiveInteger = 768 * 768
    """A larger image is scaled down to so many pixels."""
    image_min_pixels: PositiveInteger = 32 * 32
    """A smaller image is scaled up to so many pixels."""
    video_max_pixels: PositiveInteger = 256 * 256
    """A larger frame of a video is scaled down to so many pixels."""
    video_min_pixels: PositiveInteger = 16 * 16
    """A smaller frame of a video is scaled up to so many pixels."""
    video_fps: Annotated[Float, Field(gt=0)] = 2.0
    """Frames a second that are sampled from a video."""
    video_maxlen: PositiveInteger = 128
    """The most frames sampled from one video."""
    max_images: NonNegativeInteger = 4
    """The most images of one prompt."""
    max_videos: NonNegativeInteger = 2
    """The most videos of one prompt."""
    max_audios: NonNegativeInteger = 2
    """The most sounds of one prompt."""
    use_audio_in_video: bool = False
    """Whether a video brings its sound, for models that hear and see."""
    audio_sampling_rate: PositiveInteger = 16000
    """Hertz that sounds are brought to."""

    vllm_maxlen: PositiveInteger = 4096
    """The most tokens of prompt and answer together, on every engine."""
    vllm_gpu_util: Annotated[Float, Field(gt=0, le=1)] = 0.7
    """The share of a GPU's memory that vLLM may take; on a CPU, of what the weights leave free."""
    vllm_enforce_eager: bool = False
    """Whether vLLM compiles nothing: it starts sooner and answers more slowly."""
    vllm_max_lora_rank: PositiveInteger = 32
    """The highest rank of adapters that are loaded later; those named here say their own."""
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
    native_max_batch_tokens: PositiveInteger | None = None
    """The most tokens computed in one step; longer prompts are computed in several. None takes 512, or 2048
    for a model with experts, and at least one for each sequence."""
    native_num_threads: PositiveInteger | None = None
    """Threads of the kernels; None takes all cores that this process may use."""
    native_prefix_caching: bool = True
    """Whether prompts that begin alike share what was computed of them."""
    native_kv_cache_dtype: Literal["auto", "float32", "float16", "int8"] = "auto"
    """The type of the KV cache: float16 halves its memory and its traffic, int8 nearly quarters them.
    auto is float16 where weights are quantised (but with native_precision exact), else float32."""
    native_quantization: Annotated[
        Literal["int8", "int4"] | None, BeforeValidator(_none_for_full)
    ] = None
    """Round the weights to so many bits at load; the result is kept in the cache folder."""
    native_precision: Literal["exact", "fast"] = "exact"
    """How activations are rounded for the quantised weights of a GGUF file, and for MXFP4: exact to 16
    bits, so that answers are those of the dequantised weights; fast to 8 bits in groups of 32, as
    llama.cpp does."""
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
    """How tools and calls are written; None takes the chat template's own form."""
    default_system: str | None = None
    """The system message of conversations that bring none."""
    enable_thinking: bool | None = None
    """False asks a reasoning model to answer at once. Without it, a model's own template does what its
    author chose, and a named one lets the model think."""
    preserve_thinking: bool = False
    """Whether thoughts of earlier turns stay in the prompt."""
    chat_template_kwargs: Dictionary | None = None
    """Further variables for the model's own chat template, such as `{reasoning_effort: high}`; one
    that it never reads is refused. A request's own win over them, one by one."""
    media_dir: PathStr | None = None
    """Where relative paths of media are looked for first, before the current folder."""

    # For batches alone; elsewhere the log names them (see `foreign.py`).
    dataset: NameList = None
    """Data sets that `quire batch` answers: names of dataset_info.json, or paths of files."""
    dataset_dir: PathStr | dict[str, Any] = "data"
    """The folder of dataset_info.json and of its files, for batches; or that file's content; or ONLINE,
    where data sets are a hub's, or REMOTE:NAME, a repository that holds the file."""
    cutoff_len: PositiveInteger = 2048
    """In batches, where it is given: prompts with more tokens than this, their label's included, lose
    their end."""
    max_samples: PositiveInteger | None = None
    """In batches: the most rows of each data set, its first ones."""


class FinetuningArguments(Arguments):
    """How the model was trained, as far as inference must know."""

    stage: Annotated[Literal["pt", "sft", "rm"], BeforeValidator(_known_stage)] = "sft"
    """`pt` and `sft` generate, `rm` scores."""
    finetuning_type: Literal["lora", "oft", "freeze", "full"] = "lora"
    """Adapters go with lora alone."""


class GeneratingArguments(Arguments):
    """The configuration's sampling settings; a request's own win over them."""

    do_sample: bool = True
    """Whether tokens are drawn; false takes the likeliest one each time."""
    temperature: Annotated[Float, Field(ge=0, le=100)] = 0.95
    """Divides the logits before a draw: below 1 the likely become likelier. 0 is greedy."""
    top_p: Annotated[Float, Field(ge=0, le=1)] = 0.7
    """Draw from the likeliest tokens that together have this probability. 0 means unset: 1.0."""
    top_k: Annotated[Integer, Field(ge=-1)] = 50
    """Draw from so many of the likeliest tokens. 0 and -1 mean all."""
    num_beams: Annotated[Integer, Field(ge=1)] = 1
    """Beam search, which is not supported: 1 alone."""
    max_length: PositiveInteger = 1024
    """The most tokens of prompt and answer together, where `max_new_tokens` is not given."""
    max_new_tokens: PositiveInteger = 1024
    """The most tokens of an answer; cut to what fits the context. 0 and below mean unset."""
    repetition_penalty: Annotated[Float, Field(ge=0, le=100)] = 1.0
    """Makes tokens of prompt and answer less likely to come again. 0 means unset: 1.0."""
    length_penalty: Float = 1.0
    """Of beam search, which is not supported: 1.0 alone."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of an answer's text."""
    thinking_budget: Annotated[Integer, Field(ge=0, le=2**31 - 1)] | None = None
    """The most tokens of a thought, which is then closed; a request's own wins. Only for models that
    close a thought with one token."""

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
