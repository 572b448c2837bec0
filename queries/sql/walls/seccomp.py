"""A seccomp filter: the system calls that a worker needs after its start, and no others.

What is not on the list is answered with EPERM: sockets, programs, processes, signals to others, tracing, mounting,
code made at run time, io_uring. Threads are allowed. Paths cannot be told apart here; that is what the mount
namespace and Landlock are for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final, NamedTuple

from queries.sql.walls import kernel

_SET_MODE_FILTER: Final = 1
_FILTER_FLAG_TSYNC: Final = 1
_RETURN_ERRNO: Final = 0x0005_0000
_RETURN_ALLOW: Final = 0x7FFF_0000
_RETURN_KILL_PROCESS: Final = 0x8000_0000

_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_OR_EQUAL: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06

_NUMBER_OFFSET: Final = 0
_ARCHITECTURE_OFFSET: Final = 4
_ARGUMENTS_OFFSET: Final = 16
_X32_BIT: Final = 0x4000_0000

_CLONE_THREAD: Final = 0x1_0000
_PROT_EXEC: Final = 0x4
_PR_SET_NAME: Final = 15


class _Architecture(NamedTuple):
    audit: int
    seccomp: int
    column: int


_ARCHITECTURES: Final = {
    "x86_64": _Architecture(0xC000_003E, 317, 0),
    "aarch64": _Architecture(0xC000_00B7, 277, 1),
}

# Name: number on x86_64 and on aarch64, from the kernel's asm/unistd_64.h and asm-generic/unistd.h.
_ALLOWED: Final[dict[str, tuple[int | None, int | None]]] = {
    # Files and what is open already, the socket to the service included.
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "lseek": (8, 62),
    "close": (3, 57),
    "fcntl": (72, 25),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "flock": (73, 32),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    # The file system.
    "open": (2, None),
    "openat": (257, 56),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    # Memory.
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    # Threads of this process.
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "rseq": (334, 293),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "membarrier": (324, 283),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    # Clocks, identity, limits (which can only be lowered), chance.
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "getrandom": (318, 278),
}
_MMAP: Final = (9, 222)
_MPROTECT: Final = (10, 226)
_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)
_TGKILL: Final = (234, 131)
_PRLIMIT64: Final = (302, 261)
_PRCTL: Final = (157, 167)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jump_true", ctypes.c_uint8),
        ("jump_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def allow_only_what_queries_need() -> str:
    """Raise the filter around every thread of this process, for good.

    Returns:
        what it does, in words.

    Raises:
        OSError: the kernel has no seccomp filters, or refuses this one.
        NotImplementedError: the filter is not written for this processor.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise NotImplementedError(f"no filter for the processor {platform.machine()}")
    instructions = _program(architecture)
    block = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(instructions), block)
    kernel.forbid_new_privileges()
    kernel.system_call(
        architecture.seccomp,
        ctypes.c_uint(_SET_MODE_FILTER),
        ctypes.c_uint(_FILTER_FLAG_TSYNC),
        ctypes.byref(program),
    )
    return f"{len(_ALLOWED)} system calls allowed, no sockets, processes, programs or new code"


def _program(architecture: _Architecture) -> list[_Instruction]:
    column = architecture.column
    program = [
        _load(_ARCHITECTURE_OFFSET),
        _jump(_JUMP_EQUAL, architecture.audit, true=1, false=0),
        _return(_RETURN_KILL_PROCESS),
        _load(_NUMBER_OFFSET),
    ]
    if architecture.audit == _ARCHITECTURES["x86_64"].audit:
        program += [_jump(_JUMP_GREATER_OR_EQUAL, _X32_BIT, true=0, false=1), _return(_RETURN_ERRNO | errno.ENOSYS)]
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program += [_jump(_JUMP_EQUAL, number, true=0, false=1), _return(_RETURN_ALLOW)]
    # The C library tries clone3 first, whose arguments cannot be seen here, and falls back to clone on ENOSYS.
    program += [_jump(_JUMP_EQUAL, _CLONE3[column], true=0, false=1), _return(_RETURN_ERRNO | errno.ENOSYS)]
    program += _allowed_if(_CLONE[column], 0, _jump(_JUMP_ANY_BIT, _CLONE_THREAD, true=0, false=1))
    program += _allowed_if(_MMAP[column], 2, _jump(_JUMP_ANY_BIT, _PROT_EXEC, true=1, false=0))
    program += _allowed_if(_MPROTECT[column], 2, _jump(_JUMP_ANY_BIT, _PROT_EXEC, true=1, false=0))
    program += _allowed_if(_TGKILL[column], 0, _jump(_JUMP_EQUAL, os.getpid(), true=0, false=1))
    program += _allowed_if(_PRLIMIT64[column], 0, _jump(_JUMP_EQUAL, 0, true=0, false=1))
    program += _allowed_if(_PRCTL[column], 0, _jump(_JUMP_EQUAL, _PR_SET_NAME, true=0, false=1))
    program.append(_return(_RETURN_ERRNO | errno.EPERM))
    return program


def _allowed_if(number: int, argument: int, test: _Instruction) -> list[_Instruction]:
    """Allow a call if *test*, which skips one instruction to say no, holds for the low word of an argument."""
    return [
        _jump(_JUMP_EQUAL, number, true=0, false=4),
        _load(_ARGUMENTS_OFFSET + 8 * argument),
        test,
        _return(_RETURN_ALLOW),
        _return(_RETURN_ERRNO | errno.EPERM),
    ]


def _load(offset: int) -> _Instruction:
    return _Instruction(_LOAD_WORD, 0, 0, offset)


def _jump(code: int, operand: int, *, true: int, false: int) -> _Instruction:
    return _Instruction(code, true, false, operand)


def _return(operand: int) -> _Instruction:
    return _Instruction(_RETURN, 0, 0, operand)
