"""Caches: what they hold, what they cost, and that none of them changes a number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers import equal
from tests.subjects import CROSS, DECODERS, SEQ2SEQ, D, H, V
from tfdoc import (
    Cache,
    Causal,
    Chunked,
    Decoder,
    EncoderDecoder,
    GrowingCache,
    ModelCache,
    MultiHeadAttention,
    PairedCache,
    PreallocatedCache,
    SlidingCache,
    Window,
)

KINDS: dict[str, Callable[[], Cache]] = {
    "growing": GrowingCache,
    "preallocated": lambda: PreallocatedCache(40),
    "sliding": lambda: SlidingCache(40),
}


@pytest.fixture(params=KINDS)
def cache(request: pytest.FixtureRequest) -> Cache:
    return KINDS[request.param]()


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    built: Decoder = DECODERS[request.param].build(D).double().eval()
    return built


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(V, (batch, length))


def in_pieces(
    model: Decoder, ids: Tensor, cuts: list[int], cache: ModelCache
) -> Tensor:
    return torch.cat([model(x, cache=cache) for x in ids.split(cuts, 1)], 1)


def kinds_for(model: Decoder) -> list[ModelCache]:
    return [
        model.new_cache(),
        model.new_cache(16),
        ModelCache(GrowingCache() for _ in model.blocks),
        ModelCache(PreallocatedCache(14) for _ in model.blocks),
        ModelCache(SlidingCache(14) for _ in model.blocks),
    ]


@pytest.mark.parametrize("cuts", [[12], [1] * 12, [5, 1, 1, 5], [1, 7, 4]], ids=str)
def test_any_chunking_is_the_full_pass(decoder: Decoder, cuts: list[int]) -> None:
    ids = tokens(2, 12)
    full = decoder(ids)
    for cache in kinds_for(decoder):
        equal(in_pieces(decoder, ids, cuts, cache), full)
        assert cache.length == 12


@given(
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=6), window=st.integers(1, 9)
)
def test_any_chunking_of_a_sliding_window_is_the_full_pass(
    cuts: list[int], window: int
) -> None:
    mask = Causal() & Window(window)
    attention = MultiHeadAttention(D, num_heads=H, mask=mask).double()
    x, cache = torch.randn(2, sum(cuts), D, dtype=torch.float64), SlidingCache(window)
    parts = [attention(piece, cache=cache) for piece in x.split(cuts, 1)]
    equal(torch.cat(parts, 1), attention(x))
    assert cache.nbytes <= max(1, window - 1) * 2 * 2 * D * 8


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_nothing(decoder: Decoder, side: str) -> None:
    ids, more = tokens(2, 6), tokens(2, 8)
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    real = real if side == "left" else real.flip(1)
    alone = [
        decoder(torch.cat([row[keep], rest])[None])[0]
        for row, keep, rest in zip(ids, real, more, strict=True)
    ]
    for cache in kinds_for(decoder)[:4]:
        first = decoder(ids, real=real, cache=cache)
        rest = in_pieces(decoder, more, [1, 3, 1, 1, 1, 1], cache)
        for n in range(2):
            equal(torch.cat([first[n][real[n]], rest[n]]), alone[n])


def test_growing_is_preallocated_is_sliding_bit_by_bit(cache: Cache) -> None:
    other = GrowingCache()
    for length in (3, 1, 5):
        new = torch.randn(2, 2, 4, length, 8)
        for a, b in zip(cache.update(*new), other.update(*new), strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    assert cache.length == other.length == 9


@pytest.mark.parametrize("rows", [[1, 0], [1, 1], [0], [1, 0, 0, 1]], ids=str)
def test_reordered_is_recomputed(decoder: Decoder, rows: list[int]) -> None:
    ids, at = tokens(2, 7), torch.tensor(rows)
    new = tokens(len(rows), 2)
    for padded in (False, True):
        real = torch.ones(2, 7, dtype=torch.bool)
        real[0, :3] = not padded
        whole = torch.ones(len(rows), 2, dtype=torch.bool)
        full = decoder(
            torch.cat([ids[at], new], 1), real=torch.cat([real[at], whole], 1)
        )
        for cache in kinds_for(decoder):
            decoder(ids, cache=cache, real=real if padded else None)
            cache.reorder(at)
            equal(decoder(new, cache=cache), full[:, 7:])


@pytest.mark.parametrize("length", [0, 1, 4, 7])
def test_cropped_is_recomputed(decoder: Decoder, length: int) -> None:
    ids, new = tokens(2, 7), tokens(2, 3)
    for padded in (False, True):
        real = torch.ones(2, 10, dtype=torch.bool)
        real[0, :3] = not padded
        kept = torch.cat([real[:, :length], real[:, 7:]], 1)
        full = decoder(torch.cat([ids[:, :length], new], 1), real=kept)
        for cache in kinds_for(decoder)[2:]:
            decoder(ids, cache=cache, real=real[:, :7] if padded else None)
            cache.crop(length)
            assert cache.length == length
            equal(decoder(new, cache=cache), full[:, length:])


def test_a_cropped_window_is_recomputed_or_refused() -> None:
    attention = MultiHeadAttention(D, num_heads=H, mask=Causal() & Window(3)).double()
    x, cache = torch.randn(1, 9, D, dtype=torch.float64), SlidingCache(3)
    attention(x[:, :4], cache=cache)
    attention(x[:, 4:5], cache=cache)
    with pytest.raises(
        ValueError, match="cannot crop to 4 tokens: of the 5 seen, those"
    ):
        cache.crop(4)
    cache.crop(5)
    equal(attention(x[:, 5:], cache=cache), attention(x)[:, 5:])
    cache.crop(0)
    equal(attention(x, cache=cache), attention(x))


def test_a_rule_of_absolute_positions_sees_them_in_a_window_too() -> None:
    mask = Causal() & Chunked(4)
    attention = MultiHeadAttention(D, num_heads=H, mask=mask).double()
    x, cache = torch.randn(1, 15, D, dtype=torch.float64), SlidingCache(4)
    parts = [attention(piece, cache=cache) for piece in x.split([3, 4, 1, 7], 1)]
    equal(torch.cat(parts, 1), attention(x))


def test_causal_with_a_cache_is_bottom_right() -> None:
    attention = MultiHeadAttention(D, num_heads=H, mask=Causal()).double()
    x, cache = torch.randn(1, 7, D, dtype=torch.float64), GrowingCache()
    attention(x[:, :4], cache=cache)
    later = attention(x[:, 4:], cache=cache)
    equal(later, attention(x)[:, 4:])
    # Aligned with the first key instead, the last queries would not see themselves.
    table = torch.ones(3, 7, dtype=torch.bool).tril()
    top_left = MultiHeadAttention(D, num_heads=H).double()
    top_left.load_state_dict(attention.state_dict())
    other = GrowingCache()
    top_left(x[:, :4], mask=Causal(), cache=other)
    wrong = top_left(x[:, 4:], mask=table, cache=other)
    assert (wrong - later).norm() / later.norm() > 0.1


def test_bytes_are_those_of_the_tensors(cache: Cache) -> None:
    key, value = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 10, 5)
    assert cache.nbytes == 0
    cache.update(key, value)
    room = 40 if isinstance(cache, PreallocatedCache) else 10
    assert cache.nbytes == 2 * 3 * room * (8 + 5) * 4
    assert repr(cache) == f"{type(cache).__name__}(length=10, nbytes={cache.nbytes:,})"


def test_a_window_owns_no_more_than_its_bytes() -> None:
    cache = SlidingCache(4)
    for _ in range(3):
        cache.update(*torch.randn(2, 1, 2, 50, 8))
    assert cache.key is not None
    assert cache.key.untyped_storage().nbytes() == cache.key.nbytes
    assert cache.nbytes == 2 * 2 * 3 * 8 * 4


def test_gradients_pass_a_growing_cache() -> None:
    attention = MultiHeadAttention(D, num_heads=H, mask=Causal()).double()
    x = torch.randn(1, 6, D, dtype=torch.float64, requires_grad=True)
    cache = GrowingCache()
    pieces = [attention(piece, cache=cache) for piece in x.split(2, 1)]
    (mine,) = torch.autograd.grad(torch.cat(pieces, 1).square().sum(), x)
    (full,) = torch.autograd.grad(attention(x).square().sum(), x)
    equal(mine, full)


def test_the_room_is_left_as_it_is_by_a_refused_call() -> None:
    cache = PreallocatedCache(4)
    cache.update(*torch.randn(2, 1, 1, 3, 8))
    with pytest.raises(
        ValueError, match="room for max_length=4 tokens and holds 3; 2 more"
    ):
        cache.update(*torch.randn(2, 1, 1, 2, 8))
    assert cache.length == 3
    cache.update(*torch.randn(2, 1, 1, 1, 8))
    assert cache.length == 4


@pytest.fixture(params=SEQ2SEQ)
def seq2seq(request: pytest.FixtureRequest) -> EncoderDecoder:
    built: EncoderDecoder = SEQ2SEQ[request.param].build(D).double().eval()
    return built


def test_a_decoder_with_context_in_steps_is_the_full_pass(
    seq2seq: EncoderDecoder,
) -> None:
    source, target = tokens(2, 7) % 11, tokens(2, 6)
    real = torch.tensor([[1] * 7, [1] * 4 + [0] * 3], dtype=torch.bool)
    full = seq2seq(source, target, real=real)
    asked = seq2seq.encode(source, real)
    for cache in (seq2seq.decoder.new_cache(), seq2seq.decoder.new_cache(6)):
        steps = [
            seq2seq.decoder(x, cache=cache, **asked) for x in target.split([2, 1, 3], 1)
        ]
        equal(torch.cat(steps, 1), full)
        assert cache.length == 6
        layer = cache[0]
        assert isinstance(layer, PairedCache)
        assert layer.context.length == 7
        cache.crop(2)
        equal(seq2seq.decoder(target[:, 2:], cache=cache, **asked), full[:, 2:])
        assert layer.nbytes == layer.own.nbytes + layer.context.nbytes
        rows = torch.tensor([1, 1, 0])
        cache.crop(3)
        cache.reorder(rows)
        twice = seq2seq.decoder(target[rows, 3:], cache=cache, **asked)
        equal(twice, full[rows, 3:])


def test_the_context_is_read_once(seq2seq: EncoderDecoder) -> None:
    source, target = tokens(2, 7) % 11, tokens(2, 6)
    asked, cache = seq2seq.encode(source), seq2seq.decoder.new_cache()
    seq2seq.decoder(target[:, :2], cache=cache, **asked)
    nothing = {"context": torch.full((2, 7, D), float("nan")).double()}
    later = seq2seq.decoder(target[:, 2:], cache=cache, **nothing)
    equal(later, seq2seq(source, target)[:, 2:])


def test_padding_of_source_and_target_is_nothing(seq2seq: EncoderDecoder) -> None:
    source, target = tokens(2, 7) % 11, tokens(2, 6)
    real = torch.tensor([[1] * 7, [0] * 3 + [1] * 4], dtype=torch.bool)
    kept = torch.tensor([[1] * 6, [1] * 4 + [0] * 2], dtype=torch.bool)
    batch = seq2seq(source, target, real=real, target_real=kept)
    alone = seq2seq(source[1:, 3:], target[1:, :4])
    equal(batch[1:, :4], alone)


def test_new_caches_fit_their_blocks() -> None:
    mistral = DECODERS["mistral"].build(D)
    first, second = mistral.new_cache(30)
    assert isinstance(first, SlidingCache)
    assert first.window == 3
    assert isinstance(second, PreallocatedCache)
    assert second.max_length == 30
    crossing = Decoder(D, vocab_size=V, blocks=(CROSS,))
    assert isinstance(crossing.new_cache()[0], PairedCache)
    with pytest.raises(
        ValueError, match="the cache has 1 layers and the model 2 blocks"
    ):
        mistral(tokens(1, 2), cache=ModelCache([GrowingCache()]))
    with pytest.raises(ValueError, match="a cache for each block, got none"):
        ModelCache([])
