r"""
Where does LoRA go, and what does it cost?
==========================================

Whoever fine-tunes with LoRA must say which matrices get an adapter, by names
that differ from family to family. Read this page to find those names in any
config, to count what each choice trains before you load a weight, and to meet
a layer of PyTorch that trains its adapters and then ignores them.
"""

# %%
# One matrix, by hand
# -------------------
# LoRA keeps a matrix W of n inputs and m outputs as it is and learns a change
# of rank r: A takes the n inputs to r numbers, B takes those to m outputs.
# That is r (n + m) parameters. Beside W or added to it, they do the same:
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tfdoc import ledger

torch.manual_seed(0)
n, m, r = 6, 4, 2
W, A, B = torch.randn(m, n), torch.randn(r, n), torch.randn(m, r)
x = torch.randn(3, n)
beside, merged = x @ W.T + (x @ A.T) @ B.T, x @ (W + B @ A).T
torch.testing.assert_close(beside, merged)
assert A.numel() + B.numel() == r * (n + m)
print(f"W: {n * m} numbers, A and B: {r * (n + m)}")
print(f"largest difference: {(beside - merged).abs().max():.1e}")


# %%
# As a module it wraps a linear layer. B starts at 0, so that training starts
# from the model as it was; alpha / r, a setting, scales the change.


class LoRA(nn.Module):
    """A linear layer, frozen, and a change of rank r beside it."""

    def __init__(self, base, r, alpha=16):
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / r
        self.A = nn.Parameter(torch.randn(r, base.in_features) / r)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))
        self.weight, self.bias = base.weight, base.bias  # as a Linear has

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T


# %%
# The names in seven families
# ---------------------------
# :func:`tfdoc.ledger` lists every matrix of a model from its config, with its
# role for LoRA: ``q``, ``k``, ``v``, ``o`` or, if fused, ``qkv``. Missing keys
# take the defaults of transformers, here those of the published models.
llama = {"model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096}
llama |= {"intermediate_size": 14_336, "num_key_value_heads": 8}
deepseek = {"model_type": "deepseek_v2", "vocab_size": 102_400}
deepseek |= {"hidden_size": 2048, "num_hidden_layers": 27}
deepseek |= {"q_lora_rank": None, "kv_lora_rank": 512}
deepseek |= {"intermediate_size": 10_944, "moe_intermediate_size": 1408}
deepseek |= {"num_attention_heads": 16, "num_key_value_heads": 16}
deepseek |= {"n_routed_experts": 64, "num_experts_per_tok": 6}
deepseek |= {"n_shared_experts": 2, "first_k_dense_replace": 1}
types = {"GPT-2": "gpt2", "BERT-base": "bert", "T5-small": "t5"}
types |= {"Phi-3-mini": "phi3", "Mixtral-8x7B": "mixtral"}
models = {name: ledger({"model_type": t}) for name, t in types.items()}
models |= {"Llama-3-8B": ledger(llama), "DeepSeek-V2-Lite": ledger(deepseek)}

# %%
# What to write as targets: the shortest ending of a name that means one role
# and nothing else.


def ending(model, *roles):
    """Return the shortest ending of a name that means only these roles."""
    paths = {e.name.removesuffix(".weight"): e.lora for e in model.entries}
    path = next(p for p, role in paths.items() if role in roles).split(".")
    ends = [".".join(path[i:]) for i in reversed(range(len(path)))]
    while {paths[p] for p in paths if f".{p}".endswith(f".{ends[0]}")} - {
        *roles
    }:
        ends.pop(0)
    return ends[0]


columns = [("q", "qkv"), ("k", "qkv", "a"), ("v", "qkv"), ("o",)]
rows = [[ending(m, *roles) for roles in columns] for m in models.values()]
names = pd.DataFrame(rows, index=list(models), columns=list("qkvo"))
for name, model in models.items():
    assert model.lora(16, list(names.loc[name])) == model.lora(16, "qkvo")
names.rename_axis("model")

# %%
# The same name three times is one fused matrix: an adapter on it changes q, k
# and v, all from one A. Some names need two parts, since the last one alone
# means feed-forward matrices too, as ``c_proj`` does in GPT-2. DeepSeek
# compresses keys and values with one matrix and unpacks both with another.
#
# What each set trains
# --------------------
# Three sets are usual: q and v as in the first paper, all four matrices of
# attention, or every linear layer but the head. At rank 16, in millions:
sets = "qv", "qkvo", "all-linear"
rows = [[m.lora(16, targets) for targets in sets] for m in models.values()]
counts = pd.DataFrame(rows, index=list(models), columns=list(sets))
(counts / 1e6).round(2).rename_axis("model")

# %%
# A mixture of experts stands out: all-linear adapts every expert, though a
# token visits few. As a share of all parameters:
size = [model.total for model in models.values()]
share = counts.div(size, axis="index") * 100
fig, ax = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
for label, marker in zip(share, "os^", strict=True):
    ax.plot(share[label].tolist(), list(share.index), marker, label=label)
ax.set_xscale("log")
ax.set_xticks([0.01, 0.1, 1], ["0.01 %", "0.1 %", "1 %"])
ax.invert_yaxis()
ax.grid(axis="x")
ax.set(title="What LoRA trains at rank 16", xlabel="share of all parameters")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
moe = ["Mixtral-8x7B", "DeepSeek-V2-Lite"]
factor = counts["all-linear"] / counts["qkvo"]
assert factor[moe].min() > 5 * factor.drop(moe).max()
# sphinx_gallery_start_ignore
fig.set_label(
    "Seven models, each with the share of its parameters that three sets of "
    "targets train, on a logarithmic axis: "
    + "; ".join(
        f"{name} {a:.2g}, {b:.2g} and {c:.2g} percent"
        for name, a, b, c in share.itertuples()
    )
)
# sphinx_gallery_end_ignore

# %%
# Pitfall: 2 D r for each matrix
# ------------------------------
# A formula often met counts every matrix as D x D. In Llama-3-8B eight heads
# of values serve 32 of queries
# (:doc:`grouped queries </learn/2_attention/05_grouped_query>`), so ``v_proj``
# gives 1024 numbers, not 4096. And all-linear leaves the head out:
llama_3, r, D, L = models["Llama-3-8B"], 16, 4096, 32
naive, exact = L * 2 * (2 * D * r), L * r * ((D + D) + (D + 1024))
assert naive == 8_388_608
assert llama_3.lora(r, "qv") == exact == 6_815_744
assert llama_3.lora(r, "all-linear") == 41_943_040
print(f"q, v: {exact:,}, where the formula says {naive:,}")
print(f"all-linear: {llama_3.lora(r):,}; a head: {r * (D + 128_256):,} more")

# %%
# A name of another family matches nothing. That is an error, not a count of 0:
try:
    models["BERT-base"].lora(r, ["q_proj", "v_proj"])
except ValueError as error:
    print(message := str(error))
# sphinx_gallery_start_ignore
assert "names no linear layer of BertModel" in message
# sphinx_gallery_end_ignore

# %%
# Pitfall: adapters that train and then do nothing
# ------------------------------------------------
# Put adapters on the feed-forward network of
# :class:`torch.nn.TransformerEncoderLayer` and train them a little:
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0, batch_first=True)
layer.requires_grad_(False)
x, wanted = torch.randn(2, 8, 5, 64)
base = layer.eval()(x)
layer.linear1, layer.linear2 = LoRA(layer.linear1, 4), LoRA(layer.linear2, 4)
adapters = [p for p in layer.parameters() if p.requires_grad]
optimiser, mse = torch.optim.AdamW(adapters, lr=0.01), nn.MSELoss()
layer.train()
for _ in range(50):
    optimiser.zero_grad()
    mse(layer(x), wanted).backward()
    optimiser.step()

# %%
# The loss fell. In evaluation it is back where it began, to the last bit:
trained = layer(x).detach()
ignored = layer.eval()(x)
assert torch.equal(ignored, base)
assert mse(trained, wanted) < 0.7 * mse(base, wanted)
print(f"base {mse(base, wanted):.3f}, training {mse(trained, wanted):.3f}")
print(f"evaluation {mse(ignored, wanted):.3f}")

# %%
# With no dropout the modes should agree. But in evaluation the layer calls one
# fused function with ``linear1.weight`` and ``linear2.weight``; the forward of
# the adapters never runs. To mend it, merge before you evaluate:
for name in ("linear1", "linear2"):
    adapter = getattr(layer, name)
    adapter.base.weight.data += adapter.scale * adapter.B.data @ adapter.A.data
    setattr(layer, name, adapter.base)
mended = layer(x)
torch.testing.assert_close(mended, trained, rtol=1e-4, atol=1e-4)
print(f"merged, evaluation {mse(mended, wanted):.3f}")

# %%
# What it costs
# -------------
# Give every linear layer of Llama-3-8B an adapter, on ``meta``, where nothing
# is stored. T tokens cost 2 T operations for each weight and each number in A
# and B. Merged adapters cost nothing. Memory: 4 bytes a number in float32, 16
# in training with Adam, for value, gradient and two moments.
T, wide = 8, [e for e in llama_3.entries if e.lora]
with torch.device("meta"):
    linears = [nn.Linear(*e.shape[::-1], bias=False) for e in wide]
    adapted = nn.ModuleList(LoRA(linear, r) for linear in linears)
    inputs = [torch.empty(T, e.shape[1]) for e in wide]
with FlopCounterMode(display=False) as counter:
    for module, x in zip(adapted, inputs, strict=True):
        module(x)
learned = [p for p in adapted.parameters() if p.requires_grad]
frozen = sum(linear.weight.numel() for linear in linears)
assert counter.get_total_flops() == 2 * T * (frozen + llama_3.lora(r))
size = sum(p.numel() * p.element_size() for p in learned)
assert size == 4 * llama_3.lora(r)
print(f"operations beside the weights: {llama_3.lora(r) / frozen:+.2%}")
print(f"weights in bfloat16 {llama_3.bytes('bf16') / 1e9:.2f} GB, adapters")
print(f"{size / 1e9:.2f} GB, with all that Adam keeps {4 * size / 1e9:.2f} GB")

# %%
# Exercise
# --------
# For Llama-3-8B you may train as many parameters as q and v have at rank 64.
# Which is the largest rank that all-linear affords for that number?
my_rank = 64 // 2  # your turn: this forgets the feed-forward network


def check(rank):
    """Compare with the budget."""
    budget = llama_3.lora(64, "qv")
    if llama_3.lora(rank) > budget:
        return f"not yet: rank {rank} is over"
    if llama_3.lora(rank + 1) <= budget:
        return f"not yet: more than {rank} fits"
    return f"right: {rank}"


print(check(my_rank))

# sphinx_gallery_start_ignore
assert check(my_rank).startswith("not yet")
assert check(9).startswith("not yet")
assert check(llama_3.lora(64, "qv") // llama_3.lora(1)) == "right: 10"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``llama_3.lora(64, "qv") // llama_3.lora(1)``, which is 10: adapters grow
#    in proportion to the rank.
#
# **Read on.** Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*
# (2021), https://arxiv.org/abs/2106.09685, section 7.1: which matrices to
# adapt on a fixed budget. :class:`tfdoc.Ledger` for the other sums, and
# :doc:`/learn/7_cost/02_key_parameters` for what fixes the shapes.
