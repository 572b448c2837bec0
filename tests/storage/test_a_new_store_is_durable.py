"""After the first start all of a store is on disk: its files, and every folder that their names are in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.durable_files import fsync_path, make_durable_folder
from storage.errors import StoreFailed
from storage.opening import open_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store_options import StoreOptions
from tests.storage.building import opened, positions, put, store_in


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is synced while the test runs, in order."""
    paths: list[Path] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", record)
    return paths


@pytest.mark.parametrize("state", ["below the data", "apart"])
def test_every_new_file_and_folder_is_synced(tmp_path: Path, synced: list[Path], state: str) -> None:
    data = tmp_path / "far" / "below" / "data"
    paths = StorePaths.of(data, None if state == "below the data" else tmp_path / "state" / "here")
    store, report = open_store(paths, ActionSchema(), StoreOptions(), holder="a test")
    store.close(flush=False)
    assert report.created
    log = data / "actions" / "_delta_log"
    assert log / f"{0:020d}.json" in synced
    assert paths.journal in synced or paths.journal.with_suffix(".creating") in synced
    folders = {tmp_path, tmp_path / "far", tmp_path / "far" / "below", data, data / "actions", log}
    folders |= {paths.state, paths.state.parent, tmp_path}
    assert folders <= set(synced)


def test_a_folder_is_synced_with_the_one_that_its_name_is_in(tmp_path: Path, synced: list[Path]) -> None:
    make_durable_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path.parent, tmp_path / "a", tmp_path, tmp_path / "a" / "b", tmp_path / "a"]
    synced.clear()
    make_durable_folder(tmp_path / "a" / "b")
    assert synced == []
    with pytest.raises(FileNotFoundError):
        fsync_path(tmp_path / "nowhere")


def test_a_folder_that_a_killed_process_made_is_synced_by_the_next(tmp_path: Path, synced: list[Path]) -> None:
    """It may not have come to the sync: what is put into the folder would be lost with it."""
    (tmp_path / "a").mkdir()
    make_durable_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path / "a", tmp_path, tmp_path / "a" / "b", tmp_path / "a"]
    synced.clear()
    (tmp_path / "c").mkdir()
    make_durable_folder(tmp_path / "c")
    assert synced == [tmp_path / "c", tmp_path]


def test_a_folder_whose_sync_failed_is_synced_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[Path]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("storage.durable_files.fsync_path", _fail_at_a)
        with pytest.raises(OSError, match="Input/output"):
            make_durable_folder(tmp_path / "a")
    assert (tmp_path / "a").is_dir()
    make_durable_folder(tmp_path / "a")
    assert {tmp_path, tmp_path / "a"} <= set(synced)


def _fail_at_a(path: Path) -> None:
    if path.name == "a":
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("what", ["actions", "journal.creating"])
def test_a_store_that_cannot_be_made_is_told_and_made_at_the_next_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if what in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StoreFailed, match="could not be made"):
            opened(folder)
    with store_in(folder) as store:
        put(store, 2)
        store.flush_here()
        assert positions(store) == [1, 2]


def test_state_can_be_kept_apart_from_the_data(tmp_path: Path) -> None:
    paths = StorePaths.of(tmp_path / "data", tmp_path / "state")
    store, _ = open_store(paths, ActionSchema(), StoreOptions(), holder="a test")
    put(store, 1)
    store.flush_here()
    store.close(flush=False)
    assert {path.name for path in paths.data.iterdir()} == {"actions"}
    assert {path.name for path in paths.state.iterdir()} >= {"journal.sqlite", "service.lock", "failed.latch"}
    assert StorePaths.of("relative").data.is_absolute()
