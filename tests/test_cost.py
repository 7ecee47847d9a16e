"""Counting parameters: against models built by others, and what it refuses.

``data/params.json`` holds 36 published models: the arguments, and for each component the
parameters counted in the model that Hugging Face's transformers builds from its config.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfdoc import count_params, estimate_params

MODELS: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "data" / "params.json").read_text(encoding="utf-8")
)
LLAMA_7B = MODELS["llama-7b"]["arguments"]


def exact(name: str) -> int:
    return sum(MODELS[name]["counts"].values())


@pytest.mark.parametrize("name", MODELS)
def test_published_models_to_the_last_parameter(name: str) -> None:
    arguments, counts = MODELS[name]["arguments"], MODELS[name]["counts"]
    assert count_params(**arguments) == counts
    assert estimate_params(**arguments) == sum(counts.values()) / 1e9


def test_the_data_have_the_published_sizes() -> None:
    assert exact("llama-7b") == 6_738_415_616
    assert exact("llama-3.2-1b") == 1_235_814_400
    assert exact("llama-3.1-405b") == 405_853_388_800
    assert exact("gpt2") == 124_439_808


def with_hidden(V: int, D: int, L: int, F: int) -> int:
    return V * D + L * (4 * D * D + 2 * D * F + 4 * D) + D * V


def without_hidden(V: int, D: int, L: int, _F: int) -> int:
    return 12 * L * D * D + 2 * V * D


def miss(formula: Callable[[int, int, int, int], int], name: str) -> float:
    """Return the relative error of a popular formula."""
    of = MODELS[name]["arguments"]
    size = formula(
        of["vocab_size"], of["embed_dim"], of["num_layers"], of["hidden_dim"]
    )
    return size / exact(name) - 1


def test_the_popular_formulas_miss() -> None:
    assert (
        round((1 + miss(with_hidden, "llama-7b")) * exact("llama-7b") / 1e9, 1) == 5.3
    )
    assert round(estimate_params(**LLAMA_7B), 3) == 6.738
    # Nearly right for Llama-7B, whose hidden width was chosen so; not for the next.
    assert abs(miss(without_hidden, "llama-7b")) < 0.006
    assert round(miss(without_hidden, "llama-3-8b"), 3) == -0.067
    for formula in (with_hidden, without_hidden):
        assert all(miss(formula, name) for name in MODELS), "exact for one of them"


def test_defaults_are_llamas() -> None:
    spelt_out: dict[str, Any] = {
        "num_kv_heads": 32,
        "head_dim": 128,
        "num_positions": 0,
        "gated": True,
        "bias": False,
        "tied": False,
    }
    assert count_params(**LLAMA_7B) == count_params(**LLAMA_7B, **spelt_out)
    assert estimate_params(**LLAMA_7B) == estimate_params(**LLAMA_7B, **spelt_out)


def test_tying_saves_the_head_and_nothing_else() -> None:
    free = count_params(**LLAMA_7B)
    assert count_params(**LLAMA_7B, tied=True) == free | {"head": 0}
    assert free["head"] == free["embedding"]


@pytest.mark.parametrize("heads", [1, 2, 8, 128])
def test_the_number_of_heads_changes_nothing(heads: int) -> None:
    assert count_params(**LLAMA_7B | {"num_heads": heads}) == count_params(**LLAMA_7B)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(
        ({name: 0}, ValueError, f"{name} must be at least 1, got 0")
        for name in LLAMA_7B
    ),
    *(
        (
            {name: 8.0},
            TypeError,
            f"{name} must be a positive integer, got 8.0 (float); round or convert it "
            "with int()",
        )
        for name in LLAMA_7B
    ),
    (
        {"num_layers": True},
        TypeError,
        "num_layers must be a positive integer, got True (bool)",
    ),
    (
        {"vocab_size": "32000"},
        TypeError,
        "vocab_size must be a positive integer, got '32000' (str)",
    ),
    ({"num_kv_heads": -8}, ValueError, "num_kv_heads must be at least 1, got -8"),
    ({"head_dim": 0}, ValueError, "head_dim must be at least 1, got 0"),
    ({"num_positions": -1}, ValueError, "num_positions must be at least 0, got -1"),
    (
        {"num_positions": None},
        TypeError,
        "num_positions must be an integer, got None (NoneType)",
    ),
    (
        {"num_heads": 30},
        ValueError,
        "num_heads=30 does not divide embed_dim=4096; the nearest that do are 16 and 32",
    ),
    (
        {"num_kv_heads": 12},
        ValueError,
        "num_kv_heads=12 does not divide num_heads=32; the nearest that do are 8 and 16",
    ),
    (
        {"num_kv_heads": 33},
        ValueError,
        "num_kv_heads=33 does not divide num_heads=32",
    ),
    ({"gated": "no"}, TypeError, "gated must be True or False, got 'no' (str)"),
    ({"bias": 1}, TypeError, "bias must be True or False, got 1 (int)"),
    ({"tied": None}, TypeError, "tied must be True or False, got None (NoneType)"),
]


@pytest.mark.parametrize("function", [count_params, estimate_params])
@pytest.mark.parametrize(("wrong", "error", "message"), WRONG, ids=str)
def test_wrong_numbers_are_named(
    function: Any, wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        function(**LLAMA_7B | wrong)
