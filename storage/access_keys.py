"""The keys of those who may use the service: a file in the state folder that holds their SHA-256, never the keys.

A key is `alk_<id>_<secret>`: the id may be shown and logged, the secret has 256 random bits and is known to its owner
only. Since nobody can guess 256 bits, one round of SHA-256 is enough, which is what makes a check cost a microsecond.

The file is replaced as a whole, synced, under a lock, and each replacement has a later `mtime` than the one before, so
that a service sees by `stat` alone that it has changed. Beside it lies the master key, from which the secrets for
signed requests are derived; it is made with the first key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from storage.durable_files import fsync_path, make_durable_folder
from storage.errors import CorruptData, InvalidInput, StoreLocked
from storage.locks import FileLock
from storage.paths import StorePaths

Scope = Literal["submit", "retrieve", "sql", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
# What reaches beyond single users, and so cannot be had by a key that is restricted to some.
UNRESTRICTED_SCOPES: Final = frozenset({"sql", "admin"})
KEY_PREFIX: Final = "alk"
NAME_CHARACTERS_MAX: Final = 100

_FORMAT: Final = 1
_ID_CHARACTERS: Final = 16
_ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_SECRET_BYTES: Final = 32
_MASTER_KEY_BYTES: Final = 32
_LOCK_TIMEOUT_S: Final = 10.0
_LOCK_POLL_S: Final = 0.02
_ID: Final = re.compile(r"[a-z2-7]{16}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

# mtime, ctime, inode and size: all that `stat` tells of a replacement, and of a mode that was put right.
Generation = tuple[int, int, int, int]


class AccessKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds of one key.

    Attributes:
        id: the part of the key that is no secret.
        name: what its owner is called, for people.
        sha256: of the whole key, in hexadecimal.
        scopes: what it may do.
        user_prefix: it may submit and retrieve only for users whose id begins so; None for all users.
        created_at_us: when it was made, in microseconds since the epoch.
        expires_at_us: from when on it is refused; None for never.
    """

    id: str
    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    user_prefix: str | None = None
    created_at_us: int
    expires_at_us: int | None = None

    def expired(self, now_us: int) -> bool:
        """Whether it is refused by now for its age."""
        return self.expires_at_us is not None and now_us >= self.expires_at_us

    def is_key(self, key: bytes) -> bool:
        """Whether *key* is this key; takes the same time for every wrong one."""
        return hmac.compare_digest(hashlib.sha256(key).hexdigest(), self.sha256)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: what is kept of it, and the key itself, which nobody can get again."""

    kept: AccessKey
    key: str


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    keys: tuple[AccessKey, ...]


@dataclass(frozen=True, slots=True)
class KeysRead:
    """The file as it was read: which replacement of it, and the keys in it."""

    generation: Generation
    keys: tuple[AccessKey, ...]


def id_of(key: bytes) -> str | None:
    """The id within a key, None if the text is not shaped like one."""
    parts = key.split(b"_", 2)
    if len(parts) != 3 or parts[0] != KEY_PREFIX.encode():
        return None
    return parts[1].decode("latin-1")


def check_restriction(scopes: Collection[str], user_prefix: str | None) -> None:
    """Refuse what no key may be.

    Raises:
        InvalidInput: no scope, or a restriction to some users together with a scope that reaches all of them.
    """
    if not scopes:
        raise InvalidInput(f"a key needs a scope, one or more of {', '.join(SCOPES)}")
    if user_prefix is None:
        return
    if not user_prefix:
        raise InvalidInput("an empty user prefix would restrict nothing; leave it out")
    too_wide = sorted(UNRESTRICTED_SCOPES & set(scopes))
    if too_wide:
        raise InvalidInput(f"a key that is restricted to a user prefix cannot have the scope {' or '.join(too_wide)}")


class KeyFile:
    """The keys of one state folder."""

    def __init__(self, paths: StorePaths) -> None:
        self.path = paths.keys
        self.master_path = paths.keys_master
        self._lock = paths.keys_lock

    def generation(self) -> Generation | None:
        """Which replacement of the file is there now; None if there is no file. Costs one `stat`.

        Raises:
            OSError: the folder cannot be looked into.
        """
        try:
            return _generation(os.stat(self.path))
        except FileNotFoundError:
            return None

    def had_keys(self) -> bool:
        """Whether keys were ever made here, by what was made with the first of them and stays. Costs one `stat`."""
        try:
            os.stat(self.master_path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def read(self) -> KeysRead | None:
        """Read the keys; None if there is no file.

        Raises:
            CorruptData: the file cannot be read or is damaged; the message says how, and what to do.
        """
        try:
            with self.path.open("rb") as file:
                generation = _generation(os.fstat(file.fileno()))
                text = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CorruptData(f"{self.path}: cannot be read: {error.strerror}; nobody is let in") from error
        return KeysRead(generation, self._decoded(text))

    def create(
        self,
        name: str,
        scopes: Collection[Scope],
        *,
        now_us: int,
        user_prefix: str | None = None,
        expires_at_us: int | None = None,
    ) -> NewKey:
        """Make a key; it holds from the return of this on, in services that run as well.

        Raises:
            InvalidInput: the name, the scopes or the restriction are not allowed.
            CorruptData: the file is damaged, or the master key is gone while keys rest on it.
            StoreLocked: somebody else keeps changing keys.
            OSError: it cannot be written.
        """
        if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
            raise InvalidInput(f"a key's name has 1 to {NAME_CHARACTERS_MAX} printable characters")
        check_restriction(scopes, user_prefix)
        with self._alone():
            before = self.read()
            keys = before.keys if before is not None else ()
            key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARACTERS))
            key = f"{KEY_PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
            kept = AccessKey(
                id=key_id,
                name=name,
                sha256=hashlib.sha256(key.encode()).hexdigest(),
                scopes=tuple(one for one in SCOPES if one in scopes),
                user_prefix=user_prefix,
                created_at_us=now_us,
                expires_at_us=expires_at_us,
            )
            self._ensure_master_key(keys)
            self._replace((*keys, kept))
        return NewKey(kept, key)

    def revoke(self, key_id: str) -> AccessKey | None:
        """Remove a key; it is refused from the return of this on. Returns what was kept of it, None if it is unknown.

        The file stays when its last key goes: a service that has had keys does not fall open.

        Raises:
            CorruptData, StoreLocked, OSError: as `create`.
        """
        if self.generation() is None:
            return None
        with self._alone():
            before = self.read()
            keys = before.keys if before is not None else ()
            revoked = next((one for one in keys if one.id == key_id), None)
            if revoked is not None:
                self._replace(tuple(one for one in keys if one.id != key_id))
            return revoked

    def master_key(self) -> bytes:
        """The key that the secrets for signed requests are derived from.

        Raises:
            CorruptData: it is gone, damaged, or others may read it.
        """
        try:
            with self.master_path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                master_key = file.read()
        except OSError as error:
            raise CorruptData(
                f"{self.master_path}: cannot be read: {error.strerror}; without it no signed request can be checked:"
                " restore it, or revoke all keys and make new ones"
            ) from error
        if stat.S_IMODE(mode) & 0o077:
            raise CorruptData(f"{self.master_path}: others than its owner may use it; chmod it to 600")
        if len(master_key) != _MASTER_KEY_BYTES:
            raise CorruptData(f"{self.master_path}: has {len(master_key)} bytes instead of {_MASTER_KEY_BYTES}")
        return master_key

    def _decoded(self, text: bytes) -> tuple[AccessKey, ...]:
        remedy = "nobody is let in; restore it from a backup, or remove it and make all keys anew"
        try:
            content = msgspec.json.decode(text, type=_Content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptData(f"{self.path}: {error}; {remedy}") from error
        if content.format != _FORMAT:
            raise CorruptData(f"{self.path}: format {content.format} is of another version; {remedy}")
        for one in content.keys:
            if not _ID.fullmatch(one.id) or not _SHA256.fullmatch(one.sha256):
                raise CorruptData(f"{self.path}: the id or sha256 of key {one.name!r} is none; {remedy}")
            try:
                check_restriction(one.scopes, one.user_prefix)
            except InvalidInput as error:
                raise CorruptData(f"{self.path}: key {one.id}: {error}; {remedy}") from error
        if len({one.id for one in content.keys}) != len(content.keys):
            raise CorruptData(f"{self.path}: two keys have one id; {remedy}")
        return content.keys

    def _replace(self, keys: tuple[AccessKey, ...]) -> None:
        text = msgspec.json.format(msgspec.json.encode(_Content(_FORMAT, keys)), indent=1)
        before = self.generation()
        # Two replacements within one tick of the file system's clock would look the same.
        modified_ns = time.time_ns() if before is None else max(time.time_ns(), before[0] + 1)
        _write_durably(self.path, text + b"\n", modified_ns=modified_ns)

    def _ensure_master_key(self, keys: Collection[AccessKey]) -> None:
        if keys:
            # Made anew, it would silently end the secrets of all keys that there are.
            self.master_key()
        elif not self.master_path.exists():
            _write_durably(self.master_path, secrets.token_bytes(_MASTER_KEY_BYTES), modified_ns=time.time_ns())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        make_durable_folder(self.path.parent)
        lock = FileLock(self._lock)
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while not lock.try_acquire(f"pid {os.getpid()}, changing keys"):
            if time.monotonic() > deadline:
                raise StoreLocked(f"{self._lock} is held by {lock.holder() or 'another process'}")
            time.sleep(_LOCK_POLL_S)
        with lock:
            yield


def _generation(status: os.stat_result) -> Generation:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _write_durably(path: Path, content: bytes, *, modified_ns: int) -> None:
    """Replace a file, readable by its owner alone; after a power cut the old or the new one is there, whole."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            # The service may run as another user, who owns the folder and has to read the file.
            folder = path.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.utime(descriptor, ns=(modified_ns, modified_ns))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(path)
    fsync_path(path.parent)
