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
# In a map, rows are queries and columns are keys; each row sums to one. Its
# entropy is 0 if one key takes all, :math:`\log\, T` if T keys share equally.
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama import modeling_llama as llama

torch.manual_seed(0)

for row in torch.full((4,), 0.25), torch.eye(4)[0]:
    entropy = torch.special.entr(row).sum() / math.log(4)
    print(f"{row.tolist()}: {entropy:.2f} of log T")

# %%
# Five more tell *where* the weight lies, and whether the rows are in order:


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
        "rows off": (weights.sum(-1) - 1).abs().max().item(),
    }


# %%
# Six heads at work, and three bugs
# ---------------------------------
# Queries and keys of 12 tokens go through a core, and :func:`tfdoc.record`
# watches its ``weights``.
from tfdoc import Causal, DotProductCore, MultiHeadAttention, RoPE, record

causal = Causal()


def watch(query, key, mask=causal):
    """Return the weights that a core computes, shape (..., T, T)."""
    core = DotProductCore()
    with record(core, "weights") as seen:
        core(query, key, key, mask)
    return seen["weights"].detach()


# %%
# A *fresh* module knows nothing and shares equally. One head finds *itself*.
# One finds the *previous* token: a constant arrow, turned by RoPE, fits one
# place back. One rests on the *first* token, a sink. One looks for *full
# stops*. One asks "what came after my word, last time?", and rests if it
# never came: an *induction* head. Three more are noise, each with a bug.
sentence, T, d = "the cat sat . the cat ran . the cat sat .", 12, 128
book = {word: torch.randn(d) for word in ("the", "cat", "sat", "ran", ".")}
word = torch.stack([book[w] for w in sentence.split()])
state, noise = torch.randn(2, T, d)  # a vector of its own for each token
rest, arrow = torch.randn(1, d), torch.zeros(1, 1, T, d)
arrow[..., :8] = 5.0  # in the fast pairs
place, fresh = torch.arange(T), MultiHeadAttention(d, num_heads=1)
scores = (state @ noise.T / d**0.5).masked_fill(~causal.table(T), -torch.inf)
maps = {
    "fresh": watch(fresh.q_proj(word), fresh.k_proj(word)),
    "itself": watch(state, state),
    "previous": watch(RoPE()(arrow, place - 1), RoPE()(arrow, place))[0, 0],
    "first": watch(state + rest, torch.cat([rest, noise[1:]])),
    "full stops": watch(book["."].expand(T, d), word),
    "induction": watch(word + rest / 2, torch.cat([rest, word[:-1]])),
    "no mask": watch(state, noise, None),
    "wrong axis": scores.softmax(-2),
    "no scale": watch(state * d**0.5, noise),
}

# %%
# In the last row, which bug would you have noticed?
fig, axes = plt.subplots(3, 3, figsize=(7, 6.8), layout="constrained")
for ax, (name, weights) in zip(axes.flat, maps.items(), strict=True):
    image = ax.imshow(weights.tolist(), vmin=0, vmax=1)
    ax.set(title=name, xticks=[0, 11], yticks=[0, 11])
fig.supxlabel("key")
fig.supylabel("query")
_ = fig.colorbar(image, ax=axes, label="attention weight", shrink=0.6)
# sphinx_gallery_start_ignore
assert maps["induction"][6, 0] > 0.5  # "ran" never came before
assert maps["induction"][8, [1, 5]].sum() > 0.5  # "cat" came after "the"
assert maps["full stops"][4:, [3, 7, 11]].sum(-1).min() > 0.8
fig.set_label(
    "Nine maps of 12 tokens. Fresh: rows share equally. Itself: the diagonal. "
    "Previous: the line below it. First: the first column. Full stops: three "
    "columns. Induction: single cells, and the first column where no word "
    "came before. No mask: weights everywhere. Wrong axis: a triangle whose "
    "rows fade upwards. No scale: one bright cell a row, in no order."
)
# sphinx_gallery_end_ignore

# %%
# The numbers tell more than the eye. An even causal map has an entropy of
# :math:`\log(T!) / (T \log\, T)` only, as query i shares between i + 1 keys.


def diagnose(weights):
    """Name the pattern or the fault of a causal head."""
    found, T = numbers(weights), weights.shape[-1]
    spread = found["entropy"] * T * math.log(T) / math.lgamma(T + 1)
    if not found["rows off"] < 1e-3:  # NaN too
        return "rows off"
    if found["future"] > 1e-3:
        return "future"
    for place in ("itself", "previous", "first"):
        if found[place] > 0.8:
            return place
    return "even" if spread > 0.95 else "sharp" if spread < 0.4 else "mixed"


table = pd.DataFrame({n: numbers(w) for n, w in maps.items()}).T.round(2)
table["verdict"] = [diagnose(weights) for weights in maps.values()]
# sphinx_gallery_start_ignore
assert [*table["verdict"]] == [
    *("even", "itself", "previous", "first", "sharp", "sharp"),
    *("future", "rows off", "sharp"),
]
# sphinx_gallery_end_ignore
table.rename_axis("map")

# %%
# Three are sharp: two at work, one a bug. No number of the map can say which.
#
# From symptom to cause to mend
# -----------------------------
# - **Rows do not sum to 1**: softmax along the wrong axis, or weights read
#   after dropout. Use ``softmax(-1)``; read before dropout, or in ``eval()``.
# - **Rows are NaN, or the future is read**: a query with nothing to look at;
#   a mask missing or upside down. See :doc:`/learn/2_attention/03_masks`.
# - **Sharp from the first step, or even after training**: the scale is
#   missing, or used twice. See :doc:`/learn/2_attention/02_square_root`.
# - **All on the first token**: a sink, where heads rest when they have
#   nothing to say. Leave it, and keep that token in a cache.
#
# Pitfall: the average head
# -------------------------
# :class:`torch.nn.MultiheadAttention` returns weights averaged over heads, and
# sharp heads that disagree look even then. Here are eight sharp ones;
# ``from_torch`` makes each of them watchable.
from tfdoc import Padding, from_torch

theirs = torch.nn.MultiheadAttention(d, 8, batch_first=True)
theirs.requires_grad_(False).in_proj_weight.mul_(4)
x = torch.randn(1, T, d)
_, average = theirs(x, x, x)
with record(ours := from_torch(theirs), "*weights") as seen:
    ours(x)
each = seen["core.weights"]  # (B, H, T, T)
torch.testing.assert_close(each.mean(1), average)
mean, of_mean = numbers(each)["entropy"], numbers(average)["entropy"]
print(f"entropy: mean of the heads {mean:.2f}, of their mean {of_mean:.2f}")
assert mean < of_mean / 2
# sphinx_gallery_start_ignore
_, mend = theirs(x, x, x, average_attn_weights=False)
torch.testing.assert_close(mend, each)
# sphinx_gallery_end_ignore

# %%
# The mend: ``average_attn_weights=False``.
#
# Models of others
# ----------------
# ``record`` watches any module's output. Attention modules of Hugging Face
# return weights beside it if ``"eager"``, None if fused (``"sdpa"``).
sizes = {"hidden_size": 64, "num_hidden_layers": 1}
config = llama.LlamaConfig(**sizes, attn_implementation="eager")
model = llama.LlamaModel(config)
with record(model, "layers.*.self_attn") as seen:
    model(torch.randint(100, (1, T)))
_, weights = seen["layers.0.self_attn"]  # (B, H, T, T)
print("fresh Llama:", diagnose(weights))
# sphinx_gallery_start_ignore
assert diagnose(weights) == "even"
model.set_attn_implementation("sdpa")
with record(model, "layers.*.self_attn") as seen:
    model(torch.randint(100, (1, 12)))
assert seen["layers.0.self_attn"][1] is None
# sphinx_gallery_end_ignore

# %%
# What it costs
# -------------
# No parameter, no operation more. But a recording holds the maps of B rows of
# T tokens and H heads, 4 B H T T bytes a layer, until you let it go.
B, H, T, D = 2, 8, 256, 512
with torch.device("meta"):
    model, x = MultiHeadAttention(D, num_heads=H), torch.empty(B, T, D)
    with record(model, "*") as seen, FlopCounterMode(display=False) as counter:
        model(x)
assert counter.get_total_flops() == B * (8 * T * D**2 + 4 * T**2 * D)
assert seen["core.weights"].nbytes == 4 * B * H * T**2
print(f"{seen['core.weights'].nbytes / 2**20:.0f} MiB for one layer")
# sphinx_gallery_start_ignore
with torch.device("meta"), FlopCounterMode(display=False) as alone:
    model(x)
assert alone.get_total_flops() == counter.get_total_flops()
assert sum(p.numel() for p in model.parameters()) == 4 * D * (D + 1)
# sphinx_gallery_end_ignore

# %%
# Exercise
# --------
# Tokens that look at padding hide well. Write the number that finds them, the
# largest weight that any query gives to a key behind the end of its row.


def on_padding(weights, lengths):
    """Your turn: this looks at a single key."""
    return weights[..., lengths.min()].max()


def check(on_padding):
    """Try the number without and with a padding mask."""
    lengths = torch.tensor([6, 4])
    for mask in None, Padding(lengths):
        weights = watch(*torch.randn(2, 2, 3, 6, d), mask)  # (B, H, T, T)
        found = on_padding(weights, lengths)
        if found != weights[1, ..., 4:].max():
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
#    With ``behind = torch.arange(weights.shape[-1]) >= lengths[:, None]`` it
#    is ``(weights * behind[:, None, None]).max()``, and it must be exactly 0.
#
# **Read on.** Clark et al., *What does BERT look at?* (2019); Olsson et al.,
# *In-context learning and induction heads* (2022); Xiao et al., *Efficient
# streaming language models with attention sinks* (2023).
