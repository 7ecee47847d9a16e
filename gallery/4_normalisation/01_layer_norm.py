r"""
Layer normalisation, and three wrong ways to write it
=====================================================

Layer normalisation is three lines of code, and each of them has a wrong
version that runs without an error. Read this page if you write your own norm,
or if a model gives slightly different numbers after you copied its weights.
At the end you can tell from one or two numbers which mistake a norm makes.
"""

# %%
# Four numbers
# ------------
# A token is a vector of D numbers, its channels. Layer normalisation moves
# them to mean 0 and scales them to variance 1. For 1, 2, 3, 4 the mean is 2.5
# and the variance, the mean squared distance from it, is 1.25.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import tfdoc

torch.manual_seed(0)
four = torch.tensor([1.0, 2.0, 3.0, 4.0])
print([round(y, 3) for y in ((four - 2.5) / 1.25**0.5).tolist()])

# %%
# Then each channel gets a scale :math:`w` and a shift :math:`b` that are
# learned. A small :math:`\epsilon` keeps constant vectors from a division by
# zero: :math:`y = (x - \operatorname{mean}(x)) / \sqrt{\operatorname{var}(x)
# + \epsilon} \cdot w + b`.


def layer_norm(x, weight=1.0, bias=0.0, eps=1e-5):
    """Normalise each vector of x, shape (..., D)."""
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + eps).sqrt() * weight + bias


# %%
# Every token is normalised alone. It may come in at any level and any size;
# what remains is the pattern of its channels.
tokens = ["The", "cat", "sat", "on", "the", "mat"]
T, D = len(tokens), 64
x = torch.randn(T, D) * (3 * torch.rand(T, 1) + 0.2) + 8 * torch.randn(T, 1)

fig, axes = plt.subplots(
    1, 2, figsize=(7.5, 3.2), sharey=True, layout="constrained"
)
views = {"before": x, "after": layer_norm(x)}
for ax, (title, values) in zip(axes, views.items(), strict=True):
    for row, channels in enumerate(values.tolist()):
        ax.plot(channels, [row] * D, "|", color=f"C{row}", markersize=14)
    ax.set(title=title, xlabel="value of a channel")
axes[0].set_yticks(range(T), tokens)
axes[0].invert_yaxis()
assert layer_norm(x).mean(-1).abs().max() < 1e-5
assert (layer_norm(x).var(-1, correction=0) - 1).abs().max() < 1e-3
# sphinx_gallery_start_ignore
fig.set_label(
    "Six tokens, one row each, with a tick for every channel. Before, the "
    "rows lie at different places and are narrow or wide; after, all are "
    "centred on zero and equally wide."
)
# sphinx_gallery_end_ignore

# %%
# The same thing, by the library
# ------------------------------
# With random weights, :class:`torch.nn.LayerNorm` and
# :class:`tfdoc.LayerNorm` agree with the three lines.
theirs = nn.LayerNorm(D)
for parameter in theirs.parameters():
    nn.init.normal_(parameter)
by_hand = layer_norm(x, theirs.weight, theirs.bias)
for norm in (theirs, tfdoc.from_torch(theirs)):
    torch.testing.assert_close(by_hand, norm(x))
    print(f"largest difference {(by_hand - norm(x)).abs().max():.1e}")

# %%
# First wrong way: another axis
# -----------------------------
# Over the tokens instead of the channels, the shape of the result is the
# same. Change the last token, and look whether the first one moves:
later = x.clone()
later[-1] += torch.randn(D)


def over_tokens(x):
    """The same three lines, along the wrong axis of (T, D)."""
    return layer_norm(x.T).T


for norm in (layer_norm, over_tokens):
    moved = (norm(later) - norm(x))[0].abs().max()
    print(f"{norm.__name__:11s}: the first token moves by {moved:.3f}")
    assert (moved == 0) == (norm is layer_norm)

# %%
# A token that feels a later one has seen the future. No causal mask closes
# that leak, because it is not in the attention. Batch norm has it too.
#
# Second wrong way: the other deviation, and eps outside
# ------------------------------------------------------
# ``x.std()`` divides by D - 1, and many tutorials add :math:`\epsilon` to it,
# outside the root. Feed both forms with vectors of different sizes:


def tutorial_norm(x, eps=1e-6):
    """The form that circulates."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps)


sizes = torch.logspace(-5, 1, 25)
noise = F.layer_norm(torch.randn(len(sizes), 768), (768,)) * sizes[:, None]
curves = {
    "inside the root, 1e-5": layer_norm(noise),
    "inside the root, 1e-12": layer_norm(noise, eps=1e-12),
    "outside, 1e-6": tutorial_norm(noise),
}
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for (name, y), style in zip(curves.items(), ("o-", "s-", "^--"), strict=True):
    measured = y.std(-1, correction=0)
    ax.semilogx(sizes.tolist(), measured.tolist(), style, label=name)
ax.set(xlabel="size of the input", ylabel="size of the output")
ax.set_title("eps decides what becomes of small inputs")
ax.legend(title="eps", frameon=False)
inside = curves["inside the root, 1e-5"].std(-1, correction=0)
closed_form = sizes / (sizes.square() + 1e-5).sqrt()
torch.testing.assert_close(inside, closed_form, rtol=1e-3, atol=0)
# sphinx_gallery_start_ignore
fig.set_label(
    "Size of the output against size of the input, from 1e-5 to 10. With "
    "1e-5 inside the root the output falls below one from inputs of 0.01 "
    "down; with 1e-12, or with eps outside, it stays near one."
)
# sphinx_gallery_end_ignore

# %%
# So ``eps`` belongs to the weights. A network trained with one value gets
# other numbers with another, or in another place, where inputs are small:
small = 1e-3 * torch.randn(1000, 768)
right, wrong = layer_norm(small).std(), tutorial_norm(small).std()
print(f"inputs of size 0.001: {right:.3f} turns into {wrong:.3f}")
assert right < 0.31
assert wrong > 0.99

# %%
# Nor is the smallest value the safest. In float16, 1e-12 is zero, and a
# constant vector is divided by it. PyTorch's own norm works in float32.
constant = torch.ones(1, D, dtype=torch.float16)
by_hand = layer_norm(constant, eps=1e-12)
library = F.layer_norm(constant, (D,), eps=1e-12)
print(f"by hand {by_hand[0, 0].item()}, PyTorch {library[0, 0].item()}")
assert by_hand.isnan().all()
assert (library == 0).all()

# %%
# The divisor matters less. It shrinks everything by
# :math:`\sqrt{(D-1)/D}`: a lot in an example with four channels, less than
# the rounding of bfloat16 in a real model.
for width in (4, 768):
    size = tutorial_norm(torch.randn(1000, width)).std(-1, correction=0).mean()
    print(f"D = {width:3d}: output size {size:.4f}")
    assert abs(size - ((width - 1) / width) ** 0.5) < 1e-4
assert 1 - size < torch.finfo(torch.bfloat16).eps / 2

# %%
# Third wrong way: one pass
# -------------------------
# On paper :math:`\operatorname{var}(x) = \operatorname{mean}(x^2) -
# \operatorname{mean}(x)^2`, which saves a pass over the data. In float32 it
# subtracts two large numbers to find a small one.


def one_pass(x, eps=1e-5):
    """Right on paper."""
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return (x - mean) / (variance + eps).sqrt()


means = [1, 10, 100, 1000]
errors = {one_pass: [], layer_norm: []}
for mean in means:
    x = mean + torch.randn(1000, 768)
    for norm, found in errors.items():
        found.append((norm(x) - layer_norm(x.double())).abs().max().item())

fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ax.loglog(means, errors[one_pass], "C1o-", label="one pass")
ax.loglog(means, errors[layer_norm], "C0o-", label="subtract first")
ax.set(xlabel="mean, in standard deviations", ylabel="largest error")
ax.set_title("One pass: two digits lost for each digit of the mean")
ax.legend(frameon=False)
assert errors[layer_norm][-1] < 1e-3
assert errors[one_pass][-1] > 0.3
# sphinx_gallery_thumbnail_number = 1
# sphinx_gallery_start_ignore
fig.set_label(
    "Largest error against the mean of the input, both logarithmic. In one "
    "pass it climbs by two digits for each digit of the mean and reaches "
    f"{errors[one_pass][-1]:.1f} at 1000; subtracting first it stays under 0.001."
)
# sphinx_gallery_end_ignore

# %%
# A column of years, 2000 give or take 10, has a mean of 200 deviations. At
# 10,000 the "variance" of many rows is negative, and its root not a number:
lost = one_pass(1e4 + torch.randn(1000, 768)).isnan().any(-1).float().mean()
print(f"rows lost to NaN: {lost:.0%}")
assert 0.2 < lost < 0.5

# %%
# What it costs
# -------------
# 2 D parameters. The FLOP counter sees nothing: it counts matrix products
# only. A norm costs memory: the traffic, and what autograd keeps for the
# backward pass. The library keeps its input and two numbers a token; the
# three lines keep a second copy.


def kept(norm, x):
    """How many numbers autograd keeps of this call."""
    found = []
    with saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
        norm(x)
    return sum(t.numel() for t in found)


T, D = 1024, 768
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    norm, x = tfdoc.LayerNorm(D), torch.empty(T, D, requires_grad=True)
    norm(x)
assert sum(p.numel() for p in norm.parameters()) == 2 * D
assert counter.get_total_flops() == 0
by_hand = kept(layer_norm, x)
library = kept(lambda x: F.layer_norm(x, (D,)), x)
assert by_hand == 2 * T * D + 2 * T
assert library == T * D + 2 * T
print(f"kept for {T} tokens: {library:,} numbers, by hand {by_hand:,}")

# %%
# Exercise
# --------
# A linear layer follows most norms. Fold the norm's scale and shift into its
# weight and bias, so that at inference nothing is left of them.


def fold(norm, linear):
    """Your turn: return the weight and the bias of the folded layer."""
    return linear.weight + norm.weight, linear.bias


def check(fold):
    """Say whether the folded layer needs no scale and shift before it."""
    x, linear = torch.randn(10, 64), nn.Linear(64, 8)
    folded = F.linear(F.layer_norm(x, (64,)), *fold(theirs, linear))
    gap = (folded - linear(theirs(x))).abs().max()
    return "right" if gap < 1e-5 else f"not yet: off by {gap:.2f}"


print(check(fold))


# sphinx_gallery_start_ignore
def solution(norm, linear):
    bias = linear.bias + linear.weight @ norm.bias
    return linear.weight * norm.weight, bias


assert check(fold).startswith("not yet")
assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    The pair computes :math:`W(x \cdot w + b) + c`, with the layer's matrix
#    :math:`W` and bias :math:`c`. So the new matrix is ``linear.weight *
#    norm.weight``, which scales the columns, and the new bias is
#    ``linear.bias + linear.weight @ norm.bias``. It also shows that a norm
#    needs no bias of its own if a linear layer with one follows.
#
# **Read on.** Ba, Kiros and Hinton, *Layer normalization* (2016,
# arXiv:1607.06450). The component: :class:`tfdoc.LayerNorm`. Next:
# :doc:`/learn/4_normalisation/02_rms_norm`, which leaves out the mean.
