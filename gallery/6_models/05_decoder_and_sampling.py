r"""
From scores to text: greedy, temperature, top-k, top-p, beams
=============================================================

A decoder gives each possible next token a score. Somebody has to choose. Read
this page if generated text repeats itself, drifts into nonsense, or changes
when it stands in a batch. At the end you know what each knob does to the
probabilities, and in which order they act.
"""

# %%
# Four tokens, one choice
# -----------------------
# Scores become probabilities by softmax. *Greedy* takes the largest. Sampling
# draws, so that a token of probability 0.6 comes six times in ten.
import matplotlib.pyplot as plt
import torch
from transformers.generation import logits_process as hf

import tfdoc
from tfdoc import MinP, RepetitionPenalty, Temperature, TopK, TopP, part

torch.manual_seed(0)
logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
shares = logits.softmax(-1)
drawn = torch.multinomial(shares[0], 1000, replacement=True)
found = drawn.bincount() / 1000
print("greedy takes token", logits.argmax().item())
print("shares ", [f"{p:.2f}" for p in shares[0].tolist()])
print("sampled", [f"{p:.2f}" for p in found.tolist()])
torch.testing.assert_close(found, shares[0], rtol=0, atol=0.06)

# %%
# Four rules, one distribution
# ----------------------------
# A rule changes the scores before the choice. *Temperature* divides them:
# below 1 the likely become likelier. The others forbid, with a score of minus
# infinity: *top-k* all but the k best; *top-p* all outside the smallest set
# that holds a share of p; *min-p* what is less than a share of the best.
scores = torch.sort(2 * torch.randn(1, 16), descending=True).values
tokens = torch.zeros(1, 1, dtype=torch.long)  # the text so far
rules = {
    "as it is": Temperature(1.0),
    "temperature 0.5": Temperature(0.5),
    "temperature 2": Temperature(2.0),
    "top-k, 4": TopK(4),
    "top-p, 0.8": TopP(0.8),
    "min-p, 0.1": MinP(0.1),
}
after = {n: rule(scores, tokens).softmax(-1)[0] for n, rule in rules.items()}
fig, axes = plt.subplots(2, 3, figsize=(7.5, 4), layout="constrained")
for ax, (name, p) in zip(axes.flat, after.items(), strict=True):
    ax.bar(range(16), after["as it is"].tolist(), color="0.8")
    ax.bar(range(16), p.tolist(), width=0.5)
    ax.set(title=name, xticks=[], ylim=(0, 0.8))
_ = [ax.set_ylabel("probability") for ax in axes[:, 0]]
fig.supxlabel("tokens, likeliest first; grey: as it is", size="medium")
# sphinx_gallery_start_ignore
kept = {name: int((p > 0).sum()) for name, p in after.items()}
fig.set_label(
    "Six bar charts of one distribution over 16 tokens, likeliest first, the "
    "original in grey behind. Temperature 0.5 raises the first bar and "
    f"flattens the rest, 2 evens all out; top-k leaves {kept['top-k, 4']} "
    f"bars, top-p {kept['top-p, 0.8']} and min-p {kept['min-p, 0.1']}."
)
total = after["as it is"].cumsum(0)
assert (after["top-p, 0.8"] > 0).sum() == (total < 0.8).sum() + 1
# sphinx_gallery_end_ignore
assert (after["top-k, 4"] > 0).sum() == 4

# %%
# By hand, by tfdoc, by Hugging Face
# ----------------------------------
# Top-p by hand: sort, add up, and keep each token as long as those *before*
# it hold less than p. The one that crosses the mark stays. A fifth rule,
# ``RepetitionPenalty``, makes tokens that the text already has less likely.
many = 3 * torch.randn(500, 50)
text = torch.randint(50, (500, 7))
ordered, order = many.softmax(-1).sort(descending=True)
keep = ordered.cumsum(-1) - ordered < 0.8
by_hand = many.masked_fill(~keep.gather(1, order.argsort()), -torch.inf)
torch.testing.assert_close(TopP(0.8)(many, text), by_hand)
pairs = {
    Temperature(0.7): hf.TemperatureLogitsWarper(0.7),
    TopK(5): hf.TopKLogitsWarper(5),
    TopP(0.8): hf.TopPLogitsWarper(0.8),
    MinP(0.1): hf.MinPLogitsWarper(0.1),
    RepetitionPenalty(1.3): hf.RepetitionPenaltyLogitsProcessor(1.3),
}
for ours, theirs in pairs.items():
    mine, other = ours(many, text), theirs(text, many.clone())
    gap = (mine.softmax(-1) - other.softmax(-1)).abs().max()
    print(f"{ours!s:28s} differs by {gap:.0e}")
    assert gap < 1e-6

# %%
# A decoder that knows one song
# -----------------------------
# A small decoder learns a round of letters in which "a" is followed by "b"
# or, one time in four, by "c". Everything else is certain.
D, letters = 32, "abcd."
sight = {"mask": tfdoc.Causal(), "rotary": tfdoc.RoPE()}
block = part(tfdoc.TransformerBlock, num_heads=4, **sight)
norm = part(tfdoc.LayerNorm)
model = tfdoc.Decoder(D, vocab_size=5, blocks=(block,) * 2, norm=norm)
adam = torch.optim.Adam(model.parameters())


def songs(rows, words):
    """Words "abd." or, one in four, "acd.", as numbers (rows, 4 words)."""
    word = torch.tensor([0, 1, 3, 4]).repeat(rows, words, 1)
    word[:, :, 1] += torch.rand(rows, words) < 0.25
    return word.flatten(1)


for rate in torch.linspace(0.01, 0, 120).tolist():
    adam.param_groups[0]["lr"] = rate
    batch = songs(32, 4)
    scores = model(batch[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(scores, batch[:, 1:].flatten())
    adam.zero_grad()
    loss.backward()
    adam.step()

# %%
# Greedy text takes the likelier branch each time: it never sings "c". Sampling
# brings the quarter back, and temperature moves it.
start = torch.zeros(400, 1, dtype=torch.long)
model.eval()


def sing(rules=(), seed=0):
    """400 songs of seven letters."""
    choice = {"rules": rules, "seed": seed}
    return tfdoc.generate(model, start, max_new_tokens=7, **choice)


runs = {
    "greedy": sing(seed=None),
    "sampled": sing(),
    "temperature 0.5": sing([Temperature(0.5)]),
    "temperature 3": sing([Temperature(3.0)]),
    "temperature 3, top-k 2": sing([Temperature(3.0), TopK(2)]),
}
share = {}
for name, songs_ in runs.items():
    share[name] = (songs_[:, 1] == 2).float().mean().item()
    first = "".join(letters[i] for i in songs_[0])
    print(f"{name:23s} c in {share[name]:4.0%}: {first} ...")
assert share["greedy"] == 0
assert abs(share["sampled"] - 0.25) < 0.05
assert share["temperature 0.5"] < 0.2 < share["temperature 3, top-k 2"]
# sphinx_gallery_start_ignore
assert torch.equal(sing(), runs["sampled"])  # the same seed, the same text
# sphinx_gallery_end_ignore

# %%
# Pitfall: the order of rules
# ---------------------------
# Top-p after a high temperature keeps more tokens than before it, for the
# tail holds more. Both orders run; Hugging Face takes temperature first.
hot = {
    "temperature, then top-p": [Temperature(2.0), TopP(0.8)],
    "top-p, then temperature": [TopP(0.8), Temperature(2.0)],
}
sizes = []
for name, (one, two) in hot.items():
    out = two(one(many, text), text)
    sizes.append(out.isfinite().sum(-1).float().mean().item())
    print(f"{name}: {sizes[-1]:.1f} tokens left on average")
assert sizes[0] > 1.5 * sizes[1]

# %%
# Pitfall: padding on the right
# -----------------------------
# In a batch shorter prompts are filled up. On the right, what is generated
# follows the filling. On the left, and told what is ``real``, it is as alone.
filled = torch.tensor([[0, 1, 3, 0, 0]])  # two zeros of filling
real = torch.tensor([[True, True, True, False, False]])
try:
    tfdoc.generate(model, filled, max_new_tokens=3, real=real)
except ValueError as error:
    print(error)
alone = tfdoc.generate(model, filled[:, :3], max_new_tokens=3)
wrong = tfdoc.generate(model, filled, max_new_tokens=3)
moved, real = filled.roll(2, 1), real.roll(2, 1)
left = tfdoc.generate(model, moved, max_new_tokens=3, real=real)
for name, out in {"alone": alone, "right": wrong, "left": left}.items():
    print(f"{name:6s}", "".join(letters[i] for i in out[0, -3:]))
assert torch.equal(left[0, -3:], alone[0, -3:])
# sphinx_gallery_start_ignore
assert not torch.equal(wrong[0, -3:], alone[0, -3:])
# sphinx_gallery_end_ignore

# %%
# Beams
# -----
# Greedy takes the best token now; *beam search* keeps several beginnings, and
# in the end returns its likeliest text: a token of 0.6 with three sequels of
# 1/3 each loses to one of 0.4 with a single sequel. One beam is greedy.
one = tfdoc.beam_search(model, start[:1], beams=1, max_new_tokens=7)
assert torch.equal(one, runs["greedy"][:1])
# sphinx_gallery_start_ignore
now = torch.tensor([0.6, 0.4])
then = torch.tensor([[1 / 3] * 3, [1.0, 0.0, 0.0]])
assert (now[:, None] * then).argmax() // 3 == 1 != now.argmax()
toy = tfdoc.Decoder(8, vocab_size=6, blocks=(block,)).requires_grad_(False)
toy.blocks.apply(lambda m: [w.zero_() for w in m.parameters()])
toy.embed.weight.copy_(torch.eye(6, 8))  # the stream says which token it is
follows = torch.zeros(6, 6)  # 1 or 2 after 0, three kinds after 1, one after 2
follows[0, 1:3], follows[1, 3:], follows[2, 3] = now, 1 / 3, 1
toy.head.weight.zero_()[:, :6] = (follows + 1e-9).log().T
found = [
    tfdoc.beam_search(toy.eval(), start[:1], beams=n, max_new_tokens=2)
    for n in (1, 2)
]
assert [text[0, 1].item() for text in found] == [1, 2]
# sphinx_gallery_end_ignore

# %%
# Exercise
# --------
# Write a rule that never repeats the last token.


class NoTwins(tfdoc.Rule):
    """Your turn."""

    def __call__(self, logits, tokens):
        del tokens
        return logits


def check(rule):
    flat = torch.zeros(4, 5)
    last = torch.tensor([[1, 0], [1, 2], [3, 3], [0, 4]])
    out = rule(flat, last)
    banned = out.isinf().nonzero()[:, 1].tolist()
    return "right" if banned == [0, 2, 3, 4] else "not yet"


print(check(NoTwins()))

# sphinx_gallery_start_ignore
assert check(NoTwins()) == "not yet"


class Solved(tfdoc.Rule):
    def __call__(self, logits, tokens):
        return logits.scatter(1, tokens[:, -1:], -torch.inf)


assert check(Solved()) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``return logits.scatter(1, tokens[:, -1:], -torch.inf)``
#
# **Read on.** Holtzman et al., *The curious case of neural text degeneration*
# (2020, arXiv:1904.09751). The components: :func:`tfdoc.generate`,
# :func:`tfdoc.beam_search`. Next:
# :doc:`/learn/6_models/06_encoder_decoder`.
