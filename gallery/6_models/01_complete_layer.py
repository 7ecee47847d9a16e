r"""
The complete layer, equal to PyTorch's and to BERT's
====================================================

One attention, one feed-forward network, two norms, two additions and dropout
make a transformer layer. Read this page to see the parts work as one, to move
weights between libraries and be sure that nothing changed, or if your model
answers differently each time you ask.
"""

# %%
# Two lines wire the parts
# ------------------------
# In the original order, attention reads the tokens, its result is added to
# them and the sum is normalised; then the feed-forward network does the same.
# So every token leaves with mean 0 and variance 1. Check it on four tokens of
# four numbers.
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.bert.modeling_bert import BertConfig, BertLayer

from tfdoc import (
    Causal,
    Encoder,
    Padding,
    TransformerLayer,
    from_torch,
    part,
    record,
)

torch.manual_seed(0)
layer = TransformerLayer(4, num_heads=2, hidden_dim=8).eval()
x = torch.randn(1, 4, 4)  # one sequence, four tokens, four numbers each
h = layer.attn_norm(x + layer.attention(x))
y = layer.ffn_norm(h + layer.feedforward(h))
torch.testing.assert_close(layer(x), y)
mean, variance = y.mean(-1), y.var(-1, correction=0)
print("variances", [round(v, 3) for v in variance.flatten().tolist()])
torch.testing.assert_close(mean, torch.zeros(1, 4))
assert (variance - 1).abs().max() < 1e-3

# %%
# Equal to PyTorch's, in both orders
# ----------------------------------
# :class:`torch.nn.TransformerEncoderLayer` takes the order as a flag; in
# ``tfdoc`` each order is a block class. Give both libraries the same weights,
# a causal mask, and a sentence whose last two of six tokens are filling.
T, D = 6, 32  # tokens, width
x = torch.randn(1, T, D, dtype=torch.float64)
mask = Causal() & Padding([4])
future = torch.ones(T, T, dtype=torch.bool).triu(1)
at = torch.arange(T)  # positions
filling = at[None] >= 4
for norm_first in (False, True):
    theirs = torch.nn.TransformerEncoderLayer(
        D, 4, 64, activation="gelu", batch_first=True, norm_first=norm_first
    ).double()
    for training in (True, False):
        ours = from_torch(theirs.train(training))  # in the same mode
        torch.manual_seed(1)
        expected = theirs(x, future, filling)  # True = blocked
        torch.manual_seed(1)
        difference = (ours(x, mask=mask) - expected).abs().max()
        print(f"{type(ours).__name__:13s} {training=!s:5} {difference:.1e}")
        assert difference < 1e-12

# %%
# The same seed even drops the same numbers, with one sentence at a time.
#
# Look inside
# -----------
# ``record`` watches the attention weights while the layer runs: one map a
# head. Nobody watching, a fused kernel runs that never makes the maps.
words = ["The", "cat", "sat", ".", "fill", "fill"]
fig, axes = plt.subplots(1, 2, figsize=(7, 3.5), layout="constrained")
masks = {"no mask": None, "causal and padding": mask}
for ax, title in zip(axes, masks, strict=True):
    with record(ours, "*weights") as seen:
        ours(x, mask=masks[title])
    weights = seen["attention.core.weights"]  # (batch, heads, queries, keys)
    image = ax.imshow(weights[0, 0].tolist(), vmin=0, vmax=1)
    ax.set(title=title, xlabel="key", xticks=range(T), yticks=range(T))
    ax.set_xticklabels(words)
    ax.set_yticklabels(words)
axes[0].set_ylabel("query")
_ = fig.colorbar(image, ax=axes, label="weight in head 1", shrink=0.8)
assert not weights[..., ~mask(at, at)[0, 0]].any()
# sphinx_gallery_start_ignore
fig.set_label(
    "Attention weights of one head, six queries by six keys. Without a mask "
    "every square has some colour. With the mask all keys after the query and "
    "the two filling tokens are at 0."
)
# sphinx_gallery_end_ignore

# %%
# Equal to BERT's, name by name
# -----------------------------
# BERT's layer is this one under other names, with a smaller :math:`\epsilon`
# in its norms. Loading is strict: a name too many or too few is an error.
sizes = {"hidden_size": D, "num_attention_heads": 4, "intermediate_size": 64}
config = BertConfig(**sizes, attn_implementation="eager")
bert = BertLayer(config).eval()
norm = part(torch.nn.LayerNorm, eps=config.layer_norm_eps)
ours = TransformerLayer(D, 4, 64, norm=norm).eval()
names = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "feedforward.up_proj": "intermediate.dense",
    "feedforward.down_proj": "output.dense",
    "ffn_norm": "output.LayerNorm",
}

weights = {}
for mine, its in names.items():
    for kind, tensor in bert.get_submodule(its).state_dict().items():
        weights[f"{mine}.{kind}"] = tensor
ours.load_state_dict(weights)

# %%
# BERT adds its mask to the scores: 0 keeps a key, minus infinity hides it.
x = torch.randn(3, T, D)
padding = Padding([6, 4, 3])
expected = bert(x, torch.where(padding(at, at), 0.0, -torch.inf))
torch.testing.assert_close(ours(x, mask=padding), expected)
print(f"BertLayer {(ours(x, mask=padding) - expected).abs().max():.1e}")

# %%
# Pitfall: dropout left on
# ------------------------
# Dropout sets a share of the numbers to 0 in training. A new module is in
# training mode, so a model that was loaded and not told ``.eval()`` gives
# other answers at every call. Each layer adds its own noise:
depths, drift = (1, 2, 4, 8), []
block = part(TransformerLayer, num_heads=4, hidden_dim=512, dropout=0.1)
x = torch.randn(8, 16, 128)
with torch.no_grad():
    for depth in depths:
        model = Encoder(128, blocks=(block,) * depth)
        answers = torch.stack([model(x) for _ in range(10)])
        settled = model.eval()(x)
        assert torch.equal(settled, model(x))  # mended
        change = (answers - settled).norm(dim=-1) / settled.norm(dim=-1)
        drift.append(change.mean().item())
root = [drift[0] * depth**0.5 for depth in depths]
assert all(abs(d / r - 1) < 0.15 for d, r in zip(drift, root, strict=True))

fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(depths, root, "C6--", label="one layer's change, times root of L")
ax.plot(depths, drift, "o", label="measured, dropout 0.1")
ax.set(title="The same question, another answer", xlabel="layers L")
ax.set(ylabel="relative change", ylim=(0, None))
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Relative change of the answer against the number of layers, from 1 to "
    f"8: it grows from {drift[0]:.2f} to {drift[-1]:.2f}, along a square root."
)
# sphinx_gallery_end_ignore

# %%
# What it costs
# -------------
# With :math:`D` the width, :math:`F` the hidden width and :math:`T` tokens:
# :math:`4D^2 + 2DF + F + 9D` parameters, and :math:`T(8D^2 + 4DF) + 4T^2 D`
# floating-point operations. The last term is attention's table of scores and
# its product with the values. It overtakes the rest at :math:`T = 2D + F`.


def flops(layer, T):
    """Operations that the counter sees in one pass over T tokens."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        layer(torch.empty(1, T, layer.embed_dim))
    return counter.get_total_flops()


D, F = 512, 2048
with torch.device("meta"):  # shapes without numbers
    layer = TransformerLayer(D, 8, F)
params = sum(p.numel() for p in layer.parameters())
assert params == 4 * D**2 + 2 * D * F + F + 9 * D
for T in (512, 2 * D + F):
    quadratic = 4 * T**2 * D
    total = flops(layer, T)
    assert total == T * (8 * D**2 + 4 * D * F) + quadratic
    print(
        f"T = {T}: {total / 1e9:.1f} GFLOP, {quadratic / total:.0%} quadratic"
    )
assert quadratic * 2 == total

# %%
# Exercise
# --------
# From which length on does attention, with its four projections, cost more
# than the feed-forward network?


def crossing(D, F):
    """Your turn: this is where the quadratic term alone is half."""
    return 2 * D + F


def check(rule):
    """Count both parts at the length that a rule gives."""
    for D, F in ((512, 2048), (256, 1024)):
        with torch.device("meta"):
            layer = TransformerLayer(D, 8, F)
        T = rule(D, F)
        whole, ffn = flops(layer, T), 4 * T * D * F
        if whole != 2 * ffn:
            return f"not yet: attention is {1 - ffn / whole:.0%} at T = {T}"
    return "right: both halves are equal"


print(check(crossing))

# sphinx_gallery_start_ignore
assert check(lambda D, F: F - 2 * D).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``F - 2 * D``: solve :math:`8TD^2 + 4T^2D = 4TDF`. With the usual
#    :math:`F = 4D` that is :math:`T = 2D`.
#
# **Read on.** Vaswani et al. (2017), *Attention is all you need*; Devlin et
# al. (2018), *BERT*. The modules: :func:`tfdoc.TransformerLayer` and
# :class:`tfdoc.PostNormBlock`. Next: :doc:`a first decoder
# </learn/6_models/02_first_decoder>`.
