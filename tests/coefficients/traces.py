"""A rehearsal as a matrix: what is allocated at every entry, by kind and by term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from tests.coefficients.sizes import Poly, Sizes, poly, times
from tests.coefficients.stage import BASE, BATCH, LM, RANK, SEQ, Stage
from tfdoc import _follow, rehearsal
from tfdoc._follow import Follow, Storage
from tfdoc.cost import memory, tables

LEFT_OUT = ("parameters", "optimizer")  # known without a rehearsal
Matrix = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """How a model is run."""

    train: bool
    precision: str
    attn: str
    checkpointing: bool = False
    targets: str = ""
    last: bool = False

    @property
    def name(self) -> str:
        """Return the key of the table."""
        words = ["train" if self.train else "infer", self.precision, self.attn]
        words += ["checkpointing"] * self.checkpointing
        return " ".join([*words, *filter(None, [self.targets, "last" * self.last])])


@dataclass(frozen=True)
class Trace:
    """Entries of one moment: what was allocated there, and what there was by then.

    `values` has a row for each entry and a column for each (kind, term).
    """

    tokens: list[tuple[int, str]]
    values: Matrix


class Terms:
    """The columns of all traces."""

    def __init__(self) -> None:
        self.index: dict[tuple[str, tuple[str, ...]], int] = {}

    def column(self, kind: str, names: tuple[str, ...]) -> int:
        """Return the number of a column, a new one if need be."""
        return self.index.setdefault((kind, names), len(self.index))


def follow(stage: Stage, setting: Setting) -> Follow:
    """Rehearse and return what was followed, in exact bytes."""
    made: list[Follow] = []

    def remembered() -> Follow:
        made.append(Follow())
        return made[-1]

    loss = None
    if setting.train and stage.head not in (*LM, "ForSequenceClassification"):
        loss = lambda output: output[0].sum()
    with (
        mock.patch.object(_follow, "PIECE", 1),
        mock.patch.object(rehearsal, "Follow", remembered),
    ):
        rehearsal.rehearse(
            stage.build(setting.attn, setting.targets),
            mode="train" if setting.train else "infer",
            precision=setting.precision,  # type: ignore[arg-type]
            checkpointing=setting.checkpointing,
            optimizer=None,
            loss=loss,
            **stage.inputs(setting.train, setting.last),
        )
    return made[0]


@cache
def sizes_of(stage: Stage) -> Sizes:
    """Return what sizes this stage's tensors may have."""
    book = stage.book()
    values = book._config.values
    numbers = {
        s: int(v)
        for s, v in values.items()
        if isinstance(v, int) and not isinstance(v, bool)
    }
    numbers |= {"tokens": BATCH * SEQ, "seq": SEQ, "batch": BATCH, "rank": RANK}
    numbers["pairs"] = BATCH * SEQ * SEQ
    base = [
        s for s in values if tables.KINDS.get(s) == "size" and numbers.get(s, 0) > 1
    ]
    base = [s for s in base if s not in ("P", "inner", "groups", "N", "labels", "R")]
    widths = [*base, *(["P", "P*P"] if "P" in numbers else [])]
    widths += ["b"] if numbers.get("b") else []
    if "d" in numbers:
        halves = ["d//2", "d//4", "d//8"]  # of heads that rotate in part
        numbers |= {half: numbers["d"] // int(half[3:]) for half in halves}
        widths += ["H*d", *halves, *(f"H*{half}" for half in halves)]
        if "G" in numbers:
            widths += [f"G*{half}" for half in halves]
        if numbers.get("G", numbers["H"]) != numbers["H"]:
            widths += ["G*d", "H*d+2*G*d", "H*d+G*d", "D+2*G*d", "D+2*d"]
    if "n" in numbers:
        widths += ["H*n", "H*r", "H*v", "n+r", "H*n+H*r", "H*n+H*v", "c+r", "c"]
    if "E" in numbers:
        widths += [f"K*{w}" for w in ("D", "M", "2*M") if w[-1] in numbers] + ["K", "E"]
        widths += [f"E*{w}" for w in ("D", "M") if w in numbers]
    if stage.model_type == "mpt":  # ALiBi for as many positions as it may ever have
        widths.append("2048*H")
    sizes = Sizes(numbers, dict.fromkeys(w for w in widths if _known(w, numbers)))
    for row in book._rows:
        found: Poly = poly("1")
        for dim in row.shape:
            found = times(found, _width(dim, sizes))
        sizes.add(found)
        for dim in row.shape:  # biases, and what a product leaves
            for prefix in ("", "tokens"):
                sizes.add(times(poly(prefix), _width(dim, sizes)))
    return sizes


def _known(text: str, numbers: dict[str, int]) -> bool:
    return all(
        f.isdigit() or f in numbers for t in text.split("+") for f in t.split("*")
    )


def _width(dim: int, sizes: Sizes) -> Poly:
    """Return a dimension of a weight: one of the widths, or else just a number."""
    found = sizes.known.get(dim)
    plain = found is not None and not any(
        name in ("tokens", "pairs", "seq", "batch") for names in found for name in names
    )
    return found if plain and found is not None else poly(str(dim))


def traces(followed: Follow, sizes: Sizes, terms: Terms) -> dict[str, Trace]:
    """Return the trace of every moment."""
    kept = next((at for at, name in followed._begins if name == "backward"), None)
    born: dict[int, list[Storage]] = {}
    changes: dict[int, list[tuple[Storage, int]]] = {}
    for storage in followed.storages:
        born.setdefault(storage.born, []).append(storage)
        changes.setdefault(storage.born, []).append((storage, 1))
        if storage.died is not None:
            changes.setdefault(storage.died, []).append((storage, -1))
    rows, tokens, moments = [], [], []
    state = np.zeros(400, dtype=np.int64)
    for entry in range(len(followed.timeline)):
        for storage, sign in changes.get(entry, ()):
            kind = _kind(storage, kept)
            if kind in LEFT_OUT:
                continue
            for names, coefficient in sizes.of(storage.nbytes).items():
                state[terms.column(kind, names)] += sign * coefficient
        if entry >= followed.first and entry in born:
            rows.append(state.copy())
            tokens.append(
                (sum(s.nbytes for s in born[entry]), _kind(born[entry][0], kept))
            )
            moments.append(followed.moment(entry))
    found = {}
    for moment in dict.fromkeys(moments):
        at = [i for i, name in enumerate(moments) if name == moment]
        found[moment] = Trace([tokens[i] for i in at], np.array([rows[i] for i in at]))
    if kept is not None:
        alive = np.zeros(400, dtype=np.int64)
        for storage in followed.storages:
            if storage.lives(kept) and _kind(storage, kept) == "activations":
                for names, coefficient in sizes.of(storage.nbytes).items():
                    alive[terms.column("activations", names)] += coefficient
        found["kept"] = Trace([(0, "")], alive[None])
    return found


def _kind(storage: Storage, kept: int | None) -> str:
    kind = storage.kind
    if kind in (*LEFT_OUT, *memory.KINDS):
        return str(kind)
    if kind is None and kept is not None and storage.lives(kept):
        return "activations"
    return "temporaries"  # inputs, buffers and copies by autocast with them


def affine(base: Trace, more: Trace) -> tuple[Matrix, Matrix]:
    """Return the entries of the base, and what one more layer adds to each.

    The longer trace is the shorter one with the entries of one layer put in. An entry
    keeps its distance from the start, or from the end, or either: it comes once for each.
    """
    size, extra = len(base.tokens), len(more.tokens) - len(base.tokens)
    head = next((i for i in range(size) if base.tokens[i] != more.tokens[i]), size)
    tail = next((i for i in range(size) if base.tokens[~i] != more.tokens[~i]), size)
    if extra < 0 or head + tail < size:
        raise LookupError(f"one more layer is {extra} entries, not put in at one place")
    # What comes before or after the layers may by chance look like the end or the start
    # of one; how far the two runs of equal entries reach over is known together.
    chance = max(0, head + tail - size - BASE * extra) if extra else 0
    chance += (
        BASE - 1
    ) * extra  # the first layer is no second, the last no last but one
    early = np.arange(max(0, head - chance))
    late = np.arange(min(size, size - tail + chance), size)
    there = np.concatenate([early, late + extra])
    here = np.concatenate([early, late])
    return here, more.values[there] - base.values[here]
