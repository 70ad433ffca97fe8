"""Which tensors, and which of their rows and columns, make a neuron: derived from tensor names and shapes."""

from nmerge_core.architecture.derive import Architecture, derive
from nmerge_core.architecture.matrices import Matrix, Shape
from nmerge_core.architecture.mlps import Mlp, MlpLayer, NeuronMap
from nmerge_core.architecture.towers import LAYER, towers

__all__ = ["LAYER", "Architecture", "Matrix", "Mlp", "MlpLayer", "NeuronMap", "Shape", "derive", "towers"]
