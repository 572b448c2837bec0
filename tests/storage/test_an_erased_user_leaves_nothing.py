"""After an erasure no file of the store tells of the user: every one is decoded, and its raw bytes searched."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.eraser import Eraser
from storage.erasure_records import Erasure, Phase
from storage.journal_records import Append
from storage.store import Store, system_now_us
from tests.storage.building import PARSER, action, body, flusher, put, store_in
from tests.storage.what_is_left import traces

# Long and odd enough that its bytes are nowhere by chance.
USER = "forget-me/O'Brien \"é😀\\"
USERS = [USER, "plain-user-8c1f", "é" * 128]


def erase(store: Store, user: str = USER) -> Erasure:
    """Erase to the end, as a service does that flushes and cares meanwhile."""
    made = store.erase(user)
    finish(store)
    done = store.erasure(made.id)
    assert done is not None
    assert done.phase is Phase.DONE
    return done


def finish(store: Store, eraser: Eraser | None = None) -> None:
    """Run the work of all pending erasures to its end."""
    one = eraser or store.make_eraser()
    for _ in range(50):
        more = one.run()
        state = store.journal.state()
        if state.flush_requested_position > state.trimmed_position:
            flusher(store).flush(state.flush_requested_position)
        elif not more and not any(not erasure.finished_at_us for erasure in store.erasures(limit=10)):
            return
    raise AssertionError("the erasure does not end")


def fill(store: Store, user: str = USER) -> None:
    """Put the user everywhere: table, old versions, orphans, journal, dead letters of both kinds."""
    for _ in range(3):
        put(store, 40, user=user, days=2)
        put(store, 60, user="someone-else", days=2)
        store.flush_here()
    files = sorted(store.paths.table.glob("date=*/type=*/*.parquet"))
    orphan = files[0].with_name("part-orphan.parquet")
    orphan.write_bytes(files[0].read_bytes())
    put(store, 7, user=user)
    put(store, 3, user="someone-else")
    wrong = PARSER.parse_ndjson(
        b"\n".join(
            [
                body([action(kind="unknown", properties={"seen": user})], user=user),
                body([action()], user=user).replace(b'"userId"', b'"userID"'),
            ]
        ),
        now_us=system_now_us(),
    )
    store.append([Append(wrong.submissions, wrong.rejections, b"{}")])
    assert store.journal.dead_letters() == 2


def users(store: Store) -> list[str]:
    """Who is stored, by a reader."""
    view = store.read_view()
    seen = view.erased.without(view.hot)["user_id"].to_pylist()
    for one in view.files:
        seen += view.erased.without(pq.read_table(one.path, partitioning=None))["user_id"].to_pylist()
    return sorted(set(seen))


@pytest.mark.parametrize("user", USERS)
def test_nothing_is_left_of_a_user(folder: Path, user: str) -> None:
    with store_in(folder, erasure_grace_ms=0) as store:
        fill(store, user)
        assert len(traces(folder, user)) > 5
        done = erase(store, user)
        assert (done.rows, done.dead_letters, done.old_files > 6) == (120, 2, True)
        assert traces(folder, user) == []
        assert users(store) == ["someone-else"]
        store.flush_here()
    assert traces(folder, user) == []
