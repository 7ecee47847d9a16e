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
# values, hidden width F, a vocabulary of V, E experts, K of them for a token.
# :func:`tfdoc.ledger` counts the rest from published configs.
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, LlamaConfig

import tfdoc
from tfdoc import MultiHeadAttention, part

books = {name: tfdoc.ledger(name) for name in tfdoc.preset_names()}
sizes = pd.DataFrame({name: b.sizes for name, b in books.items()}).T
table = sizes[[*"DLHGdVEK"]]
table.insert(5, "F/D", sizes["F"] / sizes["D"])
table.insert(0, "millions", [b.total / 1e6 for b in books.values()])
table.insert(1, "active", [b.active / 1e6 for b in books.values()])
tied = [any(e.tied_to for e in b.entries) for b in books.values()]
table["tied"] = ["yes" if shared else "no" for shared in tied]
table["cache, kB"] = [b.kv_cache(1, 1) / 1e3 or None for b in books.values()]

# %%
# All of it: parameters in millions, the cache of a token in bfloat16, of two
# stacks the encoder's sizes. On the site, press a column's head to sort.
style = table.sort_values("millions").rename_axis(columns="model").style
digits = {"F/D": "{:.2f}", "cache, kB": "{:,.1f}"}
style.format(digits, precision=0, thousands=",", na_rep="")
style.set_table_attributes('class="dataframe sortable"')

# %%
# Take decoders without experts. F/D is 4 in nearly all that have no gate, and
# seldom in those that have one. Dropout was 0.1 in GPT-2 and is 0 in Llama.
# And a larger model gets more heads, not wider ones:
ends = "ForCausalLM", "LMHeadModel"
dense = [n for n, b in books.items() if b.architecture.endswith(ends)]
dense = table.loc[[n for n in dense if books[n].active == books[n].total]]
L, D, F = (sizes.loc[dense.index, symbol] for symbol in "LDF")
ffn = [books[name].by_component["ffn"] for name in dense.index]
gated = ffn > 2.5 * L * D * F  # three matrices instead of two
fours = (dense["F/D"] == 4).groupby(gated).mean()
print(f"F/D is 4: {fours[False]:.0%} without, {fours[True]:.0%} with a gate")
assert fours[False] > 0.9
assert fours[True] < 0.2
assert GPT2Config().resid_pdrop == 0.1
assert LlamaConfig().attention_dropout == 0

fig, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
labels = {"D": "width D", "L": "layers L", "d": "head width d"}
for mark, (symbol, label) in zip("os^", labels.items(), strict=True):
    ax.loglog(dense["millions"] / 1e3, dense[symbol], mark, ms=4, label=label)
ax.set(title="Models grow wide and deep, heads do not")
ax.set(xlabel="billions of parameters", ylabel="D, L and d")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
growth = dense[["D", "L", "d"]].max() / dense[["D", "L", "d"]].min()
assert growth[["D", "L"]].min() > 10 > growth["d"]
# sphinx_gallery_start_ignore
assert growth["d"] == 4
fig.set_label(
    f"Points for {len(dense)} models against their size, both axes "
    f"logarithmic. Width grows {growth['D']:.0f} times and depth "
    f"{growth['L']:.0f} times; head widths stay on a level, most at "
    f"{dense['d'].mode()[0]:.0f}."
)
# sphinx_gallery_end_ignore

# %%
# Change one number, measure three things
# ---------------------------------------
# Build layers on the ``meta`` device, where only shapes exist. Count the
# parameters, the operations a token costs among T, and what it caches.


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
# none of the three: they share out D. (Attention that stores its scores keeps
# H T T of them, fused attention none.) They add tables of scores, of rank d.
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
# And dropout, which sets a share of the numbers to 0? In training alone:
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
# Where a config says ``head_dim``, d is that. A tool that divides instead is
# wrong twice, here for Mistral Nemo:
wide = dense[dense["H"] * dense["d"] != dense["D"]]
print(f"d is not D / H in {len(wide)} of {len(dense)} models")
nemo = tfdoc.preset("mistral-nemo-12b")
right, wrong = tfdoc.ledger(nemo), tfdoc.ledger(nemo | {"head_dim": None})
assert wrong.total > 1.04 * right.total == 1.04 * 12_247_782_400  # published
more = wrong.kv_cache(1, 1) / right.kv_cache(1, 1) - 1
print(f"size {wrong.total / right.total - 1:+.1%}, cache {more:+.0%}")

# %%
# What it costs
# -------------
# The matrices of a layer hold :math:`w = 2 D d\,(H + G) + 2 D F` weights. A
# token costs :math:`2 w` operations and :math:`4 T H d` for its attention, and
# caches :math:`2 G d` numbers:
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
    return F + D * (H - G) // H  # your turn: this guess is wrong


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
# Next: :doc:`/learn/7_cost/03_memory_of_training`.
