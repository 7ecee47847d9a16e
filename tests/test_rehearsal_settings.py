"""Rehearsals: what each number means, what each setting does, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    masking_utils,
)

from tests.tiny import encoder, ids, tiny_llama
from tfdoc import (
    Rehearsal,
    rehearse,
)
from tfdoc._emulate import Autocast


def simple(**settings: Any) -> Rehearsal:
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
    settings = {"loss": torch.sum} | settings
    return rehearse(model, torch.empty(512, 256), **settings)


def test_sizes_by_hand() -> None:
    step, size = simple(), 4 * (2 * 256 * 512 + 512 + 256)
    assert (step.parameters, step.gradients, step.optimizer) == (size, size, 2 * size)
    assert step.inputs == step.logits == 4 * 512 * 256
    # What GELU takes and gives, and the loss.
    assert step.activations == 2 * 4 * 512 * 512 + 512
    low = simple(precision="bf16", optimizer=None)
    assert (low.parameters, low.optimizer) == (size / 2, 0)


def test_the_parts_make_the_peak() -> None:
    for settings in ({}, {"precision": "amp"}, {"mode": "infer"}):
        step = simple(**settings)
        assert sum(step.by_kind.values()) == step.peak == max(step.peaks.values())
        assert max(step.timeline, key=lambda entry: entry[1])[0] == step.peak_moment
        assert step.by_kind["temporaries"] == step.temporaries
    assert ("autocast" in simple(precision="amp").by_kind) is True
    moments = list(dict.fromkeys(moment for moment, _ in simple().timeline))
    assert moments == ["forward", "loss", "backward", "step"]


def test_the_peak_moves_with_the_batch() -> None:
    model = tiny_llama(attn_implementation="sdpa")
    small, large = (
        rehearse(model, input_ids=x, labels=x) for x in (ids(1, 8), ids(64, 64))
    )
    assert (small.peak_moment, large.peak_moment) == ("step", "backward")
    # Logits in float32, then their softmax: the loss is the top of the forward pass.
    assert large.peaks["loss"] > large.peaks["forward"]
    assert small.peak == pytest.approx(5 * small.parameters, rel=1e-3)


def test_optimisers() -> None:
    size = simple().parameters
    plain, momentum = (
        simple(optimizer="sgd"),
        simple(
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True)
        ),
    )
    assert (plain.optimizer, momentum.optimizer) == (0, size)
    assert "step" not in simple(optimizer=None).peaks
    assert simple(optimizer=None).gradients == size


def test_inputs_are_cast_like_the_model() -> None:
    layer, x = nn.Linear(256, 256, bias=False), torch.empty(64, 256)
    given, cast = (
        rehearse(layer, x.to(dtype), loss=torch.sum, precision="bf16")
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert given == cast
    assert given.logits == 64 * 256 * 2


def test_it_runs_where_meta_is_the_default() -> None:
    expected = simple()
    with torch.device("meta"):
        assert simple() == expected


def test_frozen_weights_need_no_gradient_and_tied_ones_count_once() -> None:
    model = nn.Sequential(*(nn.Linear(128, 128, bias=False) for _ in range(3)))
    size = 4 * 128 * 128
    model[0].requires_grad_(False)
    step = rehearse(model, torch.empty(8, 128), loss=torch.sum)
    assert (step.parameters, step.gradients, step.optimizer) == (
        3 * size,
        2 * size,
        4 * size,
    )
    model[1].weight = model[2].weight
    step = rehearse(model, torch.empty(8, 128), loss=torch.sum)
    assert (step.parameters, step.gradients) == (2 * size, size)


def test_checkpointing_keeps_the_residual_stream_only() -> None:
    x = torch.empty(4, 128, 128)
    settings: dict[str, Any] = {"loss": torch.sum, "optimizer": None}
    plain = rehearse(encoder("llama", watched=False), x, **settings)
    again = rehearse(encoder("llama", watched=False), x, checkpointing=True, **settings)
    assert plain.flops.forward == again.flops.forward
    # Each layer's output, and what the last norm and the loss keep; the input is there.
    assert again.activations < 6 * 4 * x.numel() < plain.activations
    amp = rehearse(
        encoder("bert", watched=False),
        x,
        checkpointing=True,
        precision="amp",
        **settings,
    )
    assert amp.activations < 6 * 4 * x.numel()


def test_only_the_outermost_layers_run_again() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            expert = nn.Sequential(nn.Linear(128, 128), nn.GELU())
            self.experts = nn.ModuleList([expert, nn.Linear(128, 128)])

        def forward(self, x: Tensor) -> Tensor:
            return self.experts[1](self.experts[0](x)).relu()  # type: ignore[no-any-return]

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](x))  # type: ignore[no-any-return]

    step = rehearse(Stack(), torch.empty(8, 128), loss=torch.sum, checkpointing=True)
    once = 2 * 8 * 128 * 128
    assert step.flops_by_module["layers.1.experts.0.0"] == (once, 3 * once)


def test_a_model_that_checkpoints_itself() -> None:
    x, model = ids(2, 64), tiny_llama(attn_implementation="sdpa")
    ours = rehearse(model, input_ids=x, labels=x, checkpointing=True)
    model.activation_checkpointing_enable({"use_reentrant": False})
    theirs = rehearse(model, input_ids=x, labels=x)
    assert (ours.peaks, ours.flops) == (theirs.peaks, theirs.flops)


def test_the_loss_may_be_a_module() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.measure = nn.Linear(8, 4096), nn.CrossEntropyLoss()

        def forward(self, x: Tensor, labels: Tensor) -> SimpleNamespace:
            return SimpleNamespace(loss=self.measure(self.head(x).double(), labels))

    step = rehearse(
        WithLoss(), torch.empty(64, 8), labels=ids(1, 64)[0], optimizer=None
    )
    # After the head come its output in double precision and a softmax of that.
    logits = 64 * 4096 * 4
    assert step.peaks["forward"] < 2 * logits < 4 * logits < step.peaks["loss"]


def test_views_of_one_storage_take_its_bytes_once() -> None:
    class Add(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    both = torch.empty(2, 1024)
    assert rehearse(Add(), both[0], both[1], mode="infer").inputs == both.nbytes
    assert rehearse(Add(), both[0], both[0], mode="infer").peak == both.nbytes + 4096


def test_fused_attention_keeps_no_scores() -> None:
    x = torch.empty(1, 1024, 128)
    for precision in ("fp32", "bf16", "amp"):
        y = x.bfloat16() if precision == "bf16" else x
        settings: dict[str, Any] = {"loss": torch.sum, "precision": precision}
        fused, exact = (
            rehearse(encoder("bert", watched=False), y, fused=on, **settings)
            for on in (True, False)
        )
        assert exact.activations - fused.activations > 3 * 2 * 4 * 1024 * 1024


def test_fused_attention_with_masks_and_without_heads() -> None:
    class Attend(nn.Module):
        def forward(self, q: Tensor, mask: Tensor | None = None) -> Tensor:
            return F.scaled_dot_product_attention(q, q[..., :7, :], q[..., :7, :], mask)

    q, mask = torch.empty(2, 9, 16), torch.ones(2, 9, 7, dtype=torch.bool)
    for x, given in ((q, None), (q, mask), (q[:, None], mask[:, None])):
        run = rehearse(Attend(), x, given, mode="infer")
        assert run.output.shape == x.shape
        assert run.flops.forward == 4 * 2 * 9 * 7 * 16


AUTOCAST: list[tuple[Callable[[Tensor, Tensor], Tensor], torch.dtype]] = [
    (F.linear, torch.bfloat16),
    (lambda x, w: x @ w, torch.bfloat16),
    (lambda x, w: torch.einsum("ij,jk", x, w), torch.bfloat16),
    (lambda x, w: F.softmax(x @ w, -1), torch.float32),
    (lambda x, w: F.layer_norm(x @ w, (8,)), torch.float32),
    (lambda x, w: F.rms_norm(x @ w, (8,)), torch.float32),
    (lambda x, w: F.cosine_similarity(x @ w, x @ w), torch.float32),
    (lambda x, w: (x @ w) ** 2, torch.float32),
    (lambda x, w: (x @ w).sum(), torch.float32),
    (lambda x, w: (x @ w).sum(dtype=torch.bfloat16), torch.bfloat16),
    (lambda x, w: F.gelu(x @ w), torch.bfloat16),
    (lambda x, w: (x @ w) + x, torch.float32),
    (lambda x, w: x.double() @ w.double(), torch.float64),
    (lambda x, w: F.scaled_dot_product_attention(x, x, x), torch.bfloat16),
    (lambda x, w: F.cross_entropy(x @ w, x.long()[:, 0]), torch.float32),
    (lambda x, w: nn.MultiheadAttention(8, 2)(x, x, x)[0], torch.bfloat16),
]


@pytest.mark.parametrize(("run", "dtype"), AUTOCAST)
def test_autocast(run: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    with torch.device("meta"):
        x, w = torch.empty(8, 8), nn.Parameter(torch.empty(8, 8))
        with Autocast(lambda _: None):
            assert run(x, w).dtype is dtype


def test_autocast_copies_a_weight_once() -> None:
    copies: list[Tensor] = []
    w, x = nn.Parameter(torch.empty(8, 8)), torch.empty(8, 8)
    with Autocast(copies.append) as mode:
        (x @ w) @ w
        assert [*mode.copies.values()] == copies
    assert len(copies) == 1


def test_a_mask_of_hugging_face_hides_nothing() -> None:
    x = torch.zeros(1, 64, dtype=torch.long)
    model = tiny_llama(attn_implementation="sdpa")
    plain, masked = (
        rehearse(model, input_ids=x, labels=x, attention_mask=mask)
        for mask in (None, torch.ones(1, 64, dtype=torch.long))
    )
    assert plain.activations == masked.activations
    settings: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1}
    bart = BartForConditionalGeneration(BartConfig(d_model=64, **settings))
    mask = torch.ones(1, 64)
    assert rehearse(bart, input_ids=x, labels=x, attention_mask=mask).flops.forward


def test_nothing_else_is_touched() -> None:
    model, look = tiny_llama().eval(), masking_utils.find_packed_sequence_indices
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = _get_current_function_mode_stack()
    hooks = [len(m._forward_hooks) for m in model.modules()]
    x = torch.zeros(1, 8, dtype=torch.long)
    rehearse(model, input_ids=x, labels=x, precision="amp", checkpointing=True)
    with pytest.raises(ValueError, match="loss is missing"):
        rehearse(model, input_ids=x)
    assert masking_utils.find_packed_sequence_indices is look
    assert _get_current_function_mode_stack() == modes
    assert _get_current_dispatch_mode() is None
    assert torch.is_grad_enabled()
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None and "forward" not in vars(p) for p in model.parameters())
    assert all("forward" not in vars(m) for m in model.modules())


def test_attributes_that_are_tensors_come_along() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = [torch.ones(8)]

        def forward(self, x: Tensor) -> Tensor:
            return x + self.shift[0]

    run = rehearse(Shifted(), torch.ones(8), mode="infer")
    assert run.output.device.type == "meta"


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sum().item()


LINEAR = nn.Linear(2, 2)
X = torch.empty(1, 2)
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mode": "test"}, ValueError, "mode must be one of train, infer; got 'test'"),
    ({"precision": 16}, ValueError, "precision must be one of fp32, bf16, amp; got 16"),
    (
        {"optimizer": "lion"},
        ValueError,
        "optimizer must be one of adamw, sgd; got 'lion'",
    ),
    ({"fused": 1}, TypeError, r"fused must be True or False, got 1 \(int\)"),
    (
        {"checkpointing": None},
        TypeError,
        "checkpointing must be True or False, got None",
    ),
    ({"checkpointing": True}, ValueError, "no torch.nn.ModuleList in Linear"),
    (
        {"loss": None},
        ValueError,
        "returned a Tensor without one; give it labels, or give",
    ),
    ({"loss": lambda y: y}, ValueError, r"one number, got \(1, 2\)"),
    ({"loss": lambda y: 1.0}, ValueError, r"one number, got 1\.0"),
    ({"model": 3}, TypeError, "a torch.nn.Module or a function .* builds one, got int"),
    ({"model": dict}, TypeError, "a function .* that builds one, got dict"),
    ({"model": torch.compile(LINEAR, backend="eager")}, TypeError, "model is compiled"),
    ({"model": nn.ReLU()}, ValueError, "nothing to train in ReLU; let a parameter"),
]


@pytest.mark.parametrize(("given", "error", "message"), WRONG)
def test_errors(given: dict[str, Any], error: type[Exception], message: str) -> None:
    settings: dict[str, Any] = {"model": LINEAR, "loss": torch.sum} | given
    with pytest.raises(error, match=message):
        rehearse(settings.pop("model"), X, **settings)


def test_a_model_that_asks_for_numbers_is_explained() -> None:
    with pytest.raises(RuntimeError) as caught:
        rehearse(Counts(), X, mode="infer")
    assert "shapes and no numbers" in caught.value.__notes__[0]
