"""A merge that is killed, that shares its target, or whose disk or sources fail: no OUT, or the whole of it."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nmerge_core.checkpoints.header import read_header
from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.write import journal, staging
from tests.merging import checkpoints
from tests.merging.test_pipeline import left_in, recipe_of

LAYERS = 32


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A family of several hundred tensors in files of their own, and a merge of it that nothing disturbed."""
    root = tmp_path_factory.mktemp("deep")
    base = deep_weights(0, 1.0)
    checkpoints.write(root / "base", base, shards=3, num_hidden_layers=LAYERS)
    for seed, name in enumerate(("math", "code"), 1):
        tune = {key: base[key] + delta for key, delta in deep_weights(seed, 0.1).items()}
        checkpoints.write(root / name, tune, num_hidden_layers=LAYERS)
    recipe = root / "recipe.yaml"
    recipe.write_text(
        f"merge_method: task_arithmetic\nbase_model: {root / 'base'}\n"
        f"models: [{{model: {root / 'math'}}}, {{model: {root / 'code'}}}]\nparameters: {{weight: 0.3}}\n"
    )
    merge(load_recipe(recipe), root / "whole")
    return SimpleNamespace(root=root, recipe=recipe, whole=contents(root / "whole"))


def deep_weights(seed: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in checkpoints.SHAPES.items()}
    shapes |= {"model.embed_tokens.weight": (20, 8), "model.norm.weight": (8,)}
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a merge, its report without what a clock and the machine say."""
    found = {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    report = json.loads(found["nmerge_report.json"])
    assert report.pop("seconds") and report.pop("peak_memory")
    return found | {"nmerge_report.json": json.dumps(report).encode()}


def in_child(work: Callable[[], object]) -> int:
    """Run in a process of its own, which has torch already; return its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}


def file_events(deep: SimpleNamespace, out: Path, *, kill_at: int = 0) -> int:
    """Merge in a child that is killed before it touches files for the `kill_at`-th time; return how often it did."""
    counter = out.with_name("events")

    def merge_watched() -> None:
        seen = 0

        def watch(event: str, arguments: tuple) -> None:
            nonlocal seen
            if event in FILE_EVENTS:
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        merge(load_recipe(deep.recipe), out)
        counter.write_text(str(seen))

    status = in_child(merge_watched)
    assert status in (0, -signal.SIGKILL)
    return int(counter.read_text()) if status == 0 else kill_at


def test_a_killed_merge_leaves_no_output_and_goes_on(deep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.01)
    whole = file_events(deep, tmp_path / "first")
    assert contents(tmp_path / "first") == deep.whole
    drawn = random.Random(0)
    points = [drawn.randrange(1, whole) for _ in range(6)] + [whole - last for last in range(1, 20, 3)]
    resumed = 0
    for number, point in enumerate(points):
        out = tmp_path / str(number) / "out"
        file_events(deep, out, kill_at=point)
        # The last event is the parent folder's flush: the folder was renamed before it, and is whole.
        assert not out.exists() or contents(out) == deep.whole, point
        if out.exists():
            continue
        seen: list[float] = []
        merge(load_recipe(deep.recipe), out, progress=lambda stage, done, *_, seen=seen: seen.append(done))
        resumed += seen[0] > 0
        assert contents(out) == deep.whole, point
        assert left_in(out.parent) == ["out"]
    assert resumed > 3  # of those killed late, and never from a tensor that was not whole


@pytest.mark.parametrize("sign", [".out.lock", ".out.part/journal"])
def test_a_killed_command_goes_on(deep, forked: tuple[str, ...], tmp_path: Path, sign: str) -> None:
    command = [*forked, "-m", "nmerge_core", "merge", str(deep.recipe), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / sign).exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert contents(tmp_path / "out") == deep.whole
    assert left_in(tmp_path) == ["out"]


def stopped(deep: SimpleNamespace, out: Path) -> Path:
    """A merge that was cancelled midway; return its folder of work in progress."""

    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "Merging" and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(load_recipe(deep.recipe), out, progress=stop)
    assert left_in(out.parent) == [f".{out.name}.part"]
    return staging.staging_folder(out)


def test_a_kill_while_the_work_is_thrown_away_leaves_nothing_to_go_on_from(
    deep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    part = stopped(deep, out)
    other = deep.recipe.read_text().replace("0.3", "0.4")

    def die(path: Path, ignore_errors: bool) -> None:
        (path / "model.safetensors").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def start_over() -> None:
        monkeypatch.setattr(shutil, "rmtree", die)  # of the child only
        merge(load_recipe(other), out)

    assert (part / "journal").exists()
    assert in_child(start_over) == -signal.SIGKILL
    merge(load_recipe(deep.recipe), out)
    assert contents(out) == deep.whole


def test_a_journal_line_that_was_cut_is_not_believed(deep, tmp_path: Path) -> None:
    part = stopped(deep, tmp_path / "out")
    names = (part / "journal").read_bytes()
    # Cut, "…layers.10.mlp…" may be the name of no tensor, or of another one than was meant.
    (part / "journal").write_bytes(names + b"model.norm.weight")
    merge(load_recipe(deep.recipe), tmp_path / "out")
    assert contents(tmp_path / "out") == deep.whole


@pytest.mark.parametrize("damage", ["weights missing", "weights short", "journal missing", "left from another time"])
def test_work_in_progress_that_was_tampered_with(deep, tmp_path: Path, damage: str) -> None:
    part = stopped(deep, tmp_path / "out")
    if damage == "weights missing":
        (part / "model.safetensors").unlink()
    elif damage == "weights short":
        os.truncate(part / "model.safetensors", 1000)
    elif damage == "journal missing":
        (part / "journal").unlink()
    else:
        (part / "tokenizer.json").write_text("{}")
        (part / "nmerge_neurons").mkdir()
        (part / "nmerge_neurons/neurons.parquet").touch()
    merge(load_recipe(deep.recipe), tmp_path / "out")
    assert contents(tmp_path / "out") == deep.whole


def test_the_journal_names_only_tensors_that_were_flushed(
    deep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)
    written: set[int] = set()  # offsets, by what has happened so far
    flushed: set[int] = set()
    order: list[str] = []
    fsync, pwrite = os.fsync, os.pwrite

    def note_write(descriptor: int, view: memoryview, offset: int) -> int:
        done = pwrite(descriptor, view, offset)
        written.add(offset)
        return done

    def note_flush(descriptor: int) -> None:
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        order.append(file.name)
        if file.name == "model.safetensors":
            before = set(written)
            fsync(descriptor)
            flushed.update(before)
        elif file.name == "journal":
            tensors = read_header(file.with_name("model.safetensors"))
            assert {tensors[name].offset for name in file.read_text().splitlines()[1:]} <= flushed

    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(os, "pwrite", note_write)
    merge(load_recipe(deep.recipe), tmp_path / "out")
    assert order.count("journal") > 100
    last = order[len(order) - order[::-1].index("journal") :]
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {*last} == {*files, ".out.part", tmp_path.name} and last[-2:] == [".out.part", tmp_path.name]


def test_two_merges_into_one_folder(deep, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def another(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "Merging" and done == 0:
            with pytest.raises(InputError, match=rf"out: process {os.getpid()} on .+ is merging into it"):
                merge(load_recipe(deep.recipe), out)

    merge(load_recipe(deep.recipe), out, progress=another)
    assert contents(out) == deep.whole and left_in(tmp_path) == ["out"]


def test_a_lock_that_a_killed_process_left_keeps_nobody_out(family, tmp_path: Path) -> None:
    (tmp_path / ".out.lock").write_text("process 1 on elsewhere")
    merge(recipe_of(family), tmp_path / "out")
    assert left_in(tmp_path) == ["out"]


def test_a_lock_that_its_owner_removed_meanwhile_is_taken_anew(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    removed: list[None] = []

    def finish_first(file: int, how: int) -> None:
        if not removed:
            removed.append((tmp_path / ".out.lock").unlink())
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    with staging.lock_output(tmp_path / "out"):
        assert (tmp_path / ".out.lock").read_text().startswith("process ")
    assert left_in(tmp_path) == []


def test_a_merge_that_another_process_finished_first(family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda file, how: ((tmp_path / "out").mkdir(), flock(file, how)))
    with pytest.raises(InputError, match="another process has just finished it"):
        merge(recipe_of(family), tmp_path / "out")
    assert left_in(tmp_path) == ["out"]
