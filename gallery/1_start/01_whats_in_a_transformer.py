r"""
What is in a transformer? One block, many times
===============================================

A language model is, for the most part, one block of parts that is repeated.
Read this page first: you will follow a sentence through a block, see what
each part does to it, and know which page explains which part.

.. linked-svg:: block

Every part of the drawing leads to its page. Or stay, and watch it at work.
"""

# %%
# A block in two lines
# --------------------
# A token (here, a word) is a row of numbers, and a sentence is a table of
# such rows, the *stream*. A block adds to it twice. First every token reads
# from the tokens so far: that is attention, and here it takes their average.
# Then every token works on what it has, alone: that is the feed-forward
# network, and here it adds what is positive once more.
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import Causal, TransformerBlock, count_params, record

torch.manual_seed(0)
stream = torch.tensor([[2.0, 0.0], [0.0, 2.0], [4.0, 1.0], [2.0, -7.0]])
average = Causal().table(4) / torch.tensor([[1], [2], [3], [4]])
stream = stream + average @ stream
print("after attention   ", stream.tolist())
stream = stream + stream.relu()
print("after feed-forward", stream.tolist())
assert stream.tolist() == [[8, 0], [2, 6], [12, 4], [8, -8]]

# %%
# A real block learns both: whom to read and what to take, and what to make of
# it. And each part reads a copy of the stream in a standard size (the norms),
# so that many blocks can be stacked.
#
# A sentence goes through
# -----------------------
# Six words, :math:`T = 6`. A table gives each a row of :math:`D = 16`
# numbers. The weights are random: training changes the numbers, not the way.
cat, dog = "The cat sat on the mat", "The dog sat on the mat"
number = {word: i for i, word in enumerate([*cat.split(), "dog"])}
T, D, H = 6, 16, 4  # tokens, width, heads
table = nn.Embedding(len(number), D).requires_grad_(False)
block = TransformerBlock(D, num_heads=H, mask=Causal()).requires_grad_(False)


def way(sentence):
    """Return what each step puts out, in order, for a sentence."""
    x = table(torch.tensor([[number[word] for word in sentence.split()]]))
    with record(block, "*") as seen:  # keeps the output of every part
        y = block(x)
    first, second = seen["attention"], seen["feedforward"]
    steps = {"table": x, "norm 1": seen["attn_norm"]}
    steps |= {"values": seen["attention.v_proj"], "attention": first}
    steps |= {"stream": x + first, "norm 2": seen["ffn_norm"]}
    steps |= {"hidden": seen["feedforward.hidden"], "feed-forward": second}
    return steps | {"out": y}


steps = way(cat)
begins = [output[0, 1, :3].round(decimals=2) for output in steps.values()]
shown = {"shape": [f"{T} x {output.shape[2]}" for output in steps.values()]}
shown["'cat' begins with"] = [numbers.tolist() for numbers in begins]
pd.DataFrame(shown, index=pd.Index(steps, name="step"))

# %%
# - *table*: one row a word. *norm*: :doc:`layer normalisation
#   </learn/4_normalisation/01_layer_norm>`, or :doc:`RMSNorm
#   </learn/4_normalisation/02_rms_norm>`.
# - *values* are what tokens hand over in *attention*: :doc:`by hand
#   </learn/2_attention/01_self_attention>`, with :doc:`its scale
#   </learn/2_attention/02_square_root>`, :doc:`masks
#   </learn/2_attention/03_masks>` and :doc:`heads
#   </learn/2_attention/04_multi_head>`.
# - *stream*: :doc:`what was there, plus what was read
#   </learn/4_normalisation/03_residual_connections>`.
# - *hidden*, *feed-forward*: :doc:`each token on its own
#   </learn/5_feedforward/01_feedforward>`. *out*: the stream, plus that.
#
# Written out, the block is two lines again. PyTorch has such a layer; with its
# weights, ours gives the same numbers.
x, y = steps["table"], steps["out"]
h = x + block.attention(block.attn_norm(x))
by_hand = h + block.feedforward(block.ffn_norm(h))
torch.testing.assert_close(y, by_hand)

theirs = nn.TransformerEncoderLayer(
    D, H, 4 * D, activation="gelu", batch_first=True, norm_first=True
).eval()
ours = tfdoc.from_torch(theirs)
torch.testing.assert_close(ours(x), theirs(x))
print(f"largest difference {(ours(x) - theirs(x)).abs().max():.0e}")

# %%
# Only attention tells the others
# -------------------------------
# Change one word, cat to dog, and see after which step which token notices.
# Squared and summed, the change of each step is shared out among the tokens:
other = way(dog)
changes = [other[step][0] - steps[step][0] for step in steps]
squares = torch.stack([change.square().sum(-1) for change in changes])
sizes = squares / squares.sum(1, keepdim=True)
told = [size.nonzero().flatten().tolist() for size in sizes]
assert told == [[1]] * 3 + [[1, 2, 3, 4, 5]] * 6

fig, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
sizes[sizes == 0] = torch.nan  # left empty
image = ax.imshow(sizes.tolist(), "viridis", "log", vmin=1e-3, vmax=1)
ax.set_xticks(range(T), ["The", "cat/dog", "sat", "on", "the", "mat"])
ax.set_yticks(range(len(steps)), steps)
ax.set_title("Who notices that the cat became a dog")
ax.set_aspect("auto")
fig.colorbar(image, ax=ax, format="%g", label="share of the squared change")
# sphinx_gallery_start_ignore
assert sizes.nansum(1).allclose(torch.ones(len(steps)))
assert sizes.nan_to_num(1).min() > 1e-3
fig.set_label(
    "Nine steps by six tokens. Down to the values only the changed word "
    "differs. From attention on, every later word differs too, and the first "
    "word never does: its column is empty."
)
# sphinx_gallery_end_ignore

# %%
# Empty squares did not change by a single digit. Attention carried the news,
# and only to later tokens: the mask is causal, so that a model that continues
# texts cannot read ahead. No other part ever looks at a second token.
#
# Pitfall: words without an order
# -------------------------------
# Attention compares tokens; nothing in it says where they stand. Without a
# mask, let cat and mat change places, and "sat" reads the same as before.
x, swapped = steps["table"], way("The mat sat on the cat")["table"]
misses = {}
for name, rotary in {"no positions": None, "RoPE": tfdoc.RoPE()}.items():
    attention = tfdoc.MultiHeadAttention(D, num_heads=H, rotary=rotary)
    misses[name] = (attention(swapped) - attention(x))[0, 2].abs().max()
    print(f"{name:12s} 'sat' changes by {misses[name]:.4f}")
assert misses["no positions"] < 1e-6
assert misses["RoPE"] > 1e-3

# %%
# The mend is to put the positions in: today by turning queries and keys,
# :doc:`RoPE </learn/3_positions/02_rope>`.
#
# What it costs
# -------------
# Four :math:`D \times D` matrices in attention and eight times :math:`D^2` in
# the feed-forward network, whose hidden width is :math:`F = 4D`: with biases
# and norms, a block has :math:`12 D^2 + 13 D` parameters.
D, T = 768, 1024  # the sizes of GPT-2
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    block = TransformerBlock(D, num_heads=12)  # shapes without numbers
    block(torch.empty(1, T, D))
assert sum(p.numel() for p in block.parameters()) == 12 * D**2 + 13 * D
assert counter.get_total_flops() == 24 * T * D**2 + 4 * T**2 * D

# %%
# Whole models add a table of :math:`V` tokens at the start and scores for as
# many at the end. Four that were published, with :math:`L` blocks each:
gpt2 = {"gated": False, "bias": True, "tied": True, "num_positions": 1024}
models = {  # V, D, L, F, H
    "GPT-2": count_params(50257, 768, 12, 3072, 12, **gpt2),
    "GPT-2 XL": count_params(50257, 1600, 48, 6400, 25, **gpt2),
    "Llama 2 7B": count_params(32000, 4096, 32, 11008, 32),
    "Llama 3 70B": count_params(128256, 8192, 80, 28672, 64, num_kv_heads=8),
}
fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
left = torch.zeros(len(models))
for name in ("feedforward", "attention", "embedding", "head"):
    share = [count[name] / sum(count.values()) for count in models.values()]
    ax.barh([*models], share, left=left.tolist(), label=name)
    left += torch.tensor(share)
ax.set(xlabel="share of the parameters", title="Where the parameters are")
ax.invert_yaxis()
fig.legend(loc="outside lower center", ncols=4, frameon=False)
assert all(max(m, key=m.get) == "feedforward" for m in models.values())
# sphinx_gallery_start_ignore
fig.set_label(
    "Four bars, one a model, split in feedforward, attention, embedding and "
    "head. Feed-forward is the longest part of each, and its share is the "
    "larger, the larger the model."
)
# sphinx_gallery_end_ignore

# %%
# Exercise
# --------
# Write the two lines of a block from its parts: ``block.attn_norm``,
# ``block.attention``, ``block.ffn_norm``, ``block.feedforward``.


def forward(block, x):
    """Your turn: this is half of a block, and nothing is normalised."""
    return x + block.attention(x)


def check(forward):
    """Compare with a real block, on tokens that it has not seen."""
    block, x = TransformerBlock(8, num_heads=2), 3 * torch.randn(1, 5, 8)
    off = (forward(block, x) - block(x)).abs().max().item()
    return f"{'not yet' if off > 1e-5 else 'right'}: off by {off:.1e}"


print(check(forward))


# sphinx_gallery_start_ignore
def solution(block, x):
    h = x + block.attention(block.attn_norm(x))
    return h + block.feedforward(block.ffn_norm(h))


def original(block, x):
    h = block.attn_norm(x + block.attention(x))
    return block.ffn_norm(h + block.feedforward(h))


assert check(solution).startswith("right")
assert check(original).startswith("not yet")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``h = x + block.attention(block.attn_norm(x))``, then
#    ``return h + block.feedforward(block.ffn_norm(h))``. The original
#    transformer normalised after each sum: :doc:`that differs
#    </learn/4_normalisation/04_pre_and_post_norm>`.
#
# **Read on.** Vaswani et al. (2017), *Attention is all you need*. The module:
# :class:`tfdoc.TransformerBlock`. Next: :doc:`self-attention
# </learn/2_attention/01_self_attention>`.
