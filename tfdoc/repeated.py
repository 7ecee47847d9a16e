"""One block's weights, used several times."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tfdoc._checks import positive_int
from tfdoc.parts import Part

__all__ = ["RepeatedBlock"]


class RepeatedBlock(nn.Module):
    r"""One block that the stream runs through several times: depth without parameters.

    .. math:: h_0 = x, \qquad h_{n+1} = \operatorname{block}(h_n), \qquad
              y = h_{\text{times}}

    ALBERT has one block for all its layers (Lan et al. 2019, arXiv:1909.11942, section
    3.1); the Universal Transformer came first (Dehghani et al. 2018, arXiv:1807.03819,
    there with a vector of the step added, and without a fixed end). It costs as many
    operations as so many blocks.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    block : Part
        Any block.
    times : int
        How often.

    Raises
    ------
    TypeError, ValueError
        If `block` is not a part, `times` no positive integer, or the call has a cache.

    Notes
    -----
    The parameters are those of the block, under ``block``. Its probes are called in every
    pass: ``record(...).calls`` has them all.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Encoder, RepeatedBlock, TransformerBlock, part
    >>> block = part(TransformerBlock, num_heads=4)
    >>> albert = Encoder(16, blocks=(part(RepeatedBlock, block=block, times=12),))
    >>> albert(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    >>> sum(p.numel() for p in albert.parameters()), 12 * 16**2 + 13 * 16
    (3280, 3280)
    """

    def __init__(self, embed_dim: int, *, block: Part[nn.Module], times: int) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.times = positive_int("times", times)
        given: object = block
        if not isinstance(given, Part):
            raise TypeError(
                f"block must be a part, got {type(given).__name__}; "
                "write part(Component, ...) instead of Component(...)"
            )
        self.block = block.build(embed_dim)

    def forward(self, x: Tensor, **call: Any) -> Tensor:
        """Transform `x`, shape (B, T, D); each pass gets the same keywords."""
        if call.get("cache") is not None:
            raise ValueError(
                f"a RepeatedBlock has keys and values of each of its {self.times} passes, "
                "and the cache would need a part for each; call the model without a "
                "cache, or give it a block for each layer"
            )
        for _ in range(self.times):
            x = self.block(x, **call)
        return x

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"times={self.times}"
