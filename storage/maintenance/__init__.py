"""The table's upkeep: compaction, retention, vacuum, and the log's checkpoints and clean-up.

What to do is decided by pure functions (`planning`), apart from doing it. Everything here is right beside a running
service and beside another copy of itself: files are replaced by `Lake.rewrite` only, which refuses who comes second,
and removed only when no commit can name them any more.
"""
