"""Why a finding of the papers may not hold on a family: how far tuning went, where, and how redundant neurons are."""

import math

import pandas as pd

from nmerge_core.reports.findings import BASE, Findings, Lacking
from nmerge_core.reports.verdicts import number

# The paper's mean cosine of neurons with the base's is 0.999 (Fig. 8): at equal lengths ‖τ‖/‖θ0‖ = √(2 − 2 · 0.999).
PAPER_STEP = math.sqrt(2 - 2 * 0.999)


def facts(found: Findings) -> pd.DataFrame:
    """Return, per fine-tune, what may tell the family from the papers': lengths and shares of its change.

    Columns model, step (‖τ‖/‖θ0‖), mlp_step (of MLPs alone), mlp_change (share of ‖τ‖² in MLPs), mlp_parameters, and
    dropped, the share of ‖τ‖² in neurons of tasks, which NeuronMerge drops; in percent.
    """
    steps = found.table("steps")
    rows = []
    for model, own in steps.groupby("model", sort=False):
        squares = own.set_index("part")[["change", "weight"]] ** 2
        whole, mlp = squares.sum(), squares.reindex(["mlp"]).fillna(0.0).iloc[0]
        sizes = own.set_index("part")["parameters"]
        rows.append(
            {
                "model": model,
                "step": 100 * math.sqrt(whole["change"] / whole["weight"]),
                "mlp_step": 100 * math.sqrt(mlp["change"] / mlp["weight"]) if mlp["weight"] else math.nan,
                "mlp_change": 100 * mlp["change"] / whole["change"] if whole["change"] else math.nan,
                "mlp_parameters": 100 * sizes.get("mlp", 0) / sizes.sum(),
                "dropped": _dropped(found, str(model), whole["change"]),
            }
        )
    return pd.DataFrame(rows)


def _dropped(found: Findings, model: str, whole: float) -> float:
    if found.neurons is None or found.changes is None or not whole:
        return math.nan
    base, categories = found.neurons[found.neurons["model"] == BASE], {each.category for each in found.family.models}
    # Categories that no fine-tune is of count as General where it merges.
    tasks = base[base["category"].isin(categories - {"general"})][["layer", "neuron"]]
    own = found.changes[found.changes["model"] == model].merge(tasks, on=["layer", "neuron"])
    return 100 * float((own["change"].astype(float) ** 2).sum()) / whole


def _step(found: Findings) -> str:
    """Say how far tuning went beside the paper's."""
    try:
        table = facts(found)
    except Lacking:
        return ""
    low, high = table["mlp_step"].min(), table["mlp_step"].max()
    between = f"{number(low)} %" if round(low, 1) == round(high, 1) else f"{number(low)} to {number(high)} %"
    times = high / (100 * PAPER_STEP)
    said = f"{number(times)} times as far" if times > 1.5 else "no farther"
    return (
        f"Tuning moved the MLPs by {between} of their length (‖τ‖/‖θ0‖); the paper's cosine of 0.999 means "
        f"{100 * PAPER_STEP:.1f} %, so these went {said}."
    )


def knockout(found: Findings) -> str:
    """Look at how much random neurons matter: where few are redundant, any of them hurt."""
    try:
        return f"{_redundancy(found)}"
    except Lacking:
        return ""


def _redundancy(found: Findings) -> str:
    frame = found.table("knockout")
    least = frame[(frame["proportion"] == frame["proportion"].min()) & (frame["group"] != frame["category"])]
    subjects = {subject.name: subject for subject in found.subjects}
    told = []
    for (category, name), own in least.groupby(["category", "subject"], sort=False):
        subject = subjects[str(name)]
        intact = found.mean(BASE, [subject])
        lost = intact - float(subject.points(own["value"].tolist()).mean())
        told.append(
            f"{own['neurons'].iloc[0]} random neurons cost {category} {number(lost, found.digits)} {found.of_cost}"
        )
    total = len(found.neurons[found.neurons["model"] == BASE]) if found.neurons is not None else 0
    return f"Of {total:,} neurons {', '.join(told)}: the more they cost, the fewer of them are redundant."


def categories(found: Findings) -> str:
    """Look at how far tuning went."""
    return _step(found)


def linearity(found: Findings) -> str:
    """Look at how far tuning went: signs of activations flip, and products of changes count, with long steps."""
    said = _step(found)
    return f"{said} The paper's argument needs steps so short that no activation changes its sign." if said else ""


def neuronmerge(found: Findings) -> str:
    """Look at what dropping the tasks' own neurons drops, and at what keeping them would have scored."""
    told = [_step(found)]
    try:
        table = facts(found)
        low, high = table["dropped"].min(), table["dropped"].max()
        if not math.isnan(low):
            told.append(
                f"NeuronMerge drops the change in the tasks' own neurons, here {number(low)} to {number(high)} % of "
                f"‖τ‖², of which MLPs have {number(table['mlp_change'].min())} to {number(table['mlp_change'].max())} "
                f"% (and {number(table['mlp_parameters'].mean())} % of the parameters)."
            )
        told.append(_kept_instead(found))
    except Lacking:
        pass
    return " ".join(filter(None, told))


def _kept_instead(found: Findings) -> str:
    plan = found.plan
    choices, subjects = plan.choices(), found.owned(plan.pair)
    own, drop = (found.shown(found.mean(choices[each, each], subjects)) for each in ("own", "drop"))
    return (
        f"With each task's neurons taken from its own model, {' and '.join(plan.pair)} score "
        f"{number(own, found.digits)} {found.unit} in place of {number(drop, found.digits)}."
    )


def subspaces(found: Findings) -> str:
    """Look at how large the part along is."""
    return _step(found)


def lambda_1(found: Findings) -> str:
    """Look at how many problems there are."""
    problems = sum(subject.count for subject in found.subjects if subject.owner)
    return f"{problems} problems were scored: the more there are, the narrower the interval. {_step(found)}"
