"""What the description of `flush_rows_max` promises reaches the store."""

from __future__ import annotations

from service.settings import Settings
from service.store_settings import store_options


def test_a_commit_may_take_twice_what_begins_a_flush() -> None:
    limits = store_options(Settings(flush_rows_max=70)).flush
    assert (limits.rows_max, limits.commit_rows_max) == (70, 140)
