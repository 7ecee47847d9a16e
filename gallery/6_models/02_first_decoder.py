r"""
A first decoder: twenty lines that learn to continue a text
===========================================================

A language model reads a text and says how likely each next letter is. Read
this page to see a whole one, small enough to train while the page is built.
Then you can write its loss, and see in the first one if a model starts sane.
"""

# %%
# One text, as many questions as letters
# --------------------------------------
# At every letter (spaces count) a text asks: what comes next? The answer
# stands one step to the right. Shift the text by one, and you have targets.
import math
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import Encoder, LayerNorm, count_params, part

torch.manual_seed(0)
for end in range(1, 5):
    print(f"{'a cat'[:end]!r:6} -> {'a cat'[end]!r}")

# %%
# The loss is the surprise at the right answer: minus the logarithm of the
# chance that the model gave it. A half, a quarter and an eighth make 1, 2 and
# 3 times :math:`\ln 2`. :func:`torch.nn.functional.cross_entropy` takes the
# mean, and starts from scores.
chances = torch.tensor([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [1 / 8, 7 / 8]])
by_hand = -chances[:, 0].log().mean()  # letter 0 was right, three times
library = F.cross_entropy(chances.log(), torch.tensor([0, 0, 0]))
print(f"by hand {by_hand:.4f}, by PyTorch {library:.4f}")
torch.testing.assert_close(by_hand, library)
assert math.isclose(by_hand, 2 * math.log(2), rel_tol=1e-6)

# %%
# A text that everybody has
# -------------------------
# The reference of the Python language comes with Python. Of passages that
# stand there twice keep one. Number the letters, and keep the last tenth for a
# test. With :math:`V` letters, who knows nothing gives each a chance of
# :math:`1/V`: a loss of :math:`\ln V`.
passages = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
text = " ".join(dict.fromkeys(passages)).encode("ascii", "ignore").decode()
text = " ".join(text.split())
letters = sorted(set(text))
number, V = {letter: i for i, letter in enumerate(letters)}, len(letters)
data = torch.tensor([number[letter] for letter in text])
train, test = data.tensor_split([len(data) * 9 // 10])
print(f"{len(text):,} letters, V = {V}, ln V = {math.log(V):.2f}")

# %%
# The model
# ---------
# A table turns each letter into :math:`D` numbers. :math:`L` blocks of
# :math:`H` heads let it see those before it and how far away they are (rotary
# positions). The stack is an ``Encoder``; the causal mask in its blocks makes
# it a decoder's. Last, the table again: how well does the result fit each row?


class Decoder(nn.Module):
    """Scores for the next letter after each: (B, T) -> (B, T, V)."""

    def __init__(self, V, D, L, H, std):
        super().__init__()
        self.table = nn.Embedding(V, D)
        nn.init.normal_(self.table.weight, std=std)
        sight = {"mask": tfdoc.Causal(), "rotary": tfdoc.RoPE()}
        block = part(tfdoc.TransformerBlock, num_heads=H, **sight)
        self.trunk = Encoder(D, blocks=(block,) * L, norm=part(LayerNorm))

    def forward(self, tokens):
        return self.trunk(self.table(tokens)) @ self.table.weight.T

    def loss(self, rows):
        """Mean surprise at all letters of (B, T + 1) but the first."""
        scores = self(rows[:, :-1]).flatten(0, 1)
        return F.cross_entropy(scores, rows[:, 1:].flatten())


# %%
# Two properties before any training. Change the last letter, and no earlier
# score moves: nobody sees an answer. And the first loss is near
# :math:`\ln V`: the model knows nothing, and does not pretend to.
D, L, H, T = 64, 2, 4, 64  # width, layers, heads, letters in view
model = Decoder(V, D, L, H, std=0.02)
rows = test[: len(test) // (T + 1) * (T + 1)].view(-1, T + 1)
few = rows[:32]
other = few.index_fill(1, torch.tensor([T]), number["?"])
change = (model(other) - model(few)).abs().amax((0, 2))
assert change[T] > change[:T].max() == 0
assert abs(model.loss(few) - math.log(V)) < 0.1

# %%
# Train it
# --------
# Take sixteen random pieces, follow the slope of their loss downhill, and do
# it again. The size of the steps rises first and then falls.
steps, losses = 500, []
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
for _ in range(steps):
    starts = torch.randint(len(train) - T, (16, 1))
    loss = model.loss(train[starts + torch.arange(T + 1)])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
model.requires_grad_(False)
final = model.loss(rows).item()

# %%
# Compare it with counting which letter follows which, the best one can do
# without looking further back.
pairs = train[:-1] * V + train[1:]
counts = 1 + pairs.bincount(minlength=V * V).view(V, V)  # none is impossible
chances = counts / counts.sum(1, keepdim=True)
counted = -chances[test[:-1], test[1:]].log().mean().item()
short_sighted = model.loss(test[: len(test) // 2 * 2].view(-1, 2)).item()
print(f"seeing {T} letters {final:.2f}, seeing one {short_sighted:.2f}")
assert final + 0.3 < counted < short_sighted

fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
ax.plot(losses, lw=1, label="training text")
ax.plot(steps, final, "C1o", label="text it has not seen")
for name, loss in (("ln V", math.log(V)), ("counting pairs", counted)):
    ax.axhline(loss, color="C6", ls="--", lw=1)
    ax.text(steps, loss + 0.05, name, ha="right")
ax.set(title="Better than counting pairs", xlabel="step", ylabel="loss")
_ = ax.legend(frameon=False, loc="lower left")
# sphinx_gallery_start_ignore
fig.set_label(
    f"Loss against {steps} training steps. It starts at a dashed line at the "
    "logarithm of V, falls through a second one, the loss of counting pairs "
    f"at {counted:.1f}, and ends at {final:.1f} on text it has not seen."
)
# sphinx_gallery_end_ignore

# %%
# With one letter in view it loses to counting: it gains by looking back.
#
# Let it write
# ------------
# Ask for the chances of the next letter, draw one, append it, ask again. A
# temperature below 1 prefers the likely. Nobody told it what a word is.


def continued(model, text, length=50, temperature=0.5):
    tokens = [number[letter] for letter in text]
    for _ in range(length):
        scores = model(torch.tensor([tokens[-T:]]))[0, -1]
        chances = (scores / temperature).softmax(-1)
        tokens.append(chances.multinomial(1).item())
    return "".join(letters[token] for token in tokens)


for start in ("The import statement ", "A class ", "If the "):
    print(continued(model, start))

# %%
# Pitfall: the table as it comes
# ------------------------------
# :class:`torch.nn.Embedding` draws numbers of spread 1, fifty times ours. Each
# letter's vector then fits its own row of the table far better than any
# other: the model is sure that every letter repeats. A first loss far above
# :math:`\ln V` says just that: sure, and wrong.
for std in (1.0, 0.02):
    fresh = Decoder(V, D, L, H, std).requires_grad_(False)
    chances = fresh(few).softmax(-1)
    same = chances.gather(2, few[..., None]).mean()
    start = fresh.loss(few)
    print(f"spread {std:4}: loss {start:5.2f}, repeats {same:.0%}")
    assert (start > 5 * math.log(V)) == (same > 0.9) == (std == 1)

# %%
# What it costs
# -------------
# :func:`tfdoc.count_params` has the closed form. Every letter meets the
# numbers of all matrices, and each attention adds :math:`4 T^2 D` operations.
sizes = count_params(V, D, L, 4 * D, H, gated=False, bias=True, tied=True)
assert sum(sizes.values()) == sum(p.numel() for p in model.parameters())
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    Decoder(V, D, L, H, 1)(torch.zeros(1, T, dtype=torch.long))
matrices = V * D + L * 12 * D**2
assert counter.get_total_flops() == 2 * T * matrices + L * 4 * T**2 * D
print(f"{sum(sizes.values()):,} parameters, {matrices:,} in matrices")

# %%
# Exercise
# --------
# This loss forgets that the targets stand one step to the right. Mend it. The
# checker's model is perfect: it gives the next letter every chance.


def next_letter_loss(scores, tokens):
    """Your turn. scores: (T, V) for tokens: (T,)."""
    return F.cross_entropy(scores, tokens)


def check(loss):
    tokens = torch.arange(10) % 7
    perfect = 50.0 * F.one_hot(tokens.roll(-1), V)
    found = loss(perfect, tokens).item()
    return f"{'not yet' if found > 0.01 else 'right'}: it gets {found:.2f}"


print(check(next_letter_loss))

# sphinx_gallery_start_ignore
right = check(lambda scores, tokens: F.cross_entropy(scores[:-1], tokens[1:]))
twice = check(lambda scores, tokens: F.cross_entropy(scores[:-2], tokens[2:]))
assert right.startswith("right")
assert twice.startswith("not yet")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``F.cross_entropy(scores[:-1], tokens[1:])``. Hugging Face's models shift
#    the labels themselves: shift them too, and you make the mistake again.
#
# **Read on.** Radford et al. (2018), *Improving language understanding by
# generative pre-training*. The modules: :class:`tfdoc.Encoder`, and with the
# table and the scores already inside, :class:`tfdoc.Decoder`. Next:
# :doc:`/learn/6_models/03_tokens_and_objective`.
