"""Locks the process that runs it into an empty, read-only world and executes the program given on stdin there.

Started by `sandbox.py` as `unshare … python -I -S jail.py <folder>… -- <seconds> <megabytes> <root>`, so already alone
in new mount, network, process, IPC and host-name namespaces. Only the standard library may be imported here: this file
is executed by path, with the bare interpreter. What happens, in order:

1. The root becomes a small tmpfs holding read-only views of the given folders (shared and standard libraries) and an
   empty, writable `/tmp`; the old root is detached, so the project, homes, /proc and /dev are out of reach.
2. The process splits. The first, process 1 of its namespace, only waits, at most `seconds` of wall time; when it ends,
   the kernel kills whatever else runs in the namespace.
3. The second is limited in memory, CPU time, file size, open files, further processes and threads (none), gives up all
   privilege (user nobody when started as root, no capabilities, `no_new_privs`) and runs the program.

The exit status is `PASSED` only if the program ran to its end; `sys.exit(0)` and `os._exit(0)` half-way do not count.
"""

import ctypes
import os
import resource
import signal
import sys
import types

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
PR_SET_NO_NEW_PRIVS = 38
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
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, MEGABYTE),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 1),
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


def run(program: str) -> None:
    """Execute `program` as the main module and leave with `PASSED` at its end."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(program, "<program>", "exec"), module.__dict__)
    except SystemExit as stopped:
        sys.exit(f"the program left early: SystemExit({stopped.code})")
    sys.stdout.flush()
    os._exit(PASSED)


def main(arguments: list[str]) -> None:
    """Read the program from stdin, lock the process, run the program, hand on its exit status."""
    split = arguments.index("--")
    seconds, megabytes, started_by_root = (int(value) for value in arguments[split + 1 :])
    signal.signal(signal.SIGALRM, lambda *_: os._exit(TIMED_OUT))
    signal.alarm(seconds)
    program = sys.stdin.read()
    enter_root(arguments[:split])
    child = os.fork()
    if child == 0:
        limit(seconds, megabytes)
        drop_privileges(bool(started_by_root))
        run(program)
    _, status = os.waitpid(child, 0)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
