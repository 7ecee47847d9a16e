r"""
Pre-norm and post-norm: the same parts, another order
=====================================================

The first transformer normalised after every addition, most of today's before
each branch. Read this page if you must choose, or wonder what a warm-up is
for. At the end you know what each order does to gradients, steps and loss.
"""

# %%
# Two numbers, and a silent branch
# --------------------------------
# In both orders each branch (attention, the feed-forward network) adds to the
# stream. The norm stands before the branch, or after the sum::
#
#    pre-norm    x + branch(norm(x))
#    post-norm   norm(x + branch(x))
#
# Let the branch return zero: post-norm rewrites the stream all the same.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import LayerNorm, TransformerLayer, part

torch.manual_seed(0)
x, branch = torch.tensor([1.0, 3.0]), torch.zeros(2)
print("pre-norm", x + branch, "post-norm", F.layer_norm(x + branch, (2,)))

# %%
# The same thing, by the library
# ------------------------------
# Two branches, so two lines by hand; PyTorch calls the choice ``norm_first``.
T, D = 16, 32
x = torch.randn(8, T, D)
Pre, Post = tfdoc.PreNormBlock, tfdoc.PostNormBlock
for pre in (True, False):
    theirs = nn.TransformerEncoderLayer(D, 4, batch_first=True, norm_first=pre)
    ours = tfdoc.from_torch(theirs.eval())
    if isinstance(ours, Pre):
        h = x + ours.attention(ours.attn_norm(x))
        y = h + ours.feedforward(ours.ffn_norm(h))
    else:
        h = ours.attn_norm(x + ours.attention(x))
        y = ours.ffn_norm(h + ours.feedforward(h))
    torch.testing.assert_close((ours(x), theirs(x)), (y, y))
    print(f"norm_first={pre}: difference {(theirs(x) - y).abs().max():.1e}")

# %%
# Gradients: pre-norm favours the first blocks
# --------------------------------------------
# Stack fresh blocks (Xavier's weights, as in :class:`torch.nn.Transformer`;
# after the last pre-norm block one more norm, for a reason that comes below).
# How long is the gradient in each of twelve?


def stack(block, depth):
    sizes = {"num_heads": 4, "hidden_dim": 4 * D, "dropout": 0.0}
    layer = part(TransformerLayer, wiring=block, **sizes)
    norm = part(LayerNorm) if block is Pre else None
    encoder = tfdoc.Encoder(D, blocks=(layer,) * depth, norm=norm)
    for matrix in (p for p in encoder.parameters() if p.ndim == 2):
        nn.init.xavier_uniform_(matrix)
    return encoder


# %%
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for block, color in {Pre: "C0", Post: "C1"}.items():
    draws = []
    for _ in range(5):
        encoder = stack(block, 12)
        F.mse_loss(encoder(x), torch.randn_like(x)).backward()
        layers = [block.feedforward.down_proj for block in encoder.blocks]
        lengths = torch.stack([layer.weight.grad.norm() for layer in layers])
        draws.append((lengths / lengths[0]).tolist())
        ax.plot(draws[-1], color=color, alpha=0.3)
    mean = torch.tensor(draws).mean(0).tolist()
    ax.plot(mean, color=color, label=block.__name__)
    assert 0.2 < mean[-1] < 0.6 if block is Pre else 0.6 < mean[-1] < 1.7
ax.set(xlabel="block", ylabel="gradient, over block 0's", ylim=0)
ax.set_title("Pre-norm: the last blocks get the least")
ax.legend(frameon=False, loc="lower left")
# sphinx_gallery_start_ignore
fig.set_label(
    "Gradient of each of 12 blocks over that of the first, five draws and "
    "their mean. With pre-norm it falls, fast at first, to less than half; "
    f"with post-norm the draws scatter and the mean ends at {mean[-1]:.2f}."
)
# sphinx_gallery_end_ignore

# %%
# In a pre-norm stack each branch adds to the gradient on its way down, as it
# added to the stream on its way up: the first blocks get the most. Post-norm,
# often said to starve its first blocks, is even with these weights.
#
# Steps: post-norm amplifies them
# -------------------------------
# What is hard about post-norm shows when the weights move. Change every
# matrix by one percent of its spread, and see how far the output goes.


@torch.no_grad()
def shift(block, depth):
    """Relative change of the output."""
    encoder = stack(block, depth)
    before = encoder(x)
    for matrix in (p for p in encoder.parameters() if p.ndim == 2):
        matrix.add_(0.01 * matrix.std() * torch.randn_like(matrix))
    return ((encoder(x) - before).norm() / before.norm()).item()


depths, far = [3, 6, 12, 24], {}
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for block in (Pre, Post):
    draws = [[shift(block, depth) for depth in depths] for _ in range(3)]
    far[block] = torch.tensor(draws).mean(0).tolist()
    ax.plot(depths, far[block], "o-", label=block.__name__)
ax.set(xlabel="number of blocks", ylabel="change of the output", ylim=0)
ax.set_title("The same small step moves post-norm farther")
ax.legend(frameon=False)
assert far[Post][-1] > 1.5 * far[Pre][-1]
# sphinx_gallery_start_ignore
fig.set_label(
    "Change of the output against the number of blocks. Both grow, post-norm "
    f"faster: at 24 blocks {far[Post][-1]:.3f} against {far[Pre][-1]:.3f}."
)
# sphinx_gallery_end_ignore

# %%
# The deeper the stack, the smaller the steps that post-norm bears (Liu et al.
# 2020, arXiv:2004.08249). Hence the *warm-up*: a learning rate raised slowly.
#
# Training: one learns at once, the other after a warm-up
# -------------------------------------------------------
# Eight blocks learn to write eight letters backwards, at a brisk rate.


def train(block, warmup=0):
    letters, place, losses = nn.Embedding(16, D), torch.randn(8, D), []
    model = nn.Sequential(stack(block, 8), nn.Linear(D, 16))
    weights = [*letters.parameters(), *model.parameters()]
    adam = torch.optim.Adam(weights, fused=True)
    for step in range(200):
        adam.param_groups[0]["lr"] = 0.005 * min(1, (step + 1) / (warmup + 1))
        text = torch.randint(16, (32, 8))
        logits = model(letters(text) + place)
        loss = F.cross_entropy(logits.flatten(0, 1), text.flip(1).flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


# %%
runs = {"pre-norm": train(Pre), "post-norm": train(Post)}
runs["post-norm, 100 steps of warm-up"] = train(Post, warmup=100)
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for name, losses in runs.items():
    ax.plot(losses, label=name)
    assert (losses[-1] > 2) if name == "post-norm" else (losses[-1] < 1)
ax.set(xlabel="step", ylabel="loss", ylim=(0, 4.5))
ax.set_title("At this rate post-norm learns only after a warm-up")
ax.legend(frameon=False, loc="upper right")
# sphinx_gallery_thumbnail_number = 3
# sphinx_gallery_start_ignore
fig.set_label(
    "Loss over 200 steps. Pre-norm falls to zero within 80 steps; post-norm "
    "stays near the loss of guessing; with a warm-up of 100 steps it falls "
    "to zero too, later."
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: the final norm forgotten
# ---------------------------------
# Nothing normalises what leaves the last pre-norm block, and
# :class:`torch.nn.TransformerEncoder` adds no norm unless you pass one. The
# first loss, which should be ln V for V classes, then grows with the depth.
head, label = nn.Linear(D, 100), torch.randint(100, (8 * T,))
for depth in (1, 12, 48):
    encoder = stack(Pre, depth)
    right = F.cross_entropy(head(encoder(x)).flatten(0, 1), label)
    encoder.norm = nn.Identity()
    wrong = F.cross_entropy(head(encoder(x)).flatten(0, 1), label)
    print(f"{depth:2d} blocks: first loss {wrong:.2f}, with norm {right:.2f}")
    assert abs(right - torch.tensor(100).log()) < 0.5
assert wrong > 7

# %%
# What it costs
# -------------
# The order is free. Pre-norm has its final norm on top: :math:`2D` parameters.
for block in (Pre, Post):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        encoder = stack(block, 1)
        encoder(torch.empty(1, T, D))
    size = 12 * D**2 + 13 * D + (2 * D if block is Pre else 0)
    assert sum(p.numel() for p in encoder.parameters()) == size
    assert counter.get_total_flops() == 24 * T * D**2 + 4 * T**2 * D

# %%
# Exercise
# --------
# OLMo 2 has a third order: it normalises what a branch *returns*, before the
# addition. The stream stays as it is, and no branch can shout. Write it.


class Third(Pre):
    """Your turn: so far it has the forward of pre-norm."""


@torch.no_grad()
def check(kind):
    """Make both branches a hundred times as loud."""
    block = stack(kind, 1).blocks[0]
    before = block(x)
    for layer in (block.attention.o_proj, block.feedforward.down_proj):
        layer.weight *= 100
        layer.bias *= 100
    moved = (block(x) - before).abs().max()
    return "right" if moved < 0.1 else f"not yet: it moves by {moved:.1f}"


print(check(Third))


# sphinx_gallery_start_ignore
class Solution(Pre):
    def forward(self, x, **_):
        x = x + self.attn_norm(self.attention(x))
        return x + self.ffn_norm(self.feedforward(x))


assert check(Solution) == "right"
assert check(Third).startswith("not yet")
assert check(Post).startswith("not yet")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``x = x + self.attn_norm(self.attention(x))``, then the same for the rest.
#
# **Read on.** Xiong et al., *On layer normalization in the transformer
# architecture* (2020, arXiv:2002.04745). :class:`tfdoc.PostNormBlock`,
# :class:`tfdoc.PreNormBlock`. Next: :doc:`/learn/4_normalisation/05_qk_norm`.
