"""Generation: greedy, drawn, in beams; rules; padding; stops; what it leaves alone."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process

from tests.helpers import drawn, equal
from tests.hugging_face import gpt2_weights
from tests.subjects import DECODERS, DROPOUT, SEQ2SEQ, D, V
from tfdoc import (
    Decoder,
    EncoderDecoder,
    GrowingCache,
    MinP,
    ModelCache,
    Padding,
    RepetitionPenalty,
    Rule,
    Temperature,
    TopK,
    TopP,
    beam_search,
    generate,
    stream,
)


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest) -> Decoder:
    built: Decoder = drawn(DECODERS[request.param].build(D)).double().eval()
    return built


def prompt(batch: int = 2, length: int = 5) -> Tensor:
    return torch.randint(V, (batch, length))


def by_recomputing(model: Decoder, tokens: Tensor, new: int) -> Tensor:
    for _ in range(new):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    return tokens


def test_greedy_is_the_argmax_of_the_whole_text(model: Decoder) -> None:
    tokens = prompt()
    expected = by_recomputing(model, tokens, 12)
    assert torch.equal(generate(model, tokens, max_new_tokens=12), expected)
    cache = ModelCache(GrowingCache() for _ in model.blocks)
    again = generate(model, tokens, max_new_tokens=12, cache=cache)
    assert torch.equal(again, expected)
    assert cache.length == 5 + 11


def test_stream_is_generate(model: Decoder) -> None:
    tokens = prompt()
    steps = list(stream(model, tokens, max_new_tokens=6, seed=3))
    whole = generate(model, tokens, max_new_tokens=6, seed=3)
    assert torch.equal(torch.stack(steps, 1), whole[:, 5:])


@pytest.mark.parametrize("seed", [None, 1])
def test_a_padded_batch_is_each_row_alone_token_for_token(
    model: Decoder, seed: int | None
) -> None:
    tokens = prompt(3, 6)
    real = torch.tensor([[1] * 6, [0] * 2 + [1] * 4, [0] * 5 + [1]], dtype=torch.bool)
    rules = (RepetitionPenalty(1.3), Temperature(0.7), TopK(1))
    for rule in ((), rules):
        out = generate(
            model,
            tokens,
            max_new_tokens=9,
            real=real,
            rules=rule,
            seed=seed if rule else None,
        )
        for row in range(3):
            short = tokens[row : row + 1][:, real[row]]
            alone = generate(
                model, short, max_new_tokens=9, rules=rule, seed=seed if rule else None
            )
            assert torch.equal(out[row, 6:], alone[0, -9:])


def test_choices_that_are_greedy(model: Decoder) -> None:
    tokens = prompt()
    greedy = generate(model, tokens, max_new_tokens=8)
    for rules in ([TopK(1)], [Temperature(1e-4)], [TopP(1e-9)], [MinP(1.0)]):
        drawn_ = generate(model, tokens, max_new_tokens=8, rules=rules, seed=5)
        assert torch.equal(drawn_, greedy)
    assert torch.equal(beam_search(model, tokens, beams=1, max_new_tokens=8), greedy)


def test_rules_that_change_nothing(model: Decoder) -> None:
    tokens = prompt()
    plain = generate(model, tokens, max_new_tokens=8, seed=5)
    for rule in (
        TopP(1.0),
        MinP(0.0),
        TopK(V),
        Temperature(1.0),
        RepetitionPenalty(1.0),
    ):
        out = generate(model, tokens, max_new_tokens=8, rules=[rule], seed=5)
        assert torch.equal(out, plain)


def test_a_seed_is_enough_and_the_global_generator_stays(model: Decoder) -> None:
    tokens, state = prompt(4), torch.get_rng_state()
    one, two, three = (
        generate(model, tokens, max_new_tokens=8, seed=s) for s in (7, 7, 8)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stop_ends_a_row_and_all_stops_end_it_all(model: Decoder) -> None:
    tokens = prompt(3)
    free = generate(model, tokens, max_new_tokens=10)
    stop = int(free[0, 7])
    out = generate(model, tokens, max_new_tokens=10, stop=[stop])
    for row, plain in zip(out, free, strict=True):
        new = plain[5:]
        hits = (new == stop).nonzero()
        end = int(hits[0]) + 1 if len(hits) else 10
        assert torch.equal(row[5 : 5 + end], new[:end])
        assert (row[5 + end :] == stop).all()
    first = free[:, 5].tolist()
    assert generate(model, tokens, max_new_tokens=10, stop=first).shape == (3, 6)


def test_training_is_left_on_and_dropout_off() -> None:
    model = DECODERS["gpt2"].but(dropout=0.5).build(D).double().train()
    tokens = prompt()
    out = generate(model, tokens, max_new_tokens=6)
    assert model.training
    assert torch.equal(out, generate(model, tokens, max_new_tokens=6))
    assert not any(p.grad is not None for p in model.parameters())


def test_frequencies_are_the_probabilities() -> None:
    model = DECODERS["llama"].build(D).double().eval()
    tokens = prompt(1).expand(4000, -1)
    rules = [Temperature(2.0), TopK(6)]
    drawn_ = generate(model, tokens, max_new_tokens=1, rules=rules, seed=0)[:, -1]
    logits = model(tokens[:1])[:, -1]
    for rule in rules:
        logits = rule(logits, tokens[:1])
    expected = 4000 * logits.softmax(-1)[0]
    found = drawn_.bincount(minlength=V).double()
    assert not found[expected == 0].any()
    kept = expected > 0
    chi2 = ((found - expected)[kept].square() / expected[kept]).sum()
    assert chi2 < 20.5  # 5 degrees of freedom: 1 in 1000


HF_RULES: list[tuple[Rule, Any]] = [
    (Temperature(0.7), logits_process.TemperatureLogitsWarper(0.7)),
    (TopK(5), logits_process.TopKLogitsWarper(5)),
    (TopK(99), logits_process.TopKLogitsWarper(99)),
    (TopP(0.8), logits_process.TopPLogitsWarper(0.8)),
    (TopP(0.05), logits_process.TopPLogitsWarper(0.05)),
    (MinP(0.1), logits_process.MinPLogitsWarper(0.1)),
    (RepetitionPenalty(1.4), logits_process.RepetitionPenaltyLogitsProcessor(1.4)),
    (RepetitionPenalty(0.7), logits_process.RepetitionPenaltyLogitsProcessor(0.7)),
]


@pytest.mark.parametrize(("ours", "theirs"), HF_RULES, ids=lambda r: str(r)[:30])
def test_rules_are_those_of_hugging_face(ours: Rule, theirs: Any) -> None:
    tokens = prompt(50, 6)
    logits = 3 * torch.randn(50, V)
    before = logits.clone()
    equal(ours(logits, tokens), theirs(tokens, logits.clone()), 1e-6)
    assert torch.equal(logits, before)


def test_ties_and_edges_of_rules() -> None:
    tied, tokens = torch.tensor([[1.0, 2.0, 2.0, 0.0]]), torch.tensor([[0]])
    assert TopK(1)(tied, tokens).isfinite().tolist() == [[False, True, True, False]]
    equal(TopP(1.0)(tied, tokens), tied)
    shares = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert TopP(0.5)(shares, tokens).isfinite().tolist() == [[True, False, False]]
    assert TopP(0.51)(shares, tokens).isfinite().sum() == 2
    padded = RepetitionPenalty(2.0)(tied, torch.tensor([[-1, 1]]))
    equal(padded, torch.tensor([[1.0, 1.0, 2.0, 0.0]]))


def twins() -> tuple[Decoder, Any]:
    config = GPT2Config(
        vocab_size=V,
        n_embd=D,
        n_layer=2,
        n_head=4,
        n_inner=24,
        n_positions=80,
        activation_function="gelu",
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = drawn(GPT2LMHeadModel(config)).double().eval()
    # Less certain than the drawn weights: other beams and stops have a chance.
    theirs.transformer.wte.weight.data *= 0.1
    ours = DECODERS["gpt2"].build(D).double().eval()
    ours.load_state_dict(gpt2_weights(theirs.state_dict()))
    return ours, theirs


def by_hugging_face(theirs: Any, tokens: Tensor, new: int, **settings: Any) -> Tensor:
    config = GenerationConfig(max_new_tokens=new, **settings)
    out: Tensor = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), generation_config=config
    )
    return out


def test_greedy_is_hugging_face_s() -> None:
    ours, theirs = twins()
    tokens = prompt(4)
    expected = by_hugging_face(theirs, tokens, 15, do_sample=False)
    assert torch.equal(generate(ours, tokens, max_new_tokens=15), expected)
    penalised = by_hugging_face(
        theirs, tokens, 15, do_sample=False, repetition_penalty=1.5
    )
    rules = [RepetitionPenalty(1.5)]
    assert torch.equal(
        generate(ours, tokens, max_new_tokens=15, rules=rules), penalised
    )


@pytest.mark.parametrize("beams", [2, 4, 5])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("stops", [0, 1, 3, 24])
@pytest.mark.parametrize("certainty", [1, 8])
def test_beams_are_hugging_face_s(
    beams: int, penalty: float, stops: int, certainty: float
) -> None:
    ours, theirs = twins()
    ours.get_parameter("embed.weight").data *= certainty
    theirs.transformer.wte.weight.data *= certainty
    tokens = prompt(24)
    free = beam_search(ours, tokens, beams=beams, max_new_tokens=8)
    stop = sorted(
        {*free[:stops, 7].tolist()}
    )  # what some rows write as their third token
    expected = by_hugging_face(
        theirs,
        tokens,
        8,
        num_beams=beams,
        length_penalty=penalty,
        eos_token_id=stop or None,
        pad_token_id=0,
        do_sample=False,
    )
    out = beam_search(
        ours, tokens, beams=beams, max_new_tokens=8, stop=stop, length_penalty=penalty
    )
    for mine, other in zip(out.tolist(), expected.tolist(), strict=True):
        ends = [n for n, t in enumerate(other) if n >= 5 and t in stop]
        length = ends[0] + 1 if ends else len(other)
        assert mine[:length] == other[:length]
        assert set(mine[length:]) <= {mine[length - 1]}
    if stops:
        assert any(set(row[5:12]) & set(stop) for row in out.tolist())


class Bigrams(nn.Module):
    """A model whose scores depend on the last token only: no cache is needed."""

    class Nothing:
        def reorder(self, rows: Tensor) -> None:
            """Do nothing."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def new_cache(self, length: int) -> Nothing:
        del length
        return self.Nothing()

    def forward(self, tokens: Tensor, **call: Any) -> Tensor:
        del call
        return self.table[tokens[:, -1:]]


def beams_by_hand(
    table: list[list[float]],
    start: int,
    most: int,
    beams: int,
    stop: set[int],
    p: float,
) -> tuple[list[int], int]:
    """Return the best text that ended, and after how many steps it is settled."""
    going: list[tuple[float, list[int]]] = [(0.0, [start])]
    ended: list[tuple[float, list[int]]] = []
    for step in range(1, most + 1):
        after = [
            (score + more, [*text, token])
            for score, text in going
            for token, more in enumerate(table[text[-1]])
        ]
        after = sorted(after, reverse=True)[: beams * max(2, 1 + len(stop))]
        going = []
        for rank, (score, text) in enumerate(after):
            if text[-1] in stop or step == most:
                ended += [(score / step**p, text)] if rank < beams else []
            elif len(going) < beams:
                going.append((score, text))
        ended = sorted(ended, reverse=True)[:beams]
        hope = going[0][0] / step**p if going else -math.inf
        if not going or (len(ended) == beams and ended[-1][0] >= hope):
            break
    return ended[0][1], step


@given(
    seed=st.integers(0, 10_000),
    beams=st.integers(1, 4),
    ends=st.integers(0, 3),
    penalty=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    spread=st.sampled_from([0.3, 1.0, 3.0]),
)
@settings(max_examples=200, deadline=None)
def test_beams_by_hand(
    seed: int, beams: int, ends: int, penalty: float, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = spread * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    shares, stop = table.log_softmax(-1).tolist(), set(range(ends))
    model: Any = Bigrams(table).eval()
    start = torch.tensor([[3], [4], [5]])
    choice: dict[str, Any] = {"beams": beams, "stop": stop, "length_penalty": penalty}
    out = beam_search(model, start, max_new_tokens=6, **choice).tolist()
    hand = [beams_by_hand(shares, row, 6, beams, stop, penalty) for row in (3, 4, 5)]
    steps = max(taken for _, taken in hand)
    for row, (text, _) in zip(out, hand, strict=True):
        assert row == text + [text[-1]] * (1 + steps - len(text))


def test_beams_find_what_greed_misses() -> None:
    ours, _ = twins()
    ours.get_parameter("embed.weight").data *= 8
    tokens = prompt(16)

    def total(out: Tensor) -> Tensor:
        shares = ours(out[:, :-1]).log_softmax(-1).gather(-1, out[:, 1:, None])
        sums: Tensor = shares[:, 4:, 0].sum(-1)
        return sums

    with torch.no_grad():
        greedy = total(generate(ours, tokens, max_new_tokens=6))
        beams = total(beam_search(ours, tokens, beams=23, max_new_tokens=6))
    assert (beams >= greedy - 1e-9).all()
    assert (beams > greedy + 1e-3).any()


def test_beams_of_a_padded_batch_are_those_of_each_row(model: Decoder) -> None:
    tokens, real = prompt(2, 6), torch.ones(2, 6, dtype=torch.bool)
    real[1, :3] = False
    out = beam_search(model, tokens, beams=3, max_new_tokens=5, real=real)
    alone = beam_search(model, tokens[1:, 3:], beams=3, max_new_tokens=5)
    assert torch.equal(out[1, 6:], alone[0, 3:])


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_decoder_with_a_context(name: str) -> None:
    seq2seq: EncoderDecoder = drawn(SEQ2SEQ[name].build(D)).double().eval()
    source, begin = prompt(3, 7) % 11, torch.zeros(3, 1, dtype=torch.long)
    asked = seq2seq.encode(source)
    out = generate(seq2seq.decoder, begin, max_new_tokens=6, **asked)
    tokens = begin
    for _ in range(6):
        tokens = torch.cat([tokens, seq2seq(source, tokens)[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, tokens)
    one = beam_search(seq2seq.decoder, begin, beams=1, max_new_tokens=6, **asked)
    assert torch.equal(one, tokens)
    beams = beam_search(seq2seq.decoder, begin, beams=4, max_new_tokens=6, **asked)
    alone = beam_search(
        seq2seq.decoder,
        begin[1:2],
        beams=4,
        max_new_tokens=6,
        **seq2seq.encode(source[1:2]),
    )
    assert torch.equal(beams[1], alone[0])


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("no tokens", {"tokens": torch.zeros(1, 0, dtype=torch.long)}, ValueError, "at least one token a row"),
    ("one row", {"tokens": torch.zeros(3, dtype=torch.long)}, ValueError, r"shape \(batch, tokens\)"),
    ("nothing new", {"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1, got 0"),
    ("too far", {"max_new_tokens": 77}, ValueError, "go beyond max_positions=80; ask for at most 76"),
    ("a word", {"rules": ["top_k"]}, TypeError, "rules must hold rules such as Temperature"),
    ("negative seed", {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ("negative stop", {"stop": [-1]}, ValueError, "stop must be at least 0, got -1"),
    ("right padding", {"real": torch.tensor([[1, 1, 1, 1, 0]]).bool()}, ValueError, "pad on the left"),
    ("0/1 padding", {"real": torch.tensor([[1, 1, 1, 1, 1]])}, TypeError, "needs .bool()"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "change", "error", "text"), BAD, ids=[b[0] for b in BAD]
)
def test_bad_input_is_refused_at_the_call(
    what: str, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    del what
    model = DECODERS["gpt2"].build(D).eval()
    settings: dict[str, Any] = {"tokens": prompt(1), "max_new_tokens": 3} | change
    tokens = settings.pop("tokens")
    with pytest.raises(error, match=text):
        stream(model, tokens, **settings)
    assert generate(model, prompt(1), max_new_tokens=76).shape == (1, 81)


def test_bad_rules_are_refused() -> None:
    for make, text in (
        (lambda: Temperature(0), "value must be above 0, got 0"),
        (lambda: TopK(0), "count must be at least 1, got 0"),
        (lambda: TopP(0), "mass must be above 0, got 0"),
        (lambda: TopP(1.5), "mass must be between 0 and 1, got 1.5"),
        (lambda: MinP(-0.1), "share must be between 0 and 1, got -0.1"),
        (lambda: RepetitionPenalty(0), "value must be above 0, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
    model = DECODERS["gpt2"].build(D)
    with pytest.raises(ValueError, match="the model is training"):
        beam_search(model.train(), prompt(1), beams=2, max_new_tokens=2)
    with pytest.raises(ValueError, match="beams must be at least 1, got 0"):
        beam_search(model.eval(), prompt(1), beams=0, max_new_tokens=2)


def test_every_module_is_left_as_it_was() -> None:
    model = DROPOUT["decoder"][0].build(D).train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    tokens = torch.randint(V, (2, 3))
    first = generate(model, tokens, max_new_tokens=5)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(generate(model.eval(), tokens, max_new_tokens=5), first)
    model.blocks[0].train()  # one that nobody put to sleep
    assert torch.equal(generate(model, tokens, max_new_tokens=5), first)
    with pytest.raises(ValueError, match=r"call model\.eval"):
        beam_search(model, tokens, beams=2, max_new_tokens=2)


def test_what_was_generated_serves_training() -> None:
    model, tokens = DECODERS["llama"].build(D).eval(), torch.randint(V, (2, 3))

    class Ban(Rule):
        def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
            del tokens
            logits[:, 3] = -torch.inf
            return logits

    cache = model.new_cache(20)
    kept = generate(model, tokens, max_new_tokens=3, rules=[Ban()], cache=cache)
    assert not (kept[:, 3:] == 3).any()
    with torch.no_grad():
        model(tokens[:, :1], cache=cache)
    for texts in (kept, beam_search(model, tokens, beams=2, max_new_tokens=3)):
        model(texts).sum().backward()


def test_under_autocast_it_is_the_same_number_of_tokens() -> None:
    model, tokens = DECODERS["gpt2"].build(D).eval(), torch.randint(V, (2, 3))
    with torch.autocast(tokens.device.type, torch.bfloat16):
        assert generate(model, tokens, max_new_tokens=3).shape == (2, 6)
        assert beam_search(model, tokens, beams=2, max_new_tokens=3).shape == (2, 6)


def test_in_half_precision_one_beam_is_greedy_and_rules_are_those_of_single() -> None:
    model = DECODERS["llama"].but(vocab_size=4096).build(D).bfloat16().eval()
    tokens = torch.randint(4096, (40, 3))
    greedy = generate(model, tokens, max_new_tokens=3)
    first = beam_search(model, tokens, beams=1, max_new_tokens=1)[:, 3:]
    logits = model(tokens, last=True)[:, 0]  # where several are the best, either is
    assert torch.equal(logits.gather(1, first)[:, 0], logits.amax(-1))
    cold = generate(model, tokens, max_new_tokens=3, rules=[Temperature(1e-5)])
    assert torch.equal(cold, greedy)


@pytest.mark.parametrize("search", [generate, partial(beam_search, beams=2)])
@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"positions": 2}, "positions would be the same for every new token"),
        ({"mask": Padding((3, 2))}, "would hide what is generated"),
        (
            {"mask": torch.ones(3, 3).bool()},
            "mask would be the same for every new token",
        ),
    ],
    ids=["positions", "padding", "table"],
)
def test_what_fits_one_call_only_is_refused(
    search: Any, call: dict[str, Any], text: str
) -> None:
    model, tokens = DECODERS["llama"].build(D).eval(), torch.randint(V, (2, 3))
    with pytest.raises(ValueError, match=re.escape(text)):
        search(model, tokens, max_new_tokens=2, **call)


def test_nothing_to_continue_is_nothing() -> None:
    model, none = DECODERS["llama"].build(D).eval(), torch.zeros(0, 3, dtype=torch.long)
    real = torch.ones(0, 3, dtype=torch.bool)
    assert generate(model, none, max_new_tokens=2, real=real).shape == (0, 5)
    assert beam_search(model, none, beams=2, max_new_tokens=2).shape[0] == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"stop": 3}, "stop must hold tokens, such as [3]"),
        ({"rules": TopK(3)}, "rules must be a sequence"),
        ({"cache": GrowingCache()}, "cache must be a ModelCache"),
    ],
    ids=["stop", "rules", "cache"],
)
def test_one_instead_of_several_is_refused(call: dict[str, Any], text: str) -> None:
    model, tokens = DECODERS["llama"].build(D), torch.randint(V, (2, 3))
    with pytest.raises(TypeError, match=re.escape(text)):
        stream(model, tokens, max_new_tokens=2, **call)


def test_learned_positions_count_what_the_cache_holds() -> None:
    model, tokens = DECODERS["gpt2"].build(D), torch.randint(V, (1, 70))
    cache = model.new_cache(100)
    generate(model, tokens, max_new_tokens=5, cache=cache)
    with pytest.raises(ValueError, match="max_positions=80"):
        stream(model, tokens[:, :3], max_new_tokens=8, cache=cache)
