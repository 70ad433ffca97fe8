"""A method with steps after it, as one method: what is merged goes from each to the next, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nmerge_core.merging.compute.block import Block, Place
from nmerge_core.merging.compute.stream import Stream
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import Method, Needs
from nmerge_core.merging.recipe.values import Values

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Chained:
    """What a method found out, and what each step after it did."""

    first: Prepared
    then: tuple[Prepared, ...]


def chained(method: Method, steps: Sequence[Method]) -> Method:
    """Return a method followed by steps; the values of these are in `Values.then`, in order."""

    def inside(context: Any, index: int) -> Any:
        return context.inside(f"then[{index}]", [parameter.name for parameter in steps[index].parameters])

    def check(context: Any, values: Values) -> None:
        method.check(context, values)
        for index, (step, own) in enumerate(zip(steps, values.then, strict=True)):
            step.check(inside(context, index), own)

    def prepare(context: Any, values: Values) -> Prepared:
        first = method.prepare(context, values) if method.prepare else Prepared()
        then = [
            step.prepare(inside(context, index), own) if step.prepare else Prepared()
            for index, (step, own) in enumerate(zip(steps, values.then, strict=True))
        ]
        report, results = dict(first.report), list(first.results)
        for step, found in zip(steps, then, strict=True):
            for name, each in found.report.items():
                if name == "warnings":
                    report[name] = [*report.get(name, ()), *each]
                else:
                    report[f"{name} of {step.name}"] = each
            results += [
                replace(each, name=f"{each.name} of {step.name}", title=f"{each.title}, {step.title}")
                for each in (*step.results, *found.results)
            ]
        data = Chained(Prepared(first.data), tuple(Prepared(found.data) for found in then))
        return replace(first, data=data, report=report, results=results)

    def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
        found: Chained = prepared.data
        merged = method.merge(block, values, found.first)
        for step, own, facts in zip(steps, values.then, found.then, strict=True):
            merged = step.merge(replace(block, merged=merged), own, facts)
        return merged

    def decides(place: Place, values: Values, prepared: Prepared) -> Any:
        found: Chained = prepared.data
        of_steps = zip(steps, values.then, found.then, strict=True)
        then = [step.decided_by(place, own, facts) for step, own, facts in of_steps]
        return method.decided_by(place, values, found.first), then

    def needs(stream: Stream, values: Values) -> Needs:
        of_steps = [step.needs(stream, own) for step, own in zip(steps, values.then, strict=True)]
        each = [method.needs(stream, values), *of_steps]
        return Needs(max(own.memory for own in each), sum(own.operations for own in each))

    def whole(place: Place, values: Values) -> bool:
        of_steps = zip(steps, values.then, strict=True)
        return method.whole(place, values) or any(step.whole(place, own) for step, own in of_steps)

    def some(name: str, values: Values) -> bool:
        """Tell whether the method or a step answers yes."""
        of_steps = zip(steps, values.then, strict=True)
        return bool(getattr(method, name)(values)) or any(getattr(step, name)(own) for step, own in of_steps)

    return replace(
        method,
        merge=merge,
        rule=None,
        entrywise=False,
        rows=None,
        decides=decides,
        check=check,
        prepare=prepare,
        whole=whole,
        solves=lambda values: some("solves", values),
        needs=needs,
    )
