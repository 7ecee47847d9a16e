"""The harness of the benchmarks: tfdoc passes its check, what is wrong does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.benchmarks import adapter
from tests.benchmarks.cases import CASES, Implementation, Run, naive_attention
from tests.benchmarks.goals import GOALS
from tests.benchmarks.measure import Row, built, measure, prepare, quartiles

NUMBERS = Path(__file__).parents[1] / "docs" / "benchmarks.json"
CELLS = [(name, mode) for name, case in CASES.items() for mode in case.modes]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every case a size that is quick."""
    for case in CASES.values():
        sizes = dict(next(iter(case.sizes.values())))
        limits = {"L": 2, "new": 6, "V": 512, "n": 40, "N": 24}
        small = {k: min(n, limits.get(k, n)) for k, n in sizes.items()}
        monkeypatch.setattr(case, "sizes", {"tiny": small}, raising=False)


@pytest.mark.parametrize(("name", "mode"), CELLS)
def test_tfdoc_computes_what_every_case_asks_for(name: str, mode: str) -> None:
    entry = CASES[name].impls["tfdoc"]
    row, timed = built(entry, prepare(CASES[name], "tiny", mode))
    assert timed is not None, row
    assert row["error"] < 1e-4


def refused(build: Callable[[Any, Any], Run], mode: str = "fwd") -> str:
    """Return why an implementation of causal attention is refused."""
    cell = prepare(CASES["attn/causal"], "tiny", mode)
    row, timed = built(Implementation("wrong", "peer", build), cell)
    assert timed is None
    reason: str = row["refused"]
    return reason


def right(t: Any) -> Tensor:
    """Return what causal attention is."""
    return naive_attention(t.q, t.k, t.v, t.mask)


def test_a_wrong_output_is_refused() -> None:
    found = refused(lambda t, _: Run(lambda: right(t) * 1.01))
    assert found == "differs by 1.0e-02"


def test_a_mask_that_is_not_there_is_refused() -> None:
    found = refused(lambda t, _: Run(lambda: naive_attention(t.q, t.k, t.v)))
    assert found.startswith("differs by ")


def test_a_wrong_gradient_is_refused() -> None:
    def build(t: Any, _: Any) -> Run:
        return Run(lambda: right(t) + 0.1 * (t.q - t.q.detach()))

    assert refused(build, "fwdbwd").startswith("differs by ")


def test_a_library_that_is_missing_is_named() -> None:
    def build(_t: Any, _p: Any) -> Run:
        raise ModuleNotFoundError(name="rival")

    assert refused(build) == "not installed: rival"


def test_an_implementation_that_fails_says_how() -> None:
    assert refused(lambda t, _: Run(lambda: t.nothing)).startswith("AttributeError: ")


def test_ratios_are_of_the_same_round() -> None:
    assert quartiles([2.0, 4.0, 60.0], [1.0, 2.0, 30.0]) == [2.0, 2.0, 2.0]


def test_a_measurement_tells_all_and_the_best_peer_is_one() -> None:
    found = measure(CASES["norm/layer"], "tiny", "fwd")
    rows = {row["label"]: row for row in found["implementations"]}
    assert rows["tfdoc"]["ms"] > 0
    assert rows[found["best"]]["kind"] == "peer"
    assert rows[found["best"]]["ratio"] == [1.0, 1.0, 1.0]


@pytest.fixture
def published() -> dict[str, Row]:
    """Return what the page shows, by case, size and mode."""
    results = json.loads(NUMBERS.read_text(encoding="utf-8"))["results"]
    return {f"{r['case']}/{r['size']}/{r['mode']}": r for r in results}


def test_the_page_has_every_case_and_every_goal(published: dict[str, Row]) -> None:
    assert {(r["case"], r["mode"]) for r in published.values()} == set(CELLS)
    assert GOALS.keys() <= published.keys()
    for name, goal in GOALS.items():
        shown = published[name]["goal"]
        assert shown["at_most"] == goal.at_most, name
        assert shown["against"].startswith(goal.against), name


def test_the_page_shows_tfdoc_in_every_case(published: dict[str, Row]) -> None:
    for name, result in published.items():
        labels = {row["label"] for row in result["implementations"] if "ms" in row}
        assert {"tfdoc", result["best"]} <= labels, name


def test_every_case_has_our_implementation_alone() -> None:
    assert adapter.HOMES
    for case in CASES.values():
        own = [entry for entry in case.impls.values() if entry.kind == "own"]
        assert [entry.label for entry in own] == ["tfdoc"]
