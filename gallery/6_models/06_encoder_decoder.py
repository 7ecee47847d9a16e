r"""
Encoder and decoder: the original transformer, put together
===========================================================

Translation, summaries, speech: one sequence goes in, another comes out. Read
this page if you meet T5, BART or Whisper, or the diagram with two towers. At
the end you can build one, train it, let it write, and tell the bug that makes
its loss too good.
"""

# %%
# Two stacks and a bridge
# -----------------------
# The *encoder* reads the source, every token seeing every other. The
# *decoder* writes: causal self-attention over what it wrote, then
# cross-attention to what the encoder made, then a feed-forward network.
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tfdoc
from tfdoc import Causal, FeedForward, MultiHeadAttention, part, record

torch.manual_seed(0)
D, H, hidden, V = 32, 4, 64, 12
heads = part(MultiHeadAttention, num_heads=H)
ffn = part(FeedForward, hidden_dim=hidden, activation=F.relu)
reads = part(tfdoc.PostNormBlock, attention=heads, feedforward=ffn)
writes = part(
    tfdoc.PostNormCrossBlock,
    attention=heads.but(mask=Causal()),
    cross_attention=heads,
    feedforward=ffn,
)
print(writes)

# %%
# The same numbers as PyTorch
# ---------------------------
# The decoder's block beside :class:`torch.nn.TransformerDecoderLayer`, with
# its weights.
theirs = nn.TransformerDecoderLayer(D, H, hidden, 0.0, batch_first=True)
ours = writes.build(D)
names = {
    "self_attn": "attention",
    "multihead_attn": "cross_attention",
    "out_proj": "o_proj",
    "linear1": "feedforward.up_proj",
    "linear2": "feedforward.down_proj",
    "norm1": "attn_norm",
    "norm2": "cross_norm",
    "norm3": "ffn_norm",
}
weights = {}
for key, weight in theirs.state_dict().items():
    for old, new in names.items():
        key = key.replace(old, new)  # noqa: PLW2901
    thirds = zip("qkv", weight.chunk(3), strict=False)
    split = {key.replace("in_proj_", f"{n}_proj."): w for n, w in thirds}
    weights |= split if "in_proj" in key else {key: weight}
ours.load_state_dict(weights)

# %%
x, context = torch.randn(2, 5, D), torch.randn(2, 7, D)
expected = theirs(x, context, tgt_mask=~Causal().table(5))
torch.testing.assert_close(ours(x, context), expected)
print(f"differs by {(ours(x, context) - expected).abs().max():.1e}")

# %%
# A model that sorts
# ------------------
# Source: six digits. Target: the same digits in order. Tokens 0 to 9 are
# digits, 10 begins a text and 11 ends it. Source and target share one table
# of vectors, and the head is that table too. (The original adds sinusoids for
# positions, and multiplies the vectors by :math:`\sqrt D`.)
places = part(tfdoc.LearnedPositions, max_positions=16)
transformer = part(
    tfdoc.EncoderDecoder,
    embed=part(tfdoc.TokenEmbedding, vocab_size=V, positions=places),
    encoder=part(tfdoc.Encoder, blocks=(reads,) * 2),
    decoder=part(
        tfdoc.Decoder,
        vocab_size=V,
        blocks=(writes,) * 2,
        positions=places,
        tied=True,
    ),
)


def batch(rows):
    """Sources (rows, 6), and targets: begin, six digits in order, end."""
    source = torch.randint(10, (rows, 6))
    edge = torch.full((rows, 1), 10)
    return source, torch.cat([edge, source.sort().values, edge + 1], 1)


# %%
# Training knows the answer: the decoder reads the right target (*teacher
# forcing*), shifted by one, so that each token is guessed from those before.
def train(shift, steps=300):
    """Train; `shift` says how far targets stand behind what is read."""
    torch.manual_seed(1)
    model, losses = transformer.build(D), []
    adam = torch.optim.Adam(model.parameters(), fused=True)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 50)
        source, target = batch(64)
        logits = model(source, target[:, : 8 - shift]).flatten(0, 1)
        loss = F.cross_entropy(logits, target[:, shift:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return model.eval(), losses


model, losses = train(shift=1)

# %%
# Free, it reads what it wrote itself. The source is encoded once.
source, target = batch(200)


def accuracy(model):
    """Write from the source alone; the share of texts that are right."""
    begin = torch.full((200, 1), 10)
    asked = model.encode(source)
    out = tfdoc.generate(model.decoder, begin, max_new_tokens=7, **asked)
    return (out == target).all(1).float().mean().item()


print(f"loss {losses[-1]:.3f}; sorted right: {accuracy(model):.0%}")
assert accuracy(model) > 0.8

# %%
# Where the decoder looks
# -----------------------
with record(model.decoder, "*cross_attention.core.weights") as seen:
    model(source[:1], target[:1, :-1])
weights = [w[0].mean(0).detach() for w in seen.values()]
fig, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
for layer, (ax, w) in enumerate(zip(axes, weights, strict=True)):
    ax.imshow(w.numpy(), cmap="Blues", vmin=0)
    ax.set_xticks(range(6), source[0].tolist())
    ax.set_yticks(range(7), ["begin", *target[0, 1:-1].tolist()])
    ax.set(title=f"decoder, block {layer + 1}", xlabel="source")
_ = axes[0].set_ylabel("read so far")
# In the second block most rows look at the digit that comes next.
found = source[0][weights[1][:6].argmax(-1)]
assert (found == target[0, 1:7]).sum() > 3
# sphinx_gallery_start_ignore
fig.set_label(
    "Two maps, one for each block of the decoder, averaged over heads: rows "
    "are the tokens read so far, columns the digits of the source. In the "
    "second block most rows are darkest at the digit that comes next."
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: a target that is not shifted
# -------------------------------------
# Give the decoder the target and ask for the same target. The answer stands
# in the question, the loss falls faster than it should, and the model writes
# nonsense.
cheat, too_good = train(shift=0, steps=100)
early = losses[99], too_good[99]
print(f"loss at step 100: {early[0]:.3f} shifted, {early[1]:.3f} not")
print(f"sorted right: {accuracy(cheat):.0%}")
assert early[1] < 0.5 * early[0]
assert accuracy(cheat) < 0.05

# %%
# What it costs
# -------------
# A block of the decoder has one attention more than one of the encoder,
# :math:`4(D^2 + D)` parameters and a norm of 2D.
counts = [
    sum(p.numel() for p in block.build(D).parameters())
    for block in (reads, writes)
]
assert counts[1] - counts[0] == 4 * (D * D + D) + 2 * D
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    block = writes.build(D)
    block(torch.empty(1, 5, D), torch.empty(1, 7, D))
own, other = 8 * 5 * D**2 + 4 * 25 * D, (4 * 5 + 4 * 7) * D**2 + 4 * 35 * D
assert counter.get_total_flops() == own + other + 4 * 5 * D * hidden

# %%
# Exercise
# --------
# Mark the padding of sources of different length.


def real_tokens(lengths, longest):
    """Your turn: a bool tensor (B, longest), True at tokens."""
    return torch.ones(len(lengths), longest, dtype=torch.bool)


def check(real_tokens):
    real = real_tokens(torch.tensor([6, 4]), 6)
    both = model.encode(source[:2], real)["context"]
    alone = model.encode(source[1:2, :4])["context"]
    gap = (both[1:, :4] - alone).abs().max()
    return "right" if gap < 1e-4 else f"not yet: off by {gap:.2f}"


print(check(real_tokens))

# sphinx_gallery_start_ignore
assert check(real_tokens).startswith("not yet")
assert check(lambda n, longest: torch.arange(longest) < n[:, None]) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``torch.arange(longest) < lengths[:, None]``
#
# **Read on.** Vaswani et al., *Attention is all you need* (2017,
# arXiv:1706.03762). The components: :class:`tfdoc.EncoderDecoder`,
# :class:`tfdoc.PostNormCrossBlock`. Before it:
# :doc:`/learn/2_attention/07_cross_attention`. Next:
# :doc:`/learn/6_models/07_kv_cache`.
