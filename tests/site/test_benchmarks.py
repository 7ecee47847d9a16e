"""The page of the benchmarks: what is measured stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from executed.benchmarks import TABLES, TITLES, figure

from tests.benchmarks.adapter import HOMES
from tests.benchmarks.cases import CASES

NUMBERS = Path(__file__).parents[2] / "docs" / "benchmarks.json"
FOUND = json.loads(NUMBERS.read_text(encoding="utf-8"))


def test_every_case_has_a_title() -> None:
    assert HOMES
    assert TITLES.keys() == CASES.keys()


def test_tables_are_whole() -> None:
    for name, table in TABLES.items():
        rows = list(table(FOUND))
        assert len({len(row) for row in rows}) == 1, name
    timed = sum(len(result["implementations"]) for result in FOUND["results"])
    assert len(list(TABLES["all"](FOUND))) == 1 + timed
    goals = [result for result in FOUND["results"] if "goal" in result]
    assert len(list(TABLES["goals"](FOUND))) == 1 + len(goals)


def test_a_goal_that_is_missed_is_said_to_be() -> None:
    rows = [{"label": "tfdoc", "kind": "own", "ms": 1.0}]
    result: dict[str, object] = {
        "case": "rope",
        "mode": "fwd",
        "size": "m",
        "sizes": {},
    }
    result["implementations"] = rows
    told = []
    for ratio in ([0.7, 0.8, 0.9], [0.9, 1.1, 1.2], [1.1, 1.2, 1.3]):
        goal = {"at_most": 1.0, "against": "HF", "ratio": ratio}
        _, row = TABLES["goals"]({"results": [result | {"goal": goal}]})
        told.append(row[-1])
    assert told == ["yes", "close", "**no**"]


def test_the_figure_draws_every_implementation_that_was_timed() -> None:
    drawn = figure(FOUND)
    rows = [r for result in FOUND["results"] for r in result["implementations"]]
    timed = [row for row in rows if "ms" in row]
    assert len(re.findall("<circle", drawn)) == len(timed)
    assert drawn.count('<circle class="own"') == len(FOUND["results"])
