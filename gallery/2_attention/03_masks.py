r"""
A mask decides who may look at whom, and it fails in silence
============================================================

Most wrong masks raise no error: the shapes agree, and numbers come out. Read
this page before you write a mask for padding, for generation or for packed
documents. At the end you can build masks from three pieces, hand them to
libraries that disagree about what True means, and test in four lines what a
model really looks at.
"""

# %%
# Four tokens that may not look ahead
# -----------------------------------
# A softmax divides exponentials by their sum. A score of :math:`-\infty` has
# exponential 0: its key gets no weight, and the others share it all. Take
# scores that are all equal, and hide each key that comes after its query:
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

torch.manual_seed(0)

may_attend = torch.ones(4, 4, dtype=torch.bool).tril()
scores = torch.zeros(4, 4).masked_fill(~may_attend, -torch.inf)
print(scores.softmax(-1).cpu().numpy().round(2))

# %%
# Rows are queries, columns are keys: query 0 sees itself, query 3 four keys.
#
# Three pieces make the rest
# --------------------------
# In ``tfdoc`` a mask is a rule about positions, and True always means *may
# attend*. Rules combine with ``&`` (both), ``|`` (either) and ``~`` (not).
from tfdoc import Causal, MultiHeadAttention, Padding, Window

rules = {
    "Causal()": Causal(),
    "Window(3)": Window(3),
    "Padding([5])": Padding([5]),
    "Causal() & Window(3)": Causal() & Window(3),
    "Causal() & Padding([5])": Causal() & Padding([5]),
    "Causal() | Padding([3])": Causal() | Padding([3]),
}
fig, axes = plt.subplots(2, 3, figsize=(7.5, 5.2), layout="constrained")
for ax, (name, rule) in zip(axes.flat, rules.items(), strict=True):
    ax.imshow(rule.table(8).view(8, 8).tolist(), vmin=0, vmax=1)
    ax.set_title(name, fontsize=11)
    ax.set(xticks=[0, 7], yticks=[0, 7])
fig.supxlabel("key (yellow: may be seen)")
_ = fig.supylabel("query")
# sphinx_gallery_start_ignore
fig.set_label(
    "Six tables of queries by keys. Causal: the lower triangle. Window: a "
    "band along the diagonal. Padding: the first five columns. Causal and "
    "window: a band below the diagonal. Causal and padding: the triangle "
    "without its last three columns. Causal or padding: the triangle plus "
    "the first three columns."
)
# sphinx_gallery_end_ignore

# %%
# Bottom: the sliding window of Mistral; five tokens filled up to eight, in a
# decoder; and a *prefix* of three tokens that everybody may read.
#
# One mask, five implementations
# ------------------------------
# A batch of B = 2 rows, H = 4 heads of width d = 8, T = 6 tokens; the second
# row has four real ones. By hand, by ``tfdoc`` twice, and by
# :func:`torch.nn.functional.scaled_dot_product_attention`, where True also
# means *may attend*:
from tfdoc import attention, from_torch, fused_attention, mask_from_torch


def by_hand(q, k, v, mask, hidden=-torch.inf):
    """Softmax attention; `hidden` is the score of what may not be seen."""
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, hidden)
    return scores.softmax(-1) @ v


rule = Causal() & Padding([6, 4])
mask = rule(torch.arange(6), torch.arange(6))  # (2, 1, 6, 6)
q, k, v = torch.randn(3, 2, 4, 6, 8)
reference = by_hand(q, k, v, mask)
for way in attention, fused_attention, F.scaled_dot_product_attention:
    out = way(q, k, v, mask)
    torch.testing.assert_close(out, reference)
    print(f"{way.__name__}: {(out - reference).abs().max():.1e}")

# %%
# :class:`torch.nn.MultiheadAttention` takes the opposite: True means
# *blocked*, in both its masks. :func:`tfdoc.mask_from_torch` translates.
theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
x = torch.randn(2, 6, 32)
ahead = ~Causal().table(6)
filling = torch.arange(6) >= torch.tensor([[6], [4]])
out, _ = theirs(x, x, x, key_padding_mask=filling, attn_mask=ahead)
mask = mask_from_torch(ahead, filling, true_means="blocked")
ours = from_torch(theirs)(x, mask=mask)  # the same weights
torch.testing.assert_close(ours, out)
print(f"MultiheadAttention: {(ours - out).abs().max():.1e}")

# %%
# Pitfall: upside down
# --------------------
# Give that module the mask that all others want. Nothing complains, so ask
# the model, not the code: change one token, and see which outputs move.


def influence(model, x, mask):
    """How far output i moves when token j changes: (T, T), i in rows."""
    tokens = range(x.shape[1])
    changed = x.repeat(len(tokens), 1, 1)  # one copy for each token
    changed[tokens, tokens] += 1
    return (model(changed, mask) - model(x, mask)).abs().amax(-1).T


def attend(x, mask):
    return theirs(x, x, x, attn_mask=mask)[0]


fig, axes = plt.subplots(1, 2, figsize=(7, 4), layout="constrained")
for ax, name in zip(axes, ("blocked", "may attend"), strict=True):
    mask = ahead if name == "blocked" else ~ahead
    moved = influence(attend, x[:1], mask)
    ax.imshow(moved.tolist(), vmin=0)
    ax.set(title=f"True = {name}", xlabel="token changed", ylabel="output")
    future, nan = moved.triu(1).nan_to_num().max(), moved.isnan().any(-1)
    print(f"True = {name:10s} future {future:.2f}, rows of NaN: {nan.sum()}")
assert influence(attend, x[:1], ahead).triu(1).max() < 1e-5
assert future > 0.1
# sphinx_gallery_start_ignore
assert nan.tolist() == [False] * 5 + [True]
out, _ = theirs(x, x, x, key_padding_mask=~filling)
assert out[0].isnan().all()
assert out[1].isfinite().all()
fig.set_label(
    "Which output moves when a token changes. Left, the right polarity: "
    "only tokens at or before the output. Right, the wrong one: tokens after "
    "it, and an empty last row, which is not a number."
)
# sphinx_gallery_end_ignore

# %%
# On the right each token reads its future, which in training is the answer.
# The last one has none: NaN. An inverted padding mask gives NaN in full rows
# only; the others read their padding, in silence. The mend is one ``~``.
#
# Pitfall: nothing left to see
# ----------------------------
# Pad a batch on the left, as for generation, and the first queries see no
# key. What becomes of such a row, and of the gradient at the values when the
# loss **ignores** it?
left_padded = (Causal() & ~Padding([2])).table(6)
ways = {
    "by hand, -inf": by_hand,
    "by hand, -1e9": lambda *inputs: by_hand(*inputs, hidden=-1e9),
    "torch's sdpa": F.scaled_dot_product_attention,
    "tfdoc.attention": attention,
}
found = []
for name, way in ways.items():
    value = v.clone().requires_grad_()
    out = way(q, k, value, left_padded)
    out[:, :, 2:].sum().backward()  # rows 0 and 1 are thrown away
    found.append((out[0, 0, 0, 0].item(), value.grad.mean().item()))
    print("{:15s}  output {:5.2f}, gradient {:.2f}".format(name, *found[-1]))
assert torch.tensor(found[0]).isnan().all()
assert abs(found[1][0] - v[0, 0, :, 0].mean()) < 1e-6
assert found[2][0] == found[3][0] == 0

# %%
# With :math:`-\infty`, a row that nobody reads makes the gradient of every
# value NaN: zero times NaN is NaN. A finite number makes it the mean of all
# values, padding and future included. Zero harms nobody.
#
# Pitfall: causal, with a cache
# -----------------------------
# A model that generates keeps old keys: one new query, six keys. But
# ``is_causal=True`` aligns the triangle with the *first* key, so that the
# newest token sees the oldest and nothing else.
newest = q[:, :, -1:]
wrong = F.scaled_dot_product_attention(newest, k, v, is_causal=True)
right = attention(newest, k, v, Causal())  # the last query is at the last key
torch.testing.assert_close(wrong, v[:, :, :1])
torch.testing.assert_close(right, attention(q, k, v, Causal())[:, :, -1:])
print(f"wrong by up to {(wrong - right).abs().max():.2f}")

# %%
# What it costs
# -------------
# No parameter. A table costs :math:`T^2` bytes and spares no operation: hidden
# scores are computed, then thrown away. A rule costs no bytes; as a window it
# spares the scores out of sight.
T, H, d = 1024, 8, 64
rule = Causal() & Window(128)
table = rule.table(T)
assert table.nbytes == T**2
assert table.sum() == T * 128 - 128 * 127 // 2
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    model = MultiHeadAttention(H * d, num_heads=H, mask=rule)
    model.core(*torch.empty(3, 1, H, T, d), rule)
assert counter.get_total_flops() < 0.25 * (4 * H * T**2 * d)  # of q k^T, w v
print(f"{table.nbytes:,} bytes, in use {table.float().mean():.0%}")
# sphinx_gallery_start_ignore
assert sum(p.numel() for p in model.parameters()) == 4 * H * d * (H * d + 1)
# sphinx_gallery_end_ignore

# %%
# Exercise
# --------
# To waste no padding, training packs several documents into one row; each
# must see its own tokens only. `document` numbers each token's document.


def keep_apart(document):
    """Your turn: here, a document reads those before it."""
    return Causal().table(len(document))


def check(make_mask):
    """Say whether packed documents come out as they do alone."""
    model = MultiHeadAttention(16, num_heads=2)
    document, x = torch.tensor([0, 0, 0, 1, 1]), torch.randn(1, 5, 16)
    packed = model(x, mask=make_mask(document))
    alone = [model(x[:, document == n], mask=Causal()) for n in (0, 1)]
    apart = (packed - torch.cat(alone, 1)).abs().amax(-1)[0]
    wrong = (apart > 1e-5).nonzero().flatten().tolist()
    return f"not yet: tokens {wrong} differ" if wrong else "right"


print(check(keep_apart))
# sphinx_gallery_start_ignore
assert check(keep_apart).startswith("not yet")
assert check(
    lambda document: Causal().table(5) & (document[:, None] == document)
).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``Causal().table(len(document)) & (document[:, None] == document)``: the
#    comparison is a table of queries by keys, True within a document.
#
# **Read on.** :class:`tfdoc.Mask` shows how to write a rule of your own.
# Raffel et al. (2020), section 3.2, compare causal and prefix masks. Next:
# :doc:`/learn/2_attention/04_multi_head`.
