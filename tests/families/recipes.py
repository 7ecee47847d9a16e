"""A recipe for the decoders of each model type: from its config to parts.

A config is that of transformers; `s` holds its sizes under the ledger's letters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import torch.nn.functional as F
from torch import nn

from tfdoc import (
    AcrossHeads,
    ALiBi,
    Causal,
    Chunked,
    ClampedExperts,
    Decoder,
    DotProductCore,
    EachHead,
    FeedForward,
    GatedExperts,
    GatedFeedForward,
    GroupedSoftmaxRouter,
    Head,
    LatentAttention,
    LayerNorm,
    LearnedPositions,
    Mask,
    MixtureOfExperts,
    MultiHeadAttention,
    OutputNormBlock,
    ParallelBlock,
    Part,
    PreNormBlock,
    ResidualScale,
    RMSNorm,
    RoPE,
    SandwichBlock,
    ScaledInputExperts,
    SigmoidGate,
    SigmoidRouter,
    SinkCore,
    SoftcapCore,
    SoftmaxRouter,
    SparseMixerRouter,
    TwoNormParallelBlock,
    UnitOffsetRMSNorm,
    Window,
    YaRN,
    part,
    relu_squared,
)

Config = Any
Sizes = dict[str, int]
Recipe = Callable[[Config, Sizes], Part[Decoder]]
Branch = Part[nn.Module]

TANH_GELU = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "silu": F.silu,
    "relu": F.relu,
    "relu2": relu_squared,
    "gelu": F.gelu,
    "gelu_new": TANH_GELU,
    "gelu_pytorch_tanh": TANH_GELU,
}
RECIPES: dict[str, Recipe] = {}


def recipe(*types: str) -> Callable[[Recipe], Recipe]:
    def register(build: Recipe) -> Recipe:
        RECIPES.update(dict.fromkeys(types, build))
        return build

    return register


def activation(c: Config) -> Callable[..., Any]:
    names = ("hidden_act", "hidden_activation", "activation_function", "activation")
    return ACTIVATIONS[next(getattr(c, name) for name in names if hasattr(c, name))]


def rope(c: Config, s: Sizes, layout: str = "half", kind: str = "") -> RoPE:
    given = c.rope_parameters[kind] if kind else c.rope_parameters
    share = given.get("partial_rotary_factor", 1.0)
    turned = None if share == 1 else int(s["d"] * share)
    return RoPE(given["rope_theta"], layout=layout, rotary_dim=turned)


def sight(c: Config, layer: int) -> Mask:
    """Say what a layer sees, as far as its config does."""
    kinds, window = getattr(c, "layer_types", None), getattr(c, "sliding_window", None)
    if kinds and kinds[layer] == "full_attention":
        window = None
    return Causal() & Window(window) if window else Causal()


def heads(s: Sizes, **more: Any) -> Branch:
    numbers = {"num_heads": s["H"], "num_kv_heads": s["G"], "head_dim": s["d"]}
    own = {"bias": False, "mask": Causal()} | numbers | more
    return part(MultiHeadAttention, **own)


def gated(c: Config, s: Sizes, hidden_dim: int | None = None) -> Branch:
    width = hidden_dim or s["F"]
    return part(GatedFeedForward, activation=activation(c), hidden_dim=width)


def plain(c: Config, s: Sizes, bias: bool = True) -> Branch:
    act = activation(c)
    return part(FeedForward, hidden_dim=s["F"], activation=act, bias=bias)


def mixture(c: Config, s: Sizes, router: Part[nn.Module], **more: Any) -> Branch:
    experts = part(GatedExperts, activation=activation(c))
    sizes = {"num_experts": s["E"], "hidden_dim": s["M"]}
    own = {"experts": experts, "router": router.but(top_k=s["K"])} | sizes | more
    return part(MixtureOfExperts, **own)


def decoder(
    s: Sizes,
    layer: Callable[[int], tuple[Branch, Branch]],
    norm: Branch,
    wiring: type[nn.Module] = PreNormBlock,
    **more: Any,
) -> Part[Decoder]:
    """Make a block of the two branches of every layer."""
    blocks = tuple(
        part(wiring, attention=attention, feedforward=feedforward, norm=norm)
        for attention, feedforward in map(layer, range(s["L"]))
    )
    return part(Decoder, vocab_size=s["V"], blocks=blocks, **({"norm": norm} | more))


def rms(c: Config) -> Branch:
    return part(RMSNorm, eps=c.rms_norm_eps)


def layer_norm(c: Config, **more: Any) -> Branch:
    names = ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
    eps = next((getattr(c, name) for name in names if hasattr(c, name)), 1e-5)
    return part(LayerNorm, eps=eps, **more)


def tied(c: Config) -> bool:
    return bool(c.tie_word_embeddings)


@recipe("llama", "mistral", "seed_oss", "qwen2", "phi3", "glm", "smollm3", "qwen3")
def llama(c: Config, s: Sizes) -> Part[Decoder]:
    layout = "interleaved" if c.model_type == "glm" else "half"
    bias: bool | str = getattr(c, "attention_bias", c.model_type == "qwen2")
    if bias and c.model_type in ("qwen2", "glm", "seed_oss"):
        bias = "qkv"
    norm = rms(c)
    qk_norm = norm if c.model_type == "qwen3" else None
    turns = getattr(c, "no_rope_layers", None) or [1] * s["L"]

    def layer(i: int) -> tuple[Branch, Branch]:
        rotary = rope(c, s, layout) if turns[i] else None
        own = {"bias": bias, "rotary": rotary, "qk_norm": qk_norm}
        return heads(s, mask=sight(c, i), **own), gated(c, s)

    return decoder(s, layer, norm, tied=tied(c))


@recipe("granite", "granitemoe")
def granite(c: Config, s: Sizes) -> Part[Decoder]:
    core = part(DotProductCore, scale=c.attention_multiplier)
    attention = heads(s, rotary=rope(c, s), core=core)
    sparse = c.model_type == "granitemoe"
    branch = mixture(c, s, part(SoftmaxRouter)) if sparse else gated(c, s)
    scaled = part(ResidualScale, scale=c.residual_multiplier, branch=attention)
    both = scaled, scaled.but(branch=branch)
    more = {"embed_scale": c.embedding_multiplier, "tied": tied(c)}
    head = part(Head, scale=1 / c.logits_scaling)
    return decoder(s, lambda _: both, rms(c), head=head, **more)


@recipe("gemma", "gemma2", "gemma3_text")
def gemma(c: Config, s: Sizes) -> Part[Decoder]:
    norm = part(UnitOffsetRMSNorm, eps=c.rms_norm_eps)
    scale = getattr(c, "query_pre_attn_scalar", s["d"]) ** -0.5
    cap = getattr(c, "attn_logit_softcapping", None)
    core = part(SoftcapCore, cap=cap) if cap else part(DotProductCore)
    core = core.but(scale=scale)
    own = {"core": core, "qk_norm": norm if c.model_type == "gemma3_text" else None}

    def layer(i: int) -> tuple[Branch, Branch]:
        kind = c.layer_types[i] if c.model_type == "gemma3_text" else ""
        turned = {"rotary": rope(c, s, kind=kind), "mask": sight(c, i)}
        return heads(s, **own, **turned), gated(c, s)

    wiring = PreNormBlock if c.model_type == "gemma" else SandwichBlock
    head = part(Head, softcap=getattr(c, "final_logit_softcapping", None))
    more = {"embed_scale": sqrt(s["D"]), "tied": tied(c), "head": head}
    return decoder(s, layer, norm, wiring, **more)


@recipe("olmo", "olmo2")
def olmo(c: Config, s: Sizes) -> Part[Decoder]:
    second = c.model_type == "olmo2"
    norm = rms(c) if second else part(LayerNorm, weight=False, bias=False)
    qk_norm = part(AcrossHeads, norm=norm) if second else None
    both = heads(s, rotary=rope(c, s), qk_norm=qk_norm), gated(c, s)
    wiring = OutputNormBlock if second else PreNormBlock
    return decoder(s, lambda _: both, norm, wiring, tied=tied(c))


@recipe("cohere", "cohere2")
def cohere(c: Config, s: Sizes) -> Part[Decoder]:
    norm = layer_norm(c, bias=False)
    qk_norm = part(EachHead, norm=norm) if getattr(c, "use_qk_norm", False) else None

    def layer(i: int) -> tuple[Branch, Branch]:
        mask, turned = sight(c, i), rope(c, s, "interleaved")
        everywhere = c.model_type == "cohere2" and mask == Causal()
        rotary = None if everywhere else turned  # whole layers know no positions
        return heads(s, rotary=rotary, mask=mask, qk_norm=qk_norm), gated(c, s)

    head = part(Head, scale=c.logit_scale)
    return decoder(s, layer, norm, ParallelBlock, tied=tied(c), head=head)


@recipe("stablelm")
def stablelm(c: Config, s: Sizes) -> Part[Decoder]:
    norm = layer_norm(c)
    qk_norm = part(EachHead, norm=norm.but(bias=False)) if c.qk_layernorm else None
    bias = "qkv" if c.use_qkv_bias else False
    both = heads(s, rotary=rope(c, s), qk_norm=qk_norm, bias=bias), gated(c, s)
    wiring = ParallelBlock if c.use_parallel_residual else PreNormBlock
    return decoder(s, lambda _: both, norm, wiring, tied=tied(c))


@recipe("nemotron", "starcoder2", "phi", "gpt_neox", "gptj")
def plain_with_rope(c: Config, s: Sizes) -> Part[Decoder]:
    """Build what came between GPT-2 and Llama."""
    kind = c.model_type
    rotary = RoPE(rotary_dim=c.rotary_dim) if kind == "gptj" else rope(c, s)
    bias = kind in ("starcoder2", "phi", "gpt_neox")
    attention = heads(s, rotary=rotary, bias=bias, mask=sight(c, 0))
    both = attention, plain(c, s, bias=kind != "nemotron")
    if kind in ("phi", "gptj"):
        more: dict[str, Any] = {"wiring": ParallelBlock, "head": part(Head, bias=True)}
    else:
        more = {"wiring": TwoNormParallelBlock} if kind == "gpt_neox" else {}
    return decoder(s, lambda _: both, layer_norm(c), tied=tied(c), **more)


@recipe("falcon")
def falcon(c: Config, s: Sizes) -> Part[Decoder]:
    both = heads(s, rotary=rope(c, s), bias=c.bias), plain(c, s, bias=c.bias)
    two = c.new_decoder_architecture
    wiring = TwoNormParallelBlock if two else ParallelBlock
    return decoder(s, lambda _: both, layer_norm(c), wiring, tied=tied(c))


@recipe("gpt2", "gpt_bigcode", "gpt_neo", "opt")
def gpt2(c: Config, s: Sizes) -> Part[Decoder]:
    """Build what adds learned positions; OPT's begin behind two rows of padding."""
    neo, first = c.model_type == "gpt_neo", 2 * (c.model_type == "opt")
    positions = part(LearnedPositions, max_positions=s["P"], offset=first)
    own = {"bias": "out", "core": part(DotProductCore, scale=1.0)} if neo else {}

    def layer(i: int) -> tuple[Branch, Branch]:
        near = neo and c.attention_layers[i] == "local"
        mask = Causal() & Window(c.window_size) if near else Causal()
        return heads(s, **({"bias": True, "mask": mask} | own)), plain(c, s)

    return decoder(s, layer, layer_norm(c), positions=positions, tied=tied(c))


@recipe("bloom", "mpt")
def alibi(c: Config, s: Sizes) -> Part[Decoder]:
    bloom = c.model_type == "bloom"
    norm = layer_norm(c, bias=bloom)
    act = TANH_GELU if bloom else F.gelu
    branch = part(FeedForward, hidden_dim=s["F"], bias=bloom, activation=act)
    both = heads(s, bias=bloom, position_bias=ALiBi(s["H"])), branch
    first = norm if bloom else None
    return decoder(s, lambda _: both, norm, tied=tied(c), embed_norm=first)


@recipe("mixtral", "qwen3_moe", "olmoe", "phimoe", "qwen2_moe")
def mixtures(c: Config, s: Sizes) -> Part[Decoder]:
    kind, norm = c.model_type, rms(c)
    biased = getattr(c, "attention_bias", False)
    bias = "qkv" if kind == "qwen2_moe" and c.qkv_bias else biased
    qk_norm = {"qwen3_moe": norm, "olmoe": part(AcrossHeads, norm=norm)}.get(kind)
    router: Branch = part(SoftmaxRouter, normalise=getattr(c, "norm_topk_prob", True))
    own: dict[str, Any] = {}
    if kind == "phimoe":
        norm, own["bias"] = part(LayerNorm, eps=c.rms_norm_eps), c.lm_head_bias
        router = part(SparseMixerRouter, jitter=c.router_jitter_noise)
    shared = None
    if kind == "qwen2_moe":
        width = c.shared_expert_intermediate_size
        shared = part(SigmoidGate, branch=gated(c, s, hidden_dim=width))

    def layer(i: int) -> tuple[Branch, Branch]:
        own = {"bias": bias, "mask": sight(c, i), "qk_norm": qk_norm}
        branch = mixture(c, s, router, shared=shared)
        return heads(s, rotary=rope(c, s), **own), branch

    return decoder(s, layer, norm, tied=tied(c), head=part(Head, **own))


@recipe("deepseek_v2", "deepseek_v3")
def deepseek(c: Config, s: Sizes) -> Part[Decoder]:
    interleaved = getattr(c, "rope_interleave", True)
    layout = "interleaved" if interleaved else "half"
    attention = part(
        LatentAttention,
        num_heads=s["H"],
        head_dim=(c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim),
        kv_rank=c.kv_lora_rank,
        query_rank=c.q_lora_rank,
        mask=Causal(),
        rotary=RoPE(c.rope_parameters["rope_theta"], layout=layout),
    )
    groups = {"num_groups": c.n_group or 1, "top_groups": c.topk_group or 1}
    router: Branch = part(SigmoidRouter, normalise=c.norm_topk_prob, **groups)
    if c.model_type == "deepseek_v2":
        router = part(GroupedSoftmaxRouter, **groups)
    router = router.but(scale=c.routed_scaling_factor)
    shared = gated(c, s, hidden_dim=c.n_shared_experts * s["M"])
    sparse = mixture(c, s, router, shared=shared)

    def layer(i: int) -> tuple[Branch, Branch]:
        return attention, gated(c, s) if i < c.first_k_dense_replace else sparse

    return decoder(s, layer, rms(c), tied=tied(c))


@recipe("glm4_moe")
def glm4_moe(c: Config, s: Sizes) -> Part[Decoder]:
    bias = "qkv" if c.attention_bias else False
    qk_norm = rms(c) if c.use_qk_norm else None
    attention = heads(s, rotary=rope(c, s), bias=bias, qk_norm=qk_norm)
    groups = {"num_groups": c.n_group, "top_groups": c.topk_group}
    scale = {"normalise": c.norm_topk_prob, "scale": c.routed_scaling_factor}
    shared = gated(c, s, hidden_dim=c.n_shared_experts * s["M"])
    sparse = mixture(c, s, part(SigmoidRouter, **groups, **scale), shared=shared)

    def layer(i: int) -> tuple[Branch, Branch]:
        return attention, gated(c, s) if i < c.first_k_dense_replace else sparse

    return decoder(s, layer, rms(c), tied=tied(c))


@recipe("llama4_text")
def llama4(c: Config, s: Sizes) -> Part[Decoder]:
    """Build Llama 4, but for the scale of its queries beyond position 8192."""
    norm = part(nn.RMSNorm, eps=c.rms_norm_eps, elementwise_affine=False)
    router = part(SigmoidRouter, normalise=False)
    experts, shared = part(ScaledInputExperts), gated(c, s, hidden_dim=s["M"])
    sparse = mixture(c, s, router, experts=experts, shared=shared)
    dense = gated(c, s, hidden_dim=c.intermediate_size_mlp)

    def layer(i: int) -> tuple[Branch, Branch]:
        whole = c.layer_types[i] == "full_attention"
        mask = Causal() if whole else Causal() & Chunked(c.attention_chunk_size)
        turned = c.no_rope_layers[i]
        rotary = rope(c, s, "interleaved") if turned else None
        qk_norm = norm if turned and c.use_qk_norm else None
        attention = heads(s, mask=mask, rotary=rotary, qk_norm=qk_norm)
        return attention, sparse if i in c.moe_layers else dense

    return decoder(s, layer, rms(c), tied=tied(c))


@recipe("gpt_oss")
def gpt_oss(c: Config, s: Sizes) -> Part[Decoder]:
    given = c.rope_parameters
    scaling = YaRN(
        given["factor"],
        original_length=given["original_max_position_embeddings"],
        truncate=given["truncate"],
    )
    rotary = RoPE(given["rope_theta"], layout="half", scaling=scaling)
    experts = part(ClampedExperts, limit=c.swiglu_limit, alpha=c.swiglu_alpha)
    router = part(SoftmaxRouter, bias=True)
    sparse = mixture(c, s, router, experts=experts)

    def layer(i: int) -> tuple[Branch, Branch]:
        own = {"bias": c.attention_bias, "core": part(SinkCore), "rotary": rotary}
        return heads(s, mask=sight(c, i), **own), sparse

    return decoder(s, layer, rms(c), tied=tied(c))
