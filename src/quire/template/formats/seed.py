"""Seed."""

from __future__ import annotations

from quire.template.format import BOS, EOS, Format

SEED_CODER = Format(
    name="seed_coder",
    user=(BOS, "user\n{content}", EOS, BOS, "assistant\n"),
    system=(BOS, "system\n{content}", EOS),
    default_system=(
        "You are an AI programming assistant, utilizing the Seed-Coder model, developed by "
        "ByteDance Seed, and you only answer questions related to computer science. For "
        "politically sensitive questions, security and privacy issues, and other "
        "non-computer science questions, you will refuse to answer.\n\n"
    ),
)

SEED_OSS = SEED_CODER.derive(
    "seed_oss",
    function=(BOS, "\n{content}", EOS),
    default_system="",
    tools="seed_oss",
    reasoning=True,
    thought_words=("<seed:think>", "</seed:think>"),
)

FORMATS = (
    SEED_CODER,
    SEED_OSS,
)
