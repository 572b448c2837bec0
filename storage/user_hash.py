"""Hashes of user ids that are the same on every machine and in every version: caches on disk are arranged by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_DIGEST_BYTES = 16


def user_digests(users: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return two independent 64-bit hashes of each user id, as an array of two columns."""
    joined = b"".join(hashlib.blake2b(one.encode(), digest_size=_DIGEST_BYTES).digest() for one in users)
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)


def user_hash(user_id: str) -> int:
    """Return the first hash of one user id, as a number of 64 bits without sign."""
    return int(user_digests((user_id,))[0, 0])
