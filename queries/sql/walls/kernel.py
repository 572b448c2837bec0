"""Linux system calls that Python has no name for, through libc: namespaces, mounts, capabilities, prctl.

Each raises OSError with the kernel's own error number.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000

_MNT_DETACH: Final = 0x2
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x2008_0522

_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def is_linux() -> bool:
    """Whether these calls exist here."""
    return platform.system() == "Linux"


def checked(result: int, call: str) -> int:
    """Return a call's result.

    Raises:
        OSError: it was negative.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def system_call(number: int, *arguments: object) -> int:
    """Make a system call by its number."""
    return checked(_libc.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


def prctl(option: int, first: object, second: object = 0) -> int:
    """prctl(2). Pointers are passed as ctypes objects, numbers as they are."""
    arguments = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in (first, second, 0, 0)]
    return checked(_libc.prctl(ctypes.c_int(option), *arguments), f"prctl {option}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by *flags* for new ones."""
    checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if one is None else os.fsencode(one) for one in (source, target, kind, data)]
    checked(
        _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]),
        f"mount {target}",
    )


def pivot_into(root: str) -> None:
    """Make *root*, a mount point, the root of the file system, and detach everything that was there before."""
    os.chdir(root)
    system_call(_PIVOT_ROOT[platform.machine()], b".", b".")
    checked(_libc.umount2(b".", ctypes.c_int(_MNT_DETACH)), "umount2")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability that this process holds."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    checked(_libc.capset(header, nothing), "capset")


def forbid_new_privileges() -> None:
    """No program that is started from here, setuid or not, gets rights that this process has not."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_inspection() -> None:
    """No other process of the same user may trace this one or read its memory; no core is dumped."""
    prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send a signal when the thread that started this process ends."""
    prctl(_PR_SET_PDEATHSIG, signal_number)
