"""Recipes that mergekit's guide does not show: parameters at their ends, below 0 and in gradients, and all by slices.

BASE, MATH, CODE and TRANSLATION stand for folders. What is random draws nothing at a density of 1.
"""

from typing import Any

Recipe = dict[str, Any]
MLP_FIRST = [{"filter": "mlp", "value": [0.2, 1.0]}, {"filter": "embed", "value": 0.3}, {"value": 0.7}]


def of(method: str, base: str | None, models: dict[str, dict[str, Any]], **parameters: Any) -> Recipe:
    """A merge of models, each with parameters of its own, and of a base where there is one."""
    entries = [{"model": model, "parameters": own} for model, own in models.items()]
    content = {"merge_method": method, "models": entries, "parameters": parameters, "dtype": "float32"}
    return content | ({"base_model": base} if base else {})


def w(weight: Any, **more: Any) -> dict[str, Any]:
    return {"weight": weight, **more}


TWO: dict[str, dict[str, Any]] = {"MATH": {}, "CODE": {}}
WITH_BASE: dict[str, dict[str, Any]] = {"MATH": {}, "BASE": {}, "CODE": {}}
ONE_OTHER: dict[str, dict[str, Any]] = {"MATH": {}, "BASE": {}}
WEIGHED = {"MATH": w(0.3), "CODE": w(0.9)}
BELOW_0 = {"MATH": w(-0.4), "CODE": w(0.9)}
WITH_0 = {"MATH": w(0.0), "CODE": w(0.6)}
GRADIENTS = {"MATH": w([0.1, 0.9]), "CODE": w(MLP_FIRST)}

ODD: dict[str, Recipe] = {
    "linear below 0": of("linear", None, {"MATH": w(-0.5), "CODE": w(1.2)}),
    "linear by gradients": of("linear", None, GRADIENTS),
    "linear of one": of("linear", None, {"MATH": w(0.3)}, normalize=False),
    "task_arithmetic below 0": of(
        "task_arithmetic", "BASE", BELOW_0, normalize=True, int8_mask=True, **{"lambda": 1.3}
    ),
    "ties of one": of("ties", "BASE", {"MATH": w(0.4, density=0.5)}, normalize=False, trim="tensor"),
    "ties below 0": of("ties", "BASE", BELOW_0, density=0.5, normalize=False, trim="tensor"),
    "dare_linear of all": of("dare_linear", "BASE", BELOW_0, density=1.0),
    "dare_ties of all": of("dare_ties", "BASE", BELOW_0, density=1.0, normalize=False),
    "della of all": of("della", "BASE", WEIGHED, density=1.0, epsilon=0.0, int8_mask=True),
    "della_linear of all": of("della_linear", "BASE", WEIGHED, density=1.0, epsilon=0.0, normalize=True),
    "slerp to 0": of("slerp", "BASE", ONE_OTHER, t=0),
    "slerp to 1": of("slerp", "BASE", {"MATH": {}}, t=1),
    "slerp by a gradient, the base second": of("slerp", "BASE", ONE_OTHER, t=[0.1, 0.8]),
    "nuslerp by columns": of("nuslerp", None, WEIGHED, nuslerp_flatten=False, nuslerp_row_wise=True),
    "nuslerp of changes": of("nuslerp", "BASE", {"BASE": {}, **WEIGHED}),
    "nuslerp to 0": of("nuslerp", None, WITH_0),
    "nuslerp below 0": of("nuslerp", None, BELOW_0),
    "nuslerp by weights that cancel": of("nuslerp", None, {"MATH": w(-0.5), "CODE": w(0.5)}),
    "nuslerp by gradients": of("nuslerp", None, GRADIENTS),
    "multislerp of one": of("multislerp", None, {"MATH": w(0.5)}),
    "multislerp of one change": of("multislerp", "BASE", {"MATH": w(0.5)}),
    "multislerp with 0": of("multislerp", None, WITH_0),
    "multislerp below 0": of("multislerp", None, {**BELOW_0, "TRANSLATION": w(0.5)}),
    "multislerp plain": of("multislerp", None, WEIGHED, normalize_weights=False),
    "multislerp by gradients": of("multislerp", None, GRADIENTS),
    "karcher of one": of("karcher", None, {"MATH": {}}),
    "karcher in three steps": of("karcher", None, {**TWO, "TRANSLATION": {}}, max_iter=3, tol=1e-9),
    "model_stock, the base among the models": of("model_stock", "BASE", WITH_BASE),
    "model_stock by rows, the base among them": of("model_stock", "BASE", WITH_BASE, filter_wise=True),
    "breadcrumbs by gradients": of(
        "breadcrumbs",
        "BASE",
        {
            "BASE": {},
            "MATH": w(-0.3, density=[0.9, 0.4], gamma=[{"filter": "mlp", "value": 0.1}, {"value": 0.02}]),
            "CODE": w(0.0),
            "TRANSLATION": w(0.8, gamma=0),
        },
        density=0.7,
    ),
    "breadcrumbs with little left": of("breadcrumbs", "BASE", {"MATH": w(0.3)}, density=0.9, gamma=0.5),
    "breadcrumbs_ties below 0": of("breadcrumbs_ties", "BASE", BELOW_0, density=0.4, gamma=0.3, normalize=False),
    "sce of one": of("sce", "BASE", {"MATH": {}}, select_topk=0.5),
    "sce by a gradient, the base among the models": of("sce", "BASE", WITH_BASE, select_topk=[0.2, 0.9]),
    "ram, the base among the models": of("ram", "BASE", WITH_BASE, epsilon=0.02),
    "ram by a gradient": of("ram", "BASE", TWO, epsilon=[0.02, 0.1]),
    "ram of all": of("ram", "BASE", TWO, epsilon=0),
    "arcee_fusion, the base second": of("arcee_fusion", "BASE", ONE_OTHER),
    "nearswap by a gradient, the base second": of("nearswap", "BASE", ONE_OTHER, t=[0.01, 0.1]),
    "nearswap by 0": of("nearswap", "BASE", ONE_OTHER, t=0),
    "passthrough below 0": of("passthrough", None, {"MATH": {}}, scale=-0.5),
}


def sliced(method: str, *, base: bool = True, weighed: bool = True, one: bool = False, **parameters: Any) -> Recipe:
    """Two slices, the first of layers with other places in each model; of `one` model beside the base, or of two."""
    slices = []
    for ranges in ({"MATH": [0, 1], "CODE": [1, 2]}, {"TRANSLATION": [0, 2], "CODE": [0, 2]}):
        models = [*ranges][1 if one else 0 :]
        sources: list[Recipe] = [{"model": "BASE", "layer_range": next(iter(ranges.values()))}] if base else []
        for model, weight in zip(models, (0.4, 0.7), strict=False):
            own: Recipe = {"parameters": {"weight": weight}} if weighed else {}
            sources.append({"model": model, "layer_range": ranges[model], **own})
        slices.append({"sources": sources})
    content = {"merge_method": method, "slices": slices, "parameters": parameters, "dtype": "float32"}
    return content | ({"base_model": "BASE"} if base else {})


ALL: dict[str, Any] = {"density": 1.0}
BAND: dict[str, Any] = {"density": 0.5, "gamma": 0.1}
SLICED = [
    sliced("linear", base=False, normalize=False),
    sliced("task_arithmetic"),
    sliced("dare_linear", **ALL),
    sliced("dare_ties", **ALL),
    sliced("della", **ALL, epsilon=0),
    sliced("della_linear", **ALL, epsilon=0),
    sliced("breadcrumbs", **BAND),
    sliced("breadcrumbs_ties", **BAND, normalize=True),
    sliced("sce", weighed=False, select_topk=0.4),
    sliced("ram", weighed=False, epsilon=0.04),
    sliced("model_stock", weighed=False, filter_wise=True),
    sliced("slerp", weighed=False, one=True, t=0.3),
    sliced("nearswap", weighed=False, one=True, t=0.04),
    sliced("arcee_fusion", weighed=False, one=True),
    sliced("nuslerp", base=False, nuslerp_flatten=False, nuslerp_row_wise=True),
    sliced("multislerp", base=False),
    sliced("karcher", base=False, weighed=False),
]
ODD |= {f"{recipe['merge_method']} of slices": recipe for recipe in SLICED}
