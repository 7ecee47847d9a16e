"""The calculator in a browser: to the byte what Python counts, by mouse, key and link."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tfdoc import ledger, preset_names

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SETTINGS = 600
ASK = """cases => cases.map((choice) => {
    const found = estimates.estimate(choice);
    const { book, memory, flops, trainable, need } = found;
    const { total, active, embedding, byComponent, architecture } = book;
    return JSON.parse(JSON.stringify(
        { architecture, total, active, embedding, byComponent, memory, need, flops,
          trainable },
        (_, value) => (typeof value === "bigint" ? `${value}` : value),
    ));
})"""


@pytest.fixture
def calculator(browser: Browser, site: Path) -> Iterator[Page]:
    """The page as it opens from a folder, with no server and no network."""
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        page.goto((site / "calculator.html").as_uri())
        yield page


def drawn(rng: random.Random) -> dict[str, Any]:
    return {
        "config": rng.choice(preset_names()),
        "architecture": "",
        "batch": str(rng.randint(1, 512)),
        "seq": str(rng.randint(1, 2**20)),
        "dtype": rng.choice(["fp32", "bf16", "fp16", "fp8"]),
        "quant": rng.choice(["none", "int8", "nf4"]),
        "kv_dtype": rng.choice(["fp32", "bf16", "fp16", "fp8"]),
        "logits": rng.choice(["all", "last"]),
        "tuning": rng.choice(["full", "lora"]),
        "r": str(rng.randint(1, 512)),
        "targets": rng.choice(["all-linear", "qkvo", "qv"]),
        "gpu": rng.choice(["24GiB", "80GB", "12345678901"]),
    }


def counted(choice: dict[str, Any]) -> dict[str, Any]:
    book = ledger(choice["config"])
    batch, seq = int(choice["batch"]), int(choice["seq"])
    memory = {
        "weights": book.bytes(choice["dtype"], choice["quant"]),
        "kv_cache": book.kv_cache(batch, seq, choice["kv_dtype"]),
    }
    lora = choice["tuning"] == "lora"
    return {
        "architecture": book.architecture,
        "total": book.total,
        "active": book.active,
        "embedding": book.embedding,
        "byComponent": book.by_component,
        "memory": memory,
        "need": sum(memory.values()),
        "flops": book.flops(batch, seq, None, choice["logits"]),
        "trainable": book.lora(int(choice["r"]), choice["targets"]) if lora else None,
    }


def texts(value: Any) -> Any:
    """Return a value with its whole numbers as text, as they leave the browser."""
    if isinstance(value, dict):
        return {key: texts(item) for key, item in value.items()}
    return str(value) if isinstance(value, int) else value


def test_hundreds_of_settings_to_the_byte(calculator: Page) -> None:
    rng = random.Random("calculator")  # noqa: S311  # the same every time
    choices = [drawn(rng) for _ in range(SETTINGS)]
    for choice, found in zip(choices, calculator.evaluate(ASK, choices), strict=True):
        assert found == texts(counted(choice)), choice
