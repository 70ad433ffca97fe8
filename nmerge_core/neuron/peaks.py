"""Where in its images a neuron reached its scores."""

from nmerge_core.activations.store import Classification
from nmerge_core.figures.images import Box, Peak
from nmerge_core.neuron.seen import reached


def peaks_of(found: Classification, layer: int, neuron: int) -> dict[int, Peak]:
    """Return the peak of each stored image of a neuron, by its id; none where the patches are not known."""
    grid = found.grid
    if grid is None:
        return {}
    peaks = {}
    for id, token in reached(found, layer, neuron).items():
        patch = grid.patch(token)
        box = Box(patch[1] / grid.columns, patch[0] / grid.rows, 1 / grid.columns, 1 / grid.rows) if patch else None
        peaks[id] = Peak(token, grid.told(token), box)
    return peaks
