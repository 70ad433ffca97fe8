"""The command line as a process of its own: what it imports, and how it ends when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from nmerge_core.interrupts import interruptible, telling_failures
from nmerge_core.progress import TerminalProgress

PROJECT = Path(__file__).parents[2]
NMERGE = [sys.executable, "-m", "nmerge_core"]


def run(*arguments, **options):
    return subprocess.run([*NMERGE, *arguments], cwd=PROJECT, capture_output=True, text=True, **options)


def test_help_and_inspect_do_not_import_torch(family):
    program = (
        "import sys; from nmerge_core.cli import main\n"
        "assert main(['inspect', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, family.base], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    assert "classify" in run("--help").stdout


def test_exit_statuses(family):
    good = run("inspect", family.base)
    assert (good.returncode, good.stderr) == (0, "")
    bad = run("inspect", "nowhere")
    assert bad.returncode == 2 and bad.stdout == "" and "Traceback" not in bad.stderr
    assert run("inspect").returncode == 2


def test_a_reader_that_has_seen_enough_is_no_failure(family):
    command = f"'{sys.executable}' -m nmerge_core inspect {family.base}"
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], cwd=PROJECT, capture_output=True, text=True
    )
    assert (piped.returncode, piped.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_classification_is_status_130_and_leaves_nothing(family, forked, tmp_path, number):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for category in ("general", "math"):
        lines = "".join(json.dumps({"text": f"{category} {n} " * 10}) + "\n" for n in range(3_000))
        (corpus / f"{category}.jsonl").write_text(lines)
    out = tmp_path / "out"
    asked = ["classify", family.base, "--corpus", str(corpus), "--out", str(out), "--batch-size", "1"]
    command = [*forked, "-m", "nmerge_core", *asked]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()  # the first report of progress
    assert "exemplars" in line, line
    time.sleep(0.3)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "nmerge: interrupted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_something_swallows_ends_the_work_at_its_next_report(number, monkeypatch):
    monkeypatch.setattr(
        signal, "getsignal", lambda number: signal.SIG_DFL
    )  # the tests may be run where SIGINT is ignored
    progress = TerminalProgress()
    with interruptible():
        progress("reading", 0, 2)
        with suppress(KeyboardInterrupt):  # as a finaliser does, of whatever module
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            progress("reading", 1, 2)
    with interruptible():  # the next command of this process
        progress("reading", 2, 2)


def test_what_fails_by_an_interrupt_is_interrupted():
    """An import that is interrupted says `initialization failed`."""
    with interruptible(), pytest.raises(KeyboardInterrupt), telling_failures():
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        raise ImportError("initialization failed")
    with interruptible(), pytest.raises(ImportError), telling_failures():
        raise ImportError("no module of this name")


def test_an_interrupted_process_ends_in_that_line_whatever_threads_compute():
    program = (
        "import os, signal, threading, torch\n"
        "from argparse import ArgumentParser\n"
        "from nmerge_core import cli\n"
        "def compute():\n"
        "    layer = torch.nn.Linear(64, 64)\n"
        "    while True: layer(torch.ones(8, 64))\n"
        "threading.Thread(target=compute, daemon=True).start()\n"
        "parser = ArgumentParser()\n"
        "parser.set_defaults(command=lambda parsed: os.kill(os.getpid(), signal.SIGTERM))\n"
        "cli.build_parser = lambda: parser\n"
        "cli.end_with_status()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "nmerge: interrupted\n")


def test_closed_streams_and_readers_that_leave_fail_no_merge(family, tmp_path):
    """Each of these ended with status 1 or 0 with half of the work done, or could write messages into the weights."""
    command = f"'{sys.executable}' -m nmerge_core"
    merge = f"{command} merge {family.recipe} {tmp_path}"
    both = f"{command} cosine {family.base} {family.math} --out {tmp_path}/all.csv --moved {tmp_path}/moved.csv"
    lines = [
        f"{merge}/closed <&- >&- 2>&- || exit 1",
        f"{merge}/full 2>/dev/full >/dev/null || exit 2",
        f"{both} 2>&1 | true || exit 3",
        f"{command} inspect nowhere 2>&- ; [ $? = 2 ] || exit 4",
    ]
    done = subprocess.run(["bash", "-c", "set -o pipefail\n" + "\n".join(lines)], cwd=PROJECT, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("closed", "full")]
    assert written[0] == written[1] and (tmp_path / "moved.csv").exists()
