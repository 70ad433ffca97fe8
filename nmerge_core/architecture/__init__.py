"""Which tensors, and which of their rows and columns, make a neuron: derived from tensor names and shapes."""

from nmerge_core.architecture.derive import Architecture, derive
from nmerge_core.architecture.matrices import Matrix, Shape
from nmerge_core.architecture.mlps import Mlp, MlpLayer, NeuronMap, towers

__all__ = ["Architecture", "Matrix", "Mlp", "MlpLayer", "NeuronMap", "Shape", "derive", "towers"]
