"""The sum of the task vectors."""

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.recipe.registry import Preset, method
from nmerge_core.merging.recipe.shared_parameters import LAMBDA, NORMALIZE, WEIGHT
from nmerge_core.merging.recipe.values import Values

# Losses on held-out texts of the demo family and of one trained on public text: docs/results.md.
_RECOMMENDED = Preset(
    "Recommended",
    "A weight of 0.4: of three fine-tunes its loss was far below that of whole changes on both families measured "
    "(0.256 against 0.434, 4.69 against 6.24; docs/results.md). Of two take 0.5.",
    {"weight": 0.4, "lambda": 1.0, "normalize": False},
)
_PAPER = Preset(
    "The paper's",
    "Whole changes, by one coefficient λ for all, which the paper chooses on held-out data: Sweep searches it.",
    {"weight": 1.0, "lambda": 1.0, "normalize": False},
)


@method(
    "task_arithmetic",
    title="Task arithmetic",
    paper="Ilharco et al., ICLR 2023",
    summary="Add the weighted sum of what each fine-tune changed to the base.",
    when="Without tuning much: of three fine-tunes each with a weight near 0.4. It is what others are compared with.",
    presets=[_RECOMMENDED, _PAPER],
    parameters=[WEIGHT, LAMBDA, NORMALIZE],
    entrywise=True,
)
def rule(name: str, values: Values, prepared: None) -> Entrywise:
    """λ Σ w_t τ_t (NeuronMerge Eq. 3)."""
    return Entrywise(values.each["weight"], values.shared["lambda"], values.shared["normalize"])
