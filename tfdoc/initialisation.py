"""Initialisation: the published schemes, as functions over a whole model.

Matrices that write to the residual stream are known by their names, ``o_proj`` and
``down_proj``. Biases become 0; norms, learned scales and everything else with one
dimension stay as they were built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from tfdoc._checks import positive, positive_int

__all__ = ["init_deepnorm_", "init_gpt2_", "init_small_"]

M = TypeVar("M", bound=nn.Module)

# Matrices whose result is added to the residual stream, and those that carry a branch.
WRITES = ("o_proj", "down_proj")
CARRIES = ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def init_gpt2_(
    model: M,
    *,
    num_layers: int,
    std: float = 0.02,
    generator: torch.Generator | None = None,
) -> M:
    r"""Draw a model's weights as GPT-2 did, in place.

    .. math:: W \sim \mathcal N(0, \sigma^2), \qquad
              W_{\text{o}}, W_{\text{down}} \sim
              \mathcal N\!\left(0, \frac{\sigma^2}{2L}\right)

    A stream that 2L branches add to then has the size that one branch would give it
    (Radford et al. 2019, section 2.3). Biases become 0.

    Parameters
    ----------
    model : nn.Module
        Every matrix called ``weight`` is drawn: those of linear layers, embeddings,
        heads and routers.
    num_layers : int
        L, the number of blocks.
    std : float
        :math:`\sigma`.
    generator : torch.Generator, optional
        What the numbers are drawn from; the global one is not touched then.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    TypeError, ValueError
        If a number is not positive, or the scheme does not know a matrix of the model:
        none is named ``o_proj`` or ``down_proj``, or one is not called ``weight``, such as
        those of experts.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Encoder, TransformerBlock, init_gpt2_, part
    >>> encoder = Encoder(64, blocks=(part(TransformerBlock, num_heads=4),) * 8)
    >>> _ = init_gpt2_(encoder, num_layers=8, generator=torch.Generator().manual_seed(0))
    >>> attention = encoder.blocks[0].attention
    >>> round(attention.q_proj.weight.std().item(), 3)
    0.02
    >>> round(attention.o_proj.weight.std().item(), 3)  # a quarter
    0.005
    """
    depth = positive_int("num_layers", num_layers)
    sigma = positive("std", std)

    def spread(name: str, _: Tensor) -> float:
        return sigma / math.sqrt(2 * depth) if name in WRITES else sigma

    return _draw(model, spread, generator)


def init_small_(
    model: M, *, num_layers: int, generator: torch.Generator | None = None
) -> M:
    r"""Draw a model's weights as GPT-NeoX-20B did, in place.

    .. math:: W \sim \mathcal N\!\left(0, \frac{2}{5D}\right), \qquad
              W_{\text{o}}, W_{\text{down}} \sim
              \mathcal N\!\left(0, \frac{4}{L^2 D}\right)

    with D the width of the residual stream on which a matrix works (*SmallInit*, Nguyen
    and Salazar 2019, arXiv:1910.05895; the second by Wang and Komatsuzaki, *GPT-J*;
    Black et al. 2022, arXiv:2204.06745, section 3.2). Biases become 0.

    Parameters
    ----------
    model : nn.Module
        Every matrix called ``weight`` is drawn: those of linear layers, embeddings,
        heads and routers.
    num_layers : int
        L, the number of blocks.
    generator : torch.Generator, optional
        What the numbers are drawn from; the global one is not touched then.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    TypeError, ValueError
        As in :func:`init_gpt2_`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, init_small_
    >>> generator = torch.Generator().manual_seed(0)
    >>> ffn = init_small_(FeedForward(100), num_layers=10, generator=generator)
    >>> round(ffn.up_proj.weight.std().item(), 3), (2 / 500) ** 0.5
    (0.063, 0.06324555320336758)
    >>> round(ffn.down_proj.weight.std().item(), 3)  # 2 / (10 * sqrt(100))
    0.02
    """
    depth = positive_int("num_layers", num_layers)

    def spread(name: str, weight: Tensor) -> float:
        if name in WRITES:
            return 2 / (depth * math.sqrt(weight.shape[0]))
        return math.sqrt(2 / (5 * weight.shape[1]))

    return _draw(model, spread, generator)


def init_deepnorm_(
    model: M, *, num_layers: int, generator: torch.Generator | None = None
) -> M:
    r"""Draw the weights of a stack of :class:`~tfdoc.DeepNormBlock`, in place.

    .. math:: W \sim \mathcal N\!\left(0, \beta^2\, \frac{2}{F_{in} + F_{out}}\right),
              \qquad \beta = (8L)^{-1/4}

    for the matrices that carry a branch (``v_proj``, ``o_proj`` and those of the
    feed-forward network), and with :math:`\beta = 1` for all others: Xavier's normal
    draw with two gains (Wang et al. 2022, arXiv:2203.00555, figure 2). Biases become 0.
    For a lone encoder or decoder; with :math:`\alpha = (2L)^{1/4}` in the blocks.

    Parameters
    ----------
    model : nn.Module
        Every matrix called ``weight`` is drawn: those of linear layers, embeddings,
        heads and routers.
    num_layers : int
        L, the number of blocks.
    generator : torch.Generator, optional
        What the numbers are drawn from; the global one is not touched then.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    TypeError, ValueError
        As in :func:`init_gpt2_`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import MultiHeadAttention, init_deepnorm_
    >>> attention = MultiHeadAttention(200, num_heads=4)
    >>> generator = torch.Generator().manual_seed(0)
    >>> _ = init_deepnorm_(attention, num_layers=2, generator=generator)
    >>> ratio = attention.v_proj.weight.std() / attention.q_proj.weight.std()
    >>> round(ratio.item(), 1)  # 16 ** -0.25
    0.5
    """
    beta = math.pow(8 * positive_int("num_layers", num_layers), -0.25)

    def spread(name: str, weight: Tensor) -> float:
        gain = beta if name in CARRIES else 1.0
        return gain * math.sqrt(2 / sum(weight.shape))

    return _draw(model, spread, generator)


def _draw(
    model: M,
    spread: Callable[[str, Tensor], float],
    generator: torch.Generator | None,
) -> M:
    """Draw each matrix with the spread that belongs to its name; biases become 0."""
    found = list(_matrices(model))
    if not any(name in WRITES for name, _ in found):
        raise ValueError(
            f"no matrix of {type(model).__name__} is named {' or '.join(WRITES)}, so "
            "none would get the scale of the residual branches; it has "
            f"{sorted({name for name, _ in found})}"
        )
    for name, module in found:
        weight = module.get_parameter("weight")
        nn.init.normal_(weight, 0.0, spread(name, weight), generator)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.get_parameter("bias"))
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(weight[module.padding_idx].detach())
    return model


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield whatever holds a matrix called weight; refuse any other matrix."""
    known: set[Tensor] = set()
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if (
            isinstance(weight, nn.Parameter)
            and weight.ndim == 2
            and weight not in known
        ):
            known.add(weight)
            yield path.rpartition(".")[2], module
    strange = [k for k, p in model.named_parameters() if p.ndim > 1 and p not in known]
    if strange:
        raise ValueError(
            f"the scheme knows matrices called weight only, and the model also has "
            f"{strange}; draw those yourself, or initialise the parts around them"
        )
