"""Rotary positions and their scalings, sinusoids and learned positions."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.gpt_neox import modeling_gpt_neox as neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama

from tests import loops
from tests.helpers import drawn, equal, randn64
from tfdoc import (
    Causal,
    DynamicNTKScaling,
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    MultiHeadAttention,
    NTKScaling,
    RoPE,
    Scaling,
    Sinusoidal,
    YaRN,
    half_to_interleaved,
    interleaved_to_half,
)

SHORT = tuple(1 + i / 50 for i in range(32))
LONG = tuple(1 + i for i in range(32))
SCALINGS: list[Scaling] = [
    LinearScaling(4.0),
    NTKScaling(4.0),
    DynamicNTKScaling(2.0, original_length=64),
    YaRN(4.0, original_length=64),
    Llama3Scaling(8.0, original_length=64),
    LongRoPE(SHORT, LONG, original_length=64, factor=4.0),
]
each_scaling = pytest.mark.parametrize(
    "scaling", SCALINGS, ids=lambda s: type(s).__name__
)


def turned_by_llama(
    q: Tensor, **rope: Any
) -> tuple[Tensor, llama.LlamaRotaryEmbedding]:
    """Let Hugging Face's Llama turn queries at positions 0 to T - 1."""
    config = LlamaConfig(
        hidden_size=4 * q.shape[-1],
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": 10_000.0, **rope},
    )
    module = llama.LlamaRotaryEmbedding(config)
    at = torch.arange(q.shape[-2], device=q.device)[None]
    cos, sin = module.to(q.device)(q, at)
    return llama.apply_rotary_pos_emb(q, q, cos, sin)[0], module


PUBLISHED: list[tuple[Scaling | None, dict[str, Any]]] = [
    (None, {"rope_type": "default"}),
    (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
    (
        DynamicNTKScaling(2.0, original_length=64),
        {"rope_type": "dynamic", "factor": 2.0},
    ),
    *(
        (
            YaRN(4.0, original_length=64, **more),
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                **more,
            },
        )
        for more in (
            {},
            {"truncate": False},
            {"beta_fast": 8.0, "beta_slow": 2.0},
            {"attention_factor": 1.5},
            {"mscale": 0.7, "mscale_all_dim": 0.3},
            {"mscale": 1.0, "mscale_all_dim": 1.0},
        )
    ),
    (
        Llama3Scaling(8.0, 64, 1.0, 4.0),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    (
        LongRoPE(SHORT, LONG, original_length=64, factor=4.0),
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": list(SHORT),
            "long_factor": list(LONG),
            "original_max_position_embeddings": 64,
        },
    ),
]


@pytest.mark.parametrize(
    ("scaling", "theirs"),
    PUBLISHED,
    ids=lambda v: repr(v) if not isinstance(v, dict) else "",
)
@pytest.mark.parametrize("length", [40, 64, 65, 200])
def test_every_scaling_is_hugging_faces(
    scaling: Scaling | None, theirs: dict[str, Any], length: int
) -> None:
    q = torch.randn(2, 4, length, 64)
    expected, module = turned_by_llama(q, **theirs)
    rope = RoPE(scaling=scaling, layout="half")
    speeds = rope.frequencies(64, length=length)
    torch.testing.assert_close(speeds.float(), module.inv_freq, rtol=2e-6, atol=1e-9)
    amplitude = scaling.amplitude if scaling else 1.0
    assert math.isclose(amplitude, module.attention_scaling, rel_tol=1e-12)
    # Theirs computes angles in float32: at position 200 that is off by some 1e-5.
    torch.testing.assert_close(rope(q), expected, rtol=1e-4, atol=1e-4)
    near = slice(0, 8)
    torch.testing.assert_close(
        rope(q)[..., near, :], expected[..., near, :], rtol=5e-6, atol=5e-6
    )


def test_ntk_is_a_larger_base() -> None:
    d, factor = 64, 4.0
    larger = RoPE(base=10_000.0 * factor ** (d / (d - 2)))
    ntk = RoPE(scaling=NTKScaling(factor))
    equal(ntk.frequencies(d), larger.frequencies(d))
    grown = RoPE(scaling=DynamicNTKScaling(1.0, original_length=100))
    equal(grown.frequencies(d, length=400), ntk.frequencies(d))


def test_linear_scaling_divides_positions() -> None:
    at = torch.arange(10) * 4
    equal(RoPE(scaling=LinearScaling(4.0)).table(at, 64), RoPE().table(at // 4, 64))


@each_scaling
@given(shift=st.integers(0, 10_000), base=st.sampled_from([100.0, 10_000.0, 5e5]))
def test_scaled_rope_sees_distances_only(
    scaling: Scaling, shift: int, base: float
) -> None:
    rope = RoPE(base=base, scaling=scaling)
    q, k = randn64(2, 1, 1, 6, 64)
    # The last position decides which speeds a call gets: it stays, the others move.
    end = torch.tensor([20_000])
    at, moved = (torch.cat([torch.arange(5) + s, end]) for s in (0, shift))
    scores, shifted = ((rope(q, p) @ rope(k, p).mT)[..., :5, :5] for p in (at, moved))
    torch.testing.assert_close(scores, shifted, rtol=0, atol=1e-8)
    lengths = rope(q, moved).norm(dim=-1) / q.norm(dim=-1)
    equal(lengths, torch.full_like(lengths, scaling.amplitude))


@each_scaling
def test_no_scaling_speeds_a_pair_up(scaling: Scaling) -> None:
    plain, scaled = (
        RoPE().frequencies(64),
        RoPE(scaling=scaling).frequencies(64, length=512),
    )
    assert (scaled <= plain * (1 + 1e-12)).all()
    assert scaled[-1] < plain[-1]


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("rotary_dim", [None, 4])
def test_layouts_and_partial_turns_are_the_loop(
    layout: str, rotary_dim: int | None
) -> None:
    x, at = randn64(1, 1, 4, 8), [0, 1, 77, 131_072]
    out = RoPE(layout=layout, rotary_dim=rotary_dim)(x, torch.tensor(at))[0, 0]
    width = rotary_dim or 8
    rows = x[0, 0, :, :width]
    if layout == "half":  # to neighbours, turned there, and back
        order = torch.arange(width).view(2, -1).T.flatten()
        turned = loops.rope(rows[:, order], at, 10_000.0).to(x)[:, order.argsort()]
    else:
        turned = loops.rope(rows, at, 10_000.0).to(x)
    torch.testing.assert_close(out[:, :width], turned, rtol=0, atol=1e-10)
    assert torch.equal(out[:, width:], x[0, 0, :, width:])


@pytest.mark.parametrize("rotary_dim", [None, 16])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_move_between_layouts(rotary_dim: int | None, bias: bool) -> None:
    half = MultiHeadAttention(
        32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=24,
        bias=bias,
        rotary=RoPE(layout="half", rotary_dim=rotary_dim),
        mask=Causal(),
    ).double()
    interleaved = copy.deepcopy(half)
    interleaved.rotary = RoPE(rotary_dim=rotary_dim)
    x = randn64(2, 9, 32)
    assert not torch.allclose(half(x), interleaved(x), atol=1e-3)
    for name, heads in ("q_proj", 4), ("k_proj", 2):
        for p in getattr(interleaved, name).parameters():
            there = half_to_interleaved(p.data, heads, rotary_dim=rotary_dim)
            back = interleaved_to_half(there, heads, rotary_dim=rotary_dim)
            assert torch.equal(back, p.data)
            p.data = there
    equal(half(x), interleaved(x))


def test_partial_halves_are_those_of_gpt_neox() -> None:
    q, k = torch.randn(2, 1, 4, 10, 16)
    turns = RoPE().table(torch.arange(10), 4).to(torch.complex64)
    cos, sin = (t.repeat(1, 2)[None] for t in (turns.real, turns.imag))
    theirs = neox.apply_rotary_pos_emb(q, k, cos, sin)
    rope = RoPE(layout="half", rotary_dim=4)
    for ours, expected in zip((rope(q), rope(k)), theirs, strict=True):
        torch.testing.assert_close(ours, expected)


def test_partial_neighbours_are_those_of_gpt_j() -> None:
    q = torch.randn(1, 10, 4, 16)  # theirs has the heads last but one
    sin, cos = gptj.create_sinusoidal_positions(10, 8).to(q.device).chunk(2, -1)
    turned = gptj.apply_rotary_pos_emb(q[..., :8], sin[None], cos[None])
    ours = RoPE(rotary_dim=8)(q.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours[..., :8], turned)
    assert torch.equal(ours[..., 8:], q[..., 8:])


@each_scaling
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_angles_are_exact_at_131072_whatever_the_dtype(
    scaling: Scaling, dtype: torch.dtype, layout: str
) -> None:
    """East turned by the angle is (cos, sin): both within 1e-6, then rounded once."""
    rope = RoPE(base=5e5, scaling=scaling, layout=layout)
    at = torch.tensor([131_072])
    speeds = rope.frequencies(64, length=131_073).tolist()
    cosines = torch.tensor([math.cos(131_072 * s) for s in speeds], dtype=torch.float64)
    assert (rope.table(at, 64).real / scaling.amplitude - cosines).abs().max() <= 1e-9
    x = torch.zeros(1, 1, 1, 64, dtype=dtype)
    east = slice(0, 32) if layout == "half" else slice(0, 64, 2)
    x[..., east] = 1
    for place in (at, 131_072):
        out = rope(x, place)[0, 0, 0, east]
        assert out.dtype is dtype
        error = (out.double() - cosines * scaling.amplitude).abs().max()
        assert error <= (1e-6 if dtype is torch.float32 else torch.finfo(dtype).eps)


def test_a_model_in_bfloat16_keeps_exact_angles() -> None:
    attention = MultiHeadAttention(32, num_heads=2, rotary=RoPE()).bfloat16()
    assert attention.rotary is not None
    table = attention.rotary.table(torch.tensor([131_072]), 16)
    assert table.dtype is torch.complex128
    assert abs(table[0, 0].item().real - math.cos(131_072)) <= 1e-6
    assert not [*attention.buffers()]
    assert attention(torch.randn(1, 3, 32).bfloat16()).dtype is torch.bfloat16


# Kept tables.


@pytest.mark.parametrize("scaling", [None, *SCALINGS], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("start", [0, 100])
def test_a_kept_table_is_the_one_of_the_positions(
    scaling: Scaling | None, start: int
) -> None:
    rope, x = RoPE(base=321.0, scaling=scaling), torch.randn(2, 3, 7, 64)
    expected = rope(x, torch.arange(7) + start)
    for _ in range(2):
        assert torch.equal(rope(x, start), expected)
    assert torch.equal(
        rope(x.double(), start).float(),
        rope(x.double(), torch.arange(7) + start).float(),
    )


def test_a_table_made_in_inference_or_a_transform_serves_training() -> None:
    rope = RoPE(base=123.0)
    x = torch.randn(1, 1, 5, 8, requires_grad=True)
    with torch.inference_mode():
        rope(x.detach().clone())
    rope(x).sum().backward()
    other = RoPE(base=124.0)
    inner = torch.func.grad(lambda t: other(t).sum())
    assert inner(x.detach()).isfinite().all()
    assert torch.func.vmap(other)(torch.randn(3, 1, 1, 5, 8)).shape == (3, 1, 1, 5, 8)
    other(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("scaling", [None, *SCALINGS], ids=lambda s: type(s).__name__)
def test_meta_pickle_and_deepcopy_lose_nothing(scaling: Scaling | None) -> None:
    rope = RoPE(scaling=scaling, layout="half", rotary_dim=64)
    assert pickle.loads(pickle.dumps(rope)) == copy.deepcopy(rope) == rope  # noqa: S301
    assert hash(copy.deepcopy(rope)) == hash(rope)
    with torch.device("meta"):
        model = MultiHeadAttention(128, num_heads=2, rotary=rope, mask=Causal())
        assert model(torch.empty(1, 5, 128)).shape == (1, 5, 128)
        assert model(torch.empty(1, 5, 128), positions=torch.arange(5)).is_meta
    here = torch.get_default_device()
    model = drawn(model.to_empty(device=here))
    x = torch.randn(1, 5, 128)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert torch.equal(model(x), again(x))


@pytest.mark.compiles
@pytest.mark.parametrize("scaling", [None, *SCALINGS], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_export_and_compile_change_nothing(
    scaling: Scaling | None, layout: str
) -> None:
    rope = RoPE(scaling=scaling, layout=layout)
    model = MultiHeadAttention(128, num_heads=2, rotary=rope, mask=Causal())
    x = torch.randn(2, 100, 128)
    expected = model(x)
    torch.compiler.reset()  # dynamo counts recompilations over all tests
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    tokens = torch.export.Dim("tokens", min=2, max=4096)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {1: tokens}})
    for length in (100, 30):
        torch.testing.assert_close(
            program.module()(x[:, :length]), model(x[:, :length]), rtol=1e-4, atol=1e-5
        )


def test_rope_prints_what_differs() -> None:
    assert repr(RoPE()) == "RoPE(base=10000.0)"
    shown = repr(RoPE(base=500.0, scaling=LinearScaling(2.0), layout="half"))
    assert shown == "RoPE(base=500.0, scaling=LinearScaling(factor=2.0), layout='half')"


# Added to embeddings.


def test_sinusoidal_is_the_loop() -> None:
    at = [0, 1, 500, 131_072]
    expected = torch.tensor(
        [
            [
                (math.cos if i % 2 else math.sin)(p / 10_000 ** ((i - i % 2) / 6))
                for i in range(6)
            ]
            for p in at
        ],
        dtype=torch.float64,
    )
    x = randn64(2, 4, 6)
    out = Sinusoidal(6)(x, torch.tensor(at))
    torch.testing.assert_close(out, x + expected, rtol=0, atol=1e-9)
    low = Sinusoidal(6).bfloat16().table(torch.tensor(at))
    torch.testing.assert_close(low, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "module", [Sinusoidal(8), LearnedPositions(8, max_positions=64)], ids=str
)
def test_positions_are_given_in_three_ways(module: nn.Module) -> None:
    module = module.to(torch.get_default_device())
    x = torch.randn(2, 5, 8)
    whole = module(x.new_zeros(1, 64, 8))[0]
    torch.testing.assert_close(module(x), x + whole[:5])
    torch.testing.assert_close(module(x, 7), x + whole[7:12])
    rows = torch.tensor([[0, 1, 2, 3, 4], [9, 9, 9, 9, 9]])
    torch.testing.assert_close(module(x, rows), x + whole[rows])
    torch.compiler.reset()  # dynamo counts recompilations over all tests
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, rows), module(x, rows))
    meta = copy.deepcopy(module).to("meta")
    assert meta(x.to("meta"), rows.to("meta")).shape == x.shape


def test_learned_positions_are_a_table() -> None:
    module = LearnedPositions(8, max_positions=64)
    assert {k: tuple(p.shape) for k, p in module.state_dict().items()} == {
        "weight": (64, 8)
    }
    module(torch.zeros(1, 3, 8), 2).sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.sum(1).nonzero().flatten().tolist() == [2, 3, 4]
