"""Random settings of an estimate, mostly sensible, and what Python says of them."""

from __future__ import annotations

import random
from typing import Any

from tfdoc import estimate, preset, preset_names
from tfdoc.cost.memory import FOLDER
from tfdoc.cost.report import as_dict

COVERED = [
    name
    for name in preset_names()
    if FOLDER.joinpath(f"{preset(name)['model_type']}.json").exists()
]


TARGETS = (
    "qv",
    "qkvo",
    "all-linear",
    "q_proj,v_proj",
    "v_proj",
    "o_proj, down_proj",
    "nothing",
)
SIZES = ["24GiB", "80 GB", "RTX 4090", "h200", 10**10, "1.5TiB", "0.5 gib", "12MB"]
SPOILT: dict[str, list[Any]] = {
    "mode": ["training", ""], "batch": [0, -1, 2**41], "seq": [0, 2**41],
    "precision": ["int8"], "attn": ["flash"], "optim": ["adam"], "accumulate": [0, 3],
    "checkpointing": [True, 1, "yes"], "quant": ["nf8", "nf4"], "requests": [0, 1, 5],
    "logits": ["some", "last"], "kv_dtype": ["int8", "fp8"], "overhead": [-1, 2**60],
    "gpu": ["24", "24 parsec", "rtx", "rtx-409", "", "24GIB!", 0, "0GB", "-3GiB", "2000TiB", "quux"],
    "lora": [{"r": 0}, {"r": 8, "targets": ""}, {"r": 2**41}],
}  # fmt: skip


def drawn(rng: random.Random, config: str) -> dict[str, Any]:
    """Return settings that mostly make sense."""
    train = rng.random() < 0.6
    chosen: dict[str, Any] = {
        "config": config,
        "mode": "train" if train else "infer",
        "batch": rng.choice([1, 2, 7, 64, 1024]),
        "seq": rng.choice([None, 1, 77, 1024, 8192, 100_000]),
        "precision": rng.choice(["bf16", "fp32", "amp"]),
        "attn": rng.choice(["sdpa", "eager"]),
        "lora": rng.choice(
            [None, None, {"r": 16}, *({"r": 8, "targets": t} for t in TARGETS)]
        ),
    }
    of_training = {
        "checkpointing": rng.random() < 0.5,
        "optim": rng.choice(["adamw", "adamw8bit", "sgd", "none"]),
        "accumulate": rng.choice([1, 4]),
    }
    of_inference = {
        "logits": rng.choice([None, "all", "last"]),
        "kv_dtype": rng.choice([None, "fp8", "fp32"]),
        "requests": rng.choice([None, 64, 4096]),
    }
    chosen |= of_training if train else of_inference
    if not train or chosen["lora"]:
        chosen["quant"] = rng.choice([None, "none", "int8", "nf4"])
    if rng.random() < 0.5:
        chosen["gpu"] = rng.choice(SIZES)
        chosen["overhead"] = rng.choice([0, 2**30])
    return chosen


def estimated(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return what Python says, in the driver's shape."""
    try:
        found = estimate(**chosen)
    except (TypeError, ValueError) as error:
        return {"Refused": str(error)}
    return written(as_dict(found) | {"steps": found.steps})  # type: ignore[no-any-return]


def written(value: object) -> Any:
    """Return a value with its whole numbers as the driver takes them."""
    if isinstance(value, dict):
        return {key: written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [written(item) for item in value]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return {"whole": str(value)} if whole else value
