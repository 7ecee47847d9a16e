"""The models that are rehearsed: small, of every type, with numbers made of primes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from tests.drawn_configs import runnable
from tfdoc import Ledger, ledger
from tfdoc.cost import adapters
from tfdoc.cost.tables import KINDS, model

BATCH, SEQ, RANK = 11, 224, 19
NUMBERS = {
    "V": 3571, "P": 2053, "F": 8 * 641, "Fd": 8 * 643, "H": 115, "Hd": 115, "G": 23, "g": 23,
    "d": 8 * 29, "M": 8 * 223, "S": 8 * 227, "shared": 17, "E": 13, "K": 7, "n": 2 * 59, "r": 2 * 37,
    "v": 2 * 61, "c": 2 * 131, "b": 2 * 137, "N": 2, "R": 32, "inner": 1, "groups": 1,
    "labels": 2, "W": 100, "window": 100, "ln": 2, "first": 0, "step": 1, "pattern": 2,
    "no_rope_step": 4, "window_from": 0,
}  # fmt: skip
LM = ("ForConditionalGeneration", "ForMaskedLM", "ForCausalLM", "LMHeadModel")
# What `runnable` makes smaller or another.
KEPT = (
    "sliding_window", "layer_types", "qk_rope_head_dim", "qk_nope_head_dim",
    "v_head_dim", "kv_lora_rank",
)  # fmt: skip
BASE = 2  # layers of each kind: a first and a last one

Flags = tuple[tuple[str, Any], ...]
# What changes the tensors of a layer, besides tying: one dict for each variant.
FLAGS: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(
        ("cohere", "glm4_moe", "phi"), ({"qk_norm": False}, {"qk_norm": True})
    ),
    "stablelm": tuple(
        {"qk_norm": q, "one_norm": p} for q in (False, True) for p in (False, True)
    ),
    "falcon": (
        {"new": True, "parallel": True},
        {"new": False, "parallel": True, "multi": True},
        {"new": False, "parallel": True, "multi": False},
        {"new": False, "parallel": False, "multi": True},
        {"new": False, "parallel": False, "multi": False},
    ),
    "gpt_bigcode": ({"multi": True}, {"multi": False}),
    "opt": ({"pre_norm": True}, {"pre_norm": False}),
    "t5": ({"gated": False}, {"gated": True}),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), ({"b": 2 * 137}, {"b": None})),
}
FIRST_DENSE = ("deepseek_v2", "deepseek_v3", "glm4_moe", "qwen2_moe", "qwen3_moe")


@dataclass(frozen=True)
class Stage:
    """One model type in one of its forms, with so many layers of each kind."""

    model_type: str
    head: str
    flags: Flags
    counts: tuple[tuple[str, int], ...]

    def config(self) -> dict[str, Any]:
        """Return the config of transformers."""
        table = model(self.model_type)
        values = NUMBERS | self._layers() | dict(self.flags)
        explicit = any(spec[0] == "d" for spec in table["keys"].values())
        if self.model_type == "stablelm":  # which has a norm of its own for each head
            values |= {"H": 25, "G": 5}
        values["D"] = values["Y"] = values["H"] * (8 * 13 if explicit else 8 * 29)
        if self.model_type == "albert":
            values["Y"] = 2 * 73
        config: dict[str, Any] = {"model_type": self.model_type}
        for key, (symbol, default, *_) in table["keys"].items():
            kind = KINDS[symbol]
            if kind == "activation":
                config[key] = "gated-gelu" if values.get(symbol) else "relu"
            elif kind in ("flag", "indices", "layer types"):
                config[key] = values.get(symbol, default)
            else:
                config[key] = values[symbol]
        kept = {
            key: value
            for key, value in config.items()
            if key in KEPT and value is not None
        }
        if self.model_type != "gpt2":  # it looks for padding in the numbers
            config["pad_token_id"] = 0
        config = runnable(config, self.head) | kept
        if self.model_type == "gpt_neo":
            config["attention_types"] = [[["global"], config["num_layers"]]]
        if self.model_type == "modernbert":
            config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
        return {k: v for k, v in config.items() if k != "layer_types" or v is not None}

    def _layers(self) -> dict[str, Any]:
        """Return the numbers of layers, and their kinds where the config lists them."""
        counts = dict(self.counts)
        if "Ld" in counts:
            return counts
        L, slides = sum(counts.values()), counts.get("slides", 0)
        dense = counts.get("dense", 0)
        sliding = "chunked" if self.model_type == "llama4_text" else "sliding"
        kinds = [f"{sliding}_attention"] * slides + ["full_attention"] * (L - slides)
        values: dict[str, Any] = {"L": L, "first": dense, "kinds": kinds}
        values |= {"use_window": slides > 0, "mlp_only": list(range(dense))}
        if self.model_type in ("smollm3", "llama4_text"):
            values["no_rope_list"] = [1] * (slides or L) + [0] * (L - (slides or L))
        if not slides and self.model_type not in ("gemma2", "gemma3_text"):
            values["W"] = None
        elif not slides:
            values["W"] = values["window"] = SEQ + 1
        return values

    def longer(self, kind: str) -> Stage:
        """Return the same with one more layer of a kind."""
        counts = tuple((name, n + (name == kind)) for name, n in self.counts)
        return replace(self, counts=counts)

    def book(self) -> Ledger:
        """Return its ledger."""
        config = {k: v for k, v in self.config().items() if k != "attention_types"}
        return ledger(config, self.head)

    def network(self) -> Any:
        """Return the class of transformers."""
        config: Any = CONFIG_MAPPING[self.model_type]
        module = config.__module__.replace("configuration_", "modeling_")
        return getattr(importlib.import_module(module), self.book().architecture)

    def gives_last_logits(self) -> bool:
        """Whether the model can leave out all logits but the last."""
        return "logits_to_keep" in inspect.signature(self.network().forward).parameters

    def build(self, attn: str, targets: str) -> Callable[[], nn.Module]:
        """Return a function that builds the model of transformers, with adapters."""
        config = self.config()
        kind: Any = CONFIG_MAPPING[config.pop("model_type")]
        network = self.network()

        def built() -> nn.Module:
            made: nn.Module = network(kind(**config, attn_implementation=attn))
            if targets:
                adapt(made, adapted(self.book(), targets))
            return made

        return built

    def inputs(self, train: bool, last: bool) -> dict[str, Any]:
        """Return what the model is called with."""
        x: Tensor = torch.zeros(BATCH, SEQ, dtype=torch.long, device="meta")
        given: dict[str, Any] = {"input_ids": x}
        if "Ld" in dict(self.counts):
            given["decoder_input_ids"] = x
        if last:
            given["logits_to_keep"] = 1
        if train and self.head in LM:
            given["labels"] = x
        elif train and self.head == "ForSequenceClassification":
            given["labels"] = x[:, 0]
        return given


class Adapted(nn.Module):
    """A frozen linear map with a LoRA adapter, its operations in the order of peft."""

    def __init__(self, base: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(inputs, RANK, bias=False)
        self.up = nn.Linear(RANK, outputs, bias=False)

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for models that look at its dtype."""
        return self.base.get_parameter("weight")

    def forward(self, x: Tensor) -> Tensor:
        """Add what the adapter says."""
        return self.base(x) + self.up(self.down(x)) * 0.5  # type: ignore[no-any-return]


def adapt(network: nn.Module, wanted: dict[str, tuple[int, int]]) -> None:
    """Freeze a model and give adapters to its linear maps of these names.

    The fused experts of a mixture and its router are left as they are.
    """
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if name in wanted and isinstance(module, (nn.Linear, Conv1D)):
            outer, _, last = name.rpartition(".")
            inner = Adapted(module, *wanted[name])
            setattr(network.get_submodule(outer), last, inner)


def adapted(book: Ledger, targets: str) -> dict[str, tuple[int, int]]:
    """Return the names of the modules that get adapters, with inputs and outputs."""
    found: dict[str, tuple[int, int]] = {}
    for row, _ in adapters.adapted(book._rows, targets, book.architecture):
        if row.component == "router":
            continue
        for layer in row.layers or (0,):
            for i in range(row.each):
                name = row.module.replace("*", str(layer)).replace("#", str(i))
                found[name] = row.matmul or (0, 0)
    return found


def stages(model_type: str) -> Iterator[tuple[str, str, Flags, tuple[str, ...]]]:
    """Yield (condition, head, flags, kinds of layers) of a type's variants."""
    table = model(model_type)
    heads = [h for h in LM if h in table["heads"]][:1]
    body = ["ForSequenceClassification", "Model", "TextModel"]
    body = body[1:] if model_type in ("gpt2", "bart", "t5") else body
    heads += [h for h in body if h in table["heads"]][:1]
    layers: list[tuple[str, tuple[str, ...]]] = [("", ("L",))]
    if any(stack.get("side") == "decoder" for stack in table["stacks"]):
        layers = [("", ("L", "Ld"))]
    elif model_type in FIRST_DENSE:
        layers = [("", ("dense", "sparse"))]
    elif table.get("sliding"):
        mixed = any(spec[0] == "kinds" for spec in table["keys"].values())
        layers = [("!slides", ("L",))]
        layers += [("", ("slides", "full") if mixed else ("slides",))]
    for head in heads:
        for condition, kinds in layers:
            for flags in FLAGS.get(model_type, ({},)):
                for tied in (True, False) if head in LM else (True,):
                    parts = [condition, "lm" if head in LM else "!lm"]
                    parts += [name if on else f"!{name}" for name, on in flags.items()]
                    parts += ["tied" if tied else "!tied"] * (head in LM)
                    name = "&".join(filter(None, parts))
                    chosen = (*flags.items(), ("tied", tied))
                    yield name, head, chosen, kinds
