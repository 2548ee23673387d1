"""llama.cpp, built from source for this processor, driven through the batch API of its bindings.

The loop is that of its own `llama-batched-bench`, with an argmax in the place of random tokens:
one context for as many sequences as there are streams, and one token of each in every batch.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environment import Environment
from benchmarks.peers.process import Configuration, Peer
from benchmarks.peers.worker import Prompt, Side, cores, serve

PEER = Peer(
    name="llama.cpp",
    module="benchmarks.peers.llama_cpp",
    configurations=(
        Configuration("f32", "full"),
        Configuration("Q8_0", "8-bit"),
        Configuration("Q4_0", "4-bit"),
    ),
    environment=Environment(
        name="llama_cpp",
        requirements=("llama-cpp-python", "gguf"),
        options=("--no-binary", "llama-cpp-python"),
        settings={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF"},
    ),
)
BATCH = 2048
FULL = "f32.gguf"


def convert(model: Path, target: Path, configuration: str) -> None:
    """Write the model as GGUF in float32; llama.cpp itself quantises that."""
    if configuration == "f32":
        write_gguf(model, target / FULL)
        return
    full = target / FULL
    write_gguf(model, full)
    import llama_cpp as api

    settings = api.llama_model_quantize_default_params()
    settings.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{configuration}")
    settings.nthread = cores()
    place = target / f"{configuration}.gguf"
    code = api.llama_model_quantize(str(full).encode(), str(place).encode(), ctypes.byref(settings))
    full.unlink()
    if code != 0:
        raise RuntimeError(f"llama_model_quantize ended with {code}")


def write_gguf(model: Path, file: Path) -> None:
    """A Qwen2 folder of safetensors as GGUF, float32."""
    import gguf

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, model)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, array in _tensors(model):
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is not None:
            writer.add_tensor(new, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, model: Path) -> None:
    import gguf

    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    special = {token["content"] for token in content["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[token not in special] for token in tokens])
    merges = content["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])


def _tensors(model: Path) -> list[tuple[str, Any]]:
    """All tensors as float32; bfloat16 is the upper half of a float32's bits."""
    import numpy as np

    data = (model / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found: list[tuple[str, Any]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            halves = np.frombuffer(data[start:end], np.uint16)
            array = (halves.astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(data[start:end], np.float32)
        found.append((name, array.reshape(entry["shape"])))
    return found


class LlamaCpp:
    def __init__(self, place: Path) -> None:
        import llama_cpp as api

        self.version: str = api.__version__
        self.api: Any = api
        self._quiet = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._quiet, None)
        self.model = api.llama_model_load_from_file(
            str(place).encode(), api.llama_model_default_params()
        )
        self.vocab_size: int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(BATCH, 0, 1)
        self.context: Any = None
        self.size = (0, 0)

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """See worker.Side."""
        self._fit(len(prompts), max(len(prompt.ids) for prompt in prompts) + new_tokens)
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        tokens = self._prefill([prompt.ids for prompt in prompts])
        lengths = [len(prompt.ids) for prompt in prompts]
        for step in range(new_tokens):
            if on_token is not None:
                on_token()
            if step + 1 < new_tokens:
                rows = [
                    (token, length + step, stream)
                    for stream, (token, length) in enumerate(zip(tokens, lengths, strict=True))
                ]
                tokens = self._decode(rows, [True] * len(rows))
        return len(prompts) * new_tokens

    def _fit(self, streams: int, length: int) -> None:
        """A context for so many sequences; the one before is kept where it is large enough."""
        room = -(-length // 256) * 256
        if (streams, room) == self.size:
            return
        if self.context is not None:
            self.api.llama_free(self.context)
        settings = self.api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = room * streams, streams
        settings.n_batch = BATCH
        settings.n_threads = settings.n_threads_batch = cores()
        self.context = self.api.llama_init_from_model(self.model, settings)
        self.size = (streams, room)

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Compute the prompts, as many of their tokens as a batch holds at once."""
        rows = [
            (token, position, stream)
            for stream, ids in enumerate(prompts)
            for position, token in enumerate(ids)
        ]
        last = [position + 1 == len(prompts[stream]) for _, position, stream in rows]
        found: list[int] = []
        for start in range(0, len(rows), BATCH):
            found += self._decode(rows[start : start + BATCH], last[start : start + BATCH])
        return found

    def _decode(self, rows: Sequence[tuple[int, int, int]], wanted: Sequence[bool]) -> list[int]:
        """Run rows of (token, position, sequence); the likeliest token after each that is wanted."""
        import numpy as np

        batch = self.batch
        batch.n_tokens = len(rows)
        for place, ((token, position, stream), want) in enumerate(zip(rows, wanted, strict=True)):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = stream
            batch.logits[place] = want
        code = self.api.llama_decode(self.context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode ended with {code}")
        count = sum(wanted)
        if not count:
            return []
        address = self.api.llama_get_logits(self.context)
        logits = np.ctypeslib.as_array(address, (count, self.vocab_size))
        return logits.argmax(1).tolist()


def make(model: Path, target: Path, configuration: str) -> Side:
    return LlamaCpp(model if model.suffix == ".gguf" else target / f"{configuration}.gguf")


if __name__ == "__main__":
    serve(make, convert)
