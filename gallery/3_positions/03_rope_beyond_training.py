r"""
Beyond the training length, RoPE meets angles it has never seen
===============================================================

A model with rotary positions accepts a text of any length, and fails on one
that is longer than those it learned from. Nothing crashes; the answers get
worse. Read this page if you set the rotary scaling of a checkpoint, or
choose one. At the end you can say which pairs of channels a scaling slows
down, what that buys, and what it costs.
"""

# %%
# Which angles are news?
# ----------------------
# Pair i of a head turns by :math:`\theta_i = \text{base}^{-2i/d}` radians a
# token (:doc:`/learn/3_positions/02_rope`). Count its turns in a text of
# 1024 tokens, with heads of d = 64:
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import tfdoc
from tfdoc import Causal, MultiHeadAttention, RoPE, Window

torch.manual_seed(0)
d, T0 = 64, 1024
speeds = RoPE().frequencies(d)  # radians a token, of 32 pairs
turns = T0 * speeds / (2 * math.pi)
news = int((turns < 1).sum())
print(f"pair 0: {turns[0]:.0f} turns, pair 31: {turns[31]:.2f};")
print(f"{news} of {d // 2} pairs never complete a turn")

# %%
# A pair that has gone around has seen every angle. One that has not meets new
# ones in a longer text, and what the model makes of those is an accident.
#
# Four ways to slow down
# ----------------------
# For four times the length, **linear** scaling divides every speed by 4: no
# angle is new, but neighbours come closer. **NTK-aware** scaling enlarges the
# base: the slowest pair gets all of the 4, the fastest nothing. **YaRN** and
# **Llama 3** sort the pairs by turns: many, keep; less than one, divide by 4;
# a ramp between. YaRN also enlarges all scores: more keys blur the weights.
factor = 4.0
scalings = {
    "none": None,
    "linear": tfdoc.LinearScaling(factor),
    "NTK-aware": tfdoc.NTKScaling(factor),
    "YaRN": tfdoc.YaRN(factor, original_length=T0),
    "Llama 3": tfdoc.Llama3Scaling(factor, original_length=T0),
}
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
slower = {}
for name, scaling in scalings.items():
    slower[name] = speeds / RoPE(scaling=scaling).frequencies(d)
    ax.plot(slower[name].tolist(), ".-", label=name)
ax.axvline(d // 2 - news - 0.5, ls=":", color="C5")
ax.text(d // 2 - news, 1.2, "less than one turn\nin training", color="C5")
ax.set(title="Who pays for four times the length", yticks=[1, 2, 3, 4])
ax.set(xlabel="pair, fastest first", ylabel="times slower")
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "How many times slower each of 32 pairs turns. Linear scaling: four for "
    "all. NTK-aware: a smooth rise from one to four. YaRN and Llama 3: one "
    "for fast pairs, four for slow ones, a ramp between."
)
# sphinx_gallery_end_ignore

# %%
# The trouble with NTK: some pairs that will see news are slowed by less than
# the 4 that they need.
assert slower["NTK-aware"][turns < 1].min() < 0.8 * factor
# sphinx_gallery_start_ignore
one = torch.ones(1, 1, 1, d)
for name, scaling in scalings.items():
    longer = RoPE(scaling=scaling)(one).norm() / one.norm()
    growth = 0.1 * math.log(factor) + 1 if name == "YaRN" else 1
    assert abs(longer / growth - 1) < 1e-5
for name in ("YaRN", "Llama 3"):
    assert (slower[name][turns > 32] - 1).abs().max() < 1e-9
    assert (slower[name][turns < 0.5] - factor).abs().max() < 1e-9
# sphinx_gallery_end_ignore

# %%
# By hand, and by Hugging Face
# ----------------------------
# Llama 3's ramp goes by the turns t: 0 up to one turn, 1 from four on.
ramp = ((turns - 1) / (4 - 1)).clamp(0, 1)
by_hand = ramp * speeds + (1 - ramp) * speeds / factor
rope = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": factor}
rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
rope |= {"original_max_position_embeddings": T0}
config = LlamaConfig(head_dim=d, rope_parameters=rope)
theirs = LlamaRotaryEmbedding(config).inv_freq.double()
ours = RoPE(scaling=scalings["Llama 3"]).frequencies(d)
for name, other in {"by hand": by_hand, "Hugging Face": theirs}.items():
    torch.testing.assert_close(ours, other, rtol=2e-6, atol=0)
    print(f"{name}: {(ours / other - 1).abs().max():.0e}")

# %%
# A model that can be read
# ------------------------
# Each token is a symbol with a value. The task: give the value that the
# *latest earlier* token with the same symbol had. One attention suffices, if
# it matches symbols and prefers the near.
S, V, D, T0 = 16, 8, 64, 64
codes = torch.randn(S + V, D)  # a vector for each symbol and each value


def batch(B, T):
    """Tokens (B, T, D) and answers (B, T), -100 where there is none."""
    symbols, values = torch.randint(S, (B, T)), torch.randint(V, (B, T))
    same = (symbols[:, :, None] == symbols[:, None]).tril(-1)
    latest = (same * torch.arange(1, T + 1)).argmax(-1)
    answers = values.gather(1, latest).where(same.any(-1), -100)
    return codes[symbols] + codes[S + values], answers


past = Causal() & ~Window(1)  # earlier tokens only
heads = MultiHeadAttention(D, num_heads=2, mask=past, rotary=RoPE())
model = nn.Sequential(heads, nn.Linear(D, V))
fit = torch.optim.AdamW(model.parameters(), fused=True)
pace = torch.optim.lr_scheduler.OneCycleLR(fit, 1e-2, total_steps=200)
for _ in range(200):
    x, answers = batch(32, T0)
    fit.zero_grad()
    F.cross_entropy(model(x).mT, answers).backward()
    fit.step()
    pace.step()

# %%
# Now let it read up to four times as many tokens, and score the last 32
# answers of each text.


@torch.no_grad()
def right(scaling, T, draw=1):
    """Share of right answers on fresh texts of length T."""
    torch.manual_seed(draw)
    heads.rotary = RoPE(scaling=scaling)
    x, answers = batch(48, T)
    hit = model(x).argmax(-1) == answers
    return hit[:, -32:][answers[:, -32:] >= 0].float().mean().item()


scalings["YaRN"] = tfdoc.YaRN(factor, original_length=T0)
scalings["Llama 3"] = tfdoc.Llama3Scaling(factor, original_length=T0)
lengths = [64, 96, 128, 192, 256]
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
found = {}
for style, name in zip("os^vD", scalings, strict=True):
    found[name] = [right(scalings[name], T) for T in lengths]
    ax.plot(lengths, found[name], f"{style}-", label=name)
ax.axvline(T0, ls=":", color="C5")
ax.set(title="Without scaling, longer texts are read worse")
ax.set(xlabel="tokens of the text (trained on 64)", ylabel="right answers")
_ = ax.legend(frameon=False)
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Share of right answers against the length of the text. Without scaling "
    "it is nearly one at the trained 64 tokens and falls steadily to 256; "
    "with linear scaling, YaRN and Llama 3 it starts a little lower and stays "
    "level; NTK-aware falls later and less."
)
# sphinx_gallery_end_ignore

# %%
# A scaling saves most of it, with no training at all. It is no free lunch: at
# the *trained* length no scaling beats the speeds that the model learned, and
# linear scaling does worse. Other texts say the same:
again = {name: right(s, 256, draw=2) for name, s in scalings.items()}
for name in scalings:
    print(f"{name:9s} 64: {found[name][0]:.3f}, 256: {again[name]:.3f}")
assert max(found["none"][-1], again["none"]) < found["none"][0] - 0.1
assert found["linear"][0] < found["none"][0] - 0.005
# sphinx_gallery_start_ignore
for name in scalings:
    assert found[name][0] < found["none"][0] + 0.005
    if name != "none":
        assert min(found[name][-1], again[name]) > found["none"][-1] + 0.05
# sphinx_gallery_end_ignore

# %%
# (Published models also train on a little long text after scaling.)
#
# Pitfall: speeds that change under a cache
# -----------------------------------------
# *Dynamic* NTK scaling grows with the text, so short ones are read as before.
# But keys in a cache were turned at the speeds of their day.
rope = RoPE(scaling=tfdoc.DynamicNTKScaling(factor, original_length=T0))
q, k = torch.randn(2, 1, 1, 200, d)
fresh = rope(q) @ rope(k).mT  # all keys turned now
cached = [rope(k[:, :, t : t + 1], t) for t in range(200)]  # each in its day
stale = rope(q) @ torch.cat(cached, 2).mT
error = (stale - fresh)[0, 0].norm(dim=0) / fresh[0, 0].norm(dim=0)
print(f"error: first keys {error[:64].mean():.2f}, last {error[-1]:.0e}")
assert error[:64].mean() > 0.3
assert error[-1] < 1e-5

# %%
# The mend: cache keys *before* the turn, or take a scaling without length.
#
# What it costs
# -------------
# Nothing: the same table, filled with other numbers.
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    heads = MultiHeadAttention(512, num_heads=8, rotary=rope)
    heads(torch.empty(2, 32, 512))
assert sum(p.numel() for p in heads.parameters()) == 4 * 512 * 513
assert counter.get_total_flops() == 2 * (8 * 32 * 512**2 + 4 * 32**2 * 512)

# %%
# Exercise
# --------
# NTK-aware scaling is a larger base, no more. Which base slows the slowest
# pair, :math:`i = d/2 - 1`, by exactly the factor?


def larger_base(base, factor, d):
    """Your turn: this one slows it by less."""
    return base * factor ** ((d - 2) / d)


def check(larger_base):
    """Say how many times slower the slowest of 8 channels turns."""
    speeds = RoPE(base=larger_base(1e4, 4.0, 8)).frequencies(8)
    slower = (RoPE().frequencies(8) / speeds)[-1].item()
    near = abs(slower - 4) < 1e-9
    return "right" if near else f"not yet: {slower:.3f} times slower, not 4"


print(check(larger_base))
# sphinx_gallery_start_ignore
assert check(larger_base).startswith("not yet")
assert check(lambda base, factor, d: base * factor ** (d / (d - 2))) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``base * factor ** (d / (d - 2))``: the slowest speed is
#    :math:`\text{base}^{-(d-2)/d}`, so the base has to grow by the factor to
#    the power :math:`d/(d-2)`.
#
# **Read on.** Peng et al., *YaRN* (2023), tell the story of the first three;
# the fourth came with Llama 3.1 (2024). Classes: :class:`tfdoc.Scaling`. Next:
# :doc:`/learn/3_positions/04_alibi_and_relative_bias`.
