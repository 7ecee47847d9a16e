r"""
RMSNorm: what a norm loses without the mean
===========================================

Llama, Mistral, Qwen and many others divide each token by its size and leave
its mean alone. Read this page if you meet RMSNorm in a model, port its
weights, or run it in half precision. At the end you know what the missing
step changes, why two right versions disagree in bfloat16, and how a single
large channel can erase a token.
"""

# %%
# Two numbers
# -----------
# The size of a vector is the root of its mean square: RMS. For 3 and 4 it is
# :math:`\sqrt{(9 + 16) / 2}`, about 3.54. Dividing by it leaves a vector of
# size 1 that points where it pointed before.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import tfdoc
from tfdoc import GatedFeedForward, MultiHeadAttention, PreNormBlock, part

torch.manual_seed(0)
print([round(y, 3) for y in (torch.tensor([3.0, 4.0]) / 12.5**0.5).tolist()])

# %%
# With a learned scale :math:`w` for each of the D channels, and a small
# :math:`\epsilon` against a division by zero, that is all of it:
# :math:`y = x / \sqrt{\operatorname{mean}(x^2) + \epsilon} \cdot w`.


def rms_norm(x, weight=1.0, eps=1e-6):
    """Divide each vector of x, shape (..., D), by its size."""
    mean_square = x.square().mean(-1, keepdim=True)
    return x * torch.rsqrt(mean_square + eps) * weight


# %%
# What the mean changes
# ---------------------
# Layer normalisation subtracts the mean first, then does the same. With two
# channels you can see what that costs: the vectors that are left all lie on
# one line, so only two outcomes remain.
points = torch.randn(200, 2)
results = {
    "LayerNorm": F.layer_norm(points, (2,), eps=1e-12),
    "RMSNorm": rms_norm(points, eps=1e-12),
}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.8), layout="constrained")
for ax, (title, after) in zip(axes, results.items(), strict=True):
    ax.scatter(*points.T.tolist(), s=12, color="C6", label="before")
    ax.scatter(*after.T.tolist(), s=30, color="C1", label="after")
    ax.set(title=title, xlabel="channel 0", ylabel="channel 1")
    ax.set(aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
axes[0].legend(frameon=False, loc="lower right")
assert len({tuple(y) for y in results["LayerNorm"].round().tolist()}) == 2
assert (results["RMSNorm"].norm(dim=-1) - 2**0.5).abs().max() < 1e-4
# sphinx_gallery_start_ignore
fig.set_label(
    "200 random points in the plane of two channels, before and after. "
    "LayerNorm sends all of them to two points, RMSNorm onto a circle."
)
# sphinx_gallery_end_ignore

# %%
# In D channels LayerNorm likewise gives up one direction, the one where all
# channels are equal. Of two directions that is half. Of D it is one in D, and
# so is its share of the squared length of a random vector:
for D in (2, 64, 4096):
    x = torch.randn(4096, D)
    share = (x.mean(-1).square() / x.square().mean(-1)).mean()
    print(f"D = {D:4d}: share of the mean {share:.5f}, 1/D = {1 / D:.5f}")
    assert abs(share * D - 1) < 0.15

# %%
# So at real widths the two agree on random vectors. They differ where a model
# *uses* the mean: a number added to all channels passes through RMSNorm and
# is erased by LayerNorm. Multiplying all channels changes neither. And
# LayerNorm is RMSNorm of the centred vector, plus a learned shift.
x, D = torch.randn(100, 64), 64
norms = {"LayerNorm": lambda x: F.layer_norm(x, (D,)), "RMSNorm": rms_norm}
for name, norm in norms.items():
    added, scaled = ((norm(y) - norm(x)).abs().max() for y in (x + 1, 3 * x))
    print(f"{name:9s} moves by {added:.0e} for x + 1, {scaled:.0e} for 3 x")
    assert scaled < 1e-4
    assert (added < 1e-4) == (name == "LayerNorm")
centred = x - x.mean(-1, keepdim=True)
torch.testing.assert_close(rms_norm(centred, eps=1e-5), F.layer_norm(x, (D,)))

# %%
# The same thing, by three libraries
# ----------------------------------
# In float32, :class:`tfdoc.RMSNorm`, :class:`torch.nn.RMSNorm` and the Llama
# of Hugging Face agree with the two lines to the last digits.
D = 1024
x, weight = torch.randn(256, D), 1 + 0.2 * torch.randn(D)
libraries = {
    "tfdoc": tfdoc.RMSNorm(D, eps=1e-6),
    "torch": nn.RMSNorm(D, eps=1e-6),
    "Hugging Face": LlamaRMSNorm(D, eps=1e-6),
}
for name, norm in libraries.items():
    norm.weight.data.copy_(weight)
    torch.testing.assert_close(norm(x), rms_norm(x, weight))
    gap = (norm(x) - rms_norm(x, weight)).abs().max()
    print(f"{name:12s} largest difference {gap:.1e}")

# %%
# In bfloat16 they do not. All compute in float32 inside, but Hugging Face
# rounds to bfloat16 before the product with the weight as well as after it.
x, weight = x.bfloat16(), weight.bfloat16()
exact = rms_norm(x.double(), weight.double())
outputs = {k: norm.bfloat16()(x) for k, norm in libraries.items()}
for name, y in outputs.items():
    differ = (y != outputs["tfdoc"]).float().mean()
    error = ((y - exact) / exact).square().mean().sqrt()
    print(f"{name:12s} differs in {differ:6.2%}, typical error {error:.5f}")
    low, high = (0.2, 0.3) if name == "Hugging Face" else (0, 1e-3)
    assert low <= differ <= high

# %%
# A quarter of the numbers, by one step of bfloat16. Neither is a bug. But a
# port that is compared bit by bit with the original must round where the
# original does.
#
# Pitfall: squares in half precision
# ----------------------------------
# The largest float16 is 65,504, so there the square of 256 is infinite. One
# such channel is enough: the size of the token is infinite, and all of it is
# divided by that. Take ordinary tokens, and enlarge one channel:
largest = torch.logspace(0, 3, 31)
tokens = torch.randn(len(largest), D).clamp(-1, 1)
tokens[:, 0] = largest
naive, mended = rms_norm(tokens.half()).float(), rms_norm(tokens)

fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for label, y in {"float32": mended, "float16": naive}.items():
    size = y.square().mean(-1).sqrt().tolist()
    ax.semilogx(largest.tolist(), size, "o-", label=f"squares in {label}")
ax.axvline(256, color="C6", linestyle=":")
ax.set(xlabel="largest channel of the input", ylabel="size of the output")
ax.set_title("One channel above 256 erases the token")
ax.legend(frameon=False, loc="center left")
assert (naive[largest >= 256] == 0).all()
assert (mended.square().mean(-1) - 1).abs().max() < 1e-3
# sphinx_gallery_start_ignore
fig.set_label(
    "Size of the output against the largest input channel. With squares in "
    "float32 it stays at one; in float16 it drops to zero at 256."
)
# sphinx_gallery_end_ignore

# %%
# The output is not NaN but zero, which no check for NaN finds. Trained models
# do have such channels: a few that are hundreds or thousands of times larger
# than the rest ("massive activations", Sun et al. 2024, arXiv:2402.17762).
token = torch.full((1, D), 300.0).half()
naive, mended = rms_norm(token), tfdoc.RMSNorm(D).half()(token)
print(f"300s by hand: {naive[0, 0].item()}, by tfdoc: {mended[0, 0].item()}")
assert (naive == 0).all()
assert (mended == 1).all()

# %%
# What it costs
# -------------
# D parameters, half of LayerNorm's. A block has two norms, and a model one
# more at its end: :math:`(2L + 1) D` for L layers. The FLOP counter sees
# matrix products only. In Llama-3-8B's shape, without the vocabulary:
L, D, T = 32, 4096, 16
norm, gated = part(tfdoc.RMSNorm), part(GatedFeedForward, hidden_dim=14336)
heads = part(MultiHeadAttention, num_heads=32, num_kv_heads=8, bias=False)
block = part(PreNormBlock, attention=heads, feedforward=gated, norm=norm)
with torch.device("meta"):
    encoder = tfdoc.Encoder(D, blocks=(block,) * L, norm=norm)
    one = encoder.blocks[0]
    with FlopCounterMode(display=False) as counter:
        one(torch.empty(1, T, D))
in_norms = sum(p.numel() for p in encoder.parameters() if p.ndim == 1)
matrices = sum(p.numel() for p in one.parameters() if p.ndim == 2)
total = sum(p.numel() for p in encoder.parameters())
assert in_norms == (2 * L + 1) * D
assert total == in_norms + L * matrices
assert counter.get_total_flops() == 2 * T * matrices + 4 * T * T * D
print(f"{in_norms:,} of {total:,} parameters: {in_norms / total:.4%}")

# %%
# What remains is reading and writing the tensor, the same for both norms.
# RMSNorm saves arithmetic: four operations a number for LayerNorm's seven.
#
# Exercise
# --------
# A linear layer writes to the stream and LayerNorm reads it. Change the
# linear layer so that RMSNorm can take LayerNorm's place.


def centre(linear):
    """Your turn: return a weight and a bias whose outputs have mean 0."""
    return linear.weight, linear.bias


def check(centre):
    """Compare LayerNorm after the layer with RMSNorm after the new one."""
    x, linear = torch.randn(100, 16), nn.Linear(16, 64)
    layer = F.layer_norm(linear(x), (64,))
    rms = rms_norm(F.linear(x, *centre(linear)), eps=1e-5)
    gap = (layer - rms).abs().max().item()
    return "right" if gap < 1e-4 else f"not yet: off by {gap:.2f}"


print(check(centre))


# sphinx_gallery_start_ignore
def solution(linear):
    weight, bias = linear.weight, linear.bias
    return weight - weight.mean(0), bias - bias.mean()


assert check(centre).startswith("not yet")
assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    The mean over the outputs is linear, so it can be taken out of the
#    weights: ``linear.weight - linear.weight.mean(0)`` and ``linear.bias -
#    linear.bias.mean()``. Do it to everything that writes to the stream, the
#    embedding included, fold the shifts as on the page before, and a pre-norm
#    model with LayerNorm becomes one with RMSNorm, with the same outputs.
#
# **Read on.** Zhang and Sennrich, *Root mean square layer normalization*
# (2019, arXiv:1910.07467). The component: :class:`tfdoc.RMSNorm`. Next:
# :doc:`/learn/4_normalisation/03_residual_connections`, the stream that norms
# read from.
