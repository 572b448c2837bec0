"""Landlock: the kernel's own fence for the file system, which needs no rights (Linux 5.13 and later).

A layer can only take rights away, and holds for the thread that raises it and everything that this thread starts
later. So it is raised before the threads that it shall hold.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Final

from queries.sql.walls import kernel

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_ALL_OF_ABI_1: Final = (1 << 13) - 1
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_NET_BIND_AND_CONNECT_TCP: Final = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11

_READ: Final = _READ_FILE | _READ_DIR
_READ_AND_RUN: Final = _READ | _EXECUTE
_WRITE: Final = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi_version() -> int:
    """The version of Landlock that the kernel speaks.

    Raises:
        OSError: it has none, or it is switched off.
    """
    return kernel.system_call(
        _CREATE_RULESET, ctypes.c_void_p(None), ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)
    )


def restrict_to(*, read: Iterable[str], run: Iterable[str] = (), write: Iterable[str] = ()) -> str:
    """Leave this thread and its future children only the folders named; no TCP, no signals beyond itself.

    Args:
        read: folders below which files may be read.
        run: folders below which files may be read and mapped as code.
        write: folders below which files may be read, written, made and removed.

    Returns:
        what the kernel's version of Landlock covers, in words.

    Raises:
        OSError: the kernel has no Landlock, or a folder cannot be opened.
    """
    abi = abi_version()
    handled = _handled_access(abi)
    attributes = _RulesetAttributes(
        handled_access_fs=handled,
        handled_access_net=_NET_BIND_AND_CONNECT_TCP if abi >= 4 else 0,
        scoped=_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0,
    )
    # Older kernels know a shorter structure, and refuse a longer one only if what is beyond is not zero.
    ruleset = kernel.system_call(
        _CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)), ctypes.c_uint32(0)
    )
    try:
        for folders, access in ((read, _READ), (run, _READ_AND_RUN), (write, _WRITE)):
            for folder in folders:
                _add_rule(ruleset, folder, access & handled)
        kernel.forbid_new_privileges()
        kernel.system_call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    covered = ["files", *(["TCP"] if abi >= 4 else []), *(["signals"] if abi >= 6 else [])]
    return f"Landlock ABI {abi}: {', '.join(covered)}"


def _handled_access(abi: int) -> int:
    handled = _ALL_OF_ABI_1
    for since, access in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if abi >= since:
            handled |= access
    return handled


def _add_rule(ruleset: int, folder: str, access: int) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(allowed_access=access, parent_fd=descriptor)
        kernel.system_call(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(descriptor)
