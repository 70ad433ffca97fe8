"""The JSON files beside weights: read, and refused by name where a key holds what nothing could be made of."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nmerge_core.architecture.config_keys import (
    ACTIVE_EXPERTS,
    DECODER_LAYERS,
    HEADS,
    KV_HEADS,
    LAYERS,
    OWN_CODE,
    QUANTISATION,
    TOWERS,
    VOCABULARY,
    WIDTHS,
)
from nmerge_core.errors import InputError, short, shown
from nmerge_core.files.small_file import read_small

_LARGEST = 256_000_000  # bytes; a tokenizer of a quarter of a million tokens has 35 million

# What keys of config.json hold that are read here.
_TEXTS = ("model_type",)
_LISTS = ("architectures", "layer_types")
_OBJECTS = (OWN_CODE, QUANTISATION, "rope_parameters", "rope_scaling")
_IDS = "_token_id"
_COUNTS = {VOCABULARY, *WIDTHS, *LAYERS, *DECODER_LAYERS, *HEADS, KV_HEADS, ACTIVE_EXPERTS}
_LARGEST_COUNT = 2**31


def read_json(file: Path, why: str) -> dict[str, Any]:
    """Read a JSON object; raises InputError, with `why` the file should be there, where it is none.

    Of config.json, generation_config.json and an index the values are checked that are used.
    """
    if not file.exists():
        raise InputError(f"{file}: missing; {why}")
    content = parse_json(read_small(file, _LARGEST), str(file))
    if file.name in ("config.json", "generation_config.json"):
        _check_config(content, str(file))
    elif file.name.endswith(".index.json"):
        _check_index(content, str(file))
    return content


def write_json(file: Path, content: object) -> None:
    """Write JSON as it stands beside weights."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def parse_json(
    text: bytes, where: str, hook: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return a JSON object, made by `hook` of its pairs; raises InputError where the text, that of `where`, is none."""
    try:
        content = json.loads(text.decode("utf-8-sig"), object_pairs_hook=hook)
    except RecursionError:
        raise InputError(f"{where}: not readable as JSON (found thousands of lists inside one another)") from None
    except ValueError as error:
        raise InputError(f"{where}: not readable as JSON ({short(str(error))}); mend it, or fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(content).__name__}")
    return content


def is_count(value: Any, most: int = _LARGEST_COUNT) -> bool:
    """Whether a value of a JSON file is a whole number from 0 that something of this world has."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most


def _check_config(config: Mapping[str, Any], where: str, tower: str = "") -> None:
    """Check a configuration of a model, and those of its towers; what is null is not there."""
    for key, value in config.items():
        if value is not None and (expected := _other_than(key, value)):
            raise InputError(f"{where}, key '{tower}{key}': expected {expected}, found {shown(value)}")
        if value and key in TOWERS:
            _check_config(value, where, f"{tower}{key}.")


def _other_than(key: str, value: Any) -> str:
    """Return what a key of a configuration should hold, where its value is something else."""
    if key in _TEXTS:
        return "" if isinstance(value, str) else "a text"
    if key in _OBJECTS or key in TOWERS:
        return "" if isinstance(value, Mapping) else "an object"
    if key in _COUNTS:
        return "" if is_count(value) else f"a whole number from 0 below {_LARGEST_COUNT:,}"
    if key.endswith(_IDS):
        ids = value if isinstance(value, list) else [value]
        return "" if all(type(each) is int for each in ids) else "the id of a token, or a list of them"
    if key in _LISTS:
        return "" if isinstance(value, list) and all(isinstance(each, str) for each in value) else "a list of texts"
    return ""


def _check_index(index: Mapping[str, Any], where: str) -> None:
    """Check that an index names files beside it."""
    found = index.get("weight_map", {})
    if not isinstance(found, Mapping):
        raise InputError(f"{where}, key 'weight_map': expected {{tensor: file}}, found {shown(found)}")
    for name, file in found.items():
        if not isinstance(file, str) or not 0 < len(file.encode(errors="replace")) < 256 or {*file} & {"/", "\0"}:
            expected = "the name of a file beside it"
            raise InputError(f"{where}, key 'weight_map.{short(name)}': expected {expected}, found {shown(file)}")
