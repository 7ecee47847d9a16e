"""Mixtures of every published kind: against Hugging Face, and piece by piece."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DeepseekV2Config,
    GptOssConfig,
    Llama4TextConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
from transformers.models.phimoe.modeling_phimoe import PhimoeSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from tests.helpers import drawn, equal, gradients, randn64
from tfdoc import (
    ClampedExperts,
    FeedForward,
    GatedExperts,
    GatedFeedForward,
    GroupedSoftmaxRouter,
    MixtureOfExperts,
    Part,
    ScaledInputExperts,
    SigmoidGate,
    SigmoidRouter,
    SoftmaxRouter,
    SparseMixerRouter,
    load_balancing_loss,
    part,
    record,
)

D, E, HIDDEN = 8, 6, 12
MIXTURE = part(MixtureOfExperts, num_experts=E, hidden_dim=HIDDEN)
GATED = part(GatedFeedForward, hidden_dim=HIDDEN)
State = dict[str, Tensor]


def ours_and_theirs(name: str) -> tuple[Part[Any], nn.Module]:
    """Return a mixture's part and Hugging Face's module of the same sizes."""
    sizes: dict[str, Any] = {"hidden_size": D, "intermediate_size": HIDDEN}
    local = {**sizes, "num_local_experts": E}
    family, _, kind = name.partition(", ")
    if family == "gpt-oss":
        alpha, limit = (1.3, 2.0) if kind else (1.702, 7.0)
        recipe = MIXTURE.but(
            router=part(SoftmaxRouter, top_k=3, bias=True),
            experts=part(ClampedExperts, alpha=alpha, limit=limit),
        )
        local |= {"swiglu_alpha": alpha, "swiglu_limit": limit}
        return recipe, GptOssMLP(GptOssConfig(num_experts_per_tok=3, **local))
    if family == "Llama 4":
        k = 2 if kind else 1
        recipe = MIXTURE.but(
            router=part(SigmoidRouter, top_k=k, normalise=False),
            experts=part(ScaledInputExperts),
            shared=GATED,
        )
        return recipe, Llama4TextMoe(Llama4TextConfig(num_experts_per_tok=k, **local))
    if family == "Qwen2":
        recipe = MIXTURE.but(
            router=part(SoftmaxRouter, top_k=3, normalise=bool(kind)),
            shared=part(SigmoidGate, branch=GATED.but(hidden_dim=10)),
        )
        qwen = Qwen2MoeConfig(
            hidden_size=D,
            num_experts=E,
            num_experts_per_tok=3,
            norm_topk_prob=bool(kind),
            moe_intermediate_size=HIDDEN,
            shared_expert_intermediate_size=10,
        )
        return recipe, Qwen2MoeSparseMoeBlock(qwen)
    if family == "DeepSeek-V2":
        groups, top = (1, 1) if kind else (3, 2)
        recipe = MIXTURE.but(
            router=part(
                GroupedSoftmaxRouter,
                top_k=3,
                num_groups=groups,
                top_groups=top,
                scale=2.5,
            ),
            shared=GATED.but(hidden_dim=2 * HIDDEN),
        )
        deepseek = DeepseekV2Config(
            hidden_size=D,
            num_attention_heads=2,
            n_routed_experts=E,
            num_experts_per_tok=3,
            moe_intermediate_size=HIDDEN,
            n_shared_experts=2,
            topk_method="greedy" if kind else "group_limited_greedy",
            n_group=groups,
            topk_group=top,
            routed_scaling_factor=2.5,
        )
        return recipe, DeepseekV2Moe(deepseek)
    recipe = MIXTURE.but(router=part(SparseMixerRouter, jitter=0.5))
    return recipe, PhimoeSparseMoeBlock(PhimoeConfig(router_jitter_noise=0.5, **local))


RENAMED = {
    "Llama 4": {"shared_expert.": "shared_experts."},
    "Qwen2": {
        "shared_expert.": "shared_experts.branch.",
        "shared_expert_gate.": "shared_experts.gate.",
    },
}


def translated(family: str, state: State) -> State:
    """Bring Hugging Face's tensors, or their gradients, into our names and order."""

    def name(theirs: str) -> str:
        for old, new in RENAMED.get(family, {}).items():
            theirs = theirs.replace(old, new)
        return "router.weight" if theirs == "gate.weight" else theirs

    def stacked(theirs: str, value: Tensor) -> Tensor:
        if family not in {"gpt-oss", "Llama 4"} or not theirs.startswith("experts"):
            return value
        if family == "gpt-oss" and "gate_up" in theirs:  # the two come in turns
            value = torch.cat([value[..., ::2], value[..., 1::2]], -1)
        return value if "bias" in theirs else value.mT

    return {name(key): stacked(key, value) for key, value in state.items()}


# Some of Hugging Face's routers round to float32 whatever they are given.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=str
)
@pytest.mark.parametrize(
    "name",
    [
        "gpt-oss",
        "gpt-oss, other bounds",
        "Llama 4",
        "Llama 4, two experts",
        "Qwen2",
        "Qwen2, divided",
        "DeepSeek-V2",
        "DeepSeek-V2, Lite",
        "Phi-3.5",
    ],
)
def test_it_equals_hugging_face(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    recipe, theirs = ours_and_theirs(name)
    family = name.partition(", ")[0]
    theirs = drawn(theirs.to(torch.get_default_device(), dtype)).eval()
    ours = recipe.build(D).to(dtype).eval()
    buffers = dict(ours.named_buffers())  # a correction bias of 0, where there is one
    ours.load_state_dict(buffers | translated(family, theirs.state_dict()))
    # Large enough for gpt-oss's bounds to bind; no sigmoid rounds to 1 elsewhere.
    size = 2 if family == "gpt-oss" else 0.5
    x = (size * torch.randn(3, 7, D, dtype=dtype)).requires_grad_()
    out, expected = ours(x), theirs(x)
    expected = expected if isinstance(expected, Tensor) else expected[0].view_as(x)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    mine, others = (
        dict(zip(["x", *dict(m.named_parameters())], gradients(m, y, x), strict=True))
        for m, y in ((ours, out), (theirs, expected))
    )
    others = translated(family, others)
    assert set(mine) == set(others)
    for key, grad in others.items():
        assert grad.abs().max() > 0
        torch.testing.assert_close(mine[key], grad, rtol=tolerance, atol=10 * tolerance)


def test_bounds_bind_where_they_should() -> None:
    """Two experts with a hidden number each, by hand: the gate only from above."""
    experts = ClampedExperts(1, num_experts=2, hidden_dim=1).double()
    state = {
        "gate_up_proj": [[[1.0], [1.0]], [[2.0], [-1.0]]],
        "gate_up_proj_bias": [[0.5, -0.5], [0.0, 1.0]],
        "down_proj": [[[1.0]], [[3.0]]],
        "down_proj_bias": [[0.25], [-0.5]],
    }
    experts.load_state_dict({k: torch.tensor(v).double() for k, v in state.items()})
    x = torch.tensor([[20.0], [-20.0], [2.0]], dtype=torch.float64)
    chosen = torch.tensor([[0], [0], [1]])
    out = experts(x, chosen, torch.ones(3, 1, dtype=torch.float64))

    def gate(g: float) -> float:
        return g / (1 + math.exp(-1.702 * g))

    wanted = [8 * gate(7) + 0.25, -6 * gate(-19.5) + 0.25, 0 * gate(4) - 0.5]
    equal(out.flatten(), torch.tensor(wanted, dtype=torch.float64))


def test_a_weight_inside_is_not_a_weight_outside() -> None:
    inside = drawn(ScaledInputExperts(D, num_experts=E, hidden_dim=HIDDEN)).double()
    outside = GatedExperts(D, num_experts=E, hidden_dim=HIDDEN).double()
    outside.load_state_dict(inside.state_dict())
    x, chosen = randn64(5, D), torch.arange(5).unsqueeze(-1)
    one, half = (torch.full((5, 1), n, dtype=torch.float64) for n in (1.0, 0.5))
    equal(inside(x, chosen, one), outside(x, chosen, one))
    equal(inside(x, chosen, half), outside(x / 2, chosen, one))
    assert not torch.allclose(inside(x, chosen, half), outside(x, chosen, half))


@pytest.mark.parametrize("kind", [GatedExperts, ClampedExperts, ScaledInputExperts])
def test_nobody_is_the_number_of_experts(kind: type[nn.Module]) -> None:
    experts = kind(D, num_experts=E, hidden_dim=HIDDEN).double()
    x, weights = randn64(4, D), torch.ones(4, 2, dtype=torch.float64)
    chosen = torch.tensor([[0, E], [E, E], [E, 1], [2, 3]])
    out = experts(x, chosen, weights)
    assert (out[1] == 0).all()
    equal(out[:1], experts(x[:1], chosen[:1, :1], weights[:1, :1]))
    equal(out[2:3], experts(x[2:3], chosen[2:3, 1:], weights[:1, :1]))


@pytest.mark.parametrize("kind", [GatedExperts, ClampedExperts, ScaledInputExperts])
def test_weights_are_drawn_as_those_of_linear_layers(kind: type[nn.Module]) -> None:
    for name, p in kind(16, num_experts=50, hidden_dim=64).named_parameters():
        bound = (64 if "down" in name else 16) ** -0.5
        assert p.abs().max() <= bound
        assert p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_a_gate_opens_a_branch_by_one_number() -> None:
    gate = drawn(SigmoidGate(D, branch=part(FeedForward, hidden_dim=HIDDEN)).double())
    x = randn64(2, 5, D)
    with record(gate, "opening") as seen:
        out = gate(x)
    equal(seen["opening"], torch.sigmoid(x @ gate.gate.weight[0]).unsqueeze(-1))
    equal(out, seen["opening"] * gate.branch(x))
    assert [n for n, _ in gate.named_parameters()][:2] == [
        "gate.weight",
        "branch.up_proj.weight",
    ]


def test_a_group_is_judged_by_its_best() -> None:
    recipe = part(
        GroupedSoftmaxRouter,
        num_experts=8,
        top_k=3,
        num_groups=4,
        top_groups=2,
        scale=4,
    )
    router = drawn(recipe.build(D).double())
    x = randn64(50, D)
    scores = (x @ router.weight.T).softmax(-1)
    weights, chosen = router(x)
    for row, picked in zip(scores.tolist(), chosen.tolist(), strict=True):
        best = sorted(range(4), key=lambda g: -max(row[2 * g : 2 * g + 2]))[:2]
        allowed = sorted((e for e in range(8) if e // 2 in best), key=lambda e: -row[e])
        assert picked == allowed[:3]
    equal(weights, 4 * scores.gather(-1, chosen))
    free = recipe.but(top_groups=4).build(D).double()
    free.load_state_dict(router.state_dict())
    assert not torch.equal(free(x)[1], chosen)


def test_a_bias_of_the_router_is_added_to_its_logits() -> None:
    router, x = SoftmaxRouter(D, num_experts=E, bias=True).double(), randn64(9, D)
    assert router.bias is not None
    nn.init.normal_(router.bias)
    with record(router, "logits") as seen:
        router(x)
    equal(seen["logits"], x @ router.weight.T + router.bias)
    assert SoftmaxRouter(D).bias is None
    assert "bias" not in SoftmaxRouter(D).state_dict()


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("jitter", [0.01, 0.3])
def test_the_sparse_mixer_by_loops(top_k: int, jitter: float) -> None:
    recipe = part(SparseMixerRouter, num_experts=E, top_k=top_k, jitter=jitter)
    router = drawn(recipe.build(D).double())
    x = randn64(40, D)
    with record(router, "*") as seen:
        weights, chosen = router(x)
    equal(seen["scores"], (x @ router.weight.T).softmax(-1))
    rivals = 0
    logits = (x @ router.weight.T).tolist()
    for z, row, picked in zip(logits, weights.tolist(), chosen.tolist(), strict=True):
        left = [*range(E)]
        for weight, e in zip(row, picked, strict=True):
            assert e == max(left, key=lambda j: z[j])
            near = [
                j
                for j in left
                if (z[e] - z[j]) / max(abs(z[j]), z[e]) <= 2 * jitter or j == e
            ]
            rivals += len(near) > 1
            assert weight == pytest.approx(
                math.exp(z[e]) / sum(math.exp(z[j]) for j in near), rel=1e-12
            )
            left.remove(e)
    assert rivals or jitter == 0.01


def test_the_sparse_mixer_does_the_same_in_training_and_can_be_balanced() -> None:
    recipe = MIXTURE.but(router=part(SparseMixerRouter, jitter=0.3))
    moe: MixtureOfExperts = recipe.build(D)
    x = torch.randn(3, 5, D)
    assert torch.equal(moe.train()(x), moe.eval()(x))
    with record(moe, "*.scores") as seen:
        moe(x)
    load_balancing_loss(seen.values(), top_k=2).backward()
    grad = moe.router.get_parameter("weight").grad
    assert grad is not None
    assert grad.abs().max() > 0


def test_experts_of_your_own() -> None:
    class Same(nn.Module):
        """Experts that return the token."""

        def __init__(
            self, embed_dim: int, *, num_experts: int = 1, hidden_dim: int = 1
        ) -> None:
            super().__init__()
            self.sizes = embed_dim, num_experts, hidden_dim

        def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
            return x * (weights * (chosen < self.sizes[1])).sum(-1, keepdim=True)

    moe, x = MIXTURE.but(experts=part(Same)).build(D), torch.randn(3, D)
    assert moe.experts.sizes == (D, E, HIDDEN)
    torch.testing.assert_close(moe(x), x)


def test_they_print_their_sizes() -> None:
    experts = ClampedExperts(8, num_experts=4, hidden_dim=16)
    assert "4, 8, hidden_dim=16, limit=7.0, alpha=1.702" in repr(experts)
    sizes = "4, 8, hidden_dim=16, activation=silu"
    assert sizes in repr(ScaledInputExperts(8, num_experts=4, hidden_dim=16))
