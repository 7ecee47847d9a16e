r"""
Sliding windows and sinks: attention that forgets, and what it must keep
========================================================================

Mistral 7B (v0.1) lets every layer look back a fixed number of tokens, Gemma 3
most of its layers, gpt-oss every second one. Read this page if you load such a
model, serve long texts, or wonder why so many heads stare at the first token.
At the end you can count how far a window reaches, tell a window of w from one
of w + 1, and say what a sink is.
"""

# %%
# A window is one more mask
# -------------------------
# ``Causal() & Window(w)``: a query sees the w last positions, its own
# included. With w = 3, token 5 sees 3, 4 and 5.
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3TextConfig, GptOssConfig, MistralConfig
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention

import tfdoc
from tfdoc import Causal, MultiHeadAttention, SinkCore, Window, part

torch.manual_seed(0)
window = Causal() & Window(3)
print(window.table(6).int())

# Hugging Face counts the same way: ``sliding_window=3`` is three tokens.
config = MistralConfig(sliding_window=3, attn_implementation="eager")
added = create_sliding_window_causal_mask(
    config=config,
    inputs_embeds=torch.zeros(1, 6, 8),
    attention_mask=None,
    cache=None,
)
assert torch.equal(added[0, 0] == 0, window.table(6))

# %%
# Layers see further than windows
# -------------------------------
# A layer passes on what its keys knew. After L layers, information has come
# from :math:`L (w - 1)` tokens back. The gradient of the last output knows
# which inputs it depends on.
T, D, w = 40, 16, 5
block = part(
    tfdoc.TransformerBlock,
    num_heads=4,
    mask=Causal() & Window(w),
    hidden_dim=32,
)


def reach(layers):
    """How far back the last token's inputs lie."""
    x = torch.randn(1, T, D, requires_grad=True)
    tfdoc.Encoder(D, blocks=(block,) * layers)(x)[0, -1].sum().backward()
    return T - 1 - x.grad[0].abs().sum(-1).nonzero().min().item()


depths = range(1, 9)
reaches = [reach(layers) for layers in depths]
assert reaches == [layers * (w - 1) for layers in depths]
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
axes[0].imshow((Causal() & Window(w)).table(16).numpy(), cmap="Greens")
axes[0].set(title=f"One layer, w = {w}", xlabel="key", ylabel="query")
axes[1].plot(depths, reaches, "o-")
axes[1].set(title="Reach grows with depth", xlabel="layers")
_ = axes[1].set_ylabel("tokens back")
# sphinx_gallery_start_ignore
fig.set_label(
    "Left, the mask of one layer: a band of five keys below the diagonal. "
    "Right, how far back the last token's gradient reaches: a straight line, "
    f"from {reaches[0]} tokens with one layer to {reaches[-1]} with eight."
)
# sphinx_gallery_end_ignore

# %%
# What it spares
# --------------
# A query meets w keys instead of all: work and memory grow with
# :math:`T w` instead of :math:`T^2`. :func:`tfdoc.fused_attention` computes
# the band block by block. Memory of the cache stops at w - 1 tokens.
d, masks = 64, {"all": Causal(), "band": Causal() & Window(128)}
for length in (1024, 2048, 4096):
    x = torch.empty(1, 1, length, d, device="meta")
    work = {}
    for name, mask in masks.items():
        with FlopCounterMode(display=False) as counter:
            tfdoc.fused_attention(x, x, x, mask)
        work[name] = counter.get_total_flops()
    print(f"{length} tokens: {work['band'] / work['all']:.1%} of the products")
    assert work["all"] == 4 * length**2 * d  # masked pairs count here
    assert work["band"] <= 4 * length * (2 * 128) * d
q, k, v = torch.randn(3, 1, 2, 700, 16, dtype=torch.float64)
exact = tfdoc.attention(q, k, v, Causal() & Window(128))
banded = tfdoc.fused_attention(q, k, v, Causal() & Window(128))
apart = (banded - exact).abs().max()
print(f"blocks differ from the full matrix by {apart:.1e}")
torch.testing.assert_close(banded, exact, rtol=1e-12, atol=1e-12)

# %%
# Pitfall: off by one
# -------------------
# ``q - k <= w`` instead of ``q - k < w`` is a window of w + 1. Texts shorter
# than the window do not show it, and no shape does. On a longer text:
x = torch.randn(1, 12, D)
right = MultiHeadAttention(D, num_heads=2, mask=Causal() & Window(8))
wrong = MultiHeadAttention(D, num_heads=2, mask=Causal() & Window(9))
wrong.load_state_dict(right.state_dict())
gap = (right(x) - wrong(x)).abs().amax((0, 2))
print("differs at tokens", (gap > 1e-6).nonzero().flatten().tolist())
assert (gap[:8] < 1e-6).all()
assert (gap[8:] > 1e-4).all()

# %%
# Why the first token is stared at
# --------------------------------
# Softmax weights sum to 1, even where a head finds nothing. Trained heads
# send the rest to a token that everyone sees: the first. It becomes a *sink*
# (Xiao et al. 2023). Here a head has one loud key at position 0 with a value
# of zeros, and seeks a mark that only some texts contain.
T, d = 24, 8
key, value = torch.randn(T, d) * 0.3, torch.randn(T, d)
query = torch.zeros(d)
query[0] = 6.0
key[:, 0], key[0, 0], value[0] = 0.0, 3.0, 0.0


def read(key, value, keep):
    """What the query reads of the keys kept, and the weight of token 0."""
    weights = (key[keep] @ query / d**0.5).softmax(0)
    return weights @ value[keep], weights[keep == 0].sum()


everyone, last = torch.arange(T), torch.arange(T)[-8:]
kept = torch.cat([everyone[:1], last])
sizes = {
    "all keys": read(key, value, everyone),
    "the last 8": read(key, value, last),
    "the first and the last 8": read(key, value, kept),
}
for name, (out, sink) in sizes.items():
    print(f"{name:25s} reads {out.norm():.2f}, token 0 gets {sink:.2f}")
norms = [out.norm().item() for out, _ in sizes.values()]
assert norms[1] > 5 * norms[0]
assert norms[2] < 2 * norms[0]
# sphinx_gallery_start_ignore
sinks = [sink.item() for _, sink in sizes.values()]
assert min(sinks[0], sinks[2]) > 0.9
assert sinks[1] == 0
# sphinx_gallery_end_ignore

# %%
# Where the window drops the sink, its weight falls on whatever is left, and
# the layer reads noise: so breaks a model trained without a window. Keeping
# the first tokens mends it: ``Causal() & (Window(w) | Prefix(4))``; on texts
# beyond the trained length, with positions counted within what is kept.
#
# A sink that is no token
# -----------------------
# gpt-oss gives each head a learned score that takes part in the softmax and
# carries no value: :math:`w_{ij} = e^{s_{ij}} / (e^{b} + \sum_k e^{s_{ik}})`.
# A head can then say "nothing" wherever it stands.
sizes = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8}
oss = GptOssConfig(**sizes, num_key_value_heads=2, attn_implementation="eager")
theirs = GptOssAttention(oss, layer_idx=0)
for parameter in theirs.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
ours = MultiHeadAttention(
    32, num_heads=4, num_kv_heads=2, mask=Causal(), core=part(SinkCore)
)
theirs.sinks.data = torch.tensor([-2.0, 0.0, 1.0, 3.0])
weights = dict(theirs.state_dict())
weights["core.sinks"] = weights.pop("sinks")
ours.load_state_dict(weights)
x = torch.randn(1, 10, 32)
hidden = torch.zeros(10, 10).masked_fill(~Causal().table(10), -torch.inf)
still = torch.ones(1, 10, 4), torch.zeros(1, 10, 4)  # no positions here
expected = theirs(x, still, attention_mask=hidden[None, None])[0]
with tfdoc.record(ours, "*weights") as seen:
    out = ours(x)
torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
print(f"gpt-oss differs by {(out - expected).abs().max():.1e}")
sums = seen["core.weights"].sum(-1)[0]
assert (sums < 1).all()
# sphinx_gallery_start_ignore
for config, most in (Gemma3TextConfig(), 0.8), (GptOssConfig(), 0.5):
    kinds = [kind == "sliding_attention" for kind in config.layer_types]
    assert most <= sum(kinds) / len(kinds) < most + 0.1
assert all(kinds[::2])
# sphinx_gallery_end_ignore

# %%
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for head, total in enumerate(sums.tolist()):
    ax.plot(total, "o-", label=f"b = {ours.core.sinks[head]:+.1f}")
ax.set(xlabel="query", ylabel="sum of weights", ylim=(0, 1))
ax.set_title("What is left for real keys")
_ = fig.legend(frameon=False, loc="outside right upper")
# sphinx_gallery_start_ignore
fig.set_label(
    "The sum of each query's weights, for four heads with sinks from -2 to "
    "3. All stay below 1: near it for the smallest sink, far below it for "
    "the largest."
)
# sphinx_gallery_end_ignore

# %%
# Exercise
# --------
# How many layers with a window of 4,096 does a model need so that the last of
# 32,768 tokens can know of the first?


def layers_needed(tokens, window):
    """Your turn."""
    return tokens // window


def check(answer):
    right = all(
        answer(n, w) * (w - 1) >= n - 1 > (answer(n, w) - 1) * (w - 1)
        for n, w in [(32_768, 4096), (9, 5), (10, 5), (100, 2)]
    )
    return "right" if right else "not yet: count the steps, not the tokens"


print(check(layers_needed))

# sphinx_gallery_start_ignore
assert check(layers_needed).startswith("not yet")
assert check(lambda n, w: -(-(n - 1) // (w - 1))) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``-(-(tokens - 1) // (window - 1))``: n - 1 steps back, w - 1 a layer,
#    rounded up.
#
# **Read on.** Xiao et al., *Efficient streaming language models with attention
# sinks* (2023, arXiv:2309.17453). The components: :class:`tfdoc.Window`,
# :class:`tfdoc.Prefix`, :class:`tfdoc.SinkCore`. Next:
# :doc:`/learn/2_attention/07_cross_attention`.
