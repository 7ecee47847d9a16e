"""Caches and operations of the ledger against forward passes of transformers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.drawn_configs import draw, runnable
from tests.test_ledger_huggingface import built, nullable
from tfdoc import Ledger, ledger
from tfdoc.cost.tables import TYPES, model

pytestmark = pytest.mark.filterwarnings("ignore")
transformers.logging.set_verbosity_error()

BATCH, SEQ, SOURCE = 2, 9, 5
HEADS = [(name, head) for name in TYPES for head in model(name)["heads"]]
DRAWS = 3


def inputs_of(model_type: str, head: str) -> tuple[dict[str, Any], int | None]:
    """Return the tokens to run on, and how many of them an encoder reads."""
    tokens = torch.randint(2, 20, (BATCH, SEQ))
    tokens[:, -1] = 1  # what classifiers look for
    if head in ("ForMultipleChoice", "DoubleHeadsModel"):
        return {"input_ids": tokens[:, None]}, None
    if model_type in ("bart", "t5") and head in ("ForConditionalGeneration", "Model"):
        return {"input_ids": tokens[:, :SOURCE], "decoder_input_ids": tokens}, SOURCE
    return {"input_ids": tokens}, None


def run(network: nn.Module, inputs: dict[str, Any]) -> tuple[Any, int]:
    """Return the output, and the operations without those of rotation tables."""
    counter = FlopCounterMode(display=False, depth=99)
    with counter, torch.no_grad():
        output = network(**inputs)
    counts = {name: sum(ops.values()) for name, ops in counter.flop_counts.items()}
    tables = [
        n for name, n in counts.items() if name.split(".")[-1][:10] == "rotary_emb"
    ]
    return output, counts["Global"] - sum(tables)


def held(cache: Any) -> int:
    """Return the numbers in a cache of transformers."""
    if hasattr(cache, "cross_attention_cache"):
        return held(cache.self_attention_cache) + held(cache.cross_attention_cache)
    return sum(
        x.keys.numel() + x.values.numel() for x in cache.layers if x.is_initialized
    )


def idle_experts(book: Ledger, config: dict[str, Any]) -> int:
    """Return what transformers spends on experts of Llama 4 and multiplies by zero."""
    idle: int = config["num_local_experts"] - config["num_experts_per_tok"]
    each: int = book.by_component.get("moe_experts", 0) // config["num_local_experts"]
    return 2 * BATCH * SEQ * idle * each


@pytest.mark.parametrize(("model_type", "head"), HEADS, ids=str)
def test_operations_and_caches_are_those_of_a_run(model_type: str, head: str) -> None:
    rng = random.Random(f"run {model_type} {head}")  # noqa: S311  # the same every time
    torch.manual_seed(0)
    inputs, source = inputs_of(model_type, head)
    for _ in range(DRAWS):
        config = runnable(draw(model_type, rng, nullable(model_type)), head)
        if model_type == "bart":
            config["eos_token_id"] = 1
        book = ledger(config, head)
        eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
        network = built(config, book.architecture, "cpu", **eager)
        output, operations = run(network, inputs)
        unused = idle_experts(book, config) if model_type == "llama4_text" else 0
        assert book.flops(BATCH, SEQ, source) == operations - unused, config
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            assert book.kv_cache(BATCH, SEQ, "fp32", source) == 4 * held(cache), config
