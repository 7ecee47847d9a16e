r"""
QK-norm: attention scores that cannot run away
==============================================

Qwen3, Gemma 3, OLMo 2 and others normalise queries and keys before they
compare them. Read this page if a training run dies at a learning rate that a
smaller model bore, or if you port one of these models. At the end you know
why scores grow, what holds them, and which of two published forms is which.
"""

# %%
# Two keys, one query
# -------------------
# A score is a dot product of a query and a key, over :math:`\sqrt{d}` for
# heads of width d. Double queries *and* keys, and it is four times as large.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

import tfdoc
from tfdoc import Causal, MultiHeadAttention, RMSNorm, RoPE, part

torch.manual_seed(0)


def unit(x):
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


# %%
query, keys = torch.ones(2), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
for factor in (1, 2, 4):
    q, k = factor * query, factor * keys
    plain = (k @ q / 2**0.5).softmax(0)[0]
    normed = (unit(k) @ unit(q) / 2**0.5).softmax(0)[0]
    print(f"times {factor}: {plain:.3f} for one key, {normed:.3f} normalised")
assert plain > 0.999 > normed + 0.3

# %%
# Normalised vectors have length :math:`\sqrt d`, so no score is larger than
# :math:`\sqrt d \cdot \sqrt d / \sqrt d = \sqrt d`. Only the norms' learned
# scales can still raise it: a number :math:`w` for each channel, one set for
# queries and one for keys.
#
# Why scores grow
# ---------------
# Sharper attention lowers the loss, and each step lengthens queries and keys
# together. At large steps the scores are soon so large that softmax passes no
# gradient. A small network is to write eight letters backwards:
D, H = 32, 4
ffn, norm = part(tfdoc.FeedForward, hidden_dim=4 * D), part(tfdoc.LayerNorm)


def train(qk_norm, rate, steps=200):
    torch.manual_seed(0)
    heads = part(MultiHeadAttention, num_heads=H, qk_norm=qk_norm)
    block = part(tfdoc.PreNormBlock, attention=heads, feedforward=ffn)
    trunk = tfdoc.Encoder(D, blocks=(block,) * 2, norm=norm)
    place, letter = torch.randn(8, D), nn.Embedding(16, D)
    head, losses, largest = nn.Linear(D, 16), [], []
    weights = nn.ModuleList([letter, trunk, head]).parameters()
    adam = torch.optim.Adam(weights, fused=True)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20)
        text = torch.randint(16, (32, 8))
        with tfdoc.record(trunk, "*.scores") as seen:
            logits = head(trunk(letter(text) + place))
        loss = F.cross_entropy(logits.flatten(0, 1), text.flip(1).flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        largest.append(max(s.abs().max().item() for s in seen.values()))
    return trunk, sum(losses[-20:]) / 20, largest


# %%
rates = [0.001, 0.01, 0.03, 0.1]
forms = {"without": None, "with QK-norm": part(RMSNorm)}
runs = {k: [train(form, r) for r in rates] for k, form in forms.items()}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
for name, found in runs.items():
    axes[0].semilogy(found[-1][2], label=name)
    axes[1].loglog(rates, [loss for _, loss, _ in found], "o-", label=name)
axes[0].set(title="At a rate of 0.1", xlabel="step", ylabel="largest score")
axes[1].set(title="At all rates", xlabel="rate", ylabel="loss at the end")
axes[1].legend(frameon=False)
(_, free, grown), (trunk, held, tame) = (found[-1] for found in runs.values())
assert max(grown) > 20 * max(tame)
assert free > 10 * held
# sphinx_gallery_thumbnail_number = 1
# sphinx_gallery_start_ignore
fig.set_label(
    "Left, the largest score over 200 steps at a rate of 0.1, logarithmic: "
    f"it climbs to {max(grown):.0f} without QK-norm and stays below "
    f"{max(tame) + 1:.0f} with it. Right, the final loss against the rate: "
    "the two agree at small rates; at 0.1 the loss ends at "
    f"{held:.3f} with QK-norm, at {free:.1f} without."
)
assert all(loss < 0.3 for _, loss, _ in [*runs["without"][:3]])
# sphinx_gallery_end_ignore

# %%
# QK-norm does not make a small rate better. It makes a large one possible,
# and large models feel at common rates what small ones feel at large rates
# (Wortsman et al. 2023, arXiv:2309.14322). Its own scales did grow, and bound
# the scores by :math:`\sqrt d \max|w_q w_k|`:
norms = trunk.blocks[0].attention
largest = (norms.q_norm.weight * norms.k_norm.weight).abs().max()
assert 1 < largest < 20

# %%
# By hand, by tfdoc, by Hugging Face
# ----------------------------------
# Qwen3 has the norm on each head, with one :math:`w_q` and one :math:`w_k` for
# all heads. (It also turns queries and keys by their positions: here by 0.)
T, d = 6, D // H
sizes = {"hidden_size": D, "num_attention_heads": H, "num_key_value_heads": H}
config = Qwen3Config(head_dim=d, attn_implementation="sdpa", **sizes)
theirs = Qwen3Attention(config, layer_idx=0)
for parameter in theirs.parameters():
    nn.init.normal_(parameter, std=0.3)
ours = MultiHeadAttention(
    D, num_heads=H, bias=False, mask=Causal(), qk_norm=part(RMSNorm, eps=1e-6)
)
ours.load_state_dict(theirs.state_dict())  # the names are the same
x = torch.randn(2, T, D)
made = (ours.q_proj(x), ours.k_proj(x), ours.v_proj(x))
q, k, v = (y.unflatten(-1, (H, d)).transpose(1, 2) for y in made)
q, k = unit(q) * ours.q_norm.weight, unit(k) * ours.k_norm.weight
heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
by_hand = ours.o_proj(heads.transpose(1, 2).flatten(2))
no_turn = torch.ones(1, T, d), torch.zeros(1, T, d)
qwen = theirs(x, no_turn, attention_mask=None)[0]
for name, y in {"tfdoc": ours(x), "Qwen3": qwen}.items():
    torch.testing.assert_close(y, by_hand, rtol=1e-5, atol=1e-5)
    print(f"{name:6s} largest difference {(y - by_hand).abs().max():.1e}")

# %%
# Two forms
# ---------
# Which vector is normalised differs. Let the last of four heads be a hundred
# times as loud as the first:
loud = torch.randn(1000, H, 64) * torch.tensor([1.0, 1, 10, 100])[:, None]
norms = {
    "Qwen3, Gemma 3: each head, one scale": RMSNorm(64),
    "OLMo 2: all heads as one vector": tfdoc.AcrossHeads(64, num_heads=H),
}
for name, norm in norms.items():
    sizes = norm(loud).square().mean((0, 2)).sqrt()
    print(f"{name:37s} {[round(s, 2) for s in sizes.tolist()]}")
    assert (sizes.max() / sizes.min() > 50) == ("as one" in name)

# %%
# OLMo 2 bounds all heads together, and the loud one stays loud.
#
# Pitfall: the norm after the turn
# --------------------------------
# With RoPE, queries and keys are turned by their positions, so that scores
# depend on distances only. The norm stands before the turn: after it, scales
# that differ between channels spoil that. Move all tokens on by 50:
rope, scales = RoPE(), 1 + 0.5 * torch.randn(2, 64)
q, k = torch.randn(2, 1, 1, T, 64)


def scores(start, first):
    at, (w_q, w_k) = torch.arange(T) + start, scales
    if first:
        return rope(unit(q) * w_q, at) @ rope(unit(k) * w_k, at).mT / 8
    return (unit(rope(q, at)) * w_q) @ (unit(rope(k, at)) * w_k).mT / 8


for first in (True, False):
    moved = (scores(50, first) - scores(0, first)).abs().max()
    print(f"norm {'before' if first else 'after'}: scores move by {moved:.1e}")
    assert (moved < 1e-4) if first else (moved > 0.1)

# %%
# What it costs
# -------------
# :math:`2d` parameters a layer, or :math:`(H + G)d` in OLMo 2, for G heads of
# keys. The counter of FLOPs sees matrix products only.
H, G, d = 32, 8, 128
for form, size in {RMSNorm: 2 * d, tfdoc.AcrossHeads: (H + G) * d}.items():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        heads = {"num_heads": H, "num_kv_heads": G, "qk_norm": part(form)}
        attention = MultiHeadAttention(H * d, bias=False, **heads)
        attention(torch.empty(1, T, H * d))
    weights = [p.numel() for p in attention.parameters() if p.ndim == 2]
    total = sum(p.numel() for p in attention.parameters())
    assert total == sum(weights) + size
    flops = 2 * T * sum(weights) + 4 * T**2 * H * d
    assert counter.get_total_flops() == flops

# %%
# Exercise
# --------
# Without RoPE one of the two scales is redundant. Move all of it to the
# queries, so that the keys' scale can be ones and the scores stay.


def merge(q_scale, k_scale):
    """Your turn: the new scale of the queries."""
    return q_scale + k_scale


def check(merge):
    two = (unit(q) * scales[0]) @ (unit(k) * scales[1]).mT
    one = (unit(q) * merge(*scales)) @ unit(k).mT
    gap = (two - one).abs().max()
    return "right" if gap < 1e-4 else f"not yet: off by {gap:.2f}"


print(check(merge))

# sphinx_gallery_start_ignore
assert check(merge).startswith("not yet")
assert check(torch.mul) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``q_scale * k_scale``: a score sums the products channel by channel, and
#    each product has both factors.
#
# **Read on.** Dehghani et al., *Scaling vision transformers to 22 billion
# parameters* (2023, arXiv:2302.05442). The components:
# :class:`tfdoc.MultiHeadAttention`, :class:`tfdoc.AcrossHeads`. Next:
# :doc:`/learn/4_normalisation/06_wirings`.
