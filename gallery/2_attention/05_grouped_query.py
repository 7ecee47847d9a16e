r"""
Share keys and values, and the cache shrinks
============================================

For everyone who loads Llama, Mistral or Qwen, or who pays for the memory of
long texts. In grouped-query attention several query heads share one head of
keys and values. At the end you can write it, tell it from its most common
bug, and compute the cache of any model.
"""

# %%
# Four askers, two answerers
# --------------------------
# H = 4 query heads, G = 2 heads of keys and values: each serves a *group* of
# H / G neighbouring query heads. Which one does query head h read?
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama import modeling_llama as hf

import tfdoc

torch.manual_seed(0)
print("heads 0 1 2 3 read", torch.arange(2).repeat_interleave(2).tolist())

# %%
# With G = H everyone has their own: plain multi-head attention. With G = 1
# all share one: *multi-query* attention. Grouped queries lie between.
fig, axes = plt.subplots(1, 3, figsize=(6, 2.8), layout="constrained")
names = {6: "multi-head", 2: "grouped", 1: "multi-query"}
for ax, groups in zip(axes, names, strict=True):
    shared = torch.arange(groups).repeat_interleave(6 // groups).tolist()
    for h, g in enumerate(shared):
        middle = (g + 0.5) * 6 / groups - 0.5
        ax.plot([h, middle], [1, 0], f"C{g}o-")
    ax.set(title=f"{names[groups]}\nG = {groups}", xticks=[], yticks=[])
    ax.set(xlim=(-1, 6), ylim=(-0.2, 1.2))
    ax.spines[:].set_visible(False)
axes[0].set_yticks([0, 1], ["keys,\nvalues", "queries"])
axes[0].tick_params(length=0)
# sphinx_gallery_start_ignore
fig.set_label(
    "Six query heads above, tied to the heads of keys and values below. "
    "Left, six of these, one for each; in the middle two, for three each; "
    "right, one for all."
)
# sphinx_gallery_end_ignore

# %%
# By hand, and by Llama
# ---------------------
# Keys and values are projected to G heads of width d instead of H, then each
# is repeated for its group. The rest is multi-head attention.
# :class:`tfdoc.MultiHeadAttention` takes ``num_kv_heads``. Its weights have
# the names that Hugging Face uses, so those of a small random Llama load as
# they are. (Cosine 1 and sine 0 turn nothing: no positions here.)
B, T, D, H, G = 2, 6, 32, 8, 2
d = D // H
config = hf.LlamaConfig(
    hidden_size=D,
    num_attention_heads=H,
    num_key_value_heads=G,
    attn_implementation="eager",
)
llama = hf.LlamaAttention(config, layer_idx=0)
plain = tfdoc.part(tfdoc.MultiHeadAttention, num_heads=H, bias=False)
ours = plain.but(num_kv_heads=G).build(D)
ours.load_state_dict(llama.state_dict())
x = torch.randn(B, T, D)
still = torch.ones(B, T, d), torch.zeros(B, T, d)
theirs, _ = llama(x, position_embeddings=still)


def split(x):
    """(B, T, heads * d) to (B, heads, T, d), for H heads or for G."""
    return x.unflatten(-1, (-1, d)).transpose(1, 2)


# %%
# Now by hand, and as multi-head attention whose matrices repeat:
def by_hand(x, share, layer=ours):
    """Grouped-query attention; `share` makes H heads of G."""
    q = split(layer.q_proj(x))
    k, v = share(split(layer.k_proj(x))), share(split(layer.v_proj(x)))
    mixed = (q @ k.mT / d**0.5).softmax(-1) @ v
    return layer.o_proj(mixed.transpose(1, 2).flatten(2))


repeated = plain.build(D)
weights = ours.state_dict()
for name in ("k_proj.weight", "v_proj.weight"):
    heads = weights[name].unflatten(0, (G, d))
    weights[name] = heads.repeat_interleave(H // G, dim=0).flatten(0, 1)
repeated.load_state_dict(weights)
mine = by_hand(x, lambda kv: kv.repeat_interleave(H // G, dim=1))
results = {"tfdoc": ours(x), "Llama": theirs, "repeated heads": repeated(x)}
for name, result in results.items():
    torch.testing.assert_close(result, mine)
    print(f"{name:14s} differs by {(result - mine).abs().max():.1e}")

# %%
# Pitfall: repeat is not repeat_interleave
# ----------------------------------------
# ``repeat`` copies the whole row of heads, 0 1 0 1, instead of each head in
# place, 0 0 1 1. Shapes agree, and many queries read another group's keys.
print("wrong", torch.arange(2).repeat(2).tolist())
error = {}
for groups in (1, 2, 4, 8):
    layer = plain.but(num_kv_heads=groups).build(D)
    wrong = by_hand(x, lambda kv: kv.repeat(1, H // kv.shape[1], 1, 1), layer)
    right = layer(x)
    error[groups] = ((wrong - right).norm() / right.norm()).item()

fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.bar([str(groups) for groups in error], error.values(), color="C1")
ax.set(title="Wrong, but not at the two ends")
_ = ax.set(xlabel="heads of keys and values, G", ylabel="relative error")
# sphinx_gallery_start_ignore
fig.set_label(
    "Bars: relative error of the wrong sharing for 1, 2, 4 and 8 heads of "
    "keys and values. It is zero at both ends and large in between."
)
# sphinx_gallery_end_ignore

# %%
# With one shared head, or one each, the two functions agree, and a test of
# those two cases passes. Test with 1 < G < H.
assert max(error[1], error[8]) < 1e-6
assert min(error[2], error[4]) > 0.1

# %%
# What it costs
# -------------
# Two of the four matrices shrink from D x Hd to D x Gd. The work between
# tokens stays: every query head still makes its own T x T scores.
for groups in (1, 2, 8):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layer = plain.but(num_kv_heads=groups).build(D)
        layer(torch.ones(1, T, D))
    matrices = 2 * D * H * d + 2 * D * groups * d
    assert sum(p.numel() for p in layer.parameters()) == matrices
    assert counter.get_total_flops() == 2 * T * matrices + 4 * T**2 * H * d

# %%
# The gain is elsewhere. A model that writes text keeps the keys and values of
# all tokens so far, the *KV cache*, and reads all of it for each new one:
# 2 G d numbers a token and layer. Llama-3-8B has L = 32 layers, H = 32, G = 8
# and d = 128; a number in bfloat16 takes two bytes.


def cache_bytes(tokens, G, L=32, d=128, size=2):
    """Keys and values, of every layer, for one sequence."""
    return 2 * L * G * d * tokens * size


with torch.device("meta"):
    layer = tfdoc.MultiHeadAttention(4096, num_heads=32, num_kv_heads=8)
    layer.to(torch.bfloat16)
    with tfdoc.record(layer, "[kv]_proj") as seen:
        layer(torch.ones(1, 8192, 4096, dtype=torch.bfloat16))
one_layer = sum(t.nbytes for t in seen.values())
assert 32 * one_layer == cache_bytes(8192, G=8)

# %%
# At three numbers of heads, in a sequence that grows:
lengths = [2**n for n in range(10, 18)]
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
labels = {32: "one each", 8: "as trained", 1: "one for all"}
for groups, label in labels.items():
    gigabytes = [cache_bytes(n, groups) / 1e9 for n in lengths]
    ax.loglog(lengths, gigabytes, "o-", label=f"G = {groups}, {label}")
ax.set(title="KV cache of Llama-3-8B", xlabel="tokens", ylabel="gigabytes")
ax.minorticks_off()
ax.set_xticks([2**10, 2**13, 2**17], ["1k", "8k", "128k"])
ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Gigabytes of cache against tokens, both logarithmic, for 32, 8 and 1 "
    "heads of keys and values: three parallel lines, the middle one a quarter "
    "of the upper."
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: the config that forgot
# -------------------------------
# Rebuild the model, leave out ``num_key_value_heads``, and nothing complains
# until you load weights: the default is one each. The weights are a little
# larger, the cache is far larger. How many texts fit beside the weights then?
forgot = hf.LlamaConfig(hidden_size=4096, num_attention_heads=32)
shape = 128_256, 4096, 32, 14_336, 32  # V, D, L, F, H
for groups in (8, forgot.num_key_value_heads):
    weights_gb = 2 * tfdoc.estimate_params(*shape, num_kv_heads=groups)
    gigabytes = cache_bytes(8192, groups) / 1e9
    fit = int((80 - weights_gb) / gigabytes)
    print(f"G = {groups:2d}: {gigabytes:.2f} GB, {fit} sequences on 80 GB")
assert forgot.num_key_value_heads == 32

# %%
# Exercise
# --------
# Turn a trained multi-head layer into a grouped one, to be trained a little
# more: each shared head starts as the *mean* of the heads that it replaces.


def pool(weight, H, G):
    """(H * d, D) to (G * d, D). Your turn: this keeps the first G heads."""
    return weight[: len(weight) * G // H]


def check(pool):
    """Row c of head h holds 10 h + c; four heads become two."""
    weight = torch.tensor([[10.0 * h + c] for h in range(4) for c in range(3)])
    found, wanted = pool(weight, 4, 2).flatten(), [5, 6, 7, 25, 26, 27]
    verdict = "right" if found.tolist() == wanted else "not yet"
    return f"{verdict}: {found.tolist()}, wanted {wanted}"


print(check(pool))

# sphinx_gallery_start_ignore
assert check(
    lambda w, H, G: w.view(G, H // G, -1, w.shape[1]).mean(1).flatten(0, 1)
).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``weight.view(G, H // G, -1, weight.shape[1]).mean(1).flatten(0, 1)``:
#    name the axes (group, member, channel, input), then average the members.
#
# **Read on.** Ainslie et al., *GQA* (2023), from whom the exercise is;
# Shazeer, *Fast transformer decoding: one write-head is all you need* (2019).
# In the package: :class:`tfdoc.MultiHeadAttention`. Next:
# :doc:`/learn/2_attention/06_sliding_windows_and_sinks`.
