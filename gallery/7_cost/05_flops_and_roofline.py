r"""
What limits your tokens per second: operations or bytes
=======================================================

Read this page if you want to know how fast a model can be on your GPU before
you rent it, or why yours is slower than its data sheet. Afterwards you can
count the operations of a text, tell which of two walls stands in the way, and
bound the tokens per second of any software that writes one at a time.
"""

# %%
# One matrix, by hand
# -------------------
# A matrix of n inputs and m outputs multiplies and adds n m times for each
# row of its input: 2 n m *operations* (FLOPs). In bfloat16 it has 2 n m
# bytes, which must come from memory once, for however many rows. Operations
# over bytes is the **intensity**: here, nearly the number of rows.
import timeit
from functools import partial
from time import process_time

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from tfdoc import accelerator, ledger, preset, rehearse

n, m, rows = 1024, 4096, 4
x, W = torch.randn(rows, n), torch.randn(n, m)
with FlopCounterMode(display=False) as counter:
    x @ W
assert counter.get_total_flops() == rows * 2 * n * m
nbytes = 2 * (n * m + rows * n + rows * m)  # matrix, input, output
print(f"{rows} rows: {rows * 2 * n * m / nbytes:.2f} operations a byte")

# %%
# Measure it: 1 to 128 rows meet a matrix too large for a processor's caches.
torch.manual_seed(0)
W, counts = torch.randn(2048, 8192), [1, 4, 16, 64, 128]


def seconds(rows):
    """Return the shortest processor time of a few runs."""
    x = torch.randn(rows, 2048)
    return min(timeit.repeat(lambda: x @ W, "", process_time, 8, number=1))


each = [1000 * seconds(rows) / rows for rows in counts]
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ax.plot(counts, each, "o-")
ax.set(title="Rows share the reading of a matrix", xlabel="rows at once")
ax.set(ylabel="milliseconds a row", xscale="log", ylim=(0, None))
assert each[-1] < 0.7 * each[0]
# sphinx_gallery_start_ignore
ax.set_xticks(counts, [str(rows) for rows in counts])
ax.minorticks_off()
fig.set_label(
    "Milliseconds a row against rows at once, as this build measured them: "
    + ", ".join(f"{t:.2f} at {r}" for r, t in zip(counts, each, strict=True))
)
# sphinx_gallery_end_ignore

# %%
# One row waits for the matrix; many rows wait for their turn to multiply. (If
# a few cost more each than one, it is the library: they read the same bytes.)
#
# What it costs, in operations
# -----------------------------
# Each weight in a product costs 2 operations a token. Attention adds
# :math:`4 H d` a layer for each pair of tokens: scores, and the mixture of
# values. All pairs count here, as in PyTorch's counter, also those that a
# causal mask hides; a fused causal kernel skips nearly half. *2 N* for N
# parameters, often used, knows no pairs, but counts embeddings. Its errors:
lengths = [128, 2048, 8192, 32_768]
names = ["gpt2", "qwen3-0.6b", "llama-3.2-1b", "llama-3-8b", "llama-2-7b"]
names += ["mixtral-8x7b", "deepseek-v2-lite"]
books = [ledger(name) for name in names]
rows = [[2 * b.active * T / b.flops(1, T) for T in lengths] for b in books]
table = pd.DataFrame(rows, names, lengths) - 1
assert table[128].abs().max() < 0.1
assert table[32_768].max() < -0.3
(100 * table).round(1).rename_axis("error of 2 N, %")

# %%
# Of the mixtures, N is the *active* parameters: those that a token meets. For
# all lengths, the ledger has what the model's own code does:


def run(name, B, T, **settings):
    """Rehearse reading B sequences of T tokens."""
    config = AutoConfig.for_model(**preset(name))
    ids = torch.zeros(B, T, dtype=torch.long, device="meta")
    build = partial(AutoModelForCausalLM.from_config, config)
    return rehearse(build, precision="bf16", input_ids=ids, **settings)


for name in ("llama-3-8b", "deepseek-v2-lite"):
    done = run(name, 2, 512, mode="infer").flops
    assert done.forward == ledger(name).flops(2, 512)
ids = torch.zeros(1, 2048, dtype=torch.long, device="meta")
step = run("llama-3.2-1b", 1, 2048, labels=ids, optimizer=None).flops
six = 6 * ledger("llama-3.2-1b").total * 2048
print(f"training: 6 N is {six / step.total - 1:+.0%}")
assert 2 < step.backward / step.forward < 2.1

# %%
# A backward pass takes twice the products, and a little more where attention's
# kernel computes scores again. *6 N* inherits the errors of 2 N.
#
# Pitfall: a counter that sees nothing
# ------------------------------------
# PyTorch's counter ignores the CPU's fused attention. On ``meta`` all counts:
for device in ("cpu", "meta"):
    q = torch.empty(1, 4, 256, 16, device=device)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    print(f"{device}: {counter.get_total_flops():,}")
    # sphinx_gallery_start_ignore
    # Once this fails for the CPU, the page needs another pitfall.
    assert (counter.get_total_flops() == 0) == (device == "cpu")
    # sphinx_gallery_end_ignore
assert counter.get_total_flops() == 4 * 16 * 4 * 256 * 256

# %%
# Two walls
# ---------
# A step takes at least its operations over the GPU's operations a second, and
# at least its bytes over its bytes a second: whichever is longer. In a decode
# step of B texts, weights and caches are read once, of the embedding B rows.


def decode(B, T):
    """Return operations of the next token of B texts, and intensity."""
    token = book.flops(1, 1)
    pair = book.flops(1, 2) // 2 - token  # pairs grow with the square
    operations = B * (token + pair * T)
    return operations, operations / (read + book.kv_cache(B, T))


def roof(intensity):
    """Return the operations a second that the GPU can reach."""
    return min(gpu.bf16, intensity * gpu.bandwidth)


# %%
# Llama-3-8B on an H100, with texts of T = 512:
book, gpu, T = ledger("llama-3-8b"), accelerator("h100-80gb"), 512
read = book.bytes() - 2 * book.embedding
prefill = book.flops(1, T, logits="last") / (read + book.kv_cache(1, T))
works = {f"prefill of {T}": prefill}
works |= {f"decode, B = {B}": decode(B, T)[1] for B in (1, 16, 128)}
ridge = gpu.bf16 / gpu.bandwidth  # where the walls meet
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
line = [0.5, ridge, 2000]
ax.loglog(line, [roof(i) / 1e12 for i in line], label="H100, 80 GB")
for (label, i), marker in zip(works.items(), "os^v", strict=True):
    ax.plot(i, roof(i) / 1e12, marker, label=label)
ax.set(title="Two walls", xlabel="operations a byte", ylabel="TFLOP/s")
ax.legend(frameon=False)
assert works["decode, B = 128"] < ridge < prefill
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
before = run("llama-3-8b", 16, T, mode="infer", logits_to_keep=1).output
ids = torch.zeros(16, 1, dtype=torch.long, device="meta")
config = AutoConfig.for_model(**preset("llama-3-8b"))
build = partial(AutoModelForCausalLM.from_config, config)
after = rehearse(build, ids, None, None, before[1], mode="infer")
assert after.flops.forward == decode(16, T)[0]
fig.set_label(
    "TFLOP/s against operations a byte, both logarithmic: a slope up to "
    f"{ridge:.0f}, then flat at {gpu.bf16 / 1e12:.0f}. "
    + ", ".join(f"{label} at {i:.1f}" for label, i in works.items())
)
# sphinx_gallery_end_ignore

# %%
# Prefill works under the flat part: it is *compute-bound*. Decode stays on
# the slope, *memory-bound*: alone, a text uses a sliver of the operations.
#
# Tokens per second, at most
# --------------------------
# Texts share the reading of weights, but each brings a cache of its own:


def most(B, T):
    """Return a bound on the tokens a second of B texts together."""
    operations, intensity = decode(B, T)
    return B * roof(intensity) / operations


batches = [2**n for n in range(11)]
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for T, marker in (128, "o"), (1024, "s"), (8192, "^"):
    speeds = [most(B, T) for B in batches]
    ax.loglog(batches, speeds, f"{marker}-", label=f"{T} tokens each")
ax.set(title="Llama-3-8B on an H100, at most", xlabel="texts at once, B")
ax.set_ylabel("tokens a second, all together")
ax.legend(frameon=False)
wall = next(B for B in range(1, 1025) if decode(B, 128)[1] > ridge)
print(f"B = 1: {most(1, 128):.0f}/s, B = {wall}: {most(wall, 128):,.0f}/s")
assert decode(10**6, 8192)[1] < ridge / 10
# sphinx_gallery_start_ignore
fig.set_label(
    "Tokens a second against the batch, both logarithmic: one line at first, "
    f"from {most(1, 128):.0f}; at B = 1024 "
    + ", ".join(f"{most(1024, T):,.0f} with {T}" for T in (128, 1024, 8192))
    + " tokens each"
)
# sphinx_gallery_end_ignore

# %%
# At 8192 tokens no batch, however large, gets there: each brings its cache.
# All are bounds: kernels reach part of them, and the caches must fit as well.
#
# A mixture reads more than it uses
# ---------------------------------
# One token meets K of E experts; B tokens choose differently. Does nobody
# choose a given one with probability :math:`(1 - K/E)^B`? Draw, and compare:
E, K, B = 128, 8, 32  # Qwen3-30B-A3B, 32 texts
chosen = torch.rand(2000, B, E).topk(K).indices
share = torch.zeros(2000, E).scatter_(1, chosen.flatten(1), 1).mean()
print(f"a token meets {K / E:.1%} of the experts, {B} read {share:.1%}")
assert abs(share - (1 - (1 - K / E) ** B)) < 0.01

# %%
# Exercise
# --------
# With weights in four bits (NF4; 4.127 with scales), how many times as fast
# can one text of 8192 tokens decode on a memory-bound GPU?
my_factor = 16 / 4.127  # your turn: bits over bits


def check(factor):
    rest = book.kv_cache(1, 8192) - 2 * book.embedding
    right = (book.bytes() + rest) / (book.bytes(quant="nf4") + rest)
    return "right" if abs(factor / right - 1) < 0.01 else "not yet"


print(check(my_factor))

# sphinx_gallery_start_ignore
assert check(my_factor) == "not yet"
whole = read + book.kv_cache(1, 8192)
solution = whole / (whole - book.bytes() + book.bytes(quant="nf4"))
assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    With ``whole = read + book.kv_cache(1, 8192)``: ``whole / (whole -
#    book.bytes() + book.bytes(quant="nf4"))``. Head and cache keep 16 bits.
#
# **Read on.** Williams et al., *Roofline* (2009); Pope et al., *Efficiently
# scaling transformer inference* (2022). Bandwidth again is why
# :doc:`fused attention </learn/2_attention/09_fused_attention>` is fast. Next:
# :doc:`/learn/7_cost/06_lora_targets`.
