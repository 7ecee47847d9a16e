"""Reading a Hugging Face config: every key is used, neutral or refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfdoc._checks import count, divides, flag, positive_int
from tfdoc.cost.tables import COMMON, KINDS, TYPES, Values, evaluate, model
from tfdoc.presets import preset, preset_names

MOST = 10**9  # of any width or number of entries
MOST_LAYERS = 10**5
LARGEST_FILE = 2**24  # bytes; published configs have a few thousand
SIZES = ("V", "D", "L", "F", "H", "G", "d", "P")
SIZES_OF_MIXTURES = ("E", "K", "M")
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True, slots=True)
class Config:
    """A config as it was understood: symbols, and what became of every key."""

    model_type: str
    head: str
    values: Values
    used: tuple[str, ...]
    neutral: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def architecture(self) -> str:
        """The model class of Hugging Face, as ``LlamaForCausalLM``."""
        return f"{model(self.model_type)['class']}{self.head}"

    @property
    def sizes(self) -> dict[str, int]:
        """The symbols that readers know, as read or by default."""
        known = {"G": self.values["H"]} | self.values
        mixture = SIZES_OF_MIXTURES if known["E"] > 1 else ()
        return {name: known[name] for name in (*SIZES, *mixture) if name in known}


def read(config: object, architecture: object = None) -> Config:
    """Return what a config says, or raise with the key that says it wrongly."""
    given, left_out = contents(config)
    model_type = _model_type(given)
    table = model(model_type)
    if architecture is None:
        architecture = _declared(given, table)
    head = _head(architecture, table, model_type)
    plain = _plain_names(given, table)
    used, neutral = _sorted_out(plain, table, model_type)
    values = _values(plain, table, head)
    return Config(model_type, head, values, used, neutral, left_out)


def contents(config: object) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the keys of the text model, and the names of what lies around it."""
    given = _mapping(config)
    return _text_model(given) if "text_config" in given else (given, ())


def _mapping(config: object) -> dict[str, Any]:
    if isinstance(config, Mapping):
        given = dict(config)
        wrong = next((key for key in given if not isinstance(key, str)), None)
        if wrong is not None:
            raise TypeError(f"config's keys must be strings, got {wrong!r}")
        return given
    if not isinstance(config, (str, os.PathLike)):
        raise TypeError(
            "config must be a preset, a dict, a config.json or its folder, got "
            f"{config!r} ({type(config).__name__})"
        )
    if isinstance(config, str) and config.lower() in preset_names():
        return preset(config)
    path = Path(config)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        hint = near(str(config).lower(), preset_names())
        raise ValueError(
            f"config={str(config)!r} is no preset, and there is no file {path}{hint}"
        )
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"config={str(config)!r} is larger than {LARGEST_FILE} bytes")
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be a config") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}; is it complete?"
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(parsed, dict):
        raise TypeError(f"{path} must hold an object, got {type(parsed).__name__}")
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in the config; keep one")
    return found


def _text_model(given: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the nested text model and the names of what it leaves out."""
    inner = given["text_config"]
    if not isinstance(inner, Mapping):
        raise TypeError(f"text_config must be an object, got {inner!r}")
    text = {k: v for k, v in inner.items() if k != "architectures"}
    if "tie_word_embeddings" in given:
        text.setdefault("tie_word_embeddings", given["tie_word_embeddings"])
    heard = COMMON | {"text_config", "architectures", "tie_word_embeddings"}
    return text, tuple(sorted(given.keys() - heard))


def near(name: str, names: Iterable[str]) -> str:
    """Return '; did you mean ...' with the nearest of the names, or nothing."""
    from difflib import get_close_matches  # noqa: PLC0415  # slow, and for errors only

    found = get_close_matches(name, list(names), 2, 0.7)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _model_type(given: dict[str, Any]) -> str:
    if "model_type" not in given:
        raise ValueError(
            "config has no model_type; add the one of its transformers class, such as "
            "'llama'"
        )
    name = given["model_type"]
    if not isinstance(name, str):
        raise TypeError(f"model_type must be a string, got {name!r}")
    if name not in TYPES:
        hint = near(name, TYPES) or f"; known are {', '.join(sorted(TYPES))}"
        raise ValueError(f"model_type={name!r} is not known{hint}")
    return name


def _declared(given: dict[str, Any], table: dict[str, Any]) -> object:
    listed = given.get("architectures")
    if listed is None:
        return str(table.get("default") or next(iter(table["heads"])))
    if not isinstance(listed, list) or len(listed) != 1:
        raise ValueError(
            f"architectures={listed!r} must list one class; choose with architecture="
        )
    return listed[0]


def _head(name: object, table: dict[str, Any], model_type: str) -> str:
    """Return 'ForCausalLM' for itself and for 'LlamaForCausalLM'."""
    if not isinstance(name, str):
        raise TypeError(f"architecture must be a string, got {name!r}")
    stem = table["class"]
    head = name[len(stem) :] if name.lower().startswith(stem.lower()) else name
    head = str(table["aliased"].get(head, head))
    if head not in table["heads"]:
        known = [f"{stem}{suffix}" for suffix in table["heads"]]
        raise ValueError(
            f"architecture={name!r} is no class of model_type={model_type!r}; its "
            f"classes are {', '.join(known)}"
        )
    return head


def _plain_names(given: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Return the config with every alias under the name that transformers keeps."""
    plain = dict(given)
    for alias, name in table["aliases"].items():
        if alias not in plain:
            continue
        value = plain.pop(alias)
        if plain.setdefault(name, value) != value:
            raise ValueError(
                f"{alias}={value!r} and {name}={plain[name]!r} are one setting; keep one"
            )
    named = plain.pop("id2label", None)
    if named is not None:
        if not isinstance(named, Mapping):
            raise TypeError(f"id2label must be an object, got {named!r}")
        if plain.setdefault("num_labels", len(named)) != len(named):
            raise ValueError(
                f"num_labels={plain['num_labels']!r} but id2label names {len(named)}"
            )
    return plain


def _sorted_out(
    given: dict[str, Any], table: dict[str, Any], model_type: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    neutral = []
    for key, value in given.items():
        if key in table["only"]:
            allowed = table["only"][key]
            if not any(
                value is a or (value == a and type(value) is type(a)) for a in allowed
            ):
                raise ValueError(
                    f"{key}={value!r} is not covered for model_type={model_type!r}, "
                    f"only {' or '.join(map(repr, allowed))}"
                )
        elif key in table["neutral"]:
            neutral.append(key)
        elif key not in table["keys"] and key != "architectures":
            sizes = (
                table["keys"].keys() | table["aliases"].keys() | table["only"].keys()
            )
            hint = near(key, sizes) or near(key, table["neutral"])
            hint = hint or "; remove it if it changes no size"
            raise ValueError(
                f"{key}={value!r} is not known for model_type={model_type!r}{hint}"
            )
    return tuple(sorted(given.keys() - set(neutral))), tuple(sorted(neutral))


def _values(given: dict[str, Any], table: dict[str, Any], head: str) -> Values:
    """Return every symbol of the type: read, taken by default, then derived."""
    values: Values = {
        "pooler": head in table.get("pooled", ()),
        "alone": head
        in (*table.get("decoder_only", ()), *table.get("encoder_only", ())),
        "W": 0,
        "K": 1,
        "E": 1,
    }
    names = {spec[0]: key for key, spec in table["keys"].items()}
    later = []
    for key, (symbol, default, *if_null) in table["keys"].items():
        value = given.get(key, default)
        if value is None and if_null:
            later.append((symbol, if_null[0]))
        else:
            values[symbol] = _checked(key, value, KINDS[symbol])
    for symbol, expression in [*later, *table["let"].items()]:
        if isinstance(expression, str) and "/" in expression and "//" not in expression:
            whole, _, part = expression.partition("/")
            divides(names[part], values[part], names[whole], values[whole])
        values[symbol] = evaluate(expression, values)
    _agree(values, names)
    return values


def _agree(values: Values, names: dict[str, str]) -> None:
    """Check the numbers against each other."""
    if "G" in names and "H" in names:
        divides(names["G"], values["G"], names["H"], values["H"])
    if "E" in names and values["K"] > values["E"]:
        raise ValueError(
            f"{names['K']}={values['K']} must be at most {names['E']}={values['E']}"
        )
    for symbol in ("kinds", "no_rope_list"):
        listed = values.get(symbol)
        if listed and len(listed) != values["L"]:
            raise ValueError(
                f"{names[symbol]} has {len(listed)} entries but "
                f"{names['L']}={values['L']}; give one for each layer"
            )


def _checked(key: str, value: Any, kind: str) -> Any:
    """Return a value of the config if it is of the kind its symbol has."""
    if kind == "flag":
        return flag(key, value)
    if kind == "activation":
        if not isinstance(value, str):
            raise TypeError(
                f"{key} must be a string such as 'gated-gelu', got {value!r}"
            )
        return value.startswith("gated")
    if kind in ("indices", "layer types"):
        if not isinstance(value, list):
            raise TypeError(f"{key} must be a list, got {value!r}")
        for item in value:
            if kind == "indices":
                count(f"{key}'s entries", item)
            elif item not in ATTENTION:
                raise ValueError(
                    f"{key} must hold {', '.join(map(repr, ATTENTION))}, got {item!r}"
                )
        return value
    whole = (count if kind == "count" else positive_int)(key, value)
    most = MOST_LAYERS if kind == "layers" else MOST
    if whole > most:
        raise ValueError(f"{key}={whole} is too large; at most {most} is counted")
    return whole
