"""Latent attention: two forms, Hugging Face's numbers, and a cache of latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV2Config, DeepseekV3Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import (
    DeepseekV2Attention,
    DeepseekV2RotaryEmbedding,
)
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3RotaryEmbedding,
)

from tests.helpers import drawn, equal, randn64
from tfdoc import (
    ALiBi,
    Causal,
    Decoder,
    FeedForward,
    GatedFeedForward,
    GrowingCache,
    LatentAttention,
    MixtureOfExperts,
    PreallocatedCache,
    PreNormBlock,
    RMSNorm,
    RoPE,
    SigmoidRouter,
    SinkCore,
    SlidingCache,
    SoftcapCore,
    Window,
    generate,
    ledger,
    part,
    record,
)

D, H, R = 32, 4, 12
WIDTHS = (8, 4, 6)


def latent(**settings: Any) -> LatentAttention:
    given = {"num_heads": H, "head_dim": WIDTHS, "kv_rank": R, "mask": Causal()}
    return drawn(LatentAttention(D, **{**given, **settings})).double().eval()


SETTINGS: list[dict[str, Any]] = [
    {},
    {"query_rank": 10},
    {"rotary": None, "mask": None},
    {"mask": Causal() & Window(3)},
    {"core": part(SoftcapCore, cap=3.0)},
    {"core": part(SinkCore)},
]
EACH = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def both_forms(
    model: LatentAttention, monkeypatch: pytest.MonkeyPatch, x: Tensor, **call: Any
) -> list[Tensor]:
    out = []
    for absorbs in (True, False):
        monkeypatch.setattr(model, "_absorbs", lambda *_, absorbs=absorbs: absorbs)
        out.append(model(x, **call))
    return out


@EACH
def test_absorbed_is_expanded(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = latent(**settings), randn64(2, 7, D).requires_grad_()
    absorbed, expanded = both_forms(model, monkeypatch, x)
    equal(absorbed, expanded)
    readout = torch.randn_like(absorbed)
    wanted = [x, *model.parameters()]
    for a, b in zip(
        torch.autograd.grad(absorbed, wanted, readout),
        torch.autograd.grad(expanded, wanted, readout),
        strict=True,
    ):
        equal(a, b, 1e-11)
    at = torch.tensor([[-1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, -1, -1]])
    table = torch.rand(2, 1, 7, 7) > 0.3
    for call in ({"positions": at, "mask": table}, {"position_bias": ALiBi(H)}):
        absorbed, expanded = both_forms(model, monkeypatch, x, **call)
        equal(absorbed, expanded)


@EACH
@pytest.mark.parametrize("cuts", [[9], [1] * 9, [4, 1, 1, 3]], ids=str)
def test_any_chunking_is_the_full_pass(
    settings: dict[str, Any], cuts: list[int]
) -> None:
    model, x = latent(**settings), randn64(2, 9, D)
    if model.mask is None:
        pytest.skip("without a mask the past sees the future")
    full = model(x)
    for cache in (GrowingCache(), PreallocatedCache(9), SlidingCache(9)):
        equal(torch.cat([model(c, cache=cache) for c in x.split(cuts, 1)], 1), full)


def test_one_query_is_absorbed_and_a_prompt_expanded() -> None:
    model = LatentAttention(64, num_heads=2, head_dim=(128, 64, 128), kv_rank=512)
    assert model._absorbs(1, 100)
    assert not model._absorbs(100, 100)
    with torch.device("meta"):
        wide = LatentAttention(64, num_heads=2, head_dim=(128, 64, 128), kv_rank=512)
    counts = {}
    for absorbs in (True, False):
        wide._absorbs = lambda *_, absorbs=absorbs: absorbs  # type: ignore[method-assign]
        for tokens in (1, 100):
            cache = GrowingCache()
            cache.update(
                torch.empty(1, 1, 100 - tokens, 512, device="meta"),
                torch.empty(1, 1, 100 - tokens, 64, device="meta"),
            )
            with FlopCounterMode(display=False) as flops:
                wide(torch.empty(1, tokens, 64, device="meta"), cache=cache)
            counts[absorbs, tokens] = flops.get_total_flops()
    assert counts[True, 1] < counts[False, 1] / 10
    assert counts[False, 100] < counts[True, 100]


def test_the_cache_is_the_ledger_s() -> None:
    book = ledger(
        {
            "model_type": "deepseek_v3",
            "num_hidden_layers": 1,
            "first_k_dense_replace": 1,
        }
    )
    config = DeepseekV3Config()
    value_dim = int(config.v_head_dim or 0)
    width = (config.qk_nope_head_dim, config.qk_rope_head_dim, value_dim)
    with torch.device("meta"):
        model = LatentAttention(
            config.hidden_size,
            num_heads=config.num_attention_heads,
            head_dim=width,
            kv_rank=config.kv_lora_rank,
            query_rank=config.q_lora_rank,
        ).bfloat16()
        cache = GrowingCache()
        model(torch.empty(2, 10, config.hidden_size, dtype=torch.bfloat16), cache=cache)
    per_token = config.kv_lora_rank + config.qk_rope_head_dim
    assert cache.nbytes == 2 * 10 * per_token * 2
    shapes = sorted(tuple(p.shape) for p in model.parameters())
    theirs = [e for e in book.entries if ".self_attn." in e.name]
    assert shapes == sorted(tuple(e.shape) for e in theirs)


@pytest.mark.parametrize("query_rank", [None, 10])
@pytest.mark.parametrize("version", [2, 3])
def test_it_is_hugging_face_s(query_rank: int | None, version: int) -> None:
    settings: dict[str, Any] = {
        "hidden_size": D,
        "num_attention_heads": H,
        "num_key_value_heads": H,
        "q_lora_rank": query_rank,
        "kv_lora_rank": R,
        "qk_nope_head_dim": WIDTHS[0],
        "qk_rope_head_dim": WIDTHS[1],
        "v_head_dim": WIDTHS[2],
        "attn_implementation": "eager",
    }
    two = version == 2
    config: Any = (DeepseekV2Config if two else DeepseekV3Config)(**settings)
    theirs: Any = (DeepseekV2Attention if two else DeepseekV3Attention)(config, 0)
    theirs = drawn(theirs).eval()
    x, at = torch.randn(2, 7, D), torch.arange(7)[None]
    turn: Any = (DeepseekV2RotaryEmbedding if two else DeepseekV3RotaryEmbedding)(
        config
    )
    hidden = ~Causal().table(7)[None, None]
    added = torch.zeros(1, 1, 7, 7).masked_fill(hidden, -torch.inf)
    expected = theirs(
        hidden_states=x, position_embeddings=turn(x, at), attention_mask=added
    )[0]
    eps = float(theirs.kv_a_layernorm.variance_epsilon)
    ours = LatentAttention(
        D,
        num_heads=H,
        head_dim=WIDTHS,
        kv_rank=R,
        query_rank=query_rank,
        mask=Causal(),
        norm=part(RMSNorm, eps=eps),
    )
    ours.load_state_dict(
        {
            name.replace("_with_mqa", "").replace("layernorm", "norm"): weight
            for name, weight in theirs.state_dict().items()
        }
    )
    equal(ours(x), expected, 2e-5)


def test_a_small_deepseek_is_the_ledger_s() -> None:
    config = DeepseekV3Config(
        vocab_size=50,
        hidden_size=D,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=H,
        num_key_value_heads=H,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=10,
        kv_lora_rank=R,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=6,
    )
    norm = part(RMSNorm, eps=1e-6)
    dense = part(
        PreNormBlock,
        attention=part(
            LatentAttention,
            num_heads=H,
            head_dim=WIDTHS,
            kv_rank=R,
            query_rank=10,
            mask=Causal(),
            norm=norm,
        ),
        feedforward=part(GatedFeedForward, hidden_dim=48),
        norm=norm,
    )
    sparse = dense.but(
        feedforward=part(
            MixtureOfExperts,
            num_experts=8,
            hidden_dim=16,
            router=part(SigmoidRouter, top_k=2, num_groups=2, top_groups=1),
            shared=part(GatedFeedForward, hidden_dim=16),
        )
    )
    model = Decoder(D, vocab_size=50, blocks=(dense, sparse, sparse), norm=norm)
    book = ledger(config.to_dict())
    assert sum(p.numel() for p in model.parameters()) == book.total
    tokens = torch.randint(50, (2, 5))
    model.eval()
    full = model(tokens)
    cache = model.new_cache()
    steps = torch.cat([model(t, cache=cache) for t in tokens.split(1, 1)], 1)
    equal(steps, full, 1e-5)
    assert cache.nbytes == 3 * 2 * 5 * (R + 4) * 4
    assert generate(model, tokens, max_new_tokens=3).shape == (2, 8)


def test_weights_can_be_watched() -> None:
    model, x = latent(), randn64(2, 5, D)
    with record(model, "*weights") as seen:
        out = model(x)
    weights = seen["core.weights"]
    equal(weights.sum(-1), torch.ones_like(weights[..., 0]))
    equal(out, model(x))


def test_gradcheck_compiled_exported_meta() -> None:
    model, x = latent(query_rank=10), randn64(2, 4, D)
    torch.autograd.gradcheck(model, x[:1, :2].clone().requires_grad_())
    torch._dynamo.reset()
    equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    equal(torch.export.export(model, (x,)).module()(x), model(x))
    for shape in ((0, 3, D), (2, 0, D), (1, 1, D)):
        assert model(torch.zeros(shape).double()).shape == shape


class _NoScale(FeedForward):
    """Something that takes no scale."""


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"head_dim": 8}, ValueError, r"head_dim must hold three widths .* got 8"),
        ({"head_dim": (8, 4)}, ValueError, r"three widths .* got \(8, 4\)"),
        ({"head_dim": (8, 3, 6)}, ValueError, "head_dim must be even, got 3"),
        ({"kv_rank": 0}, ValueError, "kv_rank must be at least 1, got 0"),
        ({"query_rank": 1.5}, TypeError, "query_rank must be a positive integer"),
        ({"mask": torch.ones(3, 3)}, TypeError, "mask must be a Mask such as Causal"),
        ({"rotary": 10_000}, TypeError, "rotary must be a RoPE"),
        ({"core": None}, TypeError, "core must be a part, got NoneType"),
        (
            {"core": part(_NoScale, hidden_dim=3)},
            TypeError,
            "core must take a scale, which _NoScale",
        ),
    ],
)
def test_bad_settings_are_refused(
    settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        latent(**settings)
    assert latent(rotary=RoPE(layout="half"))(randn64(1, 2, D)).shape == (1, 2, D)
