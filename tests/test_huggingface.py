"""Parity with Hugging Face's Llama, GPT-2, BERT and ViT: outputs and gradients.

Their weights go into this package's components by a linear map of tensors (renaming,
splitting, transposing, permuting), and the same map takes their gradients to ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block, GPT2LMHeadModel
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.models.vit.configuration_vit import ViTConfig
from transformers.models.vit.modeling_vit import ViTLayer

from tests.helpers import drawn, equal, gradients
from tfdoc import (
    Causal,
    Encoder,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    MultiHeadAttention,
    PostNormBlock,
    PreNormBlock,
    RMSNorm,
    RoPE,
    count_params,
    part,
)

Tensors = dict[str, Tensor]
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)

D, H, G, HIDDEN, V, T = 32, 4, 2, 40, 19, 6
FUSED: dict[str, Any] = {"attn_implementation": "sdpa"}  # eager rounds to float32
LLAMA = LlamaConfig(
    hidden_size=D,
    num_attention_heads=H,
    num_key_value_heads=G,
    intermediate_size=HIDDEN,
    num_hidden_layers=2,
    vocab_size=V,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    **FUSED,
)
LLAMA_NORM = part(RMSNorm, eps=1e-5)
LLAMA_ATTENTION = part(
    MultiHeadAttention,
    num_heads=H,
    num_kv_heads=G,
    bias=False,
    mask=Causal(),
    rotary=RoPE(base=500.0),
)
LLAMA_BLOCK = part(
    PreNormBlock,
    attention=LLAMA_ATTENTION,
    feedforward=part(GatedFeedForward, hidden_dim=HIDDEN),
    norm=LLAMA_NORM,
)


def renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """Rename the modules that tensors belong to; every tensor must have a new name."""
    ours = {}
    for name, tensor in tensors.items():
        module, kind = name.rsplit(".", 1)
        ours[f"{names[module]}.{kind}"] = tensor
    return ours


def neighbours(half: Tensor, heads: int) -> Tensor:
    """Reorder rows: channels i and i + d/2 of a head become 2i and 2i + 1."""
    pairs: Tensor = half.unflatten(0, (heads, 2, -1)).transpose(1, 2)
    return pairs.flatten(0, 2)


def from_llama(tensors: Tensors) -> Tensors:
    """Permute the projections of queries and keys, and name norms as here."""
    heads = {"q_proj.weight": H, "k_proj.weight": G}
    renames = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn": "attention",
        "mlp": "feedforward",
    }
    ours = {}
    for name, tensor in tensors.items():
        kind = ".".join(name.split(".")[-2:])
        new = ".".join(renames.get(piece, piece) for piece in name.split("."))
        ours[new] = neighbours(tensor, heads[kind]) if kind in heads else tensor
    return ours


def from_gpt2(tensors: Tensors) -> Tensors:
    """Transpose the Conv1D weights, (in, out), and split the joint projection."""
    linear = {name: t.T if t.ndim == 2 else t for name, t in tensors.items()}
    for kind in ("weight", "bias"):
        joint = linear.pop(f"attn.c_attn.{kind}").chunk(3)
        linear |= {f"attn.{n}.{kind}": t for n, t in zip("qkv", joint, strict=True)}
    return renamed(
        linear,
        {
            "ln_1": "attn_norm",
            "ln_2": "ffn_norm",
            **{f"attn.{n}": f"attention.{n}_proj" for n in "qkv"},
            "attn.c_proj": "attention.o_proj",
            "mlp.c_fc": "feedforward.up_proj",
            "mlp.c_proj": "feedforward.down_proj",
        },
    )


def from_bert(tensors: Tensors) -> Tensors:
    return renamed(
        tensors,
        {
            "attention.self.query": "attention.q_proj",
            "attention.self.key": "attention.k_proj",
            "attention.self.value": "attention.v_proj",
            "attention.output.dense": "attention.o_proj",
            "attention.output.LayerNorm": "attn_norm",
            "intermediate.dense": "feedforward.up_proj",
            "output.dense": "feedforward.down_proj",
            "output.LayerNorm": "ffn_norm",
        },
    )


def from_vit(tensors: Tensors) -> Tensors:
    return renamed(
        tensors,
        {
            **{f"attention.{n}_proj": f"attention.{n}_proj" for n in "qkvo"},
            "layernorm_before": "attn_norm",
            "layernorm_after": "ffn_norm",
            "mlp.fc1": "feedforward.up_proj",
            "mlp.fc2": "feedforward.down_proj",
        },
    )


def agree(
    ours: nn.Module,
    theirs: nn.Module,
    translate: Callable[[Tensors], Tensors],
    dtype: torch.dtype,
    tolerance: float,
    run: Callable[[Tensor], Any] | None = None,
) -> None:
    """Give both the same weights and input; compare outputs and all gradients."""
    theirs, ours = drawn(theirs.to(dtype)).eval(), ours.to(dtype).eval()
    ours.load_state_dict(translate(dict(theirs.state_dict())))
    x = torch.randn(2, T, D, dtype=dtype, requires_grad=True)
    out, expected = ours(x), (run or theirs)(x)
    equal(out, expected, tolerance)

    mine, *my_grads = gradients(ours, out, x)
    other, *their_grads = gradients(theirs, expected, x)
    names = [name for name, _ in theirs.named_parameters()]
    translated = translate(dict(zip(names, their_grads, strict=True)))
    # To one scale: the gradient of a key's bias is 0 but for rounding.
    scale = max(g.abs().max() for g in their_grads)
    equal(mine / scale, other / scale, tolerance)
    for (name, _), grad in zip(ours.named_parameters(), my_grads, strict=True):
        equal(grad / scale, translated[name] / scale, tolerance)


def rotation(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines in Hugging Face's layout, (1, T, d).

    In float64 they come from this package's table, because theirs are always computed
    in float32: what is compared then is the layout and the turning.
    """
    at = torch.arange(T)
    if dtype is torch.float32:
        cos, sin = LlamaRotaryEmbedding(LLAMA)(torch.empty(0), at[None])
        return cos, sin
    turns = RoPE(base=500.0).table(at, D // H).repeat(1, 2)[None]
    return turns.real, turns.imag


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rms_norm(dtype: torch.dtype) -> None:
    # Theirs computes in float32 even for float64.
    agree(RMSNorm(D, eps=1e-3), LlamaRMSNorm(D, eps=1e-3), dict, dtype, 1e-6)


@PRECISIONS
def test_gated_feed_forward(dtype: torch.dtype, tolerance: float) -> None:
    agree(
        GatedFeedForward(D, hidden_dim=HIDDEN), LlamaMLP(LLAMA), dict, dtype, tolerance
    )


@PRECISIONS
def test_grouped_attention_with_rope(dtype: torch.dtype, tolerance: float) -> None:
    theirs, turns = LlamaAttention(LLAMA, 0), rotation(dtype)
    ours = LLAMA_ATTENTION.build(D)
    agree(ours, theirs, from_llama, dtype, tolerance, lambda x: theirs(x, turns)[0])


def test_the_layouts_of_rope_differ() -> None:
    theirs, x = drawn(LlamaAttention(LLAMA, 0).double()), torch.randn(2, T, D).double()
    ours = LLAMA_ATTENTION.build(D).double()
    expected = theirs(x, rotation(x.dtype))[0]
    ours.load_state_dict(theirs.state_dict())
    unpermuted = (ours(x) - expected).norm() / expected.norm()
    assert unpermuted > 0.1
    ours.load_state_dict(from_llama(dict(theirs.state_dict())))
    assert (ours(x) - expected).norm() / expected.norm() < 1e-12


def test_a_llama_layer() -> None:
    theirs, turns = LlamaDecoderLayer(LLAMA, 0), rotation(torch.float32)

    def run(x: Tensor) -> Tensor:
        out: Tensor = theirs(x, position_embeddings=turns)
        return out

    agree(LLAMA_BLOCK.build(D), theirs, from_llama, torch.float32, 1e-4, run)


def test_a_whole_llama() -> None:
    theirs = LlamaForCausalLM(LLAMA).eval()
    trunk = Encoder(D, blocks=(LLAMA_BLOCK,) * 2, norm=LLAMA_NORM)
    weights = from_llama(dict(theirs.model.layers.state_dict(prefix="blocks.")))
    trunk.load_state_dict(weights | {"norm.weight": theirs.model.norm.weight})
    ids = torch.randint(V, (2, T))
    with torch.no_grad():
        logits = theirs.lm_head(trunk(theirs.model.embed_tokens(ids)))
        equal(logits, theirs(ids).logits, 1e-5)


@PRECISIONS
def test_gpt2_block(dtype: torch.dtype, tolerance: float) -> None:
    config = GPT2Config(n_embd=D, n_head=H, n_inner=HIDDEN, **FUSED)
    tanh_gelu = partial(F.gelu, approximate="tanh")  # named gelu_new there
    ours = PreNormBlock(
        D,
        attention=part(MultiHeadAttention, num_heads=H, mask=Causal()),
        feedforward=part(FeedForward, hidden_dim=HIDDEN, activation=tanh_gelu),
    )
    agree(ours, GPT2Block(config, 0), from_gpt2, dtype, tolerance)


@PRECISIONS
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_encoder_layers(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    settings = FUSED | {
        "hidden_size": D,
        "num_attention_heads": H,
        "intermediate_size": HIDDEN,
    }
    bert = kind == "bert"
    theirs = (
        BertLayer(BertConfig(**settings)) if bert else ViTLayer(ViTConfig(**settings))
    )
    ours = (PostNormBlock if bert else PreNormBlock)(
        D,
        attention=part(MultiHeadAttention, num_heads=H),
        feedforward=part(FeedForward, hidden_dim=HIDDEN),
        norm=part(LayerNorm, eps=1e-12),
    )
    agree(ours, theirs, from_bert if bert else from_vit, dtype, tolerance)


def test_counts_are_theirs() -> None:
    with torch.device("meta"):
        models = LlamaForCausalLM(LLAMA), GPT2LMHeadModel(GPT2Config())
    gpt2: dict[str, Any] = {"num_positions": 1024, "gated": False, "bias": True}
    ours = (
        count_params(V, D, 2, HIDDEN, H, num_kv_heads=G),
        count_params(50_257, 768, 12, 3072, 12, tied=True, **gpt2),
    )
    for theirs, counts in zip(models, ours, strict=True):
        assert sum(p.numel() for p in theirs.parameters()) == sum(counts.values())
