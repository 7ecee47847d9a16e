"""The peak memory of one call of attention, above its inputs; on Linux alone.

Each measurement is a process of its own: `python -m tests.benchmarks.memory CASE LABEL N`
resets the high-water mark of resident memory, calls, and prints how far it rose, in MB.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator

from .cases import CASES, naive_attention

LENGTHS = (1024, 2048, 4096, 8192)
PEERS = ("F.sdpa is_causal", "F.sdpa bool mask", "naive softmax(QK)V")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> float:
    """Return a number of the kernel's about this process, in MB."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak(case: str, label: str, length: int) -> float:
    """Return how far memory rises in one call, in MB."""
    kind = CASES[case]
    sizes = {"b": 1, "h": 4, "n": length, "d": 64}
    p = SimpleNamespace(**sizes, case=kind, variant=kind.variant)  # type: ignore[attr-defined]
    made = kind.make(p, Generator().manual_seed(0))
    del made["fmask"]
    if "mask" not in label and "naive" not in label:
        del made["mask"]
    t = {k: v.float() if v.is_floating_point() else v for k, v in made.items()}
    del made
    run = kind.impls[label].build(SimpleNamespace(**t), p)
    small = torch.randn(1, 1, 16, 64)  # loads the kernels, which are not counted
    torch.nn.functional.scaled_dot_product_attention(small, small, small)
    naive_attention(small, small, small)
    # What is freed but kept would be used again, and a small peak would not be seen.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    RESET.write_text("5", encoding="ascii")
    before = resident("VmRSS:")
    with torch.no_grad():
        run.fn()
    return resident("VmHWM:") - before


def curves() -> list[dict[str, Any]]:
    """Return the peaks of causal attention as the sequence grows."""
    found: list[dict[str, Any]] = []
    for label in ("tfdoc", *PEERS):
        mb = {}
        for length in LENGTHS:
            command = [sys.executable, "-m", __spec__.name, "attn/causal", label]
            done = subprocess.run(  # noqa: S603 - ourselves
                [*command, str(length)], capture_output=True, text=True, check=True
            )
            mb[str(length)] = round(float(done.stdout), 2)
        found.append({"label": label, "mb": mb})
    return found


if __name__ == "__main__":
    from . import adapter  # noqa: F401 - registers ours and the peers

    torch.set_num_threads(1)
    print(peak(sys.argv[1], sys.argv[2], int(sys.argv[3])))  # noqa: T201
