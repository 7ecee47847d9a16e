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
    DistilBertModel,
    ModernBertForMaskedLM,
    ModernBertModel,
    RobertaForMaskedLM,
    RobertaModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.helpers import drawn, equal, randn64
from tests.hugging_face import encoder_weights
from tfdoc import (
    Causal,
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
    Sinusoidal,
    TextEncoder,
    TokenEmbedding,
    TokenTypes,
    Window,
    ledger,
    part,
    preset,
    preset_names,
    record,
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


def post_norm(
    num_heads: int, hidden_dim: int, norm: Part[nn.Module], activation: Any = F.gelu
) -> Part[nn.Module]:
    ffn = part(FeedForward, hidden_dim=hidden_dim, activation=activation)
    heads = part(MultiHeadAttention, num_heads=num_heads)
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
    block = post_norm(c.num_attention_heads, c.intermediate_size, norm)
    return part(
        TextEncoder,
        embed=embedding(c, norm, offset),
        encoder=part(Encoder, blocks=(block,) * c.num_hidden_layers),
        **with_head(c, head, norm),
    )


def roberta(c: Any, head: str | None = None) -> Part[TextEncoder]:
    return bert(c, head, offset=c.pad_token_id + 1)


def distilbert(c: Any, head: str | None = None) -> Part[TextEncoder]:
    norm = part(LayerNorm, eps=1e-12)
    block = post_norm(c.n_heads, c.hidden_dim, norm)
    return part(
        TextEncoder,
        embed=part(
            TokenEmbedding,
            vocab_size=c.vocab_size,
            positions=part(LearnedPositions, max_positions=c.max_position_embeddings),
            norm=norm,
        ),
        encoder=part(Encoder, blocks=(block,) * c.n_layers),
        **with_head(c, head, norm),
    )


def albert(c: Any, head: str | None = None) -> Part[TextEncoder]:
    norm = part(LayerNorm, eps=c.layer_norm_eps)
    block = post_norm(c.num_attention_heads, c.intermediate_size, norm, TANH_GELU)
    groups = c.num_hidden_groups
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
    "distilbert": {"hidden_dim": 40},
    "albert": {"embedding_size": 12, "num_hidden_groups": 2},
    "modernbert": {
        "local_attention": 4,
        "num_hidden_layers": 5,
        **dict.fromkeys(f"{x}_token_id" for x in ("bos", "eos", "cls", "sep")),
    },
}
THEIRS: dict[tuple[str, str | None], Any] = {
    ("bert", None): partial(BertModel, add_pooling_layer=False),
    ("bert", "pooled"): BertModel,
    ("bert", "masked"): BertForMaskedLM,
    ("roberta", None): partial(RobertaModel, add_pooling_layer=False),
    ("roberta", "pooled"): RobertaModel,
    ("roberta", "masked"): RobertaForMaskedLM,
    ("distilbert", None): DistilBertModel,
    ("distilbert", "masked"): DistilBertForMaskedLM,
    ("albert", None): partial(AlbertModel, add_pooling_layer=False),
    ("albert", "pooled"): AlbertModel,
    ("albert", "masked"): AlbertForMaskedLM,
    ("modernbert", None): ModernBertModel,
    ("modernbert", "masked"): ModernBertForMaskedLM,
}
TYPED = ("bert", "albert")
LENGTHS = [[11], [6], [1]]


def pair(
    family: str, head: str | None, dtype: torch.dtype
) -> tuple[TextEncoder, nn.Module]:
    """Build ours and theirs with the same random weights."""
    config: Any = CONFIG_MAPPING[family](**SIZES | OWN.get(family, {}))
    config._attn_implementation = "sdpa"  # eager rounds to float32
    theirs = drawn(THEIRS[family, head](config)).to(dtype).eval()
    ours = RECIPES[family](config, head).build(D).to(dtype).eval()
    ours.load_state_dict(encoder_weights(family, dict(theirs.named_parameters())))
    return ours, theirs


def batch(family: str, left: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw tokens with padding on one side, which of them are real, and types."""
    at, lengths = torch.arange(11), torch.tensor(LENGTHS)
    real = (at >= 11 - lengths) if left else (at < lengths)
    tokens = torch.where(real, torch.randint(PAD + 1, V, (3, 11)), PAD)
    types = torch.randint(2, (3, 11)) if family in TYPED else None
    return tokens, real, types


def expected(theirs: Any, tokens: Tensor, real: Tensor, types: Tensor | None) -> Tensor:
    """Call theirs and return the last that it makes; RoBERTa counts positions itself."""
    inputs: dict[str, Any] = {"attention_mask": real.long()}
    if types is not None:
        inputs["token_type_ids"] = types
    if not type(theirs).__name__.startswith("Roberta"):
        inputs["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
    out: Tensor = theirs(tokens, **inputs).to_tuple()[-1]
    return out


# Their poolers take the first column, padding or not.
SIDES = [
    (*k, left) for k in THEIRS for left in (False, True) if k[1] != "pooled" or not left
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("family", "head", "left"), SIDES)
def test_numbers_and_gradients_are_theirs(
    family: str, head: str | None, left: bool, dtype: torch.dtype
) -> None:
    # Their RoPE is computed in float32.
    tight = 1e-6 if family == "modernbert" else 1e-12
    tolerance = 1e-5 if dtype is torch.float32 else tight
    ours, theirs = pair(family, head, dtype)
    tokens, real, types = batch(family, left)
    out = ours(tokens, real=real, types=types)
    other = expected(theirs, tokens, real, types)
    if head != "pooled":
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


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(("family", "head"), [k for k in THEIRS if k[1] != "masked"])
def test_padding_reaches_nobody(family: str, head: str | None, left: bool) -> None:
    """Not even NaN does, and a row alone is a row in a batch."""
    model, _ = pair(family, head, torch.float64)
    tokens, real, types = batch(family, left)
    model.embed.get_parameter("weight").data[PAD] = float("nan")
    out = model(tokens, real=real, types=types)
    for n, mask in enumerate(real):
        row = None if types is None else types[n, mask][None]
        alone = model(tokens[n, mask][None], types=row)[0]
        equal(out[n] if head else out[n, mask], alone)


def test_vectors_of_a_text_by_hand() -> None:
    embed = TokenEmbedding(
        8,
        vocab_size=V,
        positions=part(LearnedPositions, max_positions=6, offset=2),
        types=part(TokenTypes, num_types=3),
        norm=part(LayerNorm),
        scale=3.0,
    )
    drawn(embed.double())
    weight = {name: p.detach() for name, p in embed.named_parameters()}
    assert [*weight] == [
        "weight",
        "positions.weight",
        "types.weight",
        "norm.weight",
        "norm.bias",
    ]
    tokens, types = torch.randint(V, (2, 5)), torch.randint(3, (2, 5))
    for given in (types, None):
        out = embed(tokens, 1, types=given)
        for b in range(2):
            for t in range(5):
                x = 3 * weight["weight"][tokens[b, t]]
                x = x + weight["types.weight"][0 if given is None else given[b, t]]
                x = x + weight["positions.weight"][t + 1 + 2]
                x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
                equal(out[b, t], x * weight["norm.weight"] + weight["norm.bias"])
    assert repr(embed.types) == "TokenTypes(8, num_types=3)"


def test_an_offset_leaves_rows_in_front() -> None:
    positions = LearnedPositions(8, max_positions=6, offset=2)
    assert positions.weight.shape == (8, 8)
    assert repr(positions) == "LearnedPositions(8, max_positions=6, offset=2)"
    x = torch.zeros(1, 6, 8)
    for at in (None, 0, torch.arange(6)):
        assert torch.equal(positions(x, at)[0], positions.weight[2:])
    padded = positions(x, torch.tensor([[-1, -1, 0, 1, 2, 5]]))[0, 2:]
    assert torch.equal(padded, positions.weight[[2, 3, 4, 7]])


@pytest.mark.parametrize("positions", [None, 3, [0, 2, 3, 7, 9]], ids=str)
def test_a_repeated_block_is_so_many_layers_of_one_block(positions: Any) -> None:
    heads = part(MultiHeadAttention, num_heads=2, rotary=RoPE(), mask=Window(3))
    ffn = part(FeedForward, hidden_dim=12)
    block = part(PreNormBlock, attention=heads, feedforward=ffn)
    repeated = part(RepeatedBlock, block=block, times=3)
    model = drawn(Encoder(8, blocks=(repeated,), norm=part(LayerNorm))).double()
    stack = Encoder(8, blocks=(block,) * 3, norm=part(LayerNorm)).double()
    weights = {
        key.replace("0.block", str(n)): value
        for key, value in model.state_dict().items()
        for n in range(3)
    }
    stack.load_state_dict(weights)
    x, real = randn64(2, 5, 8), torch.arange(5) < torch.tensor([[5], [3]])
    at = torch.tensor(positions) if isinstance(positions, list) else positions
    call = {"positions": at, "mask": torch.rand(5, 5) < 0.7}
    equal(model(x, **call), stack(x, **call))
    equal(model(x, real=real, **call)[real], stack(x, real=real, **call)[real])
    assert repr(model.blocks[0]).startswith("RepeatedBlock(\n  times=3")
    with record(model, "*core.weights") as seen:
        model(x)
    assert len(seen.calls["blocks.0.block.attention.core.weights"]) == 3


def test_a_factorised_embedding_by_hand() -> None:
    narrow = part(TokenEmbedding, vocab_size=V, positions=part(Sinusoidal))
    embed = drawn(FactorisedEmbedding(8, embed=narrow, rank=4)).double()
    tokens, other = torch.randint(V, (2, 5)), randn64(V, 4)
    assert embed.vocab_size == V
    assert embed.weight is embed.embed.weight
    weight, bias = embed.proj.weight, embed.proj.bias
    assert (weight.shape, bias.shape) == ((8, 4), (8,))
    equal(embed(tokens, 2), embed.embed(tokens, 2) @ weight.T + bias)
    rows = Sinusoidal(4)(other[tokens])
    equal(embed(tokens, weight=other), rows @ weight.T + bias)


@pytest.mark.parametrize(
    ("bias", "named"), [(True, {"proj", "head"}), ("out", {"head"}), (False, set())]
)
def test_a_masked_head_by_hand(bias: bool | str, named: set[str]) -> None:
    norm = part(LayerNorm, bias=False)
    settings: dict[str, Any] = {"norm": norm, "bias": bias, "rank": 4}
    own = MaskedHead(8, vocab_size=V, activation=F.relu, **settings)
    tied = MaskedHead(8, vocab_size=V, activation=F.relu, tied=True, **settings)
    drawn(own.double())
    weights = dict(own.named_parameters())
    assert {k.split(".")[0] for k in weights if k.endswith("bias")} == named
    table = weights.pop("head.weight").detach()
    assert set(weights) == {name for name, _ in tied.double().named_parameters()}
    tied.load_state_dict({k: v for k, v in own.state_dict().items() if k in weights})
    x = randn64(2, 5, 8)
    hidden = F.relu(x @ own.proj.weight.T + (own.proj.bias if bias is True else 0))
    hidden = F.layer_norm(hidden, (4,), weights["norm.weight"])
    expected = hidden @ table.T + (weights["head.bias"] if bias else 0)
    equal(own(x), expected)
    equal(tied(x, table), expected)


def test_the_pooler_takes_the_first_token_that_is_real() -> None:
    pooler, x = drawn(Pooler(8)).double(), randn64(3, 5, 8)
    weight, bias = pooler.proj.weight, pooler.proj.bias
    equal(pooler(x), torch.tanh(x[:, 0] @ weight.T + bias))
    real = torch.arange(5) >= torch.tensor([[0], [2], [4]])
    first = torch.stack([x[0, 0], x[1, 2], x[2, 4]])
    equal(pooler(x, real), torch.tanh(first @ weight.T + bias))


class Mean(nn.Module):
    """The mean of the real tokens: a sentence's vector in sentence-transformers."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, *, real: Tensor | None = None) -> Tensor:
        if real is None:
            return x.mean(1)
        return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_a_head_that_asks_is_told_which_tokens_are_real(left: bool) -> None:
    config = CONFIG_MAPPING["bert"](**SIZES)
    recipe = bert(config)
    model = drawn(recipe.but(head=part(Mean)).build(D)).double().eval()
    tokens, real, _ = batch("bert", left)
    vectors = recipe.build(D).double().eval()
    vectors.load_state_dict(model.state_dict())
    out = model(tokens, real=real)
    for row, mask, mean in zip(vectors(tokens, real=real), real, out, strict=True):
        equal(mean, row[mask].mean(0))
    equal(model(tokens), vectors(tokens).mean(1))
    # Who stands at a negative position is no token either.
    at = torch.where(real, real.cumsum(1) - 1, -1)
    equal(model(tokens, positions=at), out)


def test_masks_and_biases_reach_the_blocks() -> None:
    config = CONFIG_MAPPING["bert"](**SIZES)
    model = drawn(bert(config).build(D)).double().eval()
    tokens, bias = torch.randint(V, (2, 5)), randn64(4, 5, 5)
    x = model.embed(tokens, 7)
    call: dict[str, Any] = {"mask": Causal(), "position_bias": bias, "positions": 7}
    equal(model(tokens, **call), model.encoder(x, **call))
    assert not torch.allclose(model(tokens, positions=7), model(tokens, **call))
