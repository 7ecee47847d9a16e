r"""
Distance as a number added to the score: ALiBi and relative bias
================================================================

Turning queries and keys is not the only way to say how far apart two tokens
are. One can simply add a number to their score: fixed, as in BLOOM and MPT,
or learned, as in T5. Read this page if you load or write such a model. At the
end you can compute both by hand, catch the sign that is so easily wrong, and
say what the addition costs.
"""

# %%
# A fine on distance
# ------------------
# Scores lose a *slope* m for each step from query to key. The softmax
# turns differences into ratios: each step away divides the weight by
# :math:`e^m`. Four tokens whose scores would tie, with m = 1/2:
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.bloom import modeling_bloom as bloom
from transformers.models.t5 import modeling_t5 as t5

from tfdoc import ALiBi, Causal, MultiHeadAttention, RelativeBias, Window
from tfdoc import attention as attend

torch.manual_seed(0)
query, key = torch.arange(4)[:, None], torch.arange(4)
fine = -0.5 * (query - key)
weights = fine.where(key <= query, -torch.inf).softmax(-1)
print(weights.numpy().round(2))
assert (weights[3, 1:] / weights[3, :-1]).allclose(torch.tensor(0.5).exp())

# %%
# Every head has a slope of its own: :math:`m_h = 2^{-8h/H}` for the heads
# :math:`h = 1, \ldots, H`, if H is a power of two (:class:`tfdoc.ALiBi` has
# the other H). The first looks nearby, the last far back. None is learned.
at = torch.arange(100)
share = ALiBi(8)(at[-1:], at)[:, 0].softmax(-1)  # heads and keys
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for head in range(0, 8, 2):
    label = f"head {head + 1}: m = {ALiBi(8).slopes()[head]:g}"
    ax.plot(at[:-1] - 99, share[head, :-1], f"C{head // 2}", label=label)
ax.set(title="Each head has its own reach", yscale="log", ylim=(1e-5, 1))
ax.set(xlabel="key, relative to the query", ylabel="weight if scores tie")
_ = ax.legend(frameon=False)
# sphinx_gallery_start_ignore
fig.set_label(
    "Attention weight against the distance back, on a logarithmic axis, for "
    "four of eight heads: straight lines, steep for the first head and "
    "nearly level for the last."
)
# sphinx_gallery_end_ignore

# %%
# By hand, and by BLOOM
# ---------------------
# BLOOM adds m times the place of the *key*. In a row that differs from -m
# times the distance by a constant, which a softmax does not see.
H, T, d = 8, 32, 16
q, k, v = torch.randn(3, 1, H, T, d)
m = torch.tensor(ALiBi(H).slopes())[:, None, None]
added = {
    "by hand": -m * (at[:T, None] - at[:T]),
    "BLOOM": bloom.build_alibi_tensor(torch.ones(1, T), H, torch.float32),
}
ours = attend(q, k, v, Causal(), bias=ALiBi(H))
for name, bias in added.items():
    apart = (ours - attend(q, k, v, Causal(), bias=bias)).abs().max()
    print(f"{name}: {apart:.0e}")
    assert apart < 1e-5

# %%
# Pitfall: the other sign
# -----------------------
# A causal query stands *behind* its keys, so ``query - key`` is positive, and
# adding m times that looks innocent. It is a reward for being far away.
distance = (at[:, None] - at).float()
for sign in (-1, 1):
    weights = sign * 0.5 * distance
    weights = weights.where(distance >= 0, -torch.inf).softmax(-1)
    reach = (weights * distance.clamp(min=0)).sum(-1)[-1]
    ratio = weights[-1, -11] / weights[-1, -1]
    print(f"{sign:+d}: looks {reach:.1f} back; 10 back / itself {ratio:.3g}")
    assert ratio.log().isclose(torch.tensor(sign * 5.0), atol=1e-3)
    # sphinx_gallery_start_ignore
    assert reach < 2 if sign < 0 else reach > 97
    # sphinx_gallery_end_ignore

# %%
# Learned: T5's buckets
# ---------------------
# T5 learns the numbers, one for each head and *bucket* of distances, apart for
# keys before and after. Near ones have a bucket each; far ones share, ever
# more, the furthest all in one. A stack has *one* table: give each layer the
# same module, and a core of scale 1: T5 does not divide by :math:`\sqrt{d}`.
relative = RelativeBias(H)
offset = torch.arange(-200, 201)  # the key's place minus the query's
rows = relative.bucket(offset)
theirs = t5.T5Attention._relative_position_bucket(offset)
assert torch.equal(rows, theirs)
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.step(offset, rows, where="mid")
ax.set(title="Near distances are told apart, far ones lumped together")
ax.set(xlabel="key, relative to the query", ylabel="bucket")
# sphinx_gallery_start_ignore
fig.set_label(
    "The bucket of each distance from minus to plus 200. Steps of one token "
    "near zero, ever longer steps outwards, flat from about 90 on; "
    f"keys after the query use buckets {rows[201]} to {rows[-1]}."
)
# sphinx_gallery_end_ignore

# %%
# Longer than in training
# -----------------------
# The task of :doc:`/learn/3_positions/03_rope_beyond_training`: give the value
# that the latest earlier token with the same symbol had.
S, V, D, T0 = 16, 8, 64, 64
codes = torch.randn(S + V, D)  # a vector for each symbol and each value


def batch(B, T):
    """Tokens (B, T, D) and answers (B, T), -100 where there is none."""
    symbols, values = torch.randint(S, (B, T)), torch.randint(V, (B, T))
    same = (symbols[:, :, None] == symbols[:, None]).tril(-1)
    latest = (same * torch.arange(1, T + 1)).argmax(-1)
    answers = values.gather(1, latest).where(same.any(-1), -100)
    return codes[symbols] + codes[S + values], answers


@torch.no_grad()
def right(model, T, draw):
    """Share of right answers among the last 32 of fresh texts of length T."""
    torch.manual_seed(draw)
    x, answers = batch(32, T)
    hit = model(x).argmax(-1) == answers
    return hit[:, -32:][answers[:, -32:] >= 0].float().mean().item()


# %%
# The model is one attention and a linear layer.


def trained(bias):
    """Fit an attention and a linear layer to texts of T0 tokens."""
    past = Causal() & ~Window(1)  # earlier tokens only
    heads = MultiHeadAttention(D, num_heads=4, mask=past, position_bias=bias)
    model = nn.Sequential(heads, nn.Linear(D, V))
    fit = torch.optim.AdamW(model.parameters(), fused=True)
    pace = torch.optim.lr_scheduler.OneCycleLR(fit, 3e-2, total_steps=130)
    for _ in range(130):
        x, answers = batch(32, T0)
        fit.zero_grad()
        F.cross_entropy(model(x).mT, answers).backward()
        fit.step()
        pace.step()
    return model


# %%
# ALiBi, T5's bias, and T5's with all buckets nearer than 40 tokens ("near"):
ways = {
    "ALiBi": ALiBi(4),
    "T5": RelativeBias(4, bidirectional=False),
    "near": RelativeBias(4, bidirectional=False, max_distance=40),
}
lengths = [64, 96, 128, 256, 512]
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
found, again = {}, {}
for style, (name, bias) in zip("os^", ways.items(), strict=True):
    model = trained(bias)
    found[name] = [right(model, T, draw=1) for T in lengths]
    again[name] = right(model, 512, draw=2)
    print(f"{name:5s} 64: {found[name][0]:.3f}, 512: {again[name]:.3f}")
    ax.semilogx(lengths, found[name], f"{style}-", base=2, label=name)
ax.set(title="ALiBi reads on; T5 meets buckets without training")
ax.set(xlabel="tokens of the text (trained on 64)", ylabel="right answers")
ax.set_xticks(lengths, lengths)
_ = ax.legend(frameon=False)
# sphinx_gallery_thumbnail_number = 3
# sphinx_gallery_start_ignore
fig.set_label(
    "Share of right answers for texts of 64 to 512 tokens. ALiBi stays near "
    "one. T5's bias falls to about a third; with all of its buckets within "
    "40 tokens it falls more slowly."
)
for name in ways:
    assert found[name][0] > 0.9
assert min(found["ALiBi"][-1], again["ALiBi"]) > 0.95
# sphinx_gallery_end_ignore

# %%
# ALiBi reads on; the task suits it, since it prefers the near before any
# training. T5's bias breaks, and its gradient says why: the furthest buckets
# do not occur in 64 tokens, so nothing trains their rows. With all buckets
# within the training length ("near"), it breaks less.
for name in ("T5", "near"):
    rows = ways[name].weight.grad.abs().sum(1)[1:]  # row 0: the token itself
    furthest = ways[name].bucket(torch.tensor(1 - T0))
    print(f"{name}: {int((rows == 0).sum())} of 31 rows have no gradient")
    assert (rows[furthest:] == 0).all()
    assert (rows[:furthest] > 0).all()
# sphinx_gallery_start_ignore
for seen in {n: found[n][-1] for n in ways}, again:
    assert seen["ALiBi"] - 0.1 > seen["near"] > seen["T5"] + 0.1
# sphinx_gallery_end_ignore

# %%
# What it costs
# -------------
# ALiBi has no parameters; T5's table has buckets times H, once. Yet a bias is
# handed to the fused kernel as H x T x T numbers, which a causal mask is not.
places = torch.arange(4096, device="meta")
added = ALiBi(8)(places, places)
assert relative.weight.numel() == 32 * 8
assert added.nbytes == 4 * 8 * 4096**2
print(f"bias of 8 heads for 4096 tokens: {added.nbytes >> 20} MiB")

# %%
# Exercise
# --------
# Be BLOOM: from the slopes, shape (H, 1, 1), and the places of the keys alone,
# make a bias of shape (H, 1, T) that gives the attention of ALiBi.


def one_row(m, places):
    """Your turn: this one has the sign of the pitfall."""
    return -m * places


def check(one_row):
    """Compare the attention with ALiBi's."""
    row = attend(q, k, v, Causal(), bias=one_row(m, at[:T]))
    apart = (row - ours).abs().max()
    return "right" if apart < 1e-4 else f"not yet: off by {apart:.2f}"


print(check(one_row))
# sphinx_gallery_start_ignore
assert check(one_row).startswith("not yet")
assert check(lambda m, places: m * places) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``m * places``: :math:`-m(i - j) = mj - mi`, and
#    :math:`mi` is the same for all keys of a query, so the softmax drops it.
#
# **Read on.** Press et al., *Train short, test long* (2021), is ALiBi; Raffel
# et al., *Exploring the limits of transfer learning* (2020), T5. The classes
# are :class:`tfdoc.ALiBi` and :class:`tfdoc.RelativeBias`. Next:
# :doc:`/learn/4_normalisation/01_layer_norm`.
