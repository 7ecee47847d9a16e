r"""
RoPE turns queries and keys, so that only distance counts
=========================================================

Attention by itself does not know which token came first. Rotary position
embedding tells it, without a parameter: it turns each query and key by an
angle that grows with the position. Read this page if you load the weights of
a model with rotary positions, cache its keys, or extend its length. At the
end you can write the rotation, check its layout, and move cached keys.
"""

# %%
# Two arrows on a circle
# ----------------------
# Let a query and a key be arrows that point east. Turn each by one radian for
# every token before it, then take their dot product:
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode

from tfdoc import MultiHeadAttention, RoPE

torch.manual_seed(0)


def arrow(position):
    """East, turned counter-clockwise by `position` radians."""
    angle = torch.tensor(float(position))
    return torch.stack([angle.cos(), angle.sin()])


for m, n in (2, 0), (12, 10), (10, 12):
    print(f"positions {m:2d} and {n:2d}: {arrow(m) @ arrow(n):.4f}")
print(f"cosine of 2 radians: {torch.tensor(2.0).cos():.4f}")

# %%
# The product of two arrows is the cosine of the angle between them, and that
# angle is the *difference* of the positions.
#
# A head has d channels: d/2 arrows, each with its own speed. Pair i turns by
# :math:`\theta_i = 10000^{-2i/d}` radians a token. Fast arrows tell
# neighbours apart, slow ones tokens that are thousands of places apart.
positions = torch.arange(6)
turns = RoPE().table(positions, 8)  # complex numbers of length 1: (6, 4)
fig, axes = plt.subplots(1, 2, figsize=(7, 3.7), layout="constrained")
for pair, ax in enumerate(axes):
    for tip in turns[:, pair].tolist():
        ax.plot([0, tip.real], [0, tip.imag], f"C{pair}o-", markevery=[1])
    ax.annotate(" 0", (1, 0))
    ax.annotate(" 5", (tip.real, tip.imag))
    ax.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    ax.set(title=f"pair {pair}: {0.1**pair:g} rad a token")
    ax.set(xlabel=f"channel {2 * pair}", ylabel=f"channel {2 * pair + 1}")
assert turns[1].angle().allclose(0.1 ** torch.arange(4.0).double())
# sphinx_gallery_start_ignore
fig.set_label(
    "One arrow for each position from 0 to 5, on a circle. Left, the first "
    "pair of channels goes most of the way around; right, the second turns "
    "ten times more slowly and fans out by half a radian."
)
# sphinx_gallery_end_ignore

# %%
# By hand, by complex numbers, by Hugging Face
# --------------------------------------------
# By hand, each pair is multiplied by a 2 x 2 rotation matrix. ``tfdoc`` sees
# a pair as one complex number and does it in one product.


def by_hand(x, positions, base=10_000.0):
    """Turn channels (0, 1), (2, 3), ... of x, shape (..., T, d)."""
    d = x.shape[-1]
    angle = positions[:, None] * base ** (-torch.arange(0, d, 2) / d)
    cos, sin, east, north = angle.cos(), angle.sin(), x[..., ::2], x[..., 1::2]
    turned = cos * east - sin * north, sin * east + cos * north
    return torch.stack(turned, -1).flatten(-2)


T, d = 32, 64
positions = torch.arange(T)
q, k = torch.randn(2, 1, 4, T, d)  # (B, H, T, d)
ours = RoPE()(q, positions)
torch.testing.assert_close(ours, by_hand(q, positions))
print(f"by hand: {(ours - by_hand(q, positions)).abs().max():.1e}")

# %%
# Hugging Face's Llama pairs channel i with channel i + d/2, not with its
# neighbour. So put the even channels first, then the odd ones:
from transformers.models.llama import modeling_llama as llama


def halves(x):
    """Reorder the last dimension: 0, 2, 4, ... then 1, 3, 5, ..."""
    return torch.cat([x[..., ::2], x[..., 1::2]], -1)


config = llama.LlamaConfig(hidden_size=4 * d, num_attention_heads=4)
cos, sin = llama.LlamaRotaryEmbedding(config)(q, positions[None])
theirs, _ = llama.apply_rotary_pos_emb(halves(q), halves(k), cos, sin)
torch.testing.assert_close(theirs, halves(ours))
print(f"Hugging Face: {(theirs - halves(ours)).abs().max():.1e}")

# %%
# Only distance counts
# --------------------
# Put *one* query and *one* key at every position. All the scores of a
# diagonal, that is of one distance, are the same number:
same_q, same_k = (t[:, :1, :1].expand(1, 1, T, d) for t in (q, k))
scores = (RoPE()(same_q, positions) @ RoPE()(same_k, positions).mT)[0, 0]
torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1])

fig, ax = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
image = ax.imshow(scores.tolist())
ax.set(xlabel="position of the key", ylabel="position of the query")
_ = fig.colorbar(image, label="score")
# sphinx_gallery_start_ignore
fig.set_label(
    "Scores of a query at every position, in rows, and a key at every "
    "position, in columns: stripes along the diagonals, each of one colour."
)
# sphinx_gallery_end_ignore

# %%
# Do far tokens fade?
# -------------------
# It is often said that rotary scores decay with distance. Measure it, for
# keys equal to their query and for keys that have nothing to do with it:
distances = torch.tensor([0, *(2**n for n in range(15))])
query, other = torch.randn(2, 4000, 1, 1, 128)
far = RoPE()(query.expand(-1, -1, len(distances), -1), distances)
alike = (far * query).sum(-1).mean((0, 1)) / 128
unrelated = (far * other).sum(-1).std((0, 1)) / 128**0.5
assert (alike - RoPE().table(distances, 128).real.mean(-1)).abs().max() < 0.02
assert (unrelated - 1).abs().max() < 0.05

fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ax.plot(alike.tolist(), "o-", label="key = query: mean / d")
ax.plot(unrelated.tolist(), "s-", label=r"unrelated: spread / $\sqrt{d}$")
ax.set(title="Likeness fades with distance, attention does not")
ax.set(xlabel="distance in tokens", ylabel="score")
ax.set_xticks([0, 1, 5, 9, 13], [0, 1, 16, 256, 4096])
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Scores against distance on a logarithmic axis. For a key equal to the "
    "query the mean falls from one to about zero; for unrelated keys the "
    "spread stays at one."
)
# sphinx_gallery_end_ignore

# %%
# Likeness fades, as the average of :math:`\cos(r\,\theta_i)` at distance r;
# but an unrelated key a thousand tokens away scores as high as one next door,
# and a head can learn keys that fit at *one* distance, as a head in
# :doc:`/learn/8_debugging/01_attention_patterns` does.
#
# Pitfall: the other layout
# -------------------------
# Load a model whose pairs are halves into code that turns neighbours. Most
# tests pass: vectors keep their lengths, scores still depend on distance
# only, and the token itself is scored right. All other scores are wrong.
x = torch.randn(1, 1, T, d)
theirs = torch.randn(2, d, d) / d**0.5  # W_q, W_k that expect halves

turned = llama.apply_rotary_pos_emb(*(x @ w.T for w in theirs), cos, sin)
true = turned[0] @ turned[1].mT
reordered = halves(torch.arange(d)).argsort()  # 0, d/2, 1, d/2 + 1, ...
errors = []
for rows in torch.arange(d), reordered:
    ours = [RoPE()(x @ w[rows].T, positions) for w in theirs]
    error = (ours[0] @ ours[1].mT - true)[0, 0]
    errors.append((error.norm() / true.norm()).item())
    assert error.diagonal().abs().max() < 1e-4  # the token itself is right
print("relative error as loaded {:.2f}, reordered {:.0e}".format(*errors))
assert errors[0] > 0.5
assert errors[1] < 1e-5
# sphinx_gallery_start_ignore
half = RoPE(layout="half")
ours = [half(x @ w.T, positions) for w in theirs]
torch.testing.assert_close(ours[0] @ ours[1].mT, true, rtol=1e-4, atol=1e-3)
# sphinx_gallery_end_ignore

# %%
# The mend: ``RoPE(layout="half")``, or :func:`tfdoc.half_to_interleaved` on
# both when you load them.
#
# Pitfall: positions in bfloat16
# ------------------------------
# bfloat16 has eight significant bits. Above 256 it skips odd positions, then
# more, and tokens collide. Take float32 for angles, or float64 as ``tfdoc``.
place = torch.arange(8192).double()
rounded = place.bfloat16().double()
wrong = (rounded.cos() - place.cos()).abs().max()
print(f"{len(rounded.unique())} of {len(place)} positions are distinct;")
print(f"the cosine of the first angle is wrong by up to {wrong:.2f}")
assert len(rounded.unique()) == 257 + 5 * 128
assert wrong > 1.9

# %%
# What it costs
# -------------
# No parameters and no matrix product. Six operations turn a pair: 3 a number,
# where the projection that made it, from width D, took 2 D.
B, T, D = 2, 32, 512
for rotary in (None, RoPE()):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = MultiHeadAttention(D, num_heads=8, rotary=rotary)
        model(torch.empty(B, T, D))
    assert sum(p.numel() for p in model.parameters()) == 4 * D * (D + 1)
    assert counter.get_total_flops() == B * (8 * T * D**2 + 4 * T**2 * D)
print(f"turning costs {3 / (2 * D):.2%} of a projection")

# %%
# Exercise
# --------
# A chat grows too long: you drop its first 100 tokens, and the rest move up.
# Their keys are cached, already turned. Move them without the model.


def move_up(keys):
    """Your turn: here, keys that are turned already are turned again."""
    return RoPE()(keys, torch.arange(keys.shape[-2]))


def check(move_up):
    """Say whether moved keys equal keys that were turned at the new places."""
    new = torch.arange(20)
    keys = torch.randn(1, 2, len(new), 64)  # (B, H, T, d)
    moved = move_up(RoPE()(keys, new + 100))
    apart = (moved - RoPE()(keys, new)).abs().max()
    return "right" if apart < 1e-4 else f"not yet: off by {apart:.2f}"


print(check(move_up))
# sphinx_gallery_start_ignore
assert check(move_up).startswith("not yet")
assert (
    check(lambda keys: RoPE()(keys, torch.full(keys.shape[-2:-1], -100)))
    == "right"
)
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``RoPE()(keys, torch.full((keys.shape[-2],), -100))``: turns add up, so
#    one turn backwards takes 100 places off every key.
#
# **Read on.** Su et al., *RoFormer* (2021), introduced it; Barbero et al.,
# *Round and round we go!* (2024), look at what trained models do with fast
# and slow arrows. The class is :class:`tfdoc.RoPE`. Next:
# :doc:`/learn/3_positions/03_rope_beyond_training`.
