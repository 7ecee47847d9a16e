"""What a page changes is put back, and the message names page and change."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from executed import state
from matplotlib import pyplot as plt

LEFT: dict[str, Callable[[], Any]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(2),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "torch print options": lambda: torch.set_printoptions(precision=2),
    "numpy print options": lambda: np.set_printoptions(precision=2),
    "numpy error handling": lambda: np.seterr(all="ignore"),
    "rcParams": lambda: plt.rcParams.update({"font.size": 30}),
    "environment": lambda: os.environ.update(TFDOC_LEFT="1"),
    "sys.path": lambda: sys.path.append("elsewhere"),
    "working directory": lambda: os.chdir("/"),
}


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Collect what the engine logs; Sphinx keeps its loggers from pytest's."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener()
    logger = state.logger.logger
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(listener)
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    dict.update(mpl.rcParams, before)


def test_every_kind_is_tried() -> None:
    assert set(LEFT) == {setting.name for setting in state.SETTINGS}


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_left_is_put_back(kind: str, said: list[str]) -> None:
    setting = next(s for s in state.SETTINGS if s.name == kind)
    state.reset({}, "03_careless.py", "before")
    before = setting.read()
    LEFT[kind]()
    assert setting.read() != before, "the test changes nothing"
    state.reset({}, "03_careless.py", "after")
    assert setting.read() == before
    assert len(said) == 1
    assert f"03_careless.py left its {kind} (" in said[0]


def test_a_clean_page_is_not_blamed(said: list[str]) -> None:
    state.reset({}, "01_tidy.py", "before")
    with torch.no_grad(), plt.rc_context({"font.size": 3}):
        pass
    state.reset({}, "01_tidy.py", "after")
    assert said == []


def test_every_page_starts_from_the_same_seeds() -> None:
    def draw() -> list[float]:
        state.reset({}, "01_lucky.py", "before")
        drawn = [random.random(), np.random.rand()]  # noqa: S311, NPY002
        drawn.append(torch.rand(1).item())
        state.reset({}, "01_lucky.py", "after")
        return drawn

    assert draw() == draw()


def test_figures_and_warning_filters_do_not_survive() -> None:
    filters = list(warnings.filters)
    state.reset({}, "01_page.py", "before")
    plt.figure()
    warnings.simplefilter("ignore")
    state.reset({}, "01_page.py", "after")
    assert not plt.get_fignums()
    assert list(warnings.filters) == filters


def test_deprecations_inside_other_libraries_stay_hidden() -> None:
    state.reset({}, "01_page.py", "before")
    try:
        code = "import warnings; warnings.warn('old', DeprecationWarning, 1)"
        exec(compile(code, "other", "exec"), {"__name__": "other"})  # noqa: S102
        with pytest.raises(DeprecationWarning, match="old"):
            exec(compile(code, "page", "exec"), {"__name__": "__main__"})  # noqa: S102
    finally:
        state.reset({}, "01_page.py", "after")
