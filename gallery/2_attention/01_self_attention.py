r"""
Self-attention, checked with a pencil
=====================================

For everyone who has read the formula and wants to see it happen. Six tokens,
eight readable numbers each, and no training: you can redo every step on
paper. At the end you can compute attention by hand, recognise it in PyTorch,
and name the one thing it cannot see.
"""

# %%
# Six tokens, eight channels
# --------------------------
# A model turns each token into a vector, its *embedding*. Trained ones cannot
# be read, so write some by hand: D = 8 channels, with a 1 where the word has
# the property. T = 6 tokens make ``x`` a table of shape (T, D).
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import tfdoc

words = ["The", "cat", "sat", "on", "the", "mat"]
properties = {
    "the": ["article"],
    "cat": ["noun", "animal"],
    "sat": ["verb", "past"],
    "on": ["preposition", "contact"],
    "mat": ["noun", "thing"],
}
content = ["animal", "thing", "past", "contact"]
channels = ["article", "noun", "verb", "preposition", *content]
rows = [[c in properties[w.lower()] for c in channels] for w in words]
x = torch.tensor(rows).float()

# %%
# Yellow is 1. Only the two articles are the same:
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.imshow(x.tolist(), vmin=0, vmax=1)
ax.set(title="Six embeddings", xlabel="channel", ylabel="token")
ax.set_xticks(range(8), channels, rotation=40, ha="right")
_ = ax.set_yticks(range(6), words)
# sphinx_gallery_start_ignore
fig.set_label(
    "A grid of six tokens and eight channels. Each word has one channel of "
    "grammar; all but the articles have one of content too. The two rows of "
    "the article are the same."
)
# sphinx_gallery_end_ignore

# %%
# Three questions, three matrices
# -------------------------------
# Each token sends out a *query* (what am I looking for?), a *key* (what am
# I?) and a *value* (what do I hand on?): the token times one of three
# matrices. A model learns them; these are made by hand.
looks_for = {
    "article": ["noun"],
    "noun": ["article"],
    "animal": ["verb"],
    "verb": ["animal"],
    "preposition": ["verb", "thing"],
}
W_q = torch.zeros(8, 8)
for asks, wanted in looks_for.items():
    W_q[channels.index(asks), [channels.index(w) for w in wanted]] = 8
# 8: how urgently it looks. Smaller numbers would spread the attention.
W_k = torch.eye(8)  # a word is found by what it is
W_v = torch.tensor([c in content for c in channels]).float().diag()
q, k, v = x @ W_q, x @ W_k, x @ W_v

# %%
# Scores, weights, output
# -----------------------
# The *score* of a pair is the dot product of query and key, divided by the
# square root of their width, here 8. (Why divide?
# :doc:`/learn/2_attention/02_square_root`.) Softmax turns the scores of a row
# into *weights*: raise e to each, then divide by their sum.
scores = q @ k.T / 8**0.5
sat = words.index("sat")
for word, score in zip(words, scores[sat].tolist(), strict=True):
    print(f"sat -> {word}: {score:.2f}, e^{score:.2f} = {math.exp(score):.2f}")
powers = scores.exp()
sums = powers.sum(-1, keepdim=True)
weights = powers / sums
print(f"{powers[sat, 1]:.2f} / {sums[sat, 0]:.2f} = {weights[sat, 1]:.2f}")

# %%
# The verb asks for an animal, and *cat* is the only one. All six rows:
fig, ax = plt.subplots(figsize=(6, 5), layout="constrained")
ax.imshow(weights.tolist(), vmin=0, vmax=1)
for row, line in enumerate(weights.tolist()):
    for column, w in enumerate(line):
        shade = "black" if w > 0.6 else "white"
        ax.text(column, row, f"{w:.2f}", ha="center", va="center", c=shade)
ax.set(title="Who looks at whom", xlabel="key", ylabel="query")
ax.set_xticks(range(6), words)
_ = ax.set_yticks(range(6), words)
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Attention weights of six queries over six keys, each written in its "
    f"cell. Sat gives {weights[2, 1]:.2f} to cat; on shares its weight "
    "between sat and mat; both articles look at both nouns, and both "
    "nouns at both articles; cat looks at sat too."
)
# sphinx_gallery_end_ignore

# %%
# The *output* of a token is the average of all values, by these weights.
# ``W_v`` lets only content pass, so *sat* receives animal above all: the verb
# has learned who sat.
output = weights @ v
for name, number in zip(content, output[sat, 4:].tolist(), strict=True):
    print(f"sat receives {name:7s} {number:.2f}")
torch.testing.assert_close(output[sat, 4], weights[sat, 1])

# %%
# The same, three times
# ---------------------
# Those were all the steps of :math:`\operatorname{softmax}(QK^\top /
# \sqrt{d})\,V`, where d is the width of queries and keys. In libraries:
# :class:`torch.nn.MultiheadAttention` owns the matrices as well, and adds a
# fourth after the output, which here does nothing.
module = torch.nn.MultiheadAttention(8, num_heads=1, bias=False)
module.in_proj_weight.data = torch.cat([W_q, W_k, W_v], dim=1).T
module.out_proj.weight.data = torch.eye(8)
theirs, their_weights = module(x, x, x)
results = {
    "tfdoc.attention": tfdoc.attention(q, k, v),
    "F.scaled_dot_product_attention": F.scaled_dot_product_attention(q, k, v),
    "nn.MultiheadAttention": theirs,
}
for name, result in results.items():
    torch.testing.assert_close(result, output)
    print(f"{name:30s} differs by {(result - output).abs().max():.1e}")
torch.testing.assert_close(their_weights, weights)

# %%
# Pitfall: it cannot see the order
# --------------------------------
# Nothing above asks where a token stands. Swap *cat* and *mat*, and every
# word gets the vector it had before: *sat* still receives the animal.


def self_attention(x, W_q, W_k, W_v):
    """The page so far, in a line."""
    return tfdoc.attention(x @ W_q, x @ W_k, x @ W_v)


order = [0, 5, 2, 3, 4, 1]
swapped = self_attention(x[order], W_q, W_k, W_v)
torch.testing.assert_close(swapped, output[order])
print(*(words[i] for i in order), f"-> animal {swapped[sat, 4]:.2f}")

# %%
# Permuted tokens in, permuted outputs out. It is also why *cat* could not
# tell its own article from the other. Models add positions, as in
# :doc:`/learn/3_positions/02_rope`.
#
# Pitfall: softmax over the wrong dimension
# -----------------------------------------
# ``softmax(0)`` runs and keeps the shape, but makes the *columns* sum to one:
# tokens compete for a key, where keys should compete for a token.
wrong = scores.softmax(0)
print("softmax(-1): rows add up to", weights.sum(-1).cpu().numpy().round(2))
print("softmax(0):  rows add up to", wrong.sum(-1).cpu().numpy().round(2))
torch.testing.assert_close(weights.sum(-1), torch.ones(6))
assert (wrong.sum(-1) - 1).abs().max() > 0.4

# %%
# Those outputs are no averages: some tokens fade, others grow. Write
# ``softmax(-1)``.
#
# What it costs
# -------------
# A product of an (m, k) and a (k, n) matrix takes 2mkn operations: the three
# projections :math:`6TD^2`, scores and output :math:`4T^2D`, which grows with
# the square of the length. Rehearse on the *meta* device: shapes, no numbers.
D = 8
assert W_q.numel() + W_k.numel() + W_v.numel() == 3 * D**2
assert sum(p.numel() for p in module.parameters()) == 4 * D**2
for T in (6, 12, 1024):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        self_attention(torch.ones(T, D), *torch.ones(3, D, D))
    assert counter.get_total_flops() == 6 * T * D**2 + 4 * T**2 * D
    share = 4 * T**2 * D / counter.get_total_flops()
    print(f"T = {T:4d}: {share:.0%} of the operations are between tokens")

# %%
# Exercise
# --------
# Help *cat* find its own article. Give each position p two more channels, so
# that the dot product of two positions is larger the nearer they are.


def position(p):
    """Your turn: this makes everyone look at the last tokens."""
    return torch.tensor([p, 0.0])


def check(position):
    """Add the channels to queries and keys; see whom the nouns look at."""
    where = torch.stack([position(p) for p in range(6)])
    near = torch.cat([q, 8 * where], 1), torch.cat([k, where], 1)
    seen = tfdoc.attention(*near, torch.eye(6))  # the weights
    for noun, own, other in (1, 0, 4), (5, 4, 0):
        mine, not_mine = seen[noun, [own, other]].tolist()
        if mine < 2 * not_mine:
            given = f"{mine:.2f}, and {not_mine:.2f} to the other"
            return f"not yet: {words[noun]} gives its own article {given}"
    return "right: each noun looks at its own article"


print(check(position))

# sphinx_gallery_start_ignore
hand = check(lambda p: torch.tensor([math.cos(p / 2), math.sin(p / 2)]))
assert hand.startswith("right")
assert check(lambda p: torch.tensor([0.0, 0.0 * p])).startswith("not yet")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    A clock hand: ``torch.tensor([math.cos(p / 2), math.sin(p / 2)])``. The
#    dot product of two hands is the cosine of the angle between them, which
#    shrinks with the distance. The products of ``[p, 0]`` grow with p, so it
#    draws all eyes to the end of the sentence.
#
# **Read on.** Vaswani et al., *Attention is all you need* (2017), section
# 3.2.1. In the package: :func:`tfdoc.attention`. Next:
# :doc:`/learn/2_attention/02_square_root`.
