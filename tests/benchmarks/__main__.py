"""Measure, and write what the page of the benchmarks shows."""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from . import adapter  # noqa: F401 - registers ours and the peers
from .cases import CASES
from .goals import GOALS, MEMORY_AT_MOST
from .measure import Row, measure
from .memory import STATUS, curves

LIBRARIES = ("torch", "transformers", "x-transformers", "torchtune", "local-attention")


def versions() -> dict[str, str]:
    """Return the versions of everything that is compared; "" where it is missing."""
    found = {"tfdoc": "", "python": platform.python_version()}
    for name in ("tfdoc", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def machine() -> dict[str, Any]:
    """Return what it was measured on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    return {
        "cpu": model[1] if model else platform.processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def cells(only: str, sizes: set[str]) -> list[tuple[str, str, str]]:
    """Return the case, size and mode of all that is measured: every goal, at least."""
    return [
        (name, size, mode)
        for name, case in CASES.items()
        if re.search(only, name)
        for size in case.sizes
        for mode in case.modes
        if size.split("-")[0] in sizes or f"{name}/{size}/{mode}" in GOALS
    ]


def shown(result: Row) -> str:
    """Return a result as lines."""
    lines = [f"\n{result['case']} [{result['size']}] {result['mode']}"]
    for row in result["implementations"]:
        told = row.get("refused")
        if not told:
            low, middle, high = row["ratio"]
            told = f"{row['ms']:10.4g} ms  x{middle:.3f} [{low:.2f}, {high:.2f}]"
            told += f"  error {row['error']:.1e}"
        lines.append(f"   {row['label']:46s} {told}")
    if goal := result.get("goal"):
        lines.append(
            f"   goal {goal['at_most']:.2f} x {goal['against']}: {goal['ratio'][1]:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument(
        "--only", default="", help="the cases that this expression finds"
    )
    parser.add_argument("--sizes", default="m,one", help="s, m, l, one")
    parser.add_argument("--out", type=Path, help="write JSON here")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    torch.set_num_threads(1)
    results = []
    for name, size, mode in cells(args.only, set(args.sizes.split(","))):
        results.append(measure(CASES[name], size, mode))
        sys.stdout.write(shown(results[-1]) + "\n")
        sys.stdout.flush()
        gc.collect()
    memory: dict[str, Any] = {
        "at_most": MEMORY_AT_MOST,
        "peaks": curves() if STATUS.exists() else [],
    }
    for row in memory["peaks"]:
        sys.stdout.write(f"memory {row['label']}: {row['mb']}\n")
    if args.out:
        whole = {"machine": machine(), "versions": versions(), "memory": memory}
        text = json.dumps(whole | {"results": results}, indent=1, ensure_ascii=False)
        args.out.write_text(text + "\n", encoding="utf-8")


main()
