"""Appends to a journal in a process of its own: `-m tests.storage.journal_writer JOURNAL LATCH USER TIMES [PAGE]`."""

from __future__ import annotations

import sys
from pathlib import Path

from storage.journal import Journal
from storage.latch import Latch
from storage.leader_page import LeaderPage
from tests.storage.building import request


def main() -> None:
    """Wait for a line on standard input, so that several writers start together, then append."""
    page = LeaderPage(Path(sys.argv[5])) if sys.argv[5:] else None
    journal = Journal(Path(sys.argv[1]), Latch(Path(sys.argv[2])), page=page)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for n in range(int(sys.argv[4])):
        journal.append([request(1 + n % 3, user=sys.argv[3]), request(2, user=sys.argv[3])], now_us=n)
    journal.close()


if __name__ == "__main__":
    main()
