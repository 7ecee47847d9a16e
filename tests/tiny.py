"""Small models and inputs to rehearse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from tfdoc import (
    Causal,
    Encoder,
    GatedFeedForward,
    LayerNorm,
    MultiHeadAttention,
    PreNormBlock,
    Probe,
    RMSNorm,
    RoPE,
    TransformerBlock,
    part,
)


def ids(batch: int, tokens: int) -> Tensor:
    return torch.zeros(batch, tokens, dtype=torch.long, device="meta")


def encoder(name: str, watched: bool = True) -> nn.Module:
    """Return a small encoder; watched, it takes the exact path on every device."""
    llama = part(
        PreNormBlock,
        norm=part(RMSNorm),
        attention=part(MultiHeadAttention, num_heads=4, mask=Causal(), rotary=RoPE()),
        feedforward=part(GatedFeedForward, hidden_dim=512),
    )
    block = llama if name == "llama" else part(TransformerBlock, num_heads=4)
    model = Encoder(128, blocks=(block,) * 3, norm=part(LayerNorm))
    for module in model.modules():
        if watched and isinstance(module, Probe):
            module.register_forward_hook(lambda *_: None)
    return model


def tiny_llama(**more: Any) -> LlamaForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": 1024,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_implementation": "eager",
        "use_cache": False,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | more))
