"""Mixtures of experts: against loops and Hugging Face, and what must hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    DeepseekV3Config,
    MixtralConfig,
    OlmoeConfig,
    Qwen3MoeConfig,
)
from transformers.activations import ACT2FN
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import (
    MixtralSparseMoeBlock,
    load_balancing_loss_func,
)
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from tests import loops
from tests.helpers import drawn, equal, gradients, randn64
from tfdoc import (
    ClampedExperts,
    Encoder,
    GatedExperts,
    GatedFeedForward,
    GroupedSoftmaxRouter,
    MixtureOfExperts,
    Part,
    PreNormBlock,
    ScaledInputExperts,
    SigmoidGate,
    SigmoidRouter,
    SoftmaxRouter,
    SparseMixerRouter,
    ledger,
    load_balancing_loss,
    part,
    record,
    rehearse,
    relu_squared,
    router_z_loss,
)
from tfdoc import MultiHeadAttention as Attention

D, E, HIDDEN = 8, 6, 12
ROUTERS: dict[str, Part[nn.Module]] = {
    "softmax": part(SoftmaxRouter, top_k=2),
    "as they are": part(SoftmaxRouter, top_k=3, normalise=False),
    "biased softmax": part(SoftmaxRouter, top_k=2, bias=True),
    "sigmoid": part(SigmoidRouter, top_k=2, scale=2.5),
    "bare sigmoid": part(SigmoidRouter, top_k=2, normalise=False),
    "groups": part(SigmoidRouter, top_k=2, num_groups=3, top_groups=2),
    "softmax in groups": part(
        GroupedSoftmaxRouter, top_k=2, num_groups=3, top_groups=2, scale=2.5
    ),
    "sparse mixer": part(SparseMixerRouter, jitter=0.3),
}
EXPERTS: dict[str, Part[nn.Module]] = {
    "gated": part(GatedExperts),
    # Small enough to bind.
    "clamped": part(ClampedExperts, limit=0.8, alpha=1.5),
    "scaled input": part(ScaledInputExperts),
}
# Every router with the usual experts, and all other experts with the usual router.
MIXTURES = {name: {"router": router} for name, router in ROUTERS.items()}
MIXTURES |= {name: {"experts": experts} for name, experts in EXPERTS.items()}
mixtures = pytest.mark.parametrize("settings", MIXTURES.values(), ids=MIXTURES.keys())
kinds = pytest.mark.parametrize("experts", EXPERTS.values(), ids=EXPERTS.keys())


def one_by_one(moe: MixtureOfExperts) -> loops.Visit:
    """Return the loop that does what the mixture's experts do."""
    experts: Any = moe.experts
    if isinstance(experts, ClampedExperts):
        return loops.clamped(experts, experts.limit, experts.alpha)
    scaled = isinstance(experts, ScaledInputExperts)
    return loops.scaled_input(experts) if scaled else loops.gated(experts)


def mixture(**settings: Any) -> MixtureOfExperts:
    """Return a small mixture of float64 with random weights and biases."""
    given: dict[str, Any] = {"num_experts": E, "hidden_dim": HIDDEN, **settings}
    moe = drawn(MixtureOfExperts(D, **given).double())
    for bias in moe.buffers():
        nn.init.normal_(bias, std=0.3)
    return moe


def routed(moe: MixtureOfExperts, x: Tensor, mask: Tensor | None = None) -> Any:
    """Run and return the output with everything that the probes saw."""
    with record(moe, "*") as seen:
        out = moe(x, mask)
    return out, seen


MASK = [[True, True, True, False, False], [True] * 5, [False, True, True, True, True]]


@mixtures
@pytest.mark.parametrize("capacity", [None, 0.5, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_loop(
    settings: dict[str, Any], capacity: float | None, masked: bool
) -> None:
    moe = mixture(**settings, capacity=capacity)
    x = randn64(3, 5, D, requires_grad=True)
    mask = torch.tensor(MASK) if masked else torch.ones(3, 5, dtype=torch.bool)
    out, seen = routed(moe, x, mask if masked else None)
    weights, chosen = moe.router(x.flatten(0, 1))
    lists = [
        c if real else []
        for c, real in zip(chosen.tolist(), mask.flatten().tolist(), strict=True)
    ]
    room = math.inf
    if capacity:
        room = math.ceil(capacity * chosen.shape[1] * int(mask.sum()) / E)
    visit = one_by_one(moe)
    loop = loops.mixture(x.flatten(0, 1), visit, weights, lists, room).view_as(x)
    equal(out, loop)
    for ours, theirs in zip(
        gradients(moe, out, x), gradients(moe, loop, x), strict=True
    ):
        equal(ours, theirs)
    asked = torch.tensor([sum(c.count(e) for c in lists) for e in range(E)])
    assert torch.equal(seen["load"], asked)
    assert seen["dropped"].sum() == (asked - room).clamp(min=0).sum()
    assert not seen["dropped"][~mask].any()
    assert seen["dropped"].any() or not capacity
    assert seen["router.scores"].shape == seen["router.logits"].shape == (3, 5, E)
    equal(seen["router.weights"].flatten(0, 1)[mask.flatten()], weights[mask.flatten()])


@mixtures
@pytest.mark.parametrize("hidden_dim", [12, 5], ids=["grouped", "looped"])
def test_grouped_and_looped_products_agree(
    settings: dict[str, Any], hidden_dim: int
) -> None:
    moe, x = mixture(**settings, hidden_dim=hidden_dim), randn64(4, 7, D)
    exact = moe(x)
    torch.testing.assert_close(
        moe.float()(x.float()).double(), exact, rtol=1e-4, atol=1e-5
    )
    half = moe.to(torch.bfloat16)
    assert half(x.bfloat16()).dtype is torch.bfloat16


@kinds
def test_automatic_precision_is_followed(experts: Part[nn.Module]) -> None:
    moe, x = mixture(experts=experts).float(), torch.randn(2, 5, D)
    with torch.autocast(x.device.type, torch.bfloat16):
        out = moe(x.bfloat16())
    out.float().sum().backward()
    assert moe.experts.down_proj.grad is not None
    torch.testing.assert_close(out.float(), moe(x), rtol=0.1, atol=0.5)


# Hugging Face's routers round to float32 whatever they are given.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=str
)
@pytest.mark.parametrize(
    "name", ["mixtral", "qwen3", "qwen3 as they are", "olmoe", "deepseek", "no groups"]
)
def test_it_equals_hugging_face(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    sizes: dict[str, Any] = {"hidden_size": D, "num_experts_per_tok": 3}
    sizes |= {"num_local_experts": E, "moe_intermediate_size": HIDDEN}
    softmax = part(SoftmaxRouter, top_k=3)
    plain = softmax.but(normalise=False)
    sigmoid = part(SigmoidRouter, top_k=3, scale=2.5)
    theirs: nn.Module
    router: Part[nn.Module]
    if name == "mixtral":
        router, config = softmax, MixtralConfig(intermediate_size=HIDDEN, **sizes)
        theirs = MixtralSparseMoeBlock(config)
    elif name.startswith("qwen3"):
        router = softmax if name == "qwen3" else plain
        theirs = Qwen3MoeSparseMoeBlock(
            Qwen3MoeConfig(norm_topk_prob=router == softmax, num_experts=E, **sizes)
        )
    elif name == "olmoe":
        router = plain
        theirs = OlmoeSparseMoeBlock(
            OlmoeConfig(intermediate_size=HIDDEN, num_experts=E, **sizes)
        )
    else:
        groups = 3 if name == "deepseek" else 1
        top = min(groups, 2)
        router = sigmoid.but(num_groups=groups, top_groups=top)
        theirs = DeepseekV3MoE(
            DeepseekV3Config(
                n_group=groups, topk_group=top, n_shared_experts=2, **sizes
            )
        )
    theirs = drawn(theirs.to(torch.get_default_device(), dtype))
    shared = part(GatedFeedForward, hidden_dim=2 * HIDDEN)
    ours = mixture(
        router=router, shared=shared if isinstance(theirs, DeepseekV3MoE) else None
    ).to(dtype)
    for bias in theirs.buffers():
        nn.init.normal_(bias, std=0.3)
    state = theirs.state_dict()
    ours.load_state_dict({n.replace("gate.", "router."): v for n, v in state.items()})
    x = torch.randn(3, 7, D, dtype=dtype, requires_grad=True)
    out, expected = ours(x), theirs(x)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    mine, others = (
        dict(zip(["x", *dict(m.named_parameters())], gradients(m, y, x), strict=True))
        for m, y in ((ours, out), (theirs, expected))
    )
    for name_, grad in others.items():
        wanted = mine[name_.replace("gate.", "router.")]
        torch.testing.assert_close(wanted, grad, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "olmoe-1b-7b", "deepseek-v3"])
def test_names_and_shapes_are_those_of_the_ledger(name: str) -> None:
    rows = {
        row.name.split(".mlp.")[1]: row.shape
        for row in ledger(name).entries
        if f"{row.stack}.{row.layer}.mlp." in row.name and row.layer == 5
    }
    E, D = rows["gate.weight"]
    hidden = rows["experts.down_proj"][-1]
    shared = rows.get("shared_experts.up_proj.weight")
    with torch.device("meta"):
        moe = MixtureOfExperts(
            D,
            num_experts=E,
            hidden_dim=hidden,
            shared=part(GatedFeedForward, hidden_dim=shared[0]) if shared else None,
        )
    ours = {
        n.replace("router.", "gate."): tuple(p.shape) for n, p in moe.named_parameters()
    }
    assert ours == rows


@pytest.mark.parametrize("masked", [False, True])
def test_the_balancing_loss_is_that_of_mixtral(masked: bool) -> None:
    logits: Any = tuple(torch.randn(3 * 5, E) for _ in range(2))
    mask = torch.tensor(MASK) if masked else None
    scores = [x.softmax(-1).view(3, 5, E) for x in logits]
    expected = load_balancing_loss_func(
        logits, E, 2, None if mask is None else mask.long()
    )
    torch.testing.assert_close(load_balancing_loss(scores, 2, mask=mask), expected)
    one = load_balancing_loss_func(logits[:1], E, 2)
    torch.testing.assert_close(load_balancing_loss(scores[0], 2), one)


def test_the_balancing_loss_reads_a_recording_and_has_a_gradient() -> None:
    moe = mixture()
    with record(moe, "*.scores") as seen:
        moe(randn64(3, 5, D))
    loss = load_balancing_loss(seen.values(), top_k=2)
    loss.backward()
    assert next(moe.router.parameters()).grad.abs().max() > 0  # type: ignore[union-attr]
    assert loss >= 1  # the share of one expert is at most 1


def test_the_z_loss_by_hand() -> None:
    logits = randn64(3, 5, E)
    mask = torch.tensor(MASK)
    squares = [
        math.log(sum(math.exp(z) for z in row)) ** 2 for row in logits[mask].tolist()
    ]
    equal(router_z_loss(logits, mask=mask).item(), sum(squares) / len(squares))


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS.keys())
@given(seed=st.integers(0, 1000), capacity=st.sampled_from([None, 0.3, 1.0]))
def test_each_token_gets_different_experts_and_no_expert_too_many(
    router: Part[nn.Module], seed: int, capacity: float | None
) -> None:
    torch.manual_seed(seed)
    moe = mixture(router=router, capacity=capacity)
    _, seen = routed(moe, randn64(11, D))
    chosen, dropped = seen["chosen"], seen["dropped"]
    assert all(len({*row}) == len(row) for row in chosen.tolist())
    served = chosen[~dropped].bincount(minlength=E)
    if capacity is None:
        assert not dropped.any()
    else:
        room = math.ceil(capacity * chosen.numel() / E)
        assert torch.equal(served, seen["load"].clamp(max=room))


@pytest.mark.parametrize("name", [n for n in MIXTURES if "groups" not in n])
@given(order=st.permutations(range(E)))
def test_new_numbers_for_the_experts_change_nothing(
    name: str, order: list[int]
) -> None:
    moe, x = mixture(**MIXTURES[name]), randn64(7, D)
    before = moe(x)
    for tensor in (*moe.parameters(), *moe.buffers()):
        tensor.data = tensor.data[order]
    equal(moe(x), before)


@kinds
@given(seed=st.integers(0, 1000), capacity=st.sampled_from([None, 0.5, 1.0]))
def test_padding_is_nothing(
    experts: Part[nn.Module], seed: int, capacity: float | None
) -> None:
    torch.manual_seed(seed)
    shared = part(GatedFeedForward, hidden_dim=4, bias=True)
    moe = mixture(experts=experts, capacity=capacity, shared=shared)
    x, mask = randn64(3, 5, D), torch.tensor(MASK)
    out = moe(x, mask)
    assert (out[~mask] == 0).all()
    for noise in (1e4, math.nan):
        assert torch.equal(moe(x.masked_fill(~mask[..., None], noise), mask), out)
    equal(moe(x[mask]), out[mask])  # as if it had never been there
    equal(moe(x, torch.ones_like(mask)), moe(x))


@kinds
def test_padding_has_no_gradient(experts: Part[nn.Module]) -> None:
    moe, mask = mixture(experts=experts, capacity=1.0), torch.tensor(MASK)
    x = randn64(3, 5, D).masked_fill(~mask[..., None], math.nan).requires_grad_()
    grads = gradients(moe, moe(x, mask), x)
    assert all(g.isfinite().all() for g in grads)
    assert (grads[0][~mask] == 0).all()


def test_later_tokens_take_no_place_of_earlier_ones() -> None:
    moe, x = mixture(capacity=0.5), randn64(12, D)
    changed = torch.cat([x[:8], randn64(4, D)])
    equal(moe(x)[:8], moe(changed)[:8])


@mixtures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_nan_stays_in_its_token(settings: dict[str, Any], dtype: torch.dtype) -> None:
    moe, x = mixture(**settings).to(dtype), torch.randn(3, 5, D, dtype=dtype)
    broken = x.clone()
    broken[1, 2] = math.nan
    before, after = moe(x), moe(broken)
    assert after[1, 2].isnan().all()
    after[1, 2] = before[1, 2]
    # It may go to other experts, and the kernels round by how many rows they get.
    rounding = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(before, after, rtol=rounding, atol=rounding)


class InTurn(nn.Module):
    """A router that does not look: experts 0 and 1, then 2 and 3, and so on."""

    def __init__(self, embed_dim: int, *, num_experts: int = E) -> None:
        super().__init__()
        self.num_experts = num_experts

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.arange(2 * len(x.flatten(0, -2))) % self.num_experts
        return x.new_full((*x.shape[:-1], 2), 0.5), count.view(*x.shape[:-1], 2)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_where_nobody_moves_every_bit_stays(
    experts: Part[nn.Module], dtype: torch.dtype
) -> None:
    moe = mixture(router=part(InTurn), experts=experts).to(dtype)
    x = torch.randn(3, 5, D, dtype=dtype)
    broken = x.clone()
    broken[1] = math.nan
    before, after = moe(x), moe(broken)
    assert after[1].isnan().all()
    assert torch.equal(before[::2], after[::2])


@kinds
def test_any_shape_and_none_at_all(experts: Part[nn.Module]) -> None:
    token = randn64(D)
    moe = mixture(experts=experts)
    equal(moe(token), moe(token[None, None])[0, 0])
    for capacity in (None, 1.0):
        moe = mixture(experts=experts, capacity=capacity)
        x = randn64(2, 3, 4, D)
        for empty in (x[:0], x[:, :0]):
            out = moe(empty.requires_grad_())
            out.sum().backward()
            assert out.shape == empty.shape
        assert moe(x, torch.zeros(2, 3, 4, dtype=torch.bool)).abs().sum() == 0


@kinds
def test_more_experts_than_tokens(experts: Part[nn.Module]) -> None:
    moe, x = mixture(num_experts=40, experts=experts), randn64(2, D)
    weights, chosen = moe.router(x)
    equal(moe(x), loops.mixture(x, one_by_one(moe), weights, chosen.tolist()))


@pytest.mark.compiles
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str
)
@pytest.mark.parametrize(
    ("experts", "capacity"),
    [(EXPERTS["gated"], None), *((kind, 0.5) for kind in EXPERTS.values())],
    ids=["no capacity", *EXPERTS],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole_it_is_the_same(
    experts: Part[nn.Module], dtype: torch.dtype, capacity: float | None
) -> None:
    torch.compiler.reset()
    moe = mixture(experts=experts, capacity=capacity).to(dtype)
    whole = torch.compile(moe, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, D, dtype=dtype, requires_grad=True)
    for mask in (None, torch.tensor(MASK)):
        out, expected = whole(x, mask), moe(x, mask)
        torch.testing.assert_close(out, expected)
        for g, other in zip(
            gradients(moe, out, x), gradients(moe, expected, x), strict=True
        ):
            torch.testing.assert_close(g, other)


@pytest.mark.compiles
@mixtures
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_exported_it_is_the_same(settings: dict[str, Any]) -> None:
    moe, x = mixture(**settings, capacity=0.5), randn64(3, 5, D)
    program = torch.export.export(moe, (x, torch.tensor(MASK)))
    equal(program.module()(-x, torch.tensor(MASK)), moe(-x, torch.tensor(MASK)))


@kinds
@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp"])
def test_a_rehearsal_counts_the_chosen_experts_only(
    experts: Part[nn.Module], precision: Any
) -> None:
    with torch.device("meta"):
        moe = MixtureOfExperts(16, num_experts=E, hidden_dim=32, experts=experts)
        x = torch.randn(2, 5, 16)
    assert moe(x).shape == x.shape
    done = rehearse(moe, x, loss=torch.sum, precision=precision)
    assert done.flops.forward == 2 * 10 * (E * 16 + 2 * 3 * 16 * 32)


def test_the_bias_chooses_and_does_not_weigh() -> None:
    router, x = SigmoidRouter(D, num_experts=E, top_k=2).double(), randn64(9, D)
    weights, chosen = router(x)
    router.e_score_correction_bias += 5  # for all alike
    equal(router(x)[0], weights)
    router.e_score_correction_bias[3] += 5
    favoured, now = router(x)
    assert (now == 3).any(-1).all()
    scores = (x @ router.weight.T).sigmoid().gather(-1, now)
    equal(favoured, scores / scores.sum(-1, keepdim=True))
    assert not torch.equal(chosen, now)


def test_the_bias_brings_balance() -> None:
    moe = mixture(router=part(SigmoidRouter, top_k=1))
    router = moe.router
    assert isinstance(router, SigmoidRouter)
    router.e_score_correction_bias.zero_()
    x = randn64(600, D) + 0.5
    loads = []
    for _ in range(200):
        with record(moe, "load") as seen:
            moe(x)
        loads.append(seen["load"])
        router.update_bias(seen["load"], rate=0.01)
    assert loads[0].max() > 1.6 * 600 / E
    assert loads[-1].max() < 1.3 * 600 / E


def test_groups_keep_to_the_best_groups() -> None:
    router = SigmoidRouter(
        D, num_experts=8, top_k=3, num_groups=4, top_groups=2
    ).double()
    nn.init.normal_(router.e_score_correction_bias)
    x = randn64(50, D)
    biased = (x @ router.weight.T).sigmoid() + router.e_score_correction_bias
    for row, chosen in zip(biased.tolist(), router(x)[1].tolist(), strict=True):
        best = sorted(range(4), key=lambda g: -row[2 * g] - row[2 * g + 1])[:2]
        allowed = sorted((e for e in range(8) if e // 2 in best), key=lambda e: -row[e])
        assert chosen == allowed[:3]


def test_it_prints_its_sizes() -> None:
    text = repr(MixtureOfExperts(8, num_experts=4, hidden_dim=16, capacity=1.5))
    assert "8, capacity=1.5" in text
    assert "8, num_experts=4, top_k=2" in text
    assert "4, 8, hidden_dim=16, activation=silu" in text


def test_it_stands_in_a_block() -> None:
    block = PreNormBlock(
        D,
        attention=part(Attention, num_heads=2),
        feedforward=part(MixtureOfExperts, num_experts=4, hidden_dim=HIDDEN),
    )
    with record(block, "*chosen") as seen:
        out = block(torch.randn(2, 5, D))
    assert out.shape == (2, 5, D)
    assert seen["feedforward.chosen"].shape == (2, 5, 2)


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_pytorch_tanh", "relu2", "silu"])
def test_every_activation_is_that_of_hugging_face(name: str) -> None:
    table: dict[str, Any] = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu2": relu_squared,
        "silu": F.silu,
    }
    ours = table[name]
    x = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    equal(ours(x), ACT2FN[name](x))
    # Gated by it: SwiGLU with SiLU, GeGLU with GELU, ReGLU with ReLU.
    one = part(SoftmaxRouter, top_k=1)
    experts = part(GatedExperts, activation=ours)
    moe, token = mixture(experts=experts, num_experts=1, router=one), randn64(5, D)
    gated = GatedFeedForward(D, hidden_dim=HIDDEN, activation=ours).double()
    gate_up = moe.experts.get_parameter("gate_up_proj")[0]
    down = moe.experts.get_parameter("down_proj")[0]
    gated.load_state_dict(
        {
            "gate_proj.weight": gate_up[:HIDDEN],
            "up_proj.weight": gate_up[HIDDEN:],
            "down_proj.weight": down,
        }
    )
    equal(moe(token), gated(token))
    gate, up = (token @ gate_up.T).chunk(2, -1)
    equal(gated(token), (ACT2FN[name](gate) * up) @ down.T)


def test_a_mask_of_real_tokens_only_leaves_the_capacity_as_it_is() -> None:
    """In double precision 0.6 times 25 is 15, in single a hair more."""
    router = part(SoftmaxRouter, top_k=6)
    moe = mixture(num_experts=10, router=router, capacity=1.0)
    x = randn64(1, 25, D)
    equal(moe(x, torch.ones(1, 25, dtype=torch.bool)), moe(x))


@pytest.mark.parametrize("kind", [SigmoidRouter, GroupedSoftmaxRouter])
def test_a_router_is_exact_under_autocast(kind: type[nn.Module]) -> None:
    router = part(kind, num_experts=8, num_groups=2, top_groups=1).build(D)
    x = torch.randn(3, 5, D)
    plain = router(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        for a, b in zip(router(x), plain, strict=True):
            assert torch.equal(a, b)


def test_a_gate_tells_its_branch_what_is_real() -> None:
    gate = part(SigmoidGate, branch=part(MixtureOfExperts, num_experts=4, hidden_dim=8))
    block = part(PreNormBlock, attention=part(Attention, num_heads=2), feedforward=gate)
    model, x = Encoder(D, blocks=(block,)).double(), randn64(2, 5, D)
    real = torch.arange(5) >= torch.tensor([[0], [2]])
    equal(model(x, real=real)[1, 2:], model(x[1:, 2:])[0])
