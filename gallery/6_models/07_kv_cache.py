r"""
The KV cache: remember the past instead of computing it again
=============================================================

A decoder writes one token at a time, and each new token looks at all before
it. Read this page if generation is slow, or eats your memory. At the end you
can say what a cache spares, what it costs in bytes, and why a cached model
sometimes talks nonsense.
"""

# %%
# What a new token needs from the past
# ------------------------------------
# Four tokens are there, the fifth arrives. None of the four sees it, so what
# they computed stays. It needs their keys and values, and only those.
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import Causal, GrowingCache, MultiHeadAttention, RoPE, part

torch.manual_seed(0)
attention = MultiHeadAttention(8, num_heads=2, mask=Causal(), rotary=RoPE())
x = torch.randn(1, 5, 8)
cache = GrowingCache()
attention(x[:, :4], cache=cache)  # leaves four keys and values behind
fifth = attention(x[:, 4:], cache=cache)  # one query, five keys
torch.testing.assert_close(fifth, attention(x)[:, 4:])
print(f"{cache}: differs by {(fifth - attention(x)[:, 4:]).abs().max():.1e}")

# %%
# One model, two ways to write
# ----------------------------
# A small Llama: :math:`L` layers, H query heads, G heads of keys and values
# of width d. Without a cache each step runs the whole text so far.
V, D, L, H, G = 97, 64, 2, 8, 2
d, norm = D // H, part(tfdoc.RMSNorm)
heads = part(MultiHeadAttention, num_heads=H, num_kv_heads=G, bias=False)


def decoder(mask):
    """A recipe of L blocks whose attention has this mask."""
    block = part(
        tfdoc.PreNormBlock,
        attention=heads.but(mask=mask, rotary=RoPE()),
        feedforward=part(tfdoc.GatedFeedForward, hidden_dim=4 * D),
        norm=norm,
    )
    return part(tfdoc.Decoder, vocab_size=V, blocks=(block,) * L, norm=norm)


# %%
model = decoder(Causal()).build(D).eval().requires_grad_(False)


def recompute(model, tokens, new):
    """Add the likeliest token `new` times; read all of the text each time."""
    for _ in range(new):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    return tokens


prompt = torch.randint(V, (2, 6))
slow = recompute(model, prompt, 20)
fast = tfdoc.generate(model, prompt, max_new_tokens=20)  # with a cache
assert torch.equal(slow, fast)

# %%
# What it spares
# --------------
# Step t of n without a cache is a pass over t tokens: in all, the matrices
# cost in proportion to :math:`n^2`, attention to :math:`n^3`. With a cache a
# step is one token's work, which meets those before: :math:`n`, :math:`n^2`.
with torch.device("meta"):
    twin = decoder(Causal()).build(D).eval()


def flops(tokens, cache=None):
    """FLOPs of a pass over so many tokens."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        twin(torch.zeros(1, tokens, dtype=torch.long), cache=cache)
    return counter.get_total_flops()


steps, cache = range(1, 33), twin.new_cache()
again = torch.tensor([flops(t) for t in steps]).cumsum(0)
once = torch.tensor([flops(1, cache) for t in steps]).cumsum(0)
ratio = (again / once)[-1].item()

# %%
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.loglog(steps, again, label="recomputed")
ax.loglog(steps, once, label="with a cache")
ax.set(xlabel="tokens written", ylabel="FLOPs", title="The past, paid once")
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "FLOPs of writing a text against its length, both logarithmic. The line "
    "with a cache rises in proportion; the one that recomputes rises twice "
    f"as steeply and is {ratio:.0f} times as high at {steps[-1]} tokens."
)
# sphinx_gallery_end_ignore
# Twice the numbers of all matrices for each token, and for each pair of
# tokens the products of queries with keys and of weights with values.
matrices = sum(p.numel() for p in twin.parameters() if p.ndim == 2) - V * D
pairs = sum(steps)
assert once[-1] == 2 * len(steps) * matrices + 4 * pairs * H * d * L
assert ratio > 14

# %%
# What it costs
# -------------
# Each token leaves a key and a value of width d in each of G heads and L
# layers: :math:`2\,G\,d\,L` numbers, for each of B rows. It is why models
# share keys (:doc:`/learn/2_attention/05_grouped_query`). The ledger of any
# published model knows the number.
cache = model.new_cache()
model(torch.zeros(3, 26, dtype=torch.long), cache=cache)
assert cache.nbytes == 3 * 26 * 2 * G * d * L * 4  # four bytes a number
llama = tfdoc.ledger(tfdoc.preset("llama-3-8b"))
for length in (1024, 8192, 131_072):
    size = llama.kv_cache(1, length, "bf16")
    print(f"Llama-3-8B, {length:7,} tokens: {size / 2**30:6.2f} GiB")

# %%
# Three caches
# ------------
# One that **grows** copies what it holds at each step. One with **room** for
# a known length writes in place. Where attention sees a **window** of w
# tokens, only the last w - 1 need be kept, and memory stops growing.
windowed = decoder(Causal() & tfdoc.Window(9)).build(D)
caches = {
    "growing": model.new_cache(),
    "with room": model.new_cache(max_length=40),
    "sliding": windowed.new_cache(),
}
sizes = {name: [] for name in caches}
for name, cache in caches.items():
    for token in torch.randint(V, (1, 40)).split(1, 1):
        (windowed if name == "sliding" else model)(token, cache=cache)
        sizes[name].append(cache.nbytes / 1024)

# %%
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
_ = [ax.plot(range(1, 41), size, label=n) for n, size in sizes.items()]
ax.set(xlabel="tokens written", ylabel="KiB", title="Bytes of three caches")
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Kibibytes against tokens written. The growing cache rises in a straight "
    "line to meet, at the end, the flat line of the one with room. The "
    "sliding one rises with it for eight tokens and then stays flat."
)
# sphinx_gallery_end_ignore
assert sizes["growing"][-1] == sizes["with room"][0]
assert sizes["sliding"][7] == sizes["sliding"][-1] == sizes["growing"][7]

# %%
# Pitfall: where does the new token stand?
# ----------------------------------------
# Alone in its call, the new token is number 0 of one. Positions counted in
# the call instead of the text put every new token at the start, where it is
# turned wrongly and sees only the first token and itself. And a causal mask
# that is lined up with the first key, which is what
# :func:`torch.nn.functional.scaled_dot_product_attention` does with
# ``is_causal=True``, hides all but that key.
x = torch.randn(1, 12, D)
layer = model.blocks[0].attention
whole = layer(x)[:, -1:]
mistakes = {
    "right": {},
    "position 0": {"positions": torch.zeros(1, 1, dtype=torch.long)},
    "first key only": {"mask": torch.arange(12) < 1},  # one query, twelve keys
}
for name, mistake in mistakes.items():
    cache = GrowingCache()
    layer(x[:, :-1], cache=cache)
    last = layer(x[:, -1:], cache=cache, **mistake)
    error = ((last - whole).norm() / whole.norm()).item()
    print(f"{name:15s} relative error {error:.1e}")
    assert error > 0.5 if mistake else error < 1e-5

# %%
# The symptom: the first new token is right, for it comes from the prompt's own
# pass, and the text decays from the second on.
#
# Several texts at once
# ---------------------
# Prompts of different length are padded on the *left*, so that all go on in
# one column. ``real`` says what is a token; the cache hides the rest.
texts = torch.randint(V, (2, 6))
real = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
both = tfdoc.generate(model, texts, max_new_tokens=8, real=real)
alone = tfdoc.generate(model, texts[1:, 2:], max_new_tokens=8)
assert torch.equal(both[1, 6:], alone[0, 4:])

# %%
# Exercise
# --------
# The cache of a beginning can serve for two endings, if what came after the
# beginning is forgotten in between.
beginning, endings = torch.randint(V, (1, 9)), torch.randint(V, (2, 1, 3))


def ask_twice(model, beginning, endings):
    """Your turn: scores after each ending, reading the beginning once."""
    cache = model.new_cache()
    model(beginning, cache=cache)
    return [model(ending, cache=cache) for ending in endings]


def check(ask_twice):
    answers = ask_twice(model, beginning, endings)
    for ending, scores in zip(endings, answers, strict=True):
        text = torch.cat([beginning, ending], 1)
        gap = (model(text)[:, -3:] - scores).abs().max()
        if gap > 1e-3:
            return f"not yet: an ending is off by {gap:.2f}"
    return "right"


print(check(ask_twice))

# sphinx_gallery_start_ignore
assert check(ask_twice).startswith("not yet")


def solution(model, beginning, endings):
    cache, found = model.new_cache(), []
    model(beginning, cache=cache)
    for ending in endings:
        found.append(model(ending, cache=cache))
        cache.crop(beginning.shape[1])
    return found


assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    After each ending, ``cache.crop(beginning.shape[1])``.
#
# **Read on.** Pope et al. (2022, arXiv:2211.05102). The components:
# :class:`tfdoc.GrowingCache`, :class:`tfdoc.PreallocatedCache`,
# :class:`tfdoc.SlidingCache`. Next: :doc:`/learn/6_models/08_small_gpt`.
