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

RMS, counts = part(tfdoc.RMSNorm, eps=1e-5), []
plain = part(tfdoc.MultiHeadAttention, num_heads=4, bias=False)
for recipe in (plain, plain.but(qk_norm=RMS)):
    counts += [sum(p.numel() for p in recipe.build(32).parameters())]
    print(f"{counts[-1]} numbers: {recipe}")
assert counts[1] - counts[0] == 8 + 8


# %%
# Llama, with slots
# -----------------
# L blocks of H heads, which share G keys and values of width d, and a hidden
# width F; V tokens. These are the ledger's, ``s``; windows and ranks are from
# the preset, ``c``. What changes no size is typed from the published config.
def heads(s, **more):
    own = {"num_heads": s["H"], "num_kv_heads": s["G"], "head_dim": s["d"]}
    own |= {"mask": Causal(), "rotary": RoPE(5e5, layout="half")}
    return plain.but(**(own | more))


def gated(width, **more):
    return part(tfdoc.GatedFeedForward, hidden_dim=width, **more)


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
# Norms stand before and behind each branch, and multiply by 1 + w. GELU gates.
def gemma3(s, c):
    norm, wiring = part(tfdoc.UnitOffsetRMSNorm), tfdoc.SandwichBlock
    ffn = gated(s["F"], activation=torch.nn.GELU("tanh"))
    slow = RoPE(1e6, layout="half", scaling=tfdoc.LinearScaling(8.0))
    far = heads(s, qk_norm=norm, rotary=slow)
    window = Causal() & Window(c["sliding_window"])
    near = far.but(mask=window, rotary=RoPE(layout="half"))
    kinds = ([near] * (c["sliding_window_pattern"] - 1) + [far]) * s["L"]
    blocks = [block(kind, ffn, norm, wiring) for kind in kinds[: s["L"]]]
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
    moe = mixture(s, router, experts=part(tfdoc.ClampedExperts))
    scaling = tfdoc.YaRN(32.0, original_length=4096, truncate=False)
    rotary = RoPE(150_000.0, layout="half", scaling=scaling)
    far = heads(s, bias=True, rotary=rotary, core=part(tfdoc.SinkCore))
    near = far.but(mask=Causal() & Window(c["sliding_window"]))
    return model(s, [block(near, moe), block(far, moe)] * (s["L"] // 2))


# %%
# DeepSeek-V3: one small latent for all heads, many small experts
# ---------------------------------------------------------------
# The first layers have no experts; all tokens share one. (YaRN is left out.)
def deepseek(s, c):
    widths = [c[f"{kind}_head_dim"] for kind in ("qk_nope", "qk_rope", "v")]
    ranks = {"kv_rank": c["kv_lora_rank"], "query_rank": c["q_lora_rank"]}
    ranks |= {"num_heads": s["H"], "head_dim": tuple(widths)}
    latent = part(tfdoc.LatentAttention, mask=Causal(), **ranks)
    router = part(tfdoc.SigmoidRouter, num_groups=8, top_groups=4, scale=2.5)
    experts, norm = mixture(s, router, shared=gated(s["M"])), RMS.but(eps=1e-6)
    blocks = [block(latent, gated(s["F"]), norm)] * c["first_k_dense_replace"]
    blocks += [block(latent, experts, norm)] * (s["L"] - len(blocks))
    return model(s, blocks, norm)


# %%
# Nothing is missing
# ------------------
# On ``meta`` a tensor has a shape and no memory. The ledger knows every weight
# of published models; ours have as many. Counts see no activation and no base.
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
# drawn weights must score tokens as Hugging Face's does (Llama and Gemma too,
# unseen). There experts' matrices lie transposed, gates at every second place.
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
assert gaps[0] < 1e-5 < gaps[1] / 1000
# sphinx_gallery_start_ignore
# Llama and Gemma are theirs too.
import transformers as hf

c = {"num_hidden_layers": 6, "intermediate_size": 64, "pad_token_id": 0}
c |= {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 50}
c |= {"num_key_value_heads": 2, "head_dim": 8}
base = {"rope_type": "default", "rope_theta": 1e4}
far = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
turns = {"full_attention": far, "sliding_attention": base}
gemma = {"rope_parameters": turns, "query_pre_attn_scalar": 8}
gemma |= {"sliding_window": 4}
base = {"rope_type": "default", "rope_theta": 5e5}
pairs = {
    llama: hf.LlamaForCausalLM(
        hf.LlamaConfig(**c, rope_parameters=base, rms_norm_eps=1e-5)
    ),
    gemma3: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**c, **gemma)),
}
sandwich = {
    "post_attention_layernorm": "attn_out_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "ffn_out_norm",
}
s = {"V": 50, "L": 6, "H": 4, "G": 2, "d": 8, "D": 32, "F": 64}
window = {"sliding_window": 4, "sliding_window_pattern": 6}
long = torch.randint(1, 50, (4, 60))
for recipe, peer in pairs.items():
    other, state = recipe(s, window).build(32).requires_grad_(False), {}
    for old, w in peer.requires_grad_(False).eval().named_parameters():
        new, w.data = old, 0.2 * torch.randn_like(w)
        for pair in (sandwich if recipe is gemma3 else {}).items():
            new = new.replace(*pair)
        for pair in names.split():
            new = new.replace(*pair.split("="))
        state[new] = w
    other.load_state_dict(state)
    gap = (other(long) - peer(long).logits).abs().max()
    assert gap < 1e-4, (recipe, gap)
groups = [tfdoc.preset("deepseek-v3")[k] for k in ("n_group", "topk_group")]
assert groups == [8, 4]
# sphinx_gallery_end_ignore

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
# sphinx_gallery_start_ignore
assert caches["gpt-oss-20b"][-1] < caches["llama-3-8b"][-1] / 5
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
# tokens with their own table. (Base and epsilon differ too.) Change this one.
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
