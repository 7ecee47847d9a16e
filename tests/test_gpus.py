"""Accelerators: sizes in every spelling, and a table that agrees with itself."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdoc.cost.gpus import GPUS, accelerator, gpu_memory


@pytest.mark.parametrize(
    ("gpu", "nbytes"),
    [
        ("24GiB", 24 * 2**30),
        ("24 GB", 24 * 10**9),
        ("80gib", 80 * 2**30),
        ("  1.5 TiB ", 3 * 2**39),
        ("0.1GB", 10**8),
        ("512 MiB", 2**29),
        ("512mb", 512 * 10**6),
        ("3KiB", 3072),
        ("3kb", 3000),
        ("1b", 1),
        (1, 1),
        (2**50, 2**50),
        ("1024TiB", 2**50),
        ("H100-80GB", 81_559 * 2**20),
        ("rtx 4090", 24_564 * 2**20),
        ("A100_80gb", 80 * 2**30),
        ("mi300x", 196_592 * 2**20),
    ],
)
def test_sizes(gpu: str | int, nbytes: int) -> None:
    assert gpu_memory(gpu) == nbytes


@pytest.mark.parametrize(
    ("gpu", "error", "message"),
    [
        (0, ValueError, "gpu must be at least 1, got 0"),
        (-1, ValueError, "gpu must be at least 1, got -1"),
        (True, TypeError, "gpu must be a positive integer, got True (bool)"),
        (24.0, TypeError, "gpu must be a positive integer, got 24.0 (float)"),
        (float("nan"), TypeError, "gpu must be a positive integer, got nan"),
        (None, TypeError, "gpu must be a positive integer, got None"),
        (b"24GiB", TypeError, "gpu must be a positive integer, got b'24GiB'"),
        (2**50 + 1, ValueError, "gpu=1125899906842625 is more than"),
        ("1025TiB", ValueError, "gpu='1025TiB' is more than"),
        ("99999999999999999999tb", ValueError, "check the unit"),
        ("9" * 5000 + "gb", ValueError, "is no size such as '24GiB'"),
        ("0GiB", ValueError, "gpu must be at least a byte, got '0GiB'"),
        ("0.4b", ValueError, "gpu must be at least a byte, got '0.4b'"),
        ("-24GiB", ValueError, "gpu must be at least a byte, got '-24GiB'"),
        ("nanGiB", ValueError, "gpu='nanGiB' is no size such as '24GiB' and no name"),
        ("infGB", ValueError, "gpu='infGB' is no size"),
        ("1e9GB", ValueError, "gpu='1e9GB' is no size"),
        ("", ValueError, "known are t4, v100-16gb"),
        ("24", ValueError, "gpu='24' has no unit; write '24GiB' for 2^30 bytes each"),
        ("24G", ValueError, "unknown unit 'g'; write '24GiB' for 2^30 bytes each or"),
        ("24 gigs", ValueError, "has the unknown unit 'gigs'"),
        ("h100", ValueError, "did you mean 'h100-80gb'?"),
        ("A100", ValueError, "did you mean 'a100-40gb' or 'a100-80gb'?"),
        ("rtx4090", ValueError, "did you mean 'rtx-4090'"),
        ("tpu-v4", ValueError, "known are t4,"),
    ],
)
def test_errors_say_what_is_wrong(
    gpu: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        gpu_memory(gpu)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    nbytes, message = 1, "gpu"
    try:
        nbytes = gpu_memory(text)
    except ValueError as error:
        message = str(error)
    assert 0 < nbytes <= 2**50
    assert message.startswith("gpu")


@given(st.integers(1, 2**20), st.sampled_from(["MiB", "mb", " GB", "GiB"]))
def test_a_binary_unit_is_larger(number: int, unit: str) -> None:
    scale = {"m": 2, "g": 3}[unit.strip()[0].lower()]
    base = 1024 if "i" in unit else 1000
    assert gpu_memory(f"{number}{unit}") == number * base**scale


def test_the_table_agrees_with_itself() -> None:
    assert len(GPUS) == 16
    for name, gpu in GPUS.items():
        assert name == gpu.name == name.lower()
        assert gpu_memory(name) == gpu.memory
        # The name says GB where makers mean about that many.
        if size := re.search(r"-(\d+)gb$", name):
            assert 0.95 < gpu.memory / (int(size[1]) * 2**30) <= 1
        assert 2**33 < gpu.memory < 2**38
        assert 2e11 < gpu.bandwidth < 1e13
        assert 5e13 < gpu.bf16 < 3e15
        # A product of numbers half as wide runs twice as often.
        assert gpu.fp8 is None or 1.99 < gpu.fp8 / gpu.bf16 < 2.03
        assert set(gpu.unverified) <= {"memory", "bandwidth", "bf16", "fp8"}
        # More operations than bytes a second: decoding one sequence waits for memory.
        assert 70 < gpu.bf16 / gpu.bandwidth < 450


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        GPUS["t4"] = GPUS["l4"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPUS["t4"].memory = 1  # type: ignore[misc]


def test_it_imports_no_torch() -> None:
    code = "import sys, tfdoc.cost.gpus; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "False"


def test_an_accelerator_is_found_in_any_case() -> None:
    assert accelerator("RTX 4090") is GPUS["rtx-4090"]
    with pytest.raises(KeyError, match="name='h1000' is no accelerator; known are t4"):
        accelerator("h1000")
    with pytest.raises(TypeError, match="name must be a string, got 80"):
        accelerator(80)  # type: ignore[arg-type]
