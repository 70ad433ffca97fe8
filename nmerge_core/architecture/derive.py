"""The facts of a model that analysis and merging need, derived from its tensors' names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmerge_core.architecture.matrices import Matrix, Shape, matrices
from nmerge_core.architecture.mlps import LAYER, MlpLayer, NeuronMap, find_mlps
from nmerge_core.errors import InputError

# Parts of a layer that are its MLP or norms that read or write for it; all others are its attention, input norm
# included. Where an MLP has norms before and after, `post_attention_layernorm` follows the attention it is named for.
_MLP_PARTS = re.compile(
    r"(?:mlp|block_sparse_moe|intermediate|output|fc[12]|ln_2|layer_norm2|layernorm_after|final_layer_norm"
    r"|pre_feedforward_layernorm|post_feedforward_layernorm)\."
)
_AFTER_ATTENTION = "post_attention_layernorm."
_EMBEDDING = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)\.")
_NORM = re.compile(r"norm|layrnorm|(?:^|\.)ln_f\.")  # CLIP spells pre_layrnorm
FAMILIES = (
    "Qwen2, Qwen3, Llama, Mistral, Phi-3, Gemma 2, Gemma 3, OLMo, OLMo 2, GPT-2, Mixtral, Qwen2-MoE, Qwen3-MoE, "
    "T5, CLIP, ViT"
)


@dataclass(frozen=True)
class Architecture:
    """The facts of a model; layers count from 0, through the encoder and then the decoder where there are two."""

    model_type: str
    d_model: int
    layers: tuple[MlpLayer, ...]
    vocabulary: int
    tied: bool
    _matrices: Mapping[str, Matrix] = field(repr=False)
    _maps: Mapping[str, tuple[NeuronMap, ...]] = field(repr=False)
    _towers: Mapping[str, tuple[MlpLayer, ...]] = field(repr=False)

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
            ids = [np.arange(max(start, p.start), min(stop, p.stop)) - p.start + p.first for p in found]
            return np.concatenate(ids)[:, None]  # (rows, 1)
        columns = np.arange(self._matrices[name].columns)
        if len(found) == 1:
            return (found[0].first + columns)[None]  # (1, columns)
        firsts = [np.full(min(stop, p.stop) - max(start, p.start), p.first) for p in found]
        return np.concatenate(firsts)[:, None] + columns  # (rows, columns)

    def layer_of(self, name: str) -> int | None:
        """Return the layer a tensor belongs to, or None for embeddings, final norms and heads."""
        mlp = self._mlp_layer(name)
        return mlp.layer if mlp else None

    def position(self, name: str) -> float:
        """Return a tensor's place between the first layer, 0, and the last, 1; embeddings at 0, norm and head at 1."""
        layer, found = self._mlp_layer(name), LAYER.match(name)
        if layer is None or found is None:
            return 0.0 if self.submodule(name) == "embedding" else 1.0
        return int(found["number"]) / max(1, len(self._towers[found["tower"]]) - 1)

    def submodule(self, name: str) -> str:
        """Return attention, mlp, embedding, head or norm; a layer's norms go with the submodule that reads them."""
        layer, found = self._mlp_layer(name), LAYER.match(name)
        if layer is None or found is None:
            if _EMBEDDING.search(name):
                return "embedding"
            return "norm" if _NORM.search(name) else "head"
        if _MLP_PARTS.match(found["rest"]):
            return "mlp"
        if found["rest"].startswith(_AFTER_ATTENTION):
            followed = f"{layer.decoder_layer}.post_feedforward_layernorm.weight" in self._matrices
            return "attention" if followed else "mlp"
        # T5's sub-layers hold a norm and a module each.
        sublayer, _, module = layer.mlps[0].module.rpartition(".")
        return "mlp" if module == "DenseReluDense" and name.startswith(f"{sublayer}.") else "attention"

    def _mlp_layer(self, name: str) -> MlpLayer | None:
        found = LAYER.match(name)
        tower = self._towers.get(found["tower"], ()) if found else ()
        return tower[int(found["number"])] if found and int(found["number"]) < len(tower) else None


def derive(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Architecture:
    """Derive the architecture of a model from its configuration and its tensors' shapes.

    Raises:
        InputError: no MLP of a known form is there, or its matrices disagree about the number of neurons.
    """
    model_type = str(config.get("model_type", "unknown"))
    seen = matrices(shapes)
    towers = find_mlps(shapes, seen)
    if not towers:
        raise InputError(
            f"model type '{model_type}': expected layers with an MLP, such as "
            f"'….layers.N.mlp.{{gate,up,down}}_proj.weight', found none. Supported families: {FAMILIES}."
        )
    layers = tuple(layer for tower in towers.values() for layer in tower)
    maps: dict[str, tuple[NeuronMap, ...]] = {}
    for layer in layers:
        for part in layer.maps:
            maps[part.tensor] = (*maps.get(part.tensor, ()), part)
    return Architecture(
        model_type=model_type,
        d_model=layers[0].d_model,
        layers=layers,
        vocabulary=int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 0),
        tied=bool(config.get("tie_word_embeddings", False)),
        _matrices=seen,
        _maps=maps,
        _towers={tower: tuple(own) for tower, own in towers.items()},
    )
