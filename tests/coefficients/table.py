"""The table of coefficients: for every type and setting the few moments of its peak.

``python -m tests.coefficients.table [TYPE ...]`` writes it anew, for some types or all.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from tests.coefficients.sizes import Poly, text
from tests.coefficients.stage import BASE, LM, Flags, Stage, stages
from tests.coefficients.traces import (
    KIND,
    Matrix,
    Setting,
    Terms,
    Trace,
    affine,
    follow,
    sizes_of,
    traces,
)
from tfdoc.cost.tables import TYPES

FILE = Path(__file__).parents[2] / "tfdoc" / "cost" / "memory.json"
PROBES = 3  # settings that decide whether a variant is like an earlier one
TOLERANCE = 1e-3  # of the peak, by which the chosen moments may fall short of all
NEGLIGIBLE = 1e-5  # of the peak: a term that is never more is left out
Form = list[list[Any]]  # [moment, {kind: expression}]


def settings(lm: bool, tied: bool) -> Iterator[Setting]:
    """Yield every way to run a model, those first that tell most about it.

    Where the head is no vocabulary, adapters and the last logits alone have no form of
    their own; and nothing but full training depends on whether tables are tied.
    """
    ways = [Setting(True, "amp", "eager"), Setting(True, "bf16", "sdpa", True)]
    if tied:
        ways += [Setting(False, "bf16", "sdpa"), Setting(True, "amp", "sdpa", targets="qv")][: 1 + lm]  # fmt: skip
    targets = ("", "qv", "qkvo", "all-linear") if lm and tied else ("",)
    dtypes, kinds = ("fp32", "bf16", "amp"), ("eager", "sdpa")
    ways += [Setting(True, *way) for way in product(dtypes, kinds, (False, True), targets)]
    if tied:
        ways += [
            Setting(False, *way, last=last)
            for way in product(dtypes, kinds)
            for last in ((False, True) if lm else (False,))
        ]
    yield from dict.fromkeys(ways)


def form(
    stage: Stage, kinds: tuple[str, ...], setting: Setting, samples: list[Any]
) -> Form:
    """Rehearse with one layer more of each kind; return the moments that matter."""
    terms, sizes = Terms(), sizes_of(stage)
    base = traces(follow(stage, setting), sizes, terms)
    longer = {kind: traces(follow(stage.longer(kind), setting), sizes, terms) for kind in kinds}
    found: Form = []
    for moment, trace in base.items():
        parts = entries(trace, {kind: more[moment] for kind, more in longer.items()})
        for row, relevant in chosen(parts, terms, samples, setting):
            found.append([moment, expressions(parts, row, terms, relevant)])
    return found


def entries(base: Trace, longer: dict[str, Trace]) -> dict[str, Matrix]:
    """Return every entry as a fixed part and a part for each layer of a kind.

    An entry that keeps its distance from both ends of a kind's layers comes twice.
    """
    here = np.arange(len(base.tokens))
    parts = {"": base.values}
    for kind, more in longer.items():
        at, slopes = affine(base, more)
        rows, columns = np.nonzero(here[:, None] == at[None, :])
        parts = {name: matrix[rows] for name, matrix in parts.items()}
        parts[kind] = slopes[columns]
        here = here[rows]
    parts[""] = parts[""] - BASE * sum(parts[kind] for kind in longer)
    return parts


def chosen(
    parts: dict[str, Matrix], terms: Terms, samples: list[Any], setting: Setting
) -> Iterator[tuple[int, Any]]:
    """Yield the few entries that are the peak of this moment in some sample.

    With each comes which of its terms ever matter, by part.
    """
    width = 2 if setting.precision == "bf16" else 4
    columns = list(terms.index)
    factors = np.array(
        [[_product(names, numbers) for _, names in columns] for numbers, _ in samples]
    )
    times = {
        kind: np.array([float(numbers.get(kind, 1)) for numbers, _ in samples])[:, None]
        for kind in parts
    }
    totals = sum(
        times[kind] * (factors @ matrix[:, : len(columns)].T.astype(float))
        for kind, matrix in parts.items()
    )
    best = totals.max(1)
    whole = best + np.array([width * size for _, size in samples])
    reached = np.full(len(samples), -np.inf)
    while ((gap := (best - reached) / whole) > TOLERANCE).any():
        row = int(totals[int(gap.argmax())].argmax())
        reached = np.maximum(reached, totals[:, row])
        yield row, {
            kind: (abs(times[kind] * factors * matrix[row, : len(columns)]) / whole[:, None]).max(0) > NEGLIGIBLE
            for kind, matrix in parts.items()
        }


def _product(names: tuple[str, ...], numbers: dict[str, Any]) -> float:
    result = 1.0
    for name in names:
        result *= numbers[name]
    return result


def expressions(
    parts: dict[str, Matrix], row: int, terms: Terms, relevant: dict[str, Any]
) -> dict[str, str]:
    """Return what each kind takes at an entry, in the language of ``models.json``."""
    polys: dict[str, Poly] = {kind: Counter() for kind in KIND}
    for count, matrix in parts.items():
        for (kind, names), column in terms.index.items():
            number = int(matrix[row, column])
            if number and relevant[count][column]:
                polys[kind][tuple(sorted((*names, *([count] if count else []))))] += (
                    number
                )
    return {kind: text(poly) for kind, poly in polys.items() if any(poly.values())}


# Vocabulary, width, layers, hidden width, heads, their width, key/value heads: small to
# large, long and flat, of encoders and decoders.
SHAPES = (
    (30_522, 768, 12, 3072, 12, 64, 12),
    (50_257, 1600, 48, 6400, 25, 64, 25),
    (262_144, 1152, 26, 6912, 4, 256, 1),
    (151_936, 1024, 28, 3072, 16, 128, 8),
    (32_000, 4096, 32, 11_008, 32, 128, 32),
    (128_256, 8192, 80, 28_672, 64, 128, 8),
    (256_000, 3072, 28, 24_576, 16, 256, 16),
)
LENGTHS = tuple(product((1, 4, 32), (32, 512, 4096, 32_768)))


def samples(kinds: tuple[str, ...], flags: Flags) -> list[tuple[dict[str, Any], int]]:
    """Return numbers of models in many sizes of batch and sequence, and their weights."""
    found = []
    for (V, D, L, F, H, d, G), (batch, seq) in product(SHAPES, LENGTHS):
        numbers = {"V": V, "D": D, "F": F, "H": H, "d": d, "G": G, "L": L, "Ld": L}
        numbers |= {"Fd": F, "Hd": H, "g": G, "Y": D, "M": F // 4, "S": F // 2, "E": 32}
        numbers |= {"K": 4, "n": d, "r": 64, "v": d, "c": 512, "b": 1536, "dd": d}
        numbers |= {"batch": batch, "seq": seq, "tokens": batch * seq, "rank": 16}
        numbers |= {"pairs": batch * seq * seq}
        numbers |= {s: v for s, v in flags if isinstance(v, int) and v is not True and v}
        if kinds != ("L",) and "Ld" not in kinds:
            numbers |= {kinds[0]: L - L // 4, kinds[-1]: L if len(kinds) == 1 else L // 4}
        size = 2 * V * D + L * (2 * D * d * (H + G) + 3 * D * F)
        found.append((numbers, size))
    return found


Known = list[tuple[tuple[Any, ...], dict[str, Form]]]


def variants(model_type: str, known: Known) -> Iterator[tuple[str, dict[str, Form]]]:
    """Yield (condition, setting -> form) of a type.

    A variant whose probes give what an earlier one gave, of this type or another, takes
    all its other forms from there.
    """
    for condition, head, flags, kinds in stages(model_type):
        lm, tied = head in LM, dict(flags)["tied"]
        stage = Stage(model_type, head, flags, tuple((kind, BASE) for kind in kinds))
        at = samples(kinds, flags)
        forms: dict[str, Form] = {}
        twin: dict[str, Form] | None = None
        for n, setting in enumerate(settings(lm, tied)):
            if twin and setting.name in twin:
                forms[setting.name] = twin[setting.name]
                continue
            try:
                forms[setting.name] = form(stage, kinds, setting, at)
            except (ValueError, TypeError) as error:
                if "attention implementation" not in str(error) and not setting.last:
                    raise
                logging.info("%s %s: %s", model_type, setting.name, str(error)[:70])
            if n == PROBES - 1:
                twin = next(
                    (
                        other
                        for key, other in known
                        if key == (lm, tied, kinds)
                        and forms.items() <= other.items()
                    ),
                    None,
                )
        known.append(((lm, tied, kinds), forms))
        logging.info("%s %s%s", model_type, condition, " (as before)" if twin else "")
        yield condition, forms


def write(chosen_types: list[str], file: Path = FILE) -> None:
    """Rehearse these types and write the table, the others as they were."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    types: dict[str, list[Any]] = {}
    known: Known = []
    for name in TYPES:
        if name in chosen_types:
            types[name] = [[c, forms] for c, forms in variants(name, known)]
        elif name in old.get("types", {}):
            types[name] = [
                [c, {s: old["forms"][n] for s, n in forms.items()}]
                for c, forms in old["types"][name]
            ]
        file.write_text(packed(types), encoding="utf-8")


def packed(types: dict[str, list[Any]]) -> str:
    """Return the table as JSON, each form once."""
    index: dict[str, int] = {}

    def number(form: Form) -> int:
        return index.setdefault(json.dumps(form), len(index))

    lines = [
        json.dumps(name)
        + ": [\n"
        + ",\n".join(
            json.dumps([c, {s: number(f) for s, f in forms.items()}])
            for c, forms in variants
        )
        + "]"
        for name, variants in types.items()
    ]
    about = json.dumps("Generated by tests/coefficients; read by memory.py.")
    return (
        f'{{\n"about": {about},\n"forms": [\n'
        + ",\n".join(index)
        + '\n],\n"types": {\n'
        + ",\n".join(lines)
        + "\n}\n}\n"
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write(sys.argv[1:] or list(TYPES))
