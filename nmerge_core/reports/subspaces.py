"""NeuroMerging's entries on the parts of a change along and across the base's neurons, and on how many there are."""

import math
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.figures import style
from nmerge_core.figures.report import shares
from nmerge_core.reports.claims import subspaces
from nmerge_core.reports.findings import BASE, Findings, Lacking
from nmerge_core.reports.intervals import Estimate
from nmerge_core.reports.item import NEUROMERGING, Item
from nmerge_core.reports.published import neuromerging
from nmerge_core.reports.steps import POINT
from nmerge_core.reports.variants import Variant
from nmerge_core.reports.verdicts import AGREES, DIFFERS, Verdict, number

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FEW = 1.0  # percent of parameters up to which point parameters are few
_KEPT = {"fine-tuned": None, "keep orthogonal": "orthogonal", "keep parallel": "parallel"}


def _key(found: Findings, label: str, keep: str | None) -> str | Variant:
    return label if keep is None else found.plan.subspaces()[label, keep]


def _by_task(found: Findings) -> pd.DataFrame:
    subjects = found.owned(found.plan.labels)
    rows = [{"kept": "nothing", "tuned on": BASE} | _scores(found, BASE, subjects)]
    for title, keep in _KEPT.items():
        for label in found.plan.labels:
            rows.append({"kept": title, "tuned on": label} | _scores(found, _key(found, label, keep), subjects))
    return pd.DataFrame(rows)


def _scores(found: Findings, key: str | Variant, subjects: list) -> dict[str, float]:
    return {subject.name: found.shown(found.mean(key, [subject])) for subject in subjects}


def _domains(found: Findings) -> pd.DataFrame:
    labels = found.plan.labels
    subjects = dict(zip(labels, found.owned(labels), strict=True))
    rows = []
    for title, keep in {BASE: BASE, **_KEPT}.items():
        keys = {label: BASE if keep == BASE else _key(found, label, keep) for label in labels}
        own = [found.mean(keys[label], [subjects[label]]) for label in labels]
        others = [found.mean(keys[label], [subjects[other]]) for label in labels for other in labels if other != label]
        everything = [*own, *others]
        means = {
            "in-domain": sum(own) / len(own),
            "out-domain": sum(others) / len(others) if others else math.nan,
            "all": sum(everything) / len(everything),
        }
        rows.append({"kept": title} | {name: found.shown(value) for name, value in means.items()})
    return pd.DataFrame(rows)


def _draw(found: Findings, dark: bool) -> "go.Figure":
    labels = found.plan.labels
    subjects = dict(zip(labels, found.owned(labels), strict=True))
    rows = [
        {"fine-tune": label}
        | {title: found.shown(found.mean(_key(found, label, keep), [subjects[label]])) for title, keep in _KEPT.items()}
        for label in labels
    ]
    colours = dict(zip(_KEPT, (style.base_colour(dark), style.MERGE, style.RANDOM), strict=True))
    return shares(pd.DataFrame(rows), found.unit, colours, dark=dark)


def _parameters(found: Findings) -> pd.DataFrame:
    steps = found.table("steps")
    if steps.empty:
        raise Lacking("The family has no fine-tune.")
    sizes = steps[steps["model"] == steps["model"].iloc[0]].set_index("part")["parameters"]
    total = int(sizes.sum())
    point = int(sizes.get(POINT, 0))
    rows = [("neuronal", total - point, 100 * (total - point) / total), ("point", point, 100 * point / total)]
    return pd.DataFrame(rows, columns=["parameters", "number", "share, %"])


def _few_points(found: Findings) -> Verdict:
    share = float(_parameters(found)["share, %"].iloc[1])
    told = f"{number(share, 3)} % of the parameters are point parameters; it agrees up to {_FEW:g} %."
    return Verdict(AGREES if share <= _FEW else DIFFERS, told, Estimate(share, share, share))


ITEMS = [
    Item(NEUROMERGING, "Figure 1", "The parts of a change along and across, on each fine-tune's own task",
         "The part across keeps almost all, the part along almost nothing.", _domains, neuromerging.FIGURE_1, _draw,
         subspaces, "The paper's are T5-Large; nothing is masked, as in the paper."),
    Item(NEUROMERGING, "Figure 5", "Neuronal and point parameters", "Almost all parameters are neuronal.", _parameters,
         neuromerging.FIGURE_5, None, _few_points),
    Item(NEUROMERGING, "Table 6", "Parts of a change in and out of domain",
         "The part across is as good as the fine-tune in its domain and out of it.", _domains, neuromerging.TABLE_6,
         judge=subspaces, note="Out of domain are the other fine-tunes' tasks."),
    Item(NEUROMERGING, "Table 12", "Parts of a change, task by task",
         "The part across scores as the fine-tune does, the part along as the base.", _by_task, neuromerging.TABLE_12,
         None, subspaces),
]  # fmt: skip
