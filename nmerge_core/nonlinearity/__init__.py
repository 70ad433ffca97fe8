"""How linear fine-tunes' submodules are in their task vectors, and the coefficients that follow (SubLin)."""

from nmerge_core.nonlinearity.by_chance import by_chance
from nmerge_core.nonlinearity.measure import measure
from nmerge_core.nonlinearity.solve import Coefficients, read_coefficients, solve

__all__ = ["Coefficients", "by_chance", "measure", "read_coefficients", "solve"]
