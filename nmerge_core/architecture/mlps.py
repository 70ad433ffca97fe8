"""The MLPs of a checkpoint, experts included, and which of their rows and columns are which neuron."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nmerge_core.architecture.matrices import Matrix, Shape
from nmerge_core.errors import InputError

# The matrices of one MLP by the last part of their names. Neuron j is row j of gate and up and column j of down; an MLP
# of two matrices has no gate. A fused matrix holds all rows of gate, then all rows of up.
_FORMS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {"gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",)},
    {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)},
    {"w1": ("gate",), "w3": ("up",), "w2": ("down",)},
    {"wi_0": ("gate",), "wi_1": ("up",), "wo": ("down",)},
    {"wi": ("up",), "wo": ("down",)},
    {"c_fc": ("up",), "c_proj": ("down",)},
    {"fc1": ("up",), "fc2": ("down",)},
    {"intermediate.dense": ("up",), "output.dense": ("down",)},
)
_DOWN = ("down",)
_PROJECTIONS = "|".join(re.escape(name) for form in _FORMS for name in form)
# What follows the name of a layer: its MLP's module, or one of its experts, where the MLP has a module of its own.
_MLP = re.compile(
    r"^(?P<module>(?:layer\.\d+\.)?(?:mlp|block_sparse_moe|DenseReluDense)"
    r"(?:\.experts\.(?P<expert>\d+)|\.experts|\.shared_expert)?)?"
    rf"(?(module)\.)(?P<projection>{_PROJECTIONS})(?:\.weight)?$"
)
# T5 counts the sub-layers of its blocks by `layer`, too: the first number in a name is the layer's.
LAYER = re.compile(r"^(?P<tower>(?:.*?\.)??(?:layers?|h|blocks?))\.(?P<number>\d+)\.(?P<rest>.+)$")


@dataclass(frozen=True)
class NeuronMap:
    """Rows [start, stop) of a tensor, seen as a `Matrix`, that are one MLP's gate, up or down.

    On axis 0 row start + i is neuron first + i of the layer; on axis 1 column c of every row is neuron first + c.
    """

    tensor: str
    layer: int
    matrix: str
    start: int
    stop: int
    axis: int
    first: int


@dataclass(frozen=True)
class Mlp:
    """An MLP, or an expert: it holds `d_ffn` neurons from `first` on; `expert` is its number if a router chooses it."""

    module: str
    down: str
    first: int
    d_ffn: int
    expert: int | None = None


@dataclass(frozen=True)
class MlpLayer:
    """The MLP neurons of one layer: those of all its experts in their order, then those of the shared expert."""

    layer: int
    decoder_layer: str
    d_ffn: int
    d_model: int
    mlps: tuple[Mlp, ...]
    maps: tuple[NeuronMap, ...]

    @property
    def routed(self) -> bool:
        """Whether a router chooses among experts."""
        return self.mlps[0].expert is not None

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that every neuron has a row or column of: gate, up and down, or up and down."""
        return tuple(dict.fromkeys(part.matrix for part in self.maps))


def towers(names: Iterable[str]) -> set[str]:
    """Return what precedes the numbers of layers: `model.layers`; `encoder.block` and `decoder.block`; ….

    A decoder is one tower, T5 has an encoder and a decoder, CLIP has one for text and one for images.
    """
    return {found["tower"] for name in names if (found := LAYER.match(name))}


def find_mlps(shapes: Mapping[str, Shape], matrices: Mapping[str, Matrix]) -> dict[str, list[MlpLayer]]:
    """Find the MLP of every layer, by tower.

    Layers are counted through all towers, in order of the towers' names, a decoder after its encoder.

    Raises:
        InputError: an MLP is of no known form, or its matrices disagree about the number of neurons.
    """
    found: dict[str, dict[int, dict[str, dict[str, str]]]] = {}
    for name in shapes:
        layer = LAYER.match(name)
        mlp = _MLP.match(layer["rest"]) if layer else None
        if layer and mlp:
            modules = found.setdefault(layer["tower"], {}).setdefault(int(layer["number"]), {})
            modules.setdefault(mlp["module"] or "", {})[mlp["projection"]] = name
    layers: dict[str, list[MlpLayer]] = {}
    counted = 0
    for tower in sorted(found, key=lambda name: ("decoder" in name, name)):
        for number in sorted(found[tower]):
            layer_name = f"{tower}.{number}"
            layers.setdefault(tower, []).append(_layer(counted, layer_name, found[tower][number], shapes, matrices))
            counted += 1
        if sorted(found[tower]) != list(range(len(found[tower]))):
            raise InputError(f"expected an MLP in {tower} 0, 1, …; found them in {sorted(found[tower])}")
    return layers


@dataclass(frozen=True)
class _Weights:
    """The tensors of one MLP, or of experts stacked in one: `names` by the matrices that each holds."""

    names: Mapping[tuple[str, ...], str]
    stacked: bool
    experts: int
    d_ffn: int  # of one expert
    d_model: int


def _layer(
    layer: int,
    name: str,
    modules: Mapping[str, Mapping[str, str]],
    shapes: Mapping[str, Shape],
    matrices: Mapping[str, Matrix],
) -> MlpLayer:
    def number(module: str) -> int | None:
        _, experts, last = module.partition(".experts.")
        return int(last) if experts else None

    mlps: list[Mlp] = []
    maps: list[NeuronMap] = []
    d_ffn = d_model = 0
    for module in sorted(modules, key=lambda module: ("shared_expert" in module, number(module) or 0)):
        full = f"{name}.{module}" if module else name
        weights = _weights(full, modules[module], shapes, matrices)
        maps += _maps(layer, weights, shapes, d_ffn)
        d_model = weights.d_model
        for expert in range(weights.experts):
            routed = expert if weights.stacked else number(module)
            mlps.append(Mlp(full, weights.names[_DOWN].removesuffix(".weight"), d_ffn, weights.d_ffn, routed))
            d_ffn += weights.d_ffn
    return MlpLayer(layer, name, d_ffn, d_model, tuple(mlps), tuple(maps))


def _weights(
    module: str, found: Mapping[str, str], shapes: Mapping[str, Shape], matrices: Mapping[str, Matrix]
) -> _Weights:
    form = next((form for form in _FORMS if form.keys() <= found.keys()), None)
    if form is None:
        known = "; ".join(", ".join(form) for form in _FORMS)
        raise InputError(f"{module}: expected the weights of an MLP ({known}), found {', '.join(sorted(found))}")
    names = {kinds: found[projection] for projection, kinds in form.items()}
    down = matrices[names[_DOWN]]
    stacked = len(shapes[names[_DOWN]]) == 3
    experts = shapes[names[_DOWN]][0] if stacked else 1
    weights = _Weights(names, stacked, experts, down.columns, down.rows // experts)
    for kinds, name in names.items():
        rows = weights.d_model if kinds == _DOWN else len(kinds) * weights.d_ffn
        columns = weights.d_ffn if kinds == _DOWN else weights.d_model
        if (matrices[name].rows, matrices[name].columns) != (experts * rows, columns):
            stored = [columns, rows] if matrices[name].transposed else [rows, columns]
            expected = [experts, *stored] if stacked else stored
            raise InputError(f"{name}: expected shape {expected} beside {names[_DOWN]}, found {list(shapes[name])}")
    return weights


def _maps(layer: int, weights: _Weights, shapes: Mapping[str, Shape], first: int) -> Iterator[NeuronMap]:
    for kinds, name in weights.names.items():
        bias = name.removesuffix("weight") + "bias"
        for expert in range(weights.experts):
            neuron = first + expert * weights.d_ffn
            if kinds == _DOWN:  # its bias adds to the residual stream, not to a neuron
                start = expert * weights.d_model
                yield NeuronMap(name, layer, "down", start, start + weights.d_model, 1, neuron)
                continue
            for index, kind in enumerate(kinds):
                start = (expert * len(kinds) + index) * weights.d_ffn
                for tensor in (name, bias):
                    if tensor in shapes:
                        yield NeuronMap(tensor, layer, kind, start, start + weights.d_ffn, 0, neuron)
