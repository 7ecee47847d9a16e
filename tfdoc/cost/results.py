"""What an estimate says."""

from __future__ import annotations

from dataclasses import dataclass, field
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

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporaries: int
    kv_cache: int
    peak: int
    peak_moment: str
    peaks: dict[str, int]
    at_peak: dict[str, int]


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
    """What :func:`tfdoc.estimate` found; shows itself as a table in notebooks.

    Attributes
    ----------
    model, architecture : str
        The name that was asked for, and the class of Hugging Face.
    settings : dict
        Every argument as it was taken. Where transformers has no fused attention for a
        family, `attn` is ``eager`` here.
    parameters
        ``.total, .active, .embedding`` and ``.by_component``, of the model alone.
    memory
        In bytes: ``.weights`` as they are stored, adapters included, ``.gradients``,
        ``.optimizer``, ``.activations`` kept for the backward pass, ``.logits``,
        ``.kv_cache``; ``.peak`` and ``.peak_moment`` (``forward``, ``loss``,
        ``backward`` or ``step``); ``.peaks`` of each moment; ``.at_peak``, what the peak
        consists of; ``.temporaries``, what it holds besides the kinds above, autocast's
        copies of weights among it.
    flops
        ``.forward`` and ``.training_step``, matrix products only; 0 in inference.
    lora
        ``.trainable`` parameters of the adapters; 0 without.
    gpu, overhead : int
        Bytes; `gpu` is None if there was none.
    fits : bool or None
        Whether peak and overhead fit the GPU.
    largest_batch, largest_seq : int or None
        The largest that fit with all else as it is; 0 where none does.
    levers : dict of str to int
        What one change would make of the peak, the best first.
    steps : tuple
        Name, formula and numbers of what was counted.
    left_out : tuple of str
        Keys of a larger model that lies around the text model and is not counted.

    Examples
    --------
    >>> from tfdoc import estimate
    >>> step = estimate("gpt2", batch=8, seq=1024, precision="amp")
    >>> step.memory.peak == sum(step.memory.at_peak.values())
    True
    """

    model: str
    architecture: str
    settings: dict[str, Any]
    parameters: Parameters
    memory: Memory
    flops: Work
    lora: Adapters
    gpu: int | None
    overhead: int
    fits: bool | None
    largest_batch: int | None
    largest_seq: int | None
    levers: dict[str, int]
    steps: tuple[tuple[str, str, str], ...] = field(repr=False)
    left_out: tuple[str, ...]

    def _repr_html_(self) -> str:
        from tfdoc.cost.report import html  # noqa: PLC0415  # only notebooks need it

        return html(self)
