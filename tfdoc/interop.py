"""To and from `torch.nn`: its modules with their weights, its masks with their meanings."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn

from tfdoc.blocks import PostNormBlock, PreNormBlock
from tfdoc.cores import DotProductCore
from tfdoc.feedforward import FeedForward
from tfdoc.models import Encoder
from tfdoc.multihead import MultiHeadAttention
from tfdoc.norms import LayerNorm, RMSNorm
from tfdoc.parts import Part, part

__all__ = ["from_torch", "mask_from_torch"]


def mask_from_torch(
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    *,
    true_means: str = "blocked",
) -> Tensor:
    """Turn masks of `torch.nn` into one of tfdoc's: True = may attend.

    Modules of ``torch.nn`` mark what is *blocked*;
    :func:`torch.nn.functional.scaled_dot_product_attention` marks what is *kept*. Float
    masks are added to the scores by both: only 0 (kept) and -inf (blocked) are masks,
    anything else is a bias and is refused.

    Parameters
    ----------
    attn_mask : Tensor of bool or float, optional
        Shape (T, S), (B, H, T, S), or anything that broadcasts to the latter; with
        (B * H, T, S), the form of :class:`torch.nn.MultiheadAttention`, reshape it first.
    key_padding_mask : Tensor of bool or float, optional
        Shape (B, S), one row for each sequence.
    true_means : {"blocked", "kept"}
        What True says in bool masks: ``"blocked"`` for modules of ``torch.nn``,
        ``"kept"`` for ``scaled_dot_product_attention`` and for Hugging Face's
        ``attention_mask.bool()``.

    Returns
    -------
    Tensor of bool
        Broadcasts to (B, H, T, S); for ``mask=`` of any call in tfdoc.

    Raises
    ------
    ValueError
        If no mask is given, a float mask holds other numbers, a shape does not fit, or
        `true_means` is neither word.
    TypeError
        If a mask is neither bool nor float.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import mask_from_torch
    >>> padding = torch.tensor([[False, False, True]])
    >>> mask_from_torch(key_padding_mask=padding)[:, 0, 0]
    tensor([[ True,  True, False]])
    """
    if true_means not in ("blocked", "kept"):
        raise ValueError(f"true_means must be 'blocked' or 'kept', got {true_means!r}")
    if attn_mask is None and key_padding_mask is None:
        raise ValueError("give attn_mask, key_padding_mask or both; got neither")
    allowed = torch.ones((), dtype=torch.bool)
    if attn_mask is not None:
        if attn_mask.ndim == 3:
            raise ValueError(
                f"attn_mask of shape {tuple(attn_mask.shape)} may mean (B * H, T, S) or "
                "(B, T, S); make it four-dimensional with "
                "attn_mask.unflatten(0, (B, H)) or attn_mask[:, None]"
            )
        allowed = _kept("attn_mask", attn_mask, true_means)
    if key_padding_mask is not None:
        if key_padding_mask.ndim != 2:
            raise ValueError(
                "key_padding_mask must have shape (B, S), got "
                f"{tuple(key_padding_mask.shape)}; one sequence needs mask[None]"
            )
        real = _kept("key_padding_mask", key_padding_mask, true_means)[:, None, None]
        allowed = allowed.to(real.device) & real
    return allowed


def _kept(name: str, mask: Tensor, true_means: str) -> Tensor:
    if mask.dtype is torch.bool:
        return mask if true_means == "kept" else ~mask
    if not mask.is_floating_point():
        raise TypeError(
            f"{name} must be bool or float, got dtype {mask.dtype}; convert a 0/1 mask "
            "with .bool() and say in true_means what its ones mean"
        )
    blocked = mask.isneginf()
    if not (blocked | (mask == 0)).all():
        raise ValueError(
            f"{name} is a float tensor with values other than 0 and -inf, from "
            f"{mask.min():g} to {mask.max():g}: that is a bias added to the scores, not "
            "a mask"
        )
    return ~blocked


def from_torch(module: nn.Module) -> nn.Module:
    """Return the tfdoc component that computes what a `torch.nn` module computes.

    Weights are copied, dtype, device and training mode kept.

    Parameters
    ----------
    module : nn.Module
        A ``LayerNorm``, ``RMSNorm``, ``MultiheadAttention``, ``TransformerEncoderLayer``
        or ``TransformerEncoder``. Ours are batch first, whatever the original's
        ``batch_first`` says.

    Returns
    -------
    nn.Module
        ``LayerNorm``, ``RMSNorm``, ``MultiHeadAttention``, ``PreNormBlock`` or
        ``PostNormBlock``, or ``Encoder``.

    Raises
    ------
    TypeError
        If there is no counterpart.
    ValueError
        If the module uses what the counterpart does not have, such as ``add_bias_kv``.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import from_torch
    >>> theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    >>> x = torch.randn(2, 5, 16)
    >>> torch.testing.assert_close(from_torch(theirs)(x), theirs(x, x, x)[0])
    """
    width, recipe = _recipe(module)
    weights = _renamed(module.state_dict())
    reference = next(module.parameters())
    ours = recipe.build(width).to(reference.device, reference.dtype)
    ours.load_state_dict(weights)  # strict: nothing missing, nothing left over
    return ours.train(module.training)


def _renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of `torch.nn` our names, and cut the fused projection in three."""
    ours = {}
    for name, tensor in theirs.items():
        for old, new in _NAMES.items():
            name = name.replace(old, new)  # noqa: PLW2901  # the name so far
        if "in_proj_" in name:
            for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                ours[name.replace("in_proj_", f"{letter}_proj.")] = rows
        else:
            ours[name] = tensor
    return ours


_NAMES = {
    "layers.": "blocks.",
    "self_attn.": "attention.",
    "out_proj.": "o_proj.",
    "linear1.": "feedforward.up_proj.",
    "linear2.": "feedforward.down_proj.",
    "norm1.": "attn_norm.",
    "norm2.": "ffn_norm.",
}

Recipe = tuple[int, Part[nn.Module]]


@singledispatch
def _recipe(module: nn.Module) -> Recipe:
    """Return the width and the part that a module of `torch.nn` corresponds to."""
    known = [kind.__name__ for kind in _recipe.registry if kind is not object]
    raise TypeError(
        f"no counterpart of {type(module).__name__} in tfdoc; there is one of {known}"
    )


@_recipe.register
def _(module: nn.LayerNorm) -> Recipe:
    bias = module.bias is not None
    return _norm_width(module), part(LayerNorm, eps=module.eps, bias=bias)


@_recipe.register
def _(module: nn.RMSNorm) -> Recipe:
    width = _norm_width(module)
    eps = module.eps
    if eps is None:  # torch takes that of the precision it computes in
        exact = torch.promote_types(module.weight.dtype, torch.float32)
        eps = torch.finfo(exact).eps
    return width, part(RMSNorm, eps=eps)


def _norm_width(module: nn.LayerNorm | nn.RMSNorm) -> int:
    if len(module.normalized_shape) != 1 or module.weight is None:
        raise ValueError(
            f"{module} converts only with one normalised dimension and with weights"
        )
    return module.normalized_shape[0]


@_recipe.register
def _(module: nn.MultiheadAttention) -> Recipe:
    odd = {
        "kdim or vdim": not module._qkv_same_embed_dim,
        "add_bias_kv": module.bias_k is not None,
        "add_zero_attn": module.add_zero_attn,
    }
    if any(odd.values()):
        used = [name for name, is_used in odd.items() if is_used]
        raise ValueError(
            f"MultiheadAttention uses {used}, which MultiHeadAttention does not have"
        )
    return module.embed_dim, part(
        MultiHeadAttention,
        num_heads=module.num_heads,
        bias=module.in_proj_bias is not None,
        core=part(DotProductCore, dropout=module.dropout),
    )


@_recipe.register
def _(module: nn.TransformerEncoderLayer) -> Recipe:
    width, attention = _recipe(module.self_attn)
    feedforward = part(
        FeedForward,
        hidden_dim=module.linear1.out_features,
        activation=module.activation,
        bias=module.linear1.bias is not None,
        dropout=module.dropout.p,
    )
    return width, part(
        PreNormBlock if module.norm_first else PostNormBlock,
        attention=attention,
        feedforward=feedforward,
        norm=_recipe(module.norm1)[1],
        dropout=module.dropout1.p,
    )


@_recipe.register
def _(module: nn.TransformerEncoder) -> Recipe:
    layers = [_recipe(layer) for layer in module.layers]
    norm = None if module.norm is None else _recipe(module.norm)[1]
    blocks = tuple(block for _, block in layers)
    return layers[0][0], part(Encoder, blocks=blocks, norm=norm)
