"""Erasures for tests: a store in which a user is everywhere, and the work of an erasure done to its end."""

from __future__ import annotations

import pyarrow.parquet as pq

from storage.clock import system_now_us
from storage.eraser import Eraser
from storage.erasure_records import Erasure, Phase
from storage.journal_records import Append
from storage.store import Store
from tests.storage.building import PARSER, action, body, flusher, put

# Long and odd enough that its bytes are nowhere by chance.
USER = "forget-me/O'Brien \"é😀\\"


def finish(store: Store, eraser: Eraser | None = None) -> None:
    """Do the work of all pending erasures to its end, as the keeper does."""
    one = eraser or store.make_eraser()
    for _ in range(50):
        more = one.run()
        state = store.journal.state()
        if state.flush_requested_position > state.trimmed_position:
            flusher(store).flush(state.flush_requested_position)
        elif not more and all(erasure.finished_at_us for erasure in store.erasures(limit=100)):
            return
    raise AssertionError("the erasure does not end")


def erase(store: Store, user: str = USER) -> Erasure:
    """Erase a user to the end."""
    made = store.erase(user)
    finish(store)
    done = store.erasure(made.id)
    assert done is not None
    assert done.phase is Phase.DONE
    return done


def fill(store: Store, user: str = USER) -> None:
    """Put the user everywhere: table, old versions, orphans, table of rejects, journal, dead letters of both kinds."""
    for _ in range(2):
        put(store, 40, user=user, days=2)
        put(store, 60, user="someone-else", days=2)
        reject(store, user)
        store.flush_here()
    files = sorted(store.paths.table.glob("date=*/type=*/*.parquet"))
    files[0].with_name("part-orphan.parquet").write_bytes(files[0].read_bytes())
    files[0].with_name("part-torn.parquet").write_bytes(files[0].read_bytes()[:-100])
    put(store, 7, user=user)
    put(store, 3, user="someone-else")
    reject(store, user)


def reject(store: Store, user: str) -> None:
    """Submit an action that is rejected, and a line that is no submission but names the user."""
    wrong = PARSER.parse_ndjson(
        b"\n".join(
            [
                body([action(kind="unknown", properties={"seen": user})], user=user),
                body([action()], user=user).replace(b'"userId"', b'"userID"'),
            ]
        ),
        now_us=system_now_us(),
    )
    assert len(wrong.rejections) == 2
    store.append([Append(wrong.submissions, wrong.rejections, b"{}")])


def visible(store: Store) -> list[tuple[str, int]]:
    """The user and position of every row that a reader sees."""
    view = store.read_view()
    tables = [view.hot, *(view.erased.without(pq.read_table(one.path, partitioning=None)) for one in view.files)]
    rows: list[tuple[str, int]] = []
    for table in tables:
        rows += zip(table["user_id"].to_pylist(), table["position"].to_pylist(), strict=True)
    return sorted(rows, key=lambda row: row[1])


def users(store: Store) -> list[str]:
    """Whom a reader sees."""
    return sorted({user for user, _ in visible(store)})
