"""What tfdoc sets out to reach: at most this ratio to the best peer, or to one of them."""

from __future__ import annotations

from typing import NamedTuple

BOTH = ("fwd", "fwdbwd")


class Goal(NamedTuple):
    """The ratio of times in a case, and the start of the name of whom it is to."""

    at_most: float
    against: str = ""


def _same(goal: float, *cases: str, modes: tuple[str, ...] = BOTH) -> dict[str, Goal]:
    return {f"{case}/m/{mode}": Goal(goal) for case in cases for mode in modes}


GOALS: dict[str, Goal] = {
    **_same(1.02, "attn/full", "attn/causal", "attn/padding"),
    **_same(0.70, "attn/window"),
    "attn/window/l/fwd": Goal(0.35),
    "attn/window/l/fwdbwd": Goal(0.35),
    "attn/decode_gqa/m/fwd": Goal(0.65),
    **_same(1.00, "mha/bidir", "mha/causal", "norm/layer", "ffn/gelu", "ffn/swiglu"),
    **_same(0.90, "mha/llama"),
    **_same(0.65, "norm/rms"),
    "ffn/moe/m/fwd": Goal(0.97),
    "ffn/moe/m/fwdbwd": Goal(1.00),
    "rope/m/fwd": Goal(0.20, "HF"),
    **_same(0.98, "encoder/nomask", "encoder/padded", modes=("fwd",)),
    "lm/gpt2/fwd/m/fwd": Goal(0.97),
    "lm/llama/fwd/m/fwd": Goal(0.97),
    "lm/gpt2/train/m/train": Goal(0.80, "HF GPT2LMHeadModel sdpa (gelu)"),
    "lm/llama/train/m/train": Goal(0.80, "HF LlamaForCausalLM sdpa"),
    "gen/gpt2/m-b1/gen": Goal(0.95),
    "gen/gpt2/m-b8/gen": Goal(0.95),
    "gen/llama/m-b1/gen": Goal(0.75),
    "gen/llama/m-b8/gen": Goal(0.75),
}

# Peak memory of causal attention over 8192 tokens above its inputs, in MB.
MEMORY_AT_MOST = 12.0
