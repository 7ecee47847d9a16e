"""How long a page takes and how much memory, and the limit on its time."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

DEFAULT_LIMIT = 120.0
_AGAIN = 5.0  # for code that swallows the exception: it gets another
_GRACE = 30.0  # for code that swallows them all or never returns to Python
_STATUS = Path("/proc/self/status")


class Cost(NamedTuple):
    """What a page took: seconds, and MiB on top of what was there before it."""

    seconds: float
    memory: float | None


class _Run(NamedTuple):
    page: str
    began: float
    memory: float | None


_running: _Run | None = None
costs: dict[str, Cost] = {}


def limit() -> float:
    """Return the seconds that a page may take: ``TFDOC_PAGE_TIMEOUT``, or 120."""
    return float(os.environ.get("TFDOC_PAGE_TIMEOUT", DEFAULT_LIMIT))


def running() -> str | None:
    """Return the file name of the page that is running, or None."""
    return _running.page if _running else None


def start(page: str) -> None:
    """Start the clock of `page`; past its limit it gets a ``TimeoutError``."""
    global _running  # noqa: PLW0603 - one page runs at a time

    def stop_page(*_: object) -> NoReturn:
        msg = (
            f"{page} still runs after {limit():g} s. Make it shorter, or raise the "
            "limit with the environment variable TFDOC_PAGE_TIMEOUT."
        )
        raise TimeoutError(msg)

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, stop_page)
        signal.setitimer(signal.ITIMER_REAL, limit(), _AGAIN)
    faulthandler.dump_traceback_later(
        limit() + _GRACE, exit=True, file=sys.__stderr__ or sys.stderr
    )
    if _STATUS.exists():  # Linux forgets its high-water mark when told to
        Path("/proc/self/clear_refs").write_text("5")
    _running = _Run(page, time.perf_counter(), _memory("VmRSS"))


def stop() -> None:
    """Stop the clock and keep the page's cost in ``costs``."""
    global _running  # noqa: PLW0603
    if hasattr(signal, "SIGALRM"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    if _running is not None:
        peak, before = _memory("VmHWM"), _running.memory
        memory = None if peak is None or before is None else max(0.0, peak - before)
        costs[_running.page] = Cost(time.perf_counter() - _running.began, memory)
    _running = None


def _memory(field: str) -> float | None:
    """Read a field of Linux's process status in MiB; elsewhere None."""
    if not _STATUS.exists():
        return None
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) / 1024 if found else None
