"""Pickled checkpoints are refused where they are anything but tensors in their places, and no code in them is run."""

import os
import re
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from tests.checkpoints.pickles import EMBEDDINGS, Malicious, refused, rewrite
from tests.merging import checkpoints
from tests.merging.checkpoints import pickled as write

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return checkpoints.random_weights(0)


def test_code_in_a_pickle_is_never_run(tmp_path: Path, weights: Weights) -> None:
    ran = tmp_path / "ran"
    calls = [
        Malicious(os.system, f"touch {ran}"),
        Malicious(eval, f"open({str(ran)!r}, 'w')"),
        Malicious(open, ran, "w"),
    ]
    for number, call in enumerate(calls):
        model = write(tmp_path / f"odd{number}", {**weights, "evil": call})
        refused(
            Path(model), r"pytorch_model.bin: expected a pickle of tensors alone, found (eval|\w+\.\w+); .* never run"
        )
        recipe = load_recipe({"merge_method": "linear", "models": [{"model": model}]})
        (tmp_path / f"target{number}").mkdir()
        with pytest.raises(InputError, match="never run"):
            merge(recipe, tmp_path / f"target{number}/out")
        assert not any((tmp_path / f"target{number}").iterdir())
        with pytest.raises(InputError, match="never run"):
            load_model(model, "cpu")
    assert not ran.exists()


def test_an_environment_that_lets_torch_run_pickles_changes_nothing(
    tmp_path: Path, weights: Weights, forked: tuple[str, ...]
) -> None:
    ran = tmp_path / "ran"
    models = [
        write(tmp_path / "evil", {"evil": Malicious(os.system, f"touch {ran}")}),
        write(tmp_path / "good", weights),
    ]
    code = """
import sys
from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.errors import InputError
for model in sys.argv[1:]:
    try:
        print(fingerprint(open_checkpoint(model)))
    except InputError as error:
        print(error)
"""
    printed = []
    for forced in ({}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}):
        command = [*forked, "-c", code, *models]
        done = subprocess.run(command, env={**os.environ, **forced}, capture_output=True, text=True, check=True)
        printed.append(done.stdout.splitlines())
    assert printed[0] == printed[1] and not ran.exists()
    assert "system; it is read with weights_only and never run" in printed[0][0]
    assert printed[0][1] == fingerprint(open_checkpoint(models[1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], r"expected a mapping of names to tensors, found list"),
        ({"epoch": 3}, "tensor epoch: expected a mapping of names to tensors, found int under 'epoch'"),
        ({"state": {"w": torch.ones(2)}}, "found dict under 'state'"),
        ({7: torch.ones(2)}, "found Tensor under 7"),
        ({"w": torch.ones(2, 3).T}, "tensor w: expected its values in a row, found a view with strides"),
        ({"w": torch.ones(1).expand(4)}, "tensor w: expected its values in a row"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "tensor w: complex64 is not supported; expected one of F64"),
        ({"w": torch.eye(3).to_sparse()}, "tensor w: sparse_coo is not supported"),
        (lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}, "something else .*quantized"),
        ({"w": torch.empty(3, device="meta")}, "tensor w: expected 12 bytes at 0, found none or fewer"),
        ({"w": torch._neg_view(torch.ones(2))}, "tensor w: expected its values in a row"),
    ],
    ids=[
        "list",
        "number",
        "nested",
        "name",
        "strides",
        "expanded",
        "complex",
        "sparse",
        "quantized",
        "meta",
        "negative",
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, of sparse and quantized tensors
def test_what_is_no_plain_tensor_is_named(tmp_path: Path, content: Any, message: str) -> None:
    content = content() if callable(content) else content
    refused(Path(write(tmp_path / "m", content)), rf"pytorch_model\.bin.*{message}")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_a_pickle_that_weights_only_cannot_read_is_named(tmp_path: Path, weights: Weights) -> None:
    folder = Path(write(tmp_path / "m", weights))
    torch.save(weights, folder / "pytorch_model.bin", pickle_protocol=4)
    refused(folder, r"found something else \(Unsupported operand 149\); it is read with weights_only")


def test_views_that_share_values_are_named(tmp_path: Path) -> None:
    values = torch.arange(12.0).view(4, 3)
    shared = r"tensor {}: expected values of its own, found a view that shares some with {}"
    for name, state, message in (
        ("part", {"a": values, "b": values[1:3]}, shared.format("b", "a")),
        ("later", {"a": values[1:], "b": values[:2]}, shared.format("a", "b")),
        ("shape", {"a": values, "b": values.view(3, 4)}, shared.format("b", "a")),
    ):
        refused(Path(write(tmp_path / name, state)), message)


@pytest.mark.parametrize("kind", ["old", "strides", "shared", "compressed"])
def test_the_command_of_the_message_mends_it(
    tmp_path: Path, weights: Weights, kind: str, forked: tuple[str, ...]
) -> None:
    state = dict(weights)
    if kind == "strides":
        state[EMBEDDINGS] = weights[EMBEDDINGS].T.contiguous().T
    if kind == "shared":
        state |= {"model.norm.weight": weights[EMBEDDINGS].view(-1)[:8]}
    folder = Path(write(tmp_path / "an o'clock", state))
    file = folder / "pytorch_model.bin"
    if kind == "old":
        torch.save(state, file, _use_new_zipfile_serialization=False)
    if kind == "compressed":
        rewrite(file, compression=zipfile.ZIP_DEFLATED)
    expected = {
        "old": "expected a zip archive, found the format before PyTorch 1.6",
        "strides": f"tensor {EMBEDDINGS}: expected its values in a row",
        "shared": "tensor model.norm.weight: expected values of its own",
        "compressed": "expected tensors as torch.save stores them, found pytorch_model/data.pkl compressed",
    }
    with pytest.raises(InputError, match=rf"pytorch_model\.bin.* {expected[kind]}") as caught:
        open_checkpoint(str(folder))
    command = re.search(r"; save it again and put (\S+) in its place: python (-c .*)$", str(caught.value))
    assert command
    subprocess.run([*forked, *shlex.split(command[2])], check=True)
    (folder / command[1]).replace(file)
    opened = open_checkpoint(str(folder))
    assert all(torch.equal(opened.read(name), value) for name, value in state.items())


def test_a_storage_without_a_record_of_its_own_is_refused(tmp_path: Path, weights: Weights) -> None:
    folder = Path(write(tmp_path / "m", weights))
    file = folder / "pytorch_model.bin"
    content = file.read_bytes()
    rewrite(file, lambda names: [name for name in names if not name.endswith("/data/3")])
    refused(folder, "tensor .*: expected [0-9,]+ bytes at 0, found none or fewer")
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("pytorch_model/data/3", archive.read("pytorch_model/data/3"))
    refused(folder, "or with two records of one name; fetch it again")
    file.write_bytes(content)
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo("pytorch_model/data/3").header_offset
    file.write_bytes(content[:start] + b"none" + content[start + 4 :])
    refused(folder, "not a complete file of torch.save")


@pytest.mark.parametrize("length", [0, 3, 100, 5_000, -1, -300])
def test_a_truncated_file_is_refused(tmp_path: Path, weights: Weights, length: int) -> None:
    folder = Path(write(tmp_path / "m", weights))
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:length])
    refused(folder, r"pytorch_model\.bin: not a complete file of torch.save \([\d,]+ bytes\); fetch it again")


def test_what_is_no_file_of_torch_is_refused(tmp_path: Path, weights: Weights) -> None:
    folder = Path(write(tmp_path / "m", weights))
    file = folder / "pytorch_model.bin"
    content = file.read_bytes()
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(folder, "pytorch_model.bin: a Git LFS pointer, not the file itself")
    file.write_text("hello, world")
    refused(folder, "not a complete file of torch.save")
    file.unlink()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "hello")
    refused(folder, "pytorch_model.bin: expected a pickle of tensors alone, found ")
    file.write_bytes(content)
    rewrite(file, change=lambda name, own: b"big" if name.endswith("byteorder") else own)
    refused(folder, "expected little-endian tensors")
    file.write_bytes(content)
    rewrite(file, change=lambda name, own: own[:-4] if name.endswith("data/25") else own)
    refused(folder, "found none or fewer")


def test_missing_shards_and_a_missing_index_are_named(tmp_path: Path, weights: Weights) -> None:
    folder = Path(write(tmp_path / "m", weights, shards=3))
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    refused(folder, "expected every shard it lists, found pytorch_model-00002-of-00003.bin missing")
    (folder / "pytorch_model.bin.index.json").unlink()
    refused(folder, "found pytorch_model-00001-of-00003.bin without pytorch_model.bin.index.json")
