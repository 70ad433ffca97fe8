"""A disk that fills or vanishes, and sources that change under a merge: one clear error, and later all is well."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from tests.merging import checkpoints
from tests.merging.test_pipeline import left_in, recipe_of

BLOCK = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> None:
    with (disk / "other").open("wb", buffering=0) as file:
        while shutil.disk_usage(disk).free:
            file.write(bytes(BLOCK))


def ties(family) -> Recipe:
    models = [{"model": model} for model in family.models]
    return load_recipe({"merge_method": "ties", "base_model": family.base, "models": models})


class FillAt:
    """A progress that fills the disk once a share of a stage is done."""

    def __init__(self, disk: Path, stage: str, share: float) -> None:
        self.disk, self.stage, self.share = disk, stage, share

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        if self.stage in stage and done >= self.share * total and not (self.disk / "other").exists():
            fill(self.disk)


@pytest.mark.parametrize(("stage", "share"), [("pass 1", 0), ("Merging", 1)])
def test_a_disk_that_fills(family, disk: Path, stage: str, share: float) -> None:
    # In the first pass over the models nothing was written yet; once tensors are, their space was taken beforehand,
    # and what comes last does not fit.
    with pytest.raises(InputError, match=r"out: writing failed \(No space left on device"):
        merge(ties(family), disk / "out", progress=FillAt(disk, stage, share))
    assert left_in(disk) == ["other"]
    fill(disk)
    with pytest.raises(InputError, match=r"out: needs 0.00 GB, 0.00 GB are free on that disk; make room"):
        merge(ties(family), disk / "out")
    (disk / "other").unlink()
    merge(ties(family), disk / "out")
    assert left_in(disk) == ["out"]


def test_space_is_taken_before_the_work(family, disk: Path) -> None:
    with pytest.raises(InputError, match="writing failed"):
        # Every tensor is written although the disk is full from the first on; then comes config.json.
        seen: list[float] = []
        filling = FillAt(disk, "Merging", 0)

        def watch(stage: str, done: float, total: float, unit: str = "") -> None:
            filling(stage, done, total, unit)
            if stage == "Merging":
                seen.append(done / total)

        merge(ties(family), disk / "out", progress=watch)
    assert seen[-1] == 1


def test_a_limit_on_the_size_of_files(family, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {family.models[0]}}}]\n")
    (tmp_path / "target").mkdir()
    command = [sys.executable, "-m", "nmerge_core", "merge", str(recipe), str(tmp_path / "target/out")]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, BLOCK))

    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        f"nmerge: error: {tmp_path}/target/out: writing failed (File too large"
    )
    assert left_in(tmp_path / "target") == []
    merge(load_recipe(recipe), tmp_path / "target/out")


def test_a_folder_that_cannot_be_written(family, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(InputError, match="out: cannot be made, no permission to write in"):
        merge(recipe_of(family), disk / "out")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    merge(recipe_of(family), disk / "out")


def test_the_targets_folder_vanishes(family, tmp_path: Path) -> None:
    def remove(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "Merging" and done > total / 2:
            shutil.rmtree(tmp_path / "target", ignore_errors=True)

    with pytest.raises(InputError, match=r"target/out: writing failed \(No such file or directory"):
        merge(recipe_of(family), tmp_path / "target/out", progress=remove)
    merge(recipe_of(family), tmp_path / "target/out")
    assert left_in(tmp_path / "target") == ["out"]


@pytest.mark.parametrize("harm", ["deleted", "truncated", "replaced", "rewritten", "touched at the end"])
def test_a_source_that_changes_midway(family, tmp_path: Path, harm: str) -> None:
    model = checkpoints.write(tmp_path / "model", family.tunes["math"])
    file = tmp_path / "model/model.safetensors"
    original = file.read_bytes()
    messages = {
        "deleted": rf"{file}: cannot be read \(No such file",
        "truncated": rf"{file}: ended before byte [\d,]+; it was complete",
    }
    (tmp_path / "target").mkdir()
    done_once: list[bool] = []

    def hurt(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage != "Merging" or done_once or done < total * (1 if harm == "touched at the end" else 0):
            return
        done_once.append(True)
        if harm == "deleted":
            file.unlink()
        elif harm == "truncated":
            os.truncate(file, 700)
        elif harm == "replaced":
            checkpoints.write(tmp_path / "other", family.tunes["code"])
            os.replace(tmp_path / "other/model.safetensors", file)
        elif harm == "rewritten":
            file.write_bytes(original)
        else:
            os.utime(file)

    expected = messages.get(harm, rf"{file} was changed while it was being merged; expected the same file")
    with pytest.raises(InputError, match=expected):
        merge(recipe_of(family, [model, *family.models]), tmp_path / "target/out", progress=hurt)
    assert left_in(tmp_path / "target") == []
    file.write_bytes(original)
    merge(recipe_of(family, [model, *family.models]), tmp_path / "target/out")
    assert left_in(tmp_path / "target") == ["out"]


def test_a_source_that_was_replaced_between_a_kill_and_the_next_run(family, tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", family.tunes["math"])

    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "Merging" and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(recipe_of(family, [model]), tmp_path / "out", progress=stop)
    checkpoints.write(tmp_path / "model", {name: torch.zeros_like(w) for name, w in family.weights.items()})
    merge(recipe_of(family, [model]), tmp_path / "out")
    merge(recipe_of(family, [model]), tmp_path / "clean")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "clean/model.safetensors").read_bytes()
