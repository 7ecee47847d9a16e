"""Rehearsing a step on the meta device: what it allocates, when, and its FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tfdoc._checks import flag, one_of
from tfdoc._emulate import Autocast, FusedAttention
from tfdoc._follow import Flops, Follow, watch_modules
from tfdoc._stage import (
    Optimizer,
    built,
    checkpoint_layers,
    explained,
    forget_caches,
    on_meta,
    plain_masks,
    reach,
    with_state,
)

__all__ = ["Rehearsal", "rehearse"]

HELD = (
    "parameters", "buffers", "inputs", "activations", "gradients", "optimizer", "logits",
    "kv_cache",
)  # fmt: skip
CACHES = ("cache", "past_key_values")  # newer transformers warn at the second


@dataclass(frozen=True)
class Rehearsal:
    """What :func:`rehearse` counted; sizes in bytes, in pieces of 512.

    Attributes
    ----------
    parameters, buffers, inputs : int
        What was there before. Weights are stored as often as they are distinct: tied
        ones once.
    activations : int
        What the forward pass and the loss keep for the backward pass, copies of weights
        by autocast included; 0 in inference.
    gradients, optimizer : int
        The gradients of all parameters, and the state of the optimiser.
    logits : int
        The tensor that the model returns, or the one in its output named ``logits``.
    kv_cache : int
        Keys and values in the ``cache`` or ``past_key_values`` of the output. `by_kind`
        may show more: a window that is a slice keeps all of its storage allocated.
    temporaries : int
        What the peak holds besides all these.
    peak : int
        The most that is allocated at any time.
    peak_moment : str
        When: ``forward``, ``loss``, ``backward`` or ``step``.
    peaks : dict of str to int
        The peak of each moment.
    by_kind : dict of str to int
        What the peak consists of: the names above, and ``autocast`` for the copies of
        weights. They add up to `peak`.
    timeline : tuple of (str, int)
        Moment and bytes allocated, after each allocation.
    flops : tuple of (int, int)
        ``.forward``, ``.backward`` and ``.total`` of matrix products, convolutions and
        attention; a multiplication and an addition are two.
    flops_by_module : dict of str to tuple
        The same for each module with its children; ``""`` is the model.
    output : object
        In inference what the model returned, on meta; None in training.
    """

    parameters: int
    buffers: int
    inputs: int
    activations: int
    gradients: int
    optimizer: int
    logits: int
    kv_cache: int
    temporaries: int
    peak: int
    peak_moment: str
    peaks: dict[str, int]
    by_kind: dict[str, int]
    flops: Flops
    timeline: tuple[tuple[str, int], ...] = field(repr=False)
    flops_by_module: dict[str, Flops] = field(repr=False)
    output: Any = field(repr=False)


def rehearse(
    model: nn.Module | Callable[[], nn.Module],
    *inputs: Any,
    mode: Literal["train", "infer"] = "train",
    precision: Literal["fp32", "bf16", "amp"] = "fp32",
    optimizer: Literal["adamw", "sgd"] | Optimizer | None = "adamw",
    loss: Callable[[Any], Tensor] | None = None,
    checkpointing: bool = False,
    fused: bool = True,
    **named: Any,
) -> Rehearsal:
    """Run one step of a model without its numbers, and count what it takes.

    The model's own code runs on the meta device, where tensors have shapes and no data:
    forward pass, loss, backward pass and a step of the optimiser, as they are once the
    optimiser has its state. What is counted is what these operations allocate; the
    kernels' own workspaces, fragmentation and the CUDA context come on top.

    Parameters
    ----------
    model : nn.Module or callable
        A model on any device, which stays as it is: a copy without data is rehearsed. Or
        a function without arguments that builds one, on meta, in no time at any size.
    *inputs, **named
        What the model is called with; floating-point tensors are cast like the model.
    mode : {"train", "infer"}
        A training step, or a forward pass in evaluation mode without gradients.
    precision : {"fp32", "bf16", "amp"}
        The model is cast to float32 or bfloat16; ``"amp"`` is float32 under autocast to
        bfloat16, as on CUDA.
    optimizer : {"adamw", "sgd"} or callable, optional
        The first two in their *foreach* form, the default on CUDA; a callable makes one
        from a list of parameters; None leaves out the step.
    loss : callable, optional
        From what the model returns to a scalar. By default ``output.loss``, as Hugging
        Face's models return it when they are given labels.
    checkpointing : bool
        Whether each layer, an element of an outermost :class:`torch.nn.ModuleList`, is
        run again in the backward pass instead of keeping its activations.
    fused : bool
        Whether :func:`torch.nn.functional.scaled_dot_product_attention` is the kernel
        that CUDA would choose, or its steps one by one.

    Returns
    -------
    Rehearsal

    Raises
    ------
    TypeError, ValueError
        If a setting is not one of those above, nothing can be trained, there is no loss
        or it is not a scalar, there are no layers to checkpoint, or the model is
        compiled.
    RuntimeError
        From the model; with a note if its code asks for a number in a tensor.

    Notes
    -----
    Training keeps no key/value cache: ``use_cache`` of a Hugging Face model's config is
    switched off in the copy. Their masks depend on the numbers in ``position_ids`` and
    ``attention_mask``; a rehearsal takes it that no sequences are packed and none is
    padded. A model that checkpoints itself is followed too, except under ``"amp"``: use
    `checkpointing` there.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import rehearse
    >>> x = torch.empty(64, 256)
    >>> step = rehearse(torch.nn.Linear(256, 256, bias=False), x, loss=torch.sum)
    >>> step.parameters, step.gradients, step.optimizer
    (262144, 262144, 524288)
    >>> step.peak_moment, step.flops
    ('step', Flops(forward=8388608, backward=8388608))
    """
    train = one_of("mode", mode, ("train", "infer")) == "train"
    dtype = one_of("precision", precision, ("fp32", "bf16", "amp"))
    follow = Follow()
    emulation = partial(
        _emulation, follow, amp=dtype == "amp", fused=flag("fused", fused)
    )
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    actor, (args, kwargs) = on_meta(built(model), kind), on_meta((inputs, named), kind)
    watch_modules(actor.train(train), follow)
    if flag("checkpointing", checkpointing):
        checkpoint_layers(actor, emulation)
    stepper = with_state(optimizer, actor) if train else None
    _see_the_start(follow, actor, stepper, (args, kwargs))
    if train:
        forget_caches(actor)
    with follow, plain_masks(), explained(), torch.set_grad_enabled(train):
        follow.begin("forward")
        before = follow.allocated
        with emulation():
            output = actor(*args, **kwargs)
            _see_the_output(follow, output)
            value = _loss(follow, output, loss) if train else None
        held = follow.held()
        held["kv_cache"] = sum(t.nbytes for t in _cached(output))
        if value is None:
            return _report(follow, held, output)
        del output
        held["activations"] = follow.allocated - before
        follow.begin("backward")
        with _emulation(follow, amp=False, fused=fused):
            torch.autograd.backward(value)
        del value
        for parameter in actor.parameters():
            if parameter.grad is not None:
                follow.see(parameter.grad, "gradients")
        held["gradients"] = follow.held()["gradients"]
        if stepper:
            follow.begin("step")
            stepper.step()
    return _report(follow, held)


@contextmanager
def _emulation(follow: Follow, *, amp: bool, fused: bool) -> Iterator[None]:
    with ExitStack() as modes:
        if fused:
            modes.enter_context(FusedAttention())
        if amp:
            modes.enter_context(Autocast(lambda copy: follow.see(copy, "autocast")))
        yield


def _see_the_start(
    follow: Follow,
    model: nn.Module,
    stepper: torch.optim.Optimizer | None,
    inputs: tuple[Any, dict[str, Any]],
) -> None:
    state = {} if stepper is None else dict(stepper.state)
    for kind, tensors in {
        "parameters": model.parameters(),
        "buffers": model.buffers(),
        "optimizer": reach(state),
        "inputs": reach(inputs),
        "kv_cache": reach([inputs[1].get(name) for name in CACHES]),
    }.items():
        for tensor in tensors:
            follow.see(tensor, kind)


def _see_the_output(follow: Follow, output: Any) -> None:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        follow.see(logits, "logits")
    for tensor in _cached(output):
        follow.see(tensor, "kv_cache")


def _cached(output: Any) -> Iterator[Tensor]:
    name = next((name for name in CACHES if hasattr(output, name)), "")
    for tensor in reach(getattr(output, name, None)):
        if tensor.ndim > 1:  # not the counters of some caches
            yield tensor


def _loss(follow: Follow, output: Any, loss: Callable[[Any], Tensor] | None) -> Tensor:
    value: object = None
    if loss is not None:
        follow.begin("loss")
        value = loss(output)
    else:
        if follow.last_module is not None:
            follow.begin("loss", follow.last_module)
        value = getattr(output, "loss", None)
    if value is None:
        raise ValueError(
            f"loss is missing: the model returned a {type(output).__name__} without "
            "one; give it labels, or give loss=, a function from that to a scalar"
        )
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"loss must give a tensor with one number, got {got}")
    return value


def _report(follow: Follow, held: Counter[str], output: Any = None) -> Rehearsal:
    numbers = range(follow.first, len(follow.timeline))
    timeline = tuple((follow.moment(n), follow.timeline[n]) for n in numbers)
    peaks: dict[str, int] = {}
    for moment, nbytes in timeline:
        peaks[moment] = max(nbytes, peaks.get(moment, 0))
    peak = max(peaks.values())
    entry = follow.timeline.index(peak, follow.first)
    by_kind = follow.by_kind(entry)
    flops = follow.flops()
    return Rehearsal(
        **{kind: held[kind] for kind in HELD},
        temporaries=by_kind["temporaries"],
        peak=peak,
        peak_moment=follow.moment(entry),
        peaks=peaks,
        by_kind=dict(by_kind),
        timeline=timeline,
        flops=flops[""],
        flops_by_module=flops,
        output=output,
    )
