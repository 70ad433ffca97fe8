"""Merge General neurons, leave task neurons alone, merge the rest as one likes (NeuronMerge, ACL 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER, Prepared
from nmerge_core.merging.recipe.registry import Method, Parameter, Values, method, methods
from nmerge_core.merging.recipe.shared_parameters import (
    CALIBRATION,
    CATEGORY,
    COEFFICIENTS,
    DENSITY,
    LAMBDA,
    LAMBDA_1,
    LAMBDA_2,
    MASK_RATIO,
    MERGE_FUNCTION,
    RESCALE,
    SAMPLES,
    TRIM,
    WEIGHT,
    with_default,
)

if TYPE_CHECKING:
    import pandas as pd

GENERAL = "general"
# What the papers call a method, and the method it is here.
_NAMES = {"dare": "dare_linear"}
_MERGED = ("sublin", "task_arithmetic", "dare", "ties", "neuromerging")
_DROP, _OWN, _MERGE = "drop", "own", "merge"


@dataclass(frozen=True)
class Plan:
    """Per layer the category index of each neuron, (d_ffn,) int64 on the CPU; per category index what is done with it.

    A choice is drop, own or a method's name; `prepared` holds what each method that is used found out, `own`
    the position of the model whose category it is.
    """

    groups: Mapping[int, torch.Tensor]
    categories: tuple[str, ...]
    choices: Mapping[str, str]
    others: str
    own: Mapping[str, int]
    methods: Mapping[str, Method]
    prepared: Mapping[str, Any]


def prepare(context: Context, values: Values) -> Prepared:
    """Group the base's neurons, and prepare every method that a group or the rest is merged with."""
    tasks = context.task_categories(values)
    if len(set(tasks)) < len(tasks) or GENERAL in tasks:
        raise context.wrong(
            "models[].parameters.category", f"a distinct category other than '{GENERAL}' per model", tasks
        )
    frame = context.neuron_categories(values)
    known = sorted(frame["category"].unique())
    if strange := [task for task in tasks if task not in known]:
        raise context.wrong("models[].parameters.category", f"categories of neurons ({', '.join(known)})", strange)
    # The categories of tasks that are not merged fold into General (§4.1).
    frame = frame.assign(category=frame["category"].where(frame["category"].isin(tasks), GENERAL))
    if values.shared["grouping"] == "random":
        frame = _shuffled(frame, values.shared["seed"])
    categories = (GENERAL, *tasks)
    indices = {name: index for index, name in enumerate(categories)}
    groups = {
        int(layer): torch.tensor(each.sort_values("neuron")["category"].map(indices).to_numpy())
        for layer, each in frame.groupby("layer")
    }
    specific = values.shared["specific"]
    if isinstance(specific, Mapping) and (unknown := set(specific) - set(tasks)):
        raise context.wrong("parameters.specific", f"categories among {', '.join(tasks)}", sorted(unknown))
    choices = {task: specific.get(task, _DROP) if isinstance(specific, Mapping) else specific for task in tasks}
    choices[GENERAL] = values.shared["general"]
    choices = {name: "sublin" if choice == _MERGE else choice for name, choice in choices.items()}
    others = values.shared["others"]
    used = {choice for choice in (*choices.values(), others) if choice not in (_DROP, _OWN)}
    available = {name: methods()[_NAMES.get(name, name)] for name in sorted(used)}
    solved_groups = {
        layer: {
            name: (ids == index).nonzero().flatten().numpy()
            for name, index in indices.items()
            if choices[name] == "sublin"
        }
        for layer, ids in groups.items()
    }
    prepared = {
        name: used_method.prepare(context.with_groups(solved_groups), _values_for(used_method, values))
        if used_method.prepare
        else None
        for name, used_method in available.items()
    }
    plan = Plan(groups, categories, choices, others, {t: i for i, t in enumerate(tasks)}, available, prepared)
    sizes = frame.groupby(["layer", "category"]).size().rename("neurons").reset_index().to_dict("records")
    solved: dict[str, Any] = {"neurons": NEURONS_FOLDER, "corpus": None, "top_k": None, "margin": None}
    solved["grouping"] = "functional"  # the groups that travel with the output are the shuffled ones
    report: dict[str, Any] = {"groups": sizes}
    if not values.shared["neurons"]:
        report["run_dtype"] = context.run_dtype
    for found in filter(None, prepared.values()):
        solved |= found.solved
        report |= found.report
    return Prepared(plan, solved=solved, report=report, categories=frame)


def _used(values: Values) -> set[str]:
    """Return the methods that some part of the merge is made with, as recipes name them."""
    specific = values.shared["specific"]
    choices = {*specific.values()} if isinstance(specific, Mapping) else {specific}
    named = {values.shared["general"], values.shared["others"]} | ({"sublin"} if _MERGE in choices else set())
    return {name for name in named if name}


def passes(values: Values) -> int:
    """Count the passes over the models: those of the method in use that needs the most."""
    return max(methods()[_NAMES.get(name, name)].passes(values) for name in _used(values))


def solves(values: Values) -> bool:
    """Whether coefficients have to be solved."""
    return "sublin" in _used(values) and values.shared["coefficients"] is None


def _shuffled(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Give the same number of neurons of each layer to each category, at random (the control of Table 4)."""
    order = np.random.default_rng(seed)
    shuffled = frame.groupby("layer")["category"].transform(lambda layer: order.permutation(layer.to_numpy()))
    return frame.assign(category=shuffled)


def _values_for(used: Method, values: Values) -> Values:
    """Give a method the values of its parameters, its own defaults for those this recipe does not have."""
    count = len(values.each["weight"])
    shared = {p.name: p.default for p in used.parameters} | {k: v for k, v in values.shared.items() if v is not None}
    each = {p.name: (p.default,) * count for p in used.parameters if p.per_model}
    return Values(shared, each | dict(values.each))


@method(
    "neuronmerge",
    title="NeuronMerge",
    paper="Gu et al., ACL 2025",
    summary="Merge the neurons that serve every task, keep the base's in each task's own, merge the rest apart.",
    parameters=[
        Parameter("neurons", "path", None, "Classification folder of the base model; its categories are the groups."),
        Parameter("corpus", "path", None, "Corpus to classify the base with on the way, where no folder is named."),
        Parameter(
            "top_k",
            "int",
            None,
            "Vote again with each neuron's k strongest texts (the folder's own k if unset).",
            1,
            50,
            1,
        ),
        Parameter("margin", "int", None, "Votes m a category must be ahead by, else the neuron is General.", 0, 50, 1),
        Parameter(
            "grouping",
            "choice",
            "functional",
            "Group neurons by what they do, or at random with the same sizes per layer (the control of Table 4).",
            choices=("functional", "random"),
        ),
        CATEGORY,
        CALIBRATION,
        SAMPLES,
        Parameter("general", "choice", "sublin", "How General neurons are merged.", choices=_MERGED),
        Parameter(
            "specific",
            "choice",
            _DROP,
            "What a task's own neurons become: the base's (drop), its model's (own), or merged by SubLin (merge).",
            choices=(_DROP, _OWN, _MERGE),
            per_category=True,
        ),
        Parameter(
            "others",
            "choice",
            "sublin",
            "How attention, embeddings and norms are merged (Table 1, 10, 11).",
            choices=_MERGED,
        ),
        WEIGHT,
        with_default(DENSITY, 0.4),
        LAMBDA,
        TRIM,
        RESCALE,
        MASK_RATIO,
        LAMBDA_1,
        LAMBDA_2,
        MERGE_FUNCTION,
        COEFFICIENTS,
    ],
    prepare=prepare,
    passes=passes,
    solves=solves,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return θ_merge − θ0 of a block: each MLP neuron by its group's choice, the rest by `others` (Alg. 1)."""
    plan: Plan = prepared.data
    if block.neurons is None or block.layer is None:
        return _apply(plan, plan.others, block, values)
    groups = plan.groups[block.layer][block.neurons]  # broadcasts to (rows, columns)
    merged = torch.zeros_like(block.base)
    for index, category in enumerate(plan.categories):
        choice = plan.choices[category]
        mask = groups == index
        if choice == _DROP or not mask.any():
            continue
        delta = (
            block.deltas[plan.own[category]]
            if choice == _OWN
            else _apply(plan, choice, block.for_group(category), values)
        )
        merged = torch.where(mask.to(merged.device), delta, merged)
    return merged


def _apply(plan: Plan, name: str, block: Block, values: Values) -> torch.Tensor:
    used = plan.methods[name]
    return used.merge(block, _values_for(used, values), plan.prepared[name])
