"""Which tensors, and which of their axes, make an MLP neuron: derived from a checkpoint's tensor names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nmerge_core.errors import InputError

Shape = tuple[int, ...]

# A layer's gated MLP as Qwen2, Llama and Mistral name it. A family that names or shapes its MLP otherwise adds a row.
_MLP_MATRICES = ({"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},)
_MLP_WEIGHT = re.compile(r"^(?P<module>.*\.(?P<layer>\d+)\.mlp)\.(?P<projection>\w+)\.weight$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
# Norms that read for the MLP; every other tensor of a layer belongs to its attention, its input norm included.
_MLP_PARTS = re.compile(r"\.(?:mlp|post_attention_layernorm)\.")


@dataclass(frozen=True)
class NeuronAxis:
    """The axis of one tensor that counts MLP neurons: 0 for the rows of gate and up, 1 for the columns of down."""

    layer: int
    matrix: str
    axis: int


@dataclass(frozen=True)
class MlpLayer:
    """One layer's MLP: neuron j is row j of `gate` and `up` and column j of `down` (NeuronMerge §2.1)."""

    layer: int
    module: str
    gate: str
    up: str
    down: str
    d_ffn: int

    @property
    def down_module(self) -> str:
        """The module whose input is the neurons' activation φ (Eq. 1)."""
        return self.down.removesuffix(".weight")

    @property
    def decoder_layer(self) -> str:
        """The module that holds this MLP and the attention before it."""
        return self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Architecture:
    """The facts of a model family that analysis and merging need; layers count from 0."""

    model_type: str
    d_model: int
    layers: tuple[MlpLayer, ...]
    vocabulary: int
    tied: bool
    _axes: Mapping[str, NeuronAxis] = field(repr=False)

    def neurons(self, name: str) -> NeuronAxis | None:
        """Return the neuron axis of a tensor, or None where its entries belong to no single neuron."""
        return self._axes.get(name)

    def layer_of(self, name: str) -> int | None:
        """Return the layer a tensor belongs to, or None for embeddings, the final norm and the head."""
        found = _LAYER.search(name)
        return int(found.group(1)) if found else None

    def position(self, name: str) -> float:
        """Return a tensor's place between the first layer, 0, and the last, 1; embeddings at 0, norm and head at 1."""
        layer = self.layer_of(name)
        if layer is None:
            return 0.0 if self.submodule(name) == "embedding" else 1.0
        return layer / max(1, len(self.layers) - 1)

    def submodule(self, name: str) -> str:
        """Return attention, mlp, embedding, head or norm; a layer's norms go with the submodule that reads them."""
        if self.layer_of(name) is not None:
            return "mlp" if _MLP_PARTS.search(name) else "attention"
        if "embed" in name:
            return "embedding"
        return "head" if name.startswith("lm_head") else "norm"


def derive(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Architecture:
    """Derive the architecture of a decoder from its configuration and its tensors' shapes (out, in).

    Raises:
        InputError: no MLP of a known form is there, or its matrices disagree about the number of neurons.
    """
    model_type = str(config.get("model_type", "unknown"))
    d_model, vocabulary = _width(config, "hidden_size"), _width(config, "vocab_size")
    found: dict[int, dict[str, str]] = {}
    modules: dict[int, str] = {}
    for name in shapes:
        if match := _MLP_WEIGHT.match(name):
            layer = int(match["layer"])
            modules[layer] = match["module"]
            found.setdefault(layer, {})[match["projection"]] = name
    layers = tuple(_mlp_layer(layer, modules[layer], found[layer], shapes, d_model) for layer in sorted(found))
    if not layers or [mlp.layer for mlp in layers] != list(range(len(layers))):
        raise InputError(
            f"model type '{model_type}': expected gated MLPs named '….layers.N.mlp.{{gate,up,down}}_proj.weight' in "
            f"layers 0, 1, …; found layers {sorted(found)}. Supported families: Qwen2, Llama, Mistral."
        )
    return Architecture(
        model_type=model_type,
        d_model=d_model,
        layers=layers,
        vocabulary=vocabulary,
        tied=bool(config.get("tie_word_embeddings", False)),
        _axes=_axes(layers, shapes),
    )


def _width(config: Mapping[str, Any], key: str) -> int:
    try:
        return int(config[key])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"config.json, key '{key}': expected a whole number, found {config.get(key)!r}") from None


def _mlp_layer(
    layer: int, module: str, names: Mapping[str, str], shapes: Mapping[str, Shape], d_model: int
) -> MlpLayer:
    matrices = next((form for form in _MLP_MATRICES if set(form.values()) <= set(names)), None)
    if matrices is None:
        raise InputError(
            f"{module}: expected weights gate_proj, up_proj and down_proj, found {', '.join(sorted(names))}"
        )
    gate, up, down = (names[matrices[matrix]] for matrix in ("gate", "up", "down"))
    d_ffn = shapes[down][-1]
    for name, expected in ((gate, (d_ffn, d_model)), (up, (d_ffn, d_model)), (down, (d_model, d_ffn))):
        if shapes[name] != expected:
            raise InputError(f"{name}: expected shape {list(expected)}, found {list(shapes[name])}")
    return MlpLayer(layer, module, gate, up, down, d_ffn)


def _axes(layers: tuple[MlpLayer, ...], shapes: Mapping[str, Shape]) -> dict[str, NeuronAxis]:
    axes = {}
    for mlp in layers:
        for matrix, weight, axis in (("gate", mlp.gate, 0), ("up", mlp.up, 0), ("down", mlp.down, 1)):
            axes[weight] = NeuronAxis(mlp.layer, matrix, axis)
            bias = weight.removesuffix("weight") + "bias"
            # The bias of down adds to the residual stream, not to a neuron.
            if axis == 0 and bias in shapes:
                axes[bias] = NeuronAxis(mlp.layer, matrix, 0)
    return axes
