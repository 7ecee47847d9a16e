r"""
The feed-forward network: each token on its own
===============================================

Attention carries information between tokens; the feed-forward network then
works on each token alone, and holds most of a block's parameters. Read this
page to choose its width and activation, or if a model whose weights you
copied is off by a little and you cannot say why.
"""

# %%
# Two hidden units make an absolute value
# ---------------------------------------
# The network is two matrices with a bend between them: up to a hidden width,
# bend every hidden number, down again. Here the bend is ReLU, which keeps
# positive numbers and sets the others to 0. Unit 1 answers to :math:`x`,
# unit 2 to :math:`-x`, and the second matrix adds their answers.
import math
from functools import partial

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP

from tfdoc import FeedForward, GatedFeedForward

torch.manual_seed(0)
tokens = torch.tensor([[-2.0], [-1.0], [1.0], [3.0]])  # four, one number each
up, down = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0], [1.0]])
hidden = (tokens @ up).relu()  # (4 tokens, 2 hidden units)
print("hidden", hidden.tolist())
print("output", (hidden @ down).tolist())
assert torch.equal(hidden @ down, tokens.abs())

# %%
# Without the bend, the two matrices are one, ``up @ down``, which is 0 here.
# The bend is called the activation. Three are common, and they differ near 0
# and below. Below 0, ReLU lets no gradient through: a unit that is silent for
# every token learns nothing, and is lost unless what it reads changes.
x = torch.linspace(-4, 4, 401, requires_grad=True)
fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for name, function in {"ReLU": F.relu, "GELU": F.gelu, "SiLU": F.silu}.items():
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    axes[0].plot(x.tolist(), y.tolist(), label=name)
    axes[1].plot(x.tolist(), slope.tolist(), label=name)
    assert slope[x < 0].any() == (name != "ReLU")
axes[0].set(title="The activation", xlabel="hidden number", ylim=(-0.5, 3))
axes[1].set(title="Its slope, which learning needs", xlabel="hidden number")
_ = axes[0].legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Left, three activations: ReLU is 0 and then a straight line; GELU and "
    "SiLU dip a little below 0 and join it smoothly. Right, their slopes: a "
    "step for ReLU, smooth curves that overshoot 0 and 1 for the others."
)
# sphinx_gallery_end_ignore

# %%
# By hand, by ``tfdoc``, by PyTorch
# ---------------------------------
# With token width :math:`D` and hidden width :math:`F`:
#
# .. math:: \operatorname{FFN}(x) = \operatorname{GELU}(x W_1 + b_1)\,W_2 + b_2
#
# ``up_proj`` holds :math:`W_1` and ``down_proj`` :math:`W_2`, both
# transposed, as :class:`torch.nn.Linear` stores them.
D, T = 64, 10  # width, tokens
ffn = FeedForward(D, hidden_dim=4 * D)
theirs = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))
theirs[0].load_state_dict(ffn.up_proj.state_dict())
theirs[2].load_state_dict(ffn.down_proj.state_dict())

x = torch.randn(2, T, D)
W1, W2 = ffn.up_proj.weight.T, ffn.down_proj.weight.T
by_hand = F.gelu(x @ W1 + ffn.up_proj.bias) @ W2 + ffn.down_proj.bias
for name, other in {"by hand": by_hand, "torch.nn": theirs(x)}.items():
    torch.testing.assert_close(ffn(x), other)
    print(f"{name:8s} differs by {(ffn(x) - other).abs().max():.1e}")

# %%
# It never looks sideways: shuffle the tokens, and the outputs are shuffled
# alike; change one token, and one output changes.
order = torch.randperm(T)
torch.testing.assert_close(ffn(x[:, order]), ffn(x)[:, order])
edited = x.index_fill(1, torch.tensor([3]), 1.0)
changed = (ffn(edited) - ffn(x)).abs().amax((0, 2)) > 1e-5
print("tokens that changed:", changed.nonzero().flatten().tolist())
assert changed.nonzero().flatten().tolist() == [3]

# %%
# What the hidden units do
# ------------------------
# Each unit has a direction that it answers to (a row of ``up_proj.weight``)
# and a vector that it adds to the token, times its answer (a column of
# ``down_proj.weight``). Teach a network of one number to follow a wave.
at = torch.linspace(-2, 2, 128)[:, None]
wave = torch.sin(3 * at)


def fit(activation):
    """Return a small network that was trained on the wave."""
    net = FeedForward(1, hidden_dim=32, activation=activation)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0)
    for _ in range(300):
        optimizer.zero_grad()
        F.mse_loss(net(at), wave).backward()
        optimizer.step()
    return net.requires_grad_(False)


bent, straight = fit(F.gelu), fit(lambda hidden: hidden)
assert F.mse_loss(bent(at), wave) < 0.1 * wave.var()
assert F.mse_loss(straight(at), wave) > 0.8 * wave.var()

# %%
# Thirty-two units without an activation make one straight line. With GELU,
# each adds one bend (left), and the bends add up to the wave (right).
pieces = F.gelu(bent.up_proj(at)) * bent.down_proj.weight[0]  # (points, units)
sums = pieces.sum(-1, keepdim=True) + bent.down_proj.bias
torch.testing.assert_close(sums, bent(at))

fig, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
axes[0].plot(at.tolist(), pieces.tolist(), "C6", lw=0.8)
axes[0].set(title="What each unit adds", xlabel="input")
axes[1].plot(at.tolist(), wave.tolist(), lw=6, label="the wave")
axes[1].plot(at.tolist(), sums.tolist(), label="GELU")
axes[1].plot(at.tolist(), straight(at).tolist(), label="no activation")
axes[1].set(title="Their sum", xlabel="input", ylim=(-1.2, 2.6))
_ = axes[1].legend(frameon=False)
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Left, 32 thin curves, each flat on one side and bent to the other. "
    "Right, their sum follows the wave; without an activation it is straight."
)
# sphinx_gallery_end_ignore

# %%
# Gated: one half multiplies the other
# ------------------------------------
# In Llama and most models since, a second projection *gates* the first,
# number by number (:math:`\odot`). With SiLU this is called SwiGLU:
#
# .. math:: \operatorname{FFN}(x)
#           = \bigl(\operatorname{SiLU}(x W_g) \odot x W_u\bigr)\, W_d
llama = LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=168))
gated = GatedFeedForward(D, hidden_dim=168)
gated.load_state_dict(llama.state_dict())  # the names are the same

gate, value = gated.gate_proj(x), gated.up_proj(x)
by_hand = (gate * gate.sigmoid() * value) @ gated.down_proj.weight.T
for name, other in {"by hand": by_hand, "LlamaMLP": llama(x)}.items():
    torch.testing.assert_close(gated(x), other)
    print(f"{name:8s} differs by {(gated(x) - other).abs().max():.1e}")

# %%
# Pitfall: three functions are called GELU
# ----------------------------------------
# By definition it is :math:`x\,\Phi(x)`, with :math:`\Phi` the share of a
# normal distribution below :math:`x`. Faster approximations came with it, and
# models were trained with them: GPT-2 with tanh, CLIP with a sigmoid. Give
# their weights to the exact form, and every output is off by a little.
tanh = partial(F.gelu, approximate="tanh")
forms = {"gelu_new": tanh, "quick_gelu": lambda x: x * (1.702 * x).sigmoid()}
wide, misses = torch.linspace(-6, 6, 1201), {}
for name, form in forms.items():
    copied = FeedForward(D, hidden_dim=4 * D, activation=form)  # the mend
    copied.load_state_dict(ffn.state_dict())
    misses[name] = ((ffn(x) - copied(x)).norm() / copied(x).norm()).item()
    error = (F.gelu(wide) - form(wide)).abs().max()
    print(f"{name:10s} {error:.4f} at most, outputs off by {misses[name]:.2%}")
    torch.testing.assert_close(ACT2FN[name](wide), form(wide))
assert 1e-5 < misses["gelu_new"] < 1e-3 < misses["quick_gelu"] < 0.1

# %%
# That is far above rounding, and nothing looks wrong. Read the name in the
# model's configuration, and pass that function as ``activation``.
#
# What it costs
# -------------
# Two matrices of :math:`D F` numbers or, gated, three: for the same cost, take
# two thirds of the width, :math:`F = \frac{2}{3} \cdot 4D`. Every number of a
# matrix costs one multiplication and one addition a token.
D, T = 768, 128
with torch.device("meta"):  # shapes without numbers
    plain = FeedForward(D, hidden_dim=4 * D)
    gated = GatedFeedForward(D, hidden_dim=2 * 4 * D // 3)
    for net, biases in ((plain, 5 * D), (gated, 0)):
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, T, D))
        params = sum(p.numel() for p in net.parameters())
        print(f"{type(net).__name__:16s} {params:,} parameters")
        assert params == 8 * D**2 + biases
        assert counter.get_total_flops() == 2 * T * 8 * D**2

# %%
# Exercise
# --------
# Llama rounds the two thirds up to a multiple of 256. Write the rule; the
# checker knows the widths of the models of 7, 13 and 65 billion parameters.


def gated_width(D):
    """Your turn: this is the width without a gate."""
    return 4 * D


def check(rule):
    """Compare a rule with published widths."""
    for D, published in ((4096, 11008), (5120, 13824), (8192, 22016)):
        if rule(D) != published:
            return f"not yet: {rule(D)} at D = {D}, published {published}"
    return "right, for all three"


print(check(gated_width))

# sphinx_gallery_start_ignore
assert check(lambda D: math.ceil(8 * D / 3 / 256) * 256).startswith("right")
assert check(lambda D: round(8 * D / 3 / 256) * 256).startswith("not yet")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``math.ceil(8 * D / 3 / 256) * 256``. With ``round`` the width of the
#    smallest is right, and the other two are one step too narrow.
#
# **Read on.** Vaswani et al. (2017), *Attention is all you need*, section
# 3.3; Shazeer (2020), *GLU variants improve transformer*. The modules:
# :class:`tfdoc.FeedForward`, :class:`tfdoc.GatedFeedForward`. Next:
# :doc:`many of them </learn/5_feedforward/02_mixture_of_experts>`.
