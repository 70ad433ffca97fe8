"""A merge by several processes: the bytes of one process, and a clear end where one of them is lost."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmerge_core.checkpoints.writer import plan_layout
from nmerge_core.cli import main
from nmerge_core.errors import ProcessLost
from nmerge_core.merging import loop
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from nmerge_core.merging.write import journal
from nmerge_core.merging.write.process_group import ProcessGroup
from tests.merging import checkpoints
from tests.merging.merged import needed, run
from tests.merging.test_pipeline import left_in, recipe_of
from tests.merging.write.test_staging import contents

LOST = 7


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(processes: int, work: Callable[[int], object]) -> list[int]:
    """Run `work(rank)` in processes as a launcher starts them, but with torch imported already; return their ids."""
    port, ids = free_port(), []
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            status = 1
            try:
                work(rank)
                status = 0
            except ProcessLost:
                status = LOST
            finally:
                os._exit(status)
        ids.append(pid)
    return ids


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_every_method_gives_the_bytes_of_one_process(family, tmp_path: Path) -> None:
    def merge_all(folder: Path) -> None:
        for method in methods():
            run(family, folder / method, method, **needed(family, method))

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    merge_all(tmp_path / "one")
    assert [ended(pid) for pid in start(2, lambda rank: merge_all(tmp_path / "two"))] == [0, 0]
    assert left_in(tmp_path / "two") == sorted(methods())
    for method in methods():
        assert contents(tmp_path / "two" / method) == contents(tmp_path / "one" / method), method


@pytest.mark.parametrize(("processes", "shard_bytes"), [(1, 2000), (2, 2000), (3, 2000), (2, 10**9), (5, 10**9)])
def test_every_tensor_is_one_processs(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, shard_bytes: int
) -> None:
    monkeypatch.setattr("nmerge_core.checkpoints.writer.SHARD_BYTES", shard_bytes)
    layout = plan_layout(tmp_path, open_recipe(recipe_of(family)).tensors, None)
    shares = [ProcessGroup(rank, processes).shard(layout) for rank in range(processes)]
    assert [name for share in shares for name in share] == list(layout.tensors)
    sizes = [sum(layout.tensors[name].bytes for name in share) for share in shares]
    largest = max(tensor.bytes for tensor in layout.tensors.values())
    if len(layout.sizes) >= processes:  # whole files
        files = [{layout.tensors[name].file for name in share} for share in shares]
        assert sum(map(len, files)) == len(layout.sizes)
        largest = shard_bytes
    assert max(sizes) <= sum(sizes) / processes + largest


def test_processes_write_the_shards_of_one(family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmerge_core.checkpoints.writer.SHARD_BYTES", 2000)
    merge(recipe_of(family), tmp_path / "one")
    told: list[str] = []

    def work(rank: int) -> None:
        merge(recipe_of(family), tmp_path / "three", progress=lambda *report: told.append(report[0]))
        (tmp_path / f"told-{rank}").write_text(" ".join(told))

    assert [ended(pid) for pid in start(3, work)] == [0, 0, 0]
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert "Merging" in (tmp_path / "told-0").read_text()
    assert [(tmp_path / f"told-{rank}").read_text() for rank in (1, 2)] == ["", ""]  # the first alone reports


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_and_the_same_command_goes_on(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr("nmerge_core.merging.write.process_group._SILENCE", 3.0)
    write_matrix = loop.write_matrix

    def write_slowly(*arguments: Any) -> None:
        time.sleep(0.2)  # time to kill somebody
        write_matrix(*arguments)

    def work(rank: int) -> None:
        monkeypatch.setattr(loop, "write_matrix", write_slowly)  # of this process only
        journal.FLUSH_SECONDS = 0.0
        merge(recipe_of(family), tmp_path / "out")

    ids = start(2, work)
    journals = [tmp_path / ".out.part/journal", tmp_path / ".out.part/journal.1"]
    while not all(journal.exists() and journal.read_text().count("weight") > 1 for journal in journals):
        time.sleep(0.01)
    os.kill(ids[lost], signal.SIGKILL)
    killed = time.monotonic()
    assert ended(ids[lost]) == -signal.SIGKILL
    assert ended(ids[1 - lost]) == LOST
    assert time.monotonic() - killed < 15
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.part").exists()

    seen: list[float] = []
    merge(recipe_of(family), tmp_path / "out", progress=lambda stage, done, *_: seen.append(done))  # now by one
    assert seen[0] > 0  # what the processes had finished stays finished
    merge(recipe_of(family), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_wrong_input_that_one_process_finds_ends_the_others(family, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in family.tunes["math"].items()}
    weights["model.norm.weight"][3] = torch.nan
    model = checkpoints.write(tmp_path / "nan", weights)  # the last tensor, so the last process's
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {model}}}, {{model: {family.models[1]}}}]\n")
    statuses = [ended(pid) for pid in start(2, lambda rank: os._exit(main(["merge", str(recipe), f"{tmp_path}/out"])))]
    assert statuses == [1, 2]  # the first lost the other, which says what is wrong
    assert not (tmp_path / "out").exists()


def launched(python: tuple[str, ...], port: int, *arguments: str) -> subprocess.Popen:
    # Without --multi_gpu, accelerate starts one process alone where there are no GPUs.
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", str(port), *arguments]
    return subprocess.Popen([*python, "-m", *launch], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("machines", [1, 2])
def test_accelerate_launch(family, forked: tuple[str, ...], tmp_path: Path, machines: int) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"merge_method: ties\nbase_model: {family.base}\nmodels: [{{model: {family.models[0]}}}]\n"
        "parameters: {density: 0.5}\n"
    )
    port = free_port()
    command = ["-m", "nmerge_core", "merge", str(recipe), str(tmp_path / "out")]
    where = ["--num_machines", str(machines), "--main_process_ip", "127.0.0.1", "--machine_rank"]
    processes = [launched(forked, port, *where, str(machine), *command) for machine in range(machines)]
    printed = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * machines, printed
    assert [line for out, _ in printed for line in out.splitlines()] == [str(tmp_path / "out")]
    merge(load_recipe(recipe), tmp_path / "alone")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
