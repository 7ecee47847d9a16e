"""What one step needs, with settings that are known to be right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from tfdoc.cost import formulas
from tfdoc.cost.adapters import SETS, adapted
from tfdoc.cost.entries import Row
from tfdoc.cost.memory import KINDS, forms_of, moments, surroundings
from tfdoc.cost.sums import BYTES, Ledger
from tfdoc.cost.tables import Values
from tfdoc.cost.work import attention, multiplications, tokens_of


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is run; see :func:`tfdoc.estimate`."""

    train: bool
    batch: int
    seq: int
    precision: str
    attn: str
    checkpointing: bool
    optim: str
    r: int  # of LoRA's adapters; 0 without
    targets: str | tuple[str, ...]
    quant: str
    last: bool
    accumulate: int
    kv_dtype: str
    requests: int


class Budget:
    """The sums over a ledger that a step needs."""

    def __init__(self, book: Ledger, settings: Settings) -> None:
        self.book, self.settings = book, settings
        self.width = 2 if settings.precision == "bf16" else 4
        self.adapters: list[tuple[Row, int]] = []
        if settings.r:
            self.adapters = adapted(book._rows, settings.targets, book.architecture)

    @cached_property
    def adapter_numbers(self) -> int:
        """Parameters of the adapters."""
        s = self.settings
        return self.book.lora(s.r, s.targets) if s.r else 0

    @cached_property
    def trainable(self) -> int:
        """Parameters that are trained."""
        if not self.settings.train:
            return 0
        return self.adapter_numbers or self.book.total

    @cached_property
    def weights(self) -> int:
        """Bytes of the weights, with adapters."""
        dtype = {2: "bf16", 4: "fp32"}[self.width]
        stored = self.book.bytes(dtype, self.settings.quant)
        return formulas.weight_bytes(stored, self.adapter_numbers, self.width)

    @cached_property
    def gradients(self) -> int:
        """Bytes of all gradients."""
        return formulas.gradient_bytes(self.trainable, self.width)

    @cached_property
    def optimizer(self) -> int:
        """Bytes of the optimiser's state."""
        optim = self.settings.optim
        if not self.settings.train or optim in ("sgd", "none"):
            return 0
        if optim == "adamw":
            return formulas.adamw_bytes(self.trainable, self.width)
        return sum(
            formulas.adamw8bit_bytes(numbers) * copies
            for numbers, copies in self.trained
        )

    @cached_property
    def trained(self) -> list[tuple[int, int]]:
        """What is trained: numbers of a weight, and how many of its kind there are."""
        if not self.adapters:
            return [(row.size, row.copies) for row in self.book._rows if row.stored]
        return [
            (self.settings.r * ranks * side, row.copies)
            for row, ranks in self.adapters
            for side in row.matmul or ()
        ]

    @cached_property
    def setting(self) -> str:
        """The key of the table of coefficients."""
        s = self.settings
        words = ["train" if s.train else "infer", s.precision, s.attn]
        words += ["checkpointing"] * s.checkpointing
        words += [self.adapted] * bool(s.train and s.r)
        return " ".join(words + ["last"] * (s.last and self.is_lm))

    @cached_property
    def adapted(self) -> str:
        """The smallest set of targets that holds those chosen."""
        chosen = {row.name for row, _ in self.adapters}
        rows, architecture = self.book._rows, self.book.architecture
        for name in SETS:
            if chosen <= {row.name for row, _ in adapted(rows, name, architecture)}:
                return name
        return "all-linear"

    @cached_property
    def is_lm(self) -> bool:
        """Whether the head is a vocabulary."""
        return any(row.component == "lm_head" and row.head for row in self.book._rows)

    @cached_property
    def numbers(self) -> Values:
        """The symbols of the expressions."""
        s, lm = self.settings, self.is_lm
        found = surroundings(
            self.book._table, self.book._config.values, s.batch, s.seq
        ) | {"rank": s.r, "lm": lm}
        if not s.train or s.r:  # whether tables are tied matters to full training only
            found["tied"] = True
        if s.train and s.r and not lm:  # as with a vocabulary, of no entries
            found |= {"lm": True, "V": 0}
        return found

    @cached_property
    def forms(self) -> dict[str, int]:
        """The settings that the table has for this model."""
        return forms_of(self.book.model_type, self.numbers)

    @cached_property
    def _known(self) -> list[tuple[str, dict[str, int]]]:
        form = self.forms[self.setting]
        return moments(self.book.model_type, form, self.numbers)

    @cached_property
    def moments(self) -> list[tuple[str, dict[str, int]]]:
        """The moments that can be the peak, with the bytes of all that is allocated."""
        known = self._known
        found = [(name, self._whole(kinds)) for name, kinds in known if name != "kept"]
        if self.settings.train and self.settings.optim != "none":
            copy = self.gradients if self.settings.optim == "adamw" else 0
            found.append(
                ("step", self._all(gradients=self.gradients, temporaries=copy))
            )
        return found

    def _all(self, **kinds: int) -> dict[str, int]:
        rest = {kind: kinds.get(kind, 0) for kind in KINDS}
        return {"weights": self.weights, "optimizer": self.optimizer} | rest

    def _whole(self, kinds: dict[str, int]) -> dict[str, int]:
        """Return all kinds at a moment that the table knows in part."""
        s, found = self.settings, self._all(**kinds)
        if s.train and s.accumulate > 1:
            held = formulas.accumulated(
                found["gradients"],
                self.gradients,
                formulas.plain_bytes(self.largest, self.width),
            )
            found["gradients"] = held
        if s.quant != "none":
            unpacked = formulas.plain_bytes(self.largest_quantised, self.width)
            found["temporaries"] += unpacked
        if not s.train:
            found["kv_cache"] = (
                formulas.cache_in(
                    found["kv_cache"],
                    BYTES[s.kv_dtype],
                    self.width if s.precision != "amp" else 2,
                )
                + self.waiting
            )
        return found

    @cached_property
    def largest(self) -> int:
        """Numbers in the largest weight that is trained."""
        return max(numbers for numbers, _ in self.trained)

    @cached_property
    def largest_quantised(self) -> int:
        """Numbers in the largest matrix that is quantised: it is unpacked to be used."""
        return max((row.size for row in self.book._rows if row.quantisable), default=0)

    @cached_property
    def kv_cache(self) -> int:
        """Bytes of the caches of all requests."""
        s = self.settings
        if s.train:
            return 0
        return self.book.kv_cache(s.requests, s.seq, s.kv_dtype)

    @cached_property
    def waiting(self) -> int:
        """Bytes of the caches of requests that are not in this batch."""
        s = self.settings
        more = s.requests - s.batch
        return self.book.kv_cache(more, s.seq, s.kv_dtype) if more else 0

    @cached_property
    def activations(self) -> int:
        """Bytes kept for the backward pass."""
        kept = (kinds for name, kinds in self._known if name == "kept")
        return sum(sum(kinds.values()) for kinds in kept)

    @cached_property
    def logits(self) -> int:
        """Bytes of the logits."""
        s, values = self.settings, self.book._config.values
        rows = s.batch if s.last else s.batch * s.seq
        vocabulary = values["V"] if self.is_lm else 0
        return formulas.logits_bytes(
            rows, vocabulary, 4 if s.precision == "fp32" else 2
        )

    @cached_property
    def peak(self) -> int:
        """The most that is allocated."""
        return max(formulas.allocated(**kinds) for _, kinds in self.moments)

    @cached_property
    def forward(self) -> int:
        """Operations of a forward pass."""
        s = self.settings
        return self.book.flops(s.batch, s.seq, logits="last" if s.last else "all")

    @cached_property
    def training_step(self) -> int:
        """Operations of a training step, of all its micro-batches."""
        s, book = self.settings, self.book
        if not s.train:
            return 0
        table, values = book._table, book._config.values
        tokens = tokens_of(s.batch, s.seq, s.seq, s.seq)
        linear = multiplications(book._rows, values, tokens)
        pairs = attention(table, values, s.seq, s.seq)
        fused, dots = int(s.attn == "sdpa"), s.batch * pairs
        adapters = multiplications(self._adapter_rows(), values, tokens)
        if s.r:
            backward = formulas.adapted_operations(linear, dots, fused, adapters)
        else:
            backward = formulas.backward_operations(linear, dots, fused)
        forward = formulas.operations(linear + adapters, s.batch, pairs)
        again = 0
        if s.checkpointing:
            layers = [row for row in book._rows if row.stack]
            linear = multiplications(layers, values, tokens)
            again = formulas.operations(linear + adapters, s.batch, pairs)
        return formulas.step_operations(s.accumulate, forward, backward, again)

    def _adapter_rows(self) -> Iterator[Row]:
        """Yield the adapters as the linear maps that they cost as much as."""
        for row, ranks in self.adapters:
            each = ranks // row.shape[0] if row.kind == "experts" else ranks
            inputs, outputs = row.matmul or (0, 0)
            yield replace(row, matmul=(self.settings.r * each, inputs + outputs))
