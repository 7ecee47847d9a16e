"""What holds for every component: copies, files, compilers, batches, inputs, states."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from tests.helpers import equal
from tests.subjects import (
    ATTENTION,
    BLOCKS,
    DECODERS,
    DROPOUT,
    MIXTURES,
    OF_VECTORS,
    SUBJECTS,
    D,
    Subject,
    V,
)
from tfdoc import Decoder, MixtureOfExperts

T = TypeVar("T")


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    built = SUBJECTS[request.param].build()
    assert isinstance(built, Decoder)
    return built


def bitwise(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype
    assert torch.equal(a, b)


def bits(x: Tensor) -> list[Any]:
    """What distinguishes even NaN from NaN."""
    kinds: list[Any] = x.contiguous().view(torch.uint8).tolist()
    return kinds


def names(module: nn.Module) -> list[list[str]]:
    """Return the names of each parameter: several where it is shared."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [*groups.values()]


def test_one_of_the_subjects_is_tied() -> None:
    assert any(len(group) > 1 for group in names(SUBJECTS["t5"].build()))


def test_deepcopy_and_pickle_are_bitwise_with_ties_kept(subject: Subject) -> None:
    model, inputs = subject.build(), subject.inputs(2, 5)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        bitwise(twin(*inputs), model(*inputs))
        assert names(twin) == names(model)
        moved = [p.data_ptr() for p in twin.parameters()]
        assert not {p.data_ptr() for p in model.parameters()} & set(moved)


def test_state_dict_and_safetensors_are_bitwise_with_ties_kept(
    subject: Subject, tmp_path: Path
) -> None:
    model, twin, inputs = subject.build(), subject.build(), subject.inputs(2, 5)
    assert not torch.equal(model(*inputs), twin(*inputs))
    twin.load_state_dict(model.state_dict())
    bitwise(twin(*inputs), model(*inputs))
    third = subject.build()
    save_model(model, str(tmp_path / "model.safetensors"))
    load_model(third, tmp_path / "model.safetensors")
    bitwise(third(*inputs), model(*inputs))
    assert names(third) == names(model)
    kept = io.BytesIO()
    torch.save(model.state_dict(), kept)
    kept.seek(0)
    fourth = subject.build()
    fourth.load_state_dict(torch.load(kept, weights_only=True))
    bitwise(fourth(*inputs), model(*inputs))


def test_built_on_meta_and_loaded_is_built_directly(subject: Subject) -> None:
    model, inputs = subject.build(), subject.inputs(2, 5)
    with torch.device("meta"):
        twin = subject.recipe.build(D).double().eval()
    # Outside of the context: nothing may be made on the default device.
    assert twin(*(x.to("meta") for x in inputs)).shape == model(*inputs).shape
    assert all(p.is_meta for p in twin.parameters())
    twin.load_state_dict(model.state_dict(), assign=True)
    bitwise(twin(*inputs), model(*inputs))
    assert names(twin) == names(model)


@pytest.mark.compiles
def test_export_gives_the_same_numbers(subject: Subject) -> None:
    model, inputs = subject.build(), subject.inputs(2, 5)
    equal(torch.export.export(model, inputs).module()(*inputs), model(*inputs))


@pytest.mark.compiles
def test_compiled_whole_gives_the_same_numbers(subject: Subject) -> None:
    torch._dynamo.reset()
    model, inputs = subject.build(), subject.inputs(2, 5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    equal(compiled(*inputs), model(*inputs))


def test_float64_in_float64_out_and_bfloat16_too(subject: Subject) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        inputs = tuple(
            x.to(dtype) if x.is_floating_point() else x for x in subject.inputs(2, 5)
        )
        out = subject.build(dtype)(*inputs)
        assert out.dtype is dtype
        assert out.isfinite().all()


def test_float32_is_near_float64(subject: Subject) -> None:
    model, inputs = subject.build(), subject.inputs(2, 5)
    exact = model(*inputs)
    single = model.float()(*(x.float() if x.is_floating_point() else x for x in inputs))
    assert ((single - exact).norm() / exact.norm()) < 1e-5


def test_empty_and_single_inputs(subject: Subject) -> None:
    model = subject.build()
    for batch, tokens in ((0, 5), (2, 1), (1, 1), (2, 0)):
        inputs = subject.inputs(batch, tokens)
        out = model(*inputs)
        assert out.shape[:2] == (batch, tokens)
        assert out.isfinite().all()


def test_inputs_and_global_state_stay_as_they_were(subject: Subject) -> None:
    model, inputs = subject.build(), subject.inputs(2, 5)
    before = [x.clone() for x in inputs]
    weights = {name: p.clone() for name, p in model.state_dict().items()}
    generator, grad = torch.get_rng_state(), torch.is_grad_enabled()
    default, threads = torch.get_default_dtype(), torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(*inputs).sum().backward()
    for x, old in zip(inputs, before, strict=True):
        bitwise(x, old)
    for name, p in model.state_dict().items():
        bitwise(p, weights[name])
    assert torch.equal(torch.get_rng_state(), generator)
    assert (grad, default, threads) == (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )


def test_a_row_alone_is_a_row_in_a_batch(subject: Subject) -> None:
    model, inputs = subject.build(), subject.inputs(3, 5)
    together = model(*inputs)
    for row in range(3):
        equal(model(*(x[row : row + 1] for x in inputs)), together[row : row + 1])


def test_a_broken_sample_leaves_the_others_bitwise_equal(subject: Subject) -> None:
    model, inputs = subject.build(), subject.inputs(3, 5)
    if not inputs[0].is_floating_point():  # tokens: break a weight's row instead
        if any(isinstance(m, MixtureOfExperts) for m in model.modules()):
            pytest.skip("a mixture sorts the tokens of all rows together")
        table = model.get_submodule("embed")
        tokens = inputs[0] % 10
        inputs = (tokens, *(x % 10 for x in inputs[1:]))
        whole = model(*inputs)
        broken = tokens.clone()
        broken[1] = 10
        assert isinstance(table, nn.Module)
        for owner in model.modules():
            weight = getattr(owner, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.shape[0] in (V, 11):
                weight.data[10] = float("nan")
        after = model(broken, *inputs[1:])
        finite = [n for n in range(after.shape[-1]) if n != 10]
        bitwise(after[::2][..., finite], whole[::2][..., finite])
        assert after[1].isnan().any()
        return
    if any(isinstance(m, MixtureOfExperts) for m in model.modules()):
        pytest.skip("a mixture sorts the tokens of all rows together")
    whole = model(*inputs)
    inputs[0][1, 2] = float("nan")
    after = model(*inputs)
    bitwise(after[::2], whole[::2])
    assert after[1].isnan().any()


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_is_off_in_eval_and_two_seeded_runs_are_bitwise_equal(
    name: str,
) -> None:
    recipe, like = DROPOUT[name]
    model, x = recipe.build(D).double().eval(), SUBJECTS[like].inputs(2, 5)
    bitwise(model(*x), model(*x))
    model.train()
    runs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        runs.append(model(*x))
    bitwise(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("name", ATTENTION | BLOCKS | MIXTURES)
def test_gradcheck(name: str) -> None:
    model, (x,) = SUBJECTS[name].build(), SUBJECTS[name].inputs(1, 3)
    torch.autograd.gradcheck(model, x.requires_grad_())


def test_without_gradients_the_numbers_are_the_same_and_inputs_too(
    subject: Subject,
) -> None:
    model, inputs = subject.build(), subject.inputs(2, 5)
    before = [x.clone() for x in inputs]
    with torch.no_grad():
        equal(model(*inputs), model(*(x.clone() for x in inputs)))
        without = model(*inputs)
    equal(without, model(*inputs).detach())
    for x, old in zip(inputs, before, strict=True):
        bitwise(x, old)


@pytest.mark.parametrize("name", OF_VECTORS)
def test_strided_is_contiguous(name: str) -> None:
    model, (x,) = SUBJECTS[name].build(), SUBJECTS[name].inputs(2, 5)
    wide = torch.randn(2, 5, 2 * D, dtype=torch.float64)
    wide[..., ::2] = x
    for strided in (x.mT.contiguous().mT, wide[..., ::2]):
        assert not strided.is_contiguous()
        equal(model(strided), model(x))


@pytest.mark.parametrize("name", ["bert", "encoder with a mixture", "plain", *MIXTURES])
def test_without_positions_order_means_nothing(name: str) -> None:
    model, (x,) = SUBJECTS[name].build(), SUBJECTS[name].inputs(2, 6)
    order = torch.randperm(6)
    equal(model(x[:, order]), model(x)[:, order])


def test_the_future_changes_nothing(decoder: Decoder) -> None:
    tokens = torch.randint(V, (2, 9))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % V
    before, after = decoder(tokens), decoder(changed)
    equal(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5:], before[:, 5:])


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("name", "room"),
    [(name, 80) for name in DECODERS] + [(name, None) for name in ("llama", "mistral")],
)
def test_64_steps_of_decoding_compile_at_most_once_more(
    name: str, room: int | None
) -> None:
    torch._dynamo.reset()
    decoder = SUBJECTS[name].build()
    assert isinstance(decoder, Decoder)
    # How often is up to what traces, and the backend "eager" traces the same, sooner.
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    tokens, compilations = torch.randint(V, (1, 70)), []
    with torch.no_grad():
        cache, plain = decoder.new_cache(room), decoder.new_cache(room)
        decoder(tokens[:, :5], cache=plain)
        compiled(tokens[:, :5], cache=cache)
        for token in tokens[:, 5:].split(1, 1):
            equal(compiled(token, cache=cache), decoder(token, cache=plain))
            compilations.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compilations[-1] - compilations[0] <= 1
