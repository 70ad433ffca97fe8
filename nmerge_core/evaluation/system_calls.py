"""Which system calls a locked-in program may make, as the filter that Linux' seccomp takes.

Named is what an interpreter with files, pipes and time needs; every other call is refused, so also those that are yet
to come. Not among them, and so refused: keys of the kernel (add_key, keyctl, request_key); System V and POSIX shared
memory, queues and semaphores, memfd_create, larger buffers of sockets (setsockopt), and whatever else holds memory that
the limit on address space does not count; other processes' memory (ptrace, process_vm_readv, pidfd_getfd); execve;
mounts and namespaces; io_uring, userfaultfd, perf_event_open, bpf; watching of files, timers and swapping.
"""

import errno
import platform
import struct
import sys

from nmerge_core.errors import InputError

# name:number on x86-64:number on AArch64, of <asm/unistd.h>; AArch64 leaves out what newer calls replace.
_ALLOWED = """
read:0:63 write:1:64 open:2: close:3:57 stat:4: fstat:5:80 lstat:6: poll:7: lseek:8:62 mmap:9:222 mprotect:10:226
munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 ioctl:16:29 pread64:17:67
pwrite64:18:68 readv:19:65 writev:20:66 access:21: pipe:22: select:23: sched_yield:24:124 mremap:25:216
msync:26:227 mincore:27:232 madvise:28:233 dup:32:23 dup2:33: pause:34: nanosleep:35:101 getitimer:36:102
alarm:37: setitimer:38:103 getpid:39:172 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212
shutdown:48:210 getsockname:51:204 getpeername:52:205 getsockopt:55:209 socketpair:53:199
exit:60:93 kill:62:129 uname:63:160 fcntl:72:25 flock:73:32 fsync:74:82 fdatasync:75:83 truncate:76:45
ftruncate:77:46 getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82: mkdir:83: rmdir:84: creat:85:
link:86: unlink:87: symlink:88: readlink:89: chmod:90: fchmod:91:52 umask:95:166 gettimeofday:96:169
getrlimit:97:163 getrusage:98:165 sysinfo:99:179 times:100:153 getuid:102:174 getgid:104:176 geteuid:107:175
getegid:108:177 setpgid:109:154 getppid:110:173 getpgrp:111: setsid:112:157 getgroups:115:158 getresuid:118:148
getresgid:120:150 getpgid:121:155 getsid:124:156 rt_sigpending:127:136 rt_sigtimedwait:128:137
rt_sigsuspend:130:133 sigaltstack:131:132 utime:132: statfs:137:43 fstatfs:138:44 prctl:157:167 arch_prctl:158:
gettid:186:178 time:201: futex:202:98 sched_getaffinity:204:123 getpriority:140:141 epoll_create:213:
epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232: epoll_pwait:281:22 epoll_pwait2:441:441
set_tid_address:218:96 set_robust_list:273:99 get_robust_list:274:100 fadvise64:221:223 clock_gettime:228:113
clock_getres:229:114 clock_nanosleep:230:115 exit_group:231:94 tgkill:234:131 utimensat:280:88 openat:257:56
mkdirat:258:34 newfstatat:262:79 unlinkat:263:35 renameat:264:38 renameat2:316:276 linkat:265:37 symlinkat:266:36
readlinkat:267:78 fchmodat:268:53 faccessat:269:48 faccessat2:439:439 pselect6:270:72 ppoll:271:73 eventfd2:290:19
dup3:292:24 pipe2:293:59 getrandom:318:278 statx:332:291 rseq:334:293 getcpu:309:168 preadv:295:69 pwritev:296:70
copy_file_range:326:285 sendfile:40:71 close_range:436:436 wait4:61:260 waitid:247:95 membarrier:324:283
fallocate:285:47
"""
_FORK = (errno.EAGAIN, {"clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None)})
_SOCKET = (errno.ENETUNREACH, {"socket": (41, 198)})  # of no kind: not all of them know the network namespace
_PRLIMIT = (302, 261)
_NEW = 424  # from here on numbers are the same everywhere; the C library does without a call that is not there
_X32 = 0x40000000  # of a second set of calls on x86-64
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_… of <linux/audit.h>

# Values of <linux/bpf_common.h> and <linux/seccomp.h>; a call is seen as struct seccomp_data {nr, arch, ip, args}.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


def call_filter() -> bytes:
    """Return the program that allows the calls above, for this machine, as an array of struct sock_filter.

    Raises:
        InputError: the machine is of another kind, whose numbers of calls are not known here.
    """
    if platform.machine() not in _MACHINES:
        raise InputError(
            f"code cannot be run safely here: the sandbox knows the system calls of {' and '.join(_MACHINES)}, "
            f"found {platform.machine()}"
        )
    column, architecture = _MACHINES[platform.machine()]
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    program += [(_LOAD, 0, 0, _NUMBER), *_if(_AT_LEAST, _X32, _ERROR | errno.EPERM)]
    for entry in _ALLOWED.split():
        if number := entry.split(":")[1 + column]:
            program += _if(_EQUAL, int(number), _ALLOW)
    for error, calls in (_FORK, _SOCKET):
        for numbers in calls.values():
            if (own := numbers[column]) is not None:
                program += _if(_EQUAL, own, _ERROR | error)
    # Limits of one's own process, pid 0, may be read and lowered; not those of the other one in the jail.
    program += [(_EQUAL, 0, 5, _PRLIMIT[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    program += [*_if(_EQUAL, 0, _ALLOW), (_RETURN, 0, 0, _ERROR | errno.EPERM), (_LOAD, 0, 0, _NUMBER)]
    program += [*_if(_AT_LEAST, _NEW, _ERROR | errno.ENOSYS), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    order = "<" if sys.byteorder == "little" else ">"
    return b"".join(struct.pack(f"{order}HBBI", *step) for step in program)


def _if(test: int, value: int, result: int) -> list[tuple[int, int, int, int]]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, result)]
