r"""
Four heads answer four questions at the price of one
====================================================

For everyone who splits a tensor into heads and hopes that the transposes are
right. One softmax gives one average; four heads, each on a quarter of the
width, give four, with the same weights and the same work. At the end you can
split and join heads without mixing tokens, measure what a head buys, and read
attention maps without averaging them away.
"""

# %%
# Splitting three tokens
# ----------------------
# Take B = 1 sequence of T = 3 tokens of width D = 4. H = 2 heads of width
# d = D / H cut *each token* in two: head 0 gets the left half of every token.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import tfdoc

torch.manual_seed(0)


def split(x, H):
    """(B, T, D) to (B, T, H, d), each token cut, to (B, H, T, d)."""
    B, T, D = x.shape
    return x.view(B, T, H, D // H).transpose(1, 2)


tokens = torch.arange(12).view(1, 3, 4)
print("tokens", tokens[0].tolist())
for head, rows in enumerate(split(tokens, 2)[0].tolist()):
    print("head", head, rows)

# %%
# By hand, a head at a time
# -------------------------
# Head h owns d columns of each projection and runs an attention of its own.
# Put the H results side by side (*concatenate*) and project once more.
# :class:`tfdoc.MultiHeadAttention` does all heads in one product;
# :func:`tfdoc.from_torch` gives it the weights of PyTorch's module.
B, T, D, H = 2, 8, 32, 4
d = D // H
theirs = torch.nn.MultiheadAttention(D, H, bias=False, batch_first=True)
ours = tfdoc.from_torch(theirs)
x = torch.randn(B, T, D)

W_q, W_k, W_v, W_o = (p.T for p in ours.parameters())
heads = []
for h in range(H):
    mine = slice(h * d, (h + 1) * d)
    q, k, v = (x @ W[:, mine] for W in (W_q, W_k, W_v))
    heads.append((q @ k.mT / d**0.5).softmax(-1) @ v)
by_hand = torch.cat(heads, dim=-1) @ W_o

for name, y in {"tfdoc": ours(x), "torch.nn": theirs(x, x, x)[0]}.items():
    torch.testing.assert_close(by_hand, y)
    print(f"{name:8s} differs by {(by_hand - y).abs().max():.1e}")

# %%
# What heads buy
# --------------
# Ask every token for a quarter of the token before it, another quarter of the
# one before that, and so on: four questions. Tokens are noise, with eight
# channels more that say where they stand.
angles = torch.arange(12)[:, None] * 1.5 * 2.0 ** -torch.arange(4)
where = torch.cat([angles.cos(), angles.sin()], dim=-1).expand(32, 12, 8)


def train(num_heads, steps=500):
    """Train a layer; return it, its last inputs, and its errors."""
    model, errors = tfdoc.MultiHeadAttention(40, num_heads=num_heads), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(steps):
        content = torch.randn(32, 12, 32)
        inputs = torch.cat([content, where], dim=-1)
        quarters = enumerate(content.chunk(4, dim=-1), start=1)
        answers = torch.cat([q.roll(back, 1) for back, q in quarters], -1)
        # From token 4 on: the first four have too few before them.
        error = F.mse_loss(model(inputs)[:, 4:, :32], answers[:, 4:])
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    return model, inputs, errors


# %%
# With 1, 2 and 4 heads, the same number of weights in all three:
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for colour, num_heads in enumerate((1, 2, 4)):
    model, inputs, errors = train(num_heads)
    floor, reached = 1 - num_heads / 4, sum(errors[-20:]) / 20
    assert abs(reached - floor) < 0.03
    ax.plot(errors, f"C{colour}", label=f"H = {num_heads}: {reached:.2f}")
    ax.axhline(floor, color=f"C{colour}", ls=":")
ax.set(title="Four questions, one layer", xlabel="step", ylabel="error")
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Error against training step for 1, 2 and 4 heads. Each curve falls to "
    "the dotted line of its floor and stays there: three quarters, one half "
    "and zero."
)
# sphinx_gallery_end_ignore

# %%
# The dotted lines are :math:`1 - H/4`. A head that goes by position hands on
# *one* mixture of the tokens. H mixtures of four independent things explain
# :math:`H/4` of their variance at most: H of them whole, or a part of each.
# The four heads, watched with :func:`tfdoc.record`:
with tfdoc.record(model, "core.weights") as seen:
    model(inputs)
weights = seen["core.weights"].detach()  # (B, H, queries, keys)

fig, axes = plt.subplots(2, 2, figsize=(6, 6), layout="constrained")
for head, ax in enumerate(axes.flat):
    ax.imshow(weights[0, head].tolist(), vmin=0, vmax=1)
    ax.set(title=f"head {head}", xlabel="key", ylabel="query")
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Four attention maps, one a head. In each, from the fifth row down, "
    "nearly all weight lies on one diagonal, a different distance back for "
    "every head."
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: the average of the heads
# ---------------------------------
# :class:`torch.nn.MultiheadAttention` returns the *mean* map unless you ask
# for ``average_attn_weights=False``. The entropy of a row of weights says
# among how many keys it is shared out:
mean_map = theirs(x, x, x)[1]
all_maps = theirs(x, x, x, average_attn_weights=False)[1]
torch.testing.assert_close(mean_map, all_maps.mean(1))


def keys_in_use(w):
    """Exponential of the entropy: 1 = one key, n = n keys alike."""
    return torch.special.entr(w[..., 4:, :]).sum(-1).mean().exp()


apart, averaged = keys_in_use(weights), keys_in_use(weights.mean(1))
print(f"a head uses {apart:.1f} keys, the average {averaged:.1f}")
assert averaged > 2 * apart

# %%
# Pitfall: a view that mixes tokens
# ---------------------------------
# ``x.view(B, H, T, d)`` has the right shape at once, but cuts in the wrong
# places: token 0 below stands there twice, as two tokens. Worse, the causal
# mask leaks: change the last token, and tokens before it change too.
print("head 0", tokens.view(1, 2, 3, 2)[0, 0].tolist())
changed = x.clone()
changed[:, -1] = 0


def attend(x, cut):
    heads = tfdoc.attention(*[cut(x)] * 3, tfdoc.Causal())
    return heads.transpose(1, 2).flatten(2)


cuts = {"right": lambda x: split(x, H), "wrong": lambda x: x.view(B, H, T, d)}
for name, cut in cuts.items():
    leak = (attend(x, cut) - attend(changed, cut))[:, :-1].abs().max().item()
    print(f"{name} split: earlier tokens change by {leak:.2f}")
    assert leak < 1e-6 if name == "right" else leak > 0.5

# %%
# Pitfall: batch first
# --------------------
# Without ``batch_first=True``, PyTorch's module takes (T, B, D). A (B, T, D)
# goes through as well, and *samples* attend to each other.
strangers = x.clone()
strangers[1:] = 0
for batch_first in (True, False):
    module = torch.nn.MultiheadAttention(D, H, batch_first=batch_first)
    a, b = (module(t, t, t)[0][0] for t in (x, strangers))
    moved = (a - b).abs().max().item()
    print(f"batch_first={batch_first}: a stranger moves mine by {moved:.2f}")
    assert moved < 1e-6 if batch_first else moved > 0.1

# %%
# What it costs
# -------------
# Four D x D matrices and their biases, :math:`8TD^2` operations to project
# and :math:`4T^2D` between tokens, whatever H is: H heads of width D / H do
# the work of one. Only the maps, :math:`HT^2` numbers, grow.
for num_heads in (1, 4, 32):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layer = tfdoc.MultiHeadAttention(D, num_heads=num_heads)
        layer(torch.ones(1, T, D))
    assert counter.get_total_flops() == 8 * T * D**2 + 4 * T**2 * D
    assert sum(p.numel() for p in layer.parameters()) == 4 * D**2 + 4 * D

# %%
# Exercise
# --------
# Join the heads again: (B, H, T, d) back to (B, T, D).


def join(heads):
    """Your turn: the shape is right, the tokens are not."""
    B, H, T, d = heads.shape
    return heads.reshape(B, T, H * d)


def check(join):
    """Splitting and joining must give the tokens back."""
    x = torch.arange(120).view(2, 5, 12)
    kept = (join(split(x, 4)) == x).double().mean().item()
    right = "right" if kept == 1 else "not yet"
    return f"{right}: {kept:.0%} of the numbers are where they were"


print(check(join))

# sphinx_gallery_start_ignore
assert check(lambda h: h.transpose(1, 2).flatten(2)).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``heads.transpose(1, 2).flatten(2)``: undo the swap first, so that the
#    pieces of a token lie side by side, then glue them together.
#
# **Read on.** Vaswani et al., *Attention is all you need* (2017), section
# 3.2.2. In the package: :class:`tfdoc.MultiHeadAttention`. Next:
# :doc:`/learn/2_attention/05_grouped_query`.
