"""What kind of token each is: of the question or of the answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import positive_int
from tfdoc._tensor_checks import batch_of_vectors, describe

__all__ = ["TokenTypes"]


class TokenTypes(nn.Module):
    r"""Add a learned vector for each token's type, as BERT does for two sentences.

    .. math:: y_t = x_t + E_{\text{type}_t}

    Goes into an embedding: ``part(TokenEmbedding, types=part(TokenTypes), ...)``. BERT's
    first sentence has type 0, its second type 1 (Devlin et al. 2018, arXiv:1810.04805).

    Parameters
    ----------
    embed_dim : int
        Width D.
    num_types : int
        How many there are; RoBERTa has 1.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, or types are no whole numbers below `num_types`
        (on a GPU torch's own check says so), one for each token.

    Notes
    -----
    The parameter ``weight`` has shape (num_types, D).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import TokenTypes
    >>> types = TokenTypes(16)
    >>> types(torch.randn(1, 3, 16), torch.tensor([[0, 0, 1]])).shape
    torch.Size([1, 3, 16])
    """

    def __init__(self, embed_dim: int, *, num_types: int = 2) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.num_types = positive_int("num_types", num_types)
        self.weight = nn.Parameter(torch.empty(num_types, embed_dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, types: Tensor | None = None) -> Tensor:
        """Add to `x`, shape (B, T, D).

        Parameters
        ----------
        x : Tensor
            Embeddings.
        types : Tensor of int, optional
            Of each token, shape (B, T); all are 0 by default.

        Returns
        -------
        Tensor
            Shape (B, T, D).
        """
        batch_of_vectors("x", x, self.embed_dim)
        if types is None:
            return x + self.weight[0]
        _whole(types, tuple(x.shape[:2]))
        try:
            return x + F.embedding(types, self.weight)
        except IndexError:
            low, high = (int(end) for end in types.aminmax())
            raise ValueError(
                f"types must be from 0 to {self.num_types - 1} "
                f"(num_types={self.num_types}), got {low} to {high}"
            ) from None

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, num_types={self.num_types}"


def _whole(types: object, shape: tuple[int, ...]) -> None:
    if (
        not isinstance(types, Tensor)
        or types.is_floating_point()
        or types.dtype is torch.bool
    ):
        raise TypeError(
            f"types must be a tensor of whole numbers, got {describe(types)}; "
            "second.long() makes types of a bool tensor"
        )
    if types.shape != shape:
        raise ValueError(
            f"types must have shape {shape}, one for each token, got {tuple(types.shape)}"
        )
