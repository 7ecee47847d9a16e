r"""
Counting parameters: three popular formulas, and not one hit
============================================================

Read this page if you plan a model, check a download, or wonder why two tools
print two sizes for one model. Afterwards you can count the parameters of a
decoder by hand, to the last one, and say what a formula from a tutorial
leaves out, and why it sometimes looks right all the same.
"""

# %%
# A decoder that fits in your head
# --------------------------------
# V = 10 entries in the vocabulary, width D = 4, L = 1 layer, hidden width
# F = 8, Llama's design: no biases, a gated feed-forward network (three
# matrices), RMSNorm (one weight a channel), a head of its own. The number of
# attention heads H is missing: they only share out D.
V, D, L, F = 10, 4, 1, 8
by_hand = {
    "embed_tokens": V * D,
    "attention": L * 4 * D * D,  # q, k, v and output
    "ffn": L * 3 * D * F,  # gate, up and down
    "norms": (2 * L + 1) * D,  # two a layer, one at the end
    "lm_head": D * V,
}
print(by_hand, "together", sum(by_hand.values()))

# %%
# :func:`tfdoc.ledger` counts what a config of Hugging Face builds:
from collections import Counter
from math import prod

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

import tfdoc

sizes = {"vocab_size": V, "hidden_size": D, "intermediate_size": F}
sizes |= {"num_hidden_layers": L, "num_attention_heads": 2}
assert tfdoc.ledger({"model_type": "llama"} | sizes).by_component == by_hand

# %%
# What the popular formulas say
# -----------------------------
# Three formulas go from tutorial to tutorial. All describe GPT-2's layers, of
# two feed-forward matrices; two take F = 4 D for granted. The third adds P
# learned positions and biases, and is published in the form
# :math:`12 L D^2 (1 + \frac{13}{12 D} + \frac{V + P}{12 L D})`.
#
# Try them on the dense decoders among the configs that tfdoc knows by name.
# Sizes are columns now, a row a model; errors are in %, and not one is 0:
books = {name: tfdoc.ledger(name) for name in tfdoc.preset_names()}
ends = "ForCausalLM", "LMHeadModel"
books = {n: b for n, b in books.items() if b.architecture.endswith(ends)}
dense = {n: b for n, b in books.items() if b.active == b.total}
sizes = pd.DataFrame({n: b.sizes for n, b in dense.items()}).T.fillna(0)
total = pd.Series({n: b.total for n, b in dense.items()})
V, D, L, F, H, G, d, P = (sizes[symbol].astype(int) for symbol in "VDLFHGdP")
formulas = {
    "plain": 12 * L * D**2 + 2 * V * D,
    "with F": V * D + L * (4 * D**2 + 2 * D * F + 4 * D) + D * V,
    "with P": 12 * L * D**2 + 13 * L * D + (V + P) * D,
}
errors = pd.DataFrame({n: 100 * (f / total - 1) for n, f in formulas.items()})
assert not any((formula == total).any() for formula in formulas.values())
errors.describe().round(1)

# %%
# A dot is a model, a bar the median of its row:
fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for row, error in enumerate(errors[name] for name in formulas):
    spread = [row + 0.6 * (i * 0.618 % 1 - 0.5) for i in range(len(error))]
    ax.plot(error, spread, "o", ms=4, alpha=0.7)
    ax.plot([error.median()] * 2, [row - 0.42, row + 0.42], "C4", lw=2.5)
ax.set_yticks(range(len(formulas)), list(formulas))
ax.set(title="No formula meets a model", xlabel="error in %")
ax.invert_yaxis()
assert abs(errors["plain"].median()) < 0.1
assert errors["plain"].max() > 50
# sphinx_gallery_start_ignore
fig.set_label(
    f"A row of {len(errors)} dots for each formula, one dot a model. "
    + "; ".join(
        f"{name}: {e.min():+.0f} to {e.max():+.0f} %, "
        f"median {e.median():+.1f} %"
        for name, e in errors.items()
    )
)
# sphinx_gallery_end_ignore

# %%
# What they miss
# --------------
# The plain one has its median next to zero, by luck: too much here is too
# little there. Sort the ledger's entries to see it. H heads are d wide, mostly
# D / H, and share G heads of keys and values.


def stored(book):
    """Sum the entries by component, biases other than those of norms apart."""
    sums = Counter()
    for entry in book.entries:
        bias = entry.name.endswith("bias") and "norms" not in entry.component
        if not entry.tied_to:
            sums["biases" if bias else entry.component] += prod(entry.shape)
    return sums


held = pd.DataFrame({n: stored(b) for n, b in dense.items()}).T.fillna(0)
units = held[["attention", "ffn"]].div(L * D**2, axis=0)
units["error, %"] = errors["plain"]
assert abs(errors["plain"]["llama-2-7b"]) < 1
assert errors["plain"]["llama-3-8b"] < -6
units.loc[["gpt2", "llama-2-7b", "llama-3-8b"]].round(2)

# %%
# In units of L D D, as here, the plain formula takes 4 + 8. Llama-2-7B has F
# near 8/3 D, so three matrices weigh what two did; Llama-3-8B has a wider F,
# and fewer heads of keys and values. Now take off what "with F" counts:
missed = {
    "other norms": held["norms"] + held["norms_qk"] - L * 4 * D,
    "third matrix": held["ffn"] - L * 2 * D * F,
    "G < H": held["attention"] - L * 4 * D * H * d,
    "d not D / H": L * 4 * D * (H * d - D),
    "tied head": held["lm_head"] - V * D,
    "positions": held["embed_positions"],
    "biases": held["biases"],
}
missed = pd.DataFrame(missed)
left = missed.cumsum(axis=1).rsub(total - formulas["with F"], axis=0)
assert (left["biases"] == 0).all()  # everything is explained, in every model

# %%
# Mend them from the top down, and count the models that are met by then:
shares = 100 * missed.div(total, axis=0)
found = pd.DataFrame({"models": (missed != 0).sum()})
found["most, %"] = [s[s.abs().idxmax()] for _, s in shares.items()]
found["in"] = shares.abs().idxmax()
found["met by then"] = (left == 0).sum()
assert found["met by then"].iloc[-1] == len(dense)
found.rename_axis(columns="what is missed").round(2)

# %%
# Four causes make the large errors, the others only prevent a hit:
some = ["gpt2", "gemma-3-270m", "qwen3-0.6b", "llama-2-7b", "llama-3-8b"]
large = found.index[found["most, %"].abs() > 1]
fig, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
shares.loc[some[::-1], large].plot.barh(stacked=True, ax=ax, legend=False)
ax.set(title='What "with F" misses', xlabel="share of the model in %")
fig.legend(loc="outside lower center", ncols=4, frameon=False)
assert len(large) == 4
assert shares[["G < H", "tied head"]].to_numpy().max() <= 0
# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_start_ignore
fig.set_label(
    "Stacked bars, one a model, of what is missed (right) and what is counted "
    "too much (left): "
    + "; ".join(
        f"{n}: "
        + ", ".join(f"{c} {v:+.0f} %" for c, v in s[large].items() if v)
        for n, s in shares.loc[some].iterrows()
    )
)
# sphinx_gallery_end_ignore

# %%
# The third matrix of a gate is missing. Heads that share keys and values, and
# a head that *is* the embedding, are always counted too much.
#
# Mixtures: total and active
# --------------------------
# In a mixture a token passes through K of E experts a layer. It needs the
# memory of all, and the work of its *active* parameters; in billions:
mixed = {n: b for n, b in books.items() if n not in dense}
for b in mixed.values():
    idle = b.by_component["moe_experts"] * (1 - b.sizes["K"] / b.sizes["E"])
    assert b.total - b.active == idle > b.total / 2
rows = {n: {"total": b.total, "active": b.active} for n, b in mixed.items()}
(pd.DataFrame(rows).T / 1e9).sort_values("total").round(1)

# %%
# Pitfall: tied weights counted twice
# -----------------------------------
# A tied table is one parameter under two names, and a state dict lists names.
# Let Hugging Face build two models, without data on the ``meta`` device:
for name in ("gpt2", "llama-3.2-1b"):
    config, book = AutoConfig.for_model(**tfdoc.preset(name)), dense[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    listed = sum(t.numel() for t in model.state_dict().values())
    print(f"{name}: {listed / book.total - 1:.0%} too many listed")
    assert listed == book.total + V[name] * D[name]
    mended = set(model.state_dict(keep_vars=True).values())  # no copies
    assert sum(p.numel() for p in mended) == book.total

# %%
# To mend it, count tensors, not names; ``model.parameters()`` does.
#
# What it costs
# -------------
# A parameter takes 2 bytes in bfloat16, and 2 operations a token where it is
# part of a matrix product. Norms are not; a tied head is, though nothing is
# stored for it. Attention among T tokens adds :math:`4 T^2 H d` a layer, pairs
# that a mask hides included, as PyTorch counts them.
T, at_work = 64, book.total - book.by_component["norms"]
with FlopCounterMode(display=False) as counter:
    model(torch.zeros(1, T, dtype=torch.long, device="meta"))
flops = 2 * at_work * T + 4 * T**2 * (L * H * d)[name]
assert flops == book.flops(1, T) == counter.get_total_flops()
print(f"{book.bytes() / 1e9:.2f} GB, {flops / T / 1e9:.2f} GFLOP a token")

# %%
# Exercise
# --------
# Mend "with F" until it meets every Llama and Mistral; ``tied`` is a flag.
family = [n for n, b in dense.items() if b.model_type in ("llama", "mistral")]
tied = held["lm_head"] == 0
yours = V * D + L * (4 * D**2 + 2 * D * F + 4 * D) + D * V  # your turn


def check(size):
    """Count how many of the family have exactly this size."""
    met = (size == total)[family]
    return f"{'right' if met.all() else 'not yet'}: meets {sum(met)} models"


print(check(yours))

# sphinx_gallery_start_ignore
assert check(yours) == "not yet: meets 0 models"
layer = 2 * D * d * (H + G) + 3 * D * F + 2 * D
solution = V * D + L * layer + D + (1 - tied) * V * D
assert check(solution) == f"right: meets {len(family)} models"
for name in family:
    numbers = [int(symbol[name]) for symbol in (V, D, L, F, H)]
    shape = {"num_kv_heads": int(G[name]), "head_dim": int(d[name])}
    shape |= {"tied": bool(tied[name])}
    assert sum(tfdoc.count_params(*numbers, **shape).values()) == total[name]
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``V*D + L * (2*D*d*(H + G) + 3*D*F + 2*D) + D + (1 - tied) * V*D``, which
#    is what :func:`tfdoc.count_params` adds up, with biases if there are any.
#
# **Read on.** Narayanan et al., *Efficient large-scale language model training
# on GPU clusters* (2021), the third formula; Shazeer, *GLU variants improve
# transformer* (2020). Next: :doc:`/learn/7_cost/02_key_parameters`.
