"""The MLPs of a checkpoint, experts included, and which of their rows and columns are which neuron."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nmerge_core.architecture.matrices import Matrix, Shape
from nmerge_core.architecture.towers import LAYER
from nmerge_core.errors import InputError

# The matrices of one MLP by the last part of their names. Neuron j is row j of gate and up and column j of down; an MLP
# of two matrices has no gate. A fused matrix holds all rows of gate, then all rows of up.
_FORMS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {"gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",)},
    {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)},
    {"w1": ("gate",), "w3": ("up",), "w2": ("down",)},
    {"wi_0": ("gate",), "wi_1": ("up",), "wo": ("down",)},
    {"input_linear": ("gate", "up"), "output_linear": ("down",)},
    {"Wi": ("gate", "up"), "Wo": ("down",)},
    {"up_proj": ("up",), "down_proj": ("down",)},
    {"wi": ("up",), "wo": ("down",)},
    {"c_fc": ("up",), "c_proj": ("down",)},
    {"fc1": ("up",), "fc2": ("down",)},
    {"fc_in": ("up",), "fc_out": ("down",)},
    {"linear_fc1": ("up",), "linear_fc2": ("down",)},
    {"dense_h_to_4h": ("up",), "dense_4h_to_h": ("down",)},
    {"intermediate.dense": ("up",), "output.dense": ("down",)},
)
_DOWN = ("down",)
# Types whose fused matrix holds gate and up by turns: row 2j is gate's of neuron j, row 2j + 1 is up's.
_BY_TURNS = ("gpt_oss",)
_PROJECTIONS = "|".join(re.escape(name) for form in _FORMS for name in form)
# What follows the name of a layer: its MLP's module, or one of its experts, where the MLP has a module of its own.
_MLP = re.compile(
    r"^(?P<module>(?:layer\.\d+\.)?(?:mlp|block_sparse_moe|feed_forward|ffn|shared_mlp|DenseReluDense)"
    r"(?:\.experts\.(?P<expert>\d+)|\.experts|\.shared_experts?|\.shared_mlp)?)?"
    rf"(?(module)\.)(?P<projection>{_PROJECTIONS})(?:\.weight)?$"
)


@dataclass(frozen=True)
class NeuronMap:
    """Rows [start, stop) of a tensor, seen as a `Matrix`, that are one MLP's gate, up or down.

    On axis 0 row start + i · step is neuron first + i of the layer; on axis 1 column c of every row is neuron first + c
    of it.
    """

    tensor: str
    layer: int
    matrix: str
    start: int
    stop: int
    axis: int
    first: int
    step: int = 1

    def within(self, start: int, stop: int) -> range:
        """Return which of rows [start, stop) are of this map."""
        ahead = -(-max(0, start - self.start) // self.step)
        return range(self.start + ahead * self.step, min(stop, self.stop), self.step)

    def neuron(self, row: int) -> int:
        """Return the neuron that a row of axis 0 belongs to."""
        return self.first + (row - self.start) // self.step


@dataclass(frozen=True)
class Mlp:
    """An MLP, or an expert: it holds `d_ffn` neurons from `first` on; `expert` is its number if a router chooses it.

    `down` is the tensor whose input φ is.
    """

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


def has_mlps(tower: str, names: Iterable[str]) -> bool:
    """Whether a layer of a tower has an MLP of a known form."""
    layers = (layer for name in names if (layer := LAYER.match(name)) and layer["tower"] == tower)
    return any(_MLP.match(layer["rest"]) for layer in layers)


def find_mlps(
    towers: Mapping[str, Sequence[int]],
    shapes: Mapping[str, Shape],
    matrices: Mapping[str, Matrix],
    model_type: str,
) -> tuple[MlpLayer, ...]:
    """Find the MLP of every layer of these towers, in their order.

    Raises:
        InputError: a layer has no MLP of a known form, or its matrices disagree about the number of neurons.
    """
    found: dict[tuple[str, int], dict[str, dict[str, str]]] = {}
    for name in shapes:
        layer = LAYER.match(name)
        mlp = _MLP.match(layer["rest"]) if layer else None
        if layer and mlp:
            modules = found.setdefault((layer["tower"], int(layer["number"])), {})
            modules.setdefault(mlp["module"] or "", {})[mlp["projection"]] = name
    layers: list[MlpLayer] = []
    for tower, numbers in towers.items():
        if tuple(numbers) != tuple(range(len(numbers))):
            raise InputError(f"expected layers {tower}.0, 1, …; found {', '.join(map(str, numbers))}")
        for number in numbers:
            if (tower, number) not in found:
                raise InputError(
                    "expected an MLP in every layer, such as '….layers.N.mlp.{gate,up,down}_proj.weight', found none "
                    f"of a known form in {tower}.{number}"
                )
            full, by_turns = f"{tower}.{number}", model_type in _BY_TURNS
            layers.append(_layer(len(layers), full, found[tower, number], shapes, matrices, by_turns))
    return tuple(layers)


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
    by_turns: bool,
) -> MlpLayer:
    def number(module: str) -> int | None:
        _, experts, last = module.partition(".experts.")
        return int(last) if experts else None

    mlps: list[Mlp] = []
    maps: list[NeuronMap] = []
    d_ffn = d_model = 0
    for module in sorted(modules, key=lambda module: ("shared" in module, number(module) or 0)):
        weights = _weights(f"{name}.{module}" if module else name, modules[module], shapes, matrices)
        maps += _maps(layer, weights, shapes, d_ffn, by_turns)
        d_model = weights.d_model
        for expert in range(weights.experts):
            routed = expert if weights.stacked else number(module)
            mlps.append(Mlp(weights.names[_DOWN], d_ffn, weights.d_ffn, routed))
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


def _maps(
    layer: int, weights: _Weights, shapes: Mapping[str, Shape], first: int, by_turns: bool
) -> Iterator[NeuronMap]:
    for kinds, name in weights.names.items():
        bias = f"{name.removesuffix('weight')}bias" if name.endswith(".weight") else f"{name}_bias"
        for expert in range(weights.experts):
            neuron = first + expert * weights.d_ffn
            if kinds == _DOWN:  # its bias adds to the residual stream, not to a neuron
                start = expert * weights.d_model
                yield NeuronMap(name, layer, "down", start, start + weights.d_model, 1, neuron)
                continue
            rows, step = len(kinds) * weights.d_ffn, len(kinds) if by_turns else 1
            for index, kind in enumerate(kinds):
                start = expert * rows + index * (1 if step > 1 else weights.d_ffn)
                stop = (expert + 1) * rows if step > 1 else start + weights.d_ffn
                for tensor in (name, bias):
                    if tensor in shapes:
                        yield NeuronMap(tensor, layer, kind, start, stop, 0, neuron, step)
