"""A peer as if the processor had nothing after AVX2, which is what most machines have."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.peers import llama_cpp, openvino, quire
from benchmarks.peers.process import Peer

VARIABLES = {
    quire.PEER.name: ("QUIRE_SIMD", "avx2"),
    # oneDNN's own, which OpenVINO's kernels ask too what they may use.
    openvino.PEER.name: ("ONEDNN_MAX_CPU_ISA", "AVX2"),
}
LLAMA_CPP = (
    "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
    " -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF"
)


NARROWED = (*VARIABLES, llama_cpp.PEER.name)
"""The peers that can be told."""


def as_avx2(peer: Peer) -> Peer:
    """The peer, told or built to use AVX2 at most.

    Raises:
        ValueError: there is no way to tell it.
    """
    if peer.name in VARIABLES:
        return replace(peer, variables=(VARIABLES[peer.name],))
    if peer.name != llama_cpp.PEER.name:
        raise ValueError(f"{peer.name} takes what the processor has")
    usual = peer.environment
    assert usual is not None
    built = replace(
        usual,
        name="llama_cpp_avx2",
        options=(*usual.options, "--no-cache-dir"),  # pip keeps what was built for this processor
        settings={"CMAKE_ARGS": LLAMA_CPP},
    )
    return replace(peer, environment=built)
