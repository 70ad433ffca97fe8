"""The sum of the task vectors."""

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import LAMBDA, NORMALIZE, WEIGHT
from nmerge_core.merging.recipe.values import Values


@method(
    "task_arithmetic",
    title="Task arithmetic",
    paper="Ilharco et al., ICLR 2023",
    summary="Add the weighted sum of what each fine-tune changed to the base.",
    when="Without tuning much: of three fine-tunes each with a weight near 0.4. It is what others are compared with.",
    parameters=[WEIGHT, LAMBDA, NORMALIZE],
    entrywise=True,
)
def rule(name: str, values: Values, prepared: None) -> Entrywise:
    """λ Σ w_t τ_t (NeuronMerge Eq. 3)."""
    return Entrywise(values.each["weight"], values.shared["lambda"], values.shared["normalize"])
