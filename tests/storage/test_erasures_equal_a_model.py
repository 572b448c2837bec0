"""Whatever is submitted, flushed, erased and reopened in whatever order, readers see what a plain list would hold."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.lake import Lake
from storage.maintenance.compaction import CompactionRun, compact
from storage.maintenance.planning import CompactionLimits
from storage.store import Store
from tests.storage.building import flusher, opened, put
from tests.storage.erasing import finish, visible
from tests.storage.what_is_left import traces

USERS = ["ann-5f0c2b", "bob-91d7e4", "zoë-3a6c08"]


class ErasuresEqualAModel(RuleBasedStateMachine):
    """The model: the user of each position that is to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="actionlake-erasures-"))
        self.store = self._open()
        self.eraser = self.store.make_eraser()
        self.model: list[tuple[str, int]] = []
        self.head = 0

    def _open(self) -> Store:
        return opened(self.folder / "data", erasure_grace_ms=0)[0]

    def teardown(self) -> None:
        finish(self.store)
        assert visible(self.store) == self.model
        for user in USERS:
            if all(user != seen for seen, _ in self.model):
                assert traces(self.folder, user) == []
        self.store.close(flush=False)
        shutil.rmtree(self.folder)

    @rule(user=st.sampled_from(USERS), count=st.integers(1, 4))
    def submit(self, user: str, count: int) -> None:
        put(self.store, count, user=user)
        self.model += [(user, self.head + place) for place in range(1, count + 1)]
        self.head += count

    @rule(user=st.sampled_from(USERS))
    def erase(self, user: str) -> None:
        self.store.erase(user)
        self.model = [row for row in self.model if row[0] != user]

    @rule(part=st.floats(0, 1))
    def flush(self, part: float) -> None:
        state = self.store.journal.state()
        flusher(self.store).flush(state.trimmed_position + int(part * state.depth))

    @rule()
    def compact(self) -> None:
        store = self.store
        now_ms = store.options.now_us() // 1000
        lake = Lake(store.paths.table, store.schema)
        compact(
            CompactionRun(
                store.paths, store.journal, lake, store.latch, CompactionLimits(), 1 << 28, now_ms=lambda: now_ms
            ),
            thorough=True,
        )

    @rule()
    def go_on(self) -> None:
        self.eraser._step()

    @rule()
    def reopen(self) -> None:
        self.store.close(flush=False)
        self.store = self._open()
        self.eraser = self.store.make_eraser()

    @invariant()
    def readers_see_the_model(self) -> None:
        assert visible(self.store) == self.model


TestErasuresEqualAModel = ErasuresEqualAModel.TestCase
TestErasuresEqualAModel.settings = settings(
    max_examples=6,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
