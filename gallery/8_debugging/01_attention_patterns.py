r"""
What does this head look at? Six numbers before you trust a picture
===================================================================

An attention map shows which tokens each token reads. Some maps are work,
some are rest, and some are bugs that look like work. Read this page when a
model trains badly, or before you show a map to somebody. At the end you can
watch any model's maps, put numbers on them, and go from symptom to cause.
"""

# %%
# Two rows that need no picture
# -----------------------------
# In a map, rows are queries and columns are keys; each row sums to one. How
# widely does a row spread its attention? Its entropy says so: 0 if one key
# takes all, :math:`\log T` if T keys share equally.
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch

torch.manual_seed(0)

for row in torch.full((4,), 0.25), torch.eye(4)[0]:
    entropy = torch.special.entr(row).sum() / math.log(4)
    print(f"{row.tolist()}: {entropy:.2f} of log T")

# %%
# Five more numbers tell *where* the weight lies, and whether the rows are in
# order. All but the last are averages over the queries:


def numbers(weights):
    """Six numbers of attention maps of shape (..., T, T)."""
    T = weights.shape[-1]
    entropy = torch.special.entr(weights).sum(-1).mean()
    return {
        "entropy": entropy.item() / math.log(T),
        "itself": weights.diagonal(0, -2, -1).mean().item(),
        "previous": weights.diagonal(-1, -2, -1).mean().item(),
        "first": weights[..., 1:, 0].mean().item(),
        "future": weights.triu(1).sum(-1).mean().item(),
        "row sums off by": (weights.sum(-1) - 1).abs().max().item(),
    }


# %%
# Six heads that work
# -------------------
# Each head below is a real computation: queries and keys of 12 tokens go
# through a causal core, and :func:`tfdoc.record` watches its probe, which is
# called ``weights``.
from tfdoc import Causal, DotProductCore, MultiHeadAttention, RoPE, record

text = "the cat sat . the cat ran . the cat sat ."
sentence, d = text.split(), 128
T = len(sentence)
book = {word: torch.randn(d) for word in sorted(set(sentence))}
word = torch.stack([book[w] for w in sentence])  # alike where the word is
state, other = torch.randn(2, T, d)  # a vector of its own for each token
rest, causal = torch.randn(d), Causal()


def watch(query, key, mask=causal):
    """Return the weights that a core computes, shape (..., T, T)."""
    core = DotProductCore()
    with record(core, "weights") as seen:
        core(query, key, key, mask)
    return seen["weights"]


# %%
# All maps on this page are drawn alike, on one scale from 0 to 1.
def show(maps, rows, columns, height):
    """Draw named maps side by side."""
    size = (7.5, height)
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
    for ax, (name, weights) in zip(axes.flat, maps.items(), strict=True):
        image = ax.imshow(weights.tolist(), vmin=0, vmax=1)
        ax.set(title=name, xticks=[0, T - 1], yticks=[0, T - 1])
    fig.supxlabel("key")
    fig.supylabel("query")
    fig.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
    return fig


# %%
# A *fresh* module knows nothing and shares equally. One head finds *itself*.
# One finds the *previous* token: a constant arrow, turned by RoPE, fits one
# place back. One rests on the *first* token, a sink. One looks for *full
# stops*. The last asks "what came after my word, last time?", and rests if
# it never came: an *induction* head.
arrow, place = torch.zeros(1, 1, T, d), torch.arange(T)
arrow[..., :8] = 5.0  # the fast pairs only
previous = watch(RoPE()(arrow, place - 1), RoPE()(arrow, place))[0, 0]
before = torch.cat([rest[None], word[:-1]])  # the word before each token

fresh = MultiHeadAttention(d, num_heads=1, mask=causal)
with record(fresh, "*weights") as seen:
    fresh(word[None])
heads = {
    "fresh": seen["core.weights"][0, 0].detach(),
    "itself": watch(state, state),
    "previous": previous,
    "first": watch(state + rest, torch.cat([rest[None], other[1:]])),
    "full stops": watch(book["."].expand(T, d), word),
    "induction": watch(word + rest / 2, before),
}
fig = show(heads, 2, 3, 4.8)
# sphinx_gallery_start_ignore
fig.set_label(
    "Six causal maps of 12 tokens. Fresh: rows share equally. Itself: the "
    "diagonal. Previous: the line below it. First: the first column. Full "
    "stops: three columns. Induction: single cells in the lower half, and "
    "the first column where no word came before."
)
# sphinx_gallery_end_ignore

# %%
# Three bugs in one head
# ----------------------
# Now a causal head made of noise, first right, then with one line wrong.
query, key = torch.randn(2, T, d)
scores = (query @ key.T / d**0.5).masked_fill(~causal.table(T), -torch.inf)
broken = {
    "right": watch(query, key),
    "no mask": watch(query, key, None),
    "wrong axis": scores.softmax(-2),
    "no scale": watch(query * d**0.5, key),
}
torch.testing.assert_close(broken["right"], scores.softmax(-1))
fig = show(broken, 2, 2, 6)
# sphinx_gallery_start_ignore
fig.set_label(
    "Four maps of the same queries and keys. Right: a soft lower triangle. "
    "No mask: weights everywhere. Wrong axis: still a triangle, but its rows "
    "fade upwards. No scale: one bright cell a row, in no order."
)
# sphinx_gallery_end_ignore

# %%
# Any of them could be printed as a discovery. The numbers tell more:
maps = heads | broken
table = {name: numbers(weights) for name, weights in maps.items()}
pd.DataFrame(table).T.round(2).rename_axis("map")

# %%
# A causal map cannot reach an entropy of 1: query i shares between i + 1 keys,
# so the most is :math:`\log(T!) / (T \log T)`. Measured against that, six
# numbers make a first diagnosis:


def diagnose(weights):
    """Name the pattern or the fault of a causal head."""
    found, T = numbers(weights), weights.shape[-1]
    spread = found["entropy"] * T * math.log(T) / math.lgamma(T + 1)
    if not found["row sums off by"] < 1e-3:  # NaN too
        return "rows do not sum to 1"
    if found["future"] > 1e-3:
        return "reads the future"
    for place in ("itself", "previous", "first"):
        if found[place] > 0.8:
            return place
    return "even" if spread > 0.95 else "sharp" if spread < 0.4 else "mixed"


verdicts = {name: diagnose(weights) for name, weights in maps.items()}
print(*(f"{name}: {verdict}" for name, verdict in verdicts.items()), sep="\n")
# sphinx_gallery_start_ignore
assert [*verdicts.values()] == [
    *("even", "itself", "previous", "first", "sharp", "sharp", "mixed"),
    *("reads the future", "rows do not sum to 1", "sharp"),
]
# sphinx_gallery_end_ignore

# %%
# Three are called sharp. Two of them are work, one is a bug, and no number of
# a map can say which: it takes the queries and keys that made it, as in
# :doc:`/learn/2_attention/02_square_root`.
#
# From symptom to cause to mend
# -----------------------------
# - **Rows do not sum to 1**: softmax along the wrong axis, or weights read
#   after dropout. Use ``softmax(-1)``; read before dropout, or in ``eval()``.
# - **Rows are NaN**: a query with nothing to look at. See
#   :doc:`/learn/2_attention/03_masks`.
# - **Future above 0**: in a decoder the mask is missing or upside down. In an
#   encoder it is as it should be.
# - **Sharp from the first step**: the scale is missing.
# - **Even after training**: a head that is not used, or scores scaled twice.
# - **All on the first token**: a sink. Heads rest there when they have
#   nothing to say; leave it, and keep that token in a cache.
#
# Pitfall: the average head
# -------------------------
# :class:`torch.nn.MultiheadAttention` returns weights averaged over heads,
# and sharp heads that disagree look even then. Here are eight, with larger
# weights than fresh ones; ``from_torch`` makes each of them watchable.
from tfdoc import from_torch

theirs = torch.nn.MultiheadAttention(d, 8, batch_first=True)
theirs.requires_grad_(False).in_proj_weight.mul_(4)
x = torch.randn(1, T, d)
_, average = theirs(x, x, x)
ours = from_torch(theirs)
with record(ours, "*weights") as seen:
    ours(x)
each = seen["core.weights"]  # (B, H, T, T)
torch.testing.assert_close(each.mean(1), average)

fig = show({"one head of eight": each[0, 0], "average": average[0]}, 1, 2, 3.5)
mean, of_mean = numbers(each)["entropy"], numbers(average)["entropy"]
print(f"entropy: mean of the heads {mean:.2f}, of their mean {of_mean:.2f}")
assert mean < of_mean / 2
_, mend = theirs(x, x, x, average_attn_weights=False)
torch.testing.assert_close(mend, each)
# sphinx_gallery_start_ignore
fig.set_label(
    "Left, one head: a bright cell or two in each row. Right, the average of "
    "eight such heads: pale cells all over the map."
)
# sphinx_gallery_end_ignore

# %%
# Models of others
# ----------------
# ``record`` watches the output of any module by its name. Attention modules
# of Hugging Face return their weights beside the output in the ``"eager"``
# implementation, and None in the fused one, which is the default.
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaModel

sizes = {"hidden_size": 64, "num_hidden_layers": 1}
for kernel in ("sdpa", "eager"):
    model = LlamaModel(LlamaConfig(**sizes, attn_implementation=kernel))
    with record(model, "layers.*.self_attn") as seen:
        model(torch.randint(100, (1, T)))
    _, weights = seen["layers.0.self_attn"]
    assert (weights is None) == (kernel == "sdpa")
    print(kernel, "none" if weights is None else diagnose(weights))

# %%
# What it costs
# -------------
# No parameter, and no operation more: the exact path computes what the fused
# one does. But a recording holds the maps, 4 bytes for each of B H T T weights
# of a layer (H heads, rows of T tokens in a batch of B), until you let it go.
from torch.utils.flop_counter import FlopCounterMode

B, H, T, D = 2, 8, 256, 512
with torch.device("meta"):
    model, x = MultiHeadAttention(D, num_heads=H), torch.empty(B, T, D)
    with FlopCounterMode(display=False) as alone:
        model(x)
    with record(model, "*") as seen, FlopCounterMode(display=False) as watched:
        model(x)
assert sum(p.numel() for p in model.parameters()) == 4 * D * (D + 1)
assert watched.get_total_flops() == alone.get_total_flops()
assert alone.get_total_flops() == B * (8 * T * D**2 + 4 * T**2 * D)
assert seen["core.weights"].nbytes == 4 * B * H * T**2
print(f"{seen['core.weights'].nbytes / 2**20:.0f} MiB of maps for one layer")

# %%
# Exercise
# --------
# The bug that hides best: tokens that look at padding. Write its number, the
# largest weight that any query gives to a key behind the end of its row.
from tfdoc import Padding


def on_padding(weights, lengths):
    """Your turn: this takes the key after the shortest row for padding."""
    return weights[..., lengths.min()].max()


def check(on_padding):
    """Try the number on a model without and with its padding mask."""
    x, lengths = torch.randn(2, 6, d), torch.tensor([6, 4])
    model = MultiHeadAttention(d, num_heads=4)
    for mask in None, Padding(lengths):
        with record(model, "*weights") as seen:
            model(x, mask=mask)
        found = on_padding(seen["core.weights"], lengths)
        if found != seen["core.weights"][1, ..., 4:].max():
            return f"not yet: with mask {mask} it says {found:.2f}"
    return "right"


print(check(on_padding))
# sphinx_gallery_start_ignore
assert check(on_padding).startswith("not yet")
behind = (torch.arange(6) >= torch.tensor([[6], [4]]))[:, None, None]
assert check(lambda weights, _: (weights * behind).max()) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``padding = torch.arange(weights.shape[-1]) >= lengths[:, None]`` is True
#    where a key is behind the end of its row; the answer is
#    ``(weights * padding[:, None, None]).max()``. It must be exactly 0.
#
# **Read on.** Clark et al., *What does BERT look at?* (2019); Olsson et al.,
# *In-context learning and induction heads* (2022); Xiao et al., *Efficient
# streaming language models with attention sinks* (2023). The tool is
# :func:`tfdoc.record`. Most of these bugs begin on
# :doc:`/learn/2_attention/03_masks`.
