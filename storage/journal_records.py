"""What the journal holds: its tables, and the plain values that go in and come out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from storage.dead_letters import LETTER_BYTES
from storage.erasure_records import ERASURES_2
from storage.errors import CorruptData, InvalidInput
from storage.submission import Rejection, Submission

# A row of `submissions` is one submission, or, since format 2, a batch of many users, with an empty user_id
# (`storage.batch_columns`).
#
# The tables of format 1. A new journal is made in that format and brought up to date like an old one, so that there is
# one way to each format.
_TABLES_1: Final = """
CREATE TABLE journal (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  id TEXT NOT NULL,
  next_position INTEGER NOT NULL,
  trimmed_position INTEGER NOT NULL,
  durable_version INTEGER NOT NULL,
  lake_version_min INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  flush_requested_position INTEGER NOT NULL
) STRICT;
CREATE TABLE submissions (
  first_position INTEGER PRIMARY KEY,
  last_position INTEGER NOT NULL,
  received_at_us INTEGER NOT NULL,
  user_id TEXT NOT NULL,
  session_id TEXT,
  payload BLOB NOT NULL
) STRICT;
CREATE TABLE dead_letters (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  received_at_us INTEGER NOT NULL,
  user_id TEXT,
  session_id TEXT,
  action_index INTEGER,
  line INTEGER,
  code TEXT NOT NULL,
  message TEXT NOT NULL,
  original BLOB NOT NULL,
  position INTEGER UNIQUE
) STRICT;
CREATE TABLE idempotency_keys (
  key_hash BLOB PRIMARY KEY,
  body_hash BLOB NOT NULL,
  answer BLOB NOT NULL,
  stored_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (stored_at_us);
"""

# Where the dead letters stand on their way into the table `rejects`, and what was decided about single rejects since.
# The row is made with the journal, or here for a journal that is there already.
_REJECTS_2: Final = f"""
CREATE TABLE rejects (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  source TEXT NOT NULL,
  moved_through INTEGER NOT NULL,
  durable_version INTEGER NOT NULL,
  version_min INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  flush_requested_id INTEGER NOT NULL
) STRICT;
CREATE TABLE reject_marks (
  source TEXT NOT NULL,
  id INTEGER NOT NULL,
  state TEXT NOT NULL,
  code TEXT,
  message TEXT,
  at_us INTEGER NOT NULL,
  position INTEGER,
  PRIMARY KEY (source, id)
) STRICT, WITHOUT ROWID;
INSERT INTO rejects SELECT 1, id, 0, -1, -1, (SELECT {LETTER_BYTES} FROM dead_letters), 0 FROM journal;
"""  # noqa: S608

# Of the columns that no other checksum covers; null in rows from before.
_CHECKSUMS_2: Final = """
ALTER TABLE submissions ADD COLUMN checksum INTEGER;
"""

# Format → the statements that bring a journal of that format to the next one.
_UPGRADES: Final[Mapping[int, str]] = {1: _REJECTS_2 + _CHECKSUMS_2 + ERASURES_2}

SCHEMA_VERSION: Final = 1 + len(_UPGRADES)


def upgrade_statements(from_version: int) -> str:
    """The SQL that brings a journal of format *from_version* (0: an empty database) to `SCHEMA_VERSION`.

    Raises:
        CorruptData: there is no such format, or only a newer program knows it.
    """
    if not 0 <= from_version <= SCHEMA_VERSION:
        raise CorruptData(f"a journal of format {from_version} is not known here; {SCHEMA_VERSION} is the newest")
    steps = [_TABLES_1] if from_version == 0 else []
    steps += [_UPGRADES[version] for version in range(max(1, from_version), SCHEMA_VERSION)]
    return "".join([*steps, f"PRAGMA user_version = {SCHEMA_VERSION};"])


STATE: Final = (
    "SELECT id, next_position, trimmed_position, durable_version, lake_version_min, bytes, flush_requested_position"
    " FROM journal"
)


class IdempotencyConflict(InvalidInput):
    """The idempotency key was used before, with another body."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key and the body that it stands for, both as SHA-256.

    The key's hash covers its scope, so that two clients who choose the same key do not meet.
    """

    key_hash: bytes
    body_hash: bytes

    @classmethod
    def of(cls, key: str, body: bytes, *, scope: str = "") -> IdempotencyKey:
        """Hash what the client sent; *scope* is the identity of its API key."""
        scoped = hashlib.sha256(scope.encode() + b"\0" + key.encode())
        return cls(scoped.digest(), hashlib.sha256(body).digest())


@dataclass(frozen=True, slots=True)
class Append:
    """What one request asks the journal to keep, or several together, all of it or nothing.

    `answer` is what the request will be told; it is kept with the idempotency key and returned for a repetition.
    `requests` is how many they are; only one has an idempotency key.
    """

    submissions: Sequence[Submission]
    rejections: Sequence[Rejection]
    answer: bytes
    idempotency: IdempotencyKey | None = None
    requests: int = 1

    @property
    def size_bytes(self) -> int:
        """What it takes in the journal, without what belongs to each row."""
        return sum(len(s.payload) for s in self.submissions) + sum(len(r.original) for r in self.rejections)


@dataclass(frozen=True, slots=True)
class JournalState:
    """The journal's own row: a consistent reading of one moment.

    Attributes:
        id: made with the journal, and made anew when it was lost or rolled back.
        next_position: the first position that is not taken.
        trimmed_position: rows up to here are gone from the journal, since the lake has them durably.
        durable_version: the lake's versions up to here are known to be synced to disk.
        lake_version_min: readers must not use an older snapshot of the lake.
        bytes: of the rows not trimmed yet.
        flush_requested_position: somebody waits for a flush up to here.
    """

    id: str
    next_position: int
    trimmed_position: int
    durable_version: int
    lake_version_min: int
    bytes: int
    flush_requested_position: int

    @property
    def head(self) -> int:
        """The last position that is taken."""
        return self.next_position - 1

    @property
    def depth(self) -> int:
        """How many positions are not trimmed yet."""
        return self.head - self.trimmed_position
