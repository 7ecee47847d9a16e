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
from torch.utils.flop_counter import FlopCounterMode

import tfdoc

torch.manual_seed(0)
print((torch.tensor([1, 2, 3, 4]) - 2.5) / 1.25**0.5)

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

fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained")
for ax, values in zip(axes, (x, layer_norm(x)), strict=True):
    for row, channels in enumerate(values.tolist()):
        ax.plot(channels, [row] * D, "|", color=f"C{row}", markersize=14)
    ax.set(title="before" if values is x else "after", xlabel="value")
    ax.set_yticks(range(T), tokens)
    ax.invert_yaxis()
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
right = (layer_norm(later) - layer_norm(x))[0].abs().max()
wrong = (layer_norm(later.T) - layer_norm(x.T))[:, 0].abs().max()
print(f"it moves by {right:.3f} over channels, by {wrong:.3f} over tokens")
assert right == 0
assert wrong > 0.01

# %%
# That first token has seen the future, and no causal mask closes the leak,
# because it is not in the attention. Batch norm has it too.
#
# Second wrong way: the other deviation, and eps outside
# ------------------------------------------------------
# ``x.std()`` divides by D - 1, and many tutorials add :math:`\epsilon` to it,
# outside the root. Feed both forms with vectors of different sizes:


def tutorial_norm(x, eps=1e-6):
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
closed_form = sizes / (sizes.square() + 1e-5).sqrt()
measured = layer_norm(noise).std(-1, correction=0)
torch.testing.assert_close(measured, closed_form, rtol=1e-3, atol=0)
# sphinx_gallery_start_ignore
fig.set_label(
    "Size of the output against size of the input, from 1e-5 to 10. With "
    "1e-5 inside the root the output falls below one from inputs of 0.01 "
    "down; with 1e-12, or with eps outside, it stays near one."
)
# sphinx_gallery_end_ignore

# %%
# So ``eps`` belongs to the weights: with another one, or in another place, a
# trained network gets other numbers where its inputs are small. The divisor
# matters less. It shrinks all by :math:`\sqrt{(D-1)/D}`: a lot in an example
# with four channels, less than the rounding of bfloat16 in a real model.
for width, scale in ((4, 1), (768, 1), (768, 1e-3)):
    noise = scale * torch.randn(1000, width)
    right = layer_norm(noise).std(-1, correction=0).mean()
    wrong = tutorial_norm(noise).std(-1, correction=0).mean()
    print(f"D = {width:3d}, input {scale}: right {right:.4f}, not {wrong:.4f}")
    assert abs(wrong - ((width - 1) / width) ** 0.5) < 2e-3

# In float16 an eps of 1e-12 is zero; PyTorch's norm computes in float32.
constant = torch.ones(1, D, dtype=torch.float16)
assert layer_norm(constant, eps=1e-12).isnan().all()
assert (F.layer_norm(constant, (D,), eps=1e-12) == 0).all()

# %%
# Third wrong way: one pass
# -------------------------
# On paper :math:`\operatorname{var}(x) = \operatorname{mean}(x^2) -
# \operatorname{mean}(x)^2`, which saves a pass over the data. In float32 it
# subtracts two large numbers to find a small one.


def one_pass(x, eps=1e-5):
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return (x - mean) / (variance + eps).sqrt()


def error(norm, mean):
    """Largest error of a norm at this mean, against float64."""
    x = mean + torch.randn(1000, 768)
    return (norm(x) - layer_norm(x.double())).abs().max().item()


fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
means = [1, 10, 100, 1000]
for name, norm in {"subtract first": layer_norm, "one pass": one_pass}.items():
    errors = [error(norm, mean) for mean in means]
    ax.loglog(means, errors, "o-", label=name)
ax.set(xlabel="mean, in standard deviations", ylabel="largest error")
ax.set_title("One pass: two digits lost for each digit of the mean")
ax.legend(frameon=False)
assert error(layer_norm, 1000) < 1e-3 < errors[-1]
assert 30 < (errors[-1] / errors[1]) ** 0.5 < 300
# sphinx_gallery_start_ignore
fig.set_label(
    "Largest error against the mean of the input, both logarithmic. In one "
    "pass it climbs by two digits for each digit of the mean and reaches "
    f"{errors[-1]:.1f} at 1000; subtracting first it stays under 0.001."
)
# sphinx_gallery_end_ignore

# %%
# A column of years, 2000 give or take 10, has a mean of 200 deviations. At
# 10,000 the "variance" of many rows is negative, and its root is not a number:
lost = one_pass(1e4 + torch.randn(1000, 768)).isnan().any(-1).float().mean()
print(f"rows lost to NaN: {lost:.0%}")
assert 0.2 < lost < 0.5

# %%
# What it costs
# -------------
# 2 D parameters. The FLOP counter sees nothing: it counts matrix products
# only. A norm costs memory: what it reads and writes, and what autograd keeps
# for the backward pass, its input and two numbers a token.
T, D, kept = 1024, 768, []
watch = torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t)
with torch.device("meta"), watch, FlopCounterMode(display=False) as counter:
    norm, x = tfdoc.LayerNorm(D), torch.empty(T, D, requires_grad=True)
    norm(x)
parameters = sum(p.numel() for p in norm.parameters())
assert parameters == 2 * D
assert counter.get_total_flops() == 0
assert sum(t.numel() for t in kept) - parameters == T * D + 2 * T

# %%
# Exercise
# --------
# A linear layer follows most norms. Fold the norm's scale and shift into its
# weight and bias, so that at inference nothing is left of them.


def fold(norm, linear):
    """Your turn: return the weight and the bias of the folded layer."""
    return linear.weight + norm.weight, linear.bias


def check(fold):
    """Compare the folded layer after a bare norm with the two layers."""
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
#    The two compute :math:`W(x \cdot w + b) + c`. So the weight becomes
#    ``linear.weight * norm.weight``, which scales the columns, and the bias
#    ``linear.bias + linear.weight @ norm.bias``.
#
# **Read on.** Ba, Kiros and Hinton, *Layer normalization* (2016,
# arXiv:1607.06450). The component: :class:`tfdoc.LayerNorm`. Next:
# :doc:`/learn/4_normalisation/02_rms_norm`, which leaves out the mean.
