"""Random small configs of every model type, drawn key by key from the reader's table."""

from __future__ import annotations

import random
from typing import Any

from tfdoc.cost.tables import KINDS, model

SIZES = {
    "V": (23, 40), "F": (12, 20), "Fd": (12, 20), "M": (6, 10), "S": (6, 14),
    "P": (16, 24), "Y": (6, 18), "n": (4, 6), "r": (2, 4), "v": (4, 6), "c": (6, 8),
    "N": (1, 3), "inner": (1, 2), "R": (4, 8), "labels": (1, 5), "E": (4, 8), "W": (3, 6), "window": (3, 6),
    "b": (6, 10), "first": (0, 2), "ln": (1, 2), "window_from": (0, 3), "shared": (1, 2),
    "groups": (1, 2), "step": (1, 3), "pattern": (2, 3), "no_rope_step": (2, 4),
}  # fmt: skip


def draw(
    model_type: str, rng: random.Random, nullable: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return a config; some switches are left out, some keys that may be null are."""
    table = model(model_type)
    values = _numbers(rng)
    config: dict[str, Any] = {"model_type": model_type}
    for key, (symbol, *_) in table["keys"].items():
        kind = KINDS[symbol]
        if key in nullable and rng.random() < 0.3:
            config[key] = None
        elif kind == "flag":
            if rng.random() < 0.7:
                config[key] = rng.random() < 0.5
        else:
            config[key] = _value(symbol, kind, values, rng)
    config["pad_token_id"] = 0  # the defaults of some lie beyond a small vocabulary
    if model_type == "gpt_neo":  # transformers counts the layers a second time
        config["attention_types"] = [[["global"], config["num_layers"]]]
    return config


def runnable(config: dict[str, Any], head: str) -> dict[str, Any]:
    """Return a config that transformers can run as well as build."""
    changed: dict[str, Any] = {}
    if "qk_rope_head_dim" in config:
        changed = {"qk_rope_head_dim": 2, "qk_nope_head_dim": 4, "v_head_dim": 6}
        changed |= {"kv_lora_rank": 8, "n_group": 1, "topk_group": 1}
        changed["num_key_value_heads"] = config["num_attention_heads"]
    if config["model_type"] == "falcon":  # a new decoder is a parallel one
        changed = {"parallel_attn": True, "num_ln_in_parallel_attn": None}
        if not config.get("new_decoder_architecture"):
            changed["num_kv_heads"] = None
    if config.get("layer_types") and "sliding_window" in config:
        changed = {"sliding_window": 4, "use_sliding_window": True}
        if "use_sliding_window" not in model(config["model_type"])["keys"]:
            del changed["use_sliding_window"]
    elif "layer_types" in config and config.get("sliding_window", 0) is None:
        changed = {"sliding_window": 4}
    if config["model_type"] == "phimoe":  # its router always takes two
        changed = {"num_experts_per_tok": 2}
    if config["model_type"] == "gptj":
        changed = {"rotary_dim": 4}
    if config["model_type"] == "t5":
        changed = {"decoder_start_token_id": 0}
    if config["model_type"] == "llama4_text":
        named = {"sliding_attention": "chunked_attention"}
        kinds = config["layer_types"]
        changed = {"layer_types": kinds and [named.get(k, k) for k in kinds]}
        changed["attention_chunk_size"] = 5
    if (config["model_type"], head) == ("bart", "ForCausalLM"):
        changed["decoder_layers"] = config["encoder_layers"]
    if head == "ForQuestionAnswering":
        changed["num_labels"] = 2
    return config | changed


def _numbers(rng: random.Random) -> dict[str, Any]:
    """Return the numbers that must agree with each other."""
    H = rng.choice([2, 4, 6])
    head = rng.choice([8, 16])
    L = rng.randint(1, 4)
    groups = [g for g in range(1, H + 1) if H % g == 0]
    return {
        "H": H, "Hd": H, "D": H * head, "G": rng.choice(groups), "g": rng.choice(groups),
        "d": rng.choice([4, 8, 12]), "L": L, "Ld": rng.randint(1, 3),
        "K": rng.randint(1, 4),
    }  # fmt: skip


def _value(symbol: str, kind: str, values: dict[str, Any], rng: random.Random) -> Any:
    if symbol in values:
        return values[symbol]
    L = values["L"]
    if kind == "indices":
        if symbol == "no_rope_list":
            return [rng.randint(0, 1) for _ in range(L)]
        return sorted(rng.sample(range(L), rng.randint(0, L)))
    if kind == "layer types":
        return [rng.choice(["full_attention", "sliding_attention"]) for _ in range(L)]
    if kind == "activation":
        return rng.choice(["relu", "gated-gelu"])
    return rng.randint(*SIZES[symbol])
