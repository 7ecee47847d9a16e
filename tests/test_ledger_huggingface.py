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
from tfdoc.cost.tables import COMMON, TYPES, model

pytestmark = pytest.mark.filterwarnings("ignore")
transformers.logging.set_verbosity_error()

HEADS = [(name, head) for name in TYPES for head in model(name)["heads"]]
DRAWS = 6
# Here transformers allows null and then fails on it.
NO_NULL = {
    ("nemotron", "num_key_value_heads"),
    ("qwen2_moe", "num_key_value_heads"),
    ("gemma3_text", "sliding_window"),
}

# Read from a config by transformers though its class does not declare them.
UNDECLARED = {"head_dim": None, "sliding_window_pattern": None}
IGNORED: set[tuple[str, str]] = set()
DERIVED: set[str] = set()


def built(config: dict[str, Any], architecture: str) -> nn.Module:
    """Return the model of transformers, on the meta device."""
    kind = CONFIG_MAPPING[config["model_type"]]
    module = kind.__module__.replace("configuration_", "modeling_")
    settings = kind(**{k: v for k, v in config.items() if k != "model_type"})
    with torch.device("meta"):
        return getattr(importlib.import_module(module), architecture)(settings)  # type: ignore[no-any-return]


def nullable(model_type: str) -> frozenset[str]:
    """Return the keys that both the table and transformers let be null."""
    fields = {f.name: str(f.type) for f in dataclasses.fields(CONFIG_MAPPING[model_type])}
    keys = model(model_type)["keys"]
    ours = {key for key, (_, _, *if_null) in keys.items() if if_null}
    ours -= {key for name, key in NO_NULL if name == model_type}
    return frozenset(key for key in ours if "None" in fields.get(key, ""))


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    named = network.named_parameters(remove_duplicate=False)
    return {name: tuple(parameter.shape) for name, parameter in named}


def ties_of(network: nn.Module) -> set[frozenset[str]]:
    groups = defaultdict(set)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        groups[id(parameter)].add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def listed(book: Ledger) -> dict[str, tuple[int, ...]]:
    assert len({entry.name for entry in book.entries}) == len(book.entries)
    return {entry.name: entry.shape for entry in book.entries}


def ties_listed(book: Ledger) -> set[frozenset[str]]:
    groups = defaultdict(set)
    for entry in book.entries:
        if entry.tied_to:
            groups[entry.tied_to] |= {entry.name, entry.tied_to}
    return {frozenset(names) for names in groups.values()}


@pytest.mark.parametrize(("model_type", "head"), HEADS, ids=str)
def test_names_shapes_and_ties_are_those_of_transformers(
    model_type: str, head: str
) -> None:
    rng = random.Random(f"{model_type} {head}")
    for _ in range(DRAWS):
        config = draw(model_type, rng, nullable(model_type))
        if model_type == "t5":  # transformers ties what the checkpoints do not: below
            config["tie_word_embeddings"] = True
        if (model_type, head) == ("distilbert", "ForQuestionAnswering"):
            config["num_labels"] = 2  # transformers refuses any other
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
    kind = CONFIG_MAPPING[model_type]
    table = model(model_type)
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    fields["num_labels"] = kind().num_labels
    for key, (_, default, *_) in table["keys"].items():
        if key in UNDECLARED:
            assert key not in fields and default == UNDECLARED[key]
        else:
            assert fields[key] == default, key
    assert table["aliases"].items() >= kind.attribute_map.items() - IGNORED


@pytest.mark.parametrize("model_type", TYPES)
def test_every_key_of_transformers_is_known(model_type: str) -> None:
    kind = CONFIG_MAPPING[model_type]
    table = model(model_type)
    known = table["keys"].keys() | table["neutral"] | table["only"].keys()
    names = {f.name for f in dataclasses.fields(kind)} | kind().to_dict().keys()
    assert not names - known - {"architectures", "id2label"}
    settings = {"model_type": model_type} | kind().to_dict()
    settings = {k: v for k, v in settings.items() if k not in DERIVED}
    if model_type == "deepseek_v2":
        settings["num_experts_per_tok"] = 6
    assert ledger(settings).total == ledger({"model_type": model_type, "num_experts_per_tok": 6} if model_type == "deepseek_v2" else {"model_type": model_type}).total
