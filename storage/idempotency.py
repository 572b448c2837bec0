"""Idempotency keys in the journal's database: the same key and body again gets the same answer and stores nothing.

The functions here work inside a transaction that `storage.journal` has begun; they get its `execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from storage.errors import StoreError
from storage.journal_records import Append, IdempotencyConflict

# What a key costs beside its answer.
_KEY_BYTES: Final = 128


def without_repetitions(
    execute: Callable[..., Any], group: Sequence[Append]
) -> tuple[list[Append], list[bytes | StoreError]]:
    """Tell the requests that are new from those whose key was used before, also earlier in this group.

    Returns:
        The new ones, and for each request of the group, in order, its answer or its conflict.
    """
    fresh: list[Append] = []
    outcomes: list[bytes | StoreError] = []
    seen: dict[bytes, tuple[bytes, bytes]] = {}
    for one in group:
        key = one.idempotency
        if key is None:
            fresh.append(one)
            outcomes.append(one.answer)
            continue
        known = seen.get(key.key_hash)
        if known is None:
            known = execute(
                "SELECT body_hash, answer FROM idempotency_keys WHERE key_hash = ?", (key.key_hash,)
            ).fetchone()
        if known is None:
            seen[key.key_hash] = (key.body_hash, one.answer)
            fresh.append(one)
            outcomes.append(one.answer)
        elif known[0] == key.body_hash:
            outcomes.append(known[1])
        else:
            outcomes.append(IdempotencyConflict("this Idempotency-Key was used before with another body"))
    return fresh, outcomes


def remember_keys(execute: Callable[..., Any], fresh: Iterable[Append], now_us: int) -> None:
    """Keep the keys of new requests with their answers."""
    for one in fresh:
        if one.idempotency is not None:
            execute(
                "INSERT INTO idempotency_keys VALUES (?, ?, ?, ?)",
                (one.idempotency.key_hash, one.idempotency.body_hash, one.answer, now_us),
            )


def newest_key_beyond(execute: Callable[..., Any], *, bytes_max: int) -> int | None:
    """When the newest key was stored that does not fit into *bytes_max* together with all newer ones, or None."""
    found: int | None = execute(
        "SELECT max(stored_at_us) FROM ("
        " SELECT stored_at_us, sum(length(answer) + ?) OVER (ORDER BY stored_at_us DESC) AS held"
        " FROM idempotency_keys) WHERE held > ?",
        (_KEY_BYTES, bytes_max),
    ).fetchone()[0]
    return found


def delete_keys(execute: Callable[..., Any], *, before_us: int, keys_max: int) -> None:
    """Delete up to *keys_max* keys stored before *before_us*."""
    execute(
        "DELETE FROM idempotency_keys WHERE key_hash IN"
        " (SELECT key_hash FROM idempotency_keys WHERE stored_at_us < ? LIMIT ?)",
        (before_us, keys_max),
    )
