"""Locks the process that runs it into an empty, read-only world, and judges the program given on stdin there.

Started by `sandbox.py` as `unshare … python -I -S jail.py`, so already alone in new mount, network, process, IPC and
host-name namespaces. Only the standard library may be imported here: this file and `bridge.py` are executed by path,
with the bare interpreter. What happens, in order:

1. The root becomes a small tmpfs holding read-only views of the given folders (shared and standard libraries) and an
   empty, writable `/tmp`; the old root is detached, so the project, homes, /proc and /dev are out of reach.
2. The process splits off one that runs the program, and only then reads the tests and splits off one that judges it by
   them (`bridge.py`). It waits for the judge, at most `seconds` of wall time; when it ends, being process 1 of its
   namespace, the kernel kills whatever else runs there.
3. Both are limited in memory, CPU time, file size, open files, further processes and threads (none), give up all
   privilege (user nobody when started as root, no capabilities, `no_new_privs`), and may make only the system calls of
   `system_calls.py`.

The exit status is the judge's: `PASSED` only if the tests ran to their end. The program has no part in it: what it
exits with is not looked at, and tests, expected values and verdict are never in its process. What remains, as in the
reference HumanEval harness: an object that claims to equal everything passes a test of equality; and where there are no
tests, that the program ran to its end is its own word.

Against what there is ready-made, as the manuals of bubblewrap and nsjail have it:

| | here | bubblewrap | nsjail |
|---|---|---|---|
| mount, network, process, IPC, host-name namespaces | yes | yes | yes |
| user namespace | unless root | unless set-user-id | yes |
| cgroup, time namespaces | no: no /proc, no /sys, and clocks cannot be set | cgroup | both |
| root | tmpfs, libraries read-only, no /proc, no /dev | as told | as told |
| system calls | a list of what is allowed | a filter that one compiles and hands it | a policy that one writes |
| memory, CPU time, processes, file size | limits, and no call that gets round them | no | limits, cgroups |
| wall time | yes | no | yes |
| kernel keys | calls refused | by one's own filter | own session keyring, policy |
| user nobody, no capabilities, no new privileges | yes | as told | as told |
| verdict | another process, which alone has the tests | exit status | exit status |

Neither would be tighter than this, and either would have to be installed and told all of it: so none is used.
"""

import ctypes
import importlib.util
import json
import os
import resource
import signal
import sys
from typing import Any

PASSED = 73
TIMED_OUT = 74
NOBODY = 65534
MEGABYTE = 1 << 20

# Values of <sys/mount.h>, <fcntl.h>, <linux/prctl.h>, <linux/capability.h>; system-call numbers above 424 are the same
# on every architecture.
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 2, 4, 8, 4096, 16384
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
SYS_MOUNT_SETATTR = 442
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> None:
    """Raise the OSError of the C call `what` if its result says that it failed."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Show `source` at `target`, with the flags and options of the system call."""
    result = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    call(f"mount {source} on {target}", result)


def make_read_only(target: str, flags: int) -> None:
    """Make the mount at `target` read-only, without set-user-id and devices; `AT_RECURSIVE`: those below it too."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    result = libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), flags, attributes, ctypes.sizeof(attributes))
    call(f"make {target} read-only", result)


def enter_root(folders: list[str]) -> None:
    """Exchange the root for a tmpfs with read-only views of `folders` at their own paths and a writable /tmp."""
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    os.mkdir("/tmp/old")
    os.chdir("/tmp")
    # After pivot_root the tmpfs no longer covers the old /tmp, so a folder below it can be shown as well.
    call("pivot_root", libc.pivot_root(b".", b"old"))
    for folder in folders:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        if os.path.islink("/old" + folder):
            os.symlink(os.readlink("/old" + folder), folder)
        else:
            os.mkdir(folder)
            mount("/old" + folder, folder, "", MS_BIND | MS_REC)
            make_read_only(folder, AT_RECURSIVE)
    os.mkdir("/tmp")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=16m,nr_inodes=1000,mode=0777")
    call("detach the old root", libc.umount2(b"/old", MNT_DETACH))
    os.rmdir("/old")
    make_read_only("/", 0)
    os.chdir("/tmp")


def limit(seconds: int, megabytes: int) -> None:
    """Bound what the process may use; no core dump, and no second process or thread."""
    for what, most in (
        (resource.RLIMIT_AS, megabytes * MEGABYTE),
        (resource.RLIMIT_CPU, seconds + 1),  # wall time ends first, and says so
        (resource.RLIMIT_FSIZE, MEGABYTE),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 1),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def drop_privileges(started_by_root: bool) -> None:
    """Become nobody (possible for real root only), give up every capability and the way to new ones."""
    if started_by_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    call("no_new_privs", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call("drop capabilities", libc.capset(header, (ctypes.c_uint32 * 6)()))


class FilterProgram(ctypes.Structure):
    """struct sock_fprog of <linux/filter.h>."""

    _fields_ = (("steps", ctypes.c_ushort), ("program", ctypes.c_char_p))


def filter_calls(program: bytes) -> None:
    """Refuse system calls by a filter, for good."""
    filtered = FilterProgram(len(program) // 8, program)
    call("system-call filter", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filtered), 0, 0))


def lock(told: dict[str, Any], foreign: tuple[int, ...]) -> None:
    """Make this process one that foreign code may run in; `foreign` are files of others that it must not have."""
    for file in foreign:
        os.close(file)
    empty, end = os.pipe()
    os.close(end)
    os.dup2(empty, 0)  # nothing of what the parent reads; `input()` finds an end
    os.close(empty)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limit(told["seconds"], told["megabytes"])
    drop_privileges(told["root"])
    filter_calls(bytes.fromhex(told["filter"]))


def read_part() -> bytes:
    """Read the next part of stdin, and not a byte of the one after it: a length in 8 bytes, then so many bytes."""

    def exactly(count: int) -> bytes:
        parts = []
        while count:
            part = os.read(0, min(count, MEGABYTE))
            if not part:
                sys.exit("stdin ended early")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    return exactly(int.from_bytes(exactly(8), "little"))


def main() -> None:
    """Lock the world, run program and judge in processes of their own, hand on the verdict."""
    bridge = load_beside("bridge")
    told = json.loads(read_part())
    signal.signal(signal.SIGALRM, lambda *_: os._exit(TIMED_OUT))
    signal.alarm(told["seconds"])
    enter_root(told["folders"])
    asked, ask = os.pipe()
    told_back, tell = os.pipe()
    if os.fork() == 0:
        lock(told, (ask, told_back))
        bridge.run_program(told["code"], asked, tell)
    del told["code"]
    tests = read_part().decode()
    judge = os.fork()
    if judge == 0:
        lock(told, (asked, tell))
        verdict = bridge.passes(tests, told_back, ask)
        sys.stdout.flush()
        os._exit(PASSED if verdict else 1)
    for file in (asked, ask, told_back, tell):
        os.close(file)
    _, status = os.waitpid(judge, 0)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def load_beside(name: str) -> Any:
    """Load a module from the folder of this file, which is on no path: it has one that is called `code`."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
