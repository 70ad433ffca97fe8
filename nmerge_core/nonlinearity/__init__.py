"""How linear fine-tunes' submodules are in their task vectors, and the coefficients that follow (SubLin)."""

from nmerge_core.nonlinearity.measure import KINDS, measure
from nmerge_core.nonlinearity.solve import Coefficients, read_coefficients, solve

__all__ = ["KINDS", "Coefficients", "measure", "read_coefficients", "solve"]
