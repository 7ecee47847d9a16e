r"""
An encoder reads to the end before it answers
=============================================

Search, labels for sentences, names in a text: these need vectors, not a
continuation. Read this page if you choose between encoder and decoder, or if
your embeddings change with the batch. At the end you can build BERT, train it
on hidden words, and safely make one vector of a sentence.
"""

# %%
# Four tokens, both sides
# -----------------------
# An encoder has a decoder's blocks *without* the causal mask. Take four
# tokens of values 1 to 4, and equal scores. With the mask each gets the mean
# of what it has read so far; without, the mean of all. The price: a fifth
# token changes all of them, so who writes must read everything again.
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy, normalize, pad
from transformers.models.bert.modeling_bert import BertConfig, BertModel

import tfdoc
from tfdoc import Causal, part


def means(T, mask=None):
    scores = torch.zeros(1, 1, T, 1)
    values = torch.arange(1.0, T + 1).view(1, 1, T, 1)
    return tfdoc.attention(scores, scores, values, mask).flatten().tolist()


print("both sides", means(4), "left only", means(4, Causal().table(4)))
assert means(4, Causal().table(4)) == [1.0, 1.5, 2.0, 2.5]
assert (means(4), means(5)) == ([2.5] * 4, [3.0] * 5)


# %%
# BERT, and the same numbers
# --------------------------
# V tokens, P learned positions, L layers of width D with H heads, and *token
# types*: 0 in a first sentence and 1 in a second:
def bert(V, P, D, L, H, mask=None, head=None):
    norm = part(tfdoc.LayerNorm, eps=1e-12)
    start = part(
        tfdoc.TokenEmbedding,
        vocab_size=V,
        positions=part(tfdoc.LearnedPositions, max_positions=P),
        types=part(tfdoc.TokenTypes),
        norm=norm,
    )
    layer = {"num_heads": H, "hidden_dim": 4 * D, "dropout": 0.0}
    layer = part(tfdoc.TransformerLayer, **layer, norm=norm, mask=mask)
    trunk = part(tfdoc.Encoder, blocks=(layer,) * L)
    return tfdoc.TextEncoder(D, embed=start, encoder=trunk, head=head)


# %%
# It gets the weights of Hugging Face's BERT, in the order of the parts (by
# name: :doc:`/learn/6_models/01_complete_layer`). ``real`` is False at
# padding: what comes out there means nothing, and is not compared.
V, P, D, L, H = 27, 512, 32, 2, 4
torch.manual_seed(5)
sizes = {"vocab_size": V, "hidden_size": D, "intermediate_size": 4 * D}
config = BertConfig(**sizes, num_hidden_layers=L, num_attention_heads=H)
theirs = BertModel(config, add_pooling_layer=False).eval()
for weight in theirs.parameters():  # so that no bias is 0, and no scale 1
    weight.data += 0.2 * torch.randn_like(weight)
ours = bert(V, P, D, L, H)
blocks = sorted(ours.encoder.state_dict(), key=lambda k: k.split(".")[:3])
order = [*ours.embed.state_dict(prefix="embed.")]
order += [f"encoder.{name}" for name in blocks]
weights = theirs.state_dict().values()
ours.load_state_dict(dict(zip(order, weights, strict=True)))
tokens, types = torch.randint(V, (2, 9)), torch.randint(2, (2, 9))
real = torch.arange(9) < torch.tensor([[9], [5]])
expected = theirs(tokens, real.long(), types).last_hidden_state
vectors = ours(tokens, real=real, types=types)
torch.testing.assert_close(vectors[real], expected[real])
print(f"differs by {(vectors - expected)[real].abs().max():.1e}")
# sphinx_gallery_start_ignore
alone = ours(tokens[1:, :5], types=types[1:, :5])
torch.testing.assert_close(vectors[1:, :5], alone)
# sphinx_gallery_end_ignore

# %%
# Hidden words
# ------------
# An encoder cannot learn to tell what comes next, for it sees it. Hide some
# tokens and ask for those: *masked language modelling*. Our words have one of
# four openings, one of four endings, and in the middle a capital, another one
# for each pair. One letter of each word is hidden.
alphabet = ".^?abcdwxyzABCDEFGHIJKLMNOP"  # padding, start, hidden, letters


def sentences(rows):
    """One to three words behind a 1, filled up with 0; and what to hide."""
    first, last = torch.randint(4, (2, rows, 3))
    words = torch.stack([3 + first, 11 + 4 * first + last, 7 + last], -1)
    words *= torch.arange(3)[:, None] < torch.randint(1, 4, (rows, 1, 1))
    hidden = torch.arange(3) == torch.randint(3, (rows, 3, 1))
    hidden = pad((hidden & (words > 0)).flatten(1), (1, 0))
    return pad(words.flatten(1), (1, 0), value=1), hidden


tokens, hidden = sentences(2)
for row in torch.cat([tokens, tokens.masked_fill(hidden, 2)]):
    print("".join(alphabet[token] for token in row))


# %%
# Who sees both sides can know each letter. Who sees the left only can know
# endings; four openings or capitals are left, a loss of :math:`\ln 4`. The
# least loss is 0 for an encoder, :math:`\frac 2 3 \ln 4` for a causal model.
def train(mask, steps=350):
    model, losses = bert(V, P, D, L, H, mask), []
    adam = torch.optim.Adam(model.parameters(), 3e-3, fused=True)
    for _ in range(steps):
        tokens, hidden = sentences(64)
        vectors = model(tokens.masked_fill(hidden, 2), real=tokens > 0)
        scores = vectors[hidden] @ model.embed.weight.T  # each token's
        loss = cross_entropy(scores, tokens[hidden])
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return model.requires_grad_(False), losses


# %%
# Same size, same questions; only the mask differs.
least, models = 2 / 3 * torch.tensor(4.0).log().item(), {}
fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for name, mask in {"left only": Causal(), "both sides": None}.items():
    models[name], losses = train(mask)
    ax.plot(losses, label=name)
    final = sum(losses[-20:]) / 20
    print(f"{name}: loss {final:.2f}")
    assert abs(final - (least if mask else 0)) < 0.1
ax.axhline(least, color="C6", ls="--", lw=1, label="2/3 ln 4")
ax.set(xlabel="step", ylabel="loss", title="What the right side is worth")
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "The loss of hidden letters over 350 steps. With both sides it falls to "
    "zero; with the left only it stops at a dashed line, two thirds of the "
    "logarithm of 4."
)
tokens, hidden = sentences(2000)
accuracy = {}
for name, model in models.items():
    vectors = model(tokens.masked_fill(hidden, 2), real=tokens > 0)
    hits = (vectors @ model.embed.weight.T).argmax(-1) == tokens
    places = [hits[:, i::3][hidden[:, i::3]].float().mean() for i in (1, 2, 3)]
    accuracy[name] = [place.item() for place in places]
assert min(accuracy["both sides"]) > 0.95
assert max(accuracy["left only"][:2]) < 0.35
assert accuracy["left only"][2] > 0.95
# sphinx_gallery_end_ignore

# %%
# Pitfall: the mean of what is not there
# --------------------------------------
# A sentence's vector is that of its first token (BERT's CLS), or the mean.
# Search with it, or put a linear layer on it to get a label. With padding a
# mean needs ``real`` *twice*: in the encoder, where others would look at it,
# and where it is taken. Forget one, and look for each sentence among all:
model, texts = models["both sides"], sentences(300)[0].unique(dim=0)
index = torch.stack([model(t[None, t > 0])[0].mean(0) for t in texts])


def found(extra, told, counted):
    """Share of sentences that, with more padding, still find themselves."""
    tokens = pad(texts, (0, extra))
    vectors = model(tokens, real=tokens > 0 if told else None)
    weights = (tokens > 0 if counted else tokens >= 0)[..., None]
    mean = (vectors * weights).sum(1) / weights.sum(1)
    best = (normalize(mean) @ normalize(index).T).argmax(1)
    return (best == torch.arange(len(texts))).float().mean().item()


fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
ways = {"both": (1, 1), "mean only": (0, 1), "encoder only": (1, 0)}
for name, way in ways.items():
    shares = [found(extra, *way) for extra in range(21)]
    ax.plot(shares, label=name)
    print(f"real for {name}: {shares[-1]:.0%} found")
    assert shares[-1] == 1 if name == "both" else shares[-1] < 0.95
ax.set(xlabel="padding added", ylabel="share found", ylim=(0, 1.05))
ax.set(title="Who still finds itself", xticks=range(0, 21, 5))
_ = ax.legend(title="real for", frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "The share of sentences found against the padding added. With real for "
    "both it stays at one. With real for the mean only it falls slowly, with "
    "real for the encoder only at once, and further."
)
assert found(0, 1, 0) < 0.9 < found(0, 0, 1) + 0.05
assert found(20, 1, 0) < found(20, 0, 1)
tokens = pad(texts, (0, 20))
first = model(tokens, real=tokens > 0)[:, 0]
lonely = torch.cat([model(text[None, text > 0])[:, 0] for text in texts])
torch.testing.assert_close(first, lonely, rtol=1e-4, atol=1e-4)
# sphinx_gallery_end_ignore

# %%
# What it costs
# -------------
# A layer has :math:`12 D^2 + 13 D` parameters. BERT's own model has a layer on
# CLS besides, the ``Pooler``. (ALBERT has one layer, :class:`repeated
# <tfdoc.RepeatedBlock>`, and a :class:`narrow table
# <tfdoc.FactorisedEmbedding>`.) A pass reads T tokens at once:
book, T = tfdoc.ledger("bert-base-uncased"), 512
V, P, D, L, H = (book.sizes[symbol] for symbol in "VPDLH")
with torch.device("meta"):
    base = bert(V, P, D, L, H, head=part(tfdoc.Pooler))
count = (V + P + 2 + 2) * D + L * (12 * D**2 + 13 * D) + D**2 + D
assert count == sum(p.numel() for p in base.parameters()) == book.total
assert book.flops(1, T) == L * (24 * T * D**2 + 4 * T**2 * D) + 2 * D**2
print(f"{book.total / 1e6:.1f} million parameters")


# %%
# Exercise
# --------
# In use no token is hidden. So BERT, of the 15% of tokens that it asks for,
# hides 80%, replaces 10% by any token, and leaves 10% as they are.
def disturb(tokens, chosen):
    """Your turn: 2 hides; any token is one from 3 to 999."""
    return tokens.masked_fill(chosen, 2)


def check(disturb):
    tokens = torch.randint(3, 1000, (200, 500))
    chosen = torch.rand(tokens.shape) < 0.15
    out = disturb(tokens, chosen)
    hid, new = (x.sum() / chosen.sum() for x in (out == 2, out != tokens))
    right = abs(hid - 0.8) < 0.02 > abs(new - 0.9)
    return "right" if right else f"not yet: {hid:.0%} hid, {new:.0%} new"


print(check(disturb))
# sphinx_gallery_start_ignore
assert check(disturb).startswith("not yet")


def solution(tokens, chosen):
    dice = torch.rand(tokens.shape)
    after = tokens.masked_fill(chosen & (dice < 0.8), 2)
    other = torch.randint(3, 1000, tokens.shape)
    return torch.where(chosen & (dice > 0.9), other, after)


assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    With ``dice = torch.rand(tokens.shape)``, first ``out =
#    tokens.masked_fill(chosen & (dice < 0.8), 2)``, then ``torch.where(chosen
#    & (dice > 0.9), torch.randint(3, 1000, tokens.shape), out)``.
#
# **Read on.** Devlin et al., *BERT* (2018, arXiv:1810.04805). The components:
# :class:`tfdoc.TextEncoder`, :class:`tfdoc.TokenTypes`, :class:`tfdoc.Pooler`,
# and :class:`tfdoc.MaskedHead` for hidden words. Next:
# :doc:`/learn/6_models/05_decoder_and_sampling`.
