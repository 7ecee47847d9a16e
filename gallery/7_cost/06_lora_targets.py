r"""
Where does LoRA go, and what does it cost?
==========================================

Whoever fine-tunes with LoRA must say which matrices get an adapter, by names
that differ from family to family. Read this page to find those names in any
config, and to count what each choice trains before you load a weight.
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
beside, merged = x @ W.T + x @ A.T @ B.T, x @ (W + B @ A).T
torch.testing.assert_close(beside, merged)
print(f"W: {n * m} numbers, A and B: {A.numel() + B.numel()}")
print(f"largest difference: {(beside - merged).abs().max():.1e}")

# %%
# As a module, with B at 0, so that training starts from the model as it was.
# (Libraries scale the change by a constant, alpha / r.)


class LoRA(nn.Module):
    """A linear layer, frozen, and a change of rank r beside it."""

    def __init__(self, base, r):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base.in_features) / r)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x):
        return self.base(x) + x @ self.A.T @ self.B.T


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
deepseek |= {"intermediate_size": 10_944, "moe_intermediate_size": 1408}
deepseek |= {"num_attention_heads": 16, "num_key_value_heads": 16}
deepseek |= {"q_lora_rank": None, "num_experts_per_tok": 6}
deepseek |= {"first_k_dense_replace": 1}
types = {"GPT-2": "gpt2", "BERT-base": "bert", "T5-small": "t5"}
types |= {"Phi-3-mini": "phi3", "Mixtral-8x7B": "mixtral"}
models = {name: ledger({"model_type": t}) for name, t in types.items()}
models |= {"Llama-3-8B": ledger(llama), "DeepSeek-V2-Lite": ledger(deepseek)}
assert models["DeepSeek-V2-Lite"].total == 15_706_484_224  # as published

# %%
# What to write as targets: the last words of a name, as few as will do.


def ending(model, *roles):
    """Return the shortest ending of a name that means only these roles."""
    paths = {e.name.removesuffix(".weight"): e.lora for e in model.entries}
    path = next(p for p, role in paths.items() if role in roles)
    end = ""
    for word in reversed(path.split(".")):
        end = f".{word}{end}"
        if {paths[p] for p in paths if p.endswith(end)} <= {*roles}:
            break
    return end[1:]


columns = [("q", "qkv"), ("k", "qkv", "a"), ("v", "qkv"), ("o",)]
rows = [[ending(m, *roles) for roles in columns] for m in models.values()]
names = pd.DataFrame(rows, index=list(models), columns=list("qkvo"))
for name, model in models.items():
    assert model.lora(16, list(names.loc[name])) == model.lora(16, "qkvo")
names.rename_axis("model")

# %%
# The same name three times is one fused matrix: an adapter on it changes q, k
# and v, all from one A. Some names need more than one part, since the last one
# means feed-forward matrices too, as ``c_proj`` does in GPT-2. DeepSeek
# compresses keys and values with one matrix and unpacks both with another.
#
# What each set trains
# --------------------
# Three sets are usual: q and v as in the first paper, all four matrices of
# attention, or all-linear, which spares the head. At rank 16, in millions:
sets = ["qv", "qkvo", "all-linear"]
rows = [[m.lora(16, targets) for targets in sets] for m in models.values()]
counts = pd.DataFrame(rows, index=list(models), columns=sets)
(counts / 1e6).round(2).rename_axis("model")

# %%
# A mixture of experts stands out: all-linear adapts every routed expert,
# though a token visits few. In DeepSeek shared experts and the first layer's
# network go without: peft sends their names to the routed experts. As a
# share of all parameters:
size = [model.total for model in models.values()]
share = 100 * counts.div(size, axis="index")
fig, ax = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
for label, marker in zip(share, "os^", strict=True):
    ax.plot(share[label].tolist(), list(share.index), marker, label=label)
ax.set_xscale("log")
ax.set_xticks([0.01, 0.1, 1], ["0.01 %", "0.1 %", "1 %"])
ax.invert_yaxis()
ax.set(title="What LoRA trains at rank 16", xlabel="share of all parameters")
fig.legend(loc="outside lower center", ncols=3, frameon=False)
# sphinx_gallery_start_ignore
moe = ["Mixtral-8x7B", "DeepSeek-V2-Lite"]
factor = counts["all-linear"] / counts["qkvo"]
assert factor[moe].min() > 5 * factor.drop(moe).max()
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
# Pitfall: names from another model
# ---------------------------------
# A name that matches nothing is an error, not a count of 0:
try:
    models["BERT-base"].lora(r, ["q_proj", "v_proj"])
except ValueError as error:
    print(message := str(error))
# sphinx_gallery_start_ignore
assert "names no linear layer of BertModel" in message
# sphinx_gallery_end_ignore

# %%
# A name that matches too much is no error. In GPT-2 ``c_proj`` ends attention
# and the feed-forward network both; a second word mends it:
gpt2 = models["GPT-2"]
meant = gpt2.lora(r, ["c_attn", "attn.c_proj"])
loose = gpt2.lora(r, ["c_attn", "c_proj"])
assert meant == gpt2.lora(r, "qkvo")
assert loose - meant == 12 * r * (3072 + 768)  # mlp.c_proj in 12 layers
print(f"meant {meant:,}, got {loose:,}: {loose / meant - 1:+.0%}")

# %%
# What it costs
# -------------
# Give every linear layer of Llama-3-8B an adapter, on ``meta``, where nothing
# is stored. T tokens cost 2 T operations for each weight and each number in A
# and B. Merged adapters cost nothing. Memory: 4 bytes a number in float32, 16
# in training with Adam, for value, gradient and two moments.
T, shapes = 8, [e.shape for e in llama_3.entries if e.lora]
with torch.device("meta"):
    linears = [nn.Linear(n, m, bias=False) for m, n in shapes]
    adapted = nn.ModuleList(LoRA(linear, r) for linear in linears)
with FlopCounterMode(display=False) as counter:
    for module in adapted:
        module(torch.empty(T, module.A.shape[1], device="meta"))
learned = [p for p in adapted.parameters() if p.requires_grad]
frozen = sum(linear.weight.numel() for linear in linears)
assert counter.get_total_flops() == 2 * T * (frozen + llama_3.lora(r))
size = sum(p.numel() * p.element_size() for p in learned)
assert size == 4 * llama_3.lora(r)
print(f"operations beside the weights: {llama_3.lora(r) / frozen:+.2%}")
print(f"weights in bfloat16: {llama_3.bytes('bf16') / 1e9:.2f} GB")
print(f"adapters: {size / 1e9:.2f} GB, in training {4 * size / 1e9:.2f} GB")

# %%
# Exercise
# --------
# For Llama-3-8B you may train as many parameters as q and v have at rank 64.
# Which is the largest rank that all-linear affords for that number?
my_rank = 64 // 2  # your turn: this forgets the feed-forward network


def check(rank):
    """Compare with the budget."""
    fits = (
        llama_3.lora(rank) <= llama_3.lora(64, "qv") < llama_3.lora(rank + 1)
    )
    return f"right: {rank}" if fits else "not yet"


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
