"""The data of a comparison, made once and kept: source files, and what every contender made of them.

Everything is in a folder that is named after what makes it, in pieces, each with a note written when it is whole. What
has no note was interrupted and is made anew. So a second run, or one that was interrupted, goes on with what is there.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from bench.comparison.actions import VERSION, ComparedActions
from bench.comparison.catalogue import ACTIONLAKE, BY_NAME, Entry, postgresql_version
from bench.comparison.family import ContenderProcess
from bench.comparison.settling import STILL_S, due_of, settle, status_of

# Of one source file, and so of one commit to the table.
_PART_DAYS_MAX: Final = 30
_PART_ACTIONS_MAX: Final = 2_000_000

# Told the share that is done, and what is under way.
Told = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A set of actions in its folder below *cache*.

    Attributes:
        still_s: see `settle`; 0 to leave the table as it was written.
    """

    cache: Path
    actions: ComparedActions
    still_s: float = STILL_S

    @property
    def folder(self) -> Path:
        """Where everything about this set is."""
        one = self.actions
        return self.cache / f"{one.actions}-actions-{one.days}-days-{VERSION}"

    def folder_of(self, entry: Entry) -> Path:
        """What a contender opens."""
        return self.folder / entry.folder_name

    def is_ready(self, entries: Sequence[Entry]) -> bool:
        """Whether all of these could be opened at once."""
        owners = {one.folder_name for one in entries}
        loaded = all(self._note_path(name).exists() for name in owners)
        return loaded and (ACTIONLAKE.name not in owners or not self.still_s or "due" in self._read(ACTIONLAKE.name))

    def notes(self, entries: Sequence[Entry]) -> dict[str, Mapping[str, Any]]:
        """What was noted when the data of each was made."""
        return {one.name: self._read(one.folder_name) for one in entries}

    def prepare(self, entries: Sequence[Entry], told: Told) -> None:
        """Make what is missing for these contenders.

        Raises:
            BenchFailed: a contender could not take the actions, or the service does not bring its table in order.
        """
        owners = list(dict.fromkeys(one.folder_name for one in entries))
        missing = [name for name in owners if not self._note_path(name).exists()]
        if missing:
            self._make_source(lambda share, note: told(share * 0.2, note))
        for number, name in enumerate(missing):

            def told_of_all(share: float, note: str, number: int = number) -> None:
                told(0.2 + 0.8 * (number + share) / len(missing), note)

            self._load(BY_NAME[name], told_of_all)
        if self.still_s and ACTIONLAKE.name in owners:
            self._settle(lambda note: told(0.9, note))
        told(1.0, "ready")

    def _note_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _note(self, name: str, content: Mapping[str, Any]) -> None:
        unfinished = self._note_path(name).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(unfinished, self._note_path(name))

    def _read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._note_path(name).read_text())
        return content

    def _make_source(self, told: Told) -> None:
        if self._note_path("source").exists():
            return
        folder = self.folder / "source"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began_s = time.monotonic()
        # Late actions are few; they come last, whenever they happened.
        late: list[pa.Table] = []
        for number, part in enumerate(_parts(self.actions, late, told)):
            pq.write_table(part, folder / f"part-{number:03d}.parquet", compression="zstd")
        pq.write_table(pa.concat_tables(late), folder / "z-late.parquet", compression="zstd")
        self._note("source", {"seconds": time.monotonic() - began_s})

    def _load(self, entry: Entry, told: Told) -> None:
        folder = self.folder / entry.name
        shutil.rmtree(folder, ignore_errors=True)
        source = sorted((self.folder / "source").glob("*.parquet"))
        note: dict[str, Any] = {"library": _library_version(entry)}
        with ContenderProcess(entry, folder) as contender:
            note["load_s"] = contender.create()
            for number, path in enumerate(source):
                told(0.8 * number / len(source), f"{entry.title} takes {number + 1} of {len(source)} files")
                note["load_s"] += contender.take(path)
            told(0.8, f"{entry.title} makes it ready")
            note["load_s"] += contender.finish()
        os.sync()
        self._note(entry.name, note)

    def _settle(self, told: Callable[[str], None]) -> None:
        """Have the table brought in order, unless it is; newer code may find more to do in an older folder."""
        note = self._read(ACTIONLAKE.name)
        folder = self.folder / ACTIONLAKE.name
        if "due" not in note or due_of(status_of(folder)) != note["due"]:
            done = settle(folder, lambda text: told(f"bringing the table in order, {text}"), still_s=self.still_s)
            took_s = note.get("settle_s", 0.0) + done["settle_s"]
            self._note(ACTIONLAKE.name, {**note, **done, "settle_s": took_s})


def _parts(actions: ComparedActions, late: list[pa.Table], told: Told) -> Iterator[pa.Table]:
    """The actions of some days at a time; those that arrived late are added to *late* instead."""
    held: list[pa.Table] = []
    days_a_part = max(1, min(_PART_DAYS_MAX, _PART_ACTIONS_MAX // actions.a_day))
    for day, (in_time, arrived_late) in enumerate(actions.tables(), start=1):
        held.append(in_time)
        late.append(arrived_late)
        told(day / actions.days, f"making actions, day {day} of {actions.days}")
        if len(held) == days_a_part or day == actions.days:
            yield pa.concat_tables(held)
            held = []


def _library_version(entry: Entry) -> str:
    if entry.module == "postgresql":
        return postgresql_version() or "absent"
    return version(entry.needs) if entry.needs is not None else "of this code"
