"""The calculator in a browser: to the byte what Python counts, by mouse, key and link."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.drawn_settings import COVERED, drawn, estimated, written
from tfdoc import estimate, ledger, preset

from .checker import serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

SETTINGS = 600
ASK = """cases => {
    const revive = (_, value) => (value?.whole ? BigInt(value.whole) : value);
    const write = (_, value) =>
        (typeof value === "bigint" ? { whole: `${value}` } : value);
    return JSON.stringify(JSON.parse(cases, revive).map((settings) => {
        try {
            return estimates.estimate(settings);
        } catch (error) {
            return { [error.constructor.name]: error.message };
        }
    }), write);
}"""
# Fields of the form: how it names a choice that the estimate leaves out.
LEFT_OUT = {
    "overhead": 0,
    "kv_dtype": "",
    "logits": "",
    "requests": "",
    "seq": "",
    "quant": "none",
}


@pytest.fixture
def calculator(browser: Browser, site: Path) -> Iterator[Page]:
    """The page as it opens from a folder, with no server and no network."""
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        page.goto((site / "calculator.html").as_uri())
        yield page


def test_hundreds_of_settings_to_the_byte(calculator: Page) -> None:
    rng = random.Random("calculator")  # noqa: S311  # the same every time
    asks = [drawn(rng, rng.choice(COVERED)) for _ in range(SETTINGS)]
    answers = json.loads(calculator.evaluate(ASK, json.dumps(written(asks))))
    for chosen, theirs in zip(asks, answers, strict=True):
        assert theirs == estimated(chosen), chosen


def drive(page: Page, chosen: dict[str, Any]) -> None:
    """Make a choice by the controls that a reader sees."""
    lora = chosen.get("lora")
    fields = LEFT_OUT | {k: v for k, v in chosen.items() if v is not None}
    fields["checkpointing"] = "on" if chosen.get("checkpointing") else "off"
    fields["adapters"] = "lora" if lora else "none"
    fields["gpu"] = "" if "gpu" in chosen else "none"
    fields["size"] = chosen.get("gpu")
    if lora:
        targets = lora.get("targets", "all-linear")
        known = targets in ("qv", "qkvo", "all-linear")
        fields |= {
            "r": lora["r"],
            "names": targets,
            "targets": targets if known else "",
        }
    order = ["config", "mode", "adapters", "targets", "gpu", *sorted(fields)]
    for name in order:
        field = page.locator(f"#calc-{name}")
        if name not in fields or not field.is_visible():
            continue
        if field.evaluate("field => field.localName") == "select":
            field.select_option(str(fields[name]))
        else:
            field.fill(str(fields[name]))


def shown(page: Page) -> dict[str, str]:
    """Return the exact numbers of the tables by their names."""
    tables = ("memory", "peaks", "numbers")
    rows = page.locator(", ".join(f"#calc-{name} tr" for name in tables))
    return {
        row.locator("th").inner_text(): row.locator("td").last.inner_text()
        for row in rows.all()
    }


def expected(chosen: dict[str, Any]) -> dict[str, str]:
    found = estimate(**chosen)
    memory, parameters = found.memory, found.parameters
    kinds = {"optimizer": "optimiser", "kv_cache": "key and value cache"}
    moments = {
        "forward": "forward pass",
        "loss": "loss",
        "backward": "backward pass",
        "step": "optimiser's step",
    }
    train = chosen["mode"] == "train"
    named = {kinds.get(kind, kind): n for kind, n in memory.at_peak.items()}
    named |= {"overhead": found.overhead, "together": memory.peak + found.overhead}
    named |= {moments[name]: n for name, n in memory.peaks.items()}
    named |= {
        "parameters": parameters.total,
        "of them active for a token": parameters.active % parameters.total,
        "of them in embeddings": parameters.embedding,
        "adapters": found.lora.trainable,
        "trained": (found.lora.trainable or parameters.total) * train,
        "operations of a forward pass": found.flops.forward,
        "operations of a training step": found.flops.training_step,
    }
    return {name: f"{number:,}" for name, number in named.items() if number}


def sensible(rng: random.Random) -> dict[str, Any]:
    """Return settings that Python does not refuse, with sizes as texts."""
    while True:
        chosen = drawn(rng, rng.choice(COVERED))
        whole = isinstance(chosen.get("gpu"), int)
        if not whole and "Refused" not in estimated(chosen):
            return chosen


def test_a_dozen_choices_by_the_controls(calculator: Page) -> None:
    rng = random.Random("by hand")  # noqa: S311
    for _ in range(12):
        chosen = sensible(rng)
        drive(calculator, chosen)
        assert shown(calculator) == expected(chosen), chosen
        link = calculator.locator("#calc-link").get_attribute("href")
        assert link
        assert calculator.url.endswith(link)
        fits = estimate(**chosen).fits
        verdict = calculator.locator("#calc-verdict").inner_text()
        assert ("does not fit" in verdict) == (fits is False)


def test_a_link_carries_the_choice(calculator: Page) -> None:
    chosen = sensible(random.Random("link"))  # noqa: S311
    drive(calculator, chosen)
    there = calculator.url
    calculator.goto("about:blank")
    calculator.goto(there)
    assert shown(calculator) == expected(chosen)
    assert calculator.locator("#calc-config").input_value() == chosen["config"]
    calculator.evaluate("location.hash = '#config=llama-7b'")
    calculator.wait_for_function(
        "document.querySelector('#calc-config').value === 'llama-7b'"
    )
    assert calculator.locator("#calc-verdict").inner_text().startswith("llama-7b needs")


def test_a_lever_is_a_link_to_what_it_says(calculator: Page) -> None:
    chosen: dict[str, Any] = {"config": "llama-3-8b", "mode": "train", "gpu": "24GiB"}
    drive(calculator, chosen)
    levers = calculator.locator("#calc-levers li")
    best = estimate(**chosen).levers
    assert levers.count() == min(4, len(best))
    for i, (name, peak) in enumerate(list(best.items())[:4]):
        drive(calculator, chosen)
        before = levers.nth(i).inner_text()
        levers.nth(i).locator("a").click()
        calculator.wait_for_function(
            "text => !document.querySelector('#calc-levers').innerText.includes(text)",
            arg=before,
        )
        assert shown(calculator)["together"] == f"{peak:,}", name
        calculator.evaluate("location.hash = '#batch=1'")


def test_a_link_to_what_is_not_here_says_so(calculator: Page) -> None:
    calculator.evaluate("location.hash = '#config=gpt5&colour=red&batch=2'")
    verdict = calculator.locator("#calc-verdict.refused")
    assert "config=gpt5, colour=red" in verdict.inner_text()
    calculator.locator("#calc-batch").fill("3")
    assert verdict.count() == 0


def test_a_config_is_pasted(calculator: Page) -> None:
    config = preset("llama-3-8b") | {"num_hidden_layers": 3}
    head = "LlamaForSequenceClassification"
    calculator.locator("#calc-config").select_option("")
    calculator.locator("#calc-pasted").fill(json.dumps(config, indent=2))
    assert shown(calculator)["parameters"] == f"{ledger(config).total:,}"
    calculator.locator("#calc-architecture").select_option(head)
    assert shown(calculator)["parameters"] == f"{ledger(config, head).total:,}"
    there = calculator.url
    calculator.goto("about:blank")
    calculator.goto(there)
    assert shown(calculator)["parameters"] == f"{ledger(config, head).total:,}"
    calculator.locator("#calc-pasted").fill('{"model_type": "llama", "hiden_size": 1}')
    verdict = calculator.locator("#calc-verdict.refused").inner_text()
    assert verdict.endswith("for model_type='llama'; did you mean 'hidden_size'?")
    assert not calculator.locator("#calc-found").is_visible()


def test_the_keyboard_alone_will_do(calculator: Page) -> None:
    calculator.locator("#calc-config").focus()
    calculator.keyboard.type("mixtral-8x7b")
    for _ in range(3):
        calculator.keyboard.press("Tab")
    assert calculator.locator(":focus").get_attribute("name") == "batch"
    calculator.keyboard.press("Control+a")
    calculator.keyboard.type("7")
    assert calculator.locator("#calc-config").input_value() == "mixtral-8x7b"
    peak = estimate("mixtral-8x7b", batch=7).memory.peak
    assert shown(calculator)["together"] == f"{peak:,}"


def test_formulas_are_filled_in(calculator: Page) -> None:
    calculator.locator("#calc-results summary").first.click()
    steps = calculator.locator("#calc-steps math").all_text_contents()
    flat = {"".join(step.split()) for step in steps}
    total = ledger("llama-3-8b").total
    assert f"2⋅{total:,}⋅2={4 * total:,}" in flat  # AdamW in bf16
    terms = calculator.locator("#calc-terms tr")
    assert terms.count() == len(estimate("llama-3-8b").steps)


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
        page.locator("#calc-config").select_option("llama-7b")
        assert page.locator("#calc-verdict").inner_text().startswith("llama-7b needs")
        part = page.locator("#calc-bar .part").first
        assert part.evaluate("part => part.style.width").endswith("%")
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
