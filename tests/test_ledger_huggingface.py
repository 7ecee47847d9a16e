"""The ledger against transformers: names, shapes, ties, defaults, on random configs."""

from __future__ import annotations

import dataclasses
import importlib
import random
from collections import defaultdict
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.drawn_configs import draw
from tfdoc import Ledger, ledger
from tfdoc.cost.tables import TYPES, model

pytestmark = pytest.mark.filterwarnings("ignore")
transformers.logging.set_verbosity_error()

HEADS = [(name, head) for name in TYPES for head in model(name)["heads"]]
DRAWS = 6
# Here transformers allows null and then fails on it.
NO_NULL = {
    ("gemma2", "sliding_window"),
    ("nemotron", "num_key_value_heads"),
    ("qwen2_moe", "num_key_value_heads"),
    ("gemma3_text", "sliding_window"),
}

# What transformers reads from a config though its class does not declare it.
UNDECLARED: dict[tuple[str, str], Any] = {
    **{(name, "head_dim"): None for name in TYPES},
    ("cohere2", "sliding_window_pattern"): 4,
    ("gemma3_text", "sliding_window_pattern"): 6,
    ("t5", "tie_word_embeddings"): True,
}
# Without it transformers builds a mixture but cannot run it.
REQUIRED = {"deepseek_v2": {"num_experts_per_tok": 6}}


def built(
    config: dict[str, Any], architecture: str, device: str = "meta", **settings: str
) -> nn.Module:
    """Return the model of transformers."""
    kind: Any = CONFIG_MAPPING[config["model_type"]]
    module = kind.__module__.replace("configuration_", "modeling_")
    plain = {k: v for k, v in config.items() if k != "model_type"}
    with torch.device(device):
        network = getattr(importlib.import_module(module), architecture)
        return network(kind(**plain, **settings)).eval()  # type: ignore[no-any-return]


def nullable(model_type: str) -> frozenset[str]:
    """Return the keys that both the table and transformers let be null."""
    fields = {
        f.name: str(f.type) for f in dataclasses.fields(CONFIG_MAPPING[model_type])
    }
    keys = model(model_type)["keys"]
    ours = {key for key, (_, _, *if_null) in keys.items() if if_null}
    ours -= {key for name, key in NO_NULL if name == model_type}
    return frozenset(key for key in ours if "None" in fields.get(key, ""))


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    named = network.named_parameters(remove_duplicate=False)
    return {name: tuple(parameter.shape) for name, parameter in named}


def ties_of(network: nn.Module) -> set[frozenset[str]]:
    groups: dict[Any, set[str]] = defaultdict(set)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        groups[id(parameter)].add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def listed(book: Ledger) -> dict[str, tuple[int, ...]]:
    assert len({entry.name for entry in book.entries}) == len(book.entries)
    return {entry.name: entry.shape for entry in book.entries}


def ties_listed(book: Ledger) -> set[frozenset[str]]:
    groups: dict[Any, set[str]] = defaultdict(set)
    for entry in book.entries:
        if entry.tied_to:
            groups[entry.tied_to] |= {entry.name, entry.tied_to}
    return {frozenset(names) for names in groups.values()}


@pytest.mark.parametrize(("model_type", "head"), HEADS, ids=str)
def test_names_shapes_and_ties_are_those_of_transformers(
    model_type: str, head: str
) -> None:
    rng = random.Random(f"{model_type} {head}")  # noqa: S311  # the same every time
    for _ in range(DRAWS):
        config = draw(model_type, rng, nullable(model_type))
        if (model_type, head) == ("distilbert", "ForQuestionAnswering"):
            config["num_labels"] = 2  # transformers refuses any other
        if model_type == "t5":  # transformers ties what the checkpoints do not: below
            config["tie_word_embeddings"] = True
        book = ledger(config, head)
        network = built(config, book.architecture)
        assert listed(book) == shapes_of(network), config
        assert ties_listed(book) == ties_of(network), config
        counted = sum(parameter.numel() for parameter in network.parameters())
        assert book.total == counted == sum(book.by_component.values())


def test_t5_unties_the_head_as_its_checkpoints_do() -> None:
    config = {"model_type": "t5", "tie_word_embeddings": False}
    free, tied = ledger(config), ledger({"model_type": "t5"})
    assert free.total == tied.total + 32128 * 512
    assert tied.total == sum(
        p.numel() for p in built(config, "T5ForConditionalGeneration").parameters()
    )
    assert {e.name for e in free.entries if e.tied_to} == {
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
    }


@pytest.mark.parametrize("model_type", TYPES)
def test_defaults_and_aliases_are_those_of_transformers(model_type: str) -> None:
    kind: Any = CONFIG_MAPPING[model_type]
    table = model(model_type)
    declared = {f.name: f.default for f in dataclasses.fields(kind)}
    declared |= {
        kept: declared[alias]
        for alias, kept in kind.attribute_map.items()
        if alias in declared and kept not in declared
    }
    declared["num_labels"] = kind().num_labels
    for key, (_, default, *_) in table["keys"].items():
        if key in declared:
            assert declared[key] == default, key
        else:
            assert UNDECLARED[model_type, key] == default, key
    renamed = {a: k for a, k in kind.attribute_map.items() if a not in table["neutral"]}
    assert table["aliases"].items() >= renamed.items()


@pytest.mark.parametrize("model_type", TYPES)
def test_every_key_of_transformers_is_known(model_type: str) -> None:
    kind: Any = CONFIG_MAPPING[model_type]
    table = model(model_type)
    known = table["keys"].keys() | table["neutral"] | table["only"].keys()
    written = kind(**REQUIRED.get(model_type, {})).to_dict()
    names = {f.name for f in dataclasses.fields(kind)} | written.keys()
    assert not names - known - table["aliases"].keys() - {"architectures", "id2label"}
    assert ledger(written).total == ledger(model_type_only(model_type)).total


def model_type_only(model_type: str) -> dict[str, Any]:
    return {"model_type": model_type} | REQUIRED.get(model_type, {})
