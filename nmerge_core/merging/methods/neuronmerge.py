"""Merge General neurons, leave task neurons alone, merge the rest as one likes (NeuronMerge, ACL 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Place
from nmerge_core.merging.compute.stream import Stream
from nmerge_core.merging.plan.amplified import AMPLIFY, BY, FOREIGN, OF, OWN, Amplified
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.neuron_lists import read_lists
from nmerge_core.merging.plan.neurons import GENERAL, check_neurons, classified, group_neurons, neurons_of
from nmerge_core.merging.plan.parts import Part, found_by, make_part, part_name, solved_parts
from nmerge_core.merging.recipe.method_part import MethodPart, word_of
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER, Prepared, Result
from nmerge_core.merging.recipe.registry import Needs, Preset, method
from nmerge_core.merging.recipe.shared_parameters import (
    CALIBRATION,
    CATEGORY,
    COEFFICIENTS,
    CORPUS,
    DENSITY,
    LAMBDA,
    LAMBDA_1,
    LAMBDA_2,
    MASK_RATIO,
    MERGE_FUNCTION,
    NEURONS,
    RESCALE,
    SAMPLES,
    TRIM,
    WEIGHT,
)
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.settings import GROUPING, LISTS, MARGIN, TOGETHER, TOP_K

_DROP, _OWN = "drop", "own"
_DARE = {"dare": "dare_linear"}  # what the paper calls it

_GENERAL = MethodPart(name="general", default="sublin", help="How General neurons are merged.", aliases=_DARE)
_SPECIFIC = MethodPart(
    name="specific",
    default=_DROP,
    help="What a task's own neurons become: the base's (drop), its model's (own) or another's "
    "({method: own, of: math}), merged with its model's change counting more (amplify), merged by SubLin of their "
    "group (merge), or merged by any method.",
    words={_DROP: (), _OWN: (OF,), AMPLIFY: (OWN, FOREIGN, BY, OF)},
    aliases=_DARE | {"merge": "sublin"},
    per_category=True,
)
_OTHERS = MethodPart(
    name="others",
    default="sublin",
    help="How attention, embeddings and norms are merged (Tables 1, 10, 11).",
    aliases=_DARE,
)
# What methods that merge a part have in common, said once for all of them; a part may say otherwise.
_FOR_PARTS = (
    CATEGORY,
    CALIBRATION,
    SAMPLES,
    TOGETHER,
    WEIGHT,
    DENSITY.with_(default=0.4),
    LAMBDA,
    TRIM,
    RESCALE,
    MASK_RATIO,
    LAMBDA_1,
    LAMBDA_2,
    MERGE_FUNCTION,
    COEFFICIENTS,
)


@dataclass(frozen=True)
class Plan:
    """Per layer the category index of each neuron, (d_ffn,) int64 on the CPU; per category what is done with it.

    A choice is drop, own, or the name of one of the `parts`; `own` gives the position of the model that the neurons of
    a category chosen so are of, `amplified` what models' changes are multiplied by before they are merged.
    """

    groups: Mapping[int, torch.Tensor]
    categories: tuple[str, ...]
    choices: Mapping[str, str]
    others: str
    own: Mapping[str, int]
    amplified: Mapping[str, Amplified]
    parts: Mapping[str, Part]


def check(context: Context, values: Values) -> None:
    """Check that each model has a category of its own, that `specific` knows it, and what every part checks."""
    tasks, specific = context.task_categories(values), values.shared["specific"]
    if len(set(tasks)) < len(tasks) or GENERAL in tasks:
        expected = f"a distinct category other than '{GENERAL}' per model"
        raise context.wrong("models[].parameters.category", expected, tasks)
    groups = [*tasks, *(values.shared["lists"] or ())]
    if _SPECIFIC.is_by_category(specific) and (unknown := {*specific} - {*groups}):
        raise context.wrong("parameters.specific", f"categories among {', '.join(groups)}", sorted(unknown))
    for each in _each_specific(specific):
        if (whose := _SPECIFIC.whose(each)) is not None and whose not in tasks:
            raise context.wrong("parameters.specific", f"{word_of(each)} of one of {', '.join(tasks)}", whose)
    check_neurons(context, values, tasks)
    _check_lists(context, values, tasks)
    for place, parameter, choice in _choices(values):
        if parameter.method(choice):
            part = make_part(parameter, choice, values, _FOR_PARTS)
            part.method.checked(context.inside(place, parameter.own(choice)), part.values)


def _check_lists(context: Context, values: Values, tasks: Sequence[str]) -> None:
    """Check that lists of neurons have names and choices of their own, and what is in them."""
    lists = _lists(context, values)
    taken = {GENERAL, "attention", "mlp", *tasks}
    if strange := taken & lists.keys():
        raise context.wrong("parameters.lists", f"names other than {', '.join(sorted(taken))}", sorted(strange))
    for name in lists:
        choice = _SPECIFIC.of_category(values.shared["specific"], name)
        if (word := word_of(choice)) in (_OWN, AMPLIFY) and not _SPECIFIC.whose(choice):
            expected = (
                f"{_DROP} or a method for the list '{name}', or whose they are to be, as it is no model's own: "
                f"{{{name}: {{method: {word}, of: {tasks[0]}}}}}"
            )
            raise context.wrong("parameters.specific", expected, word)
    read_lists(lists, context.stream.donor.architecture)


def _lists(context: Context, values: Values) -> dict[str, Any]:
    """Return the lists of neurons, none as an empty mapping, files as they are found."""
    lists = values.shared["lists"] or {}
    return {name: str(context.recipe.path(each)) if isinstance(each, str) else each for name, each in lists.items()}


def prepare(context: Context, values: Values) -> Prepared:
    """Group the base's neurons, and prepare every method that a group or the rest is merged with."""
    tasks = context.task_categories(values)
    voting = {name: values.shared[name] for name in ("top_k", "margin", "grouping")}
    voting["lists"] = _lists(context, values)
    with classified(context, values) as folder:
        frame = group_neurons(folder, context.stream.donor, tasks, **voting, seed=values.shared["seed"])
    categories = (GENERAL, *tasks, *voting["lists"])
    indices = {name: index for index, name in enumerate(categories)}
    groups = {
        int(layer): torch.tensor(each.sort_values("neuron")["category"].map(indices).to_numpy())
        for layer, each in frame.groupby("layer")
    }
    specific = values.shared["specific"]
    chosen = {name: _SPECIFIC.of_category(specific, name) for name in categories[1:]}
    owners = {name: tasks.index(whose) for name, each in chosen.items() if (whose := _owner(each, name))}
    choices = {GENERAL: part_name(_GENERAL, values.shared["general"])}
    choices |= {name: part_name(*_merged_by(_SPECIFIC, each)) for name, each in chosen.items()}
    others = part_name(_OTHERS, values.shared["others"])
    parts: dict[str, Part] = {}
    for place, parameter, choice in _choices(values):
        name = part_name(parameter, choice)
        if parameter.method(choice) is None or name in parts:
            continue
        part = make_part(parameter, choice, values, _FOR_PARTS)
        grouped = neurons_of(frame, [category for category in categories if choices[category] == name])
        inside = context.with_groups(grouped, {"neurons": str(folder), **voting}).inside(place, parameter.own(choice))
        prepared = part.method.facts(inside, part.values)
        parts[name] = Part(part.method, part.values, prepared)
    own = {name: owner for name, owner in owners.items() if word_of(chosen[name]) == _OWN}
    amplified = {
        name: Amplified(owner, chosen[name][OWN.name], chosen[name][FOREIGN.name])
        for name, owner in owners.items()
        if name not in own
    }
    plan = Plan(groups, categories, choices, others, own, amplified, parts)
    sizes = frame.groupby(["layer", "category"]).size().rename("neurons").reset_index().to_dict("records")
    found, results = found_by(parts)
    report = {"groups": sizes, **found}
    if not values.shared["neurons"]:
        report["run_dtype"] = context.run_dtype
    solved: dict[str, Any] = {"neurons": NEURONS_FOLDER, "corpus": None, "top_k": None, "margin": None}
    solved["grouping"] = "functional"  # the groups that travel with the output are the shuffled ones
    written = [(_OTHERS, values.shared["others"]), (_GENERAL, values.shared["general"]), (_SPECIFIC, specific)]
    solved |= solved_parts(written, parts, _FOR_PARTS)
    return Prepared(plan, solved=solved, report=report, results=results, categories=frame)


def decides(place: Place, values: Values, prepared: Prepared) -> Any:
    """Tell a tensor's groups and what each of them is merged by; of a tensor that is no neuron's what `others` does."""
    plan: Plan = prepared.data
    if not place.of_neurons or place.layer is None:
        return plan.parts[plan.others].decided_by(place)
    groups = plan.groups[place.layer].numpy()
    present = [plan.categories[index] for index in np.unique(groups)]
    by: list[Any] = []
    for category in present:
        part, amplified = plan.parts.get(plan.choices[category]), plan.amplified.get(category)
        factors = amplified.factors(place, len(values.each["weight"])) if amplified else ()
        unmerged = plan.choices[category], plan.own.get(category)
        by.append((part.decided_by(place.for_group(category)), factors) if part else unmerged)
    return groups.tobytes(), by


def _owner(choice: Any, category: str) -> str | None:
    """Return the category whose model's change is a group's own; None where the choice asks for none."""
    return (_SPECIFIC.whose(choice) or category) if word_of(choice) in (_OWN, AMPLIFY) else None


def _merged_by(parameter: MethodPart, choice: Any) -> tuple[MethodPart, Any]:
    """Return the choice by which changes are merged, those that are amplified too, and its parameter."""
    return (BY, choice[BY.name]) if word_of(choice) == AMPLIFY else (parameter, choice)


def _each_specific(specific: Any) -> list[Any]:
    return [*specific.values()] if _SPECIFIC.is_by_category(specific) else [specific]


def _choices(values: Values) -> list[tuple[str, MethodPart, Any]]:
    """Return every part's key in the recipe, its parameter, and what is chosen for it to be merged by."""
    specific = values.shared["specific"]
    by_category = specific if _SPECIFIC.is_by_category(specific) else {}
    written = [
        ("parameters.general", _GENERAL, values.shared["general"]),
        *((f"parameters.specific.{category}", _SPECIFIC, each) for category, each in by_category.items()),
        *([] if by_category else [("parameters.specific", _SPECIFIC, specific)]),
        ("parameters.others", _OTHERS, values.shared["others"]),
    ]
    found = []
    for place, parameter, choice in written:
        by, chosen = _merged_by(parameter, choice)
        found.append((place if by is parameter else f"{place}.{by.name}", by, chosen))
    return found


def _used(values: Values) -> list[tuple[MethodPart, Part]]:
    """Return the methods that parts of the merge are made with, and where each was chosen."""
    return [
        (parameter, make_part(parameter, choice, values, _FOR_PARTS))
        for _, parameter, choice in _choices(values)
        if parameter.method(choice)
    ]


def whole(place: Place, values: Values) -> bool:
    """Tell whether a method that merges something of a tensor needs the whole of it."""
    by_category = place.of_neurons and place.layer is not None
    return any(
        part.method.whole(place, part.values)
        for parameter, part in _used(values)
        if (parameter is not _OTHERS) == by_category
    )


def needs(stream: Stream, values: Values) -> Needs:
    """Count, at most, what each part needs of the whole model; a choice for all groups counts once for each of them."""
    alike = not _SPECIFIC.is_by_category(values.shared["specific"])
    groups = len(stream.models) + len(values.shared["lists"] or ())
    each = [
        (part.method.needs(stream, part.values), groups if alike and parameter in (_SPECIFIC, BY) else 1)
        for parameter, part in _used(values)
    ]
    memory = max((needs.memory for needs, _ in each), default=0)
    return Needs(memory, sum(needs.operations * times for needs, times in each))


# Losses on held-out texts of the demo family, of one tuned gently and of one trained on public text: docs/results.md.
_RECOMMENDED = Preset(
    "Recommended",
    "A task's change counts 1.5 times in its own neurons. Of twenty rules this alone had a lower loss than SubModule "
    "Linearity, task arithmetic and random neurons on all three families tried (docs/results.md).",
    {"general": "sublin", "specific": AMPLIFY, "others": "sublin"},
)
_PAPER = Preset(
    "The paper's",
    "Task neurons go back to the base, all else is merged by SubModule Linearity (NeuronMerge₂). On those families its "
    "loss was higher than that of SubModule Linearity alone; the paper's models are a thousand times as large.",
    {"general": "sublin", "specific": _DROP, "others": "sublin"},
)


@method(
    "neuronmerge",
    title="NeuronMerge",
    paper="Gu et al., ACL 2025",
    summary="Merge the neurons that serve every task, keep the base's in each task's own, merge the rest apart.",
    when="With texts, neuron by neuron: its preset *Recommended* has a lower loss than task arithmetic on both "
    "families measured, by more than chance.",
    presets=[_RECOMMENDED, _PAPER],
    parameters=[
        NEURONS,
        CORPUS.with_(help="Corpus to classify the base with on the way, where no folder is named."),
        TOP_K.with_(
            default=None, help="Vote again with each neuron's k strongest texts (the folder's own k if unset)."
        ),
        MARGIN.with_(
            default=None,
            help="Votes m a category must be ahead by, else the neuron is General (the folder's if unset).",
        ),
        GROUPING,
        LISTS,
        _GENERAL,
        _SPECIFIC,
        _OTHERS,
        *_FOR_PARTS,
    ],
    results=[
        Result("groups", "Neurons of each category by layer", "table"),
    ],
    decides=decides,
    check=check,
    prepare=prepare,
    whole=whole,
    passes=lambda values: max((part.method.passes(part.values) for _, part in _used(values)), default=1),
    solves=lambda values: (
        not values.shared["neurons"] or any(part.method.solves(part.values) for _, part in _used(values))
    ),
    searches=lambda values: any(part.method.searches(part.values) for _, part in _used(values)),
    needs=needs,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return θ_merge − θ0 of a block: each MLP neuron by its group's choice, the rest by `others` (Alg. 1)."""
    plan: Plan = prepared.data
    if block.neurons is None or block.layer is None:
        return plan.parts[plan.others].merge(block)
    groups = plan.groups[block.layer][block.neurons]  # broadcasts to (rows, columns)
    merged = torch.zeros_like(block.base)
    for index, category in enumerate(plan.categories):
        choice = plan.choices[category]
        mask = groups == index
        if choice == _DROP or not mask.any():
            continue
        if choice == _OWN:
            delta = block.deltas[plan.own[category]]
        else:
            amplified, seen = plan.amplified.get(category), block.for_group(category)
            delta = plan.parts[choice].merge(amplified.block(seen) if amplified else seen)
        merged = torch.where(mask.to(merged.device), delta, merged)
    return merged
