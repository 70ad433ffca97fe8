"""What neurons are for: switch a category's neurons off, or all others, and score the model (NeuronMerge §2.3)."""

from nmerge_core.ablation.conditions import plan
from nmerge_core.ablation.curve import knockout
from nmerge_core.ablation.groups import category_neurons
from nmerge_core.ablation.layers import effects

__all__ = ["category_neurons", "effects", "knockout", "plan"]
