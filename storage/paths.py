"""Names of the files and folders of a store, built in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StorePaths:
    """Where a store keeps what.

    Attributes:
        data: the folder of the table.
        state: the folder of what is this node's own: journal, locks, history. The data folder unless set apart.
    """

    data: Path
    state: Path

    @classmethod
    def of(cls, data: Path | str, state: Path | str | None = None) -> StorePaths:
        """Build the paths from settings; both become absolute."""
        data_path = Path(data).absolute()
        return cls(data_path, Path(state).absolute() if state is not None else data_path)

    @property
    def table(self) -> Path:
        """The Delta table `actions`."""
        return self.data / "actions"

    @property
    def rejects(self) -> Path:
        """The Delta table `rejects`."""
        return self.data / "rejects"

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.state / "journal.sqlite"

    @property
    def service_lock(self) -> Path:
        """Held by the one service or import that writes to the folder."""
        return self.state / "service.lock"

    @property
    def workers_lock(self) -> Path:
        """Shared by all worker processes, so that recovery waits for those of a supervisor that was killed."""
        return self.state / "workers.lock"

    @property
    def leader_lock(self) -> Path:
        """Held by the process that flushes."""
        return self.state / "leader.lock"

    @property
    def share_book(self) -> Path:
        """A file that the processes share: who waits with how much, see `storage.share_book`."""
        return self.state / "shares.page"

    @property
    def leader_page(self) -> Path:
        """The page on which the leader asks for its turn and tells how it fares."""
        return self.state / "leader.page"

    @property
    def user_filters(self) -> Path:
        """Which data files can hold a user: a cache, see `storage.user_filters`."""
        return self.state / "cache" / "user-filters.log"

    @property
    def history(self) -> Path:
        """The copies of rows arranged by user: a cache, see `storage.history`."""
        return self.state / "cache" / "history"

    @property
    def cache_lock(self) -> Path:
        """Held by whoever changes the caches."""
        return self.state / "cache.lock"

    @property
    def latch(self) -> Path:
        """The page that all workers share to say that the store has failed."""
        return self.state / "failed.latch"

    @property
    def keys(self) -> Path:
        """Who may use the service; there is no such file as long as nobody made a key."""
        return self.state / "keys.json"

    @property
    def keys_master(self) -> Path:
        """What the secrets for signed requests are derived from."""
        return self.state / "keys.master"

    @property
    def keys_lock(self) -> Path:
        """Held while keys are changed."""
        return self.state / "keys.lock"

    @property
    def compaction_temp(self) -> Path:
        """Where compactions spill what they sort; each has a folder of its own in it."""
        return self.state / "compact-temp"

    @property
    def backups(self) -> Path:
        """Which backups were made of this store, a line for each."""
        return self.state / "backups.ndjson"

    @property
    def unfinished_restore(self) -> Path:
        """There as long as a restore into this folder is not finished."""
        return self.state / "restore.unfinished"

    def last_run(self, kind: str) -> Path:
        """What upkeep of one kind did last."""
        return self.state / f"last-{kind}.json"
