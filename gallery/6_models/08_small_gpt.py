r"""
A small GPT learns to sound like the Python manual
==================================================

Two layers, one core, one minute, and a text that everybody has. Read this page
before you train a language model. At the end you can prepare a text without
fooling yourself, say what a loss is worth, and see what the heads learned.
"""

# %%
# A loss that can be compared
# ---------------------------
# One model gives the tokens "the" and " cat" chances of 1/8 and 1/32: it is
# surprised by 3 and 5 bits. Another gives each of seven letters a half. *Per
# token* it looks four times as good. *Per character* they are close.
import lzma
import math
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import part

torch.manual_seed(0)
for chances in torch.tensor([1 / 8, 1 / 32]), torch.full((7,), 1 / 2):
    token, letter = -chances.log2().mean(), -chances.log2().sum() / 7
    nats = F.binary_cross_entropy(chances, torch.ones_like(chances))
    torch.testing.assert_close(nats / math.log(2), token)
    print(f"{token:.2f} bits a token, {letter:.2f} a character")
# sphinx_gallery_start_ignore
assert 4 * token == (3 + 5) / 2
assert letter < (3 + 5) / 7 < 1.2 * letter
# sphinx_gallery_end_ignore

# %%
# The text, and its copies
# ------------------------
# Every CPython has its language reference on board, where many passages stand
# twice. Keep one of each, and only *then* cut off the last tenth, to validate.
# The tokenizer merges frequent pairs of bytes, of the training text only.
chapters = [topics[name].encode("ascii", "ignore") for name in sorted(topics)]
everything = [p for c in chapters for p in c.decode().split("\n\n")]
passages = [*dict.fromkeys(everything)]
cut = len(passages) * 9 // 10
text, unseen = "\n\n".join(passages[:cut]), "\n\n".join(passages[cut:])
V, D, L, H, T = 1024, 64, 2, 4, 64  # tokens, width, layers, heads, in view
tokenizer = tfdoc.train_bpe([text], vocab_size=V)
train = torch.tensor(tokenizer.encode(text).ids)
print(f"{len(passages):,} of {len(everything):,} passages, V = {V}")

# %%
# Rivals that need no training
# ----------------------------
# A row of T + 1 tokens asks T questions; each answer stands one to the right.


@torch.no_grad()
def bits(model, text):
    """Bits per character, with at most T tokens in view."""
    rows = torch.tensor(tokenizer.encode(text).ids).unfold(0, T + 1, T)
    answers, scores = rows[:, 1:].flatten(), model(rows[:, :-1]).flatten(0, 1)
    nats = F.cross_entropy(scores, answers, reduction="sum").item()
    return nats / math.log(2) / len(tokenizer.decode(answers.tolist()))


def packed(text):
    return 8 * len(lzma.compress(text.encode()))  # bits


# %%
# All tokens equal; each as likely as it is frequent; or frequent after the one
# before. And ``lzma``, which packs the unseen text by copying from the other.
one = (1 + train.bincount(minlength=V)) / (len(train) + V)
two = (train[:-1] * V + train[1:]).bincount(minlength=V * V).view(V, V)
two = (two + 8 * one) / (two.sum(1, keepdim=True) + 8)
tables = {"equal": torch.ones(V, V), "single": one.repeat(V, 1), "pairs": two}
rivals = {n: bits(t.log().__getitem__, unseen) for n, t in tables.items()}
rivals["lzma"] = (packed(text + unseen) - packed(text)) / len(unseen)

# %%
# The model
# ---------
# Two blocks like GPT-2's, with rotary positions, and one table for the way in
# (times :math:`\sqrt D`, as in Gemma) and out. Fresh, it knows nothing.
sight = {"mask": tfdoc.Causal(), "rotary": tfdoc.RoPE()}
block = part(tfdoc.TransformerBlock, num_heads=H, **sight)
ends = {"norm": part(tfdoc.LayerNorm), "tied": True, "embed_scale": D**0.5}
gpt = part(tfdoc.Decoder, vocab_size=V, blocks=(block,) * L, **ends)
model, fresh = gpt.build(D), gpt.build(D)
assert abs(bits(model, unseen) / rivals["equal"] - 1) < 0.01  # a loss of ln V

# %%
# Train it
# --------
# AdamW; a rate that rises for 48 steps and sinks along a cosine; gradients at
# most of length one. Now and then, a look at the heads and the unseen text.
steps, B, settings = 1200, 8, {"betas": (0.9, 0.95), "weight_decay": 0.1}
adam = torch.optim.AdamW(model.parameters(), **settings, fused=True)
rise = {"pct_start": 48 / steps, "cycle_momentum": False}
rate = torch.optim.lr_scheduler.OneCycleLR(adam, 8e-3, steps + 1, **rise)
looks, losses, costs, previous = range(0, steps + 1, 200), [], [], []
for step in range(steps + 1):
    if step in looks:
        with tfdoc.record(model, "*.weights") as seen:
            costs.append(bits(model, unseen))
        maps = torch.stack([*seen.values()])  # (L, rows, H, T, T)
        previous.append(maps.diagonal(-1, -2, -1).mean((1, 3)))
    places = torch.randint(len(train) - T, (B, 1)) + torch.arange(T + 1)
    scores = model(train[places[:, :-1]]).flatten(0, 1)
    loss = F.cross_entropy(scores, train[places[:, 1:]].flatten())
    adam.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    rate.step()
    losses.append(loss.item() / math.log(2) * len(train) / len(text))

# %%
fig, ax = plt.subplots(layout="constrained")
ax.plot(losses, lw=0.6, label="training text")
ax.plot(looks, costs, "o-", label="unseen text")
ax.hlines([*rivals.values()], 0, steps, "C6", "--", lw=1)
for name, cost in rivals.items():
    ax.text(steps + 40, cost, name, va="center")
ax.set(xlabel="step", ylabel="bits per character", title="More than pairs")
ax.legend(frameon=False, loc=(0.3, 0.78))
# sphinx_gallery_start_ignore
fig.set_label(
    f"Bits per character over {steps} steps. Both curves start at the dashed "
    "line of equal tokens, and fall through those of single tokens and of "
    f"pairs. On unseen text it ends at {costs[-1]:.1f}, just above lzma, and "
    "on its training text lower."
)
assert rivals["lzma"] < costs[-1] < rivals["lzma"] + 0.3
assert sum(losses[-200:]) / 200 < costs[-1] - 0.2
# sphinx_gallery_end_ignore
assert costs[-1] + 0.2 < rivals["pairs"] < rivals["single"]

# %%
# The curves part: it reads its own text again and again. ``lzma``, with all of
# that text to copy from, is still ahead.
#
# Let it write
# ------------
# Fresh; cold, with fewer distinct words; warm, with fewer known from the text.
known, real, new = {*text.split()}, [], []
start = torch.tensor([tokenizer.encode('The "for" statement').ids] * 32)
for who, hot in (fresh, 1.0), (model, 0.3), (model, 0.6), (model, 1.0):
    how = {"rules": [tfdoc.Temperature(hot)], "seed": 0}
    many = tfdoc.generate(who, start, max_new_tokens=60, **how)
    texts = map(tokenizer.decode, many[:, start.shape[1] :].tolist())
    words = "".join(texts).split()
    real.append(sum(word in known for word in words) / len(words))
    new.append(len({*words}) / len(words))
    print(f"\nTemperature {hot}: {real[-1]:.0%} known, {new[-1]:.0%} distinct")
    sample = tokenizer.decode(many[0].tolist())
    print(sample if who is model else ascii(sample)[:75])
assert real[1] - 0.1 > real[3] > real[0] + 0.1
# sphinx_gallery_start_ignore
assert new[1] + 0.1 < new[3]
# sphinx_gallery_end_ignore

# %%
# What the heads learned
# ----------------------
# Fresh, each reads all tokens alike. Then some turn to the previous one.
fig, axes = plt.subplots(1, L, sharey=True, layout="constrained")
for layer, ax in enumerate(axes):
    ax.plot(looks, [weights[layer].tolist() for weights in previous])
    ax.set(title=f"layer {layer}", xlabel="step", ylim=(0, 0.5))
axes[0].set_ylabel("weight on the previous token")
# sphinx_gallery_start_ignore
fig.set_label(
    "Weight on the previous token over the steps, four heads in each of two "
    "panels, one a layer. All begin at one low value. Some rise to several "
    "times that, others stay near it."
)
assert previous[-1].min() < previous[-1].max() / 2
even = sum(1 / (1 + i) for i in range(1, T)) / (T - 1)
assert (previous[0] - even).abs().max() < 0.01
# sphinx_gallery_end_ignore
assert previous[-1].max() > 4 * previous[0].max()

# %%
# Pitfall: copies in the validation text
# --------------------------------------
# Shuffle all passages, cut off a tenth, and copies stand on both sides. The
# mend comes before the cut: ``dict.fromkeys``, as above, keeps one of each.
leak, size = [], len(passages) // 10
for pile in everything, passages:
    mixed = [pile[i] for i in torch.randperm(len(pile))]
    tenth, rest = "\n\n".join(mixed[:size]), "\n\n".join(mixed[size:])
    leak.append((packed(rest + tenth) - packed(rest)) / len(tenth))
    shared = sum(passage in mixed[size:] for passage in mixed[:size]) / size
    print(f"{shared:.0%} stand in the rest: {leak[-1]:.2f} bits for lzma")
assert leak[0] < leak[1] - 0.2
# sphinx_gallery_start_ignore
assert shared == 0
# sphinx_gallery_end_ignore

# %%
# What it costs
# -------------
# The rule says 6 operations for each parameter and token: 2 forward, 4 back.
# It leaves out the products of attention, and counts norms and biases.
N = sum(p.numel() for p in model.parameters())
assert N == V * D + L * (12 * D**2 + 13 * D) + 2 * D
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    gpt.build(D)(torch.zeros(B, T, dtype=torch.long)).sum().backward()
counted, matrices = counter.get_total_flops(), N - (13 * L + 2) * D
assert counted == B * T * (6 * matrices + 12 * T * D * L)
print(f"{N:,} parameters; the rule gives {6 * N * B * T / counted:.0%}")

# %%
# Exercise
# --------
# Models of two layers and more can have *induction* heads, which look for what
# came after the same word before. Has ours? Let it read each piece twice.
half = T // 2
pieces = torch.tensor(tokenizer.encode(unseen).ids).unfold(0, half, half)
with torch.no_grad(), tfdoc.record(model, "*.weights") as seen:
    model(pieces.repeat(1, 2))
maps = torch.stack([*seen.values()])  # (L, rows, H, T, T)


def induction(maps):
    """Your turn: this is the weight on the same word, not on the next."""
    return maps.diagonal(-half, -2, -1).mean(-1)


def check(induction):
    copier = torch.eye(T).roll(half - 1, 0)  # a head that does just that
    return "right" if induction(copier) == 1 else "not yet"


print(check(induction), induction(maps).mean(1))
# sphinx_gallery_start_ignore
assert check(induction) == "not yet"


def solution(maps):
    return maps.diagonal(1 - half, -2, -1)[..., 1:].mean(-1)


assert check(solution) == "right"
assert solution(maps).mean(1).max() < 2 / half
with torch.no_grad():  # and the second reading is hardly cheaper
    twice = pieces.repeat(1, 2)
    scores = model(twice[:, :-1]).transpose(1, 2)
    loss = F.cross_entropy(scores, twice[:, 1:], reduction="none").mean(0)
assert loss[half:].mean() > 0.95 * loss[: half - 1].mean()
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``maps.diagonal(1 - half, -2, -1)[..., 1:].mean(-1)``. No head gets to
#    ``2 / half``: ours has none.
#
# **Read on.** Olsson et al. (2022), *In-context learning and induction heads*.
# The components: :class:`tfdoc.Decoder`, :func:`tfdoc.train_bpe`. Next:
# :doc:`/learn/6_models/09_gpt2_to_llama`.
