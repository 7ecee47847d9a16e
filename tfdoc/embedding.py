"""From tokens to vectors, and from vectors to scores of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import flag, number, positive, positive_int, probability
from tfdoc._linear import linear
from tfdoc._tensor_checks import WHOLE, Positions, describe, vectors
from tfdoc.parts import Part

__all__ = ["Head", "TokenEmbedding"]


class TokenEmbedding(nn.Module):
    r"""A vector for each token, with positions, a norm and dropout where a model has them.

    .. math:: x_t = \operatorname{dropout}(\operatorname{norm}(
              s\,E_{\text{token}} + e_{\text{type}} + p_t))

    Parameters
    ----------
    embed_dim : int
        Width D.
    vocab_size : int
        V, the number of tokens there are.
    positions : Part, optional
        Adds where a token stands: ``part(LearnedPositions, max_positions=1024)`` or
        ``part(Sinusoidal)``. Models with rotary positions have none here.
    types : Part, optional
        Adds what kind of token each is: ``part(TokenTypes)``, as in BERT.
    norm : Part, optional
        As in BERT and BLOOM.
    scale : float
        s, :math:`\sqrt D` in the original transformer and in Gemma.
    dropout : float
        Share of the numbers dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, `positions`, `types` or `norm` no part, a token
        not below `vocab_size` (on a GPU torch's own check says so), or a call has types
        and the embedding none.

    Notes
    -----
    The parameter ``weight`` has shape (V, D).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import LearnedPositions, TokenEmbedding, part
    >>> embed = TokenEmbedding(
    ...     16, vocab_size=97, positions=part(LearnedPositions, max_positions=32)
    ... )
    >>> embed(torch.tensor([[5, 3, 96]])).shape
    torch.Size([1, 3, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        vocab_size: int,
        positions: Part[nn.Module] | None = None,
        types: Part[nn.Module] | None = None,
        norm: Part[nn.Module] | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.vocab_size = positive_int("vocab_size", vocab_size)
        self.scale = positive("scale", scale)
        given: dict[str, object] = {
            "positions": positions,
            "types": types,
            "norm": norm,
        }
        for name, recipe in given.items():
            if recipe is not None and not isinstance(recipe, Part):
                raise TypeError(
                    f"{name} must be a part, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        self.weight: nn.Parameter | None = nn.Parameter(
            torch.empty(vocab_size, embed_dim)
        )
        nn.init.normal_(self.weight, std=0.02)
        self.positions = positions.build(embed_dim) if positions else None
        self.types = types.build(embed_dim) if types else None
        self.norm = norm.build(embed_dim) if norm else None
        self.dropout = nn.Dropout(probability("dropout", dropout))

    def forward(
        self,
        tokens: Tensor,
        positions: Positions = None,
        weight: Tensor | None = None,
        *,
        types: Tensor | None = None,
    ) -> Tensor:
        """Look the vectors up.

        Parameters
        ----------
        tokens : Tensor of int
            Shape (B, T).
        positions : int or Tensor of int, optional
            0 ... T-1 by default, an offset, or positions of shape (T,) or (B, T).
        weight : Tensor, optional
            A table to look in instead of its own, (V, D): another embedding's.
        types : Tensor of int, optional
            Of each token, shape (B, T), where the embedding has types; 0 by default.

        Returns
        -------
        Tensor
            Shape (B, T, D).
        """
        table = self.weight if weight is None else weight
        if table is None:
            raise ValueError(
                "this embedding has no table of its own; give it that of the other, "
                "embed(tokens, weight=other.weight)"
            )
        x = _rows(tokens, table)
        if self.scale != 1:
            x = x * self.scale
        if self.types is not None:
            x = self.types(x, types)
        elif types is not None:
            raise ValueError(
                "this embedding has no token types; build it with types=part(TokenTypes), "
                "or call it without types"
            )
        if self.positions is not None:
            x = self.positions(x, positions)
        if self.norm is not None:
            x = self.norm(x)
        out: Tensor = self.dropout(x) if self.training else x
        return out

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        scale = f", scale={self.scale:.4g}" if self.scale != 1 else ""
        return f"{self.embed_dim}, vocab_size={self.vocab_size}{scale}"


class Head(nn.Module):
    r"""A score for each token of the vocabulary: the logits.

    .. math:: z = c \tanh\!\left(\frac{s\,(x W^T + b)}{c}\right), \qquad
              z = s\,(x W^T + b) \text{ without a cap}

    Parameters
    ----------
    embed_dim : int
        Width D.
    vocab_size : int
        V, the number of scores.
    bias : bool
        Whether each score has a bias, as in GPT-J and Phi.
    scale : float
        s, a fixed factor, as in Cohere's models.
    softcap : float, optional
        c, a bound that no score reaches: 30 in Gemma 2.
    tied : bool
        Whether the weight is that of the embedding, given to each call (Press and Wolf
        2017, arXiv:1608.05859).

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, `scale` is 0 or not finite, `softcap` not
        above 0, or a tied head is called without a weight.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Head
    >>> Head(16, 97)(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 97])
    """

    def __init__(
        self,
        embed_dim: int,
        vocab_size: int,
        *,
        bias: bool = False,
        scale: float = 1.0,
        softcap: float | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.vocab_size = positive_int("vocab_size", vocab_size)
        self.scale = number("scale", scale)
        if not scale:
            raise ValueError("scale must not be 0, which makes all scores equal")
        self.softcap = None if softcap is None else positive("softcap", softcap)
        weight = None if flag("tied", tied) else torch.empty(vocab_size, embed_dim)
        self.weight = None if weight is None else nn.Parameter(weight)
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)
        self.bias = (
            nn.Parameter(torch.zeros(vocab_size)) if flag("bias", bias) else None
        )

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Score `x`, shape (..., D), with its own weight or with this one, (V, D).

        Returns
        -------
        Tensor
            Shape (..., V).
        """
        vectors("x", x, self.embed_dim)
        if (weight is None) == (self.weight is None):
            raise ValueError(
                "a tied head is called with the weight of the embedding, "
                "head(x, embed.weight), and another one without"
            )
        logits = linear(x, weight if self.weight is None else self.weight, self.bias)  # type: ignore[arg-type]
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        shown = {"bias": self.bias is not None, "tied": self.weight is None}
        numbers = {"scale": self.scale, "softcap": self.softcap}
        given = [f"{name}=True" for name, is_so in shown.items() if is_so]
        given += [f"{k}={v:g}" for k, v in numbers.items() if v not in (1.0, None)]
        return ", ".join([f"{self.embed_dim}, {self.vocab_size}", *given])


def _rows(tokens: object, table: Tensor) -> Tensor:
    """Look tokens up, shape (B, T), in a table of shape (V, D)."""
    if not (isinstance(tokens, Tensor) and tokens.dtype in WHOLE):
        raise TypeError(
            "tokens must be a tensor of token ids, of int64 or int32, got "
            f"{describe(tokens)}; torch.tensor([ids]) makes one"
        )
    if tokens.ndim != 2:
        raise ValueError(
            f"tokens must have shape (batch, tokens), got {tuple(tokens.shape)}; "
            "a single sequence needs tokens[None]"
        )
    try:
        return F.embedding(tokens, table)
    except IndexError:
        low, high = (int(end) for end in tokens.aminmax())
        raise ValueError(
            f"tokens must be from 0 to {len(table) - 1} (vocab_size={len(table)}), "
            f"got {low} to {high}"
        ) from None
