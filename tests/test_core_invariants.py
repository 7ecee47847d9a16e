"""What holds for every core and every path it takes, exact and fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma2Config, GptOssConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention

from tests import loops
from tests.helpers import drawn, equal, randn64
from tfdoc import (
    ALiBi,
    BlockCausal,
    Causal,
    Chunked,
    DotProductCore,
    Mask,
    MultiHeadAttention,
    Prefix,
    RoPE,
    SinkCore,
    SoftcapCore,
    Window,
    attention,
    fused_attention,
    part,
    record,
)

CORES: dict[str, Callable[[], DotProductCore]] = {
    "plain": DotProductCore,
    "scaled": lambda: DotProductCore(scale=0.3),
    "capped": lambda: SoftcapCore(cap=2.0),
    "sink": lambda: drawn(SinkCore(num_heads=4)).double(),
}
MASKS: list[Mask | None] = [
    None,
    Causal(),
    Causal() & Window(3),
    Window(2),
    Causal() & Chunked(3),
    BlockCausal(2),
    Causal() | Prefix(2),
    Causal() & (Window(2) | Prefix(1)),
]
EACH_MASK = pytest.mark.parametrize("mask", MASKS, ids=str)


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> DotProductCore:
    return CORES[request.param]()


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.size = max([self.size, *(x.numel() for x in tensors)])
        return out


def exactly(core: DotProductCore, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Return result and weights of the exact path."""
    with record(core, "weights") as seen:
        out = core(*args, **kwargs)
    return out, seen["weights"]


def qkv(tokens: int = 6, keys: int = 6, groups: int = 2) -> tuple[Tensor, ...]:
    return (
        randn64(2, 4, tokens, 8),
        randn64(2, groups, keys, 8),
        randn64(2, groups, keys, 5),
    )


@EACH_MASK
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_with_the_same_predicate(mask: Mask | None) -> None:
    q, k, v = qkv()
    pairs = None
    if mask is not None:  # torch gives it single positions instead of a grid
        pairs = create_block_mask(
            lambda _b, _h, query, key: mask.allows(query, key),
            *(None, None, 6, 6),
            device=q.device.type,
        )
    v = F.pad(v, (0, 3))
    flex = flex_attention(q, k, v, block_mask=pairs, enable_gqa=True)
    equal(flex, fused_attention(q, k, v, mask), 1e-6)
    equal(flex, attention(q, k, v, mask), 1e-6)


@EACH_MASK
@pytest.mark.parametrize("tokens", [1, 2, 6])
@pytest.mark.parametrize("biased", [False, True])
def test_exact_is_fused_with_gradients(
    core: DotProductCore, mask: Mask | None, tokens: int, biased: bool
) -> None:
    inputs = [x.requires_grad_() for x in qkv(tokens)]
    bias = ALiBi(4) if biased else None
    exact, _ = exactly(core, *inputs, mask, bias=bias)
    fused = core(*inputs, mask, bias=bias)
    equal(fused, exact)
    readout = torch.randn_like(exact)
    wanted = [*inputs, *core.parameters()]
    for a, b in zip(
        torch.autograd.grad(exact, wanted, readout),
        torch.autograd.grad(fused, wanted, readout),
        strict=True,
    ):
        equal(a, b)


@EACH_MASK
@pytest.mark.parametrize("tokens", [1, 6])
def test_a_bool_mask_is_a_bias_of_minus_infinity(
    core: DotProductCore, mask: Mask | None, tokens: int
) -> None:
    inputs = [x.requires_grad_() for x in qkv(tokens)]
    whole = torch.ones(6, 6, dtype=torch.bool) if mask is None else mask.table(6)
    allowed = whole[6 - tokens :]
    equal(core(*inputs, allowed), core(*inputs, mask))
    allowed[-1] = False  # a row that sees nothing
    bias = torch.zeros(tokens, 6, dtype=torch.float64)
    bias = bias.masked_fill(~allowed, -torch.inf)
    expected = core(*inputs, allowed)
    for out in (core(*inputs, bias=bias), exactly(core, *inputs, bias=bias)[0]):
        equal(out, expected)
        for grad in torch.autograd.grad(out.sum(), inputs, retain_graph=True):
            assert grad.isfinite().all()


@EACH_MASK
@pytest.mark.parametrize("sink", [-torch.inf, -1e4, 1e4])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_a_sink_may_be_nothing_or_everything(
    dtype: torch.dtype, sink: float, mask: Mask | None
) -> None:
    core, inputs = SinkCore(num_heads=4).to(dtype), [x.to(dtype) for x in qkv()]
    with torch.no_grad():
        core.sinks.copy_(torch.full((4,), sink))
    out, (exact, _) = core(*inputs, mask), exactly(core, *inputs, mask)
    torch.testing.assert_close(out, exact, rtol=1e-2, atol=1e-2)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype, 2e-2)
    expected = DotProductCore()(*inputs, mask) if sink < 0 else torch.zeros_like(out)
    equal(out, expected, tolerance)


def test_grouped_is_repeated(core: DotProductCore) -> None:
    for tokens in (1, 6):
        q, k, v = qkv(tokens)
        repeated = core(
            q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), Causal()
        )
        equal(core(q, k, v, Causal()), repeated)


def test_weights_sum_to_one_or_less_with_a_sink(core: DotProductCore) -> None:
    _, weights = exactly(core, *qkv(), Causal())
    total = weights.sum(-1)
    if isinstance(core, SinkCore):
        assert (total < 1).all()
        assert (total > 0).all()
    else:
        equal(total, torch.ones_like(total))
    assert not weights[..., ~Causal().table(6)].any()


def test_it_is_linear_in_the_values(core: DotProductCore) -> None:
    q, k, v = qkv()
    other = torch.randn_like(v)
    equal(
        core(q, k, 2 * v + 3 * other, Causal()),
        2 * core(q, k, v, Causal()) + 3 * core(q, k, other, Causal()),
    )


def test_order_of_keys_means_nothing(core: DotProductCore) -> None:
    q, k, v = qkv()
    order = torch.randperm(6)
    equal(core(q, k[:, :, order], v[:, :, order]), core(q, k, v))
    equal(core(q[:, :, order], k, v), core(q, k, v)[:, :, order])


def test_a_row_that_sees_nothing_is_zero_with_finite_gradients(
    core: DotProductCore,
) -> None:
    allowed = Causal().table(6)
    allowed[2] = False
    for training in (False, True):
        core.train(training)
        core.dropout = 0.5
        for watched in (False, True):
            inputs = [x.requires_grad_() for x in qkv()]
            out = (
                exactly(core, *inputs, allowed)[0]
                if watched
                else core(*inputs, allowed)
            )
            assert not out[:, :, 2].any()
            wanted = [*inputs, *core.parameters()]
            for g in torch.autograd.grad(out.square().sum(), wanted):
                assert g.isfinite().all()


def test_a_broken_sample_leaves_the_others_bitwise_equal(core: DotProductCore) -> None:
    for mask in MASKS:
        q, k, v = qkv()
        whole = core(q, k, v, mask)
        k[1, 0, 3], v[1, 1, 2] = float("nan"), float("nan")
        assert torch.equal(core(q, k, v, mask)[0], whole[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_is_within_twice_that_of_plain_maths(
    core: DotProductCore, dtype: torch.dtype
) -> None:
    q, k, v = randn64(2, 4, 64, 32), randn64(2, 4, 64, 32), randn64(2, 4, 64, 32)
    exact, _ = exactly(core, q, k, v, Causal())
    low = [x.to(dtype) for x in (q, k, v)]
    core.to(dtype)
    plain, _ = exactly(core, *low, Causal())
    fused = core(*low, Causal())
    assert fused.dtype is dtype
    worst = (plain - exact).norm()
    assert (fused - exact).norm() <= 2 * worst


@EACH_MASK
def test_strided_is_contiguous(core: DotProductCore, mask: Mask | None) -> None:
    q = randn64(2, 6, 4, 8).transpose(1, 2)
    k, v = (randn64(2, 6, 2, 16).transpose(1, 2)[..., ::2] for _ in range(2))
    assert not q.is_contiguous()
    dense = [x.contiguous() for x in (q, k, v)]
    equal(core(q, k, v, mask), core(*dense, mask))
    equal(core(q[:, :, -1:], k, v, mask), core(dense[0][:, :, -1:], *dense[1:], mask))


def test_large_scores_in_half_precision_stay_finite(core: DotProductCore) -> None:
    core.half()
    x = (torch.randn(1, 4, 8, 64) * 30).half()
    for out in (core(x, x, x, Causal()), exactly(core, x, x, x, Causal())[0]):
        assert out.dtype is torch.float16
        assert out.isfinite().all()


def test_nothing_and_a_single_token(core: DotProductCore) -> None:
    for batch, tokens in ((0, 3), (2, 1), (2, 0)):
        q = randn64(batch, 4, tokens, 8)
        k, v = randn64(batch, 2, tokens, 8), randn64(batch, 2, tokens, 5)
        for mask in MASKS:
            assert core(q, k, v, mask).shape == (batch, 4, tokens, 5)


def test_a_window_of_everything_is_causal_and_of_one_is_itself(
    core: DotProductCore,
) -> None:
    q, k, v = qkv()
    for size in (6, 7, 100):
        equal(core(q, k, v, Causal() & Window(size)), core(q, k, v, Causal()))
    alone = core(q, k, v, Causal() & Window(1))
    if isinstance(core, SinkCore):
        alone = (
            alone / exactly(core, q, k, v, Causal() & Window(1))[1].sum(-1)[..., None]
        )
    equal(alone, v.repeat_interleave(2, 1))


def test_gradcheck(core: DotProductCore) -> None:
    inputs = [x.requires_grad_() for x in (randn64(1, 4, 3, 2), randn64(1, 2, 3, 2))]
    value = randn64(1, 2, 3, 2).requires_grad_()
    torch.autograd.gradcheck(lambda q, k, v: core(q, k, v, Causal()), (*inputs, value))


@pytest.mark.compiles
@EACH_MASK
def test_compiled_and_exported(core: DotProductCore, mask: Mask | None) -> None:
    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = core

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = self.core(q, k, v, mask)
            return out

    torch._dynamo.reset()
    inputs, call = qkv(), Call()
    expected = core(*inputs, mask)
    equal(torch.compile(call, fullgraph=True, backend="aot_eager")(*inputs), expected)
    equal(torch.export.export(call, inputs).module()(*inputs), expected)


@given(
    tokens=st.integers(1, 400),
    more=st.integers(0, 300),
    back=st.integers(1, 200),
    both_sides=st.booleans(),
)
def test_a_band_in_blocks_is_the_band(
    tokens: int, more: int, back: int, both_sides: bool
) -> None:
    mask = Window(back) if both_sides else Causal() & Window(back)
    q = torch.randn(1, 2, tokens, 4, dtype=torch.float64, device="cpu")
    k = torch.randn(1, 1, tokens + more, 4, dtype=torch.float64, device="cpu")
    equal(fused_attention(q, k, k, mask), attention(q, k, k, mask))
    sink = drawn(SinkCore(num_heads=2)).double().cpu()
    equal(sink(q, k, k, mask), exactly(sink, q, k, k, mask)[0])


@pytest.mark.parametrize("mask", [None, Causal(), Causal() & Window(9)], ids=str)
@pytest.mark.parametrize("value", [2, 8, 40], ids="values of {}".format)
def test_a_sink_holds_no_matrix(mask: Mask | None, value: int) -> None:
    core, T = drawn(SinkCore(num_heads=4)).cpu(), 300  # a GPU chooses among kernels
    shapes = ((4, 8), (2, 8), (2, value))
    inputs = [torch.randn(2, n, T, width, device="cpu") for n, width in shapes]
    with Largest() as largest:  # type: ignore[no-untyped-call]
        out = core(*inputs, mask)
    torch.testing.assert_close(
        out, exactly(core, *inputs, mask)[0], rtol=1e-4, atol=1e-5
    )
    if value <= 16:  # else torch has no kernel for it
        assert largest.size < T * T


def test_a_band_is_how_far_back_and_ahead() -> None:
    inf = float("inf")
    assert Causal().band() == (inf, 0)
    assert Window(4).band() == (3, 3)
    assert (Causal() & Window(4)).band() == (3, 0)
    assert (Window(9) & Window(4)).band() == (3, 3)
    for mask in (~Causal(), Causal() | Window(2), Chunked(2), Causal() & Prefix(2)):
        assert mask.band() is None


@pytest.mark.parametrize("cap", [0.5, 3.0])
def test_a_cap_by_hand(cap: float) -> None:
    q, k, v = randn64(3, 5), randn64(4, 5), randn64(4, 2)
    scores = q @ k.T / 5**0.5
    equal(SoftcapCore(cap=cap)(q, k, v), (cap * (scores / cap).tanh()).softmax(-1) @ v)
    equal(SoftcapCore(cap=1e6)(q, k, v), loops.attention(q, k, v), 1e-9)


def test_a_sink_by_hand() -> None:
    core = drawn(SinkCore(num_heads=2)).double()
    q, k, v = randn64(1, 2, 3, 5), randn64(1, 2, 4, 5), randn64(1, 2, 4, 2)
    powers = (q @ k.mT / 5**0.5).exp()
    total = powers.sum(-1, keepdim=True) + core.sinks.exp()[:, None, None]
    equal(core(q, k, v), powers / total @ v)
    with torch.no_grad():
        core.sinks.fill_(-1e9)
    equal(core(q, k, v), attention(q, k, v))


def rotation(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    turns = RoPE(base=10_000.0).table(torch.arange(x.shape[1]), layer.head_dim)
    full = turns.repeat(1, 2)[None].to(torch.complex64)
    return full.real, full.imag


def additive(mask: Mask, tokens: int) -> Tensor:
    hidden = ~mask.table(tokens)[None, None]
    return torch.zeros(1, 1, tokens, tokens).masked_fill(hidden, -torch.inf)


def test_gpt_oss_has_sinks() -> None:
    config = GptOssConfig(  # type: ignore[call-arg]
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=2,
        attn_implementation="eager",
    )
    theirs = drawn(GptOssAttention(config, 1)).eval()
    ours = MultiHeadAttention(
        32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        core=part(SinkCore),
        mask=Causal(),
        rotary=RoPE(layout="half"),
    )
    weights = dict(theirs.state_dict())
    weights["core.sinks"] = weights.pop("sinks")
    ours.load_state_dict(weights)
    x = torch.randn(2, 7, 32)
    turns = tuple(t[..., :4] for t in rotation(theirs, x))  # half of each pair there
    expected = theirs(x, turns, attention_mask=additive(Causal(), 7))[0]
    equal(ours(x), expected, 1e-5)


def test_gemma_2_has_caps() -> None:
    config = Gemma2Config(  # type: ignore[call-arg]
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=2,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=1.5,
        sliding_window=3,
        attn_implementation="eager",
    )
    theirs = drawn(Gemma2Attention(config, 0)).eval()
    window = Causal() & Window(3)
    ours = MultiHeadAttention(
        32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        bias=False,
        core=part(SoftcapCore, cap=1.5, scale=20**-0.5),
        mask=window,
        rotary=RoPE(layout="half"),
    )
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 32)
    out = theirs(
        x, position_embeddings=rotation(theirs, x), attention_mask=additive(window, 7)
    )[0]
    equal(ours(x), out, 1e-5)


def peak(run: Callable[[], Tensor]) -> int:
    """Return the most bytes that a call holds at once, its result included."""
    kind = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind], profile_memory=True) as seen:
        run()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_memory_of_causal_attention_grows_with_the_length() -> None:
    if torch.get_default_device().type != "cpu":
        pytest.skip("allocations of the CPU are counted")
    used = {}
    for tokens in (2048, 4096, 8192):
        x = torch.randn(1, 4, tokens, 64)
        used[tokens] = peak(lambda x=x: fused_attention(x, x, x, Causal()))  # type: ignore[misc]
        band = peak(lambda x=x: fused_attention(x, x, x, Causal() & Window(256)))  # type: ignore[misc]
        assert band < 3 * x.nbytes
    assert used[8192] <= 12e6
    assert used[8192] < 2.2 * used[4096] < 2.2**2 * used[2048]


def test_what_has_no_place_is_refused() -> None:
    q, k = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 3, 4)
    for form in (attention, fused_attention):
        with pytest.raises(
            ValueError, match="the last of the keys, got 5 queries and 3"
        ):
            form(q, k, k, Causal())
        equal(form(q, k, k), F.scaled_dot_product_attention(q, k, k), 1e-6)
    with pytest.raises(ValueError, match=r"num_heads=1 sinks, got queries of shape"):
        SinkCore()(q, q, q)
    for cap in (0, -1.0):
        with pytest.raises(ValueError, match=f"cap must be above 0, got {cap}"):
            SoftcapCore(cap=cap)
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        DotProductCore(scale=0)
    for mask, name in ((Chunked, "size"), (BlockCausal, "size"), (Prefix, "length")):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            mask(0)
