"""Setting the stage of a rehearsal: everything on meta, layers that run twice."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tfdoc._checks import one_of

T = TypeVar("T")
Optimizer: TypeAlias = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": partial(torch.optim.AdamW, foreach=True),
    "sgd": partial(torch.optim.SGD, foreach=True),
}


def reach(thing: object) -> Iterator[Tensor]:
    """Yield the tensors in containers and attributes, however deep, each once."""
    seen, todo = set(), [thing]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, FunctionType, ModuleType)):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, (list, tuple, set)):
            todo += one
        else:
            todo += getattr(one, "__dict__", {}).values()


def on_meta(thing: T, dtype: torch.dtype) -> T:
    """Return a copy whose tensors have no data; cast inputs, or a module's weights."""
    weights = isinstance(thing, nn.Module)
    casts = (*thing.parameters(), *thing.buffers()) if weights else reach(thing)  # type: ignore[attr-defined]
    cast = {id(tensor) for tensor in casts}
    memo: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in reach(thing):
        new = _without_data(tensor, storages)
        if id(tensor) in cast and tensor.is_floating_point():
            new = new.to(dtype)
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, tensor.requires_grad)
        # deepcopy takes what it finds here for a copy already made.
        memo[id(tensor)] = new
    return copy.deepcopy(thing, memo)


def _without_data(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    """Return the tensor on meta; what shares a storage shares one there."""
    old = tensor.untyped_storage()
    if old._cdata not in storages:
        empty = torch.empty(old.nbytes(), dtype=torch.uint8, device="meta")
        storages[old._cdata] = empty.untyped_storage()
    new = torch.empty(0, dtype=tensor.dtype, device="meta")
    where = tensor.storage_offset(), tensor.shape, tensor.stride()
    return new.set_(storages[old._cdata], *where)


def built(model: Any) -> nn.Module:
    """Return the model, or what the function builds on meta."""
    made = model
    if not isinstance(model, nn.Module) and callable(model):
        with torch.device("meta"):
            made = model()
    if not isinstance(made, nn.Module):
        raise TypeError(
            "model must be a torch.nn.Module or a function without arguments that "
            f"builds one, got {type(made).__name__}"
        )
    if isinstance(made, torch._dynamo.eval_frame.OptimizedModule):
        raise TypeError(
            "model is compiled and would hide its operations; rehearse the model that "
            "was given to torch.compile"
        )
    return made


def with_state(given: Any, model: nn.Module) -> torch.optim.Optimizer | None:
    """Make the optimiser, and a first step that leaves it its state."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            f"mode='train' found nothing to train in {type(model).__name__}; let a "
            "parameter require gradients, or rehearse mode='infer'"
        )
    if given is None:
        return None
    if not callable(given):
        given = OPTIMIZERS[one_of("optimizer", given, tuple(OPTIMIZERS))]
    stepper: torch.optim.Optimizer = given(parameters)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    stepper.step()
    stepper.zero_grad()
    return stepper


def layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of the outermost module lists."""
    outer: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(outer):
            outer += (f"{name}.",)
            yield from module.children()


def checkpoint_layers(
    model: nn.Module, emulation: Callable[[], AbstractContextManager[None]]
) -> None:
    """Make every layer run again in the backward pass, under the same emulation."""
    found = [*layers(model)]
    if not found:
        raise ValueError(
            f"checkpointing=True found no torch.nn.ModuleList in {type(model).__name__} "
            "whose elements could be run again; put its layers in one"
        )
    settings: dict[str, Any] = {
        "use_reentrant": False,
        "preserve_rng_state": False,  # on meta there is none
        "context_fn": lambda: (nullcontext(), emulation()),
    }
    for layer in found:
        layer.forward = partial(checkpoint, layer.forward, **settings)


def forget_caches(model: nn.Module) -> None:
    """Switch off the key/value cache that Hugging Face's models keep by default."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # type: ignore[union-attr]


@contextmanager
def plain_masks() -> Iterator[None]:
    """Answer what Hugging Face's masks ask the numbers in positions and masks.

    No sequences are packed into one row, and no token is padding.
    """
    masks: Any = sys.modules.get("transformers.masking_utils")
    answers: dict[str, Callable[..., object]] = {
        "find_packed_sequence_indices": lambda _positions: None,
        "fast_all": lambda _padding: True,
    }
    if ask := getattr(masks, "_ignore_bidirectional_mask_sdpa", None):
        answers[ask.__name__] = lambda _padding, *rest: ask(None, *rest)
    before = {name: getattr(masks, name) for name in answers if hasattr(masks, name)}
    try:
        for name in before:
            setattr(masks, name, answers[name])
        yield
    finally:
        for name, function in before.items():
            setattr(masks, name, function)


@contextmanager
def explained() -> Iterator[None]:
    """Add a note to the error of a model that asks for numbers."""
    try:
        yield
    except RuntimeError as error:  # meta kernels that are missing raise a kind of it
        if "meta" in str(error):
            error.add_note(
                "A rehearsal has shapes and no numbers: code that asks for a number in "
                "a tensor (.item(), if tensor:, nonzero) cannot run in it."
            )
        raise
