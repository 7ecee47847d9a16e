"""The laws of the house: floors, sizes, names, and what an import costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tfdoc

PACKAGE = Path(tfdoc.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports go strictly down these floors; what stands beside the house serves no floor.
FLOORS = [
    {"_checks", "_tensor_checks", "_follow", "_emulate", "_grouped", "_rms"}
    | {"_linear"},
    {"_stage", "scalings"},
    {"parts", "presets", "probe", "masks", "norms", "feedforward", "balancing"}
    | {"positions", "layouts", "long_context", "absolute", "biases"}
    | {"token_types"},
    {"_scores", "_banded", "block_masks"},
    {"cores", "qknorm", "routers", "caches", "embedding", "sampling"}
    | {"tokenization"},
    {"bounded_caches", "factorised", "grouped_routers", "sparse_mixer"},
    {"cache_stacks"},
    {"_call", "_given", "score_cores", "experts"},
    {"multihead", "latent", "moe"},
    {"blocks"},
    {"scaled", "wirings", "crossing", "layers", "repeated"},
    {"models"},
    {"seq2seq", "generation", "text_encoders"},
    {"beams"},
]
BESIDE = {"cost", "initialisation", "interop", "rehearsal"}
# The command line uses what stands beside the house; nothing uses the command line.
ABOVE = {"__main__", "_options", "_trace", "cli"}
# Two neighbours may lean on each other, one way.
WITHIN = {("feedforward", "parts"), ("feedforward", "probe")}


def modules() -> list[str]:
    return [m.name for m in pkgutil.iter_modules(tfdoc.__path__)]


def imports(file: Path) -> Iterator[str]:
    """Yield the first part of every module of tfdoc that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("tfdoc."):
                yield name.split(".")[1]


def home(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_its_floor() -> None:
    assert set(modules()) == set().union(*FLOORS) | BESIDE | ABOVE


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_down(file: Path) -> None:
    floor = {name: n for n, names in enumerate(FLOORS) for name in names}
    here = home(file)
    if here == "__init__" or here in ABOVE:
        return
    for other in set(imports(file)) - {here}:
        assert other not in BESIDE | ABOVE, (
            f"{here} imports {other}, which serves no floor"
        )
        down = floor[other] < floor.get(here, len(FLOORS))
        assert down or (here, other) in WITHIN, f"{here} must not import {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_sizes(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 300
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        length = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
        assert length <= 40, f"{node.name} has {length} lines"
        arguments = [*node.args.args, *node.args.kwonlyargs]
        if node.name != "estimate":  # all the choices there are
            assert len([a for a in arguments if a.arg != "self"]) <= 11, node.name
        if node.name == "__init__":
            kinds = [ast.unparse(a.annotation) for a in arguments if a.annotation]
            assert len(arguments) - 1 <= 10
            assert kinds.count("bool") <= 2


@pytest.mark.parametrize("name", tfdoc.__all__)
def test_a_public_name_is_itself_before_and_after_all_modules(name: str) -> None:
    before = getattr(tfdoc, name)
    for module in pkgutil.walk_packages(tfdoc.__path__, "tfdoc."):
        importlib.import_module(module.name)
    assert getattr(tfdoc, name) is before
    assert not inspect.ismodule(before)
    assert name not in modules()
    assert name in dir(tfdoc)


def test_every_public_name_of_a_module_is_public_here() -> None:
    found = set()
    for name in modules():
        if not name.startswith("_"):
            found |= set(importlib.import_module(f"tfdoc.{name}").__all__)
    assert found == set(tfdoc.__all__)
    assert tfdoc.__all__ == sorted(tfdoc.__all__)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'tfdoc' has no attribute 'Bert'"):
        _ = tfdoc.Bert  # type: ignore[attr-defined]
    assert inspect.ismodule(tfdoc.masks)


@pytest.mark.parametrize("name", tfdoc.__all__)
def test_everything_public_is_explained_with_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(tfdoc, name)) or ""
    assert len(text) > 100
    # What only a function makes is shown in the example of that function.
    if name not in {"Recording", "Rehearsal"}:
        assert ">>> " in text


def fresh(code: str) -> str:
    """Run code in a Python of its own and return what it printed."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


CPU_TIME = "import time; print(time.process_time())"


def bare() -> float:
    """Return the CPU seconds of Python alone, the least of a few disturbed by others."""
    return min(float(fresh(CPU_TIME)) for _ in range(5))


def slowness() -> float:
    """Say how slow or busy the machine is: 1 where Python alone takes 7 ms or less."""
    return max(1.0, bare() / 0.007)


def loaded(statement: str) -> set[str]:
    return set(fresh(f"import sys; {statement}; print(*sys.modules)").split())


def test_importing_tfdoc_imports_no_torch() -> None:
    for statement in (
        "import tfdoc",
        "import tfdoc; tfdoc.estimate_params(10, 8, 1, 8, 2)",
        "from tfdoc.cost import count_params",
        "import tfdoc; tfdoc.ledger({'model_type': 'llama'}).total",
    ):
        assert not {"torch", "numpy", "sympy"} & loaded(statement)


@pytest.mark.measures
def test_a_ledger_starts_in_a_tenth_of_a_second() -> None:
    """CPU time above that of Python alone."""
    ours = "import tfdoc; tfdoc.ledger({'model_type': 'llama'}).total; "
    above = min(float(fresh(ours + CPU_TIME)) for _ in range(5)) - bare()
    assert above < 0.1 * slowness()


def test_importing_a_component_imports_torch_and_little_else() -> None:
    everything = loaded("from tfdoc import *")
    assert "torch" in everything
    assert not {"matplotlib", "transformers", "sphinx", "pandas"} & everything


@pytest.mark.measures
def test_a_component_costs_what_torch_costs() -> None:
    """At most 5 % more CPU time than torch alone, both in one process.

    Two processes differ by far more on a busy machine, even at their fastest.
    """
    code = """
from time import process_time
start = process_time()
import torch
torch_alone = process_time()
from tfdoc import MultiHeadAttention
print((process_time() - torch_alone) / (torch_alone - start))
"""
    added = min(float(fresh(code)) for _ in range(5))
    assert added <= 0.05
