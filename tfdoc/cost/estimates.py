"""Will it fit: parameters, memory and operations of a training step or a request."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from tfdoc._checks import count
from tfdoc.cost.advice import Advice
from tfdoc.cost.budget import Budget
from tfdoc.cost.choices import budget_of
from tfdoc.cost.explained import explained
from tfdoc.cost.results import Adapters, Estimate, Memory, Parameters, Work
from tfdoc.cost.sums import ledger
from tfdoc.presets import preset_names

__all__ = ["Estimate", "estimate"]


def estimate(  # noqa: PLR0913  # the choices a reader has
    config: str | PathLike[str] | Mapping[str, Any],
    mode: str = "train",
    batch: int = 1,
    seq: int | None = None,
    precision: str = "bf16",
    attn: str = "sdpa",
    *,
    checkpointing: bool = False,
    optim: str = "adamw",
    lora: Mapping[str, Any] | None = None,
    quant: str | None = None,
    logits: str | None = None,
    accumulate: int = 1,
    kv_dtype: str | None = None,
    requests: int | None = None,
    gpu: str | int | None = None,
    overhead: int = 0,
    architecture: str | None = None,
) -> Estimate:
    """Return what a training step, or a forward pass that fills a cache, needs.

    Parameters are counted one by one. The peak is the largest of a few moments of the
    step, each a closed form whose coefficients rehearsals of the models of transformers
    generated (see :func:`tfdoc.rehearse`): bytes of tensors on one GPU. What an allocator
    reserves beyond, fragmentation, workspaces of kernels and the CUDA context are left
    out; dropout is that of the type's default.

    Parameters
    ----------
    config, architecture
        As :func:`tfdoc.ledger` takes them.
    mode : {"train", "infer"}
        A step of training, or a forward pass over the prompt.
    batch, seq : int
        Sequences, and tokens of each; by default 2048, or as many as there are learned
        positions. An encoder reads as many as its decoder.
    precision : {"bf16", "fp32", "amp"}
        Of weights, gradients, moments and activations; ``amp`` keeps weights in fp32 and
        runs under autocast to bf16.
    attn : {"sdpa", "eager"}
        Fused attention, or its steps one by one.
    checkpointing : bool
        Whether each layer runs again in the backward pass.
    optim : {"adamw", "adamw8bit", "sgd", "none"}
        AdamW in its foreach form, in 8 bits as bitsandbytes has it, SGD without momentum,
        or no step.
    lora : dict, optional
        ``{"r": 16, "targets": "all-linear"}`` trains adapters in the precision of the
        model and nothing else, and carries them along in inference; targets as in
        :meth:`tfdoc.Ledger.lora`. Activations are
        those of the smallest of the three sets that holds them; those of adapters on the
        fused experts of a mixture are not counted.
    quant : {"int8", "nf4"}, optional
        Of the matrices of linear layers, see :meth:`tfdoc.Ledger.bytes`; in training
        with adapters only. One matrix at a time is unpacked.
    logits : {"all", "last"}, optional
        In inference, the positions that get logits: the last one where the model can do
        that, as in generation.
    accumulate : int
        Batches to a step: more than one keep the gradients while they run.
    kv_dtype : {"fp32", "bf16", "fp16", "fp8"}, optional
        In inference, of the cache; that of the activations by default.
    requests : int, optional
        In inference, sequences whose caches are held while `batch` of them are read.
    gpu : str or int, optional
        ``"24GiB"``, a name such as ``"rtx-4090"``, or bytes.
    overhead : int
        Bytes that the GPU needs beside the tensors.

    Returns
    -------
    Estimate

    Raises
    ------
    TypeError, ValueError
        If a value is not one of those above, contradicts another, or there are more
        tokens than positions.

    Examples
    --------
    >>> from tfdoc import estimate
    >>> step = estimate("llama-3-8b", lora={"r": 16}, quant="nf4", gpu="24GiB")
    >>> step.fits, step.lora.trainable
    (True, 41943040)
    >>> step.memory.peak_moment, round(step.memory.peak / 2**30, 1)
    ('backward', 19.9)
    """
    book = ledger(config, architecture)
    given = {
        "mode": mode, "batch": batch, "seq": seq, "precision": precision, "attn": attn,
        "checkpointing": checkpointing, "optim": optim, "lora": lora, "quant": quant,
        "logits": logits, "accumulate": accumulate, "kv_dtype": kv_dtype,
        "requests": requests,
    }  # fmt: skip
    budget = budget_of(book, given)
    named = isinstance(config, str) and config.lower() in preset_names()
    return _told(
        budget,
        str(config).lower() if named else book.architecture,
        None if gpu is None else _memory_of(gpu),
        count("overhead", overhead),
    )


def _memory_of(gpu: str | int) -> int:
    from tfdoc.cost.gpus import gpu_memory  # noqa: PLC0415  # a table of its own

    return gpu_memory(gpu)


def _told(budget: Budget, model: str, gpu: int | None, overhead: int) -> Estimate:
    book = budget.book
    advice = None if gpu is None else Advice(budget, gpu, overhead)
    return Estimate(
        model=model,
        architecture=book.architecture,
        settings=_settings(budget),
        parameters=Parameters(
            book.total, book.active, book.embedding, dict(book.by_component)
        ),
        memory=_memory(budget),
        flops=Work(budget.forward, budget.training_step),
        lora=Adapters(budget.adapter_numbers),
        gpu=gpu,
        overhead=overhead,
        fits=None if advice is None else advice.fits,
        largest_batch=None if advice is None else advice.largest("batch"),
        largest_seq=None if advice is None else advice.largest("seq"),
        levers={} if advice is None else advice.levers,
        steps=tuple(explained(budget)),
        left_out=book.left_out,
    )


def _settings(budget: Budget) -> dict[str, Any]:
    s = budget.settings
    return {
        "mode": "train" if s.train else "infer",
        "batch": s.batch,
        "seq": s.seq,
        "precision": s.precision,
        "attn": s.attn,
        "checkpointing": s.checkpointing,
        "optim": s.optim,
        "lora": {"r": s.r, "targets": s.targets} if s.r else None,
        "quant": None if s.quant == "none" else s.quant,
        "logits": "last" if s.last else "all",
        "accumulate": s.accumulate,
        "kv_dtype": s.kv_dtype,
        "requests": None if s.requests == s.batch else s.requests,
    }


def _memory(budget: Budget) -> Memory:
    peaks: dict[str, int] = {}
    for name, kinds in budget.moments:
        peaks[name] = max(peaks.get(name, 0), sum(kinds.values()))
    moment, at_peak = max(budget.moments, key=lambda each: sum(each[1].values()))
    return Memory(
        weights=budget.weights,
        gradients=budget.gradients,
        optimizer=budget.optimizer,
        activations=budget.activations,
        logits=budget.logits,
        temporaries=at_peak["temporaries"],
        kv_cache=budget.kv_cache,
        peak=budget.peak,
        peak_moment=moment,
        peaks=peaks,
        at_peak={kind: n for kind, n in at_peak.items() if n},
    )
