"""Every figure and table of both papers, in the order in which the papers have them, NeuronMerge first."""

from nmerge_core.reports import ablations, baselines, cost, functionality, merging, subspaces
from nmerge_core.reports.item import NEUROMERGING, NEURONMERGE, Item

_ORDER = {
    NEURONMERGE: "F1 F2 F3 F4 F5 T1 T2 T3 T4 F6 F7 F8 F9 T5 F10 T6 T7 T8 T9 T10 T11 F11 T12 T13 T14 T15 T16 T17 F12",
    NEUROMERGING: "F1 T1 F2 T2 F3 T3 T4 T5 T6 F4 F5 F6 T7 T8 T9 T10 T11 T12 F7",
}
_MADE = {
    (item.paper, item.number): item
    for item in (
        *functionality.ITEMS,
        *merging.ITEMS,
        *ablations.NEURONMERGE_ITEMS,
        *cost.ITEMS,
        *baselines.ITEMS,
        *ablations.NEUROMERGING_ITEMS,
        *subspaces.ITEMS,
    )
}
ITEMS: tuple[Item, ...] = tuple(
    _MADE[paper, each.replace("F", "Figure ").replace("T", "Table ")]
    for paper, order in _ORDER.items()
    for each in order.split()
)
