r"""
Initialisation: read the first loss before you train
====================================================

How large fresh weights are decides how a model starts: with the loss of an
honest guess or with one many times as high, with a stream that keeps its size
or one that grows with the depth. Read this page if you build a model from
scratch. At the end you can check both in two lines, before the first step.
"""

# %%
# Four numbers in, one number out
# -------------------------------
# A row of weights with spread :math:`\sigma` makes one output from D inputs.
# Inputs of spread 1 give an output of spread :math:`\sigma \sqrt D`: the
# variances of D products add up. At :math:`\sigma = 1/\sqrt D` it is 1.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

import tfdoc
from tfdoc import LayerNorm, TransformerBlock, init_gpt2_, part

torch.manual_seed(0)
for sigma in (0.02, 0.5, 1.0):
    out = torch.randn(10_000, 4) @ (sigma * torch.randn(4, 100))
    print(f"sigma {sigma}: output {out.std():.2f}, formula {2 * sigma:.2f}")
    assert abs(out.std() / (2 * sigma) - 1) < 0.2

# %%
# The first loss is known
# -----------------------
# A fresh language model knows nothing, so its best guess gives each of V
# tokens the probability 1/V, at a loss of :math:`\ln V`. Logits with a spread
# of their own cost more. If another matrix of spread :math:`\sigma` makes them
# from a normalised stream, theirs is :math:`\sigma \sqrt D`, as above. If it
# is the embedding itself (*tied*), the token just read gets most: the stream
# still holds its vector, and the two have a product of about :math:`\sigma D`.
V, D, T = 5000, 256, 64


def stack(depth, width=D):
    """Build fresh causal blocks with a norm at the end."""
    block = part(TransformerBlock, num_heads=4, mask=tfdoc.Causal())
    return tfdoc.Encoder(width, blocks=(block,) * depth, norm=part(LayerNorm))


@torch.no_grad()
def first(sigma, tied):
    """Loss of a fresh model on random text, and the share of echoes."""
    trunk = init_gpt2_(stack(2), num_layers=2)
    embed, head = sigma * torch.randn(2, V, D)
    text, following = torch.randint(V, (2, 8, T))
    logits = trunk(embed[text]) @ (embed if tied else head).T
    echo = (logits.argmax(-1) == text).float().mean().item()
    return F.cross_entropy(logits.mT, following).item(), echo


# %%
guess = torch.tensor(V).log().item()
sigmas = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, tied in {"another matrix": False, "tied": True}.items():
    losses, echoes = zip(*(first(s, tied) for s in sigmas), strict=True)
    ax.loglog(sigmas, losses, "o-", label=name)
    print(f"{name}: {losses[2]:.2f} at 0.02, {losses[-1]:.1f} at 1")
    assert abs(losses[2] - guess) < 0.15
    assert losses[-1] > 4 * guess
    assert (echoes[-1] > 0.95) == tied
ax.axhline(guess, color="C6", linestyle=":", label="ln V")
ax.set(xlabel="spread of embedding and last matrix", ylabel="first loss")
ax.set_title("Above 0.05 the first loss leaves ln V")
ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "First loss against the spread, both logarithmic. Both curves lie on ln V "
    f"= {guess:.1f} up to 0.02; at a spread of one the tied model reaches "
    f"{losses[-1]:.0f}, the other stays below a third of that."
)
assert losses[3] < guess + 1 < losses[4]
assert 0.9 < losses[-1] / D < 1.1
assert first(1.0, tied=False)[0] < losses[-1] / 3
# sphinx_gallery_end_ignore

# %%
# A spread of 1 is what :class:`torch.nn.Embedding` draws by itself.
#
# The stream and the depth
# ------------------------
# Each of L blocks adds two branches to the stream. If their results are
# independent, the squares of their sizes add up, so the sum of 2L grows like
# :math:`\sqrt{2L}`. GPT-2 divides the matrices that write to the stream, and
# only those, by that number. In tfdoc they are called ``o_proj`` and
# ``down_proj``, and :func:`tfdoc.init_gpt2_` finds them by name.


def spreads(module):
    """Spread of the weights of each kind of matrix."""
    found = {}
    for name, p in module.named_parameters():
        if p.ndim == 2:
            found.setdefault(name.split(".")[-2], []).append(p.std().item())
    return {name: sum(s) / len(s) for name, s in found.items()}


depth, width = 8, 64
ours = spreads(init_gpt2_(stack(depth, width), num_layers=depth))
config = GPT2Config(n_layer=depth, n_embd=width, n_head=4)
theirs = spreads(GPT2Model(config))
print({name: round(spread, 4) for name, spread in ours.items()})
assert abs(ours["q_proj"] / 0.02 - 1) < 0.03
for name in ("o_proj", "down_proj"):
    assert abs(ours[name] * (2 * depth) ** 0.5 / 0.02 - 1) < 0.03
    assert abs(ours[name] / theirs["c_proj"] - 1) < 0.03

# %%
# So Hugging Face's GPT-2 draws it too. Now the stream, up to 48 blocks deep,
# from tokens of spread 0.02, with the division and without.
L, streams, adds = 48, {}, {}
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for divided in (True, False):
    trunk = init_gpt2_(stack(L), num_layers=L)
    for matrix in (p for p in trunk.parameters() if p.ndim == 2):
        if not divided:
            nn.init.normal_(matrix, std=0.02)
    with torch.no_grad(), tfdoc.record(trunk, "blocks.*") as seen:
        trunk(0.02 * torch.randn(2, T, D))
    sizes = [seen[f"blocks.{i}"].std().item() for i in range(L)]
    streams[divided] = sizes[-1]
    label = "divided" if divided else "not divided"
    ax.plot(range(1, L + 1), sizes, label=label)
    for half in ("attention", "feedforward"):
        found = [seen[f"blocks.{i}.{half}"].var() for i in range(L)]
        adds[half, divided] = sum(found).sqrt().item()
ax.set(xlabel="blocks", ylabel="size of the stream", ylim=0)
ax.set_title("Divided by the root of 2L, the stream stays small")
ax.legend(frameon=False)
print(f"size {streams[True]:.2f}, not divided {streams[False]:.2f}")
assert 1 < streams[False] / streams[True] / (2 * L) ** 0.5 < 1.5
assert streams[True] < 0.2
# sphinx_gallery_start_ignore
fig.set_label(
    "Size of the stream over 48 blocks. Divided, it ends at "
    f"{streams[True]:.2f}; not divided it climbs to {streams[False]:.2f}."
)
# sphinx_gallery_end_ignore

# %%
# Their ratio is a little above :math:`\sqrt{2L}`, and attention is why: large
# branches drown what tokens differ in, and averaging then takes less away.
for half in ("attention", "feedforward"):
    times = adds[half, False] / adds[half, True]
    print(f"{half}: {times:.1f} times, root of 2L {(2 * L) ** 0.5:.1f}")
    assert (times > 1.2 * (2 * L) ** 0.5) == (half == "attention")

# %%
# Granite leaves the weights alone and multiplies what each branch returns, in
# every step, by a fixed number. With the same number the start is the same.
attention = part(tfdoc.MultiHeadAttention, num_heads=4, mask=tfdoc.Causal())
branches = {"attention": attention}
branches |= {"feedforward": part(tfdoc.FeedForward, hidden_dim=4 * D)}
for name, branch in branches.items():
    scaled = part(tfdoc.ResidualScale, branch=branch, scale=(2 * L) ** -0.5)
    branches[name] = scaled
block = part(tfdoc.PreNormBlock, **branches)
trunk = tfdoc.Encoder(D, blocks=(block,) * L).requires_grad_(False)
for name, p in trunk.named_parameters():
    _ = p.normal_(std=0.02) if p.ndim == 2 else p.fill_("norm.w" in name)
size = trunk(0.02 * torch.randn(2, T, D)).std().item()
print(f"scaled, after {L} blocks: {size:.2f}")
assert abs(size / streams[True] - 1) < 0.1

# %%
# Pitfall: a name that matches nothing
# ------------------------------------
# Schemes go by names, and names differ: ``c_proj`` in GPT-2, ``o_proj`` and
# ``down_proj`` in Llama, ``out_proj`` and ``linear2`` in :mod:`torch.nn`. A
# loop that looks for a name which is not there divides nothing, silently:
theirs = nn.TransformerEncoderLayer(D, 4).named_parameters()
divided = [name for name, _ in theirs if name.endswith("c_proj.weight")]
print(f"{len(divided)} matrices divided")
assert not divided
try:
    init_gpt2_(nn.Sequential(nn.Linear(D, D)), num_layers=L)
except ValueError as error:
    print(str(error)[:67], "...")

# %%
# What it costs
# -------------
# Nothing: no parameter more, no product. On the meta device, where only shapes
# exist, the same functions run, and nothing is drawn.
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    trunk = init_gpt2_(stack(1), num_layers=1)
assert sum(p.numel() for p in trunk.parameters()) == 12 * D**2 + 15 * D
assert counter.get_total_flops() == 0

# %%
# Exercise
# --------
# Logits that are independent, with spread :math:`s`, raise the first loss by
# about :math:`s^2/2`. Choose the spread of an untied last matrix so that the
# first loss is 0.1 above :math:`\ln V` at every width.


def spread(width):
    """Your turn: so far it is the same at every width."""
    return 0.02 * width**0


def check(spread):
    for width in (64, 256, 1024):
        normed = F.layer_norm(torch.randn(512, width), (width,))
        logits = normed @ (spread(width) * torch.randn(width, V))
        loss = F.cross_entropy(logits, torch.randint(V, (512,)))
        if abs(loss - guess - 0.1) > 0.06:
            return f"not yet: {loss - guess:+.2f} at a width of {width}"
    return "right, at every width"


print(check(spread))

# sphinx_gallery_start_ignore
assert check(spread).startswith("not yet")
assert check(lambda width: (0.2 / width) ** 0.5).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``(0.2 / width) ** 0.5``: then :math:`\sigma^2 D / 2 = 0.1`.
#
# **Read on.** Radford et al., *Language models are unsupervised multitask
# learners* (2019), section 2.3. The functions: :func:`tfdoc.init_gpt2_`,
# :func:`tfdoc.init_small_`, :func:`tfdoc.init_deepnorm_`. Next:
# :doc:`/learn/5_feedforward/01_feedforward`.
