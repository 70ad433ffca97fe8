"""The steps of a recipe, under `then`: what is done, in order, to what its method merged."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from nmerge_core.errors import InputError, shown
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe.given import known
from nmerge_core.merging.recipe.registry import Method, methods, named, steps
from nmerge_core.merging.recipe.values import Values, steady


@dataclass(frozen=True)
class Step:
    """A step of a recipe, by its name, with the parameters that stand beside it."""

    step: str
    parameters: Mapping[str, Any]

    @property
    def method(self) -> Method:
        """The step that it names."""
        return named(self.step)

    def values(self, seed: int) -> Values:
        """Resolve every parameter: as it stands here, else the default."""
        own = {p.name: steady(p, self.parameters.get(p.name, p.default)) for p in self.method.parameters}
        return Values(self.step, own | {"seed": seed})

    @property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML, every default filled in."""
        values = {p.name: self.parameters.get(p.name, p.default) for p in self.method.parameters}
        own = {name: list(each) if isinstance(each, tuple) else each for name, each in values.items()}
        return {"method": self.step, **{name: each for name, each in own.items() if each is not None}}

    def in_full(self, places: Places) -> tuple["Step", dict[str, str]]:
        """Return the step with all that it names in full, and the fingerprints of that and its version.

        Raises:
            InputError: something that it names is not there.
        """
        own, found = dict(self.parameters), {f"step {self.step}": f"version {self.method.version}"}
        for parameter in self.method.parameters:
            if parameter.name in own:
                own[parameter.name], inputs = parameter.content(own[parameter.name], places)
                found.update(inputs)
        return replace(self, parameters=own), found


def read_steps(given: Any, method: Method, base: str | None, *, slices: bool) -> tuple[Step, ...]:
    """Read the steps of a recipe, none where it has none.

    Raises:
        InputError: there is no such step or parameter, or steps mean nothing to the recipe: it has slices, or merges
            weights and not what models changed in a base.
    """
    if given is None:
        return ()
    if slices:
        raise InputError("recipe: expected 'then' or 'slices', found both; a step goes on from a merge of whole models")
    if not method.takes_base or base is None:
        why = f"{method.name} merges weights" if not method.takes_base else "without 'base_model' weights are merged"
        raise InputError(f"recipe, key 'then': steps go on from what models changed in a base, and {why}")
    entries = given if isinstance(given, list) else [given]
    return tuple(_step(each, f"then[{index}]") for index, each in enumerate(entries))


def written_out(given: Any) -> Any:
    """Return a step, or a list of some, with mappings, in which parameters can be set, where names alone stand."""
    if isinstance(given, list):
        return [written_out(each) for each in given]
    return {"method": given} if isinstance(given, str) else given


def _step(given: Any, where: str) -> Step:
    name = given.get("method") if isinstance(given, Mapping) else given
    own = {key: value for key, value in given.items() if key != "method"} if isinstance(given, Mapping) else {}
    if not isinstance(name, str) or name not in steps():
        near = get_close_matches(str(name).casefold(), steps(), 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        if isinstance(name, str) and name in methods():
            hint = f"; {name} is no step: write it under 'merge_method'"
        expected = f"one of {', '.join(steps())}, or {{method: one of them, and its parameters}}"
        raise InputError(f"recipe, key '{where}': expected {expected}, found {shown(given)}{hint}")
    method = named(name)
    known(own, [parameter.name for parameter in method.parameters], f"recipe, {where} ({name})", method)
    return Step(
        name,
        {
            parameter.name: parameter.check(own[parameter.name], f"recipe, key '{where}.{parameter.name}'")
            for parameter in method.parameters
            if own.get(parameter.name) is not None
        },
    )
