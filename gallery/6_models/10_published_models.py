r"""
A published model is a few parts, and you can check them
========================================================

Read this page when a new model comes out and you ask what is new in it, or
when its weights load and it talks nonsense. At the end you can write a model
down in a few lines, show that nothing is missing, and find the mistake that
no name and no shape betrays.
"""

# %%
# One change, by hand
# -------------------
# Qwen3 is Llama with a norm for queries and one for keys. A head here has 8
# channels, and all heads share the weight: 8 numbers more for each norm.
import matplotlib.pyplot as plt
import torch
from transformers import GptOssConfig, GptOssForCausalLM

import tfdoc
from tfdoc import Causal, RoPE, Window, part

RMS, counts = part(tfdoc.RMSNorm), []
plain = part(tfdoc.MultiHeadAttention, num_heads=4, bias=False)
for recipe in (plain, plain.but(qk_norm=RMS)):
    counts += [sum(p.numel() for p in recipe.build(32).parameters())]
    print(f"{counts[-1]} numbers: {recipe}")
assert counts[1] - counts[0] == 8 + 8


# %%
# Llama, with slots
# -----------------
# L blocks of H heads, which share G keys and values of width d, and a hidden
# width F; V tokens. These sizes come from the ledger, as ``s``; what else a
# model needs is in its published config, ``c``.
def heads(s, **more):
    own = {"num_heads": s["H"], "num_kv_heads": s["G"], "head_dim": s["d"]}
    own |= {"mask": Causal(), "rotary": RoPE(layout="half"), "bias": False}
    return part(tfdoc.MultiHeadAttention, **(own | more))


def gated(width):
    return part(tfdoc.GatedFeedForward, hidden_dim=width)


def block(attention, ffn, norm=RMS, wiring=tfdoc.PreNormBlock):
    return part(wiring, attention=attention, feedforward=ffn, norm=norm)


def model(s, blocks, norm=RMS, **more):
    sizes = {"vocab_size": s["V"], "blocks": tuple(blocks)}
    return part(tfdoc.Decoder, **sizes, norm=norm, **more)


def llama(s, _):
    return model(s, [block(heads(s), gated(s["F"]))] * s["L"])


# %%
# Gemma 3: norms on both sides, and windows
# -----------------------------------------
# Most layers see a window only; every sixth sees all, and turns more slowly.
# Norms stand before and behind each branch, and multiply by 1 + w.
def gemma3(s, c):
    norm, wiring = part(tfdoc.UnitOffsetRMSNorm), tfdoc.SandwichBlock
    far = heads(s, qk_norm=norm, rotary=RoPE(1e6, layout="half"))
    window = Causal() & Window(c["sliding_window"])
    near = far.but(mask=window, rotary=RoPE(layout="half"))
    kinds = [near] * (c["sliding_window_pattern"] - 1) + [far]
    blocks = [block(kind, gated(s["F"]), norm, wiring) for kind in kinds]
    blocks = (blocks * s["L"])[: s["L"]]
    return model(s, blocks, norm, tied=True, embed_scale=s["D"] ** 0.5)


# %%
# gpt-oss: sinks, biases, and experts that clamp
# ----------------------------------------------
# A sink takes the weight that no key wants. Of E experts of width M a token
# visits K; every other layer has a window.
def mixture(s, router, **more):
    sizes = {"num_experts": s["E"], "hidden_dim": s["M"]}
    router = router.but(top_k=s["K"])
    return part(tfdoc.MixtureOfExperts, **sizes, router=router, **more)


def gpt_oss(s, c):
    router = part(tfdoc.SoftmaxRouter, bias=True)
    experts = mixture(s, router, experts=part(tfdoc.ClampedExperts))
    scaling = tfdoc.YaRN(32.0, original_length=4096, truncate=False)
    rotary = RoPE(150_000.0, layout="half", scaling=scaling)
    far = heads(s, bias=True, rotary=rotary, core=part(tfdoc.SinkCore))
    near = far.but(mask=Causal() & Window(c["sliding_window"]))
    blocks = [block(near, experts), block(far, experts)] * (s["L"] // 2)
    return model(s, blocks)


# %%
# DeepSeek-V3: one small latent for all heads, many small experts
# ---------------------------------------------------------------
# The first layers have no experts. One expert is shared by all tokens.
def deepseek(s, c):
    widths = [c[f"{kind}_head_dim"] for kind in ("qk_nope", "qk_rope", "v")]
    ranks = {"kv_rank": c["kv_lora_rank"], "query_rank": c["q_lora_rank"]}
    ranks |= {"num_heads": s["H"], "head_dim": tuple(widths)}
    latent = part(tfdoc.LatentAttention, mask=Causal(), **ranks)
    router = part(tfdoc.SigmoidRouter, num_groups=8, top_groups=4, scale=2.5)
    sparse = block(latent, mixture(s, router, shared=gated(s["M"])))
    dense = [block(latent, gated(s["F"]))] * c["first_k_dense_replace"]
    return model(s, (dense + [sparse] * s["L"])[: s["L"]])


# %%
# Nothing is missing
# ------------------
# On the device ``meta`` a tensor has a shape and no memory. The ledger knows
# every weight of the published models; those built of parts have as many.
recipes = {"llama-3-8b": llama, "gemma-3-12b-text": gemma3}
recipes |= {"gpt-oss-20b": gpt_oss, "deepseek-v3": deepseek}
books = {name: tfdoc.ledger(name) for name in recipes}


def built(name, recipe):
    s = tfdoc.ledger(name).sizes
    with torch.device("meta"):
        return recipe(s, tfdoc.preset(name)).build(s["D"])


for name, recipe in recipes.items():
    count = sum(p.numel() for p in built(name, recipe).parameters())
    print(f"{name}: {count:,} numbers")
    assert count == books[name].total

# %%
# And they are the same numbers
# -----------------------------
# Names and shapes may fit while the model is wrong. So a small gpt-oss with
# drawn weights must score tokens as Hugging Face's does. There the matrices of
# the experts lie transposed, and their gates stand at every second place.
torch.manual_seed(0)
c = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
c |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50}
c |= {"num_local_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 0}
c |= {"intermediate_size": 24, "sliding_window": 4}
theirs = GptOssForCausalLM(GptOssConfig(**c)).eval().requires_grad_(False)
for weight in theirs.parameters():
    weight.normal_(std=0.2)
s = {"V": 50, "L": 2, "H": 4, "G": 2, "d": 8, "E": 4, "K": 2, "M": 24}
ours = gpt_oss(s, c).build(32).requires_grad_(False)
names = """model.= layers.=blocks. embed_tokens=embed mlp=feedforward
self_attn.sinks=attention.core.sinks self_attn=attention lm_head=head
input_layernorm=attn_norm post_attention_layernorm=ffn_norm"""


# %%
# **Pitfall.** Without that last step all weights load, and no line complains.
def translated(every_second):
    out = {}
    for old, w in theirs.state_dict().items():
        new = old
        for pair in names.split():
            new = new.replace(*pair.split("="))
        out[new] = w
        if "gate_up" in new and every_second:
            out[new] = torch.cat([w[..., ::2], w[..., 1::2]], -1)
        if "experts" in new and w.ndim == 3:
            out[new] = out[new].mT
    return out


tokens, gaps = torch.randint(1, 50, (8, 20)), []
for every_second in (True, False):
    ours.load_state_dict(translated(every_second))
    scores, wanted = ours(tokens), theirs(tokens).logits
    gaps.append((scores - wanted).abs().max().item())
    same = (scores.argmax(-1) == wanted.argmax(-1)).float().mean()
    print(f"differs by {gaps[-1]:.0e}, {same:.0%} choose the same token")
assert gaps[0] < 1e-4 < gaps[1] / 1000

# %%
# What it costs
# -------------
# The parts decide what a cache of keys and values holds: every token, the last
# ones of a window, or a latent for all heads. In bfloat16:
fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
lengths, caches = [2**power for power in range(7, 18)], {}
for name, book in books.items():
    caches[name] = [book.kv_cache(1, T) / 1e9 for T in lengths]
    ax.loglog(lengths, caches[name], marker=".", label=name)
ax.set(xlabel="tokens", ylabel="gigabytes", title="What the cache holds")
_ = ax.legend(frameon=False)
assert caches["gpt-oss-20b"][-1] < caches["llama-3-8b"][-1] / 5
# sphinx_gallery_start_ignore
fig.set_label(
    "The size of the cache against the number of tokens, both on logarithmic "
    "scales. Llama and DeepSeek are straight lines, DeepSeek at about half of "
    "Llama. Gemma starts highest and bends at a thousand tokens, to end as "
    "DeepSeek does; gpt-oss bends early and stays lowest."
)
T, whole = 140, built("gpt-oss-20b", gpt_oss).bfloat16()
held = whole.new_cache()
ids = torch.zeros(1, T, dtype=torch.long, device="meta")
whole(ids, cache=held, last=True)
assert held.nbytes == books["gpt-oss-20b"].kv_cache(1, T)
# sphinx_gallery_end_ignore


# %%
# Exercise
# --------
# Qwen2.5 is Llama with biases for queries, keys and values, and it scores
# tokens with their own table. Change this one.
def qwen(s, _):
    """Your turn."""
    return model(s, [block(heads(s), gated(s["F"]))] * s["L"])


def check(recipe, name="qwen2.5-0.5b"):
    count = sum(p.numel() for p in built(name, recipe).parameters())
    more = count - tfdoc.ledger(name).total
    return f"not yet: {more:+,} numbers" if more else "right"


print(check(qwen))
# sphinx_gallery_start_ignore
assert check(qwen).startswith("not yet")


def solution(s, _):
    biased = heads(s, bias="qkv")
    return model(s, [block(biased, gated(s["F"]))] * s["L"], tied=True)


assert check(solution) == "right"
# sphinx_gallery_end_ignore

# %%
# .. dropdown:: Solution
#
#    ``heads(s, bias="qkv")``, and ``tied=True`` for the model.
#
# **Read on.** OpenAI, *gpt-oss* (2025, arXiv:2508.10925). The components:
# :func:`tfdoc.part`, :class:`tfdoc.Decoder`, :func:`tfdoc.ledger`. Next:
# :doc:`/learn/7_cost/01_counting_parameters`.
