"""What the meta device lacks: fused attention and autocast, as they are on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The lists of ATen/autocast_mode.h: what runs in bfloat16, and what in float32. What is
# in neither takes the dtypes that come.
LOWER = _names(
    """
    conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d
    prelu addmm addmv addr matmul __matmul__ __rmatmul__ einsum mm mv vecdot addbmm
    baddbmm bmm chain_matmul multi_dot linear lstm_cell gru_cell rnn_tanh_cell
    rnn_relu_cell scaled_dot_product_attention
    """
)
FULL = _names(
    """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow
    __pow__ __rpow__ __rdiv__ __rtruediv__ softplus layer_norm rms_norm group_norm
    cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss kl_div l1_loss
    hinge_embedding_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss dist
    multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
    binary_cross_entropy_with_logits cross_entropy pdist cdist renorm logsumexp softmax
    log_softmax vector_norm matrix_norm norm
    """
)
FULL_OUTPUT = frozenset(["sum", "prod", "cumsum", "cumprod"])


def _step_into(mode: TorchFunctionMode, func: Any, args: Any, kwargs: Any) -> Any:
    """Run a function; let the mode see the steps of one that would hide them."""
    hides = {F.__name__, torch.autograd.__name__}
    if isinstance(func, FunctionType) and func.__module__ in hides:
        with mode:
            return _opened(func)(*args, **kwargs)
    return func(*args, **kwargs)


@cache
def _opened(func: FunctionType) -> FunctionType:
    """Return the function without its habit of giving itself to a mode."""
    names = dict(func.__globals__)
    for name in names:
        if name.startswith("has_torch_function"):
            names[name] = lambda *_: False
    copy = FunctionType(
        func.__code__, names, func.__name__, func.__defaults__, func.__closure__
    )
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


class FusedAttention(TorchFunctionMode):
    """Scaled dot-product attention by the kernels that meta would not choose."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace the one function, run any other."""
        del types
        if func is F.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return _step_into(self, func, args, kwargs or {})


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Choose as CUDA does: flash in half precision without a mask, else efficient."""
    one_head = query.ndim == 3
    if one_head:
        query, key, value = (x[:, None] for x in (query, key, value))
        attn_mask = None if attn_mask is None else attn_mask[:, None]
    half = query.dtype in {torch.float16, torch.bfloat16}
    if half and attn_mask is None and query.shape[-1] == value.shape[-1] <= 256:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        out: Tensor = flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    else:
        if enable_gqa:
            groups = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            bias = torch.zeros_like(attn_mask, dtype=query.dtype)
            attn_mask = bias.masked_fill_(~attn_mask, float("-inf"))
        graph = any(x.requires_grad for x in (query, key, value))
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        out = efficient(
            query, key, value, attn_mask, graph, dropout_p, is_causal, scale=scale
        )[0]
    return out[:, 0] if one_head else out


class Autocast(TorchFunctionMode):
    """Autocast to bfloat16; copies of weights are kept as long as the mode itself."""

    def __init__(self, made: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.made = made
        self.copies: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Cast the inputs of what is in one of the two lists."""
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in LOWER:
            args, kwargs = tree_map(self._lower, (args, kwargs))
        elif name in FULL and kwargs.get("dtype") is None:
            args, kwargs = tree_map(_full, (args, kwargs))
        elif name in FULL_OUTPUT and _eligible(args[0]):
            kwargs = {"dtype": torch.float32} | kwargs
        else:
            return _step_into(self, func, args, kwargs)
        return func(*args, **kwargs)

    def _lower(self, x: Any) -> Any:
        if not _eligible(x) or x.dtype is torch.bfloat16:
            return x
        if not (isinstance(x, nn.Parameter) and x.requires_grad):
            return x.to(torch.bfloat16)
        if id(x) not in self.copies:
            self.copies[id(x)] = x.to(torch.bfloat16)
            self.made(self.copies[id(x)])
        return self.copies[id(x)]


def _full(x: Any) -> Any:
    return x.float() if _eligible(x) else x


def _eligible(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
