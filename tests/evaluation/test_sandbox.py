"""The sandbox: what passes, what is refused, what is bounded, and that nothing is left behind."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nmerge_core.errors import Cancelled
from nmerge_core.evaluation import sandbox
from nmerge_core.evaluation.sandbox import Outcome, run_programs


def run(program: str, seconds: int = 10) -> Outcome:
    return run_programs([program], seconds=seconds)[0]


def processes() -> set[str]:
    """Command lines of all processes that run the jail."""
    lines = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:  # it has just ended
            continue
        if b"jail.py" in command:
            lines.add(f"{entry.parent.name}: {command!r}")
    return lines


def test_programs_pass_or_fail_in_order() -> None:
    programs = ["assert 1 + 1 == 2", "assert 1 + 1 == 3", "syntax error", "import math\nassert math.gcd(12, 18) == 6"]
    assert [outcome.passed for outcome in run_programs(programs)] == [True, False, False, True]


def test_output_says_why_and_is_short() -> None:
    assert "AssertionError: not three" in run("assert 1 + 1 == 3, 'not three'").output
    long = run("print('x' * 100_000)")
    assert long.passed and len(long.output) == sandbox.OUTPUT


def test_ordinary_python_works() -> None:
    program = """
import dataclasses, collections, itertools, functools, re, math, heapq, string, json, random, datetime, typing, tempfile
@dataclasses.dataclass
class Point:
    x: int
assert dataclasses.asdict(Point(3)) == {'x': 3}
assert __name__ == '__main__'
with tempfile.TemporaryFile() as file:
    file.write(b'scratch')
"""
    assert run(program) == Outcome(True, "")


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "raise SystemExit", "import os; os._exit(0)"])
def test_leaving_before_the_tests_is_a_failure(leave: str) -> None:
    assert not run(f"{leave}\nassert False").passed


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(600)"])
def test_an_endless_program_is_stopped(program: str) -> None:
    started = time.monotonic()
    outcome = run(program, seconds=1)
    assert not outcome.passed and "stopped after 1 s" in outcome.output
    assert time.monotonic() - started < 30


def test_one_that_resists_is_stopped_too() -> None:
    resist = """
import ctypes, os, signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
os.setsid()
ctypes.CDLL(None).prctl(1, 0)  # no signal on the parent's death
time.sleep(600)
"""
    assert "stopped after 2 s" in run(resist, seconds=2).output
    assert wait_for_none() == set()


def wait_for_none() -> set[str]:
    """The jail's processes that are still there after at most five seconds."""
    for _ in range(50):
        if not processes():
            break
        time.sleep(0.1)
    return processes()


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
        "import socket; socket.create_connection(('1.1.1.1', 53), 1)",
        "import socket; socket.getaddrinfo('pypi.org', 443)",
    ],
)
def test_no_network(program: str) -> None:
    outcome = run(program)
    assert "Network is unreachable" in outcome.output or "Temporary failure in name resolution" in outcome.output


def test_the_project_and_homes_are_out_of_reach(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (secret, Path(__file__), Path.home() / ".bashrc", "/etc/passwd", "/proc/self/environ", "/dev/null"):
        assert "FileNotFoundError" in run(f"open({str(path)!r})").output
    seen = "import os; print(sorted(os.listdir('/')), os.listdir('/tmp'), dict(os.environ))"
    shown = run(seen).output
    assert str(tmp_path) not in shown and "NMERGE_CACHE" not in shown and "'etc'" not in shown


def test_only_the_scratch_folder_can_be_written() -> None:
    assert run("open('note', 'w').write('a'); assert open('/tmp/note').read() == 'a'").passed
    library = os.__file__
    for path in ("/new", "/usr/lib/new", library, f"{Path(library).parent}/new"):
        outcome = run(f"open({path!r}, 'w')")
        assert "Read-only file system" in outcome.output or "Permission denied" in outcome.output
    assert not run("open('big', 'wb').write(bytes(2 << 20))").passed


def test_no_privilege_and_no_way_to_it() -> None:
    program = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(39, 0, 0, 0, 0) == 1, 'no_new_privs'
assert libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == -1
assert libc.umount2(b'/usr/lib', 2) == -1
assert libc.mount(None, b'/usr/lib', None, 32 | 4096, None) == -1  # writable again
assert libc.chroot(b'/tmp') == -1
try:
    os.setuid(0)
    assert os.getuid() == 0 and libc.sethostname(b'a', 1) == -1  # nobody but in its own user namespace
except PermissionError:
    pass
"""
    assert run(program) == Outcome(True, "")


def test_fork_bomb_is_bounded() -> None:
    assert "BlockingIOError" in run("import os\nwhile True: os.fork()").output
    assert "can't start new thread" in run("import threading; threading.Thread(target=print).start()").output


def test_memory_bomb_is_bounded() -> None:
    assert "MemoryError" in run("x = bytearray(10**9)").output
    assert "MemoryError" in run("x = []\nwhile True: x.append(bytes(10**7))").output


def test_memory_of_the_kernel_is_bounded() -> None:
    held = """
import socket
pairs, held = [], 0
try:
    while True:
        one, other = socket.socketpair()
        pairs += [one, other]
        one.setblocking(False)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        except PermissionError:
            pass
        try:
            while True:
                held += one.send(bytes(1 << 16))
        except BlockingIOError:
            pass
except OSError:  # no more files
    assert 0 < held < 8 << 20, held
"""
    assert run(held) == Outcome(True, "")


def test_no_process_and_no_mount_is_left() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    run_programs(["pass", "while True: pass", "import os; os.kill(os.getpid(), 9)"], seconds=1)
    assert wait_for_none() == set()
    assert Path("/proc/self/mountinfo").read_text() == before


def test_cancel_stops_the_rest() -> None:
    def cancel(stage: str, done: float, total: float, unit: str = "") -> None:
        raise Cancelled

    started = time.monotonic()
    with pytest.raises(Cancelled):
        run_programs(["pass", *["import time; time.sleep(600)"] * 40], seconds=1, progress=cancel)
    assert time.monotonic() - started < 30  # not 40 × 1 s over the cores
    assert wait_for_none() == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")
def test_an_ordinary_user_has_the_same_sandbox(tmp_path: Path) -> None:
    """Run as nobody, from a copy that nobody can read."""
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from nmerge_core.errors import InputError
from nmerge_core.evaluation import sandbox
try:
    sandbox.require_sandbox()
except InputError as error:
    sys.exit('NO SANDBOX: ' + str(error))
outcomes = sandbox.run_programs(['pass', "open('/etc/passwd')", 'import os; os.fork()', "open('/usr/lib/x', 'w')"])
assert [outcome.passed for outcome in outcomes] == [True, False, False, False], outcomes
"""
    package = tmp_path / "nmerge_core"
    (package / "evaluation").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "evaluation" / "__init__.py").touch()
    here = Path(sandbox.__file__).parent
    for name in (
        "../errors.py",
        "../interrupts.py",
        "../progress.py",
        "sandbox.py",
        "system_calls.py",
        "jail.py",
        "bridge.py",
    ):
        source = here / name
        (package / ("evaluation" if source.parent == here else ".") / source.name).write_text(source.read_text())
    system_python = Path("/usr/bin/python3")
    if not system_python.exists():
        pytest.skip("no Python that nobody can read")
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(system_python), "-I", "-c", program]
    done = subprocess.run(nobody, capture_output=True, text=True)
    if "NO SANDBOX" in done.stderr and "--user" not in done.stderr and "ermission" in done.stderr:
        pytest.skip(f"this machine gives ordinary users no namespaces: {done.stderr}")
    assert done.returncode == 0, done.stderr


def test_where_it_is_impossible_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without `unshare` there is an error that says what is needed, and the program does not run."""
    from nmerge_core.errors import InputError

    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox._launcher.cache_clear()
    try:
        with pytest.raises(InputError, match="code cannot be run safely here.*util-linux"):
            run("pass")
        refusing = tmp_path / "unshare"
        refusing.write_text(f"#!{sys.executable}\nimport sys; sys.exit('unshare failed: Operation not permitted')\n")
        refusing.chmod(0o755)
        with pytest.raises(InputError, match="cannot be run safely here.*Operation not permitted.*user namespaces"):
            run("pass")
    finally:
        sandbox._launcher.cache_clear()
