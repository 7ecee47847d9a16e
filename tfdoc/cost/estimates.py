"""Will it fit: parameters, memory and operations of a training step or a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from tfdoc._checks import count, flag, one_of, positive_int
from tfdoc.cost.advice import Advice
from tfdoc.cost.budget import Budget, Settings
from tfdoc.cost.explained import explained
from tfdoc.cost.sums import BYTES, QUANTS, Ledger, ledger
from tfdoc.cost.tables import evaluate
from tfdoc.presets import preset_names

__all__ = ["Estimate", "estimate"]

MOST = 2**40  # of batch, sequence and the like
TOKENS = 2048


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
        consists of; ``.temporaries``, what it holds besides the kinds above.
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
        model and nothing else; targets as in :meth:`tfdoc.Ledger.lora`. Activations are
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
    ('loss', 16.2)
    """
    book = ledger(config, architecture)
    budget = _budget(
        book,
        mode=mode, batch=batch, seq=seq, precision=precision, attn=attn,
        checkpointing=checkpointing, optim=optim, lora=lora, quant=quant, logits=logits,
        accumulate=accumulate, kv_dtype=kv_dtype, requests=requests,
    )  # fmt: skip
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


def _budget(book: Ledger, **given: Any) -> Budget:
    """Check the settings, one by one and against each other."""
    train = one_of("mode", given["mode"], ("train", "infer")) == "train"
    r, targets = _lora(given["lora"], train)
    quant = one_of("quant", given["quant"] or "none", QUANTS)
    if train and quant != "none" and not r:
        raise ValueError(
            f"quant={quant!r} has no gradients of its own; train adapters: lora={{'r': 16}}"
        )
    checkpointing = flag("checkpointing", given["checkpointing"])
    optim = one_of("optim", given["optim"], ("adamw", "adamw8bit", "sgd", "none"))
    accumulate = _whole("accumulate", given["accumulate"])
    batch = _whole("batch", given["batch"])
    _only(train, given, checkpointing, optim, accumulate)
    precision = one_of("precision", given["precision"], ("bf16", "fp32", "amp"))
    natural = "fp32" if precision == "fp32" else "bf16"
    requests = batch if given["requests"] is None else _whole("requests", given["requests"])
    if requests < batch:
        raise ValueError(f"requests={requests} must be at least batch={batch}")
    settings = Settings(
        train, batch, _seq(book, given["seq"]), precision,
        one_of("attn", given["attn"], ("sdpa", "eager")), checkpointing,
        optim if train else "none", r, targets, quant,
        not train and given["logits"] != "all",
        accumulate, one_of("kv_dtype", given["kv_dtype"] or natural, tuple(BYTES)),
        requests,
    )  # fmt: skip
    return _runnable(Budget(book, settings), given["logits"])


def _whole(name: str, value: Any) -> int:
    if positive_int(name, value) > MOST:
        raise ValueError(f"{name}={value} is too large; at most {MOST} is counted")
    return int(value)


def _only(
    train: bool, given: dict[str, Any], checkpointing: bool, optim: str, accumulate: int
) -> None:
    """Refuse what says something of the other mode only."""
    if train:
        foreign = [name for name in ("kv_dtype", "requests") if given[name] is not None]
        foreign += ["logits"] * (given["logits"] == "last")
    else:
        foreign = ["checkpointing"] * checkpointing + ["accumulate"] * (accumulate > 1)
        foreign += ["optim"] * (optim not in ("adamw", "none"))
    if given["logits"] is not None:
        one_of("logits", given["logits"], ("all", "last"))
    if foreign:
        name, other = foreign[0], "infer" if train else "train"
        raise ValueError(f"{name}={given[name]!r} says something of mode={other!r} only")


def _seq(book: Ledger, seq: int | None) -> int:
    positions = book._table.get("positions")
    most = evaluate(positions, book._config.values) if positions else MOST
    if seq is None:
        return min(TOKENS, most)
    if _whole("seq", seq) > most:
        raise ValueError(f"seq={seq} is more than the {most} positions of the model")
    return seq


def _lora(lora: Any, train: bool) -> tuple[int, str | tuple[str, ...]]:
    """Return the rank, 0 without adapters, and the targets."""
    if lora is None:
        return 0, ()
    if not isinstance(lora, Mapping):
        raise TypeError(f"lora must be a dict such as {{'r': 16}}, got {lora!r}")
    if unknown := lora.keys() - {"r", "targets"}:
        raise ValueError(f"lora has the unknown key {min(unknown)!r}; it takes r, targets")
    if "r" not in lora:
        raise ValueError(f"lora={dict(lora)!r} has no rank; add 'r': 16")
    if not train:
        raise ValueError(
            f"lora={dict(lora)!r} says something of mode='train' only; merged adapters "
            "add nothing to inference"
        )
    targets = lora.get("targets", "all-linear")
    if not isinstance(targets, str):
        targets = tuple(targets)
    return _whole("r", lora["r"]), targets


def _runnable(budget: Budget, logits: str | None) -> Budget:
    """Return the budget with settings that transformers can run."""
    s = budget.settings
    if s.attn == "sdpa" and not any(" sdpa" in name for name in budget.forms):
        budget = Budget(budget.book, replace(s, attn="eager"))
    if budget.setting not in budget.forms:  # the last logits alone
        if logits == "last":
            raise ValueError(
                f"logits='last' is not what {budget.book.architecture} does in "
                "transformers: it computes all"
            )
        budget = Budget(budget.book, replace(budget.settings, last=False))
    return budget


def _told(budget: Budget, model: str, gpu: int | None, overhead: int) -> Estimate:
    book, s = budget.book, budget.settings
    peaks: dict[str, int] = {}
    for name, kinds in budget.moments:
        peaks[name] = max(peaks.get(name, 0), sum(kinds.values()))
    moment, at_peak = max(budget.moments, key=lambda m: sum(m[1].values()))
    advice = None if gpu is None else Advice(budget, gpu, overhead)
    settings: dict[str, Any] = {
        name: getattr(s, name)
        for name in (
            "batch", "seq", "precision", "attn", "checkpointing", "optim", "accumulate",
            "kv_dtype", "requests",
        )
    }  # fmt: skip
    settings |= {
        "mode": "train" if s.train else "infer",
        "lora": {"r": s.r, "targets": s.targets} if s.r else None,
        "quant": None if s.quant == "none" else s.quant,
        "logits": "last" if s.last else "all",
    }
    return Estimate(
        model=model,
        architecture=book.architecture,
        settings=settings,
        parameters=Parameters(
            book.total, book.active, book.embedding, dict(book.by_component)
        ),
        memory=Memory(
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
        ),
        flops=Work(budget.forward, budget.training_step),
        lora=Adapters(budget.trainable if s.r else 0),
        gpu=gpu,
        overhead=overhead,
        fits=advice and advice.fits,
        largest_batch=advice and advice.largest("batch"),
        largest_seq=advice and advice.largest("seq"),
        levers=advice.levers if advice else {},
        steps=tuple(explained(budget)),
        left_out=book.left_out,
    )
