r"""
Fused attention: the same numbers without the matrix
====================================================

The matrix of attention weights has as many numbers as the sequence has pairs
of tokens: at 32 thousand tokens, a billion for each head. Read this page if
attention runs out of memory, or if you call a fused kernel and wonder whether
to trust it. At the end you can write one yourself, measure what it keeps,
and name what makes it fall back to the full matrix.
"""

# %%
# A softmax that never sees its whole row
# ---------------------------------------
# One query, four keys. The exponentials of the scores are 1, 2, 4 and 1, the
# values 8, 4, 2 and 0. The weights are eighths, the answer is
# :math:`(8 + 8 + 8 + 0)/8 = 3`. Now read the keys in two halves, and keep
# only a running sum of exponentials and a running weighted sum:
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count

from tfdoc import Causal, attention, fused_attention

torch.manual_seed(0)

exponentials = torch.tensor([1.0, 2.0, 4.0, 1.0])
values = torch.tensor([8.0, 4.0, 2.0, 0.0])
total = out = 0
for half in (slice(0, 2), slice(2, 4)):
    total = total + exponentials[half].sum()
    out = out + exponentials[half] @ values[half]
    print(f"after this half: {out:.0f} / {total:.0f} = {out / total:.2f}")
assert out / total == 3

# %%
# Each half is forgotten once it is added. One thing is missing: exponentials
# of large scores overflow, so a softmax subtracts the row's largest score
# first, and that is known with the last key only. So subtract the largest *so
# far*, m, and shrink both sums when a larger one, m', comes along: since
# :math:`e^{s-m'} = e^{s-m} \, e^{m-m'}`, one factor corrects them.


def block_by_block(query, key, value, size):
    """Exact attention that holds `size` keys at a time."""
    scale = query.shape[-1] ** -0.5
    largest = torch.full_like(query[..., :1], -torch.inf)
    total, out = torch.zeros_like(largest), torch.zeros_like(query)
    blocks = zip(key.split(size, -2), value.split(size, -2), strict=True)
    for some_keys, some_values in blocks:
        scores = query @ some_keys.mT * scale  # (..., queries, size)
        before, largest = largest, largest.maximum(scores.amax(-1, True))
        weights = (scores - largest).exp()
        shrink = (before - largest).exp()
        total = shrink * total + weights.sum(-1, True)
        out = shrink * out + weights @ some_values
    return out / total


# %%
# It never holds more than T x `size` scores. Compare it with the matrix form,
# for blocks of several sizes, in float64:
q, k, v = torch.randn(3, 2, 4, 100, 16, dtype=torch.float64)  # (B, H, T, d)
for size in (1, 7, 64, 100):
    apart = (block_by_block(q, k, v, size) - attention(q, k, v)).abs().max()
    print(f"blocks of {size:3d} keys: largest difference {apart:.0e}")
    assert apart < 1e-12
torch.testing.assert_close(fused_attention(q, k, v), attention(q, k, v))

# %%
# Watch one query read 100 keys, one at a time. Its scores are five times
# larger than usual, so that few keys matter: the answer moves in jumps.
query, keys, values = 5 * q[0, 0, :1], k[0, 0], v[0, 0]
score = (query @ keys.mT / 4)[0]
answer = [
    block_by_block(query, keys[:n], values[:n], 1)[0, 14].item()
    for n in range(1, 101)
]
true = attention(query, keys, values)[0, 14].item()

fig, axes = plt.subplots(2, 1, figsize=(6.5, 5), layout="constrained")
axes[0].plot(score.tolist(), "C6.")
axes[0].step(range(100), score.cummax(0)[0].tolist(), "C1", where="post")
axes[0].set(title="Scores, and the largest so far", ylabel="score")
axes[1].step(range(100), answer, "C0", where="post")
axes[1].axhline(true, color="C1", ls="--")
axes[1].set_title("The answer so far, and the exact one (dashed)")
axes[1].set(xlabel="key", ylabel="output, channel 14")
assert abs(answer[-1] - true) < 1e-12 < abs(answer[49] - true)
# sphinx_gallery_start_ignore
fig.set_label(
    "Top: scores of 100 keys as dots, and a staircase of the largest so far. "
    "Bottom: the answer after each key; it jumps where a large score comes "
    "and ends on the dashed line of the exact answer."
)
# sphinx_gallery_end_ignore

# %%
# Memory: what is kept
# --------------------
# Training keeps tensors from the forward pass until the backward pass needs
# them. Autograd lets us watch each one as it is put aside:


def kept(attend, length, mask=None):
    """Bytes kept for the backward pass: one head of width 64, float32."""
    heads = [torch.randn(1, 1, length, 64, requires_grad=True) for _ in "qkv"]
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()  # each storage once
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        out = attend(*heads, mask)  # alive, so that no address is used twice
    assert out.requires_grad
    return sum(sizes.values())


# %%
# Exact attention, and the fused kernel with a table or a rule as its mask:
lengths = [128, 256, 512, 1024, 2048, 4096]
exact = [kept(attention, T) for T in lengths]
table = [kept(fused_attention, T, Causal().table(T)) for T in lengths]
rule = [kept(fused_attention, T, Causal()) for T in lengths]
curves = {"exact": exact, "fused, table": table, "fused, Causal()": rule}
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for (name, sizes), style in zip(curves.items(), "Do^", strict=True):
    ax.loglog(lengths, [s / 2**20 for s in sizes], f"{style}-", label=name)
ax.lines[0].set_markersize(11)  # the second curve hides it
ax.set(title="Kept for the backward pass", xlabel="tokens", ylabel="MiB")
ax.set_xticks(lengths, lengths)
ax.minorticks_off()
_ = ax.legend(frameon=False)
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Memory kept against the length, both logarithmic. Exact attention and "
    "fused attention with a mask table soon rise with the square of the "
    "length, side by side; with the rule Causal(), in proportion to it."
)
# sphinx_gallery_end_ignore

# %%
# All keep keys, values and queries (exact attention, those times the scale).
# On top, exact attention keeps the matrix, :math:`T^2` numbers; fused, its
# output and one number a query, the logarithm of its sum of exponentials.
# From these the backward pass makes the weights again.
for T, matrix, mask, fused in zip(lengths, exact, table, rule, strict=True):
    assert abs(matrix / (4 * (3 * T * 64 + T**2)) - 1) < 0.01
    assert abs(fused / (4 * (4 * T * 64 + T)) - 1) < 0.01
    assert mask > fused + T**2
print(f"at {T} tokens: {matrix / fused:.0f} times less")

# %%
# Pitfall: the matrix comes back
# ------------------------------
# The orange dots are a fused kernel too, but its mask is a table of
# :math:`T^2` entries, which is turned into floats and kept. So say *causal*
# by a rule that the kernel knows: ``Causal()`` here, ``is_causal=True`` in
# PyTorch. Watching brings the matrix back as well: under
# :func:`tfdoc.record`, a module takes the exact path.
#
# Pitfall: dropout that never stops
# ---------------------------------
# A function has no ``eval()`` mode. A module that hands on
# ``dropout_p=self.dropout`` goes on dropping weights when it is evaluated.
# For values of mean 0 the relative error is :math:`\sqrt{p/(1-p)}`, at
# p = 0.1 a third. Pass ``self.dropout if self.training else 0``.
q, k, v = torch.randn(3, 2, 4, 512, 64)
true = attention(q.double(), k.double(), v.double())
dropping = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)
results = attention(q, k, v), fused_attention(q, k, v), dropping
errors = [((out - true).norm() / true.norm()).item() for out in results]
print("exact {:.0e}, fused {:.0e}, dropping {:.2f}".format(*errors))
torch.testing.assert_close(errors, [0.0, 0.0, 1 / 3], rtol=0.1, atol=1e-5)

# %%
# What it costs
# -------------
# Going forward, the same work: two products of :math:`2 T^2 d` operations a
# head. Going back, the scores are made again: five products, not four. Count
# on the meta device; on the CPU the counter does not know the fused kernel.
counts = []
for device in ("meta", "cpu"):
    heads = torch.zeros(3, 1, 8, 256, 64, device=device)
    for way in attention, fused_attention:
        with FlopCounterMode(display=False) as counter:
            way(*heads)
        counts.append(counter.get_total_flops())
        print(f"{device:4s} {way.__name__:15s} {counts[-1]:,}")
product = 2 * 8 * 256**2 * 64
assert counts == [2 * product, 2 * product, 2 * product, 0]
assert sdpa_backward_flop_count(*[(1, 8, 256, 64)] * 4) == 5 * product

# %%
# Exercise
# --------
# The keys lie on two machines. Each sends its half's answer, and the
# logarithm of its sum of exponentials. Put the two answers together.


def merge(out_a, log_sum_a, out_b, log_sum_b):
    """Your turn: here, the half with the larger sum takes it all."""
    return torch.where(log_sum_a > log_sum_b, out_a, out_b)


def check(merge):
    """Say whether the merged halves equal attention to all keys."""
    q, k, v = torch.randn(3, 2, 10, 16, dtype=torch.float64)
    halves = []
    for part in (slice(0, 3), slice(3, 10)):
        scores = q @ k[:, part].mT / 4
        halves += [attention(q, k[:, part], v[:, part])]
        halves += [scores.logsumexp(-1, keepdim=True)]
    apart = (merge(*halves) - attention(q, k, v)).abs().max()
    return "right" if apart < 1e-12 else f"not yet: off by {apart:.2f}"


print(check(merge))
# sphinx_gallery_start_ignore
assert check(merge).startswith("not yet")
assert check(lambda a, la, b, lb: b + (la - lb).sigmoid() * (a - b)) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``share = (log_sum_a - log_sum_b).sigmoid()``, then
#    ``share * out_a + (1 - share) * out_b``. The first half's share is its
#    sum over both sums, :math:`e^a / (e^a + e^b)`, a sigmoid.
#
# **Read on.** Milakov and Gimelshein (2018), the online softmax; Dao et al.,
# *FlashAttention* (2022), a kernel around it; :func:`tfdoc.fused_attention`.
# Next: :doc:`/learn/3_positions/01_sinusoidal_and_learned`.
