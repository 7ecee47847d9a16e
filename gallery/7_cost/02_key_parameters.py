r"""
Key parameters: width is paid squared, depth once, heads not at all
===================================================================

Whoever sets up a transformer chooses five numbers: ``embed_dim``,
``num_heads``, ``num_layers``, ``hidden_dim`` and ``dropout``. Read this page
to start from values that published models use, and to know before you train
what each of them changes in size, work and memory, and what it does not.
"""

# %%
# Twice as wide, twice as deep
# ----------------------------
# A layer of width D has four D x D matrices in its attention and, in the
# oldest design, two of D x 4 D in its feed-forward network. Add them up:
for D, L in ((4, 1), (8, 1), (4, 2)):
    layer = 4 * D * D + 2 * D * (4 * D)
    print(f"width {D}, {L} layer(s): {L * layer} weights")

# %%
# Twice the width, four times the weights; twice the depth, twice.
#
# What published models chose
# ---------------------------
# L layers of width D, H query heads of width d that share G heads of keys and
# values, hidden width F, a vocabulary of V. :func:`tfdoc.count_params` gets
# the published size of each of these models exactly:
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import MultiHeadAttention, part

old = {"gated": False, "bias": True}  # not Llama's design but GPT-2's
tied = {"tied": True}
gpt2, opt = ({"num_positions": P} | old | tied for P in (1024, 2050))
coder, gemma = {"num_positions": 8192} | old | tied, {"head_dim": 256} | tied
models = {  # V, D, L, F, H, G; differences from Llama; dropout; published
    "GPT-2": (50_257, 768, 12, 3072, 12, 12, gpt2, 0.1, 124_439_808),
    "SmolLM2-135M": (49_152, 576, 30, 1536, 9, 3, tied, 0, 134_515_008),
    "Llama-3.2-1B": (128_256, 2048, 16, 8192, 32, 8, tied, 0, 1_235_814_400),
    "Gemma-2B": (256_000, 2048, 18, 16_384, 8, 1, gemma, 0, 2_506_172_416),
    "Phi-3-mini": (32_064, 3072, 32, 8192, 32, 32, {}, 0, 3_821_079_552),
    "OPT-6.7B": (50_272, 4096, 32, 16_384, 32, 32, opt, 0.1, 6_658_473_984),
    "Llama-7B": (32_000, 4096, 32, 11_008, 32, 32, {}, 0, 6_738_415_616),
    "Llama-3-8B": (128_256, 4096, 32, 14_336, 32, 8, {}, 0, 8_030_261_248),
    "Pythia-12B": (50_688, 5120, 36, 20_480, 40, 40, old, 0, 11_846_072_320),
    "StarCoder": (49_152, 6144, 40, 24_576, 48, 1, coder, 0.1, 15_517_456_384),
    "Llama-2-70B": (32_000, 8192, 80, 28_672, 64, 8, {}, 0, 68_976_648_192),
    "Llama-3.1-405B": (
        128_256, 16_384, 126, 53_248, 128, 8, {}, 0, 405_853_388_800
    ),
}  # fmt: skip
table = {}
for name, (V, D, L, F, H, G, other, dropout, published) in models.items():
    counts = tfdoc.count_params(V, D, L, F, H, num_kv_heads=G, **other)
    assert sum(counts.values()) == published
    row = {"D": D, "L": L, "H": H, "G": G, "d": other.get("head_dim", D // H)}
    row |= {"F / D": F / D, "dropout": dropout, "billions": published / 1e9}
    table[name] = row
table = pd.DataFrame(table).T.rename_axis("model")
table.map("{:.5g}".format)

# %%
# Read the columns. F / D is 4 where the feed-forward network has two
# matrices, mostly 8/3 to 4 where it has three. Dropout was 0.1 and is 0 in
# most newer models, which see nearly all their text only once. And one column
# hardly moves:
fig, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
columns = {"D": "width D", "L": "layers L", "d": "head width d"}
for (column, label), mark in zip(columns.items(), "os^", strict=True):
    ax.loglog(table["billions"], table[column], mark, label=label)
ax.set(title="Models grow wide and deep, heads do not")
ax.set(xlabel="parameters in billions", ylabel="size")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
growth = table.max() / table.min()
assert growth["D"] > 20
assert growth["L"] > 10
assert growth["d"] == 4  # 2 without Gemma-2B
# sphinx_gallery_start_ignore
assert table.drop("Gemma-2B")["d"].max() == 2 * table["d"].min()
fig.set_label(
    f"Points for {len(table)} models against their size, both axes "
    f"logarithmic. Width grows {growth['D']:.0f} times and depth "
    f"{growth['L']:.0f} times; head widths stay on a level, most at 128."
)
# sphinx_gallery_end_ignore

# %%
# A larger model gets *more* heads, H = D / d, not wider ones.
#
# Change one number, measure three things
# ---------------------------------------
# Build a stack of layers on the ``meta`` device, where nothing is computed
# and shapes remain. Count its parameters, the operations that a token costs
# among T tokens, and the keys and values it leaves in the cache.
T = 512


def measure(D=512, L=4, F=2048, H=8, G=8):
    """Return parameters, FLOPs a token and cached numbers a token."""
    block = part(
        tfdoc.PreNormBlock,
        attention=part(MultiHeadAttention, num_heads=H, num_kv_heads=G),
        feedforward=part(tfdoc.FeedForward, hidden_dim=F),
    )
    with torch.device("meta"):
        stack, x = tfdoc.Encoder(D, blocks=(block,) * L), torch.empty(1, T, D)
    counter = FlopCounterMode(display=False)
    with counter, tfdoc.record(stack, "*[kv]_proj") as seen:
        stack(x)
    cache = sum(made.numel() for made in seen.values()) // T
    size = sum(p.numel() for p in stack.parameters())
    return size, counter.get_total_flops() / T, cache


before = measure()
changes = {
    "2 x L": {"L": 8},
    "2 x F": {"F": 4096},
    "2 x D": {"D": 1024},
    "2 x D and F": {"D": 1024, "F": 4096},
    "2 x H and G": {"H": 16, "G": 16},
    "half of G": {"G": 4},
}
factors = {
    name: [b / a for a, b in zip(before, measure(**change), strict=True)]
    for name, change in changes.items()
}

# %%
# Each dot is a factor, what it is after the change over what it was before:
fig, ax = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
rows = range(len(factors))
for i, label in enumerate(("parameters", "FLOPs a token", "cache a token")):
    heights = [row + 0.18 * (i - 1) for row in rows]
    ax.plot([f[i] for f in factors.values()], heights, "os^"[i], label=label)
ax.set_xscale("log", base=2)
ax.set_xticks([0.5, 1, 2, 4], ["1/2", "1", "2", "4"])
ax.set_yticks(rows, factors)
ax.invert_yaxis()
ax.axvline(1, color="C6", linewidth=1)
ax.set(title="What one change multiplies", xlabel="factor")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
assert factors["2 x L"] == [2, 2, 2]
assert factors["2 x H and G"] == [1, 1, 1]
assert 3.98 < factors["2 x D and F"][0] < 4
assert factors["half of G"][2] == 0.5
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Six changes, each with the factors of parameters, FLOPs and cache: "
    + "; ".join(
        f"{name} {a:.2f}, {b:.2f} and {c:.2f}"
        for name, (a, b, c) in factors.items()
    )
)
# sphinx_gallery_end_ignore

# %%
# Depth doubles everything. Width, with F at its side, makes four times the
# parameters, but only twice the cache. F never touches the cache, G touches
# little else. And heads cost nothing: they share out D among themselves.
#
# What heads do change
# --------------------
# Not the number of weights but what they can say. More heads mean more maps,
# and simpler ones: scores made of d-wide queries and keys have rank d.
torch.manual_seed(0)
x = torch.randn(1, 64, 64)
for H in (1, 4, 16, 64):
    attention = MultiHeadAttention(64, num_heads=H).double()
    with tfdoc.record(attention, "*scores") as seen:
        attention(x.double())
    scores = seen["core.scores"]
    rank = torch.linalg.matrix_rank(scores[0, 0]).item()
    assert rank == 64 // H
    print(f"{H:2d} heads: {scores.numel():7,} scores of rank {rank}")

# %%
# What dropout changes
# --------------------
# In training it sets a share of the numbers to 0; in evaluation, nothing:
with_dropout = tfdoc.TransformerBlock(64, num_heads=4, dropout=0.1)
without = tfdoc.TransformerBlock(64, num_heads=4, dropout=0)
without.load_state_dict(with_dropout.state_dict())  # the same weights fit
wanted = without(x)
assert torch.equal(with_dropout.eval()(x), wanted)
off = (with_dropout.train()(x) - wanted).norm() / wanted.norm()
assert off > 0.05
print(f"evaluation: equal; training: {off:.0%} off")

# %%
# Pitfall: a head width that is not D / H
# ---------------------------------------
# Most models have d = D / H. Mistral Nemo does not: it says d = 128, and 32
# heads of 128 are narrower than its width. Tools that divide go wrong twice.
nemo = 131_072, 5120, 40, 14_336, 32
right = sum(tfdoc.count_params(*nemo, num_kv_heads=8, head_dim=128).values())
wrong = sum(tfdoc.count_params(*nemo, num_kv_heads=8).values())
assert right == 12_247_782_400  # as published
assert wrong > 1.04 * right
cache = 5120 // 32 / 128
print(f"D / H: {wrong / right - 1:+.1%} parameters, {cache - 1:+.0%} cache")

# %%
# To mend it, read ``head_dim`` where a config has one.
#
# What it costs
# -------------
# All three measurements have closed forms. The matrices of a layer, with
# :class:`tfdoc.FeedForward`, hold :math:`w = 2 D d\,(H + G) + 2 D F`
# weights. A token costs :math:`2 w` operations, another :math:`4 T H d` for
# its scores and weighted sum, and caches :math:`2 G d` numbers.
for name, change in changes.items():
    k = {"D": 512, "L": 4, "F": 2048, "H": 8, "G": 8} | change
    D, L, F, H, G = k.values()
    d = D // H
    w = 2 * D * d * (H + G) + 2 * D * F
    others = H * d + 2 * G * d + D + F + D + 4 * D  # biases, two LayerNorms
    closed = w + others, 2 * w + 4 * T * H * d, 2 * G * d
    assert measure(**change) == tuple(L * c for c in closed), name

# %%
# Exercise
# --------
# Llama-7B has G = H = 32. With G = 8 its cache shrinks to a quarter, and so
# do the weights for keys and values. Spend what that saves on F, so that
# the model keeps its number of parameters.


def new_hidden_dim(D, F, H, G):
    """Your turn: this guess is wrong."""
    return F + D * (H - G) // H


def check(answer):
    """Compare the size of the changed Llama-7B with that of the original."""
    V, D, L, F, H = 32_000, 4096, 32, 11_008, 32
    F_new = answer(D, F, H, 8)
    size = tfdoc.estimate_params(V, D, L, F, H)
    new_size = tfdoc.estimate_params(V, D, L, F_new, H, num_kv_heads=8)
    if new_size != size:
        return f"not yet: {new_size:.3f} billion instead of {size:.3f}"
    return f"right: F = {F_new}"


print(check(new_hidden_dim))

# sphinx_gallery_start_ignore
assert check(new_hidden_dim).startswith("not yet")
right = check(lambda D, F, H, G: F + 2 * (H - G) * (D // H) // 3)
assert right.startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``F + 2 * (H - G) * (D // H) // 3``. Keys and values lose
#    :math:`2 D d (H - G)` weights a layer, and one more hidden channel costs
#    3 D in a gated network. Llama 2 and 3 made this trade: fewer key/value
#    heads, a wider F.
#
# **Read on.** Kaplan et al., *Scaling laws for neural language models*
# (2020), section 3.1, found that shape matters little at a given size;
# Touvron et al., *Llama 2* (2023), appendix A.2.1, compare key/value heads at
# equal size. :func:`tfdoc.estimate_params` sizes your own choice. Back to
# the sums: :doc:`/learn/7_cost/01_counting_parameters`.
