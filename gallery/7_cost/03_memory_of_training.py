"""
Memory of training, moment by moment: one step has two peaks
============================================================

Read this page if a training run stopped for lack of memory, or if you want to
know beforehand whether one will. Afterwards you can say what a step holds in
each of its moments, why people quote 12, 16 and 18 bytes a parameter, and
which of its two peaks your batch size meets.
"""

# %%
# One layer, by hand
# ------------------
# A training step has four moments: *forward*, *loss*, *backward* and *step*,
# when the optimiser moves the parameters. In float32, N parameters take 4 N
# bytes, their gradients 4 N, and AdamW's two running averages 8 N.
# :func:`tfdoc.rehearse` runs a step on the ``meta`` device, where tensors
# have shapes and no data, and follows each allocation. Sizes come in pieces
# of 512 bytes, as from a GPU's allocator: 6 weights (24 bytes) and 2 biases
# (8 bytes) take two pieces.
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tfdoc import Causal, Encoder, TransformerBlock, part, rehearse

N = 256 * 256
layer, x = nn.Linear(256, 256, bias=False), torch.empty(8, 256)
one = rehearse(layer, x, loss=torch.sum)
assert (one.parameters, one.gradients, one.optimizer) == (4 * N, 4 * N, 8 * N)
print(f"{one.parameters:,} + {one.gradients:,} + {one.optimizer:,} bytes")
tiny = rehearse(nn.Linear(3, 2), torch.empty(1, 3), loss=torch.sum)
assert tiny.parameters == 2 * 512

# %%
# A model, and its timeline
# -------------------------
# A small decoder: vocabulary V, width D, L layers, H heads, and a batch of B
# sequences of T tokens. A rehearsal calls the function that builds it on
# ``meta``, so any size would do.
V, D, L, H, T = 1000, 256, 4, 4, 256


def decoder():
    """Build embedding, causal layers and head."""
    block = part(TransformerBlock, num_heads=H, mask=Causal())
    trunk, head = Encoder(D, blocks=(block,) * L), nn.Linear(D, V, False)
    return nn.Sequential(nn.Embedding(V, D), trunk, head, nn.Flatten(0, 1))


def step(B, **settings):
    """Rehearse one step on B sequences of T tokens."""
    ids = torch.zeros(B, T, dtype=torch.long, device="meta")
    loss = partial(nn.functional.cross_entropy, target=ids.flatten())
    return rehearse(decoder, ids, loss=loss, **settings)


# %%
# The parts of the list are those of the single layer, whatever the batch:
with torch.device("meta"):
    N = sum(p.numel() for p in decoder().parameters())
steps = {B: step(B) for B in (1, 2, 4, 8)}
two = steps[2]
assert (two.parameters, two.gradients, two.optimizer) == (4 * N, 4 * N, 8 * N)
print(f"N = {N:,}; peak of {two.peak / N:.1f} N bytes, {two.peak_moment}")

# %%
# Divided by N, its timeline starts at 12: parameters and optimiser, which stay
# from step to step. The forward pass piles up *activations*, what the backward
# pass will need; that frees them, and leaves gradients. Then a second hill.
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
heights = [nbytes / N for _, nbytes in two.timeline]
moments = [moment for moment, _ in two.timeline]
for moment in two.peaks:
    here = [i for i, name in enumerate(moments) if name == moment]
    ax.fill_between(here, [heights[i] for i in here], label=moment)
top = max(range(len(heights)), key=heights.__getitem__)
ax.plot(top, heights[top], "v", color="C4", label="peak")
ax.set(title="One step, two hills", xlabel="allocation", ylim=(0, 30))
ax.set_ylabel("bytes per parameter")
ax.legend(frameon=False, loc="upper left", ncols=3)
assert moments[top] == two.peak_moment == "backward"
assert "gradients" not in two.by_kind
# sphinx_gallery_start_ignore
fig.set_label(
    "Allocated bytes per parameter over the allocations of one step: from 12 "
    f"up to {two.peaks['forward'] / N:.1f} in the forward pass, the peak of "
    f"{two.peak / N:.1f} early in the backward pass, down to about 16 at its "
    f"end, and up again to {two.peaks['step'] / N:.1f} in the step"
)
# sphinx_gallery_end_ignore

# %%
# The peak stands at the start of the backward pass: all activations are
# there, and no gradient of a parameter yet. The two do not add up.
#
# Pitfall: the list is not the peak
# ---------------------------------
# "Parameters, gradients, states: 16 N, and a little." For one sequence the
# activations are small, so a budget of 19 N should do. It does not:
one = steps[1]
print(f"list 16 N, peak {one.peak / N:.1f} N in {one.peak_moment}")
assert one.by_kind["temporaries"] == 4 * N
assert one.peak > 19 * N
slow = step(B=1, optimizer=partial(torch.optim.AdamW, foreach=False))
assert slow.peaks["step"] < 17 * N
print(f"mended: {slow.peaks['step'] / N:.1f} N in step")

# %%
# By default on a GPU, AdamW takes all parameters together (*foreach*), with a
# temporary for each: 20 N, not 16 N. A loop needs those of one at a time.
#
# Where the peak moves
# --------------------
# The step ignores the batch; each sequence adds the same to the backward pass.
backward = [s.peaks["backward"] / N for s in steps.values()]
updates = [s.peaks["step"] / N for s in steps.values()]
slope = (backward[3] - backward[0]) / 7
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.plot(list(steps), backward, "o-", color="C2", label="backward")
ax.plot(list(steps), updates, "s-", color="C3", label="step")
ax.set(title="The batch picks the peak", xlabel="sequences in the batch, B")
ax.set(ylabel="bytes per parameter", ylim=(0, None))
ax.legend(frameon=False)
for B, bytes_each in zip(steps, backward, strict=True):
    assert abs(bytes_each - (12 + slope * B)) < 0.05
assert max(updates) - min(updates) < 0.01
assert [s.peak_moment for s in steps.values()] == ["step"] + ["backward"] * 3
print(f"{slope:.2f} N a sequence: they cross at B = {8 / slope:.2f}")
# sphinx_gallery_start_ignore
fig.set_label(
    "Peak in bytes per parameter against the batch: the line of the step is "
    "flat at 20, that of the backward pass rises from "
    f"{backward[0]:.1f} at B = 1 to {backward[-1]:.1f} at B = 8; they cross "
    "between 1 and 2"
)
# sphinx_gallery_end_ignore

# %%
# Let a be the bytes of activations and temporaries per sequence: the peak is
# the larger of 20 N and 12 N + a B. Adding 16 N + a B asks for too much.
#
# What settings change
# --------------------
# Eight sequences; all in bfloat16; *amp*: parameters in float32, products in
# bfloat16; *checkpointing*: of each layer only the input is kept, and the
# layer runs again in the backward pass.
settings = {"fp32": steps[8], "bf16": step(8, precision="bf16")}
settings["amp"] = step(8, precision="amp")
settings["checkpointing"] = step(8, checkpointing=True)
kinds = "parameters optimizer gradients activations autocast temporaries"
fig, ax = plt.subplots(figsize=(6.5, 4.4), layout="constrained")
left = [0.0] * 4
for kind in kinds.split():
    sizes = [s.by_kind.get(kind, 0) / N for s in settings.values()]
    ax.barh(list(settings), sizes, left=left, label=kind)
    left = [sum(pair) for pair in zip(left, sizes, strict=True)]
ax.invert_yaxis()
ax.set(title="What the peak consists of", xlabel="bytes per parameter")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
fp32, bf16, amp, rerun = settings.values()
assert rerun.peak < bf16.peak < amp.peak < fp32.peak
assert abs(bf16.peak / fp32.peak - 0.5) < 0.01
# sphinx_gallery_thumbnail_number = 3
# sphinx_gallery_start_ignore
fig.set_label(
    "Stacked bars of the peak in bytes per parameter: "
    + ", ".join(f"{name} {s.peak / N:.1f}" for name, s in settings.items())
    + "; activations are the largest part of all but checkpointing"
)
# sphinx_gallery_end_ignore

# %%
# What a layer makes when it runs again counts as temporary. Bfloat16 halves
# all, but loses small updates of parameters; amp keeps those in float32.
#
# 12, 16 or 18 bytes a parameter
# ------------------------------
# - **12**: float32 parameters and AdamW's states, all between two steps.
# - **16**: with gradients. ZeRO's 16 is another sum, 2 + 2 + 12: 16-bit
#   parameters and gradients, a float32 copy and states.
# - **18**: amp's sum 4 + 2 + 4 + 8, with a bfloat16 copy of all parameters.
assert amp.parameters + amp.optimizer == 12 * N
assert amp.parameters + amp.optimizer + amp.gradients == 16 * N
assert amp.by_kind["autocast"] == 2 * (12 * L * D * D + V * D)
assert "gradients" not in amp.by_kind
assert abs(amp.peaks["step"] - 20 * N) < 0.01 * N

# %%
# Copies are kept of the weights in products only, and amp's peak comes before
# the gradients: 18 N is not its size. The step's is 20 N, as without amp.
#
# What it costs
# -------------
# A token meets :math:`12 D^2` weights a layer and V D in the head; attention
# adds :math:`4 T^2 D` a layer and sequence. The backward pass takes twice the
# products, and 5/2 of attention: the fused kernel computes scores again.
with torch.device("meta"), FlopCounterMode(display=False) as counter:
    decoder()(torch.zeros(8, T, dtype=torch.long))
products = 8 * 2 * T * (12 * D * D * L + V * D)
pairs = 8 * 4 * T * T * D * L
assert counter.get_total_flops() == fp32.flops.forward == products + pairs
assert fp32.flops.backward == 2 * products + 5 * pairs // 2
again = rerun.flops.backward - fp32.flops.backward
assert again == 8 * 2 * T * 8 * D * D * L + pairs
print(f"checkpointing: {rerun.flops.total / fp32.flops.total:.2f} x FLOPs")


# %%
# Checkpointing runs 8 of those :math:`12 D^2` again: no gradient needs a
# layer's last result. All is counted, **not yet measured with CUDA**.
#
# Exercise
# --------
# Which batch is the largest that fits a budget of bytes?
def largest_batch(budget, N, a):
    return int((budget - 16 * N) // a)  # your turn: so far, the list and a


def check(answer):
    """Compare with the rehearsals; 19 N fits no step."""
    budgets = {B: s.peak + N / 10 for B, s in steps.items()}
    for B, budget in (budgets | {0: 19 * N}).items():
        if (found := answer(budget, N, slope * N)) != B:
            return f"not yet: {budget / N:.1f} N fits {B}, you say {found}"
    return "right, on both hills"


print(check(largest_batch))

# sphinx_gallery_start_ignore
assert check(largest_batch).startswith("not yet")


def solution(budget, N, a):
    return 0 if budget < 20 * N else int((budget - 12 * N) // a)


assert check(solution).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``0 if budget < 20 * N else int((budget - 12 * N) // a)``: the step must
#    fit whatever the batch is, and a backward pass begins without gradients.
#
# **Read on.** Rajbhandari et al., *ZeRO* (2020); Chen et al., *Training deep
# nets with sublinear memory cost* (2016). All of it: :func:`tfdoc.estimate`.
# Next: :doc:`/learn/7_cost/04_memory_of_inference`.
