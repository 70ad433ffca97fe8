"""SubModule Linearity's coefficients as a run solves them: of the base's neuron groups where it names some."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.merging.plan.neurons import group_neurons, neurons_of
from nmerge_core.progress import Progress, silent

if TYPE_CHECKING:
    from nmerge_core.nonlinearity import Coefficients


def solve_coefficients(
    base: str,
    models: Sequence[str],
    corpus: str,
    categories: Sequence[str],
    *,
    neurons: str | None = None,
    top_k: int | None = None,
    margin: int | None = None,
    grouping: str = "functional",
    lists: Mapping[str, Any] | None = None,
    groups: Sequence[str] | None = None,
    together: bool = False,
    samples: int,
    seed: int,
    device: str,
    progress: Progress = silent,
) -> "Coefficients":
    """Solve the coefficients that a merge by these models and groups of neurons goes by (`nonlinearity.solve`).

    Args:
        base: the base model.
        models: its fine-tunes.
        corpus: the corpus whose texts measure the coefficients.
        categories: the category of each fine-tune.
        neurons: a classification folder of the base.
        top_k: texts that vote on a neuron; the folder's own if None.
        margin: votes a category must be ahead by; the folder's own if None.
        grouping: functional, or random with the same sizes.
        lists: neurons that are groups of their own, by name.
        groups: the groups that get coefficients of their own; none if None.
        together: whether the groups of a layer are solved at once.
        samples: texts per category.
        seed: of the draws.
        device: auto, cpu, cuda, …
        progress: told after every batch.

    Raises:
        InputError: something cannot be read, or does not fit together.
    """
    from nmerge_core.nonlinearity import solve

    found = None
    if groups and neurons:
        voting: dict[str, Any] = {"top_k": top_k, "margin": margin, "grouping": grouping, "lists": lists}
        frame = group_neurons(Path(neurons), open_checkpoint(base), categories, **voting, seed=seed)
        found = neurons_of(frame, groups)
    return solve(
        base,
        models,
        corpus,
        categories,
        groups=found,
        together=together,
        samples=samples,
        seed=seed,
        device=device,
        progress=progress,
    )
