"""What a program can do about its verdict: nothing; and what tests can do with a program: what they could beside it."""

import platform
import struct

import pytest

from nmerge_core.evaluation.sandbox import Outcome, Program, run_programs

TESTS = "def check(candidate):\n    assert candidate(4) == 8\ncheck(double)\n"
WRONG = "\ndef double(n):\n    return n\n"

# Each is put before a wrong `double` whose tests fail; 73 and 1 are what the jail's exit status has meant, or may.
FORGERIES = {
    "leave at the end": "import atexit, os\natexit.register(os._exit, 73)",
    "leave by a hook": "import os, sys, threading\nsys.excepthook = sys.unraisablehook = lambda *_: os._exit(73)",
    "leave when flushed": """
import os, sys
class Stream:
    def write(self, text): os._exit(73)
    def flush(self): os._exit(73)
sys.stdout = sys.stderr = Stream()""",
    "leave in the call": "import os\nclass Leave:\n    def __eq__(self, other): os._exit(73)",
    "leave in another way": "import os, sys\nreal = os._exit\nos._exit = sys.exit = exit = lambda *_: real(73)",
    "a constant of the jail's": """
import gc, os, sys
frame = sys._getframe()
while frame:
    frame, names = frame.f_back, frame.f_globals
    if "PASSED" in names: os._exit(names["PASSED"])""",
    "names of the tests": "import builtins\nbuiltins.check = check = lambda candidate: None",
    "an end to all others": "import os\nos.kill(-1, 9)",
    "a trace": """
import sys
def trace(frame, event, argument):
    frame.f_trace_opcodes = True
    return trace
sys.settrace(trace)
frame = sys._getframe()
while frame:
    frame.f_trace, frame = trace, frame.f_back""",
    "no exception": "import builtins\nbuiltins.AssertionError = AssertionError = type('Quiet', (), {})",
    "other words": """
import sys
frame = sys._getframe()
while frame:
    frame, names = frame.f_back, frame.f_globals
    if "Link" in names:
        names["VALUE"] = names["ERROR"] = names["CALL"] = "passed" """,
}
# Messages to the judge: an answer that is none of plain data, of which the pickles would leave with each status.
PICKLES = [b"cos\n_exit\n(I%d\ntR." % status for status in (0, 73)] + [
    b"cbuiltins\nexec\n(Vimport os; os._exit(73)\ntR.",
    b"csys\nexit\n(I73\ntR.",
    b"(Vvalue\nNNt.",
    b"\x80\x04\x8c\x05value\x8c\x06passed\x87.",
]
SPEAK = """
import os
def double(n):
    for message in {messages!r}:
        for file in range(3, 32):
            try:
                os.write(file, message)
            except OSError:
                pass
    os._exit(73)
"""


def test_no_verdict_is_forged() -> None:
    programs = [Program(forgery + WRONG, TESTS) for forgery in FORGERIES.values()]
    programs.append(Program(FORGERIES["leave in the call"] + "\ndef double(n):\n    return Leave()\n", TESTS))
    framed = [struct.pack("<Q", len(each)) + each for each in PICKLES]
    programs += [Program(SPEAK.format(messages=[each]), TESTS) for each in framed]
    programs.append(Program(SPEAK.format(messages=[b"\xff" * 64, struct.pack("<Q", 1 << 62)]), TESTS))
    passed = [program.code for program, outcome in zip(programs, run_programs(programs), strict=True) if outcome.passed]
    assert passed == []


def test_what_tests_call_is_theirs() -> None:
    """A program that says what `abs`, `math`, `all` or the end of a loop are changes nothing for its tests."""
    fake = """
import builtins, math
abs = builtins.abs = lambda number: 0
math.isclose = lambda *_, **__: True
all = isinstance = builtins.all = lambda *_: True
"""
    stop = "\ndef double(n):\n    raise StopIteration\n"
    tests = (
        (fake + WRONG, "assert abs(double(4) - 8) < 1e-6"),
        (fake + WRONG, "import math\nassert math.isclose(double(4), 8)"),
        (fake + WRONG, "assert math.isclose(double(4), 8)"),
        (fake + WRONG, "assert all(double(n) == 2 * n for n in (1, 2))"),
        (stop, "for got, right in zip(map(double, [1, 2]), [2, 4]):\n    assert got == right"),
        (stop, "assert [double(n) for n in (1, 2)] == [2, 4]"),
    )
    assert not any(outcome.passed for outcome in run_programs([Program(*pair) for pair in tests]))


def test_tests_and_what_they_expect_are_nowhere_in_the_program() -> None:
    """It looks through frames, all objects, arguments, environment and open files: its own text is there, no test."""
    look = """
import gc, os, sys, types
def everything():
    found, seen, unseen = [], set(), [*gc.get_objects(), sys.argv, dict(os.environ), sys.orig_argv]
    frame = sys._getframe()
    while frame:
        unseen += [frame.f_globals, frame.f_locals, frame.f_code]
        frame = frame.f_back
    while unseen:
        each = unseen.pop()
        if id(each) in seen or each is unseen or each is found or each is seen:
            continue
        seen.add(id(each))
        if type(each) is str or type(each) is bytes:
            found.append(repr(each))
        elif type(each) is types.CodeType:
            unseen += [each.co_consts, each.co_names]
        elif type(each) not in (int, float):
            unseen += gc.get_referents(each)
    for file in range(3, 32):
        try:
            os.set_blocking(file, False)
            found.append(repr(os.read(file, 1 << 16)))
        except OSError:
            pass
        try:
            os.set_blocking(file, True)
        except OSError:
            pass
    found.append(repr(os.read(0, 1 << 16)))
    return "".join(found)
"""
    tests = "seen = everything()\nassert 'def everything' in seen\nassert 'expected only here' not in seen\n"
    assert run_programs([Program(look, tests)]) == [Outcome(True, "")]


def test_a_value_that_claims_to_equal_everything_is_believed() -> None:
    """As in the reference: a test of equality asks both sides."""
    claim = "class Any:\n    def __eq__(self, other):\n        return True\ndef double(n):\n    return Any()\n"
    assert run_programs([Program(claim, TESTS)])[0].passed


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are of x86-64")
def test_system_calls_beside_the_list_are_refused() -> None:
    """Keys, shared memory and queues of both kinds, memory without address space, other processes, new doors."""
    calls = {"add_key": 248, "request_key": 249, "keyctl": 250, "shmget": 29, "shmat": 30, "shmctl": 31, "shmdt": 67}
    calls |= {"semget": 64, "msgget": 68, "msgsnd": 69, "msgrcv": 70, "mq_open": 240, "mq_unlink": 241}
    calls |= {"memfd_create": 319, "memfd_secret": 447, "userfaultfd": 323, "io_uring_setup": 425, "io_setup": 206}
    calls |= {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_open": 434, "pidfd_getfd": 438}
    calls |= {"kcmp": 312, "perf_event_open": 298, "bpf": 321, "unshare": 272, "setns": 308, "mount": 165, "execve": 59}
    calls |= {"execveat": 322, "fsopen": 430, "move_mount": 429, "open_by_handle_at": 304, "mknod": 133, "chroot": 161}
    calls |= {"personality": 135, "inotify_init1": 294, "fanotify_init": 300, "timer_create": 222, "timerfd": 283}
    calls |= {"vmsplice": 278, "splice": 275, "mlock": 149, "modify_ldt": 154, "seccomp": 317, "landlock": 444}
    calls |= {"another set of calls": 0x40000000 | 39, "syslog": 103, "swapon": 167, "unknown": 5000}
    program = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
through = []
for name, number in {calls!r}.items():
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        through.append((name, ctypes.get_errno()))
assert libc.syscall(39) > 0  # getpid
assert libc.syscall(302, 0, 9, 0, 0) == 0 and libc.syscall(302, 1, 9, 0, 0) == -1  # limits of others
"""
    assert run_programs([Program(program, "assert through == []")]) == [Outcome(True, "")]


def test_memory_of_tests_and_program_is_bounded() -> None:
    """An answer too large for the judge ends it, without a verdict; so does what shared memory and files would hold."""
    large = "def double(n):\n    return bytes(20_000_000)\n"
    shared = "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 100_000_000))\n"
    programs = [Program(large, "kept = [double(4) for _ in range(20)]"), Program(shared, "assert kept")]
    outcomes = run_programs(programs, megabytes=200)
    assert not any(outcome.passed for outcome in outcomes)
    assert "MemoryError" in outcomes[0].output and "Cannot allocate memory" in outcomes[1].output


def test_tests_use_a_program_as_if_it_were_beside_them() -> None:
    """Plain data, subclasses of it, iterators, classes, errors, changed arguments, functions handed in, names."""
    code = """
import collections, dataclasses, enum, heapq, math as m
from collections import Counter, OrderedDict
from math import sqrt
calls = 0
def plain(x): return x
def count(text): return Counter(text)
def numbers(n):
    for i in range(n):
        yield i
Pair = collections.namedtuple("Pair", "left right")
class Colour(enum.IntEnum):
    RED = 1
class Word(str): pass
class Point:
    def __init__(self, x): self.x = x
    def __add__(self, other): return Point(self.x + (other if isinstance(other, int) else other.x))
    __radd__ = __add__
    def __eq__(self, other): return self.x == other.x
    def __lt__(self, other): return self.x < other.x
    def __len__(self): return self.x
    def __repr__(self): return f"Point({self.x})"
    def __enter__(self): return self
@dataclasses.dataclass
class Node:
    value: int
    next: object = None
def sort_in_place(items): items.sort()
def apply(function, items): return [function(item) for item in items]
def complain(x):
    global calls
    calls += 1
    raise ValueError(f"not {x}")
def last(node):
    while node.next: node = node.next
    return node.value
def deep(n): return n and deep(n - 1)
"""
    tests = """
for value in (None, True, 3, 10**60, 1.5, 2j, 'é', b'x', [1, [2]], (1,), {'a': {1}}, frozenset([1]), range(3)):
    assert plain(value) == value and type(plain(value)) is type(value)
assert plain(float('inf')) > 10 and plain(float('nan')) != plain(float('nan'))
assert count('abb') == {'a': 1, 'b': 2} == dict(count('abb')) and count('abb') == Counter('bba')
assert isinstance(count('a'), dict) and not isinstance(count('a'), list) and count('aab').most_common(1) == [('a', 2)]
assert list(numbers(3)) == [0, 1, 2] and next(numbers(2)) == 0 and sum(numbers(4)) == 6 and 2 in numbers(3)
assert Pair(1, 2) == (1, 2) and Pair(1, 2).right == 2 and list(Pair(1, 2)) == [1, 2] and Pair(1, 2)[0] == 1
assert Colour.RED == 1 and Word('ab').upper() == 'AB' and ''.join([plain(Word('c'))]) == 'c'
point = Point(2)
point.x = 5
assert (point + 1).x == (1 + point).x == 6 and len(point) == 5 and str(point) == 'Point(5)' and point == Point(5)
assert sorted([Point(3), Point(1)])[0].x == 1 and sum([Point(1), Point(2)], Point(0)).x == 3 and point
items = [3, 1, 2]
sort_in_place(items)
assert items == [1, 2, 3]
offset = 10
assert apply(lambda item: item + offset, [1, 2]) == [11, 12] and apply(len, ['ab']) == [2]
try:
    complain(4)
    assert False
except ValueError as error:
    assert str(error) == 'not 4'
assert calls == 1
assert last(Node(1, Node(2))) == 2 and abs(sqrt(plain(16)) - 4) < 1e-9 and m.floor(2.5) == 2
assert deep(300) == 0
try:
    deep(10**6)
    assert False
except RecursionError:
    pass
try:
    no_such_name
    assert False
except NameError:
    pass
"""
    shadowing = Program("def sum(a, b):\n    return a * b\n", "assert sum(3, 4) == 12")
    assert run_programs([Program(code, tests), shadowing]) == [Outcome(True, "")] * 2
