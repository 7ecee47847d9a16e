r"""
Key parameters: width is paid squared, depth once, heads not at all
===================================================================

Whoever sets up a transformer chooses five numbers: embed_dim, num_heads,
num_layers, hidden_dim and dropout. Read this page to start from values that
published models use, and to know before you train what each of them changes
in size, work and memory, and what it does not.
"""

# %%
# Twice as wide, twice as deep
# ----------------------------
# A layer of width D has four D x D matrices in its attention and two of
# D x 4 D in a plain feed-forward network. Add them up:
for D, L in ((4, 1), (8, 1), (4, 2)):
    layer = 4 * D * D + 2 * D * (4 * D)
    print(f"width {D}, depth {L}: {L * layer} weights")

# %%
# What published models chose
# ---------------------------
# L layers of width D, H query heads of width d that share G heads of keys and
# values, hidden width F, a vocabulary of V, and P learned positions or none.
import io

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import MultiHeadAttention, part

published = """
model               V     D   L     F   H  G    P gated  tied drop   parameters
GPT-2           50257   768  12  3072  12 12 1024 False  True  0.1    124439808
SmolLM2-135M    49152   576  30  1536   9  3    0  True  True    0    134515008
Llama-3.2-1B   128256  2048  16  8192  32  8    0  True  True    0   1235814400
Gemma-2B       256000  2048  18 16384   8  1    0  True  True    0   2506172416
Phi-3-mini      32064  3072  32  8192  32 32    0  True False    0   3821079552
OPT-6.7B        50272  4096  32 16384  32 32 2050 False  True  0.1   6658473984
Llama-7B        32000  4096  32 11008  32 32    0  True False    0   6738415616
Llama-3-8B     128256  4096  32 14336  32  8    0  True False    0   8030261248
Pythia-12B      50688  5120  36 20480  40 40    0 False False    0  11846072320
StarCoder       49152  6144  40 24576  48  1 8192 False  True  0.1  15517456384
Llama-2-70B     32000  8192  80 28672  64  8    0  True False    0  68976648192
Llama-3.1-405B 128256 16384 126 53248 128  8    0  True False    0 405853388800
"""

# %%
# :func:`tfdoc.count_params` meets every one of these sizes exactly.
table = pd.read_csv(io.StringIO(published), sep=r"\s+", index_col="model")
for m in table.itertuples():
    of = {"num_kv_heads": m.G, "num_positions": m.P, "tied": m.tied}
    of |= {"gated": m.gated, "bias": not m.gated}  # true for these twelve
    counts = tfdoc.count_params(m.V, m.D, m.L, m.F, m.H, **of)
    assert sum(counts.values()) == m.parameters
table["d"], table["F/D"] = table["D"] // table["H"], table["F"] / table["D"]
shown = table[["D", "L", "H", "G", "d", "F/D", "drop", "parameters"]]
shown.rename_axis(index=None, columns="model").round(2)

# %%
# F/D is 4 where there is no gate, mostly 8/3 to 4 where there is one. Dropout
# was 0.1 and is 0 in most newer models, which see nearly all their text only
# once. And a larger model gets more heads, not wider ones:
fig, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
ax.loglog(table["parameters"], table["D"], "o", label="width D")
ax.loglog(table["parameters"], table["L"], "s", label="layers L")
ax.loglog(table["parameters"], table["d"], "^", label="head width d")
ax.set(title="Models grow wide and deep, heads do not")
ax.set(xlabel="parameters", ylabel="D, L and d")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
growth = shown.max() / shown.min()
assert growth[["D", "L"]].min() > 10
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
# Change one number, measure three things
# ---------------------------------------
# Build a stack of layers on the ``meta`` device, where nothing is computed
# and shapes remain. Count its parameters, the operations that a token costs
# among T tokens, and the keys and values it leaves in the cache.


def measure(D, L, F, H, G, T):
    """Return parameters, FLOPs a token and cached numbers a token."""
    heads = part(MultiHeadAttention, num_heads=H, num_kv_heads=G)
    ffn = part(tfdoc.FeedForward, hidden_dim=F)
    block = part(tfdoc.PreNormBlock, attention=heads, feedforward=ffn)
    with torch.device("meta"):
        stack, x = tfdoc.Encoder(D, blocks=(block,) * L), torch.empty(1, T, D)
    counter = FlopCounterMode(display=False)
    with counter, tfdoc.record(stack, "*[kv]_proj") as seen:
        stack(x)
    cache = sum(made.numel() for made in seen.values()) // T
    size = sum(p.numel() for p in stack.parameters())
    return size, counter.get_total_flops() / T, cache


# %%
# Six changes to one stack:
base = {"D": 512, "L": 4, "F": 2048, "H": 8, "G": 8, "T": 512}
changes = {
    "2 x L": {"L": 8},
    "2 x F": {"F": 4096},
    "2 x D": {"D": 1024},
    "2 x D and F": {"D": 1024, "F": 4096},
    "2 x H and G": {"H": 16, "G": 16},
    "half of G": {"G": 4},
}
before, factors = measure(**base), {}
for name, change in changes.items():
    after = measure(**base | change)
    factors[name] = [b / a for a, b in zip(before, after, strict=True)]

# %%
# A mark at 2 means: twice as much after the change as before.
fig, ax = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
rows = range(len(factors))
for i, label in enumerate(("parameters", "FLOPs a token", "cache a token")):
    heights = [row + 0.18 * (i - 1) for row in rows]
    ax.plot([f[i] for f in factors.values()], heights, "os^"[i], label=label)
ax.set_xscale("log", base=2)
ax.set_xticks([0.5, 1, 2, 4], ["1/2", "1", "2", "4"])
ax.set_yticks(rows, factors)
ax.invert_yaxis()
ax.set(title="What one change multiplies", xlabel="factor")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
assert factors["2 x L"] == [2, 2, 2]
assert factors["2 x H and G"] == [1, 1, 1]
assert abs(factors["2 x D and F"][0] - 4) < 0.02
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
# Depth doubles everything. Width, if F follows, makes four times the weights
# and twice the cache. F never touches the cache, G little else. Heads cost
# nothing, they share out D. They change the maps: more of them, of rank d.
torch.manual_seed(0)
x = torch.randn(1, 64, 64)
for H in (1, 4, 16, 64):
    attention = MultiHeadAttention(64, num_heads=H).double()
    with tfdoc.record(attention, "*scores") as seen:
        attention(x.double())
    rank = torch.linalg.matrix_rank(seen["core.scores"][0, 0]).item()
    assert rank == 64 // H
    print(f"heads: {H}, each {64 // H} wide, scores of rank {rank}")

# %%
# And dropout? In training it sets a share of the numbers to 0. It has no
# weights, and in evaluation it changes nothing:
with_dropout = tfdoc.TransformerBlock(64, num_heads=4, dropout=0.1)
without = tfdoc.TransformerBlock(64, num_heads=4, dropout=0)
without.load_state_dict(with_dropout.state_dict())
wanted = without(x)
assert torch.equal(with_dropout.eval()(x), wanted)
off = (with_dropout.train()(x) - wanted).norm() / wanted.norm()
assert off > 0.05
print(f"evaluation: equal; training: {off:.0%} off")

# %%
# Pitfall: a head width that is not D / H
# ---------------------------------------
# All twelve have d = D / H. Mistral Nemo does not: it says d = 128, and 32
# heads of 128 are narrower than its width. Tools that divide go wrong twice;
# to mend it, read ``head_dim`` where a config has one.
nemo = 131_072, 5120, 40, 14_336, 32
wrong = sum(tfdoc.count_params(*nemo, num_kv_heads=8).values())
right = sum(tfdoc.count_params(*nemo, num_kv_heads=8, head_dim=128).values())
assert wrong > 1.04 * right
assert right == 12_247_782_400  # as published
print(f"size {wrong / right - 1:+.1%}, cache {5120 / 32 / 128 - 1:+.0%}")

# %%
# What it costs
# -------------
# All three measurements have closed forms. The matrices of a layer, with
# :class:`tfdoc.FeedForward`, hold :math:`w = 2 D d\,(H + G) + 2 D F`
# weights. A token costs :math:`2 w` operations, another :math:`4 T H d` for
# its scores and weighted sum, and caches :math:`2 G d` numbers.
for name, change in changes.items():
    D, L, F, H, G, T = (base | change).values()
    d = D // H
    w = 2 * D * d * (H + G) + 2 * D * F
    others = H * d + 2 * G * d + D + F + D + 4 * D  # biases, two LayerNorms
    closed = w + others, 2 * w + 4 * T * H * d, 2 * G * d
    assert measure(**base | change) == tuple(L * c for c in closed), name

# %%
# Exercise
# --------
# Llama-7B has G = H = 32. With G = 8 its cache shrinks to a quarter, and so do
# its weights for keys and values. Spend them on F: the size must not change.


def new_hidden_dim(D, F, H, G):
    """Your turn: this guess is wrong."""
    return F + D * (H - G) // H


def check(answer):
    """Compare the size of the changed Llama-7B with that of the original."""
    F = answer(D=4096, F=11_008, H=32, G=8)
    size = tfdoc.estimate_params(32_000, 4096, 32, 11_008, 32)
    new = tfdoc.estimate_params(32_000, 4096, 32, F, 32, num_kv_heads=8)
    return f"not yet: {new:.3f} B" if new != size else f"right: F = {F}"


print(check(new_hidden_dim))

# sphinx_gallery_start_ignore
assert check(new_hidden_dim).startswith("not yet")
right = check(lambda D, F, H, G: F + 2 * (H - G) * (D // H) // 3)
assert right.startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``F + 2 * (H - G) * (D // H) // 3``: keys and values lose
#    :math:`2 D d\,(H - G)` weights a layer, and a hidden channel costs 3 D.
#
# **Read on.** Kaplan et al., *Scaling laws for neural language models* (2020),
# section 3.1: at a given size, shape matters little. Touvron et al., *Llama 2*
# (2023), appendix A.2.1: this exercise, by those who trained the models.
