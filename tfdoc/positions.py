"""Where a token stands: rotary position embeddings, in both of their layouts."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from tfdoc._checks import one_of, positive, positive_int
from tfdoc._tensor_checks import WHOLE, vectors
from tfdoc.scalings import Scaling

__all__ = ["RoPE"]


@dataclass(frozen=True, repr=False)
class RoPE:
    r"""Rotary position embedding: turn each pair of channels by its position.

    Channels :math:`2i` and :math:`2i+1` are the two coordinates of a point that turns
    by the angle :math:`p\,\theta_i = p \cdot \text{base}^{-2i/d}` at position :math:`p`.
    Turning queries and keys makes their dot product depend on the distance of the two
    tokens only (Su et al. 2021, *RoFormer*, arXiv:2104.09864).

    Parameters
    ----------
    base : float
        The slowest pair turns about ``base`` times slower than the first.
    scaling : Scaling, optional
        Slows pairs down, for sequences longer than those of training:
        :class:`~tfdoc.LinearScaling`, :class:`~tfdoc.NTKScaling`,
        :class:`~tfdoc.DynamicNTKScaling`, :class:`~tfdoc.YaRN`,
        :class:`~tfdoc.Llama3Scaling` or :class:`~tfdoc.LongRoPE`.
    layout : str
        Which channels are a pair: ``"interleaved"`` neighbours (0, 1), (2, 3), ... as in
        the paper, GPT-J and Meta's Llama; ``"half"`` i and i + d/2, as in Hugging Face's
        Llama and most models there. Weights for one layout become weights for the
        other by :func:`tfdoc.half_to_interleaved` and back.
    rotary_dim : int, optional
        Turn only the first so many channels of each head and leave the rest as they
        are, as GPT-J, GPT-NeoX and Phi do; all by default.

    Raises
    ------
    TypeError
        If `scaling` is not a Scaling.
    ValueError
        If `base` is not a finite number above 0, `layout` another word or `rotary_dim`
        not even and positive.

    Notes
    -----
    Angles are computed in float64, whatever the model's precision: in bfloat16
    positions above 256 would collide. Tables of consecutive positions are kept, a few at
    a time, for the next layer and the next call; they belong to no module.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import RoPE
    >>> east = torch.tensor([[[[1.0, 0.0]]]])  # (batch, heads, tokens, head_dim)
    >>> RoPE()(east, torch.tensor([1]))  # one token, turned by 1 radian
    tensor([[[[0.5403, 0.8415]]]])
    """

    base: float = 10_000.0
    _: KW_ONLY
    scaling: Scaling | None = None
    layout: str = "interleaved"
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        positive("base", self.base)
        given: object = self.scaling
        if given is not None and not isinstance(given, Scaling):
            raise TypeError(
                f"scaling must be a Scaling such as LinearScaling(4.0), got {given!r}"
            )
        one_of("layout", self.layout, ("interleaved", "half"))
        if (
            self.rotary_dim is not None
            and positive_int("rotary_dim", self.rotary_dim) % 2
        ):
            raise ValueError(
                f"RoPE turns pairs: rotary_dim must be even, got {self.rotary_dim}"
            )

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if getattr(self, f.name) != f.default]
        names = {"base", *(f.name for f in shown)}
        values = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if f.name in names
        ]
        return f"RoPE({', '.join(values)})"

    def turned(self, head_dim: int) -> int:
        """Return how many of a head's channels turn; refuse heads that do not fit."""
        if self.rotary_dim is None:
            if positive_int("head_dim", head_dim) % 2:
                raise ValueError(
                    f"RoPE turns pairs: head_dim must be even, got {head_dim}; choose "
                    "another num_heads or head_dim"
                )
            return head_dim
        if self.rotary_dim > positive_int("head_dim", head_dim):
            raise ValueError(
                f"rotary_dim={self.rotary_dim} is more than head_dim={head_dim}; RoPE "
                "cannot turn more channels than a head has"
            )
        return self.rotary_dim

    def frequencies(
        self,
        head_dim: int,
        *,
        length: Tensor | int = 1,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return the speed of each pair in radians a token, after scaling.

        Parameters
        ----------
        head_dim : int
            Channels of a head.
        length : int or Tensor of int
            Length of the call, which some scalings look at.
        device : torch.device, optional
            Where to.

        Returns
        -------
        Tensor of float64
            Shape (head_dim / 2,), or (rotary_dim / 2,).
        """
        width = self.turned(head_dim)
        channels = torch.arange(0, width, 2, device=device, dtype=torch.float64)
        plain = self.base ** (-channels / width)
        if self.scaling is None:
            return plain
        length = torch.as_tensor(length, device=plain.device)
        return self.scaling.scale(plain, base=self.base, length=length)

    def table(self, positions: Tensor, head_dim: int) -> Tensor:
        """Return the turns as complex numbers, of length 1 if no scaling says otherwise.

        Parameters
        ----------
        positions : Tensor of int
            Shape (...). The largest decides where a scaling depends on the length.
        head_dim : int
            Channels of a head.

        Returns
        -------
        Tensor of complex128
            Shape (..., head_dim / 2), or (..., rotary_dim / 2).
        """
        device = positions.device
        if self.scaling is None:
            speeds, amplitude = self.frequencies(head_dim, device=device), 1.0
        else:
            length = positions.amax() + 1 if positions.numel() else 1
            speeds = self.frequencies(head_dim, length=length, device=device)
            amplitude = self.scaling.amplitude
        angles = positions[..., None] * speeds
        return torch.polar(torch.full_like(angles, amplitude), angles)

    def __call__(self, x: Tensor, positions: Tensor | int | None = None) -> Tensor:
        """Turn queries or keys.

        Parameters
        ----------
        x : Tensor
            Shape (B, H, T, head_dim).
        positions : int or Tensor of int, optional
            0 ... T-1 by default; an offset, that many further on; or a tensor of shape
            (T,), or (B, T) where rows of the batch differ.

        Returns
        -------
        Tensor
            Shape and dtype as in `x`, and lengths too where no scaling changes them.
        """
        vectors("x", x, ndim=4)
        return self.turn(x, self.turns(x, positions))

    def turn(self, x: Tensor, turns: Tensor) -> Tensor:
        """Turn `x`, shape (B, H, T, head_dim), by what :meth:`turns` returned."""
        if (width := 2 * turns.shape[-1]) != x.shape[-1]:
            turned = self.turn(x[..., :width].contiguous(), turns)
            return torch.cat([turned, x[..., width:]], -1)
        exact = x if x.dtype is torch.float64 else x.float()
        if self.layout == "half":
            near, far = exact.chunk(2, -1)
            cos = torch.cat([turns.real, turns.real], -1)
            sin = torch.cat([-turns.imag, turns.imag], -1)
            other = torch.cat([far, near], -1)
            return (exact * cos).addcmul_(other, sin).type_as(x)
        if exact.stride(-1) != 1:  # a complex number's two halves lie side by side
            exact = exact.contiguous()
        pairs = torch.view_as_complex(exact.reshape(*x.shape[:-1], x.shape[-1] // 2, 2))
        return torch.view_as_real(pairs * turns).flatten(-2).type_as(x)

    def turns(self, x: Tensor, positions: Tensor | int | None = None) -> Tensor:
        """Return what turns the tokens of `x`: the same for its queries and its keys.

        Parameters
        ----------
        x : Tensor
            Shape (B, H, T, head_dim).
        positions : int or Tensor of int, optional
            As in a call.

        Returns
        -------
        Tensor of complex64
            Shape (T, head_dim / 2), or (B, 1, T, head_dim / 2) where rows differ;
            complex128 for an `x` of float64.
        """
        double = x.dtype is torch.float64
        dtype = torch.complex128 if double else torch.complex64
        if isinstance(positions, Tensor):
            _fit(positions, x)
            turns = self.table(positions, x.shape[-1]).to(dtype)
            # The same for every head.
            return turns[:, None] if positions.ndim == 2 else turns
        if not (positions is None or isinstance(positions, int)):
            raise TypeError(
                "positions must be None, an integer offset or a tensor of integers, "
                f"got {type(positions).__name__}"
            )
        make = _kept if _may_keep(x) else _stretch
        stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
        return make(
            self, positions or 0, x.shape[-2], x.shape[-1], x.device, dtype, stream
        )


def _fit(positions: Tensor, x: Tensor) -> None:
    if positions.dtype not in WHOLE:
        raise TypeError(
            "positions must be a tensor of integers, got dtype "
            f"{positions.dtype}; torch.arange makes them, of int64"
        )
    if positions.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"positions of shape {tuple(positions.shape)} do not fit the "
            f"{x.shape[-2]} tokens of x, shape {tuple(x.shape)}"
        )


def _stretch(
    rope: RoPE,
    start: int,
    length: int,
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
    stream: int,
) -> Tensor:
    """Return the turns at `length` positions from `start` on."""
    del stream  # a kept table serves the stream that made it
    at = torch.arange(length, device=device) + start
    return rope.table(at, head_dim).to(dtype)


@lru_cache(maxsize=4)
def _kept(*where: object) -> Tensor:
    # Numbers made in inference mode could not serve training later.
    with torch.inference_mode(mode=False), torch.no_grad():
        return _stretch(*where)  # type: ignore[arg-type]


def _may_keep(x: Tensor) -> bool:
    """Say whether a table made now is one of plain numbers that outlive this call."""
    if type(x) is not Tensor or x.is_meta or torch.compiler.is_compiling():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
