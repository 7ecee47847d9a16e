"""Recipes: what they hold, how they print, what they refuse."""

from __future__ import annotations

import copy
import pickle

import pytest

from tfdoc import (
    Causal,
    Encoder,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
    PreNormBlock,
    RMSNorm,
    RoPE,
    TransformerLayer,
    part,
)

BLOCK = part(
    PreNormBlock,
    norm=part(RMSNorm, eps=1e-5),
    attention=part(MultiHeadAttention, num_heads=4, mask=Causal(), rotary=RoPE()),
    feedforward=part(FeedForward, hidden_dim=32),
)


def test_a_part_builds_what_it_says() -> None:
    block = BLOCK.build(16)
    assert isinstance(block.attention, MultiHeadAttention)
    assert block.attention.num_heads == 4
    assert block.attn_norm.eps == 1e-5
    assert block.attn_norm is not block.ffn_norm


def test_a_function_is_a_component_too() -> None:
    layer = part(TransformerLayer, num_heads=2, hidden_dim=8).build(4)
    assert layer.attention.num_heads == 2


def test_equality_looks_through_written_out_defaults() -> None:
    assert part(LayerNorm) == part(LayerNorm, eps=1e-5)
    assert hash(part(LayerNorm)) == hash(part(LayerNorm, eps=1e-5))
    assert part(LayerNorm) != part(LayerNorm, eps=1e-6)
    assert part(LayerNorm) != part(RMSNorm, eps=1e-5)
    assert part(LayerNorm) != "LayerNorm()"


def test_but_changes_a_copy() -> None:
    changed = BLOCK.but(dropout=0.5)
    assert changed.build(16).dropout.p == 0.5
    assert BLOCK.build(16).dropout.p == 0.0


def test_the_builder_may_add_settings() -> None:
    assert part(FeedForward, hidden_dim=8).build(4, dropout=0.5).dropout.p == 0.5


def test_copies_and_pickles_are_equal() -> None:
    assert copy.deepcopy(BLOCK) == BLOCK
    assert pickle.loads(pickle.dumps(BLOCK)) == BLOCK  # noqa: S301  # our own bytes


def test_short_parts_print_on_one_line() -> None:
    assert repr(part(FeedForward, hidden_dim=8)) == "FeedForward(hidden_dim=8)"
    assert repr(part(RMSNorm)) == "RMSNorm()"


def test_long_parts_print_as_a_table_with_layers_folded() -> None:
    encoder = part(Encoder, blocks=(BLOCK,) * 3 + (BLOCK.but(dropout=0.1),))
    assert repr(encoder) == (
        "Encoder(\n"
        "  blocks=(\n"
        "    3 × PreNormBlock(\n"
        "      norm=RMSNorm(eps=1e-05),\n"
        "      attention=MultiHeadAttention(\n"
        "        num_heads=4,\n"
        "        mask=Causal(),\n"
        "        rotary=RoPE(base=10000.0),\n"
        "      ),\n"
        "      feedforward=FeedForward(hidden_dim=32),\n"
        "    ),\n"
        "    PreNormBlock(\n"
        "      norm=RMSNorm(eps=1e-05),\n"
        "      attention=MultiHeadAttention(\n"
        "        num_heads=4,\n"
        "        mask=Causal(),\n"
        "        rotary=RoPE(base=10000.0),\n"
        "      ),\n"
        "      feedforward=FeedForward(hidden_dim=32),\n"
        "      dropout=0.1,\n"
        "    ),\n"
        "  ),\n"
        ")"
    )
    same = part(Encoder, blocks=(part(TransformerLayer),) * 3)
    assert repr(same) == "Encoder(blocks=3 × TransformerLayer())"
    assert max(map(len, repr(encoder).splitlines())) <= 79


def test_a_part_is_frozen() -> None:
    with pytest.raises(AttributeError, match=r"frozen.*part\.but\(component=\.\.\.\)"):
        BLOCK.component = LayerNorm  # type: ignore[assignment]
    with pytest.raises(TypeError):
        BLOCK.settings["norm"] = part(LayerNorm)  # type: ignore[index]
    with pytest.raises(AttributeError, match="frozen"):
        del BLOCK.component
