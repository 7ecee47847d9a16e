r"""
What is a token worth? Losses that can be compared, and two that cannot
=======================================================================

A language model does not read letters but *tokens*, pieces of text from a
fixed list, and learns to guess the next. Read this page if you choose a
vocabulary, compare losses, or batch texts of different length. At the end you
can train a tokenizer, and state and average losses so that they compare.
"""

# %%
# Merge the most frequent pair
# ----------------------------
# *Byte-pair encoding* begins with single letters. The pair of neighbours that
# occurs most becomes a token of its own, and so on.
import itertools
import math
from collections import Counter
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import tfdoc

torch.manual_seed(0)
text = " ".join("the_cat_the_hat_the_bat")
for _ in range(3):
    pairs = Counter(itertools.pairwise(text.split()))
    pair, often = pairs.most_common(1)[0]
    text = f" {text} ".replace(f" {pair[0]} {pair[1]} ", f" {''.join(pair)} ")
    print(f"{often} x {pair}: {text.strip()}")
assert text.split()[:2] == ["the_", "c"]

# %%
# The library `tokenizers` does the same on the bytes of UTF-8, so that no text
# is unknown to it. It merges inside of words only: a space belongs to the
# word behind it, and is shown there as a letter of its own.
small = tfdoc.train_bpe(["the cat the hat the bat"], vocab_size=260)
for word in ("the rat", "n\u00e9"):  # the second is an n and e acute
    tokens = small.encode(word).tokens
    print(f"{word!a:9} {len(word.encode())} bytes:", ascii(tokens))
    assert small.decode(small.encode(word).ids) == word  # nothing is lost
assert "the" in small.get_vocab()

# %%
# A vocabulary buys length
# ------------------------
# Learn vocabularies of V tokens from the Python language reference, which
# comes with Python. Keep each passage once, and the last tenth for a test.
text = "\n\n".join(topics[name] for name in sorted(topics))
text = "\n\n".join(dict.fromkeys(text.split("\n\n")))
train, test = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
tokenizers = {256: tfdoc.byte_tokenizer()}
for V in (512, 1024, 2048, 4096):
    tokenizers[V] = tfdoc.train_bpe([train], vocab_size=V)
size, lengths = len(test.encode()), {}  # in bytes
phrase = "if not expression: raise"
for V, tokenizer in tokenizers.items():
    lengths[V] = size / len(tokenizer.encode(test).ids)
    print(f"V = {V:4}, {lengths[V]:.1f} bytes a token:", end=" ")
    print(len(tokenizer.encode(phrase).ids), "tokens for", repr(phrase))

# %%
# The first 256 merges more than double the length; each doubling of V behind
# them adds less, for the frequent pieces went first. Fewer tokens are fewer
# steps of generation, a shorter cache, and more text in the same window.
gains = [lengths[2 * V] / lengths[V] for V in (256, 512, 1024, 2048)]
assert gains == sorted(gains, reverse=True)
assert gains[0] > 2
assert 1 < gains[-1] < 1.2

# %%
# One question at each token
# --------------------------
# The chance of a text is the product of the chances of its tokens, each given
# those before: :math:`p(x) = \prod_t p(x_t \mid x_{<t})`. Its logarithm is a
# sum. The first token has none before it and is not asked for, so the *loss*
# is :math:`-\frac1{T-1} \sum_{t>1} \ln p(x_t \mid x_{<t})`. The scores of
# position t are for token t + 1: shift by one.
T, sizes = 12, {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2}
ends = {"bos_token_id": None, "eos_token_id": None}
config = GPT2Config(**sizes, **ends, initializer_range=0.5)
model = GPT2LMHeadModel(config).eval().requires_grad_(False)
model.loss_type = "ForCausalLM"
tokens = torch.randint(50, (3, T))
output = model(tokens, labels=tokens)  # it shifts the labels itself
shares = output.logits.softmax(-1)
by_hand = 0.0
for row in range(3):
    for t in range(T - 1):
        by_hand -= shares[row, t, tokens[row, t + 1]].log() / (3 * (T - 1))
shifted = output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
gap = (by_hand - output.loss).abs().item()
print(f"loss {output.loss:.3f}, by hand differs by {gap:.0e}")
torch.testing.assert_close(F.cross_entropy(*shifted), output.loss)
torch.testing.assert_close(by_hand, output.loss)

# %%
# Pitfall: a loss per token, when tokens differ
# ---------------------------------------------
# The simplest model counts: how often came token b behind token a? (Where it
# saw little it leans on how frequent b is.) Train one for each vocabulary.


def counted(tokenizer):
    """Mean loss per token of counting pairs, and the tokens of the test."""
    seen, asked = (
        torch.tensor(tokenizer.encode(t).ids) for t in (train, test)
    )
    V = tokenizer.get_vocab_size()
    single = 1.0 + seen.bincount(minlength=V)
    pairs = (seen[:-1] * V + seen[1:]).bincount(minlength=V * V).view(V, V)
    known = (
        pairs[asked[:-1], asked[1:]] + 5 * (single / single.sum())[asked[1:]]
    )
    chances = known / (pairs.sum(1)[asked[:-1]] + 5)
    return -chances.log().mean().item(), len(asked)


losses, bits = {}, {}
for V, tokenizer in tokenizers.items():
    losses[V], count = counted(tokenizer)
    bits[V] = losses[V] * count / size / math.log(2)

# %%
# Per token the larger vocabulary looks worse at every step, for a longer piece
# is harder to guess. Per byte of the same text it gains, and at last little:
# :math:`\text{bits per byte} = \frac{\text{loss}}{\ln 2} \cdot
# \frac{\text{tokens}}{\text{bytes}}`. Only that can be compared.
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
named = {"loss per token": losses, "bits per byte": bits}
for ax, (name, numbers) in zip(axes, named.items(), strict=True):
    ax.semilogx(numbers.keys(), numbers.values(), "o-", base=2)
    ax.set(xlabel="vocabulary V", title=name, ylim=(0, None))
# sphinx_gallery_start_ignore
fig.set_label(
    "Two curves over vocabularies of 256 to 4096 tokens, for the same model "
    "of pairs on the same text. The loss per token rises from "
    f"{losses[256]:.1f} to {losses[4096]:.1f}; the bits per byte fall from "
    f"{bits[256]:.1f} to {bits[4096]:.1f}, steeply at first."
)
# sphinx_gallery_end_ignore
assert [*losses.values()] == sorted(losses.values())
assert sorted(bits, key=bits.get)[2:] == [1024, 512, 256]
assert losses[4096] > 2 * losses[256]
assert bits[4096] < 0.7 * bits[256]

# %%
# Pitfall: a mean of means
# ------------------------
# Two texts of different length, one forward pass each, as when a batch does
# not fit into memory. The mean of their means gives a token of the short text
# more weight than one of the long. Add up, then divide once by the tokens.
short, long = torch.randint(50, (1, 4)), torch.randint(50, (1, 31))
means, counts = [], []
for piece in (short, long):
    logits = model(piece).logits[:, :-1].flatten(0, 1)
    means.append(F.cross_entropy(logits, piece[:, 1:].flatten()))
    counts.append(len(logits))
sums = [mean * count for mean, count in zip(means, counts, strict=True)]
right, wrong = sum(sums) / sum(counts), sum(means) / 2
weight = counts[1] / counts[0]
print(f"by tokens {right:.3f}, mean of means {wrong:.3f}, weight {weight}")
assert (wrong - right).abs() > 1e-3

# %%
# In one padded batch the same holds if padding is left out. A target of -100
# asks nothing; padding that is asked makes up losses of its own.
batch = torch.zeros(2, 31, dtype=torch.long)
batch[0, :4], batch[1] = short, long
real = torch.arange(31) < torch.tensor([[4], [31]])
logits = model(batch).logits[:, :-1].flatten(0, 1)
asked = batch[:, 1:].masked_fill(~real[:, 1:], -100).flatten()
padded = F.cross_entropy(logits, asked)
careless = F.cross_entropy(logits, batch[:, 1:].flatten())
print(f"padded, {padded - right:.0e} off; careless, {careless - right:.4f}")
torch.testing.assert_close(padded, right)
assert (careless - right).abs() > 1e-3

# %%
# What it costs
# -------------
# A vocabulary is paid in a table of V rows of width D, twice if the head has
# its own. Its share of all parameters is large in small models.
for name in ("gpt2", "gpt2-xl", "llama-7b", "llama-3-8b", "gemma-3-270m"):
    book = tfdoc.ledger(name)
    parts, V, D = book.by_component, book.sizes["V"], book.sizes["D"]
    tables = parts["embed_tokens"] + parts.get("lm_head", 0)
    assert tables in (V * D, 2 * V * D)
    print(
        f"{name:13} V = {V:7,}: {tables / book.total:4.0%} of its parameters"
    )

# %%
# Exercise
# --------
# A model has a loss per token. What is its loss per byte, in bits?


def bits_per_byte(loss, tokenizer, text):
    """Your turn."""
    del tokenizer, text
    return loss


def check(function):
    for V, tokenizer in tokenizers.items():
        found = function(losses[V], tokenizer, test)
        if abs(found - bits[V]) > 1e-4:
            return f"not yet: V = {V} gives {found:.2f}"
    return "right"


print(check(bits_per_byte))

# sphinx_gallery_start_ignore
assert check(bits_per_byte).startswith("not yet")


def solution(loss, tokenizer, text):
    count = len(tokenizer.encode(text).ids)
    return loss / math.log(2) * count / len(text.encode())


assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    Divide by ``math.log(2)``, times the tokens, divided by the bytes.
#
# **Read on.** Sennrich et al., *Neural machine translation of rare words with
# subword units* (2016, arXiv:1508.07909). The tokenizers:
# :func:`tfdoc.train_bpe`, :func:`tfdoc.byte_tokenizer`. Next:
# :doc:`/learn/6_models/04_encoder`.
