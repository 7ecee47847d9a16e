"""Following every storage and every matmul of a program that runs on meta tensors."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _grouped_flops(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Count a product in groups: of rows, of columns, of what is summed, or batched."""
    groups = a.shape[0] if a.ndim == b.ndim == 3 else 1
    return 2 * groups * a.shape[-2] * a.shape[-1] * b.shape[-1]


# What mixtures of experts use is missing in torch's own registry.
FORMULAS: dict[Any, Callable[..., int]] = {
    aten._grouped_mm: _grouped_flops
} | flop_registry

# The allocator of a GPU hands out memory in pieces of this many bytes.
PIECE = 512


class Flops(NamedTuple):
    """Floating-point operations, a multiplication and an addition counted as two."""

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Forward and backward together."""
        return self.forward + self.backward


@dataclass(slots=True)
class Storage:
    """One allocation, and the entries of the timeline it lived through."""

    nbytes: int
    kind: str | None
    born: int
    died: int | None = None

    def lives(self, entry: int) -> bool:
        """Whether it was allocated at this entry of the timeline."""
        return self.born <= entry and (self.died is None or entry < self.died)


class _Ref(weakref.ref[torch.UntypedStorage]):
    __slots__ = ("key",)
    key: int


class Follow(TorchDispatchMode):
    """Keeps a timeline of allocated bytes, and counts FLOPs module by module.

    A storage is followed through a weak reference, from the operation that makes it
    until nothing holds it any more. What an operation allocates inside itself, such as
    a kernel's workspace, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allocated = 0
        self.timeline: list[int] = []
        self.storages: list[Storage] = []
        self.running: list[str] = []  # names of modules, the innermost last
        self.last_module: int | None = None  # where the timeline stood when it ended
        self._begins: list[tuple[int, str]] = []
        self._flops: Counter[tuple[str, bool]] = Counter()  # (module, in backward)
        self._alive: dict[int, tuple[_Ref, Storage]] = {}
        self._home: dict[int, str] = {}  # number of an autograd node -> module

    def begin(self, moment: str, entry: int | None = None) -> None:
        """From here on, or from an earlier entry, what happens is of this moment."""
        self._begins.append((len(self.timeline) if entry is None else entry, moment))
        self.timeline.append(self.allocated)

    @property
    def first(self) -> int:
        """The entry of the timeline where the first moment begins."""
        return self._begins[0][0]

    def moment(self, entry: int) -> str:
        """Return the moment of an entry of the timeline."""
        at = bisect_right(self._begins, entry, key=lambda begin: begin[0])
        return self._begins[at - 1][1]

    def held(self) -> Counter[str]:
        """Return what is allocated now."""
        return self.by_kind(len(self.timeline))

    def by_kind(self, entry: int) -> Counter[str]:
        """Return what was allocated at an entry; what has no name by its life."""
        kept = next((at for at, name in self._begins if name == "backward"), None)
        kinds: Counter[str] = Counter()
        for storage in self.storages:
            if storage.lives(entry):
                saved = kept is not None and storage.lives(kept)
                unnamed = "activations" if saved else "temporaries"
                kinds[storage.kind or unnamed] += storage.nbytes
        return kinds

    def see(self, tensor: Tensor, kind: str | None = None) -> None:
        """Follow the tensor's storage, unless it is not on meta; name its kind."""
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        if known := self._alive.get(storage._cdata):
            known[1].kind = kind or known[1].kind
            return
        nbytes = -(-storage.nbytes() // PIECE) * PIECE
        ref, new = _Ref(storage, self._free), Storage(nbytes, kind, len(self.timeline))
        ref.key = storage._cdata
        self._alive[ref.key] = ref, new
        self.storages.append(new)
        self.allocated += nbytes
        self.timeline.append(self.allocated)

    def _free(self, ref: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(ref, _Ref)  # noqa: S101  # for the type checker
        _, storage = self._alive.pop(ref.key)
        storage.died = len(self.timeline)
        self.allocated -= storage.nbytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, then look at what it made."""
        del types
        kwargs = kwargs or {}
        run = _grouped if func is aten._grouped_mm.default else func
        out: Any = run(*args, **kwargs)
        self._count(func, args, kwargs, out)
        for leaf in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        node = torch._C._current_autograd_node()
        if self.running or node is None:  # forward, or run again for a checkpoint
            name = self.running[-1] if self.running else ""
            # The node of this operation, if it has one, was the last to be numbered.
            self._home.setdefault(torch._C._autograd._get_sequence_nr() - 1, name)
        else:
            name = self._home.get(node._sequence_nr(), "")
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            nflops = formula(*args, **kwargs, out_val=out)
            self._flops[name, node is not None] += nflops

    def flops(self) -> dict[str, Flops]:
        """Return the FLOPs of every module that had some, its children's included."""
        found: dict[str, Flops] = {"": Flops()}
        for (name, backward), nflops in sorted(self._flops.items()):
            parts = name.split(".") if name else []
            for n in range(len(parts) + 1):
                outer = ".".join(parts[:n])
                old = found.get(outer, Flops())
                found[outer] = Flops(
                    old.forward + (0 if backward else nflops),
                    old.backward + (nflops if backward else 0),
                )
        return found


def _grouped(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Multiply in groups; meta knows that for bfloat16 only, GPUs for float32 too."""
    out: Tensor = aten._grouped_mm(a.bfloat16(), b.bfloat16(), *args, **kwargs)
    return out.to(a.dtype)


def watch_modules(model: nn.Module, follow: Follow) -> None:
    """Let the model's modules tell which of them is running.

    Not by hooks: a model may take another path while it is watched.
    """
    for name, module in model.named_modules():
        module.forward = _telling(follow, name, module)


def _telling(follow: Follow, name: str, module: nn.Module) -> Callable[..., Any]:
    forward = module.forward

    @wraps(forward)
    def tell(*args: Any, **kwargs: Any) -> Any:
        follow.running.append(name)
        out: Any = None
        try:
            out = forward(*args, **kwargs)
            return out
        finally:
            follow.running.pop()
            # What comes after the last module is the loss, where the model has one; a
            # module that wraps such a model ends after it.
            inner = getattr(out, "loss", None) is None and not isinstance(module, _Loss)
            if follow.running and inner:
                follow.last_module = len(follow.timeline)

    return tell
