"""Several processes at one sweep: no trial is done twice, and one that is lost is taken over."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from nmerge_core.search import presence
from nmerge_core.search.presence import Others, Presence
from tests.search.toy import WEIGHTS, plan_of
from tests.tiny_family import make_family

# Does the trials of a sweep, writing down which it begins; hangs in the one that it is told to.
AT_WORK = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from nmerge_core.search.reading import load_sweep
from nmerge_core.search.trials_loop import run_trials
from tests.search.toy import Target

root, hangs_at = Path(sys.argv[1]), int(sys.argv[2])
target = Target(SimpleNamespace(**{name: str(root / "family" / name) for name in ("base", "math", "code")}))
begun = 0

def score(merge, *_):
    global begun
    begun += 1
    if begun == hangs_at:
        (root / "hangs").write_text(str(os.getpid()))
        time.sleep(600)
    time.sleep(0.05)
    with (root / "begun").open("a") as file:
        file.write(f"{hangs_at} {abs(target.weights_of(merge)[0]):.3f}\\n")
    return target(merge)

run_trials(load_sweep(root / "sweep.yaml"), root / "out", score)
"""


def test_two_processes_one_of_them_killed(tmp_path: Path, forked: tuple[str, ...]) -> None:
    family = make_family(tmp_path / "family")
    plan_of(family, tmp_path, {WEIGHTS[0]: [number / 10 for number in range(12)]})
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def start(hangs_at: int) -> subprocess.Popen:
        command = [*forked, "-c", AT_WORK, str(tmp_path), str(hangs_at)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    lost, other = start(3), start(0)
    try:
        until = time.monotonic() + 60
        while not hung(tmp_path) and time.monotonic() < until and other.poll() is None:
            time.sleep(0.02)
        os.kill(int(hung(tmp_path)), signal.SIGKILL)
        _, error = other.communicate(timeout=60)
        assert other.returncode == 0, error
    finally:
        for process in (lost, other):
            process.kill()
            process.communicate()
    begun = [line.split() for line in (tmp_path / "begun").read_text().splitlines()]
    assert Counter(weight for _, weight in begun) == {f"{number / 10:.3f}": 1 for number in range(12)}
    assert Counter(process for process, _ in begun)["3"] == 2
    table = pd.read_csv(tmp_path / "out/trials.csv")
    assert table["trial"].tolist() == list(range(1, 13)) and (table["state"] == "done").all()
    assert (tmp_path / "out/best/model.safetensors").exists() and not (tmp_path / "out/.processes").exists()


def hung(root: Path) -> str:
    """The id of the process that hangs, once it does."""
    return (root / "hangs").read_text() if (root / "hangs").exists() else ""


def test_who_is_gone_on_this_machine_and_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = Others(tmp_path)
    with Presence(tmp_path) as here:
        assert not others.gone(here.name)
        said = json.loads((tmp_path / here.name).read_text())
        assert others.gone("never there")
        for name, change in (("killed", {"began": "1"}), ("elsewhere", {"machine": "another", "began": "1"})):
            (tmp_path / name).write_text(json.dumps(said | change))
        assert others.gone("killed") and not others.gone("elsewhere")
        monkeypatch.setattr(presence, "LEASE_SECONDS", 0.0)
        (tmp_path / "elsewhere").write_text(json.dumps(said | {"machine": "another", "beat": 1}))
        assert not others.gone("elsewhere")  # it has said something since
        assert others.gone("elsewhere")
    assert others.gone(here.name)


def test_a_process_says_again_and_again_that_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_BEAT_SECONDS", 0.01)
    with Presence(tmp_path) as here:
        until = time.monotonic() + 10
        while json.loads((tmp_path / here.name).read_text() or "{}").get("beat", 0) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert json.loads((tmp_path / here.name).read_text() or "{}").get("beat", 3) >= 3
