"""What a page may change and must not leave behind.

``reset`` runs before and after every script. Before, it puts PyTorch, NumPy,
Matplotlib and Python into the state in which every page starts; after, it names
what the script left changed and puts it back.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from sphinx.util import logging

from . import clock

logger = logging.getLogger(__name__)

STYLE = Path(__file__).with_name("site.mplstyle")
SEED = 0


class Setting(NamedTuple):
    """One kind of state: its name, how to read it and how to write it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _read_environment() -> dict[str, str]:
    # torch sets some variables itself, on the first import of a part of it.
    return {k: v for k, v in os.environ.items() if not k.startswith("TORCHINDUCTOR_")}


def _write_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _write_path(path: list[str]) -> None:
    sys.path[:] = path


def _write_style(params: dict[str, Any]) -> None:
    # rcParams.update warns about deprecated keys even when it copies them unchanged.
    dict.update(mpl.rcParams, params)  # type: ignore[misc]


def _write_device(device: torch.device) -> None:
    # A default device adds work to every call, so the CPU means none.
    torch.set_default_device(None if device.type == "cpu" else device)


SETTINGS = (
    Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("default device", torch.get_default_device, _write_device),
    Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("threads", torch.get_num_threads, torch.set_num_threads),
    Setting(
        "deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    Setting(
        "matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    Setting(
        "anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly
    ),
    Setting(
        "torch print options",
        torch._tensor_str.get_printoptions,
        lambda options: torch.set_printoptions(**options),
    ),
    Setting(
        "numpy print options",
        np.get_printoptions,
        lambda options: np.set_printoptions(**options),
    ),
    Setting("numpy error handling", np.geterr, lambda modes: np.seterr(**modes)),
    Setting("rcParams", lambda: dict(mpl.rcParams), _write_style),
    Setting("environment", _read_environment, _write_environment),
    Setting("sys.path", lambda: list(sys.path), _write_path),
    Setting("working directory", Path.cwd, os.chdir),
)

_start: dict[str, Any] = {}
_warnings = ExitStack()


def reset(_conf: object, page: str, when: Literal["before", "after"]) -> None:
    """Prepare for one page, or clean up after it (sphinx-gallery's ``reset_modules``).

    Parameters
    ----------
    page : str
        File name of the script; messages name it.
    when : {"before", "after"}
        Which of the two.
    """
    if when == "before":
        _prepare()
        clock.start(page)
    else:
        clock.stop()
        _clean(page)


def _prepare() -> None:
    """Set everything to what pages start from."""
    mpl.use("agg")
    plt.close("all")
    _write_device(torch.device(os.environ.get("TFDOC_DEVICE", "cpu")))
    torch.set_num_threads(1)
    mpl.rcdefaults()
    plt.style.use(STYLE)
    _seed()
    _warnings.enter_context(warnings.catch_warnings())
    warn_as_errors()
    _start.update({setting.name: setting.read() for setting in SETTINGS})


def _clean(page: str) -> None:
    """Put back what `page` changed, and say so."""
    _warnings.close()
    plt.close("all")
    for name, read, write in SETTINGS:
        left, start = read(), _start[name]
        if left != start:
            logger.info(
                "%s left its %s behind: put back", page, _named(name, left, start)
            )
            write(start)
    _seed()


def _named(name: str, left: Any, start: Any) -> str:
    """Say what was left: of a mapping, which entries."""
    if not isinstance(left, dict):
        return f"{name} ({left})"
    keys = [key for key in {**start, **left} if left.get(key) != start.get(key)]
    return f"{name} ({', '.join(keys)})"


def _seed() -> None:
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - pages may use the global generator
    random.seed(SEED)


def warn_as_errors() -> None:
    """Make errors of the warnings that a reader who runs the page would see.

    Deprecations inside other libraries stay hidden, as Python hides them.
    """
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.filterwarnings("error", "", DeprecationWarning, r"__main__|tfdoc")
