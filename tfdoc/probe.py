"""Watching what a model computes: named probes, and ordinary forward hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Probe", "Recording", "record"]


class Probe(nn.Module):
    """The identity with a name: it makes an intermediate tensor watchable.

    A component stores a probe under the name of what passes through it, and
    :func:`record` finds it under that name. Nobody watching, nothing happens.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Probe
    >>> Probe()(torch.ones(2))
    tensor([1., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself."""
        return x

    @property
    def watched(self) -> bool:
        """Whether a forward hook is waiting for this probe's tensor."""
        return bool(self._forward_hooks)


class Recording(dict[str, Any]):
    """What :func:`record` saw: the latest output under each module's name.

    Attributes
    ----------
    calls : dict
        Every output under each name, in the order of the calls.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.calls: dict[str, list[Any]] = {name: [] for name in names}

    def __missing__(self, name: str) -> Any:
        if name in self.calls:
            raise KeyError(
                f"{name!r} was watched but never called; run the model inside "
                "the with block, and see that no fused path goes around it"
            )
        raise KeyError(f"{name!r} was not watched, only {[*self.calls]}")


@contextmanager
def record(model: nn.Module, pattern: str) -> Iterator[Recording]:
    """Record the outputs of the modules whose names match a pattern.

    Works on any model, those of others included. The tensors are the ones the model
    computes with, still attached to the graph; what is recorded is kept until the
    recording itself goes.

    Parameters
    ----------
    model : nn.Module
        Watched from inside the ``with`` block only; its hooks are removed on exit.
    pattern : str
        A shell pattern on the names of :meth:`torch.nn.Module.named_modules`, as in
        ``"*weights"`` (every attention map) or ``"blocks.0.*"``. The empty pattern
        watches the model itself, whose name is empty.

    Yields
    ------
    Recording
        A dict from name to the latest output; ``.calls`` holds all of them.

    Raises
    ------
    KeyError
        If nothing matches; the message lists what there is. Also when a name is read
        whose module was not called.
    RuntimeError
        If the model is compiled: a compiled model does not run its hooks.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import MultiHeadAttention, record
    >>> attention = MultiHeadAttention(8, num_heads=2)
    >>> with record(attention, "*weights") as seen:
    ...     _ = attention(torch.randn(1, 3, 8))
    >>> seen["core.weights"].shape
    torch.Size([1, 2, 3, 3])
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        compiled = isinstance(module, torch._dynamo.eval_frame.OptimizedModule)
        if compiled or module._compiled_call_impl is not None:
            raise RuntimeError(
                f"{name or type(model).__name__!r} is compiled and would not run the "
                "hooks; record the model that was given to torch.compile"
            )
    # The model itself has the empty name, which "*" must not catch.
    found = [n for n in modules if (fnmatchcase(n, pattern) if n else not pattern)]
    if not found:
        probes = [name for name, m in modules.items() if isinstance(m, Probe)]
        raise KeyError(
            f"no module of {type(model).__name__} matches {pattern!r}; "
            f"its probes are {probes}, its modules {[n for n in modules if n]}"
        )
    seen = Recording(found)
    with ExitStack() as hooks:
        for name in found:
            hooks.enter_context(modules[name].register_forward_hook(_keep(seen, name)))
        yield seen


def _keep(seen: Recording, name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[name] = output
        seen.calls[name].append(output)

    return hook
