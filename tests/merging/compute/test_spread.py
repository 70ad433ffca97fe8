"""What models changed most differently: against sums that are written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.merging.compute.block import Entries
from nmerge_core.merging.compute.spread import Selected, differing, squares, variances
from nmerge_core.merging.compute.stream import Stream, all_rows
from tests.merging import checkpoints
from tests.merging.merged import deltas


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # by compiled loops, and by torch
def test_variances_and_squares_are_those_of_every_entry(family: SimpleNamespace, device: str) -> None:
    stream = Stream(open_checkpoint(family.base), tuple(map(open_checkpoint, family.models)), device)
    for name, tau in deltas(family).items():
        (rows,) = all_rows(stream, [name])
        variance = tau.double().var(0, correction=0).flatten()
        np.testing.assert_allclose(np.asarray(variances(stream, rows))[0], variance, rtol=1e-5)
        assert differing(stream, rows) == variance.numel()
        least = float(np.sort(np.asarray(variances(stream, rows))[0])[3])
        kept = tau.flatten(1).double() * torch.from_numpy(np.asarray(variances(stream, rows))[0] >= least)
        np.testing.assert_allclose(squares(stream, rows, least), kept.square().sum(1), rtol=1e-12)


def test_what_is_selected_by_hand() -> None:
    # Base 1; changes 2 and −1 of the first entry, 0.5 and 0.5 of the second, 3 and 0 of the third. Their variances are
    # 2.25, 0 and 2.25. The sum of the first is positive: the first model's 2 is kept, alone. The second is left out.
    words = torch.tensor([[1.0, 1.0, 1.0], [3.0, 1.5, 4.0], [0.0, 1.5, 1.0]]).view(torch.int32).numpy().view(np.uint32)
    merged = np.empty(3, np.uint32)
    assert Selected((0.75, 0.25), 2.25).merge_entries(Entries("w", 0, words, True), merged)
    assert merged.view(np.float32).tolist() == [3.0, 1.0, 4.0]


def test_an_entry_that_is_not_finite_is_told(family: SimpleNamespace, tmp_path) -> None:
    bad = {name: each.clone() for name, each in family.tunes["math"].items()}
    bad["model.norm.weight"][2] = float("nan")
    models = (open_checkpoint(checkpoints.write(tmp_path / "bad", bad)),)
    stream = Stream(open_checkpoint(family.base), models, "cpu")
    (rows,) = all_rows(stream, ["model.norm.weight"])
    for find in (variances, lambda stream, rows: squares(stream, rows, 0.0)):
        with pytest.raises(InputError, match=r"model\.norm\.weight: rows 0 to 7 hold NaN"):
            find(stream, rows)
