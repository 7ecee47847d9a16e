r"""
Memory of inference: weights once, a cache for each request
===========================================================

Read this page if you serve a model, or want to know which one your GPU can
serve, to how many people and for how long a text. Afterwards you can say what
a request needs, and how large the cache of keys and values really is: the
formulas that circulate miss it for many models of today, some by far.
"""

# %%
# Four tokens, by hand
# --------------------
# A decoder writes one token after the other. Each looks back at the *keys*
# and *values* of all earlier ones, so those are kept: the **KV cache**. A
# model of L layers, whose queries share G heads of d numbers, keeps 2 L G d
# numbers a token (two: a key and a value). Here is a tiny Llama:
import matplotlib.pyplot as plt
import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tfdoc import accelerator, ledger, preset, rehearse

torch.manual_seed(0)
build = AutoModelForCausalLM.from_config
L, H, G, d, T = 2, 4, 2, 8, 4
tiny = preset("llama-3-8b") | {"hidden_size": H * d, "num_hidden_layers": L}
tiny |= {"num_attention_heads": H, "num_key_value_heads": G}
network = build(AutoConfig.for_model(**tiny))
ids = torch.tensor([[5, 9, 2, 7]])
with torch.no_grad():
    logits, cache = network(ids[:, :3]).to_tuple()
    token = network(ids[:, 3:], None, None, cache)
    whole = network(ids).logits[:, 3:]
torch.testing.assert_close(token.logits, whole)
assert ledger(tiny).kv_cache(1, T, "fp32") == 2 * L * G * d * T * 4
print(f"largest difference {(token.logits - whole).abs().max():.1e}")

# %%
# Reading a prompt, all its tokens at once, is *prefill*; then each *decode*
# step takes one token and the cache. The result is that of starting anew.
#
# At full size
# ------------
# :func:`tfdoc.rehearse` runs the model's own code on ``meta``, without data,
# and follows each allocation, so Llama-3.2-1B takes no memory here. Eight
# requests (B) of 2048 tokens (T), in bfloat16:


def run(name, B, T, cache=None, **settings):
    """Rehearse T tokens of each of B texts, after those in the cache."""
    config = AutoConfig.for_model(**preset(name))
    ids = torch.zeros(B, T, dtype=torch.long, device="meta")
    settings |= {"mode": "infer", "precision": "bf16"}
    return rehearse(lambda: build(config), ids, None, None, cache, **settings)


B, T, GiB, small = 8, 2048, 2**30, ledger("llama-3.2-1b")
reading = run("llama-3.2-1b", B, T)
writing = run("llama-3.2-1b", B, 1, reading.output[1])
assert reading.parameters == small.bytes("bf16")
assert reading.kv_cache == small.kv_cache(B, T)
assert writing.kv_cache == small.kv_cache(B, T + 1)
print(f"prefill {reading.peak / GiB:.2f} GiB, decode {writing.peak / GiB:.2f}")

# %%
# Pitfall: logits for all positions
# ---------------------------------
# Why does reading need so much more than writing? The model predicts the next
# token at *every* position: B T V numbers for a vocabulary of V, though only
# the last position's are wanted. That is more than all its weights:
V = preset("llama-3.2-1b")["vocab_size"]
assert reading.logits == B * T * V * 2 > reading.parameters
mended = run("llama-3.2-1b", B, T, logits_to_keep=1)
assert mended.logits == B * V * 2
print(f"logits {reading.logits / GiB:.2f} GiB, mended {mended.peak / GiB:.2f}")

# %%
# ``generate`` of transformers asks for the last only, a plain call does not:
bars = {"decode": writing, "prefill, last logits": mended}
bars |= {"prefill, all logits": reading}
fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
left = [0.0] * len(bars)
for kind in ("parameters", "kv_cache", "temporaries", "logits"):
    sizes = [bar.by_kind.get(kind, 0) / GiB for bar in bars.values()]
    ax.barh(list(bars), sizes, left=left, label=kind.replace("_", " "))
    left = [sum(pair) for pair in zip(left, sizes, strict=True)]
ax.set(title="Llama-3.2-1B, eight prompts of 2048 tokens", xlabel="GiB")
fig.legend(loc="outside lower center", ncols=4, frameon=False)
assert writing.peak < mended.peak < 0.6 * reading.peak
# sphinx_gallery_start_ignore
fig.set_label(
    "Stacked bars of the peak in GiB: "
    + "; ".join(
        f"{name} {bar.peak / GiB:.1f}, of which parameters "
        f"{bar.parameters / GiB:.1f}"
        for name, bar in bars.items()
    )
    + "; of the last, logits are the largest part"
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: 2 L D a token
# ----------------------
# Three formulas circulate. The first takes the width D for the keys of all
# heads; the second knows G, but takes D / H for d; the third has both right.
# One request of 8192 tokens, in GB; *times* is the first over the last:
T, names = 8192, ["llama-2-7b", "llama-3-8b", "qwen3-0.6b"]
names += ["mistral-7b-v0.1", "gemma-3-1b", "deepseek-v2-lite"]


def formulas(name):
    """Return three estimates and the exact size, in bytes."""
    config, exact = preset(name), ledger(name).kv_cache(1, T)
    L, D = config["num_hidden_layers"], config["hidden_size"]
    H = config["num_attention_heads"]
    G, d = config["num_key_value_heads"], config.get("head_dim", D // H)
    numbers = [D, G * (D // H), G * d]
    return [2 * 2 * L * T * number for number in numbers] + [exact]


columns = ["2 L D", "2 L G D/H", "2 L G d", "exact"]
sizes = pd.DataFrame(map(formulas, names), index=names, columns=columns)
times = sizes["2 L D"] / sizes["exact"]
(sizes / 1e9).assign(times=times).round(3).rename_axis("model")

# %%
# Grouped heads divide Llama-3's cache by H / G. In Qwen3-0.6B, d is not D / H,
# and the first formula is right by accident: two errors cancel. The last three
# rows are wrong by any formula. Mistral sees the last 4096 tokens only, Gemma
# the last 512 in most layers: there the cache ends at the window less one.
# DeepSeek keeps one short *latent* vector a token (MLA). Does the
# exact column equal what the code of the last four models really keeps?
for name in names[2:]:
    cache = run(name, 1, T, logits_to_keep=1).kv_cache
    assert cache == sizes["exact"][name]
right = sizes.iloc[:, :3].eq(sizes["exact"], axis="index")
assert right["2 L D"].tolist() == [True, False, True] + [False] * 3
assert right["2 L G D/H"].tolist() == [True, True] + [False] * 4
assert right["2 L G d"].tolist() == [True] * 3 + [False] * 3

# %%
# To the byte. Longer texts set them apart:
lengths = [2**n for n in range(8, 18)]
fig, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
for name, marker in zip(names, "os^vDX", strict=True):
    cache = [ledger(name).kv_cache(1, n) / GiB for n in lengths]
    ax.loglog(lengths, cache, f"{marker}-", label=name)
ax.set(title="The cache of one request", xlabel="tokens", ylabel="GiB")
ax.legend(frameon=False)
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
ax.set_xticks(lengths[::3], [f"{n:,}" for n in lengths[::3]])
ax.minorticks_off()
fig.set_label(
    "Cache in GiB against tokens, both logarithmic: straight lines but for "
    "Mistral, flat from 4096 tokens on, and Gemma, which bends at 512. At "
    f"{lengths[-1]:,} tokens: "
    + ", ".join(
        f"{n} {ledger(n).kv_cache(1, lengths[-1]) / GiB:.2g}" for n in names
    )
)
# sphinx_gallery_end_ignore


# %%
# How many requests fit
# ---------------------
# Weights once, then a cache of 8192 tokens for each: at most this many fit.
# The last model weighs twice the first; on an H100 it has room for many more.
weights = pd.Series({name: ledger(name).bytes("bf16") for name in names})
gpus = "rtx-4090", "a100-40gb", "h100-80gb", "mi300x"
left = pd.DataFrame({g: accelerator(g).memory - weights for g in gpus})
fits = left.clip(lower=0).floordiv(sizes["exact"], axis="index")
assert weights["deepseek-v2-lite"] > 2 * weights["llama-2-7b"]
assert fits["h100-80gb"].iloc[-1] > 10 * fits["h100-80gb"].iloc[0]
fits.rename_axis("model")

# %%
# A bound, not a promise. Transformers' default cache grows by making longer
# copies, so one layer's keys are there twice for a moment. And a prompt needs
# its temporaries, so read prompts one at a time. Llama-3-8B on a 4090:
B, name = int(fits["rtx-4090"]["llama-3-8b"]), "llama-3-8b"
read_all = run(name, B, T, logits_to_keep=1)
write_all = run(name, B, 1, read_all.output[1])
card = accelerator("rtx-4090").memory
for what, peak in ("prefill", read_all.peak), ("decode", write_all.peak):
    print(f"{B} caches, {what}: {peak / card:.1%} full")
    assert peak > card
copy = write_all.peak - write_all.parameters - write_all.kv_cache
assert abs(copy - read_all.kv_cache / (2 * 32)) < 2**20

# %%
# All is counted, **not yet measured with CUDA**, whose context adds to it.
#
# What it costs
# -------------
# Two operations for each weight in a product, and :math:`4 L H d` for each
# token looked at. Without a cache each new token would pay for all:
products, pairs = small.total - small.by_component["norms"], 16 * 2048 * 2049
step = 8 * (2 * products + 4 * pairs)  # L, H d and T + 1
assert writing.flops.forward == step
anew = small.flops(8, 2049, logits="last")
print(f"the cache saves {1 - step / anew:.2%} of the operations")

# %%
# Exercise
# --------
# Some layers see all tokens, others the last W. What does one request of T
# tokens keep, in bytes of bfloat16?


def my_cache(T, full, sliding, W, G, d):
    return 2 * 2 * (full + sliding) * G * d * min(T, W)  # your turn


gemma, mistral = (4, 22, 512, 1, 256), (0, 32, 4096, 8, 128)


def check(cache):
    """Compare with two published models, short and long."""
    for name, sizes in ("gemma-3-1b", gemma), ("mistral-7b-v0.1", mistral):
        for T in (100, 511, 512, 8192):
            exact = ledger(name).kv_cache(1, T)
            if (found := cache(T, *sizes)) != exact:
                return f"not yet: {name}, {T} tokens: {found:,} for {exact:,}"
    return "right, to the byte"


print(check(my_cache))

# sphinx_gallery_start_ignore
assert check(my_cache).startswith("not yet")


def solution(T, full, sliding, W, G, d):
    return 2 * 2 * G * d * (full * T + sliding * min(T, W - 1))


assert check(solution).startswith("right")
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``2 * 2 * G * d * (full * T + sliding * min(T, W - 1))``: the token to
#    come is one of the W that it sees.
#
# **Read on.** Shazeer, *Fast transformer decoding* (2019): one head of keys
# for all. Kwon et al., *PagedAttention* (2023): caches in pages. Next:
# :doc:`what limits tokens a second </learn/7_cost/05_flops_and_roofline>`.
