"""What every test starts from: a seed, one thread, and the device under test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Shared machines stall; a deadline would make that a failure of the package.
settings.register_profile("tfdoc", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("tfdoc")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    device = os.environ.get("TFDOC_DEVICE", "cpu")
    with torch.device(device):
        torch.manual_seed(0)
        yield
