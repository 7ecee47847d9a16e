"""Weights of transformers' decoders under the names, and in the shapes, of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tfdoc import OutputNormBlock, ParallelBlock, SandwichBlock

Names = list[tuple[str, str]]

# What is called alike in all wirings.
TRUNK: Names = [
    (r"^(model\.decoder|model|transformer|gpt_neox)\.", ""),
    (r"^(layers|h|blocks)\.(\d+)\.", r"blocks.\2."),
    (r"^(embed_tokens|wte|word_embeddings|embed_in)\.", "embed."),
    (r"^(wpe|embed_positions)\.", "embed.positions."),
    (r"^word_embeddings_layernorm\.", "embed.norm."),
    (r"^(ln_f|norm_f|final_layer_?norm)\.", "norm."),
    (r"^(lm_head|embed_out)\.", "head."),
    (r"\.(self_attn|self_attention|attn\.attention|attn|attention)\.", ".attention."),
    (r"\.attention\.sinks", ".attention.core.sinks"),
    (r"\.attention\.(out_proj|dense|c_proj)\.", ".attention.o_proj."),
    (r"\.attention\.(query_key_value|Wqkv|c_attn|qkv_proj)\.", ".attention.qkv."),
    (r"\.attention\.([qk])_layernorm\.", r".attention.\1_norm."),
    (r"\.attention\.(kv_a_proj)_with_mqa\.", r".attention.\1."),
    (r"\.(attention\..*)layernorm\.", r".\1norm."),
    (r"\.(mlp|ffn|block_sparse_moe|feed_forward)\.", ".feedforward."),
    (r"\.(fc1|fc2)\.", r".feedforward.\1."),
    (r"\.feedforward\.(feedforward\.)+", ".feedforward."),
    (r"\.(fc1|c_fc|fc_in|dense_h_to_4h)\.", ".up_proj."),
    (r"(feedforward\.)(fc2|c_proj|fc_out|dense_4h_to_h)\.", r"\1down_proj."),
    (r"feedforward\.(gate|router\.layer)\.", "feedforward.router."),
    (r"feedforward\.input_linear\.weight", "feedforward.experts.gate_up_proj"),
    (r"feedforward\.output_linear\.weight", "feedforward.experts.down_proj"),
    (r"shared_expert_gate\.", "shared_experts.gate."),
    (r"\.shared_expert\.", ".shared_experts."),
    (r"\.(self_attn_layer_norm|input_layernorm|ln_1|norm_1|ln_attn)\.", ".attn_norm."),
]
NORMS: dict[type[nn.Module], Names] = {
    SandwichBlock: [
        (r"\.post_attention_layernorm\.", ".attn_out_norm."),
        (r"\.pre_feedforward_layernorm\.", ".ffn_norm."),
        (r"\.post_feedforward_layernorm\.", ".ffn_out_norm."),
    ],
    ParallelBlock: [(r"\.attn_norm\.", ".norm.")],
    OutputNormBlock: [
        (r"\.post_attention_layernorm\.", ".attn_norm."),
        (r"\.post_feedforward_layernorm\.", ".ffn_norm."),
    ],
}
OTHERS: Names = [
    (
        r"\.(post_attention_layernorm|final_layer_norm|ln_2|norm_2|ln_mlp)\.",
        ".ffn_norm.",
    )
]
# What a type calls in a way of its own.
SPECIAL: dict[str, Names] = {
    "olmo2": [(r"\.([qk])_norm\.", r".\1_norm.norm.")],
    "olmoe": [(r"\.([qk])_norm\.", r".\1_norm.norm.")],
    "granite": [(r"(attention|feedforward)\.", r"\1.branch.")],
    "granitemoe": [(r"(attention|feedforward)\.", r"\1.branch.")],
    "qwen2_moe": [
        (r"shared_experts\.(gate|up|down)_proj", r"shared_experts.branch.\1_proj")
    ],
    "cohere": [(r"\.([qk])_norm\.weight", r".\1_norm.norms.weight")],
}
# Their rows of queries, keys and values lie head by head, not one behind the other.
BY_HEAD = {"bloom", "falcon", "gpt_neox"}


def adopted(
    model_type: str,
    s: dict[str, int],
    wiring: type[nn.Module],
    weights: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Rename, split, turn and transpose what transformers holds."""
    names = [*TRUNK, *NORMS.get(wiring, OTHERS), *SPECIAL.get(model_type, [])]
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        own = name
        for theirs, ours in names:
            own = re.sub(theirs, ours, own)
        out |= dict(_ours(model_type, s, own, weight))
    return out


def _ours(
    model_type: str, s: dict[str, int], name: str, weight: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that one of theirs, under our name for it, becomes."""
    if model_type == "gpt2" and "blocks" in name:
        weight = weight.mT if weight.ndim == 2 else weight
    if model_type in ("gpt_oss", "llama4_text") and ".experts." in name:
        weight = weight.mT if weight.ndim == 3 else weight
        if model_type == "gpt_oss" and "gate_up" in name:  # every second row is a gate
            weight = torch.cat([weight[:, 0::2], weight[:, 1::2]], 1)
    if model_type == "nemotron" and "norm.weight" in name:
        weight = weight + 1
    if ".qkv." in name:
        for letter, rows in zip("qkv", _split(model_type, s, weight), strict=True):
            yield name.replace("qkv", f"{letter}_proj"), rows
    elif name.endswith("feedforward.gate_up_proj.weight"):
        for half, rows in zip(("gate", "up"), weight.chunk(2), strict=True):
            yield name.replace("gate_up", half), rows
    elif model_type == "cohere" and ".norms." in name:
        for head, row in enumerate(weight):
            yield name.replace("norms.weight", f"norms.{head}.weight"), row
    else:
        yield name, weight


def _split(model_type: str, s: dict[str, int], fused: Tensor) -> tuple[Tensor, ...]:
    H, G, d = s["H"], s["G"], s["d"]
    if model_type not in BY_HEAD:
        rows: tuple[Tensor, ...] = fused.split((H * d, G * d, G * d))
        return rows
    groups = fused.unflatten(0, (G, H // G + 2, d))  # a group's queries, key and value
    return tuple(x.flatten(0, 2) for x in groups.split((H // G, 1, 1), 1))
