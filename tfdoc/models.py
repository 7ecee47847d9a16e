"""Stacks of blocks."""

from __future__ import annotations

from torch import Tensor, nn

from tfdoc._checks import positive_int
from tfdoc._tensor_checks import Positions, batch_of_vectors
from tfdoc.cores import MaskLike
from tfdoc.parts import Part

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """A stack of blocks over vectors, with an optional norm at its end.

    With post-norm blocks it equals :class:`torch.nn.TransformerEncoder`. A causal mask in
    the blocks' attention turns it into the trunk of a decoder.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    blocks : tuple of Part
        One part a layer; ``(block,) * 6`` repeats, and layers may differ.
    norm : Part, optional
        After the last block; pre-norm stacks need it.

    Raises
    ------
    TypeError, ValueError
        If `blocks` is not a tuple of parts, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Encoder, LayerNorm, TransformerBlock, part
    >>> block = part(TransformerBlock, num_heads=4)
    >>> encoder = Encoder(16, blocks=(block,) * 3, norm=part(LayerNorm))
    >>> encoder(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        blocks: tuple[Part[nn.Module], ...],
        norm: Part[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        given: tuple[object, ...] = (*_tuple(blocks), *([] if norm is None else [norm]))
        for recipe in given:
            if not isinstance(recipe, Part):
                raise TypeError(
                    f"blocks and norm must be parts, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        self.blocks = nn.ModuleList(block.build(embed_dim) for block in blocks)
        self.norm = nn.Identity() if norm is None else norm.build(embed_dim)

    def forward(
        self, x: Tensor, *, mask: MaskLike = None, positions: Positions = None
    ) -> Tensor:
        """Transform `x`, shape (B, T, D); every block gets mask and positions.

        Returns
        -------
        Tensor
            Shape (B, T, D).
        """
        batch_of_vectors("x", x, self.embed_dim)
        for block in self.blocks:
            x = block(x, mask=mask, positions=positions)
        out: Tensor = self.norm(x)
        return out


def _tuple(blocks: object) -> tuple[object, ...]:
    if isinstance(blocks, tuple) and blocks:
        return blocks
    raise TypeError(
        f"blocks must be a tuple with a part for each layer, got {blocks!r}; "
        "(block,) * 6 repeats one"
    )
