"""Will it fit: parameters, memory and operations of a training step or a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, tied ones once."""

    total: int
    active: int
    embedding: int
    by_component: dict[str, int]


@dataclass(frozen=True)
class Memory:
    """Bytes: what each kind takes, the peak, when it comes and of what it consists."""

    weights: int  # as stored, adapters included
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass; 0 in inference
    logits: int
    temporaries: int  # what the peak holds besides all the others
    kv_cache: int
    peak: int
    peak_moment: str  # forward, loss, backward or step
    peaks: dict[str, int]  # of each moment, in the order they come
    at_peak: dict[
        str, int
    ]  # kinds as above, those that are 0 left out; adds up to peak


@dataclass(frozen=True)
class Work:
    """Floating point operations of matrix products."""

    forward: int
    training_step: int


@dataclass(frozen=True)
class Adapters:
    """What LoRA trains."""

    trainable: int


@dataclass(frozen=True)
class Estimate:
    """What :func:`tfdoc.estimate` found."""

    model: str  # name of the preset, or the architecture
    architecture: str
    settings: dict[str, Any]  # every argument as it was taken
    parameters: Parameters
    memory: Memory
    flops: Work
    lora: Adapters
    gpu: int | None  # bytes
    overhead: int
    fits: bool | None
    largest_batch: (
        int | None
    )  # that fits the GPU with everything else as it is; 0: none
    largest_seq: int | None
    levers: dict[str, int]  # what one change would make of the peak, the best first
    steps: tuple[tuple[str, str, str], ...]  # of --explain: name, formula, with numbers
    left_out: tuple[str, ...]  # keys of a larger model that is not counted


def estimate(
    config: Any,
    mode: str = "train",
    batch: int = 1,
    seq: int | None = None,  # 2048, or what the model has positions for
    precision: str = "bf16",  # fp32, bf16, amp
    attn: str = "sdpa",  # or eager
    *,
    checkpointing: bool = False,
    optim: str = "adamw",  # adamw8bit, sgd, none
    lora: dict[str, Any] | None = None,  # {"r": 16, "targets": "all-linear"}
    quant: str | None = None,  # int8, nf4
    logits: str = "all",  # or last; inference only
    accumulate: int = 1,
    kv_dtype: str = "bf16",  # or fp8, fp32, fp16
    requests: int | None = None,  # caches held at once; the batch by default
    gpu: str | int | None = None,  # "24GiB", a name, or bytes
    overhead: int = 0,  # bytes on top: CUDA context and the like
    architecture: str | None = None,
) -> Estimate:
    """Return what a step needs."""
    raise ValueError("under construction")
