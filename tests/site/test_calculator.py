"""The calculator's JavaScript against Python, to the last digit and the last word."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sympy  # type: ignore[import-untyped]
from calculator import bundle, page, tracing
from docutils.utils.math.latex2mathml import tex2mathml

from tests.browser.conftest import missing
from tests.drawn_configs import draw
from tests.drawn_settings import COVERED, SPOILT, drawn, estimated, written
from tests.test_ledger_errors import FILES, WRONG
from tfdoc import Ledger, ledger, preset, preset_names
from tfdoc.cost import formulas
from tfdoc.cost.tables import TYPES, model

HEADS = [(name, head) for name in TYPES for head in model(name)["heads"]]
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 7, 10**10, 10**40, 1.0, 2.5, 1e-7, 1e22, float("nan"),
    "", "gated-silu", "it's", 'a "b" \\ \n', [], [0], [1, 0], ["full_attention"], {}, {"a": [1]},
]  # fmt: skip


@pytest.fixture(scope="module")
def node() -> str:
    program = shutil.which("node")
    if program is None:
        missing("there is no `node` on PATH")
    return program


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calculator") / "ledger.js"
    path.write_text(bundle.ledger_script(), encoding="utf-8")
    return path


def asked(node: str, script: Path, cases: list[dict[str, Any]]) -> list[Any]:
    driver = Path(__file__).with_name("ledgers.cjs")
    done = subprocess.run(  # noqa: S603  # our own command
        [node, str(driver), str(script)],
        input=json.dumps(cases), capture_output=True, check=True, encoding="utf-8",
    )  # fmt: skip
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def attempt(book: Ledger, method: str, *arguments: Any) -> Any:
    try:
        return getattr(book, method)(*arguments)
    except (TypeError, ValueError) as error:
        return {"Refused": str(error)}


def answer(
    config: Any, architecture: str | None, asks: list[tuple[Any, ...]]
) -> dict[str, Any]:
    """Return what Python says, in the driver's shape."""
    try:
        book = ledger(config, architecture)
    except (TypeError, ValueError) as error:
        return {"Refused": str(error)}
    found = {
        "architecture": book.architecture,
        "total": book.total,
        "active": book.active,
        "embedding": book.embedding,
        "byComponent": book.by_component,
        "used": book.used,
        "neutral": book.neutral,
        "leftOut": book.left_out,
        "rows": [
            (row.component, row.stack, row.name, row.shape, row.tied_to, row.lora, row.matmul,
             row.copies, row.runs, row.side, row.per, row.quantisable)
            for row in book._rows
        ],
        "asks": [attempt(book, *ask) for ask in asks],
    }  # fmt: skip
    return written(found)  # type: ignore[no-any-return]


def questions(rng: random.Random, names: list[str]) -> list[tuple[Any, ...]]:
    batch, seq, r = rng.randint(1, 64), rng.randint(1, 10**6), rng.randint(1, 256)
    some = ",".join(rng.sample(names, min(2, len(names))))
    return [
        *(("bytes", d, q) for d in ("fp32", "bf16", "fp8") for q in ("none", "int8", "nf4")),
        *(("lora", r, targets) for targets in ("qv", "qkvo", "all-linear", some, some[1:])),
        *(("kv_cache", batch, seq, d) for d in ("bf16", "fp8")),
        ("flops", batch, seq),
        ("flops", batch, seq, None, "last"),
        ("flops", batch, seq, 77),
        ("kv_cache", batch, seq, "bf16", 77),
        ("bytes", "int4", "none"), ("lora", 0, "qv"), ("flops", 0, 1), ("kv_cache", 1, 0),
    ]  # fmt: skip


Question = tuple[Any, str | None, list[tuple[Any, ...]]]


def compare(node: str, script: Path, asks: list[Question]) -> int:
    """Compare both languages and return how many configs were refused."""
    methods = {"kv_cache": "kvCache"}
    cases = [
        {
            "config": config if isinstance(config, str) else json.dumps(config),
            "architecture": head,
            "asks": written([(methods.get(m, m), *rest) for m, *rest in questions_]),
        }
        for config, head, questions_ in asks
    ]
    refused = 0
    answers = asked(node, script, cases)
    for (config, head, questions_), theirs in zip(asks, answers, strict=True):
        ours = answer(config, head, questions_)
        refused += "Refused" in ours
        assert theirs == ours, json.dumps(config)
    return refused


def leaves(book: Ledger) -> list[str]:
    names = {e.name.removesuffix(".weight") for e in book.entries if e.lora}
    return sorted({name.rpartition(".")[2] for name in names})


def test_presets_to_the_last_digit(node: str, script: Path) -> None:
    rng = random.Random("presets")  # noqa: S311  # the same every time
    asks: list[Question] = [
        (name, None, questions(rng, leaves(ledger(name)))) for name in preset_names()
    ]
    assert compare(node, script, asks) == 0


def test_drawn_configs_to_the_last_digit(node: str, script: Path) -> None:
    rng = random.Random("drawn")  # noqa: S311
    asks: list[Question] = []
    for name, head in HEADS:
        keys = model(name)["keys"].items()
        nullable = frozenset(key for key, (_, _, *if_null) in keys if if_null)
        config = draw(name, rng, nullable)
        asks.append((config, head, questions(rng, leaves(ledger(config, head)))))
    assert len(asks) > 200
    assert compare(node, script, asks) == 0


def test_spoilt_configs_to_the_last_word(node: str, script: Path) -> None:
    """One key of a config is wrong or odd: the same refusal, or the same numbers."""
    rng = random.Random("spoilt")  # noqa: S311
    asks: list[Question] = []
    for name in TYPES:
        table = model(name)
        keys = [*table["keys"], *table["only"], *table["aliases"], *table["neutral"]]
        keys += ["architectures", "id2label", "num_labels", "model_type", "text_config"]
        for _ in range(12):
            config = draw(name, rng)
            key = rng.choice(keys)
            key = key[: rng.choice([3, 99, 99, 99])] if len(key) > 6 else key
            config[key] = rng.choice(ODD)
            asks.append((config, None, []))
    assert 200 < compare(node, script, asks) < 500


def as_text(wrong: Any) -> bool:
    return isinstance(wrong, dict) and all(isinstance(key, str) for key in wrong)


def test_wrong_configs_to_the_last_word(node: str, script: Path) -> None:
    asks: list[Question] = [(c, None, []) for c, *_ in WRONG if as_text(c)]
    assert len(asks) > 40
    assert compare(node, script, asks) == len(asks)


def test_wrong_texts_are_refused(node: str, script: Path) -> None:
    texts = [text for text, *_ in FILES if isinstance(text, str)]
    texts += [
        "lama-3-8b",
        "7",
        "{",
        '{"a" 1}',
        '{"a": 1,}',
        '{"a": 1} {}',
        '{"a": "\\x"}',
    ]
    cases: list[dict[str, Any]] = [
        {"config": text, "architecture": None, "asks": []} for text in texts
    ]
    said = [case.get("Refused", "") for case in asked(node, script, cases)]
    assert all(said)
    assert said[-6:-2] == [
        "the config must hold an object, got int",
        "the config is not JSON: no text in quotes in line 1; is it complete?",
        "the config is not JSON: no : in line 1; is it complete?",
        "the config is not JSON: no text in quotes in line 1; is it complete?",
    ]
    assert "did you mean 'llama-3-8b'" in said[-7]


def compare_estimates(node: str, script: Path, asks: list[dict[str, Any]]) -> int:
    """Compare both languages and return how many settings were refused."""
    refused = 0
    answers = asked(node, script, [{"estimate": written(chosen)} for chosen in asks])
    for chosen, theirs in zip(asks, answers, strict=True):
        ours = estimated(chosen)
        refused += "Refused" in ours
        assert theirs == ours, chosen
        assert json.dumps(theirs) == json.dumps(ours), "the same in another order"
    return refused


def test_estimates_to_the_byte(node: str, script: Path) -> None:
    rng = random.Random("estimates")  # noqa: S311
    asks = [
        drawn(rng, name) for name in COVERED for _ in range(-(-600 // len(COVERED)))
    ]
    assert compare_estimates(node, script, asks) < len(asks) / 2


def test_spoilt_settings_to_the_last_word(node: str, script: Path) -> None:
    rng = random.Random("spoilt")  # noqa: S311
    asks = [
        drawn(rng, rng.choice(COVERED)) | {name: value}
        for name, values in SPOILT.items()
        for value in values
        for _ in range(4)
    ]
    assert compare_estimates(node, script, asks) > len(asks) / 2


def test_a_text_model_is_read_and_the_rest_named(node: str, script: Path) -> None:
    text = preset("gemma-3-1b")
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {"a": 1}}
    tied: dict[str, Any] = {**outer, "tie_word_embeddings": False}
    compare(node, script, [(outer, None, []), (tied, None, [])])


def test_every_formula_is_written_in_all_three_ways(node: str, tmp_path: Path) -> None:
    """Python, JavaScript and LaTeX of each formula; the first two give the same."""
    rng = random.Random("formulas")  # noqa: S311
    written_out = tracing.traced(formulas)
    calls, values = [], []
    for formula in written_out:
        assert tex2mathml(tracing.latex(formula)).startswith("<math")
        assert formula.meaning.startswith("Return ")
        for size in (9, 10**3, 10**12):
            numbers = [rng.randint(1, size) for _ in formula.arguments]
            calls.append(
                f"formulas.{formula.name}({', '.join(f'{n}n' for n in numbers)})"
            )
            values.append(str(getattr(formulas, formula.name)(*numbers)))
    code = f"{tracing.script(written_out)}\nconsole.log([{', '.join(calls)}].join())"
    (tmp_path / "formulas.js").write_text(code, encoding="utf-8")
    done = subprocess.run(  # noqa: S603
        [node, str(tmp_path / "formulas.js")],
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.strip().split(",") == values


def test_a_formula_that_leaves_the_whole_numbers_is_refused() -> None:
    a = sympy.Symbol("a_x", integer=True)
    for value in (a / 2, a**-1, sympy.Float(0.5) * a, sympy.Rational(1, 2) + a):
        with pytest.raises(ValueError, match="is no whole number"):
            tracing.script([tracing.Formula("wrong", "", (a,), value)])


def test_two_bundles_are_the_same_bytes() -> None:
    assert bundle.ledger_script() == bundle.ledger_script()


def test_every_preset_is_offered_once() -> None:
    offered = [name for _, names in page.families() for name in names]
    assert offered == list(preset_names())
    assert {page.FIRST, *page.GLANCE} <= set(offered)
