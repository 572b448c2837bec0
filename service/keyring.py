"""The keys as one process sees them: always those of the file as it is now, at the cost of a `stat` or two."""

from __future__ import annotations

import logging
from collections.abc import Callable

from queries.athena.sigv4 import derive_secret
from service.clients import NO_SCOPES, Client, Refusal
from storage.access_keys import AccessKey, Generation, KeyFile, id_of
from storage.clock import system_now_us
from storage.errors import CorruptData

_log = logging.getLogger("actionlake.access")

_MISSING = Refusal(401, "send a key as Authorization: Bearer …; `actionlake keys create` makes one")
_WRONG = Refusal(401, "this key is not known here, or was revoked", "invalid_token")
_EXPIRED = Refusal(401, "this key has expired", "invalid_token")
_MALFORMED = Refusal(401, "Authorization must be Bearer and one key", "invalid_request")
_SIGNED = Refusal(401, "a signed request is understood at POST / only; send Authorization: Bearer …", "invalid_request")
_BEARER = b"bearer "
_SIGNATURE = b"aws4-hmac-sha256 "


class Keyring:
    """Knows who holds a key. For use in one thread.

    Args:
        file: the keys.
        required: whether nobody is let in while there is no file. A file that was there once and is gone is always
            a fault, which lets nobody in.
        now_us: the clock, in microseconds since the epoch.
    """

    def __init__(self, file: KeyFile, *, required: bool, now_us: Callable[[], int] = system_now_us) -> None:
        self._file = file
        self._required = required
        self._now_us = now_us
        self._generation: Generation | None = None
        self._seen = False
        self._damage: str | None = None
        self._keys: dict[str, tuple[AccessKey, Client]] = {}

    @property
    def damage(self) -> str | None:
        """Why nobody can be let in, None if all is well; as of the last `demands_keys`."""
        return self._damage

    def demands_keys(self) -> bool:
        """Whether a request needs a key; looks at the file, and reads it if it has changed."""
        try:
            generation = self._file.generation()
        except OSError as error:
            generation = None
            self._report(f"{self._file.path}: cannot be looked for: {error.strerror}; nobody is let in")
        else:
            if generation is None and (self._seen or self._file.had_keys()):
                # Also for a process that was started after it went.
                self._seen = True
                self._report(
                    f"{self._file.path}: is gone; nobody is let in until it is back, or keys are made anew"
                    f" (to do without keys, remove {self._file.master_path} too)"
                )
        if generation != self._generation:
            self._generation = generation
            if generation is not None:
                self._read()
        return self._seen or self._required or self._damage is not None

    def bearer(self, authorization: bytes | None, address: str) -> Client:
        """Who sends a request with this `Authorization`; `demands_keys` must have been asked.

        Args:
            authorization: the header's value; None if there is none.
            address: the client's, its name as long as it has no key.
        """
        if self._damage is not None:
            return _nobody(address, Refusal(503, "the service cannot read its keys; its log says why"))
        if authorization is None:
            return _nobody(address, _MISSING)
        if authorization[:7].lower() != _BEARER:
            is_signed = authorization[:17].lower() == _SIGNATURE
            return _nobody(address, _SIGNED if is_signed else _MALFORMED)
        key = authorization[7:].strip()
        found = self._keys.get(id_of(key) or "")
        if found is None or not found[0].is_key(key):
            return _nobody(address, _WRONG)
        return _nobody(address, _EXPIRED) if found[0].expired(self._now_us()) else found[1]

    def signer(self, key_id: str) -> tuple[Client, bool] | None:
        """The client that signs requests with a key, and whether the key has expired; None if there is no such key."""
        found = self._keys.get(key_id) if self._damage is None else None
        return None if found is None else (found[1], found[0].expired(self._now_us()))

    def signing_secret(self, key_id: str) -> str | None:
        """The secret that requests are signed with; None if there is no such key.

        Raises:
            CorruptData: the master key cannot be read.
        """
        return derive_secret(self._file.master_key(), key_id) if key_id in self._keys else None

    def _read(self) -> None:
        self._seen = True
        try:
            read = self._file.read()
        except CorruptData as error:
            self._keys = {}
            self._report(str(error))
            return
        if read is None:
            # It went between the two looks; the next one says so.
            self._generation = None
            self._keys = {}
            self._report(f"{self._file.path}: is gone; nobody is let in until it is back, or keys are made anew")
            return
        self._generation = read.generation
        self._keys = {
            one.id: (one, Client(f"key {one.id}", frozenset(one.scopes), one.id, one.user_prefix)) for one in read.keys
        }
        if self._damage is not None:
            self._damage = None
            _log.warning("the keys can be read again")
        _log.info("keys in force: %d", len(self._keys))

    def _report(self, damage: str) -> None:
        if damage != self._damage:
            self._damage = damage
            _log.error("%s", damage)


def _nobody(address: str, refusal: Refusal) -> Client:
    return Client(address, NO_SCOPES, refusal=refusal)
