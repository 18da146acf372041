"""The way to run a program on data that nobody trusts: a small first program that gives away its rights, then becomes the other.

It is run by its path, knows nothing of Ikon and needs the standard library only. Nothing of it runs between a fork and an exec of a server,
whose threads may hold any lock then. Linux on x86-64 and ARM64; where a right cannot be given away nothing is run.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import NamedTuple

#: Exit status when the child could not be confined, and nothing was run.
NOT_CONFINED = 125
LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38  #: linux/prctl.h
IOPRIO_IDLE = 3 << 13  #: linux/ioprio.h
#: linux/landlock.h: system calls, and rights to files.
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 14
#: Rights known to each version of Landlock: to files, to TCP ports, to what is outside (abstract sockets, signals).
RIGHTS = {1: (13, 0, 0), 2: (14, 0, 0), 3: (15, 0, 0), 4: (15, 2, 0), 5: (16, 2, 0), 6: (16, 2, 2)}
#: Where programs have their libraries from. Nothing else of the machine can be read.
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")

#: All of it. glibc's malloc would reserve 64 MiB of addresses for each thread: 850 MB were seen, 110 with one such arena.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


class Machine(NamedTuple):
    """A kind of processor: its name to seccomp (linux/audit.h), and numbers of system calls."""

    audit: int
    ioprio_set: int
    clone: int
    denied: tuple[int, ...]


#: denied: socket, socketpair, and fork and vfork where they exist.
MACHINES = {
    "x86_64": Machine(0xC000003E, 251, 56, (41, 53, 57, 58)),
    "aarch64": Machine(0xC00000B7, 30, 220, (198, 199)),
}
#: clone3, whose flags no filter can see, and io_uring_setup, which gets around it: as if the kernel did not know them.
UNKNOWN = (435, 425)
CLONE_THREAD = 0x10000  #: linux/sched.h


class Bounds(NamedTuple):
    """What the program may use: bytes of memory, seconds of processor time, bytes of a file that it writes."""

    memory: int
    cpu_s: int
    file: int


def command(program: list[str], bounds: Bounds, readable: int, writable: int) -> list[str]:
    """A command that runs a program, named by its path, with the two open files that it may use besides its libraries.

    It has no network, starts no process, gains no privilege, comes after everyone else, and dies with the thread that started it.
    """
    orders = {"parent": os.getpid(), "program": program, "bounds": bounds, "readable": readable, "writable": writable}
    return [sys.executable, "-I", "-S", __file__, json.dumps(orders)]


def main() -> None:
    """Carry out what `command` asks for. Returns never."""
    orders = json.loads(sys.argv[1])
    program, bounds = orders["program"], Bounds(*orders["bounds"])
    try:
        machine = MACHINES.get(os.uname().machine)
        if machine is None:
            raise OSError(errno.ENOSYS, f"no filter is known for {os.uname().machine}")
        _come_last(machine)
        _set_limits(bounds)
        for capability in range(64):
            LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # root gives away its own; nobody else has any
        _check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _hide_files(program[0], orders["readable"], orders["writable"])
        _filter_calls(machine)
        _check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
        if os.getppid() != orders["parent"]:
            sys.exit(NOT_CONFINED)  # it has ended already
        _limit(resource.RLIMIT_AS, bounds.memory)
        os.execve(program[0], program, ENVIRONMENT)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        sys.stderr.write(f"not confined: {error}\n")
        sys.exit(NOT_CONFINED)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _call(what: str, *args: object) -> int:
    return _check(LIBC.syscall(*(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args)), what)


def _come_last(machine: Machine) -> None:
    """Take processor and disk only when nobody else wants them."""
    os.nice(19)
    _call("ioprio", machine.ioprio_set, 1, 0, IOPRIO_IDLE)


def _set_limits(bounds: Bounds) -> None:
    for number in (signal.SIGXFSZ, signal.SIGPIPE):  # Python ignores them, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o077)
    _limit(resource.RLIMIT_CPU, bounds.cpu_s, bounds.cpu_s + 5)  # at the first it is told why, at the second it is ended
    _limit(resource.RLIMIT_FSIZE, bounds.file)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_STACK, 1 << 20)  # of each of its threads


def _limit(which: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, unless there is a lower one."""
    _, highest = resource.getrlimit(which)
    hard = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(which, (soft, hard))


def _hide_files(program: str, readable: int, writable: int) -> None:
    """Leave nothing to be opened but the two files, the program and its libraries."""
    version = min(_call("Landlock", LANDLOCK_CREATE, None, 0, 1), max(RIGHTS))
    files, ports, outside = ((1 << count) - 1 for count in RIGHTS[version])
    rights = struct.pack("=QQQ", files, ports, outside)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _call("Landlock", LANDLOCK_CREATE, rights, len(rights), 0)

    def allow(fd: int, right: int) -> None:
        _call("Landlock rule", LANDLOCK_ADD_RULE, rules, 1, struct.pack("=Qi", right & files, fd), 0)

    allow(readable, READ_FILE)
    allow(writable, READ_FILE | WRITE_FILE | TRUNCATE)
    for path in (program, *LIBRARIES, os.devnull):
        if Path(path).exists():
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allow(fd, READ_FILE | (WRITE_FILE if path == os.devnull else EXECUTE))
            os.close(fd)
    _call("Landlock", LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def _filter_calls(machine: Machine) -> None:
    """Let the kernel refuse sockets and new processes; threads may be made."""
    load, equal, least, flags, end = 0x20, 0x15, 0x35, 0x45, 0x06  #: linux/bpf_common.h: ld w abs, jeq k, jge k, jset k, ret k
    allowed, refused, unknown = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS  #: linux/seccomp.h
    lines = [(load, 0, 0, 4), (equal, 1, 0, machine.audit), (end, 0, 0, refused), (load, 0, 0, 0)]
    lines += [(least, 0, 1, 0x40000000), (end, 0, 0, refused)]  # the same calls under other numbers
    for numbers, answer in ((machine.denied, refused), (UNKNOWN, unknown)):
        for number in numbers:
            lines += [(equal, 0, 1, number), (end, 0, 0, answer)]
    lines += [(equal, 0, 3, machine.clone), (load, 0, 0, 16), (flags, 1, 0, CLONE_THREAD), (end, 0, 0, refused), (end, 0, 0, allowed)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = struct.pack("@HP", len(lines), ctypes.addressof(code))
    _check(LIBC.prctl(PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


if __name__ == "__main__":
    main()
