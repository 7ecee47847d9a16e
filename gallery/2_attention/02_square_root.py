r"""
Without the square root, wide heads decide by accident
======================================================

Every attention formula divides the scores by the square root of the head
width. Leave it out and nothing crashes: shapes agree, rows sum to one. Read
this page if your attention maps look like a barcode, or if your queries and
keys are not of unit size. At the end you can choose the right scale for any
head, and read off a model which scale it really uses.
"""

# %%
# Four keys, one query
# --------------------
# A score is a dot product: one product per channel, added up. Take queries
# and keys whose entries are independent, with mean 0 and variance 1, in heads
# of width d = 4 and d = 256. (The papers write :math:`d_k`.)
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import tfdoc

torch.manual_seed(0)


def scores(d, draws=1000, keys=4):
    """Dot products of random queries with random keys: (draws, keys)."""
    return (torch.randn(draws, 1, d) @ torch.randn(draws, d, keys)).squeeze(1)


for d in (4, 256):
    score = scores(d)
    largest = score.softmax(-1).amax(-1).mean()
    print(f"d = {d:3d}: one draw {score[0].cpu().numpy().round(1)},")
    print(f"   largest weight, average of {len(score)} draws: {largest:.2f}")

# %%
# The wide head has made up its mind: one key takes nearly everything. Not
# because it is more relevant (all keys are noise) but because sums of more
# terms are larger. The variance of a sum of independent terms is the sum of
# their variances, so :math:`\operatorname{Var}(q \cdot k) = d`, and scores
# spread like :math:`\sqrt{d}`. Measure it:
widths, pairs = [4, 16, 64, 256, 1024], 20_000
roots = [d**0.5 for d in widths]
spread = [torch.randn(2, pairs, d).prod(0).sum(-1).std() for d in widths]
spread = torch.stack(spread).tolist()

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.loglog(widths, roots, "C1-", label=r"$\sqrt{d}$")
ax.loglog(widths, spread, "C0o", label=f"measured on {pairs} pairs")
ax.set_title("Scores spread like the square root of the width")
ax.set(xlabel="head width d", ylabel=r"standard deviation of $q \cdot k$")
ax.minorticks_off()
ax.set_xticks(widths, widths)
ax.set_yticks(roots, [f"{root:g}" for root in roots])
ax.legend(frameon=False)
for root, measured in zip(roots, spread, strict=True):
    assert abs(measured / root - 1) < 0.03
# sphinx_gallery_start_ignore
fig.set_label(
    "Spread of the scores against the head width, both logarithmic: the "
    f"points measured at {len(widths)} widths lie on the line of the root."
)
# sphinx_gallery_end_ignore

# %%
# Dividing by :math:`\sqrt{d}` brings every width back to a spread of 1, and
# softmax back to where it can still say "a bit of this, more of that".
tokens = ["The", "cat", "sat", "on", "the", "mat"]
query, key = torch.randn(2, len(tokens), 64)
raw = query @ key.T

fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
titles = "as they are", r"divided by $\sqrt{64}$"
for ax, scale, title in zip(axes, (1, 8), titles, strict=True):
    weights = (raw / scale).softmax(-1)
    image = ax.imshow(weights.tolist(), vmin=0, vmax=1)
    ax.set(title=f"scores {title}", xlabel="key", ylabel="query")
    ax.set_xticks(range(len(tokens)), tokens)
    ax.set_yticks(range(len(tokens)), tokens)
_ = fig.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Two attention maps of six tokens. Left, not divided: in most rows one "
    "key takes nearly everything. Right, divided: weights are shared out."
)
# sphinx_gallery_end_ignore

# %%
# Both maps are made of the same random numbers. The left one looks like a
# discovery; it is an accident.
#
# Why that starves the gradient
# -----------------------------
# A softmax that has made up its mind passes no gradient. The derivative of
# weight i by score j is :math:`-w_i w_j`, and :math:`w_i (1 - w_i)` for i = j:
# all zero when one weight is 1 and the others are 0. Follow the gradient back
# to each query.


def gradient_at_queries(d, scale, keys=64, draws=500):
    """Length of the gradient that a random readout sends to each query."""
    query = torch.randn(draws, 1, d, requires_grad=True)
    score = query @ torch.randn(draws, d, keys) * scale
    (score.softmax(-1) * torch.randn(draws, 1, keys)).sum().backward()
    return query.grad.norm(dim=-1).cpu()


scaled = [gradient_at_queries(d, d**-0.5) for d in widths]
unscaled = [gradient_at_queries(d, 1.0) for d in widths]

fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
for label, grads in {"divided": scaled, "as they are": unscaled}.items():
    starved = [(g < 1e-3).float().mean() for g in grads]
    axes[0].loglog(widths, [g.median() for g in grads], "o-", label=label)
    axes[1].semilogx(widths, starved, "o-", label=label)
axes[0].set(title="Median gradient at a query", xlabel="head width d")
axes[1].set(title="Share of queries under 0.001", xlabel="head width d")
axes[1].set_ylim(-0.02, 1)
axes[0].legend(frameon=False)
assert unscaled[0].median() > scaled[0].median()
assert unscaled[-1].median() < scaled[-1].median() / 5
assert (unscaled[-1] < 1e-3).float().mean() > 0.25
assert all((g > 1e-3).all() for g in scaled)
# sphinx_gallery_start_ignore
fig.set_label(
    "Two curves against the head width. Divided, the median gradient stays "
    "level and no query starves; as they are, it first rises, then falls "
    "far below, and the share of starved queries climbs."
)
# sphinx_gallery_end_ignore

# %%
# Narrow heads even get larger gradients. The wider the head, the more queries
# starve, while the few whose two best keys nearly tie get too much. A plot of
# *means* would say that all is well:
widest = {"divided": scaled[-1], "as they are": unscaled[-1]}
for name, grads in widest.items():
    print(f"{name:12s} median {grads.median():.3f}, mean {grads.mean():.3f}")
assert unscaled[-1].mean() > scaled[-1].mean()

# %%
# The same, by hand and by the libraries
# --------------------------------------
# :func:`tfdoc.attention` and
# :func:`torch.nn.functional.scaled_dot_product_attention` divide for you.
value = torch.randn(len(tokens), 64)
by_hand = (query @ key.T / 64**0.5).softmax(-1) @ value
for attention in tfdoc.attention, F.scaled_dot_product_attention:
    library = attention(query, key, value)
    torch.testing.assert_close(library, by_hand)
    print(f"largest difference {(by_hand - library).abs().max():.1e}")

# %%
# Pitfall: dividing twice
# -----------------------
# Because the library divides, a query that you divided beforehand is scaled
# twice, and the map turns to mush. The look of a map does not tell: small
# queries and keys make mush as well. But softmax turns differences of scores
# into differences of log-weights, so the slope of one against the other *is*
# the scale in use, whatever the size of the queries and keys.


def scale_in_use(weights, query, key):
    """Slope of log-weights over q.k, times sqrt(d): 1 = scaled once."""
    dots, logs = query @ key.T, weights.log()
    dots, logs = (t - t.mean(-1, keepdim=True) for t in (dots, logs))
    slope = (dots * logs).sum() / dots.square().sum()
    return slope.item() * query.shape[-1] ** 0.5


n, d = 256, 64
for size in (1, 0.5):
    query, key = size * torch.randn(2, n, d)
    asked = {"not": query * d**0.5, "once": query, "twice": query / d**0.5}
    for name, q in asked.items():
        weights = tfdoc.attention(q, key, torch.eye(n))  # values I
        found = scale_in_use(weights, query, key)
        print(f"entries of size {size}, scaled {name:5s}: {found:.3f}")
        right = {"not": d**0.5, "once": 1, "twice": d**-0.5}[name]
        assert abs(found / right - 1) < 1e-3

# %%
# One means right, :math:`\sqrt{d}` that the scale is missing, and
# :math:`1/\sqrt{d}` that it was applied twice.
#
# What it costs
# -------------
# One multiplication a score, against 2d operations to make it. On the query
# it costs d a token, and nothing that grows with the square of the length T.
T = 4096
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    tfdoc.attention(*torch.ones(3, T, d))
assert counter.get_total_flops() == 4 * T**2 * d  # scores, and the output
print(f"on the scores {T**2 / counter.get_total_flops():.2%} of the work")
print(f"on the queries {T * d / counter.get_total_flops():.4%}")

# %%
# Exercise
# --------
# Some models bring queries and keys to unit *length* first (QK-norm). Then
# dividing is wrong. Which factor brings the dot products of random unit
# vectors back to a spread of 1?


def qk_norm_scale(d):
    """Your turn: this factor is wrong."""
    return d**-0.5


def check(scale):
    """Say whether `scale` gives unit vectors a spread of 1 at every width."""
    for d in (16, 64, 256):
        q, k = F.normalize(torch.randn(2, pairs, d), dim=-1)
        spread = ((q * k).sum(-1) * scale(d)).std().item()
        if not 0.95 < spread < 1.05:
            return f"not yet: at d = {d} the spread is {spread:.3f}"
    return "right, at every width"


print(check(qk_norm_scale))

# sphinx_gallery_start_ignore
assert check(lambda d: d**0.5).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``d**0.5``. The entries of a unit vector have variance :math:`1/d`, so
#    the dot product of two has variance :math:`d \cdot 1/d^2 = 1/d`: multiply
#    by :math:`\sqrt{d}`. (Models such as Qwen3 use RMSNorm instead of unit
#    length. It gives entries of size 1, so there dividing stays right.)
#
# **Read on.** Vaswani et al., *Attention is all you need* (2017), section
# 3.2.1 and its footnote, make this argument in two sentences; Henry et al.,
# *Query-key normalization* (2020). In the package: :func:`tfdoc.attention`,
# whose ``scale`` overrides the root. Next: :doc:`/learn/2_attention/03_masks`.
