"""The caretaker does chores one at a time, only while its process leads, and no error ends it."""

from __future__ import annotations

import threading

from storage.caretaker import Caretaker, Chore
from storage.errors import CommitRefused, RewriteConflict
from tests.storage.building import eventually


def test_a_chore_with_more_to_do_comes_again_at_once_and_an_idle_one_waits() -> None:
    left = [3]
    looked: list[str] = []

    def work() -> bool:
        looked.append("busy")
        left[0] -= 1
        return left[0] > 0

    def look() -> bool:
        looked.append("idle")
        return False

    caretaker = Caretaker([Chore("busy", 3600, work), Chore("idle", 3600, look)], leads=lambda: True)
    eventually(lambda: looked.count("busy") == 3)
    caretaker.stop()
    assert looked.count("busy") == 3
    assert looked.count("idle") == 1


def test_nothing_is_done_while_another_process_leads() -> None:
    leads = threading.Event()
    done = threading.Event()

    def do() -> bool:
        done.set()
        return False

    caretaker = Caretaker([Chore("one", 0, do)], leads=leads.is_set)
    assert not done.wait(0.7)
    leads.set()
    assert done.wait(120)
    caretaker.stop()


def test_errors_are_told_and_do_not_end_the_thread() -> None:
    errors: list[BaseException] = [CommitRefused("full"), RewriteConflict("overtaken"), ValueError("unforeseen")]
    told: list[tuple[str, BaseException]] = []
    done = threading.Event()

    def fail() -> bool:
        if errors:
            raise errors.pop(0)
        done.set()
        return False

    caretaker = Caretaker([Chore("failing", 0, fail)], leads=lambda: True, on_error=lambda *one: told.append(one))
    while not done.wait(0.05):
        caretaker.wake()
    caretaker.stop()
    assert [type(error) for _, error in told] == [CommitRefused, ValueError], "a conflict is no failure"
    assert {name for name, _ in told} == {"failing"}
