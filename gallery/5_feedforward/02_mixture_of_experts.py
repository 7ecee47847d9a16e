r"""
Mixture of experts: own eight networks, pay for two
===================================================

Most large models since Mixtral hold many feed-forward networks in each layer
and send every token to a few of them. Read this page to see how a token is
sent, why some experts may end up with nothing to do, and what mends that.
"""

# %%
# Four tokens, three experts, by hand
# -----------------------------------
# A *router* scores the experts for each token. The token visits the best
# :math:`k`, here 2, and adds their answers, weighted by their scores, which
# are divided by their sum. Here an expert multiplies by 1, 10 or 100.
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

import tfdoc
from tfdoc import MixtureOfExperts, SoftmaxRouter, part, record

torch.manual_seed(0)
tokens = torch.tensor([1.0, 2.0, 3.0, 4.0])
scores = [[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6], [0.6, 0.1, 0.3]]
weights, chosen = torch.tensor(scores).topk(2)  # (4 tokens, 2 experts)
weights = weights / weights.sum(-1, keepdim=True)  # 2/3 and 1/3
answers = tokens[:, None] * torch.tensor([1, 10, 100])[chosen]
outputs = (weights * answers).sum(-1)
print("chosen ", chosen.tolist())
print("outputs", [round(y) for y in outputs.tolist()])
torch.testing.assert_close(outputs, torch.tensor([4.0, 80.0, 201.0, 136.0]))

# %%
# By hand, by ``tfdoc``, by Hugging Face
# --------------------------------------
# With :math:`E` gated networks, the router's matrix :math:`W_r`, and :math:`C`
# for the :math:`k` experts with the best scores:
#
# .. math:: s = \operatorname{softmax}(x W_r), \qquad y = \sum_{e \in C}
#           \frac{s_e}{\sum_{j \in C} s_j}\,\operatorname{FFN}_e(x)
#
# By hand: every token in turn, and every expert that it chose.
D, E, k, hidden = 64, 8, 2, 112  # width, experts, chosen, hidden width
moe = MixtureOfExperts(D, num_experts=E, hidden_dim=hidden)
sizes = {"hidden_size": D, "intermediate_size": hidden}
sizes |= {"experts_implementation": "eager"}
mixtral = MixtralSparseMoeBlock(MixtralConfig(num_local_experts=E, **sizes))
state = moe.state_dict().items()
mixtral.load_state_dict({n.replace("router", "gate"): w for n, w in state})
x, rows = torch.randn(1, 12, D), []
for token in x[0]:
    score, best = (moe.router.weight @ token).softmax(-1).topk(k)
    answers = []
    for e in best:
        gate, value = (moe.experts.gate_up_proj[e] @ token).chunk(2)
        answers += [moe.experts.down_proj[e] @ (F.silu(gate) * value)]
    rows.append(score / score.sum() @ torch.stack(answers))
others = {"by hand": torch.stack(rows)[None], "Mixtral": mixtral(x)}
for name, other in others.items():
    torch.testing.assert_close(moe(x), other)
    print(f"{name} differs by {(moe(x) - other).abs().max():.1e}")

# %%
# What a router can tell apart
# ----------------------------
# Each expert owns a direction, a row of the router's weight. If all rows are
# equally long, a token goes to the nearest: experts cut the plane like a cake.
router = SoftmaxRouter(2, num_experts=5, top_k=1).requires_grad_(False)
turn = torch.tensor([0.3, 1.1, 2.5, 3.6, 5.2])
router.weight.copy_(0.7 * torch.stack([turn.cos(), turn.sin()], dim=-1))
at = torch.linspace(-1, 1, 201)
_, first = router(torch.cartesian_prod(at, at))
fig, ax = plt.subplots(figsize=(4.6, 4), layout="constrained")
image = first.view(201, 201).T
colours = ListedColormap([f"C{e}" for e in range(5)])
ax.imshow(image, cmap=colours, origin="lower", extent=(-1, 1, -1, 1))
for e, (a, b) in enumerate(router.weight.tolist()):
    ax.annotate(f"{e}", (a, b), ha="center", va="center", fontsize=13)
ax.set(title="The expert of each token", xlabel="number 1", ylabel="number 2")
assert router(router.weight)[1].flatten().tolist() == [0, 1, 2, 3, 4]
# sphinx_gallery_thumbnail_number = 1
# sphinx_gallery_start_ignore
fig.set_label(
    "A square of tokens with two numbers each, coloured by their expert: five "
    "wedges that meet in the middle, each around its expert's number, which "
    "stands at the end of its row of the router's matrix."
)
# sphinx_gallery_end_ignore

# %%
# Who is idle stays idle
# ----------------------
# Without tokens an expert learns nothing, so nothing draws tokens to it. Give
# eight experts tokens of eight kinds; each kind has a matrix to multiply by.
# The mend of Switch Transformers, offered for Mixtral too, is a second loss,
# :math:`E \sum_e f_e P_e`, of each expert's share of tokens :math:`f_e` and
# mean score :math:`P_e`. For :math:`k = 1` it is 1 if all are used alike, and
# nears :math:`E` if one takes every token.
kinds, maps = 2 * torch.randn(E, 16), torch.randn(E, 16, 16) / 4


def train(balance, seed):
    """Return the shares of the experts at each step, (steps, E)."""
    torch.manual_seed(seed)
    one = part(SoftmaxRouter, top_k=1, normalise=False)
    moe = MixtureOfExperts(16, num_experts=E, hidden_dim=8, router=one)
    optimizer, shares = torch.optim.AdamW(moe.parameters(), lr=5e-3), []
    for _ in range(200):
        kind = torch.randint(E, (256,))
        x = kinds[kind] + torch.randn(256, 16) / 2
        wanted = torch.einsum("ni,nij->nj", x, maps[kind])
        with record(moe, "*") as seen:
            error = F.mse_loss(moe(x), wanted)
        even = tfdoc.load_balancing_loss(seen["router.scores"], top_k=1)
        optimizer.zero_grad()
        (error + balance * even).backward()
        optimizer.step()
        shares.append(seen["load"] / len(x))
    return torch.stack(shares)


# %%
# Three runs without the second loss, then three with it; the last is drawn.
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
for ax, balance in zip(axes, (0.0, 0.5), strict=True):
    runs = torch.stack([train(balance, seed) for seed in range(3)])
    first, last = (r.mean(1) < 0.01 for r in (runs[:, :3], runs[:, -20:]))
    idle = first.sum(1).tolist(), last.sum(1).tolist()
    print("loss times {}: idle at first {}, at last {}".format(balance, *idle))
    assert min(idle[1]) > 0 if balance == 0 else max(idle[1]) == 0
    ax.plot(runs[-1].unfold(0, 10, 1).mean(-1).tolist())
    ax.set(title=f"Balancing loss times {balance}", xlabel="step")
    ax.set(ylim=(0, 0.6), ylabel="share of each expert")
# sphinx_gallery_start_ignore
left, right = ([line.get_ydata() for line in ax.lines] for ax in axes)
silent = sum(max(share[20:]) < 0.01 for share in left)
fig.set_label(
    "Each expert's share of the tokens over the steps of training. Left, "
    f"without balancing, {silent} of eight lie at 0 almost from the "
    f"start, and one ends at {max(share[-1] for share in left):.2f}. "
    "Right, with it, all end near an eighth."
)
assert max(abs(share[-1] - 1 / E) for share in right) < 0.06
# sphinx_gallery_end_ignore

# %%
# Balance without a loss
# ----------------------
# DeepSeek-V3 adds a *bias* to the scores, to choose and not to weigh, and only
# a very small loss. After each step the bias rises for experts with too few
# tokens and falls for the others. Here it alone moves, nothing is trained.
router = part(tfdoc.SigmoidRouter, top_k=k)
moe = MixtureOfExperts(16, num_experts=E, hidden_dim=8, router=router)
x, loads = torch.randn(2000, 16) + 1, []
for _ in range(60):
    with record(moe, "load") as seen, torch.no_grad():
        moe(x)
    loads.append(seen["load"] / len(x) / k)
    moe.router.update_bias(seen["load"], rate=0.01)

fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(torch.stack(loads).tolist())
ax.set(title="The bias evens out", xlabel="step", ylim=(0, 0.4))
_ = ax.set_ylabel("share of each expert")
assert loads[-1].max() < 1.2 / E < 1.6 / E < loads[0].max()
# sphinx_gallery_start_ignore
fig.set_label(
    "Shares of eight experts, unequal at first, run together within some "
    "tens of steps and then stay near an eighth."
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: padding takes the room
# -------------------------------
# Where experts live on different devices, each has room for its fair share
# times a *capacity* factor, and later tokens lose its answer without an error.
# Padding is all alike and fills the same experts, unless you give a mask.
full = MixtureOfExperts(16, num_experts=E, hidden_dim=8, capacity=1.5)
x, mask, lost = torch.randn(4, 64, 16), torch.ones(4, 64).bool(), []
mask[:, :32], x[:, :32] = False, 1.0  # the left half is padding
for given in (None, mask):
    with record(full, "dropped") as seen:
        full(x, given)
    lost.append(seen["dropped"][mask].float().mean().item())
print("real choices lost: {:.0%}, with the mask {:.0%}".format(*lost))
assert lost[0] > lost[1] + 0.05

# %%
# What it costs
# -------------
# Memory holds all experts; a token passes through :math:`k`, of three matrices
# of :math:`D F` numbers each, with :math:`F` the hidden width.
D, F_, T = 4096, 14_336, 10  # Mixtral's, and ten tokens
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    layer = MixtureOfExperts(D, num_experts=E, hidden_dim=F_)
    layer(torch.empty(1, T, D))
assert sum(p.numel() for p in layer.parameters()) == E * D + E * 3 * D * F_
assert counter.get_total_flops() == 2 * T * (E * D + k * 3 * D * F_)
books = {n: tfdoc.ledger(n) for n in ("mixtral-8x7b", "deepseek-v3")}
mixtral = books["mixtral-8x7b"]  # 32 layers
assert mixtral.total - mixtral.active == 32 * (E - k) * 3 * D * F_
table = {n: [b.total / 1e9, b.active / 1e9] for n, b in books.items()}
pd.DataFrame(table, ["billions in all", "for a token"]).T.round(1)


# %%
# Exercise
# --------
# Write the balancing loss above, for scores of shape (tokens, E) and any k.
def balancing(scores, k):
    return scores.sum() / len(scores) * k  # your turn: all get the same


def check(loss):
    """Compare a loss with the library's."""
    for k in (1, 3):
        scores = (3 * torch.randn(50, 6)).softmax(-1)
        wanted = tfdoc.load_balancing_loss(scores, k)
        if not torch.isclose(loss(scores, k), wanted):
            return f"not yet: for k = {k} it should be {wanted:.3f}"
    return "right, for k = 1 and 3"


print(check(balancing))
# sphinx_gallery_start_ignore


def solution(scores, k):
    chosen = F.one_hot(scores.topk(k).indices, scores.shape[-1]).sum(1)
    return scores.shape[-1] * (chosen.float().mean(0) * scores.mean(0)).sum()


assert check(solution).startswith("right")
assert check(balancing).startswith("not yet")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``chosen = F.one_hot(scores.topk(k).indices, E).sum(1).float()``, then
#    ``E * (chosen.mean(0) * scores.mean(0)).sum()``. The choice has no
#    gradient; the mean score passes it on.
#
# **Read on.** Jiang et al. (2024), *Mixtral of experts*; Fedus et al. (2021),
# *Switch transformers*; Wang et al. (2024), *Auxiliary-loss-free load
# balancing*. The modules: :class:`tfdoc.MixtureOfExperts`,
# :class:`tfdoc.SoftmaxRouter`, :class:`tfdoc.SigmoidRouter`. Next:
# :doc:`/learn/5_feedforward/03_kinds_of_mixtures`.
