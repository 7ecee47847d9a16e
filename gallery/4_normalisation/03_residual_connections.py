r"""
Residual connections, and what gradients see
============================================

A block of a transformer does not replace its input, it adds to it. Read this
page if you write a block, or if a deep stack does not learn. At the end you
know what the addition saves, how the sum grows, and how to find a missing one.
"""

# %%
# One number, 24 layers
# ---------------------
# Take layers that multiply by 0.1, and chain 24 of them. By the chain rule the
# slope is the product of the layers' slopes: :math:`0.1^{24}`. Add each result
# to its input, :math:`x + f(x)`, and it is :math:`(1 + 0.1)^{24}`.
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import FeedForward, MultiHeadAttention, PreNormBlock, part

print(f"slope {0.1**24:.0e} without, {1.1**24:.1f} with the addition")

# %%
# The 1 is the shortcut, or residual connection: whatever the layers do, it
# carries the gradient past them. Now real blocks, of attention and a
# feed-forward network: as they are, without additions, without norms as well.


class NoShortcuts(PreNormBlock):
    def forward(self, x, **_):
        x = self.attention(self.attn_norm(x))
        return self.feedforward(self.ffn_norm(x))


class Bare(PreNormBlock):
    def forward(self, x, **_):
        return self.feedforward(self.attention(x))


# %%
# Ask for one token of the output, and follow the gradient down the stream:
# what stands between the blocks, D numbers for each of T tokens.
T, D, L, asked = 16, 64, 24, 5


def stack(block, depth):
    """Build `depth` fresh blocks of this kind."""
    attention = part(MultiHeadAttention, num_heads=4)
    feedforward = part(FeedForward, hidden_dim=4 * D)
    block = part(block, attention=attention, feedforward=feedforward)
    return tfdoc.Encoder(D, blocks=(block,) * depth)


def watch(block, seed=0):
    """Return the stream after 0, 1, ... L blocks, and its gradients."""
    torch.manual_seed(seed)
    encoder, x = stack(block, L), torch.randn(1, T, D, requires_grad=True)
    with tfdoc.record(encoder, "blocks.*") as seen:
        y = encoder(x)
    stream = [x, *(seen[f"blocks.{i}"] for i in range(L))]
    readout = (y[0, asked] * torch.randn(D)).sum()
    return stream, torch.autograd.grad(readout, stream)


# %%
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for kind in (PreNormBlock, NoShortcuts, Bare):
    _, gradients = watch(kind)
    # In float32 the squares of the smallest would round to zero.
    lengths = [g.double().norm().item() for g in gradients]
    ax.semilogy(lengths, label=kind.__name__)
    assert (lengths[0] < 1e-24) if kind is Bare else (min(lengths) > 1e-3)
ax.set(xlabel="blocks below", ylabel="length of the gradient")
ax.set_title("Norms alone keep the gradient's size")
ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Length of the gradient on the way down through 24 blocks. As it is and "
    "without shortcuts it hardly falls; bare, it loses more than a digit in "
    f"each block and arrives as {lengths[0]:.0e}."
)
# sphinx_gallery_end_ignore

# %%
# In bare blocks the gradient loses more than a digit per block, like the chain
# of 0.1. But norms alone are enough to keep its *size*: they divide by what
# the layers made small. So is the shortcut needed? Look at what is left in it.
#
# The size is there, the message is not
# -------------------------------------
# Left: how much the tokens still differ. Right: how much of the gradient, of
# its squared length, arrives at the one token we asked about.


def difference(state):
    return ((state - state.mean(1, keepdim=True)).norm() / state.norm()).item()


def on_target(gradient):
    return (gradient[0, asked].norm() / gradient.norm()).square().item()


fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
for kind in (PreNormBlock, NoShortcuts):
    (stream, gradients), name = watch(kind), kind.__name__
    axes[0].semilogy([difference(state) for state in stream], label=name)
    axes[1].plot([on_target(gradient) for gradient in gradients], label=name)
axes[0].set(title="Difference of the tokens", xlabel="blocks below")
axes[1].set(title="Gradient on target", xlabel="blocks below", ylim=(0, 1.05))
axes[1].axhline(1 / T, color="C6", linestyle=":", label="1 / T")
axes[1].legend(frameon=False, loc="center left")
assert max(map(difference, stream[4:])) < 1e-5
assert max(abs(on_target(g) - 1 / T) for g in gradients[4:-1]) < 0.03
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Against the number of blocks below. Without shortcuts the difference "
    "of the tokens drops to a ten-millionth within four blocks, and the "
    "token asked about gets one in sixteen of the gradient; with them both "
    "stay above one half."
)
for seed in range(3):
    stream, gradients = watch(PreNormBlock, seed)
    assert min(map(difference, stream)) > 0.4
    assert min(map(on_target, gradients)) > 0.4
    stream, gradients = watch(NoShortcuts, seed)
    assert max(map(difference, stream[4:])) < 1e-5
    assert max(map(on_target, gradients[:-1])) < 0.2
# sphinx_gallery_end_ignore

# %%
# Without shortcuts every attention averages what the one before has averaged
# (Dong et al. 2021, arXiv:2103.03404). After four blocks the tokens are one
# vector, up to rounding, and the gradient cannot tell one from another.
#
# The stream is a sum
# -------------------
# A pre-norm block by hand is two lines, and equals PyTorch's:
theirs = nn.TransformerEncoderLayer(D, 4, batch_first=True, norm_first=True)
ours, x = tfdoc.from_torch(theirs.eval()), torch.randn(8, T, D)
middle = x + ours.attention(ours.attn_norm(x))
by_hand = middle + ours.feedforward(ours.ffn_norm(middle))
for y in (ours(x), theirs(x)):
    torch.testing.assert_close(by_hand, y)
    print(f"largest difference {(by_hand - y).abs().max():.1e}")

# %%
# So a stack returns its input plus the results of all branches. If these are
# independent, their variances add up: the stream grows like the root of their
# number. Draw every matrix with spread 0.02 (GPT-2 adds a factor; see below):
encoder, x = stack(PreNormBlock, 48), 0.02 * torch.randn(8, T, D)
for name, p in encoder.named_parameters():
    if "proj" in name:
        nn.init.normal_(p, std=0.02 if p.ndim == 2 else 0.0)
with torch.no_grad(), tfdoc.record(encoder, "blocks.*") as seen:
    y = encoder(x)
blocks = [f"blocks.{i}" for i in range(48)]
halves = (".attention", ".feedforward")
branches = [seen[block + half] for block in blocks for half in halves]
torch.testing.assert_close(x + sum(branches), y)
variances = torch.stack([t.var() for t in (x, *branches)])
predicted = variances.cumsum(0)[::2].sqrt().tolist()
measured = [t.std().item() for t in (x, *map(seen.get, blocks))]

fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ax.plot(predicted, "C1-", label="root of the summed variances")
ax.plot(measured, "C0o", markersize=4, label="measured")
ax.set(xlabel="blocks below", ylabel="standard deviation")
ax.set_title("The stream grows with every branch")
ax.legend(frameon=False)
torch.testing.assert_close(measured, predicted, rtol=0.2, atol=0)
# sphinx_gallery_start_ignore
fig.set_label(
    "Standard deviation of the stream after each of 48 blocks: from "
    f"{measured[0]:.2f} to {measured[-1]:.2f}, first steeply, then more "
    "slowly, near the predicted curve."
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: one shortcut forgotten
# -------------------------------
# Write ``x = attention(...)`` once, and the tokens become alike, although the
# second shortcut is there. To find it in a pre-norm model, silence both
# branches: then a block must return its input.


class Forgotten(PreNormBlock):
    def forward(self, x, **_):
        x = self.attention(self.attn_norm(x))
        return x + self.feedforward(self.ffn_norm(x))


for kind in (Forgotten, PreNormBlock):
    alike = difference(watch(kind)[0][-1])
    block, x = stack(kind, 1).blocks[0], torch.randn(1, T, D)
    for layer in (block.attention.o_proj, block.feedforward.down_proj):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    moved = (block(x) - x).abs().max()
    print(f"{kind.__name__:12s}: tokens differ {alike:.0e}, moves {moved:.2f}")
    assert (alike < 1e-5) == (moved > 0) == (kind is Forgotten)

# %%
# What it costs
# -------------
# No parameters, and 2 D additions a token. The matrices of a block hold
# :math:`12 D^2` numbers, at two operations each. The FLOP counter adds the two
# products of attention, and nothing else.
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    block = stack(PreNormBlock, 1)
    block(torch.empty(1, T, D))
assert counter.get_total_flops() == 2 * T * 12 * D**2 + 4 * T**2 * D
assert sum(p.numel() for p in block.parameters() if p.ndim == 2) == 12 * D**2

# %%
# Exercise
# --------
# The sum should be as large as one branch, at 48 blocks and at 6. By which
# factor does GPT-2 multiply the fresh weights of what writes to the stream?


def factor(depth):
    return depth**0.1  # your turn: this one grows, and the sum with it


def check(factor):
    """Sum the random branches, of size 1, of 6 blocks and of 48."""
    sums = [(factor(n) * torch.randn(2 * n, 10_000)).sum(0) for n in (6, 48)]
    gap = max(abs(total.std().item() - 1) for total in sums)
    return "right" if gap < 0.1 else f"not yet: off by {gap:.2f}"


print(check(factor))

# sphinx_gallery_start_ignore
assert check(lambda depth: (2 * depth) ** -0.5).startswith("right")
assert check(factor).startswith("not yet")
assert check(lambda depth: depth**-0.5).startswith("not yet")
assert check(lambda depth: 7 * depth**-0.5).startswith("not yet")
streams = []
for depth in (6, 48):
    encoder = stack(PreNormBlock, depth)
    for name, p in encoder.named_parameters():
        if "proj" in name:
            writes = ("o_proj" in name) or ("down_proj" in name)
            scale = (2 * depth) ** -0.5 if writes else 1
            nn.init.normal_(p, std=0.02 * scale if p.ndim == 2 else 0.0)
    streams.append(encoder(0.02 * torch.randn(8, T, D)).std())
assert 0.8 < streams[1] / streams[0] < 1.25
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``(2 * depth) ** -0.5``. Every block has two branches, so there are
#    :math:`2L` terms, and the sum is :math:`\sqrt{2L}` times as large as one.
#
# **Read on.** He et al., *Deep residual learning for image recognition*
# (2015, arXiv:1512.03385). The component: :class:`tfdoc.PreNormBlock`. Next,
# where the norms go: :doc:`/learn/4_normalisation/04_pre_and_post_norm`.
