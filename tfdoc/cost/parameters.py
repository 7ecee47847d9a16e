"""Parameters of a decoder, from the numbers of its published table."""

from __future__ import annotations

from typing import TypedDict, Unpack

from tfdoc._checks import count, divides, flag, positive_int
from tfdoc.cost.formulas import linear

__all__ = ["count_params", "estimate_params"]


class Shape(TypedDict, total=False):
    """The keywords of :func:`count_params`."""

    num_kv_heads: int | None
    head_dim: int | None
    num_positions: int
    gated: bool
    bias: bool
    tied: bool


def count_params(  # noqa: PLR0913  # the numbers of a model's table
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    hidden_dim: int,
    num_heads: int,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    num_positions: int = 0,
    gated: bool = True,
    bias: bool = False,
    tied: bool = False,
) -> dict[str, int]:
    r"""Count the parameters of a decoder, component by component.

    .. math::
        N = V D + P D + L \bigl(\underbrace{2 D H d + 2 D G d}_{\text{attention}}
            + \underbrace{m D F}_{\text{feed-forward}} + \underbrace{2 D}_{\text{norms}}
            \bigr) + D + V D

    with m = 3 matrices in a gated feed-forward network and 2 in a plain one, plus a bias
    for every output where there are biases, and without the last term where the head
    shares the embedding's table. The defaults are those of Llama.

    Parameters
    ----------
    vocab_size : int
        V, entries of the vocabulary.
    embed_dim : int
        D, width of the residual stream.
    num_layers : int
        L.
    hidden_dim : int
        F, hidden width of the feed-forward network.
    num_heads : int
        H query heads.
    num_kv_heads : int, optional
        G heads of keys and values, H by default.
    head_dim : int, optional
        d, D / H by default.
    num_positions : int
        P learned positions; 0 for RoPE and other schemes without parameters.
    gated : bool
        Three feed-forward matrices instead of two.
    bias : bool
        Biases on all projections and norms, as in GPT-2.
    tied : bool
        Whether the head is the embedding, counted once.

    Returns
    -------
    dict of str to int
        ``embedding, positions, attention, feedforward, norms, head``.

    Raises
    ------
    TypeError, ValueError
        If a number is not a positive integer (``num_positions`` may be 0), heads do not
        divide, or a switch is not True or False.

    Examples
    --------
    >>> from tfdoc import count_params
    >>> sum(count_params(32_000, 4096, 32, 11_008, 32).values())  # Llama-7B
    6738415616
    """
    V = positive_int("vocab_size", vocab_size)
    D = positive_int("embed_dim", embed_dim)
    L = positive_int("num_layers", num_layers)
    F = positive_int("hidden_dim", hidden_dim)
    H = positive_int("num_heads", num_heads)
    G = positive_int("num_kv_heads", H if num_kv_heads is None else num_kv_heads)
    divides("num_kv_heads", G, "num_heads", H)
    if head_dim is None:
        divides("num_heads", H, "embed_dim", D)
        head_dim = D // H
    d = positive_int("head_dim", head_dim)
    P = count("num_positions", num_positions)
    for name, given in {"gated": gated, "bias": bias, "tied": tied}.items():
        flag(name, given)

    up = 2 if gated else 1  # matrices into the hidden width
    attention = (
        linear(D, H * d, bias) + 2 * linear(D, G * d, bias) + linear(H * d, D, bias)
    )
    feedforward = up * linear(D, F, bias) + linear(F, D, bias)
    norm = (1 + bias) * D
    return {
        "embedding": V * D,
        "positions": P * D,
        "attention": L * attention,
        "feedforward": L * feedforward,
        "norms": (2 * L + 1) * norm,
        "head": 0 if tied else V * D,
    }


def estimate_params(
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    hidden_dim: int,
    num_heads: int,
    **shape: Unpack[Shape],
) -> float:
    """Return the parameters of a decoder in billions.

    The sum of :func:`count_params`, which takes the same arguments, over 1e9. The popular
    formula V D + L (4 D D + 2 D F + 4 D) + D V knows neither the third matrix of a gated
    network nor grouped heads, biases or tying: for Llama-7B it says 5.3.

    Raises
    ------
    TypeError, ValueError
        As :func:`count_params` does.

    Examples
    --------
    >>> from tfdoc import estimate_params
    >>> round(estimate_params(32_000, 4096, 32, 11_008, 32), 3)  # Llama-7B
    6.738
    >>> gpt2 = dict(gated=False, bias=True, tied=True, num_positions=1024)
    >>> round(estimate_params(50_257, 768, 12, 3072, 12, **gpt2), 6)
    0.12444
    """
    counts = count_params(
        vocab_size, embed_dim, num_layers, hidden_dim, num_heads, **shape
    )
    return sum(counts.values()) / 1e9
