"""What neurons are for: switch a category's neurons off, or all others, and score the model (NeuronMerge §2.3)."""

from nmerge_core.ablation.curve import knockout
from nmerge_core.ablation.layers import effects

__all__ = ["effects", "knockout"]
