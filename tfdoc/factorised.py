"""An embedding in two steps: narrow vectors of tokens, made wide by one matrix."""

from __future__ import annotations

from torch import Tensor, nn

from tfdoc._checks import positive_int
from tfdoc._linear import Linear
from tfdoc._tensor_checks import Positions
from tfdoc.embedding import TokenEmbedding
from tfdoc.parts import Part

__all__ = ["FactorisedEmbedding"]


class FactorisedEmbedding(nn.Module):
    r"""Tokens as narrow vectors, which one linear layer makes as wide as the model.

    .. math:: x_t = \operatorname{embed}(\text{token}_t)\, W^T + b

    V tokens then cost V R + R D + D numbers in place of V D: in ALBERT's largest model,
    R = 128 for D = 4096 (Lan et al. 2019, arXiv:1909.11942, section 3.1).

    Parameters
    ----------
    embed_dim : int
        Width D of the model.
    embed : Part
        A :class:`TokenEmbedding`, built for the width `rank`; its positions, types and
        norm are as narrow.
    rank : int
        R, the width of a token's vector.

    Raises
    ------
    TypeError, ValueError
        If a width is no positive integer, `embed` no part, or it refuses its settings or
        inputs.

    Notes
    -----
    The parameters are those of the embedding under ``embed``, and ``proj.weight``, shape
    (D, R), with ``proj.bias``. ``weight`` is the embedding's table, shape (V, R): a tied
    :class:`MaskedHead` takes the same `rank`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FactorisedEmbedding, TokenEmbedding, part
    >>> embed = FactorisedEmbedding(
    ...     64, embed=part(TokenEmbedding, vocab_size=97), rank=8
    ... )
    >>> embed(torch.tensor([[5, 3, 96]])).shape
    torch.Size([1, 3, 64])
    >>> sum(p.numel() for p in embed.parameters()), 97 * 64
    (1352, 6208)
    """

    def __init__(
        self, embed_dim: int, *, embed: Part[TokenEmbedding], rank: int
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.rank = positive_int("rank", rank)
        given: object = embed
        if not isinstance(given, Part):
            raise TypeError(
                f"embed must be a part, got {type(given).__name__}; "
                "part(TokenEmbedding, vocab_size=...) makes one"
            )
        self.embed = embed.build(rank)
        self.proj = Linear(rank, embed_dim)

    @property
    def vocab_size(self) -> int:
        """V, the number of tokens there are."""
        return self.embed.vocab_size

    @property
    def weight(self) -> nn.Parameter | None:
        """The table of tokens, shape (V, R)."""
        return self.embed.weight

    def forward(
        self,
        tokens: Tensor,
        positions: Positions = None,
        weight: Tensor | None = None,
        *,
        types: Tensor | None = None,
    ) -> Tensor:
        """Look the vectors up and make them wide.

        Parameters
        ----------
        tokens : Tensor of int
            Shape (B, T).
        positions, weight, types : optional
            As :meth:`TokenEmbedding.forward` takes them.

        Returns
        -------
        Tensor
            Shape (B, T, D).
        """
        out: Tensor = self.proj(self.embed(tokens, positions, weight, types=types))
        return out
