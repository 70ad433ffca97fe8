"""The facts of a model that analysis and merging need, derived from its tensors' names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmerge_core.architecture.config_keys import OWN_CODE, TEXT, VOCABULARY, WIDTHS
from nmerge_core.architecture.matrices import Matrix, Shape, matrices
from nmerge_core.architecture.mlps import MlpLayer, NeuronMap, find_mlps, has_mlps
from nmerge_core.architecture.towers import LAYER, of_language, plain_name, towers
from nmerge_core.errors import InputError

# Parts of a layer that are its MLP or norms that read or write for it; all others are its attention, input norm
# included. Where an MLP has norms before and after, `post_attention_layernorm` follows the attention it is named for.
_MLP_PARTS = re.compile(
    r"(?:layer\.\d+\.DenseReluDense|mlp|block_sparse_moe|feed_forward|ffn|shared_mlp|intermediate|output|fc[12]"
    r"|ln_?2|ln_mlp|norm_2|layer_norm2|layernorm_after|final_layer_norm|ffn_norm|pre_ff_layernorm|post_mlp_layernorm"
    r"|pre_feedforward_layernorm|post_feedforward_layernorm|feedforward_layernorm)\."
)
_AFTER_ATTENTION = "post_attention_layernorm."
_T5_SUBLAYER = re.compile(r"layer\.\d+\.")
_EMBEDDING = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)\.")
_NORM = re.compile(r"norm|layrnorm|(?:^|\.)ln_f\.")  # CLIP spells pre_layrnorm


@dataclass(frozen=True)
class Architecture:
    """The facts of a model; layers count from 0, through the encoder and then the decoder where there are two.

    `depth` is their number, `d_model` 0 where nothing tells it. Of a language model that sees or hears, the layers are
    those of its text.
    """

    model_type: str
    d_model: int
    depth: int
    vocabulary: int
    unknown: str  # why its neurons are not known; empty where they are
    _mlps: tuple[MlpLayer, ...] = field(repr=False)
    _matrices: Mapping[str, Matrix] = field(repr=False)
    _maps: Mapping[str, tuple[NeuronMap, ...]] = field(repr=False)
    _towers: Mapping[str, tuple[int, ...]] = field(repr=False)
    _numbers: Mapping[tuple[str, int], int] = field(repr=False)

    @property
    def layers(self) -> tuple[MlpLayer, ...]:
        """The neurons of each layer.

        Raises:
            InputError: they are not known; the model can be inspected, merged and compared all the same.
        """
        if self.unknown:
            raise InputError(self.unknown)
        return self._mlps

    @property
    def stacks(self) -> dict[str, tuple[int, ...]]:
        """The layers of each stack by what people call it: encoder and decoder, or text encoder and image encoder."""
        found: dict[str, tuple[int, ...]] = {}
        for (tower, _), layer in self._numbers.items():
            name = plain_name(tower)
            found[name] = (*found.get(name, ()), layer)
        return found

    def matrix(self, name: str) -> Matrix:
        """Return how a tensor is a matrix with a weight neuron a row."""
        return self._matrices[name]

    def neurons(self, name: str, start: int, stop: int) -> NDArray[np.int64] | None:
        """Return the MLP neurons that rows [start, stop) of a tensor, seen as a `Matrix`, belong to.

        (rows, 1) where rows are neurons, (rows or 1, columns) where columns are; None where entries belong to no single
        neuron.
        """
        found = [part for part in self._maps.get(name, ()) if part.start < stop and start < part.stop]
        if not found:
            return None
        if found[0].axis == 0:
            ids = np.empty(stop - start, dtype=np.int64)
            for part in found:
                rows = part.within(start, stop)
                first = part.neuron(rows.start)
                ids[rows.start - start : rows.stop - start : part.step] = np.arange(first, first + len(rows))
            return ids[:, None]  # (rows, 1)
        columns = np.arange(self._matrices[name].columns)
        if len(found) == 1:
            return (found[0].first + columns)[None]  # (1, columns)
        firsts = [np.full(min(stop, p.stop) - max(start, p.start), p.first) for p in found]
        return np.concatenate(firsts)[:, None] + columns  # (rows, columns)

    def layer_of(self, name: str) -> int | None:
        """Return the layer a tensor belongs to, or None for embeddings, final norms, heads and towers beside."""
        found = LAYER.match(name)
        return self._numbers.get((found["tower"], int(found["number"]))) if found else None

    def position(self, name: str) -> float:
        """Return a tensor's place between the first layer, 0, and the last, 1; embeddings at 0, norm and head at 1."""
        found = LAYER.match(name)
        if found is None:
            return 0.0 if self.submodule(name) == "embedding" else 1.0
        numbers = self._towers[found["tower"]]
        return numbers.index(int(found["number"])) / max(1, len(numbers) - 1)

    def submodule(self, name: str) -> str:
        """Return attention, mlp, embedding, head or norm; a layer's norms go with the submodule that reads them."""
        found = LAYER.match(name)
        if found is None:
            if _EMBEDDING.search(name):
                return "embedding"
            return "norm" if _NORM.search(name) else "head"
        layer, rest = f"{found['tower']}.{found['number']}", found["rest"]
        if _MLP_PARTS.match(rest):
            return "mlp"
        if rest.startswith(_AFTER_ATTENTION):
            followed = f"{layer}.post_feedforward_layernorm.weight" in self._matrices
            return "attention" if followed else "mlp"
        # T5's sub-layers hold a norm and a module each.
        sublayer = _T5_SUBLAYER.match(rest)
        beside = f"{layer}.{sublayer[0]}DenseReluDense.wo.weight" if sublayer else ""
        return "mlp" if beside in self._matrices else "attention"


def derive(reference: str, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Architecture:
    """Derive the architecture of a model from its configuration and its tensors' shapes; messages name `reference`."""
    text = {**config, **(config.get(TEXT) or {})}
    seen, all_towers = matrices(shapes), towers(shapes)
    counted = {tower: all_towers[tower] for tower in of_language(all_towers)}
    # Lists of modules beside the layers may have numbers too.
    counted = {tower: numbers for tower, numbers in counted.items() if has_mlps(tower, shapes)} or counted
    mlps: tuple[MlpLayer, ...] = ()
    unknown, model_type = "", str(config.get("model_type", "unknown"))
    try:
        if not counted:
            raise InputError("expected layers, such as '….layers.N.mlp.down_proj.weight', found none")
        mlps = find_mlps(counted, shapes, seen, str(text.get("model_type")))
    except InputError as error:
        own = f"; it is defined by code of its own (config.json, key '{OWN_CODE}'), which is never run"
        unknown = (
            f"{reference}: the neurons of this family (model type '{model_type}') are not known: {error}"
            f"{own if OWN_CODE in config else ''}"
        )
    maps: dict[str, tuple[NeuronMap, ...]] = {}
    for layer in mlps:
        for part in layer.maps:
            maps[part.tensor] = (*maps.get(part.tensor, ()), part)
    numbers = [(tower, number) for tower, own_numbers in counted.items() for number in own_numbers]
    return Architecture(
        model_type=model_type,
        d_model=mlps[0].d_model if mlps else next((int(text[key]) for key in WIDTHS if text.get(key)), 0),
        depth=len(numbers),
        vocabulary=int(text.get(VOCABULARY) or 0),
        unknown=unknown,
        _mlps=mlps,
        _matrices=seen,
        _maps=maps,
        _towers=all_towers,
        _numbers={place: layer for layer, place in enumerate(numbers)},
    )
