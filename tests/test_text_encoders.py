"""Encoders of tokens: BERT and its kin put together of parts, and what padding does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AlbertForMaskedLM,
    AlbertModel,
    BertForMaskedLM,
    BertModel,
    DistilBertForMaskedLM,
    ModernBertForMaskedLM,
    ModernBertModel,
    RobertaForMaskedLM,
    RobertaModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.helpers import drawn, equal
from tests.hugging_face import encoder_weights
from tfdoc import (
    Encoder,
    FactorisedEmbedding,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    LearnedPositions,
    MaskedHead,
    MultiHeadAttention,
    Part,
    Pooler,
    PostNormBlock,
    PreNormBlock,
    RepeatedBlock,
    RoPE,
    TextEncoder,
    TokenEmbedding,
    TokenTypes,
    Window,
    ledger,
    part,
    preset,
    preset_names,
)
from tfdoc._call import AttentionCall

Tensors = dict[str, Tensor]
Recipe = Callable[..., Part[TextEncoder]]

TANH_GELU = partial(F.gelu, approximate="tanh")


class FirstBlock(PreNormBlock):
    """ModernBERT's first: its attention reads embeddings that are normalised already."""

    _norms = (None, "ffn_norm")

    def forward(self, x: Tensor, **call: Unpack[AttentionCall]) -> Tensor:
        x = x + self._drop(self.attention(x, **call))
        return x + self._drop(self._feed(self.ffn_norm(x), call))


def encoder_layer(c: Any, norm: Part[nn.Module], activation: Any) -> Part[nn.Module]:
    ffn = part(FeedForward, hidden_dim=c.intermediate_size, activation=activation)
    heads = part(MultiHeadAttention, num_heads=c.num_attention_heads)
    return part(PostNormBlock, attention=heads, feedforward=ffn, norm=norm)


def embedding(c: Any, norm: Part[nn.Module], offset: int = 0) -> Part[TokenEmbedding]:
    places = c.max_position_embeddings - offset
    return part(
        TokenEmbedding,
        vocab_size=c.vocab_size,
        positions=part(LearnedPositions, max_positions=places, offset=offset),
        types=part(TokenTypes, num_types=c.type_vocab_size),
        norm=norm,
    )


def with_head(
    c: Any, kind: str | None, norm: Part[nn.Module], **settings: Any
) -> dict[str, Any]:
    """Return the head's settings of a recipe: none, BERT's pooler, or scores of tokens."""
    if kind == "masked":
        masked = part(MaskedHead, vocab_size=c.vocab_size, norm=norm, **settings)
        return {"head": masked, "tied": True}
    return {"head": part(Pooler)} if kind == "pooled" else {}


def bert(c: Any, head: str | None = None, offset: int = 0) -> Part[TextEncoder]:
    norm = part(LayerNorm, eps=c.layer_norm_eps)
    blocks = (encoder_layer(c, norm, F.gelu),) * c.num_hidden_layers
    return part(
        TextEncoder,
        embed=embedding(c, norm, offset),
        encoder=part(Encoder, blocks=blocks),
        **with_head(c, head, norm),
    )


def roberta(c: Any, head: str | None = None) -> Part[TextEncoder]:
    return bert(c, head, offset=c.pad_token_id + 1)


def distilbert(c: Any, head: str | None = None) -> Part[TextEncoder]:
    norm = part(LayerNorm, eps=1e-12)
    c.intermediate_size = c.hidden_dim
    return part(
        TextEncoder,
        embed=part(
            TokenEmbedding,
            vocab_size=c.vocab_size,
            positions=part(LearnedPositions, max_positions=c.max_position_embeddings),
            norm=norm,
        ),
        encoder=part(Encoder, blocks=(encoder_layer(c, norm, F.gelu),) * c.n_layers),
        **with_head(c, head, norm),
    )


def albert(c: Any, head: str | None = None) -> Part[TextEncoder]:
    norm = part(LayerNorm, eps=c.layer_norm_eps)
    block, groups = encoder_layer(c, norm, TANH_GELU), c.num_hidden_groups
    each = part(RepeatedBlock, block=block, times=c.num_hidden_layers // groups)
    narrow, rank = embedding(c, norm), c.embedding_size
    return part(
        TextEncoder,
        embed=part(FactorisedEmbedding, embed=narrow, rank=rank),
        encoder=part(Encoder, blocks=(each,) * groups),
        **with_head(c, head, norm, activation=TANH_GELU, rank=rank),
    )


def modernbert(c: Any, head: str | None = None) -> Part[TextEncoder]:
    norm = part(LayerNorm, bias=False)
    ffn = part(GatedFeedForward, hidden_dim=c.intermediate_size, activation=F.gelu)
    heads = part(MultiHeadAttention, num_heads=c.num_attention_heads, bias=False)

    def layer(number: int) -> Part[nn.Module]:
        local = number % 3 > 0
        attention = heads.but(
            mask=Window(c.local_attention // 2 + 1) if local else None,
            rotary=RoPE(base=10_000.0 if local else 160_000.0, layout="half"),
        )
        wiring = PreNormBlock if number else FirstBlock
        return part(wiring, attention=attention, feedforward=ffn, norm=norm)

    blocks = tuple(layer(number) for number in range(c.num_hidden_layers))
    return part(
        TextEncoder,
        embed=part(TokenEmbedding, vocab_size=c.vocab_size, norm=norm),
        encoder=part(Encoder, blocks=blocks, norm=norm),
        **with_head(c, head, norm, bias="out"),
    )


RECIPES: dict[str, Recipe] = {
    "bert": bert,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "distilbert": distilbert,
    "albert": albert,
    "modernbert": modernbert,
}

PUBLISHED = [n for n in preset_names() if preset(n)["model_type"] in RECIPES]
HEADS = {"Model": "pooled", "ForMaskedLM": "masked"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_their_weights_are_the_ledger_s(name: str) -> None:
    settings = preset(name)
    family, book = str(settings.pop("model_type")), ledger(name)
    config: Any = CONFIG_MAPPING[family](**settings)
    masked = book.architecture.endswith("ForMaskedLM")
    pooled = not masked and family not in ("distilbert", "modernbert")
    kind = "masked" if masked else "pooled" if pooled else None
    with torch.device("meta"):
        model = RECIPES[family](config, kind).build(book.sizes["D"])
        entries = {e.name: torch.empty(e.shape) for e in book.entries if not e.tied_to}
    ours = {key: list(value.shape) for key, value in model.named_parameters()}
    theirs = encoder_weights(family, entries)
    assert ours == {key: list(value.shape) for key, value in theirs.items()}
    assert sum(p.numel() for p in model.parameters()) == book.total


V, D, PAD = 23, 32, 1
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": D,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "max_position_embeddings": 34,
    "pad_token_id": PAD,
}
OWN: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "distilbert": {"dim": D, "n_heads": 4, "hidden_dim": 40, "n_layers": 3},
    "albert": {"embedding_size": 12, "num_hidden_groups": 2},
    "modernbert": {"local_attention": 4, "num_hidden_layers": 5},
}
THEIRS: dict[tuple[str, str | None], Any] = {
    ("bert", None): partial(BertModel, add_pooling_layer=False),
    ("bert", "pooled"): BertModel,
    ("bert", "masked"): BertForMaskedLM,
    ("roberta", None): partial(RobertaModel, add_pooling_layer=False),
    ("roberta", "pooled"): RobertaModel,
    ("roberta", "masked"): RobertaForMaskedLM,
    ("distilbert", "masked"): DistilBertForMaskedLM,
    ("albert", None): partial(AlbertModel, add_pooling_layer=False),
    ("albert", "pooled"): AlbertModel,
    ("albert", "masked"): AlbertForMaskedLM,
    ("modernbert", None): ModernBertModel,
    ("modernbert", "masked"): ModernBertForMaskedLM,
}
TYPED = ("bert", "albert")
LENGTHS = torch.tensor([[11], [6], [1]])


def pair(
    family: str, head: str | None, dtype: torch.dtype
) -> tuple[TextEncoder, nn.Module]:
    """Build ours and theirs with the same random weights."""
    sizes = SIZES | OWN.get(family, {})
    dim = {"hidden_size"} if family == "distilbert" else set()
    config: Any = CONFIG_MAPPING[family](
        **{key: value for key, value in sizes.items() if key not in dim}
    )
    config._attn_implementation = "sdpa"  # eager rounds to float32
    theirs = drawn(THEIRS[family, head](config)).to(dtype).eval()
    ours = RECIPES[family](config, head).build(D).to(dtype).eval()
    ours.load_state_dict(encoder_weights(family, dict(theirs.named_parameters())))
    return ours, theirs


def batch(family: str, left: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw tokens with padding on one side, which of them are real, and types."""
    at = torch.arange(11)
    real = (at >= 11 - LENGTHS) if left else (at < LENGTHS)
    tokens = torch.where(real, torch.randint(PAD + 1, V, (3, 11)), PAD)
    types = torch.randint(2, (3, 11)) if family in TYPED else None
    return tokens, real, types


def expected(
    theirs: nn.Module, tokens: Tensor, real: Tensor, types: Tensor | None
) -> Any:
    """Call theirs; only RoBERTa counts positions by itself."""
    inputs: dict[str, Any] = {"attention_mask": real.long()}
    if types is not None:
        inputs["token_type_ids"] = types
    if not type(theirs).__name__.startswith("Roberta"):
        inputs["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
    out = theirs(tokens, **inputs)
    return getattr(out, "logits", getattr(out, "last_hidden_state", None)), out


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("family", "head"), THEIRS)
def test_numbers_and_gradients_are_theirs(
    family: str, head: str | None, dtype: torch.dtype, left: bool
) -> None:
    if head == "pooled" and left:
        pytest.skip("theirs takes the first column, padding or not")
    # Their RoPE is computed in float32.
    tight = 1e-6 if family == "modernbert" else 1e-12
    tolerance = 1e-5 if dtype is torch.float32 else tight
    ours, theirs = pair(family, head, dtype)
    tokens, real, types = batch(family, left)
    out = ours(tokens, real=real, types=types)
    other, named = expected(theirs, tokens, real, types)
    if head == "pooled":
        other = named.pooler_output
    else:
        out, other = out[real], other[real]
    size = other.abs().max()
    equal(out / size, other / size, tolerance)
    readout = torch.randn_like(out)
    weights = dict(theirs.named_parameters())
    their_grads = torch.autograd.grad((other * readout).sum(), [*weights.values()])
    translated = encoder_weights(family, dict(zip(weights, their_grads, strict=True)))
    my_grads = torch.autograd.grad((out * readout).sum(), [*ours.parameters()])
    # To one scale: the gradient of a key's bias is 0 but for rounding.
    scale = max(grad.abs().max() for grad in their_grads)
    for (name, _), grad in zip(ours.named_parameters(), my_grads, strict=True):
        equal(grad / scale, translated[name] / scale, tolerance)
