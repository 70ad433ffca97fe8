from functools import partial
from math import fsum, inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.merging.compute.census import magnitudes, take_census
from nmerge_core.merging.compute.order_statistics import (
    Ranking,
    by_magnitude,
    kept_entries,
    order_statistics,
    thresholds,
)
from nmerge_core.merging.compute.stream import Rows, Stream, all_rows
from nmerge_core.progress import silent
from tests.merging import checkpoints


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # by compiled loops, and by torch
@pytest.mark.parametrize("density", [0.001, 0.15, 0.2, 0.5, 1.0])
def test_threshold_and_norms_equal_a_sort(family, density: float, device: str) -> None:
    stream = Stream(open_checkpoint(family.base), tuple(map(open_checkpoint, family.models)), device)
    rows = all_rows(stream, list(family.weights))
    found = magnitudes(stream, rows, take_census(stream, rows, silent), [density] * 3, silent)
    assert [each.threshold for each in found] == thresholds(stream, rows, [density] * 3, silent)
    for each, tune in zip(found, family.tunes.values(), strict=True):
        tau = torch.cat([(tune[name] - family.weights[name]).flatten() for name in family.weights]).abs()
        ranked = tau.sort(descending=True).values
        kept = -(-len(tau) * density // 1)
        assert each.threshold == ranked[int(kept) - 1].item()
        assert each.l1 == fsum(tau.tolist())
        assert each.l1_kept == fsum(ranked[: int(kept)].tolist())


def test_ties_are_kept_and_zeros_counted(family) -> None:
    stream = Stream(open_checkpoint(family.base), (open_checkpoint(family.base),), "cpu")
    rows = all_rows(stream, list(family.weights))
    (found,) = magnitudes(stream, rows, take_census(stream, rows, silent), [0.1], silent)
    assert (found.threshold, found.l1, found.l1_kept, found.sigma) == (0.0, 0.0, 0.0, 0.0)


def test_a_change_of_the_largest_number_into_its_opposite_is_infinite(tmp_path: Path) -> None:
    least, largest = checkpoints.random_weights(0), checkpoints.random_weights(0)
    least["model.norm.weight"][:3], largest["model.norm.weight"][:3] = -3e38, 3e38
    base, model = (checkpoints.write(tmp_path / str(i), each) for i, each in enumerate((least, largest)))
    stream = Stream(open_checkpoint(base), (open_checkpoint(model),), "cpu")
    rows = all_rows(stream, list(least))
    (found,) = magnitudes(stream, rows, take_census(stream, rows, silent), [1e-9], silent)
    assert found.threshold == inf


def _first(values: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
    """Return the values of as many rows, of which the tensor has 8."""
    return values[:, : rows.stop - rows.start]


def test_what_is_infinite_or_no_number_has_a_rank_too(family) -> None:
    """Variances of finite weights may be either: a search for them never ended."""
    stream = Stream(open_checkpoint(family.base), (open_checkpoint(family.models[0]),), "cpu")
    rows = 500 * all_rows(stream, ["model.norm.weight"])  # as many as leave windows a side that is not an end
    for low, high in ((-inf, inf), (1.0, inf), (inf, inf), (nan, nan), (nan, inf)):
        values = np.array([[low, high] * 4], np.float32)
        ranking = Ranking(partial(_first, values), with_torch=False)
        (found,) = order_statistics(stream, rows, ranking, [[1, 2000, 2001, 4000]], "Ranks", silent)
        expected = [-inf if isnan(each) else each for each in (high, high, low, low)]
        assert found == expected


def test_any_rank_of_signed_values(family) -> None:
    stream = Stream(open_checkpoint(family.base), (open_checkpoint(family.models[0]),), "cpu")
    rows = all_rows(stream, list(family.weights))
    tau = torch.cat([(family.tunes["math"][name] - base).flatten() for name, base in family.weights.items()])
    ranked = tau.sort(descending=True).values
    ranks = [1, 2, len(tau) // 2, len(tau) - 1, len(tau)]
    ranking = Ranking(lambda each: stream.load(each).deltas.flatten(1))
    assert order_statistics(stream, rows, ranking, [ranks], "Values", silent) == [
        [ranked[rank - 1].item() for rank in ranks]
    ]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_the_largest_takes_one_pass(family, device: str) -> None:
    stream = Stream(open_checkpoint(family.base), (open_checkpoint(family.models[0]),), device)
    rows = all_rows(stream, list(family.weights))
    stages = set()
    found = order_statistics(
        stream, rows, by_magnitude(stream, rows), [[1]], "Magnitudes", lambda stage, *_: stages.add(stage)
    )
    assert found == [[max((family.tunes["math"][name] - base).abs().max() for name, base in family.weights.items())]]
    assert stages == {"Magnitudes, pass 1"}


@pytest.mark.parametrize(
    ("entries", "density", "kept"), [(10, 0.1, 1), (10, 0.11, 2), (3, 0.01, 1), (30, 0.1, 3), (7, 1.0, 7)]
)
def test_kept_entries_is_the_ceiling(entries: int, density: float, kept: int) -> None:
    assert kept_entries(entries, density) == kept
