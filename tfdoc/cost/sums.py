"""The ledger and its sums: parameters, bytes, adapters, caches, operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import Any

from tfdoc._checks import one_of, positive_int
from tfdoc.cost.adapters import adapted
from tfdoc.cost.configs import Config, read
from tfdoc.cost.entries import Entry, rows_of, unfold
from tfdoc.cost.formulas import active, adapter, cache_bytes, operations
from tfdoc.cost.tables import model
from tfdoc.cost.work import (
    attention,
    cached,
    multiplications,
    stacks_of,
    stored,
    tokens_of,
)

__all__ = ["Ledger", "ledger"]

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
QUANTS = ("none", "int8", "nf4")
EMBEDDINGS = ("embed_tokens", "embed_positions", "embed_other")


class Ledger:
    """What a config builds, parameter by parameter; made by :func:`tfdoc.ledger`.

    Parameters that are tied to others count once, under the first name.

    Examples
    --------
    >>> from tfdoc import ledger
    >>> llama = ledger({"model_type": "llama", "num_hidden_layers": 2})
    >>> llama
    <Ledger of LlamaForCausalLM: 666,914,816 parameters>
    >>> llama.by_component["norms"] == (2 * 2 + 1) * 4096
    True
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._table = model(config.model_type)
        #: The type of the config, as ``llama``.
        self.model_type = config.model_type
        #: The class that it builds, with its head, as ``LlamaForCausalLM``.
        self.architecture = config.architecture
        #: Keys of the config that were read.
        self.used = config.used
        #: Keys of the config that change no size.
        self.neutral = config.neutral
        #: Keys of the larger model that a text model lay in; that rest is not counted.
        self.left_out = config.left_out
        self._rows = rows_of(self._table, config.head, config.values)
        #: ``V, D, L, F, H, G, d, P`` and, of a mixture, ``E`` experts, ``K`` for a token,
        #: ``M`` hidden in each. Missing where there is none: no learned positions, no
        #: dense layer, two head widths. Of an encoder and a decoder, the encoder's.
        self.sizes = config.sizes
        if "ffn" not in self.by_component:
            self.sizes.pop("F", None)

    def __repr__(self) -> str:
        return f"<Ledger of {self.architecture}: {self.total:,} parameters>"

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every parameter by name and shape, as an :class:`Entry`, layer by layer."""
        return tuple(unfold(self._rows))

    @cached_property
    def by_component(self) -> dict[str, int]:
        """Parameters of each component."""
        sums: Counter[str] = Counter()
        for row in self._rows:
            sums[row.component] += row.stored
        return {component: number for component, number in sums.items() if number}

    @property
    def total(self) -> int:
        """Parameters, tied ones once."""
        return sum(self.by_component.values())

    @property
    def embedding(self) -> int:
        """Parameters of the embedding tables."""
        return sum(self.by_component.get(name, 0) for name in EMBEDDINGS)

    @property
    def active(self) -> int:
        """Parameters one token passes through, of a mixture only the experts it is sent to."""
        experts = self.by_component.get("moe_experts", 0)
        values = self._config.values
        return active(self.total, experts, values["E"], values["K"])

    @cached_property
    def by_layer(self) -> dict[tuple[str, int], dict[str, int]]:
        """Parameters of each component, by the name of the stack and number of the layer."""
        layers: dict[tuple[str, int], Counter[str]] = {}
        for row in self._rows:
            for layer in row.layers or ():
                sums = layers.setdefault((row.stack or "", layer), Counter())
                sums[row.component] += row.size * row.each
        return {layer: dict(sums) for layer, sums in layers.items()}

    def bytes(self, dtype: str = "bf16", quant: str | None = None) -> int:
        """Return the bytes of the weights.

        Parameters
        ----------
        dtype : str
            ``fp32, bf16, fp16`` or ``fp8``, of all that is not quantised.
        quant : str, optional
            ``int8``: a byte a weight and 4 bytes for each row of a matrix. ``nf4`` with
            double quantisation: half a byte a weight, a byte for each 64 of them, and 4
            bytes for each 256 of those: 4.127 bits a weight. Only matrices of linear
            layers and experts change; embeddings and the head keep `dtype`.

        Raises
        ------
        ValueError
            If a name is not one of these.

        Examples
        --------
        >>> from tfdoc import ledger
        >>> gpt2 = ledger({"model_type": "gpt2"})
        >>> gpt2.bytes("fp32"), gpt2.bytes(quant="nf4")
        (497759232, 122825472)
        """
        width = BYTES[one_of("dtype", dtype, tuple(BYTES))]
        quant = one_of("quant", "none" if quant is None else quant, QUANTS)
        return stored(self._rows, width, quant)

    def lora(self, r: int, targets: str | Sequence[str] = "all-linear") -> int:
        """Return the trainable parameters of LoRA adapters of rank `r`.

        Parameters
        ----------
        r : int
            The rank: r (inputs + outputs) for each matrix.
        targets : str or sequence of str
            ``all-linear`` as peft resolves it, without the head; ``qv`` or ``qkvo``,
            which are the fused projection where there is one; or names of modules,
            matched from the end as in peft: ``["q_proj", "self_attn.v_proj"]``.

        Raises
        ------
        TypeError, ValueError
            If `r` is not a positive integer or a name matches no linear layer.

        Examples
        --------
        >>> from tfdoc import ledger
        >>> llama = ledger({"model_type": "llama"})
        >>> llama.lora(8, "qv"), llama.lora(8, ["q_proj", "v_proj"]), llama.lora(8)
        (4194304, 4194304, 19988480)
        """
        r = positive_int("r", r)
        return sum(
            adapter(r * ranks, *row.matmul) * row.copies
            for row, ranks in adapted(self._rows, targets, self.architecture)
            if row.matmul is not None
        )

    def kv_cache(
        self, batch: int, seq: int, dtype: str = "bf16", source: int | None = None
    ) -> int:
        """Return the bytes of the key and value caches once `seq` tokens are read.

        Latent attention keeps what it compressed; a layer with a sliding window (or
        chunks) keeps the window - 1 last tokens, all that the next token sees of the
        past; Falcon's newer layers store a key for each query head. All this as
        transformers does. Encoders keep none.

        Parameters
        ----------
        batch, seq : int
            Sequences, and tokens of each.
        dtype : str
            ``fp32, bf16, fp16`` or ``fp8``.
        source : int, optional
            Tokens the encoder read, of models that have one; `seq` by default.

        Raises
        ------
        TypeError, ValueError
            If a number is not a positive integer, or there is no encoder to read `source`.

        Examples
        --------
        >>> from tfdoc import ledger
        >>> mistral = ledger({"model_type": "mistral"})
        >>> mistral.kv_cache(1, 4095) == mistral.kv_cache(1, 32_768)  # a window of 4096
        True
        """
        width = BYTES[one_of("dtype", dtype, tuple(BYTES))]
        batch, seq, source = self._sizes(batch, seq, source)
        numbers = cached(self._table, self._config.values, seq, source)
        return cache_bytes(batch, numbers, width)

    def flops(
        self, batch: int, seq: int, source: int | None = None, logits: str = "all"
    ) -> int:
        """Return the floating point operations of the matrix products of a forward pass.

        Two for each multiply-add: linear layers, the experts a token is sent to, scores
        and mixtures of attention over all pairs of positions (masked ones are computed
        and discarded), the head. Norms, activations and rotations are left out.

        Parameters
        ----------
        batch, seq : int
            Sequences, and tokens of each.
        source : int, optional
            Tokens the encoder reads, of models that have one; `seq` by default.
        logits : str
            ``all`` positions, or the ``last`` one as generation needs it.

        Raises
        ------
        TypeError, ValueError
            If a number is not a positive integer, `logits` is neither of the two, or
            there is no encoder to read `source`.

        Examples
        --------
        >>> from tfdoc import ledger
        >>> ledger({"model_type": "llama"}).flops(1, 2048) / 2048 / 1e9  # a token
        14.287896576
        """
        one_of("logits", logits, ("all", "last"))
        batch, seq, source = self._sizes(batch, seq, source)
        values = self._config.values
        tokens = tokens_of(batch, seq, source, seq if logits == "all" else 1)
        products = multiplications(self._rows, values, tokens)
        pairs = attention(self._table, values, seq, source)
        return operations(products, batch, pairs)

    def _sizes(self, batch: int, seq: int, source: int | None) -> tuple[int, int, int]:
        sides = [s.get("side") for s in stacks_of(self._table, self._config.values)]
        if source is not None and sides != ["encoder", "decoder"]:
            raise ValueError(
                f"source={source!r} but {self.architecture} has no encoder and decoder; "
                "give the length as seq"
            )
        batch, seq = positive_int("batch", batch), positive_int("seq", seq)
        return batch, seq, seq if source is None else positive_int("source", source)


def ledger(
    config: str | PathLike[str] | Mapping[str, Any], architecture: str | None = None
) -> Ledger:
    """Return the ledger of a model from its Hugging Face config.

    Every key of the config is used, known to change no size, or refused by name; a
    missing one has the default of transformers. No weights are read, nothing is fetched.

    Parameters
    ----------
    config : str, path or dict
        A name of :func:`tfdoc.preset_names`, a ``config.json``, a folder that holds one
        (``./gpt2`` where its name is a preset's), or its contents. Of a model with
        vision or sound, the ``text_config`` is counted.
    architecture : str, optional
        The class with its head, such as ``LlamaForSequenceClassification`` or
        ``ForSequenceClassification``; by default the one that ``architectures`` in the
        config names, else the first of the type: with a language modelling head for
        decoders, without one for encoders.

    Returns
    -------
    Ledger

    Raises
    ------
    TypeError, ValueError
        If there is no such file, it is not JSON, the type, the class or a key is unknown,
        or a value makes no sense.

    Examples
    --------
    >>> from tfdoc import ledger
    >>> ledger({"model_type": "gpt2"}).total
    124439808
    >>> ledger({"model_type": "gpt2", "n_heads": 16})
    Traceback (most recent call last):
    ...
    ValueError: n_heads=16 is not known for model_type='gpt2'; did you mean 'n_head'?
    """
    return Ledger(read(config, architecture))
