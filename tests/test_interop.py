"""Masks and modules of torch.nn, translated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers import equal, randn64
from tfdoc import (
    Causal,
    LayerNorm,
    MultiHeadAttention,
    RMSNorm,
    attention,
    from_torch,
    mask_from_torch,
)

BIAS = torch.zeros(4, 4).masked_fill(~Causal().table(4), float("-inf"))


@pytest.mark.parametrize(
    "mask",
    [
        lambda: mask_from_torch(~Causal().table(4)),
        lambda: mask_from_torch(Causal().table(4), true_means="kept"),
        lambda: mask_from_torch(BIAS.to(torch.get_default_device())),
        lambda: mask_from_torch(BIAS.to(torch.get_default_device()), true_means="kept"),
        lambda: mask_from_torch(nn.Transformer.generate_square_subsequent_mask(4)),
    ],
    ids=["blocked", "kept", "float", "float is the same for both", "torch's own"],
)
def test_every_spelling_of_causal(mask: object) -> None:
    assert callable(mask)
    assert torch.equal(mask(), Causal().table(4))


def test_both_polarities_of_padding() -> None:
    real = torch.tensor([[True, True, False], [True, True, True]])
    kept = mask_from_torch(key_padding_mask=real, true_means="kept")
    blocked = mask_from_torch(key_padding_mask=~real)
    assert kept.shape == (2, 1, 1, 3)
    assert torch.equal(kept, blocked)
    assert torch.equal(kept[:, 0, 0], real)


def test_the_two_together_allow_what_both_allow() -> None:
    hidden = torch.tensor([[False, False, True, True]])
    both = mask_from_torch(~Causal().table(4), hidden)
    assert both.shape == (1, 1, 4, 4)
    assert torch.equal(both[0, 0], Causal().table(4) & ~hidden)


def test_the_wrong_polarity_is_another_model() -> None:
    x = torch.randn(1, 1, 4, 4)
    right, wrong = (
        attention(x, x, x, mask_from_torch(~Causal().table(4), true_means=word))
        for word in ("blocked", "kept")
    )
    assert not torch.allclose(right, wrong)
    assert (wrong[:, :, -1] == 0).all()  # the last token sees nothing any more


def test_mode_dtype_and_settings_come_along() -> None:
    theirs = nn.MultiheadAttention(8, 2, dropout=0.25, batch_first=True).double().eval()
    ours = from_torch(theirs)
    assert isinstance(ours, MultiHeadAttention)
    assert not ours.training
    assert ours.core.dropout == 0.25
    assert ours.q_proj.weight.dtype is torch.float64
    assert ours.q_proj.weight.data_ptr() != theirs.in_proj_weight.data_ptr()


def test_norms_keep_their_eps() -> None:
    norm = from_torch(nn.LayerNorm(8, eps=0.5, bias=False))
    assert isinstance(norm, LayerNorm)
    assert norm.eps == 0.5
    assert norm.bias is None
    root = from_torch(nn.RMSNorm(8))
    assert isinstance(root, RMSNorm)
    assert root.eps == torch.finfo(torch.float32).eps


def test_sequence_first_modules_become_batch_first() -> None:
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0).to(torch.get_default_device())
    theirs, x = theirs.double(), randn64(2, 5, 8)
    equal(from_torch(theirs)(x), theirs(x.transpose(0, 1)).transpose(0, 1))
