"""A checkpoint whose layers are those of others, one range after the other; nothing is copied."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nmerge_core.architecture import LAYER, towers
from nmerge_core.architecture.config_keys import LAYERS, TEXT
from nmerge_core.architecture.towers import of_language
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.heads import is_head
from nmerge_core.checkpoints.layer_kinds import layer_kinds, listed_by_layer
from nmerge_core.checkpoints.vocabulary import compare, counts_tokens, known_vocabulary
from nmerge_core.errors import InputError, short


@dataclass(frozen=True)
class Part:
    """Layers [first, last) of a checkpoint."""

    checkpoint: Checkpoint
    first: int
    last: int


def stacked(parts: Sequence[Part]) -> Checkpoint:
    """Return the checkpoint that has the layers of all parts, one after the other.

    Reference, embeddings and configuration are of the first part, the final norm and the head of the last: its
    embedding where it is tied and the first is not; where both are, the output is tied too. The configuration has the
    new number of layers, and what it says by layer goes along with the layers. Of carried tensors there are none.

    Raises:
        InputError: a model does not have such layers, has those of an encoder too, or an adapter beside other models;
            the first and the last have other tokens; or a layer would be built otherwise in its new place.
    """
    first, last = parts[0].checkpoint, parts[-1].checkpoint
    if len(parts) == 1 and parts[0].last - parts[0].first == len(_tower(parts[0])[1]):
        return first
    adapter = next((part.checkpoint.adapter for part in parts if part.checkpoint.adapter), None)
    if adapter and any(part.checkpoint.reference != first.reference for part in parts):
        raise InputError(f"{first.reference}: a model with an adapter is stacked with others; merge the adapter first")
    _check_tokens(first, last)
    tensors = {name: parts[part].checkpoint.tensors[own] for name, (part, own) in origins(parts).items()}
    tensors |= _tied_head(first, last)
    config = _config(parts, sum(part.last - part.first for part in parts))
    _check_kinds(config, parts)
    return replace(first, config=config, tensors=tensors, carried={}, adapter=adapter, stacked=True)


def origins(parts: Sequence[Part]) -> dict[str, tuple[int, str]]:
    """Return of which part each tensor of all stacked is, and its name there; a head that is an embedding is of none.

    Raises:
        InputError: a model does not have such layers, or has those of an encoder too.
    """
    towers_of = [_tower(part) for part in parts]
    tower = towers_of[0][0]
    found = {
        name: (part, name)
        for part, embeds in ((0, True), (len(parts) - 1, False))
        for name in parts[part].checkpoint.tensors
        if not _in_tower(name, tower) and (parts[part].checkpoint.architecture.submodule(name) == "embedding") == embeds
    }
    made = 0
    for index, (part, (own, numbers)) in enumerate(zip(parts, towers_of, strict=True)):
        layers = _layers(part.checkpoint.tensors, own)
        for number in numbers[part.first : part.last]:
            found |= {f"{tower}.{made}.{rest}": (index, name) for rest, name in layers[number].items()}
            made += 1
    return found


def _tied_head(first: Checkpoint, last: Checkpoint) -> dict[str, TensorInfo]:
    """Return the last model's embedding as the head, where the first has a head of its own and the last has none."""
    heads = [name for name in first.tensors if is_head(name) and counts_tokens(name)]
    if not heads or any(name in last.tensors for name in heads):
        return {}
    embeddings = [each for name, each in last.tensors.items() if last.architecture.submodule(name) == "embedding"]
    rows = [each for each in embeddings if counts_tokens(each.name)]
    if len(heads) != 1 or len(rows) != 1:
        raise InputError(
            f"recipe, key 'slices': {first.reference} has a head ({', '.join(heads)}) and {last.reference} none; begin "
            "and end with models that are alike in that"
        )
    return {heads[0]: replace(rows[0], name=heads[0])}


def _check_tokens(first: Checkpoint, last: Checkpoint) -> None:
    """Check that the head of the last model is of the tokens that the embeddings of the first are of."""
    ours, theirs = (known_vocabulary(each) for each in (first, last))
    difference = compare(ours, theirs) if ours is not None and theirs is not None else None
    if difference is not None and (difference.conflicting or difference.rows[0] != difference.rows[1]):
        raise InputError(
            f"recipe, key 'slices': the output would read the tokens of {first.reference} and write those of "
            f"{last.reference}, which are others; begin and end with models of one vocabulary"
        )


def _check_kinds(config: Mapping[str, Any], parts: Sequence[Part]) -> None:
    """Check that each layer is built in its new place as it is in its model."""
    made = layer_kinds(config, "the output")
    if not made:  # of a type, or of a shape, that transformers does not know
        return
    layer = 0
    for part in parts:
        own = layer_kinds(part.checkpoint.config, part.checkpoint.reference)
        for number in range(part.first, part.last):
            if own and made[layer] != own[number]:
                name, how = min(own[number] ^ made[layer])
                raise InputError(
                    f"recipe, key 'slices' (layer_range): layer {number} of {part.checkpoint.reference} would be layer "
                    f"{layer}, which the output's configuration, that of {parts[0].checkpoint.reference}, builds "
                    f"otherwise than as {name or 'a layer'}, {short(how)}; choose ranges that keep such layers in "
                    "their places, or models that are built alike"
                )
            layer += 1


def _tower(part: Part) -> tuple[str, tuple[int, ...]]:
    """Return the name of a part's tower of layers and their numbers; raises InputError where it lacks the layers."""
    found = towers(part.checkpoint.tensors)
    names = of_language(found)
    if len(names) != 1:
        raise InputError(f"{part.checkpoint.reference}: slices are of one tower of layers, found {', '.join(names)}")
    numbers = found[names[0]]
    if part.last > len(numbers):
        raise InputError(
            f"recipe, key 'slices' (layer_range): expected layers of {part.checkpoint.reference}, which has "
            f"{len(numbers)}, found [{part.first}, {part.last}]"
        )
    return names[0], numbers


def _in_tower(name: str, tower: str) -> bool:
    found = LAYER.match(name)
    return found is not None and found["tower"] == tower


def _layers(names: Iterable[str], tower: str) -> dict[int, dict[str, str]]:
    """Return the names of each layer's tensors, of a tower, by what follows the layer's number."""
    layers: dict[int, dict[str, str]] = {}
    for name in names:
        if (found := LAYER.match(name)) and found["tower"] == tower:
            layers.setdefault(int(found["number"]), {})[found["rest"]] = name
    return layers


def is_by_layer(key: str) -> bool:
    """Whether a key of a configuration counts layers, or says something of each."""
    name = key.rpartition(".")[2]
    return name in LAYERS or "layer" in name


def _config(parts: Sequence[Part], depth: int) -> dict[str, Any]:
    """Return the first part's configuration for as many layers as all have, each as its own model's has it."""
    configs = [part.checkpoint.config for part in parts]
    config = _by_layer(configs, parts, depth)
    texts = [each.get(TEXT) for each in configs]
    if all(isinstance(each, Mapping) for each in texts):
        config[TEXT] = _by_layer(texts, parts, depth)
    return config


def _by_layer(configs: Sequence[Any], parts: Sequence[Part], depth: int) -> dict[str, Any]:
    config = dict(configs[0])
    counts = [next((each[key] for key in LAYERS if key in each), None) for each in configs]
    config |= {key: depth for key in LAYERS if key in config}
    configs = [{**listed_by_layer(each), **each} for each in configs]
    for key, value in configs[0].items():
        if "layer" not in key or not all(isinstance(each.get(key), list) for each in configs):
            continue
        if len(value) == counts[0]:  # a value for each layer
            config[key] = [
                own for each, part in zip(configs, parts, strict=True) for own in each[key][part.first : part.last]
            ]
        elif all(isinstance(each, int) for each in value):  # the layers that are meant
            sources = [
                (each[key], layer)
                for each, part in zip(configs, parts, strict=True)
                for layer in range(part.first, part.last)
            ]
            config[key] = [made for made, (meant, layer) in enumerate(sources) if layer in meant]
    return config
