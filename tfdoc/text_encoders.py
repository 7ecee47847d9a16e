"""From tokens to vectors, and what is made of the vectors: BERT and its kin."""

from __future__ import annotations

import inspect
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._call import PairCall, stand
from tfdoc._checks import flag, positive_int
from tfdoc._linear import Linear
from tfdoc._tensor_checks import batch_of_vectors, token_mask
from tfdoc.embedding import Head
from tfdoc.feedforward import Activation, _callable
from tfdoc.models import Encoder
from tfdoc.norms import LayerNorm
from tfdoc.parts import Part, part

__all__ = ["MaskedHead", "Pooler", "TextEncoder"]


class TextEncoder(nn.Module):
    r"""A model that reads a text to its end: from tokens to vectors, or to a head's result.

    .. math:: y = \operatorname{head}(\operatorname{encoder}(
              \operatorname{embed}(\text{tokens})))

    BERT, RoBERTa, DistilBERT, ALBERT and ModernBERT are this class with other parts
    (Devlin et al. 2018, arXiv:1810.04805).

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    embed : Part
        ``part(TokenEmbedding, ...)`` with positions, token types and a norm where a model
        has them, or ``part(FactorisedEmbedding, ...)``.
    encoder : Part
        An :class:`Encoder`.
    head : Part, optional
        What makes something of the vectors: ``part(Pooler)``, ``part(MaskedHead, ...)``
        or your own. One whose forward takes ``real`` is told which tokens are.
    tied : bool
        Whether the head's weight is the embedding's table of tokens.

    Raises
    ------
    TypeError, ValueError
        If a part is none or refuses its settings or inputs, or ``tied`` has no head.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Encoder, LearnedPositions, LayerNorm, Pooler, TextEncoder
    >>> from tfdoc import TokenEmbedding, TokenTypes, TransformerLayer, part
    >>> embed = part(
    ...     TokenEmbedding,
    ...     vocab_size=97,
    ...     positions=part(LearnedPositions, max_positions=32),
    ...     types=part(TokenTypes),
    ...     norm=part(LayerNorm, eps=1e-12),
    ... )
    >>> layer = part(TransformerLayer, num_heads=4, hidden_dim=64)
    >>> bert = TextEncoder(
    ...     16,
    ...     embed=embed,
    ...     encoder=part(Encoder, blocks=(layer,) * 2),
    ...     head=part(Pooler),
    ... )
    >>> tokens, types = torch.tensor([[5, 3, 96, 7]]), torch.tensor([[0, 0, 1, 1]])
    >>> bert(tokens, types=types).shape
    torch.Size([1, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        embed: Part[nn.Module],
        encoder: Part[Encoder],
        head: Part[nn.Module] | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        given: dict[str, object] = {"embed": embed, "encoder": encoder}
        for name, recipe in (given if head is None else given | {"head": head}).items():
            if not isinstance(recipe, Part):
                raise TypeError(
                    f"{name} must be a part, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        self.embed = embed.build(embed_dim)
        self.encoder = encoder.build(embed_dim)
        self.tied, self.head, self._asks_real = flag("tied", tied), None, False
        if head is not None:
            self.head = head.build(embed_dim, **({"tied": True} if tied else {}))
            self._asks_real = "real" in inspect.signature(self.head.forward).parameters
        elif tied:
            raise ValueError(
                "tied=True gives the embedding's table to the head, and there is none; "
                "head=part(MaskedHead, vocab_size=...) is one"
            )

    def forward(
        self,
        tokens: Tensor,
        *,
        real: Tensor | None = None,
        types: Tensor | None = None,
        **call: Unpack[PairCall],
    ) -> Tensor:
        """Read the tokens.

        Parameters
        ----------
        tokens : Tensor of int
            Shape (B, T).
        real : Tensor of bool, optional
            True at tokens, False at padding, shape (B, T). Padding may stand on either
            side and hold any token; it counts no position.
        types : Tensor of int, optional
            Of each token, shape (B, T), for an embedding with :class:`TokenTypes`.
        mask, positions, position_bias : optional
            As :meth:`Encoder.forward` takes them; the embedding gets the positions too.

        Returns
        -------
        Tensor
            Vectors, shape (B, T, D), or what the head makes of them.
        """
        at = stand(tokens, real, call.pop("positions", None), None)
        typed = {} if types is None else {"types": types}
        x: Tensor = self.encoder(self.embed(tokens, at, **typed), positions=at, **call)
        if self.head is None:
            return x
        told: dict[str, Any] = {"weight": self.embed.weight} if self.tied else {}
        if self._asks_real and isinstance(at, Tensor):
            told["real"] = (at >= 0).expand(tokens.shape)
        out: Tensor = self.head(x, **told)
        return out


class Pooler(nn.Module):
    r"""A text's vector, made of its first token: BERT's, for sentences.

    .. math:: y = \tanh(x_0 W^T + b)

    (Devlin et al. 2018, arXiv:1810.04805, section 3.1, where the first token is always
    ``[CLS]``.)

    Parameters
    ----------
    embed_dim : int
        Width D.

    Raises
    ------
    TypeError, ValueError
        If `embed_dim` is no positive integer, `x` has no token, or `real` is not one bool
        for each.

    Notes
    -----
    The parameters are ``proj.weight``, shape (D, D), and ``proj.bias``.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Pooler
    >>> Pooler(16)(torch.randn(2, 5, 16)).shape
    torch.Size([2, 16])
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.proj = Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Make one vector of each row.

        Parameters
        ----------
        x : Tensor
            Shape (B, T, D).
        real : Tensor of bool, optional
            True at tokens, False at padding, shape (B, T): the first real token counts.

        Returns
        -------
        Tensor
            Shape (B, D).
        """
        batch_of_vectors("x", x, self.embed_dim)
        if not x.shape[1]:
            raise ValueError(
                f"x must hold at least one token a row, got shape {tuple(x.shape)}"
            )
        first = x[:, 0]
        if real is not None:
            at = token_mask(real, "x", x, "real").int().argmax(1)
            first = x[torch.arange(len(x), device=x.device), at]
        return torch.tanh(self.proj(first))


class MaskedHead(nn.Module):
    r"""A score for each token of the vocabulary at each place: what a mask hides there.

    .. math:: z = \operatorname{norm}(\operatorname{activation}(x W_1^T + b_1))\, W_2^T + b_2

    The head of masked language models (Devlin et al. 2018, arXiv:1810.04805).

    Parameters
    ----------
    embed_dim : int
        Width D.
    vocab_size : int
        V, the number of scores.
    activation : callable
        Applied after the first matrix.
    norm : Part
        After the activation.
    bias : bool or str
        Whether both matrices have a bias, none, or ``"out"``, the scores only
        (ModernBERT).
    rank : int, optional
        R, the width of what is scored: that of a :class:`FactorisedEmbedding`; D by
        default.
    tied : bool
        Whether the second matrix is the embedding's table, given to each call.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, `norm` no part, `activation` no function, `bias`
        another word, or the weight of a call is missing, too much, or not of shape (V, R).

    Notes
    -----
    The parameters are those of a linear layer ``proj``, of ``norm``, and of a
    :class:`Head` called ``head``.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import MaskedHead
    >>> MaskedHead(16, vocab_size=97)(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 97])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        vocab_size: int,
        activation: Activation = F.gelu,
        norm: Part[nn.Module] = part(LayerNorm),
        bias: bool | str = True,
        rank: int | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.rank = embed_dim if rank is None else positive_int("rank", rank)
        if not isinstance(bias, bool) and bias != "out":
            raise ValueError(f"bias must be True, False or 'out', got {bias!r}")
        given: object = norm
        if not isinstance(given, Part):
            raise TypeError(
                f"norm must be a part, got {type(given).__name__}; "
                "part(LayerNorm) makes one"
            )
        self.proj = Linear(embed_dim, self.rank, bias is True)
        self.activation = _callable(activation)
        self.norm = norm.build(self.rank)
        self.head = Head(self.rank, vocab_size, bias=bool(bias), tied=tied)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Score `x`, shape (..., D), with its own weight or with this one, (V, R).

        Returns
        -------
        Tensor
            Shape (..., V).
        """
        size = (self.head.vocab_size, self.rank)
        if weight is not None and weight.shape != size:
            raise ValueError(
                f"the weight must have shape {size}, vocab_size and rank, got "
                f"{tuple(weight.shape)}; build the head with those of the embedding"
            )
        out: Tensor = self.head(self.norm(self.activation(self.proj(x))), weight)
        return out
