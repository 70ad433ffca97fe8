"""What mergekit would do in silence is refused before it starts, or before its merge is handed out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.merging.mergekit.checks import check_finite, check_read_alike
from tests.merging import checkpoints


def test_a_left_over_index_is_refused(tmp_path: Path) -> None:
    """mergekit reads the shards of the index, transformers model.safetensors."""
    weights = checkpoints.random_weights(0)
    folder = Path(checkpoints.write(tmp_path / "m", weights))
    check_read_alike(open_checkpoint(str(folder)))
    check_read_alike(open_checkpoint(checkpoints.write(tmp_path / "sharded", weights, shards=2)))
    save_file(weights, folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = "transformers loads model.safetensors, mergekit model-00001-of-00001.safetensors; keep one save"
    with pytest.raises(InputError, match=expected):
        check_read_alike(open_checkpoint(str(folder)))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    weights = checkpoints.random_weights(0)
    name = "model.layers.0.mlp.up_proj.weight"
    codes = {name: weights[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(1, 1)}
    with pytest.raises(InputError, match=r"quantised \(fp8\), which mergekit would take for numbers"):
        check_read_alike(open_checkpoint(checkpoints.write(tmp_path / "m", weights | codes)))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_merge_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    weights = checkpoints.random_weights(0)
    check_finite(open_checkpoint(checkpoints.write(tmp_path / "fine", weights)))
    weights["model.norm.weight"][3] = value
    with pytest.raises(InputError, match=r"model\.norm\.weight: rows 0 to 7 of mergekit's merge hold NaN or infinite"):
        check_finite(open_checkpoint(checkpoints.write(tmp_path / "m", weights)))
