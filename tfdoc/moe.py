"""Mixture of experts: many feed-forward networks, of which a token visits a few."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import positive, positive_int
from tfdoc._grouped import per_expert
from tfdoc._tensor_checks import token_mask, vectors
from tfdoc.feedforward import Activation, _callable
from tfdoc.parts import Part, part
from tfdoc.probe import Probe
from tfdoc.routers import SoftmaxRouter

__all__ = ["MixtureOfExperts"]


class MixtureOfExperts(nn.Module):
    r"""Feed-forward networks side by side; a router sends each token to k of them.

    .. math:: y = \sum_{e \in \operatorname{top} k} g_e \operatorname{FFN}_e(x)
              + \operatorname{FFN}_\text{shared}(x)

    with gated networks (see :class:`tfdoc.GatedFeedForward`) and the weights :math:`g`
    of the router (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024,
    arXiv:2401.04088, for Mixtral, whose shape the defaults have). A token costs what k
    networks cost, however many there are.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts.
    hidden_dim : int
        Width F in between, of each expert.
    router : Part
        :class:`tfdoc.SoftmaxRouter`, :class:`tfdoc.SigmoidRouter`, or a module of your
        own that takes ``num_experts``, with a default, and returns weights and chosen
        experts, (..., k).
    shared : Part, optional
        A network that sees every token, added with weight 1 and called
        ``shared_experts``: ``part(GatedFeedForward, hidden_dim=...)``. Several shared
        experts are one of their joint width.
    activation : callable
        Applied to the gates.
    capacity : float, optional
        An expert takes at most ``ceil(capacity * k * tokens / E)`` tokens of a batch,
        the first ones; the others lose its contribution, and the probe ``dropped`` says
        which. 1.0 leaves no room for imbalance. None, the default, drops nothing.

    Raises
    ------
    TypeError, ValueError
        If a number is not positive, `router` or `shared` is not a part, `activation` not
        a function, `x` no floating-point tensor of width D, or `mask` does not fit it.

    Notes
    -----
    The weights are stacked, as Hugging Face stores them: ``experts.gate_up_proj`` of
    shape (E, 2F, D), gates first, and ``experts.down_proj``, (E, D, F). One matrix
    product then makes both halves. Hugging Face's ``gate`` is ``router`` here.

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
        shared: Part[nn.Module] | None = None,
        activation: Activation = F.silu,
        capacity: float | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.num_experts = positive_int("num_experts", num_experts)
        self.capacity = None if capacity is None else positive("capacity", capacity)
        given: dict[str, object] = {"router": router}
        given |= {} if shared is None else {"shared": shared}
        for name, recipe in given.items():
            if not isinstance(recipe, Part):
                raise TypeError(
                    f"{name} must be a part, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        asked = router.settings.get("num_experts", num_experts)
        if asked != num_experts:
            raise ValueError(
                f"the router has num_experts={asked} and the mixture "
                f"num_experts={num_experts}; leave it out in the router"
            )
        self.router = router.build(embed_dim, num_experts=num_experts)
        self.experts = _Experts(embed_dim, num_experts, hidden_dim, activation)
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
        room = torch.as_tensor(tokens * share, device=asked.device).ceil()
        expert, order = asked.flatten().sort(stable=True)
        place = torch.arange(len(order), device=order.device)
        place = place - torch.searchsorted(expert, expert)  # in the expert's own queue
        late = (place >= room) & (expert < self.num_experts)
        late = torch.empty_like(late).scatter(0, order, late).view_as(asked)
        return self._nobody(asked, self.dropped(late))

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, capacity={self.capacity}"


class _Experts(nn.Module):
    """The networks themselves, with stacked weights."""

    def __init__(
        self, embed_dim: int, num_experts: int, hidden_dim: int, activation: Activation
    ) -> None:
        super().__init__()
        E, D, F_ = num_experts, embed_dim, positive_int("hidden_dim", hidden_dim)
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * F_, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F_))
        for weight in (self.gate_up_proj, self.down_proj):
            bound = weight.shape[-1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
        self.activation = _callable(activation)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Sum `weights` times the `chosen` experts, (..., k), at tokens `x`, (..., D)."""
        tokens = x.reshape(-1, x.shape[-1])
        # Copies of tokens, sorted by expert; those that are no expert's come last.
        expert, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(len(self.down_proj), device=x.device)
        ends = torch.searchsorted(expert, numbers, right=True, out_int32=True)
        whole = torch.compiler.is_compiling() or x.is_meta
        if whole:  # the last expert takes the rest, which is thrown away below
            ends = torch.cat([ends[:-1], ends.new_full((1,), len(order))])
        else:
            order = order[: int(ends[-1])]
        token = order // chosen.shape[-1]
        gate, up = per_expert(
            tokens.index_select(0, token), self.gate_up_proj, ends
        ).chunk(2, -1)  # (copies, F)
        hidden = self.activation(gate)
        hidden = hidden * up if hidden.requires_grad else hidden.mul_(up)
        out = per_expert(hidden, self.down_proj, ends)  # (copies, D)
        out = out * weights.flatten()[order].unsqueeze(-1)
        if whole:
            out = out.masked_fill((expert == len(numbers)).unsqueeze(-1), 0)
        summed = torch.zeros_like(tokens, dtype=out.dtype).index_add_(0, token, out)
        return summed.view_as(x).type_as(x)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        (E, D, F_), act = self.down_proj.shape, self.activation
        return f"{E}, {D}, hidden_dim={F_}, activation={getattr(act, '__name__', act)}"
