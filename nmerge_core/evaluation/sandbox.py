"""Runs generated programs, each locked into its own child process (see `jail.py` for what the lock is)."""

import ast
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nmerge_core.errors import InputError
from nmerge_core.evaluation import jail
from nmerge_core.evaluation.system_calls import call_filter
from nmerge_core.progress import Progress, silent

SECONDS = 5
MEGABYTES = 512
OUTPUT = 2000


@dataclass(frozen=True)
class Program:
    """A program nobody trusts, and the tests that judge it: Python that uses its names, run in a process of its own."""

    code: str
    tests: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a program ended: whether it and its tests ran to their end, and the last 2,000 characters they wrote.

    One that was `stopped` had no more time.
    """

    passed: bool
    output: str
    stopped: bool = False


def require_sandbox() -> None:
    """Raise an InputError that says why, if generated code cannot be locked in on this machine."""
    outcome = _run(Program("pass"), 2 * SECONDS, MEGABYTES)
    if not outcome.passed:
        raise InputError(
            f"code cannot be run safely here: the sandbox did not start ({outcome.output.strip() or 'no message'}) – "
            "it needs Linux 5.12 or newer and either root or unprivileged user namespaces "
            "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces); "
            "leave the code task out, or evaluate on a machine that has them"
        )


def run_programs(
    programs: Sequence[str | Program],
    *,
    seconds: int = SECONDS,
    megabytes: int = MEGABYTES,
    progress: Progress = silent,
) -> list[Outcome]:
    """Run each program in a sandbox of its own, as many at once as there are processor cores.

    Args:
        programs: Python programs with their tests; one passes when both run to their end without an exception. Of a
            text alone the assertions that it ends with are the tests: they are trusted, so it is for texts that are.
        seconds: wall time that each may take.
        megabytes: address space that each may take, and its tests as much again.
        progress: reported after every program.

    Raises:
        InputError: the machine offers no safe place; nothing was run then.
    """
    require_sandbox()
    parted = [split(program) if isinstance(program, str) else program for program in programs]
    outcomes = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for outcome in pool.map(lambda program: _run(program, seconds, megabytes), parted):
            outcomes.append(outcome)
            progress("running programs", len(outcomes), len(programs), "programs")
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def split(text: str) -> Program:
    """Split a program before the assertions that it ends with, which are its tests."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # it says so itself when it is run
        return Program(text)
    code = list(body)
    while code and isinstance(code[-1], ast.Assert):
        code.pop()
    parts = (ast.unparse(ast.Module(part, [])) for part in (code, body[len(code) :]))
    return Program(*parts)


def _run(program: Program, seconds: int, megabytes: int) -> Outcome:
    root = os.geteuid() == 0
    launcher = _launcher(root)
    told = {
        "folders": _libraries(),
        "seconds": seconds,
        "megabytes": megabytes,
        "root": root,
        "filter": call_filter().hex(),
        "code": program.code.encode(errors="replace").decode(),
    }
    parts = (json.dumps(told).encode(), program.tests.encode(errors="replace"))
    # A file, not a pipe: the limit on file size then bounds the output as well.
    with tempfile.TemporaryFile() as output:
        ended = subprocess.run(
            [*launcher, jail.__file__],
            input=b"".join(len(part).to_bytes(8, "little") + part for part in parts),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PYTHONIOENCODING": "utf-8"},
            check=False,
        )
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT))
        text = output.read().decode(errors="replace")
    if stopped := ended.returncode == jail.TIMED_OUT:
        text += f"\nstopped after {seconds} s"
    return Outcome(ended.returncode == jail.PASSED, text, stopped)


@functools.cache
def _launcher(root: bool) -> list[str]:
    """The command that enters new namespaces with a bare interpreter; an ordinary user needs a user namespace too."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        raise InputError("code cannot be run safely here: no `unshare` command – it needs Linux with util-linux")
    user = [] if root else ["--user", "--map-root-user"]
    spaces = ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    return [unshare, *user, *spaces, os.path.realpath(sys.executable), "-I", "-S"]


@functools.cache
def _libraries() -> list[str]:
    """The folders that the interpreter needs: the standard library and the shared libraries it links to."""
    candidates = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", f"{sys.base_prefix}/lib"]
    return [folder for folder in dict.fromkeys(candidates) if Path(folder).is_dir()]
