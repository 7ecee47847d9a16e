"""Mixture of experts: many feed-forward networks, of which a token visits a few."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import positive, positive_int
from tfdoc._tensor_checks import token_mask, vectors
from tfdoc.experts import GatedExperts
from tfdoc.parts import Part, part
from tfdoc.probe import Probe
from tfdoc.routers import SoftmaxRouter

__all__ = ["MixtureOfExperts"]


class MixtureOfExperts(nn.Module):
    r"""Feed-forward networks side by side; a router sends each token to k of them.

    .. math:: y = \sum_{e \in \operatorname{top} k} g_e \operatorname{FFN}_e(x)
              + \operatorname{FFN}_\text{shared}(x)

    with the weights :math:`g` of the router and networks that are gated, if nothing else
    is given (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088,
    for Mixtral, whose shape the defaults have). A token costs what k networks cost,
    however many there are.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts.
    hidden_dim : int
        Width F in between, of each expert.
    router : Part
        :class:`tfdoc.SoftmaxRouter`, :class:`tfdoc.GroupedSoftmaxRouter`,
        :class:`tfdoc.SigmoidRouter`, :class:`tfdoc.SparseMixerRouter`, or a module of
        your own that takes ``num_experts``, with a default, and returns weights and
        chosen experts, (..., k).
    experts : Part
        The networks: :class:`tfdoc.GatedExperts`, :class:`tfdoc.ClampedExperts`,
        :class:`tfdoc.ScaledInputExperts`, or a module of your own that takes
        ``num_experts`` and ``hidden_dim``, with defaults, and is called with tokens,
        chosen experts (E: none) and weights.
    shared : Part, optional
        A network that sees every token, added with weight 1 and called
        ``shared_experts``: ``part(GatedFeedForward, hidden_dim=...)``, in a
        :class:`tfdoc.SigmoidGate` for Qwen2-MoE. Several shared experts are one of their
        joint width.
    capacity : float, optional
        An expert takes at most ``ceil(capacity * k * tokens / E)`` tokens of a batch,
        the first ones; the others lose its contribution, and the probe ``dropped`` says
        which. 1.0 leaves no room for imbalance. None, the default, drops nothing.

    Raises
    ------
    TypeError, ValueError
        If a number is not positive, `router`, `experts` or `shared` is not a part or was
        told other sizes, `x` no floating-point tensor of width D, or `mask` does not fit
        it.

    Notes
    -----
    The weights of the experts are stacked: ``experts.gate_up_proj`` of shape (E, 2F, D),
    gates first, and ``experts.down_proj``, (E, D, F). Hugging Face's ``gate`` is
    ``router`` here.

    Probes: ``router.logits``, ``router.scores`` and ``router.weights``; ``chosen``, the
    experts' numbers, (..., k), also at padding, where they count for nothing; ``load``,
    how many real tokens chose each expert, (E,); ``dropped``, True where a choice of a
    real token found its expert full, (..., k).

    What a token gets depends on no other token, but for a finite `capacity`, where those
    before it may have filled an expert, and for rounding: how many tokens an expert gets
    decides how its products are summed.

    In eager mode padding and dropped choices are not computed. Under
    :func:`torch.compile` and ``torch.export`` the graph may not depend on
    numbers: there they are computed and thrown away, and the products, whose sizes only
    the numbers know, are one operator that the compiler does not look into
    (:func:`torch.nn.functional.grouped_mm` in bfloat16, else one of this package). On
    the meta device one expert's matrix stands for all.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import MixtureOfExperts, record
    >>> moe = MixtureOfExperts(8, num_experts=4, hidden_dim=16)
    >>> with record(moe, "load") as seen:
    ...     y = moe(torch.randn(2, 5, 8))
    >>> y.shape, int(seen["load"].sum())  # 10 tokens, 2 experts each
    (torch.Size([2, 5, 8]), 20)
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_experts: int,
        hidden_dim: int,
        router: Part[nn.Module] = part(SoftmaxRouter, top_k=2),
        experts: Part[nn.Module] = part(GatedExperts),
        shared: Part[nn.Module] | None = None,
        capacity: float | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.num_experts = positive_int("num_experts", num_experts)
        self.capacity = None if capacity is None else positive("capacity", capacity)
        given: dict[str, object] = {"router": router, "experts": experts}
        given |= {} if shared is None else {"shared": shared}
        for name, recipe in given.items():
            if not isinstance(recipe, Part):
                raise TypeError(
                    f"{name} must be a part, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        number, width = {"num_experts": num_experts}, {"hidden_dim": hidden_dim}
        self.router = _told("router", router, **number).build(embed_dim)
        self.experts = _told("experts", experts, **number, **width).build(embed_dim)
        self.shared_experts = shared.build(embed_dim) if shared else None
        self.chosen, self.load, self.dropped = Probe(), Probe(), Probe()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform each token of `x`, shape (..., D), on its own; the shape stays.

        `mask`, shape (...), is True at real tokens. Padding gets 0, whatever it holds,
        and takes no capacity.
        """
        vectors("x", x, self.embed_dim)
        if mask is not None:
            x = x.masked_fill(~token_mask(mask, "x", x).unsqueeze(-1), 0)
        weights, chosen = self.router(x)  # (..., k)
        chosen = self.chosen(chosen)
        # One more number stands for no expert at all.
        asked = chosen if mask is None else self._nobody(chosen, ~mask.unsqueeze(-1))
        if self.load.watched:
            self.load(F.one_hot(asked.flatten(), self.num_experts + 1)[:, :-1].sum(0))
        taken = self._within_capacity(asked, mask)
        out: Tensor = self.experts(x, taken, weights)
        if self.shared_experts is not None:
            out = out + self.shared_experts(x)
            out = out if mask is None else out.masked_fill(~mask.unsqueeze(-1), 0)
        return out

    def _nobody(self, chosen: Tensor, where: Tensor) -> Tensor:
        return chosen.masked_fill(where, self.num_experts)

    def _within_capacity(self, asked: Tensor, mask: Tensor | None) -> Tensor:
        """Turn away, in the order of the tokens, whoever comes to a full expert."""
        if self.capacity is None:
            if self.dropped.watched:
                self.dropped(torch.zeros_like(asked, dtype=torch.bool))
            return asked
        tokens = asked[..., 0].numel() if mask is None else mask.sum()
        share = asked.shape[-1] * self.capacity / self.num_experts
        # In single precision at last: in double 0.6 * 25 lies a hair above 15.
        number = torch.as_tensor(tokens, dtype=torch.float64, device=asked.device)
        room = (number * share).float().ceil()
        expert, order = asked.flatten().sort(stable=True)
        place = torch.arange(len(order), device=order.device)
        place = place - torch.searchsorted(expert, expert)  # in the expert's own queue
        late = (place >= room) & (expert < self.num_experts)
        late = torch.empty_like(late).scatter(0, order, late).view_as(asked)
        return self._nobody(asked, self.dropped(late))

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, capacity={self.capacity}"


def _told(name: str, recipe: Part[nn.Module], **sizes: int) -> Part[nn.Module]:
    """Tell a part the mixture's sizes; refuse one that was told others before."""
    for key, size in sizes.items():
        asked = recipe.settings.get(key, size)
        if asked != size:
            raise ValueError(
                f"the {name} part has {key}={asked} and the mixture {key}={size}; "
                f"leave it out in the {name} part"
            )
    return recipe.but(**sizes)
