"""The table of coefficients: for every type and setting the few moments of its peak.

``python -m tests.coefficients.table [TYPE ...]`` writes it anew, for some types or all.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray

from tests.coefficients.sizes import Poly, text
from tests.coefficients.stage import BASE, LM, Flags, Stage, stages
from tests.coefficients.traces import (
    Matrix,
    Setting,
    Terms,
    Trace,
    affine,
    follow,
    sizes_of,
    traces,
)
from tfdoc.cost.memory import FOLDER, KINDS
from tfdoc.cost.tables import TYPES

LOG = logging.getLogger(__name__)

PROBES = 3  # settings that decide whether a variant is like an earlier one
TOLERANCE = 2e-3  # of the peak, by which the chosen entries may fall short of all
ROUGHLY = 3e-2  # the same for a moment that is not the peak
NEGLIGIBLE = 1e-4  # of the peak: a term that is never more is left out
Floats = NDArray[np.float64]
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
    ways += [
        Setting(True, *way) for way in product(dtypes, kinds, (False, True), targets)
    ]
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
    longer = {
        kind: traces(follow(stage.longer(kind), setting), sizes, terms)
        for kind in kinds
    }
    parts = {
        moment: entries(trace, {kind: more[moment] for kind, more in longer.items()})
        for moment, trace in base.items()
    }
    totals = {moment: total(part, terms, samples) for moment, part in parts.items()}
    width = 2 if setting.precision == "bf16" else 4
    weights = np.array([width * size for _, size in samples])
    peak = weights + np.max([each.max(1) for each in totals.values()], 0)
    return [
        [moment, expressions(parts[moment], row, terms, peak, samples)]
        for moment in base
        for row in chosen(totals[moment] + weights[:, None], peak)
    ]


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


def total(parts: dict[str, Matrix], terms: Terms, samples: list[Any]) -> Floats:
    """Return the bytes of every entry, a column, in every sample, a row."""
    sums = np.zeros((len(samples), len(parts[""])))
    for kind, matrix in parts.items():
        sums += factors(kind, terms, samples) @ matrix[:, : len(terms.index)].T
    return sums


def factors(kind: str, terms: Terms, samples: list[Any]) -> Floats:
    """Return what a coefficient of each term is multiplied by in every sample."""
    return np.array(
        [
            [prod((float(numbers[n]) for n in names), start=float(numbers.get(kind, 1))) for _, names in terms.index]
            for numbers, _ in samples
        ]
    )  # fmt: skip


def chosen(totals: Floats, peak: Floats) -> list[int]:
    """Return the few entries that are the largest of this moment in some sample."""
    best = totals.max(1)
    allowed = np.where(best > 0.97 * peak, TOLERANCE, ROUGHLY)
    reached, found = np.zeros(len(peak)), []
    while ((gap := (best - reached) / peak - allowed) > 0).any():
        found.append(int(totals[int(gap.argmax())].argmax()))
        reached = np.maximum(reached, totals[:, found[-1]])
    return sorted(found)


def expressions(
    parts: dict[str, Matrix], row: int, terms: Terms, peak: Floats, samples: list[Any]
) -> dict[str, str]:
    """Return what each kind takes at an entry, in the language of ``models.json``."""
    polys: dict[str, Poly] = {kind: Counter() for kind in KINDS}
    for count, matrix in parts.items():
        shares = abs(factors(count, terms, samples) * matrix[row, : len(terms.index)])
        matter = (shares / peak[:, None]).max(0) > NEGLIGIBLE
        for (kind, names), column in terms.index.items():
            if matter[column]:
                term = tuple(sorted((*names, *([count] if count else []))))
                polys[kind][term] += int(matrix[row, column])
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
        numbers |= {
            "Fd": F,
            "Hd": H,
            "g": G,
            "Y": min(D, 128),
            "M": F // 4,
            "S": F // 2,
            "E": 32,
        }
        numbers |= {"K": 4, "n": d, "r": 64, "v": d, "c": 512, "b": 1536, "dd": d}
        numbers |= {
            "batch": batch,
            "seq": seq,
            "tokens": batch * seq,
            "rank": 16,
            "P": 2048,
        }
        numbers |= {"pairs": batch * seq * seq}
        numbers |= {f"d//{part}": d // part for part in (2, 4, 8)}
        numbers |= {
            s: v for s, v in flags if isinstance(v, int) and v is not True and v
        }
        if kinds != ("L",) and "Ld" not in kinds:
            numbers |= {
                kinds[0]: L - L // 4,
                kinds[-1]: L if len(kinds) == 1 else L // 4,
            }
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
            if setting.last and not stage.gives_last_logits():
                continue
            if twin and setting.name in twin:
                forms[setting.name] = twin[setting.name]
                continue
            try:
                forms[setting.name] = form(stage, kinds, setting, at)
            except (ValueError, TypeError) as error:
                if "attention implementation" not in str(error):
                    raise
                LOG.info("%s %s: %s", model_type, setting.name, str(error)[:70])
            if n == PROBES - 1:
                twin = next(
                    (
                        other
                        for key, other in known
                        if key == (lm, tied, kinds) and forms.items() <= other.items()
                    ),
                    None,
                )
        known.append(((lm, tied, kinds), forms))
        LOG.info("%s %s%s", model_type, condition, " (as before)" if twin else "")
        yield condition, forms


def write(chosen_types: list[str]) -> None:
    """Rehearse these types and write their tables."""
    known: Known = []
    for name in chosen_types:
        text = packed(dict(variants(name, known)))
        FOLDER.joinpath(f"{name}.json").write_text(text, encoding="utf-8")


Variants = dict[str, dict[str, Form]]


def unpacked(model_type: str) -> Variants:
    """Return the table of a type in full: its conditions with their forms."""
    table = json.loads(FOLDER.joinpath(f"{model_type}.json").read_text("utf-8"))
    texts = table["expressions"]
    moments = [
        [name, {k: texts[n] for k, n in zip(KINDS, each, strict=True) if n}]
        for name, *each in table["moments"]
    ]
    forms = [[moments[n] for n in form] for form in table["forms"]]
    return {
        condition: {
            setting: forms[n]
            for setting, n in zip(table["settings"], numbers, strict=True)
            if n is not None
        }
        for condition, numbers in table["variants"]
    }


def packed(types: Variants) -> str:
    """Return the table of a type as JSON, each expression, moment and form once."""
    names = list(
        dict.fromkeys(s.name for tied in (True, False) for s in settings(True, tied))
    )
    texts, moments, forms = Numbering(["0"]), Numbering(), Numbering()

    def number(form: Form | None) -> int | None:
        if form is None:
            return None
        rows = [
            moments[
                json.dumps([name, *(texts[kinds.get(kind, "0")] for kind in KINDS)])
            ]
            for name, kinds in form
        ]
        return forms[json.dumps(rows)]

    lines = [
        json.dumps([condition, [number(each.get(name)) for name in names]])
        for condition, each in types.items()
    ]
    about = [
        "Generated by tests/coefficients, read by memory.py: not to be edited.",
        "variants: a condition, then the form of each setting. A form lists moments.",
        f"A moment: its name, then the expressions of {', '.join(KINDS)}.",
    ]
    return "\n".join(
        [
            "{",
            f'"about": {json.dumps(about)},',
            f'"settings": {json.dumps(names)},',
            '"expressions": [\n' + ",\n".join(map(json.dumps, texts)) + "\n],",
            '"moments": [\n' + ",\n".join(moments) + "\n],",
            '"forms": [\n' + ",\n".join(forms) + "\n],",
            '"variants": [\n' + ",\n".join(lines) + "\n]",
            "}\n",
        ]
    )


class Numbering(dict[str, int]):
    """Texts with their place in the order they came."""

    def __init__(self, first: Iterable[str] = ()) -> None:
        super().__init__((text, n) for n, text in enumerate(first))

    def __missing__(self, text: str) -> int:
        """Number a new text."""
        self[text] = len(self)
        return self[text]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write(sys.argv[1:] or list(TYPES))
