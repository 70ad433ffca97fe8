"""What a family tells of the data that a method or a step needs, and what it lacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from nmerge_core.family import Family, Member
from nmerge_core.merging.recipe.registry import Method
from nmerge_core.parameters.inputs import Corpus, Tasks
from pages.shared.frame.page import tell_lack
from pages.shared.neurons.chosen import classification_runs, finished

DATA = {"corpus": Corpus, "tasks": Tasks}  # what a family names → the parameters it fills in


def tell_lacks(family: Family, method: Method, shared: Mapping[str, Any]) -> None:
    """Say which data a method or a step needs that neither the family nor the parameters name."""
    for what, named in DATA.items():
        takes = [parameter.name for parameter in method.parameters if isinstance(parameter, named)]
        if takes and not getattr(family, what) and not any(shared.get(name) for name in takes):
            tell_lack(family, what, f"{method.title} needs one: type it among the parameters, or change the family.")


def tuned_for(members: Sequence[Member]) -> list[str]:
    """The corpus category of each model, or its name."""
    return [member.category or member.label for member in members]


def known_of(family: Family, method: Method, members: Sequence[Member] = ()) -> dict[str, Any]:
    """What the family tells about parameters that name data: its classified neurons, corpus, categories and tasks.

    Where a method takes neurons that are there already, it need not classify them with the corpus.
    """
    classified = finished(classification_runs(family)).get("base")
    takes_neurons = any(parameter.name == "neurons" for parameter in method.parameters)
    data: dict[str, Any] = {"calibration": family.corpus, "category": tuned_for(members), "tasks": family.tasks}
    if classified and takes_neurons:
        voted = {name: classified.parameters[name] for name in ("top_k", "margin")}
        data |= {"neurons": str(classified.results), **voted}
    else:
        data |= {"corpus": family.corpus}
    return {name: value for name, value in data.items() if value}
