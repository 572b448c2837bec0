"""Copies of the table's rows arranged by user, so that a user's whole past is in one small file a run.

A run holds the rows of some data files, sorted by a hash of the user, then by user, time, journal and position, and
cut by that hash into parts of about 300,000 rows. Runs are merged over time into few large ones, as the levels of an
LSM tree are. All of it is a cache: a run says which data files it was made from, and what it holds of a partition
counts only while all of those are in the snapshot that is read; files that no run covers are read directly.

- `manifest`: what a run says of itself, on disk
- `coverage`: which runs count for a snapshot, and which files are left to be read directly
- `reading`: one user's rows from one run
- `planning`: what to build, merge or remove next
- `building`: making a run, in a process of its own
- `chore`: having it done in the background
"""
