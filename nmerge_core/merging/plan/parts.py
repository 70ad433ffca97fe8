"""Parts of a model that are merged by methods of their own: what each is given, and what the recipe keeps of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nmerge_core.merging.compute.block import Block, Place
from nmerge_core.merging.recipe.method_part import MethodPart, word_of
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import Method
from nmerge_core.merging.recipe.values import Values, steady
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Solved

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Part:
    """A method with its parameters, as the recipe has them, and what it found out."""

    method: Method
    values: Values
    prepared: Prepared = Prepared()

    def merge(self, block: Block) -> torch.Tensor:
        """Return the merged delta of a block, (rows, columns)."""
        return self.method.merge(block, self._values(block), self.prepared)

    def decided_by(self, place: Place) -> Any:
        """Return what decides how it merges a tensor."""
        return self.method.decided_by(place, self._values(place), self.prepared)

    def _values(self, of: Block | Place) -> Values:
        return self.values.at(of.name, of.position).with_defaults(self.method.defaults)


def found_by(parts: Mapping[str, Part]) -> tuple[dict[str, Any], list[Result]]:
    """Return what the parts report and the results they declare, told apart by the part where several have a name."""
    counts = Counter(name for part in parts.values() for name in part.prepared.report)
    report: dict[str, Any] = {}
    results: list[Result] = []
    for part_name, part in parts.items():
        declared = {result.name: result for result in (*part.method.results, *part.prepared.results)}
        for name, found in part.prepared.report.items():
            if name == "warnings":
                report[name] = [*report.get(name, ()), *found]
                continue
            key = name if counts[name] == 1 else f"{name} of {part_name}"
            report[key] = found
            if name in declared:
                title = declared[name].title if counts[name] == 1 else f"{declared[name].title}, of {part_name}"
                results.append(replace(declared[name], name=key, title=title))
    return report, results


def part_name(parameter: MethodPart, choice: Any) -> str:
    """Name a part so that equal ones are prepared once: a word, a method, or a method with its own parameters."""
    found = parameter.method(choice)
    if found is None:
        return word_of(choice)
    own = parameter.own(choice)
    told = ", ".join(f"{name} {json.dumps(value, default=list)}" for name, value in sorted(own.items()))
    return f"{found.name} ({told})" if own else found.name


def make_part(parameter: MethodPart, choice: Any, values: Values, for_parts: Sequence[Parameter]) -> Part:
    """Give a method its parameters: those beside its name, else those said for all parts, else its own defaults."""
    found = parameter.method(choice)
    assert found  # words were told apart before
    own, count = parameter.own(choice), len(values.each["weight"])

    def value_of(of_method: Parameter, for_all: Any) -> Any:
        otherwise = of_method.default if for_all is None else for_all
        return _completed(steady(of_method, own[of_method.name]), otherwise) if of_method.name in own else otherwise

    shared, each = {"seed": values.shared["seed"]}, {}
    for of_method in found.parameters:
        said, name = _is_said(of_method, for_parts), of_method.name
        if of_method.per_model:
            each[name] = tuple(value_of(of_method, value) for value in (values.each[name] if said else [None] * count))
        else:
            shared[name] = value_of(of_method, values.shared[name] if said else None)
    return Part(found, Values(found.name, shared, each))


def _completed(value: Any, otherwise: Any) -> Any:
    """Return a part's own value; of a list of filters with what tensors have that none of them matches."""
    return [*value, {"value": otherwise}] if isinstance(value, list) and isinstance(value[0], Mapping) else value


def _is_said(of_method: Parameter, for_parts: Sequence[Parameter]) -> bool:
    """Tell whether a method's parameter is one of those that are said once for all parts."""
    return any(of_method == for_all.with_(default=of_method.default) for for_all in for_parts)


def _resolved(part: Part, for_parts: Sequence[Parameter]) -> dict[str, Any]:
    """Return the values of a part's parameters that nothing said for all parts tells, defaults among them."""
    told: dict[str, Any] = {}
    for parameter in part.method.parameters:
        if isinstance(parameter, Solved) or _is_said(parameter, for_parts):
            continue
        values = part.values
        value = values.each[parameter.name][0] if parameter.per_model else values.shared[parameter.name]
        if value is not None:
            told[parameter.name] = list(value) if isinstance(value, tuple) else value
    return told


def solved_parts(
    choices: Sequence[tuple[MethodPart, Any]], parts: Mapping[str, Part], for_parts: Sequence[Parameter]
) -> dict[str, Any]:
    """Return the choices, and the parameters for all parts, with what was solved, and with the parts' own defaults.

    What was solved stands for all parts where one method alone solved it and has no parameters of its own, else beside
    its method.

    Args:
        choices: each parameter that is a part, with its value; the first that solves a parameter for all keeps it.
        parts: the prepared ones, by `part_name`.
        for_parts: the parameters that are said once for all parts.
    """
    solved: dict[str, Any] = {}
    lent: dict[str, str] = {}  # which part a solved parameter that stands for all parts is of
    for_all = {each.name for each in for_parts}

    def filled(parameter: MethodPart, choice: Any) -> Any:
        if parameter.is_by_category(choice):
            return {category: filled(parameter, each) for category, each in choice.items()}
        if parameter.method(choice) is None:  # a word, whose parameters may be parts again
            own = parameter.own(choice)
            inner = [each for each in parameter.parameters_of(word_of(choice)) if isinstance(each, MethodPart)]
            own |= {each.name: filled(each, own[each.name]) for each in inner}
            return {"method": word_of(choice), **own} if own else choice
        name = part_name(parameter, choice)
        found, own = parts[name].prepared.solved, {**_resolved(parts[name], for_parts), **parameter.own(choice)}
        if not own and all(key in for_all and lent.setdefault(key, name) == name for key in found):
            solved.update(found)
            return choice
        return {"method": word_of(choice), **own, **found}

    written = {parameter.name: filled(parameter, choice) for parameter, choice in choices}
    return solved | written
