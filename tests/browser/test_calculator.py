"""The calculator in a browser: to the byte what Python counts, by mouse, key and link."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tfdoc import ledger, preset, preset_names

from .checker import serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

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


def drive(page: Page, choice: dict[str, Any]) -> None:
    """Make a choice by the controls that a reader sees."""
    for name in ("config", "dtype", "quant", "kv_dtype", "logits", "tuning"):
        page.locator(f"#calc-{name}").select_option(choice[name])
    for name in ("batch", "seq"):
        page.locator(f"#calc-{name}").fill(choice[name])
    if choice["tuning"] == "lora":
        page.locator("#calc-r").fill(choice["r"])
        page.locator("#calc-targets").select_option(choice["targets"])
    page.locator("#calc-gpu").select_option("")
    page.locator("#calc-size").fill(choice["gpu"])


def shown(page: Page) -> dict[str, str]:
    """Return the exact numbers of both tables by their names."""
    rows = page.locator("#calc-memory tr, #calc-numbers tr")
    return {
        row.locator("th").inner_text(): row.locator("td").last.inner_text()
        for row in rows.all()
    }


def expected(choice: dict[str, Any]) -> dict[str, str]:
    found = counted(choice)
    named = {
        "weights": found["memory"]["weights"],
        "key and value cache": found["memory"]["kv_cache"],
        "together": found["need"],
        "parameters": found["total"],
        "of them active for a token": found["active"] % found["total"],
        "of them in embeddings": found["embedding"],
        "trained by LoRA": found["trainable"],
        "operations of a forward pass": found["flops"],
    }
    return {name: f"{number:,}" for name, number in named.items() if number}


def test_a_dozen_choices_by_the_controls(calculator: Page) -> None:
    rng = random.Random("by hand")  # noqa: S311
    for _ in range(12):
        choice = drawn(rng)
        drive(calculator, choice)
        assert shown(calculator) == expected(choice), choice
        link = calculator.locator("#calc-link").get_attribute("href")
        assert link
        assert calculator.url.endswith(link)


def test_a_link_carries_the_choice(calculator: Page) -> None:
    rng = random.Random("link")  # noqa: S311
    choice = drawn(rng) | {"config": "qwen3-30b-a3b", "tuning": "lora"}
    drive(calculator, choice)
    there = calculator.url
    calculator.goto("about:blank")
    calculator.goto(there)
    assert shown(calculator) == expected(choice)
    assert calculator.locator("#calc-config").input_value() == "qwen3-30b-a3b"
    calculator.evaluate("location.hash = '#config=gpt2'")
    calculator.wait_for_function(
        "document.querySelector('#calc-config').value === 'gpt2'"
    )
    assert (
        calculator.locator("#calc-verdict").inner_text().startswith("GPT2LMHeadModel")
    )


def test_a_link_to_what_is_not_here_says_so(calculator: Page) -> None:
    calculator.evaluate("location.hash = '#config=gpt5&colour=red&batch=2'")
    verdict = calculator.locator("#calc-verdict.refused")
    assert "config=gpt5, colour=red" in verdict.inner_text()
    calculator.locator("#calc-batch").fill("3")
    assert verdict.count() == 0


def test_a_config_is_pasted(calculator: Page) -> None:
    config = preset("olmoe-1b-7b") | {"num_hidden_layers": 3}
    calculator.locator("#calc-config").select_option("")
    calculator.locator("#calc-pasted").fill(json.dumps(config, indent=2))
    assert shown(calculator)["parameters"] == f"{ledger(config).total:,}"
    calculator.locator("#calc-architecture").select_option("OlmoeModel")
    assert shown(calculator)["parameters"] == f"{ledger(config, 'OlmoeModel').total:,}"
    there = calculator.url
    calculator.goto("about:blank")
    calculator.goto(there)
    assert shown(calculator)["parameters"] == f"{ledger(config, 'OlmoeModel').total:,}"
    calculator.locator("#calc-pasted").fill('{"model_type": "olmoe", "hiden_size": 1}')
    verdict = calculator.locator("#calc-verdict.refused").inner_text()
    assert verdict.endswith("for model_type='olmoe'; did you mean 'hidden_size'?")
    assert not calculator.locator("#calc-found").is_visible()


def test_the_keyboard_alone_will_do(calculator: Page) -> None:
    calculator.locator("#calc-config").focus()
    calculator.keyboard.type("gpt2-xl")
    calculator.keyboard.press("Tab")
    calculator.keyboard.press("Tab")
    assert calculator.locator(":focus").get_attribute("name") == "batch"
    calculator.keyboard.press("Control+a")
    calculator.keyboard.type("7")
    assert calculator.locator("#calc-config").input_value() == "gpt2-xl"
    cache = ledger("gpt2-xl").kv_cache(7, 8192)
    assert shown(calculator)["key and value cache"] == f"{cache:,}"


def test_formulas_are_filled_in(calculator: Page) -> None:
    calculator.locator("#calc-results summary").first.click()
    steps = calculator.locator("#calc-steps math").all_text_contents()
    flat = ["".join(step.split()) for step in steps]
    assert "1⋅536,870,912⋅2=1,073,741,824" in flat


def test_a_strict_policy_changes_nothing(browser: Browser, site: Path) -> None:
    """No inline handler or style and no eval; furo's own inline script is not ours."""

    def strict(route: Route) -> None:
        answer = route.fetch()
        policy = {"content-security-policy": "default-src 'self'"}
        route.fulfill(response=answer, headers={**answer.headers, **policy})

    allowed = ["clipboard-read", "clipboard-write"]
    with serve(site) as address, browser.new_context(permissions=allowed) as context:
        page = context.new_page()
        page.route("**/calculator.html", strict)
        page.goto(f"{address}calculator.html")
        page.locator("#calc-config").select_option("gpt2")
        assert page.locator("#calc-verdict").inner_text().startswith("GPT2LMHeadModel")
        width = page.locator("#calc-bar .part").first.evaluate(
            "part => part.style.width"
        )
        assert width.endswith("%")
        page.locator("#calc-copy").click()
        page.locator("#calc-copied", has_text="Copied.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_without_javascript_there_is_a_table(browser: Browser, site: Path) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto((site / "calculator.html").as_uri())
        assert page.locator("#calc-off").is_visible()
        assert not page.locator("#calc-form").is_visible()
        row = page.locator("table.glance tr", has_text="llama-3-8b")
        assert row.locator("td").nth(1).inner_text() == "8,030.3"
