r"""
Without positions, attention reads a bag of words
=================================================

"Dog bites man" and "man bites dog" are the same to attention: it sees who is
there, not where. The oldest remedy adds a vector to each token that says its
place: fixed waves in the first transformer, learned rows in GPT-2 and BERT.
Read this page if you build or load such a model. At the end you can write
both, keep them from drowning the words, and say where each one ends.
"""

# %%
# Shuffle the words
# -----------------
# Give an attention four tokens, then the same four in another order. Each
# token comes out with exactly what it had before.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from transformers.models.gptj import modeling_gptj as gptj

from tfdoc import Causal, LearnedPositions, MultiHeadAttention, Sinusoidal

torch.manual_seed(0)
words, order = torch.randn(1, 4, 64), torch.tensor([2, 0, 3, 1])
attention = MultiHeadAttention(64, num_heads=4)
plain = attention(words)[:, order] - attention(words[:, order])
print(f"without positions, off by {plain.abs().max():.0e}")

where = Sinusoidal(64)
told = attention(where(words))[:, order] - attention(where(words[:, order]))
print(f"with positions, off by {told.abs().max():.2f}")
assert plain.abs().max() < 1e-6
assert told.abs().max() > 0.02
# sphinx_gallery_start_ignore
with torch.random.fork_rng():
    causal = [MultiHeadAttention(64, num_heads=4, mask=Causal()) for _ in "12"]
early = torch.tensor([2, 0, 1, 3])  # the last token stays the last
for depth in (1, 2):
    layers = torch.nn.Sequential(*causal[:depth])
    moved = (layers(words)[:, early] - layers(words[:, early])).abs().amax(-1)
    assert moved[0, :3].min() > 0.02
    assert moved[0, 3] < 1e-6 if depth == 1 else moved[0, 3] > 0.02
# sphinx_gallery_end_ignore

# %%
# (A causal mask changes this: every token averages another set of tokens. The
# last token of one layer still reads a bag; two layers can already tell some
# order, Haviv et al. 2022. Most decoders add positions all the same.)

# %%
# Waves
# -----
# The first transformer adds a sine and a cosine of the position p for each
# pair of channels, :math:`\sin(p\,\theta_i)` and :math:`\cos(p\,\theta_i)`
# with :math:`\theta_i = 10000^{-2i/D}`: fast waves first, slow ones last,
# like the digits of a counter.
T, D = 64, 64
table = where.table(torch.arange(T))  # (T, D), in float64
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
image = ax.imshow(table, aspect="auto")
ax.set(title="A row for each position", xlabel="channel", ylabel="position")
_ = fig.colorbar(image, label="added to the token")
# sphinx_gallery_start_ignore
fig.set_label(
    "The waves of 64 positions, in rows, and 64 channels, in columns. On the "
    "left they change from row to row; to the right ever more slowly, until "
    "the columns are constant: nothing in sines and one in cosines."
)
# sphinx_gallery_end_ignore

# %%
# By hand, one number at a time; and by Hugging Face, which has all sines
# first and then all cosines, in float32:
by_hand = torch.zeros(T, D, dtype=torch.float64)
for p in range(T):
    for i in range(0, D, 2):
        angle = torch.tensor(p * 10_000 ** (-i / D), dtype=torch.float64)
        by_hand[p, i], by_hand[p, i + 1] = angle.sin(), angle.cos()
halves = gptj.create_sinusoidal_positions(T, D).double()
theirs = torch.stack(halves.chunk(2, -1), -1).flatten(-2)
for name, other in {"by hand": by_hand, "Hugging Face": theirs}.items():
    torch.testing.assert_close(table, other, rtol=0, atol=1e-5)
    print(f"{name}: {(table - other).abs().max():.0e}")

# %%
# What a dot product sees
# -----------------------
# Why waves? Two rows' dot product is the sum of
# :math:`\cos((p - q)\,\theta_i)`: it depends on the *distance* alone. That is
# the seed of :doc:`/learn/3_positions/02_rope`.
near = table @ table.T / (D / 2)
torch.testing.assert_close(near[1:, 1:], near[:-1, :-1])  # along diagonals
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
far = where.table(torch.arange(-100, 101)) @ table[0] / (D / 2)
ax.plot(range(-100, 101), far)
ax.set(title="Rows of near positions are alike", xlabel="distance")
ax.set_ylabel("dot product, 1 for itself")
# sphinx_gallery_start_ignore
fig.set_label(
    "The dot product of two rows of waves against their distance from -100 "
    "to 100: a peak of one at zero, the same on both sides. It falls to "
    f"{far[110]:.2f} ten tokens away, then slowly and with ripples: from 50 "
    f"on it lies between {far[150:].min():.2f} and {far[150:].max():.2f}."
)
assert far[:100].flip(0).allclose(far[101:])
assert far.argmax() == 100
# sphinx_gallery_end_ignore

# %%
# Learned rows
# ------------
# GPT-2 and BERT learn a row for each position instead. Train on texts of 32
# tokens, and no later row gets a gradient: it stays as random as it began.
# (Weight decay only makes it fade.)
learned = LearnedPositions(D, max_positions=128)
texts = torch.randn(8, 32, D)
attention(learned(texts)).square().mean().backward()
moved = learned.weight.grad.abs().sum(1) > 0
print(f"rows with a gradient: {int(moved.sum())} of {len(moved)}")
assert moved.nonzero().flatten().tolist() == list(range(32))

# %%
# Beyond the last row there is nothing, and the model says so. The waves go on;
# whether the rest of the model understands them there is another question.
try:
    learned(torch.zeros(1, 200, D))
except ValueError as error:
    print(str(error).split(";")[0])
assert where(torch.zeros(1, 200, D)).shape == (1, 200, D)

# %%
# Pitfall: waves that drown the words
# -----------------------------------
# A wave has size 1. Embeddings often start far smaller; then all words at one
# position look alike. Compare two words at the same place:
D = 512
waves = Sinusoidal(D).table(torch.arange(1000)).float()
found = {}
for name, std in {"0.02": 0.02, "1, as in the paper": 1.0}.items():
    one, other = torch.randn(2, 1000, D) * std
    alike = F.cosine_similarity(one + waves, other + waves).mean().item()
    found[name] = alike
    print(f"embeddings of size {name}: cosine {alike:.3f}")
assert found["0.02"] > 0.99
assert found["1, as in the paper"] < 0.4

# %%
# The paper multiplies embeddings by :math:`\sqrt{D}` before it adds the waves;
# its code starts them at :math:`D^{-1/2}`. Without that factor a model starts
# nearly blind. (Learned rows start as small as the embeddings.)
#
# What it costs
# -------------
# Waves have no parameters, learned rows one for each channel and position.
with torch.device("meta"):
    sizes = [
        sum(p.numel() for p in module.parameters())
        for module in (
            Sinusoidal(768),
            LearnedPositions(768, max_positions=1024),
        )
    ]
print(f"waves {sizes[0]}, learned rows of GPT-2 {sizes[1]:,}")
assert sizes == [0, 1024 * 768]

# %%
# Exercise
# --------
# From the row of one position, make that of the position 5 further on,
# without being told which one it is. Pairs are (sine, cosine).


def further(row, speeds):
    """Your turn: angles do not add like this. `speeds` has one a pair."""
    return row + 5 * speeds.repeat_interleave(2)


def check(further):
    """Move the rows of 20 positions by 5."""
    rows = Sinusoidal(16).table(torch.arange(25))
    speeds = 10_000 ** (-torch.arange(0, 16, 2).double() / 16)
    apart = max(
        (further(rows[p], speeds) - rows[p + 5]).abs().max() for p in range(20)
    )
    return "right" if apart < 1e-9 else f"not yet: off by {apart:.2f}"


print(check(further))
# sphinx_gallery_start_ignore


def solution(row, speeds):
    sine, cosine = row[::2], row[1::2]
    s, c = (5 * speeds).sin(), (5 * speeds).cos()
    return torch.stack(
        [sine * c + cosine * s, cosine * c - sine * s], -1
    ).flatten()


assert check(further).startswith("not yet")
assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    With ``s, c = (5 * speeds).sin(), (5 * speeds).cos()``, the new sines are
#    ``sine * c + cosine * s`` and the new cosines ``cosine * c - sine * s``:
#    every pair turns by its own angle, whatever the position.
#
# **Read on.** Vaswani et al., *Attention is all you need* (2017), section
# 3.5, chose waves in the hope that a model could read shifts from them. The
# classes are :class:`tfdoc.Sinusoidal` and :class:`tfdoc.LearnedPositions`.
# Next: :doc:`/learn/3_positions/02_rope`.
