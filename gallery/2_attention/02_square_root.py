r"""
Without the square root, wide heads stop learning
=================================================

Every attention formula divides the scores by :math:`\sqrt{d_k}`. Leave it
out and nothing crashes: shapes agree, rows sum to one, the loss goes down a
little. Read this page if your attention maps look like a barcode, or if your
queries and keys are *not* unit-sized. At the end you can choose the right
scale for any head, and read off a model which scale it really uses.
"""

# %%
# Four keys, one query
# --------------------
# A score is a dot product: one product per channel, added up. Take queries
# and keys whose entries are independent, with mean 0 and variance 1, first
# with 4 channels, then with 256.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

torch.manual_seed(0)


def scores(channels, draws=1000, keys=4):
    """Dot products of random queries with random keys: (draws, keys)."""
    query = torch.randn(draws, 1, channels)
    return (query @ torch.randn(draws, channels, keys)).squeeze(1)


for channels in (4, 256):
    score = scores(channels)
    largest = score.softmax(-1).amax(-1).mean()
    print(f"d_k = {channels:3d}: one draw {score[0].numpy().round(1)},")
    print(f"   largest weight, average of {len(score)} draws: {largest:.2f}")

# %%
# The wide head has made up its mind: one key takes everything. Not because it
# is more relevant (all keys are noise) but because sums of more terms are
# larger. The variance of a sum of independent terms is the sum of their
# variances, so :math:`\operatorname{Var}(q \cdot k) = d_k`, and scores spread
# like :math:`\sqrt{d_k}`. Measure it:
widths = torch.tensor([4, 16, 64, 256, 1024])
pairs = 20_000
spread = [(torch.randn(2, pairs, d).prod(0).sum(-1)).std() for d in widths]

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.loglog(widths, widths**0.5, "C1-", label=r"$\sqrt{d_k}$")
ax.loglog(widths, spread, "C0o", label=f"measured on {pairs} pairs")
ax.set_title("Scores spread like the square root of the width")
ax.set_xlabel(r"head width $d_k$")
ax.set_ylabel(r"standard deviation of $q \cdot k$")
ax.legend(frameon=False)
assert torch.allclose(torch.stack(spread), widths**0.5, rtol=0.03)
# sphinx_gallery_start_ignore
fig.set_label(
    "Spread of the scores against the head width, both logarithmic: the "
    f"points measured at {len(widths)} widths lie on the line of the root."
)
# sphinx_gallery_end_ignore

# %%
# Dividing by :math:`\sqrt{d_k}` brings every width back to a spread of 1, and
# softmax back to where it can still say "a bit of this, more of that".
tokens = ["The", "cat", "sat", "on", "the", "mat"]
query, key = torch.randn(2, len(tokens), 64)
raw = query @ key.T

fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
titles = "as they are", r"over $\sqrt{64}$"
for ax, scale, title in zip(axes, (1, 8), titles, strict=True):
    image = ax.imshow((raw / scale).softmax(-1), vmin=0, vmax=1)
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
# Why that stops learning
# -----------------------
# A softmax that has made up its mind passes no gradient: its derivative is
# :math:`w_i(\delta_{ij} - w_j)`, zero when one weight is 1 and the others
# are 0. Follow the gradient back to each query.


def gradient_at_queries(channels, scale, keys=64, draws=500):
    """Length of the gradient that a random readout sends to each query."""
    query = torch.randn(draws, 1, channels, requires_grad=True)
    score = query @ torch.randn(draws, channels, keys) * scale
    (score.softmax(-1) * torch.randn(draws, 1, keys)).sum().backward()
    return query.grad.norm(dim=-1)


scaled = [gradient_at_queries(d, d**-0.5) for d in widths.tolist()]
unscaled = [gradient_at_queries(d, 1.0) for d in widths.tolist()]

fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
for label, grads in {"divided": scaled, "as they are": unscaled}.items():
    starved = [(g < 1e-3).float().mean() for g in grads]
    axes[0].loglog(widths, [g.median() for g in grads], "o-", label=label)
    axes[1].semilogx(widths, starved, "o-", label=label)
axes[0].set(title="Median gradient at a query", xlabel=r"head width $d_k$")
axes[1].set(title="Share of queries under 0.001", xlabel=r"head width $d_k$")
axes[1].set_ylim(-0.02, 1)
axes[0].legend(frameon=False)
assert unscaled[-1].median() < scaled[-1].median() / 10
assert (unscaled[-1] < 1e-3).float().mean() > 0.25
assert all((g > 1e-3).all() for g in scaled)
# sphinx_gallery_start_ignore
fig.set_label(
    "Two curves against the head width. Divided, the median gradient stays "
    "level and no query starves; as they are, it falls to nearly nothing "
    "and the share of starved queries climbs."
)
# sphinx_gallery_end_ignore

# %%
# Narrow heads even get larger gradients. Wide ones starve: most queries get
# next to nothing, and the few whose two best keys happen to tie get far too
# much. Their mean grows with the width, so a plot of means would have told
# you that all is well:
widest = {"divided": scaled[-1], "as they are": unscaled[-1]}
for name, grads in widest.items():
    print(f"{name:12s} median {grads.median():.3f}, mean {grads.mean():.3f}")
assert unscaled[-1].mean() > scaled[-1].mean()

# %%
# The same thing, by the library
# ------------------------------
# :func:`torch.nn.functional.scaled_dot_product_attention` divides for you.
value = torch.randn(len(tokens), 64)
by_hand = (query @ key.T / 64**0.5).softmax(-1) @ value
heads = (t[None, None] for t in (query, key, value))
library = F.scaled_dot_product_attention(*heads)[0, 0]
torch.testing.assert_close(by_hand, library)
print(f"largest difference {(by_hand - library).abs().max():.1e}")

# %%
# Pitfall: dividing twice
# -----------------------
# Because the library divides, a query that you scaled beforehand is scaled
# twice, and the map turns to mush. Do not judge by the look of the map:
# healthy fresh models look like mush too. Softmax turns differences of scores
# into differences of log-weights, so the slope of one against the other *is*
# the scale in use, whatever the size of the queries and keys.


def scale_in_use(weights, query, key):
    """Slope of log-weights over q.k, times sqrt(d_k): 1 = scaled once."""
    dots, logs = query @ key.T, weights.log()
    dots, logs = (t - t.mean(-1, keepdim=True) for t in (dots, logs))
    return ((dots * logs).sum() / dots.square().sum()).item() * 64**0.5


states = torch.randn(256, 64)
project = torch.nn.Linear(64, 128)  # makes smaller queries and keys than 1
for size in ("unit", "projected"):
    query, key = torch.randn(2, 256, 64)
    if size == "projected":
        query, key = project(states).detach().chunk(2, dim=-1)
    for name, scale in {"not": 1, "once": 64**-0.5, "twice": 1 / 64}.items():
        weights = (query @ key.T * scale).softmax(-1)
        found = scale_in_use(weights, query, key)
        print(f"{size:9s} queries, scaled {name:5s}: {found:.3f}")
        assert abs(found / (scale * 64**0.5) - 1) < 1e-3

# %%
# One means right, :math:`\sqrt{d_k}` means that the scale is missing, and
# :math:`1/\sqrt{d_k}` that it was applied twice.
#
# What it costs
# -------------
# One multiplication a score, against :math:`2 d_k` operations to make it. On
# the query instead it costs :math:`d_k` a token, and nothing that grows with
# the square of the length: that is where fast kernels put it.
length, d_k = 4096, 64
products = 2 * length**2 * d_k
print(f"on the scores {length**2 / products:.2%} of the products' work")
print(f"on the queries {length * d_k / products:.4%}")

# %%
# Exercise
# --------
# Some models normalise queries and keys to unit *length* first (QK-norm).
# Then :math:`\sqrt{d_k}` is the wrong scale. Which factor brings the dot
# products of random unit vectors back to a spread of 1?


def qk_norm_scale(d_k):
    """Your turn: this factor is wrong."""
    return d_k**-0.5


def check(scale):
    """Say whether `scale` gives unit vectors a spread of 1 at every width."""
    for d in (16, 64, 256):
        q, k = F.normalize(torch.randn(2, pairs, d), dim=-1)
        spread = ((q * k).sum(-1) * scale(d)).std().item()
        if not 0.95 < spread < 1.05:
            return f"not yet: at d_k = {d} the spread is {spread:.3f}"
    return "right, at every width"


print(check(qk_norm_scale))

# sphinx_gallery_start_ignore
assert check(lambda d_k: d_k**0.5).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``lambda d_k: d_k**0.5``. A unit vector's entries have variance
#    :math:`1/d_k`, so the dot product of two has variance
#    :math:`d_k \cdot 1/d_k^2 = 1/d_k`: multiply by :math:`\sqrt{d_k}`, do not
#    divide. Models with QK-norm usually learn this factor, one per head.
#
# **Read on.** Vaswani et al., *Attention is all you need* (2017), section
# 3.2.1 and its footnote, make this argument in two sentences. Next: masks,
# and what goes wrong with them.
