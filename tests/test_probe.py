"""Watching models: ours, torch's, and what refuses to be watched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tfdoc import Encoder, MultiHeadAttention, Probe, TransformerBlock, part, record


def model() -> Encoder:
    return Encoder(8, blocks=(part(TransformerBlock, num_heads=2),) * 2)


def test_every_map_of_a_model_under_its_name() -> None:
    encoder, x = model(), torch.randn(3, 5, 8)
    with record(encoder, "*weights") as seen:
        out = encoder(x)
    assert sorted(seen) == [
        f"blocks.{layer}.attention.core.weights" for layer in (0, 1)
    ]
    for weights in seen.values():
        assert weights.shape == (3, 2, 5, 5)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 5))
    torch.testing.assert_close(out, encoder(x))


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        ("blocks.1.attention.core.scores", (1, 2, 4, 4)),
        ("blocks.1.feedforward.hidden", (1, 4, 32)),
        ("blocks.0", (1, 4, 8)),
        ("blocks.0.attention.q_proj", (1, 4, 8)),
    ],
)
def test_any_module_can_be_watched(pattern: str, shape: tuple[int, ...]) -> None:
    encoder = model()
    with record(encoder, pattern) as seen:
        encoder(torch.randn(1, 4, 8))
    assert seen[pattern].shape == shape


def test_the_model_itself_has_the_empty_name() -> None:
    theirs, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(1, 4, 8)
    with record(theirs, "") as seen:
        out, weights = theirs(x, x, x)
    assert list(seen) == [""]
    assert seen[""][0] is out
    assert seen[""][1] is weights
    with record(theirs, "*") as seen:
        theirs(x, x, x)
    assert list(seen.calls) == ["out_proj"]


def test_hooks_are_gone_afterwards_even_after_an_error() -> None:
    attention = MultiHeadAttention(8, num_heads=2)
    with pytest.raises(ZeroDivisionError), record(attention, "*"):
        _ = 1 / 0
    assert not any(m._forward_hooks for m in attention.modules())
    assert not attention.get_submodule("core.weights")._forward_hooks


def test_every_call_is_kept() -> None:
    attention = MultiHeadAttention(8, num_heads=2)
    with record(attention, "core.weights") as seen:
        for length in (2, 3):
            attention(torch.randn(1, length, 8))
    assert [w.shape[-1] for w in seen.calls["core.weights"]] == [2, 3]
    assert seen["core.weights"] is seen.calls["core.weights"][-1]


def test_what_is_recorded_is_what_the_gradient_goes_through() -> None:
    attention = MultiHeadAttention(8, num_heads=2)
    with record(attention, "core.weights") as seen:
        out = attention(torch.randn(1, 3, 8))
    seen["core.weights"].retain_grad()
    out.square().sum().backward()
    assert seen["core.weights"].grad.abs().sum() > 0


def test_models_of_others() -> None:
    theirs = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with record(theirs, "linear1") as seen:
        theirs(torch.randn(1, 4, 8))
    assert seen["linear1"].shape == (1, 4, 16)


def test_a_module_that_was_not_called_says_so() -> None:
    # torch's attention uses the weights of out_proj without calling it.
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(1, 4, 8)
    with record(theirs, "out_proj") as seen:
        theirs(x, x, x)
    with pytest.raises(KeyError, match="'out_proj' was watched but never called"):
        seen["out_proj"]
    with pytest.raises(
        KeyError, match=r"'q_proj' was not watched, only \['out_proj'\]"
    ):
        seen["q_proj"]


def test_a_pattern_without_a_match_lists_what_there_is() -> None:
    attention = MultiHeadAttention(8, num_heads=2)
    with (
        pytest.raises(KeyError, match=r"matches '\*wieghts'.*'core\.scores'.*'q_proj'"),
        record(attention, "*wieghts"),
    ):
        pass


def test_a_compiled_model_is_refused() -> None:
    attention = MultiHeadAttention(8, num_heads=2)
    compiled = torch.compile(attention, backend="eager")
    with pytest.raises(RuntimeError, match="is compiled"), record(compiled, "*weights"):  # type: ignore[arg-type]
        pass
    attention.compile(backend="eager")
    with (
        pytest.raises(RuntimeError, match="is compiled"),
        record(attention, "*weights"),
    ):
        pass


def test_a_probe_returns_its_tensor_itself() -> None:
    x = torch.randn(2)
    assert Probe()(x) is x
