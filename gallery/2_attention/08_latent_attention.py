r"""
Latent attention: one small vector instead of many keys and values
==================================================================

DeepSeek and Kimi models remember a few hundred numbers a token and layer,
where plain attention with as many heads keeps tens of thousands. Read this
page if you serve one, or wonder how all heads can live on one vector. At the
end you can write both forms, and say why positions need a key of their own.
"""

# %%
# A key is made, so it can be made later
# --------------------------------------
# A cache holds keys and values because they are costly to make again. But if
# all of them come from one short *latent* c of R numbers by two matrices, c is
# enough. Two heads, latents of 2 numbers, keys of 3:
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as hf

import tfdoc
from tfdoc import Causal, GrowingCache, LatentAttention, RMSNorm, RoPE, part

torch.manual_seed(0)
R, d = 2, 3
c = torch.tensor([1.0, 2.0])  # what is kept of one token
up = torch.randn(2, d, R)  # a matrix for each head
query = torch.randn(2, d)
keys = up @ c  # made when they are needed: (2, 3)
expanded = (query * keys).sum(-1)

# %%
# The sum can be taken in another order. :math:`q^T (W c) = (W^T q)^T c`: turn
# the query into the latent's space once, and the latent *is* the key.
absorbed = (up.mT @ query[..., None])[..., 0] @ c
for name, scores in {"expanded": expanded, "absorbed": absorbed}.items():
    print(name, [f"{score:.4f}" for score in scores.tolist()])
torch.testing.assert_close(absorbed, expanded)

# %%
# What caches hold
# ----------------
# Plain attention keeps :math:`2\,H\,d` numbers a token and layer, grouped
# queries :math:`2\,G\,d`, latent attention R and a little more. The ledger
# knows published models; 16-bit numbers here.
names = ["llama-2-7b", "llama-3-8b", "mistral-7b-v0.1", "deepseek-v3"]
kept = {}
for name in names:
    config = tfdoc.preset(name)
    size = tfdoc.ledger(config).kv_cache(1, 1024, "bf16")
    kept[name] = size / 1024 / config["num_hidden_layers"] / 2
fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
bars = ax.barh(list(kept), list(kept.values()))
ax.bar_label(bars, fmt="{:,.0f}", padding=3)
ax.set(xlabel="numbers a token and layer", title="What is remembered")
ax.set_xlim(0, 1.2 * max(kept.values()))
ax.invert_yaxis()
# sphinx_gallery_start_ignore
fig.set_label(
    "Bars of the numbers that a cache keeps for each token and layer: "
    + ", ".join(f"{name} {value:,.0f}" for name, value in kept.items())
    + "."
)
# sphinx_gallery_end_ignore
assert kept["deepseek-v3"] == 512 + 64

# %%
# By tfdoc, and by DeepSeek
# -------------------------
# Heads have three widths: of the part of queries and keys that is not turned
# by position, of the part that is, and of values.
D, H, R, widths = 64, 4, 24, (16, 8, 16)
config = DeepseekV3Config(
    hidden_size=D,
    num_attention_heads=H,
    num_key_value_heads=H,
    q_lora_rank=None,
    kv_lora_rank=R,
    qk_nope_head_dim=widths[0],
    qk_rope_head_dim=widths[1],
    v_head_dim=widths[2],
    attn_implementation="eager",
)
theirs = hf.DeepseekV3Attention(config, layer_idx=0)
heads = part(LatentAttention, num_heads=H, head_dim=widths, kv_rank=R)
ours = heads.build(D, mask=Causal(), norm=part(RMSNorm, eps=1e-6))
weights = theirs.state_dict()
renamed = {"_with_mqa": "", "layernorm": "norm"}
for old, new in renamed.items():
    weights = {name.replace(old, new): w for name, w in weights.items()}
ours.load_state_dict(weights)

# %%
T = 7
x, at = torch.randn(1, T, D), torch.arange(T)[None]
turns = hf.DeepseekV3RotaryEmbedding(config)(x, at)
hidden = torch.zeros(T, T).masked_fill(~Causal().table(T), -torch.inf)
expected = theirs(
    x, position_embeddings=turns, attention_mask=hidden[None, None]
)[0]
out = ours(x)
torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
print(f"DeepSeek's differs by {(out - expected).abs().max():.1e}")

# %%
# Decoding reads latents
# ----------------------
# The cache holds a latent and one turned key a token, whatever the number of
# heads. A single query meets it absorbed: all heads share the latents as keys
# and as values, as in :doc:`multi-query attention
# </learn/2_attention/05_grouped_query>`. A head's matrix U for values is
# applied after the average: :math:`\sum_j w_j U c_j = U \sum_j w_j c_j`.
cache = GrowingCache()
steps = [ours(token, cache=cache) for token in x.split(1, dim=1)]
torch.testing.assert_close(torch.cat(steps, 1), out, rtol=1e-4, atol=1e-5)
assert cache.nbytes == T * (R + widths[1]) * 4
print(f"{cache}, {cache.nbytes // T // 4} numbers a token")

# %%
# What it costs
# -------------
# One new token, with two heads of DeepSeek-V3's widths and S tokens before it.
# Expanded, keys and values of all S are made again each time; absorbed, only
# the query is changed. For a long prompt it is the other way round.
sizes = {"num_heads": 2, "head_dim": (128, 64, 128), "kv_rank": 512}


def flops(tokens, before, absorbs):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layer, cache = LatentAttention(64, **sizes), GrowingCache()
        layer._absorbs = lambda *_: absorbs  # force one form
        cache.update(*(torch.empty(1, 1, before, n) for n in (512, 64)))
        layer(torch.empty(1, tokens, 64), cache=cache)
    return counter.get_total_flops()


lengths = [16, 64, 256, 1024, 4096]
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, absorbs in {"expanded": False, "absorbed": True}.items():
    counts = [flops(1, n, absorbs) for n in lengths]
    ax.loglog(lengths, counts, "o-", label=name)
ax.set(xlabel="tokens before", ylabel="FLOPs", title="One more token")
_ = ax.legend(frameon=False)
assert flops(1, 4096, True) < flops(1, 4096, False) / 20
assert flops(512, 1, False) < flops(512, 1, True)
# sphinx_gallery_start_ignore
fig.set_label(
    "FLOPs of one new token against the tokens before it, both logarithmic: "
    "expanded rises in proportion from the start; absorbed stays nearly flat "
    "at first and is far below throughout."
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: turning what comes from the latent
# -------------------------------------------
# Why a key of its own for positions? Turn the key :math:`W c` at position p
# by the rotation :math:`\Omega_p`. The score is :math:`q^T \Omega_p W c`:
# between the query and the latent stands a turn that differs from key to key,
# so W can no longer move to the query's side. Who absorbs anyway gets other
# scores:
rope, d, S = RoPE(), 16, 6
up, q = torch.randn(d, R), torch.randn(d)
latents = torch.randn(S, R)
turned = rope((latents @ up.T)[None, None])[0, 0]
right = turned @ q
wrong = latents @ (up.T @ q)
error = (right - wrong).norm() / right.norm()
gap = (right[0] - wrong[0]).abs()
print(f"relative error {error:.2f}; off by {gap:.0e} at position 0")
assert error > 0.3
assert gap < 1e-4

# %%
# So each token keeps one extra key, shared by all heads, that is turned.
#
# Exercise
# --------
# How many numbers does a token of DeepSeek-V3 leave in a layer (R = 512, 64
# turned, H = 128 heads of 128 + 64 and 128), and how many would full keys and
# values of all heads be?


def kept_numbers(rank, turned, heads, plain, value):
    """Your turn: latent attention, then plain."""
    return rank + value, heads * (plain + turned)


def check(answer):
    right = answer(512, 64, 128, 128, 128) == (576, 40_960)
    return "right" if right else "not yet: positions count too"


print(check(kept_numbers))

# sphinx_gallery_start_ignore
assert check(kept_numbers).startswith("not yet")
assert check(lambda R, t, H, p, v: (R + t, H * (p + t + v))) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``rank + turned`` and ``heads * (plain + turned + value)``.
#
# **Read on.** DeepSeek-AI, *DeepSeek-V2* (2024, arXiv:2405.04434). The
# component: :class:`tfdoc.LatentAttention`. Next:
# :doc:`/learn/2_attention/09_fused_attention`.
