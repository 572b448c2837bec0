"""What is done to the keys holds from the next request on, in every worker; who has had keys never opens again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.clients import Client, client_of
from service.cors import Cors
from service.gate import Gate
from service.keyring import Keyring
from service.server import require_safe_address
from service.settings import Settings, SettingsError
from storage.access_keys import KeyFile, NewKey
from storage.errors import CorruptData
from storage.paths import StorePaths
from tests.service.command_line import actionlake
from tests.service.keys import now_us
from tests.service.running_service import RunningService, running_service

EMPTY = {"userId": "u", "actions": []}


class Served:
    """A gate over a key file, asked in this process."""

    def __init__(self, folder: Path, *, required: bool = False, insecure: bool = False) -> None:
        self.file = KeyFile(StorePaths.of(folder))
        self.clock_us = now_us()
        self.seen: list[Client] = []
        keyring = Keyring(self.file, required=required, now_us=lambda: self.clock_us)
        self.gate = Gate(self._app, keyring, Cors(tuple), insecure=insecure)

    async def _app(self, scope: Any, _: Any, __: Any) -> None:
        self.seen.append(client_of(scope))

    def create(self, **more: Any) -> NewKey:
        return self.file.create("test", ["submit"], now_us=self.clock_us, **more)

    def status(self, key: NewKey | None = None, *, host: str = "127.0.0.1") -> int:
        """What a request to a route that needs `submit` is answered with, 200 standing for being let in."""
        headers = [(b"host", host.encode())]
        if key is not None:
            headers.append((b"authorization", f"bearer {key.key}".encode()))
        scope: Any = {"type": "http", "method": "POST", "headers": headers, "client": ("192.0.2.7", 1)}
        answers: list[Any] = []

        async def send(message: Any) -> None:
            answers.append(message)

        async def receive() -> Any:
            raise AssertionError("nobody reads the body here")

        self.seen.clear()
        asyncio.run(self.gate(scope, receive, send))
        if not self.seen:
            status: int = answers[0]["status"]
            return status
        refusal = self.seen[0].refusal
        assert ("submit" in self.seen[0].scopes) is (refusal is None)
        return 200 if refusal is None else refusal.status


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_the_first_key_ends_being_open(served: Served) -> None:
    assert served.status() == 200
    assert served.status(host="evil.example") == 421
    key = served.create()
    assert served.status() == 401
    assert served.status(key) == 200
    assert served.status(key, host="actions.example") == 200


def test_a_revoked_key_is_refused_by_the_next_request(served: Served) -> None:
    kept = served.create()
    for _ in range(20):
        key = served.create()
        assert served.status(key) == 200
        served.file.revoke(key.kept.id)
        assert served.status(key) == 401
    assert served.status(kept) == 200


def test_requests_that_have_arrived_share_a_look_and_later_ones_do_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    generation = served.file.generation

    def look() -> Any:
        looks.append(None)
        return generation()

    monkeypatch.setattr(served.file, "generation", look)
    scope: Any = {"type": "http", "method": "POST", "headers": [(b"host", b"127.0.0.1")], "client": ("192.0.2.7", 1)}

    async def nobody(*_: Any) -> Any:
        raise AssertionError("nobody reads or answers here")

    async def send_ten() -> None:
        scopes: list[Any] = [dict(scope) for _ in range(10)]
        await asyncio.gather(*(served.gate(one, nobody, nobody) for one in scopes))

    async def send_some() -> None:
        await send_ten()
        assert (len(looks), len(served.seen)) == (1, 10)
        served.create()
        looks.clear()
        await send_ten()
        assert (len(looks), len(served.seen)) == (1, 20)
        assert [one.refusal is None for one in served.seen] == [True] * 10 + [False] * 10

    asyncio.run(send_some())


@pytest.mark.parametrize("required", [False, True])
def test_revoking_the_last_key_lets_nobody_in(tmp_path: Path, *, required: bool) -> None:
    served = Served(tmp_path, required=required)
    key = served.create()
    assert served.status(key) == 200
    served.file.revoke(key.kept.id)
    assert served.status(key) == 401
    assert served.status() == 401
    assert Served(tmp_path, insecure=True).status() == 401


def test_a_file_that_goes_lets_nobody_in_until_it_is_back(served: Served) -> None:
    key = served.create()
    assert served.status(key) == 200
    away = served.file.path.with_suffix(".away")
    served.file.path.rename(away)
    for _ in range(2):
        assert served.status() == 503
        assert served.status(key) == 503
    away.rename(served.file.path)
    assert served.status(key) == 200
    assert served.status() == 401


def test_a_process_that_begins_after_the_file_went_is_not_open(tmp_path: Path) -> None:
    """As a worker does that takes the place of one that died, beside others that know of keys."""
    before = Served(tmp_path)
    key = before.create()
    before.file.path.unlink()
    begun_later = Served(tmp_path)
    assert begun_later.status() == begun_later.status(key) == 503
    key = begun_later.create()
    assert begun_later.status() == 401
    assert begun_later.status(key) == 200
    begun_later.file.path.unlink()
    begun_later.file.master_path.unlink()
    assert Served(tmp_path).status() == 200


def test_a_network_address_is_never_open_without_a_file(tmp_path: Path) -> None:
    served = Served(tmp_path, required=True)
    assert served.status() == 401
    assert served.status(served.create()) == 200


def test_a_damaged_file_lets_nobody_in_and_says_so_once(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    key = served.create()
    whole = served.file.path.read_bytes()
    served.file.path.write_bytes(whole[:-5])
    for _ in range(3):
        assert served.status(key) == 503
        assert served.status() == 503
    assert len([one for one in caplog.records if "keys.json" in one.message]) == 1
    served.file.path.write_bytes(whole)
    assert served.status(key) == 200


def test_a_damaged_file_at_the_start_opens_nothing(tmp_path: Path) -> None:
    Served(tmp_path).create()
    (tmp_path / "keys.json").write_bytes(b"")
    assert Served(tmp_path).status() == 503
    assert Served(tmp_path, insecure=True).status() == 503


def test_a_file_that_cannot_be_read_lets_nobody_in_until_it_can(served: Served) -> None:
    key = served.create()
    before = served.file.generation()
    served.file.path.chmod(0o640)
    assert served.file.generation() != before, "a mode that was put right is looked at again"
    away = served.file.path.rename(served.file.path.with_suffix(".away"))
    served.file.path.mkdir()
    assert served.status(key) == 503
    served.file.path.rmdir()
    away.rename(served.file.path)
    assert served.status(key) == 200


def test_a_key_expires_by_the_clock(served: Served) -> None:
    key = served.create(expires_at_us=served.clock_us + 10)
    assert served.status(key) == 200
    served.clock_us += 10
    assert served.status(key) == 401


def test_a_request_carries_the_same_name_for_the_same_client(served: Served) -> None:
    def name(key: NewKey | None = None) -> str:
        served.status(key)
        return served.seen[0].name

    assert name() == name() == "192.0.2.7"
    one, two = served.create(), served.create()
    assert (name(one), name(two), name()) == (f"key {one.kept.id}", f"key {two.kept.id}", "192.0.2.7")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("workers") / "data", "--workers", "2") as service:
        yield service


def keys_command(*arguments: str, data: Path) -> str:
    done = actionlake("keys", *arguments, "--data", data)
    assert done.returncode == 0, done.stderr
    return done.stdout


def statuses(service: RunningService, key: str | None) -> set[int]:
    """The answers of several connections, so that every worker is asked."""
    headers = {"connection": "close"} if key is None else {"connection": "close", "authorization": f"Bearer {key}"}
    return {service.client.post("/api/submitlogs", json=EMPTY, headers=headers).status_code for _ in range(12)}


def test_the_command_changes_what_every_worker_of_a_running_service_does(workers: RunningService) -> None:
    assert statuses(workers, None) == {200}
    lines = keys_command("create", "app", "--scope", "submit", data=workers.data).splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    key = shown["key"]
    assert statuses(workers, None) == {401}
    assert statuses(workers, key) == {200}
    listed = keys_command("list", data=workers.data)
    assert shown["id"] in listed
    assert key not in listed
    assert key.split("_", 2)[2] not in listed
    keys_command("revoke", shown["id"], "--dry-run", data=workers.data)
    assert statuses(workers, key) == {200}
    keys_command("revoke", shown["id"], data=workers.data)
    assert statuses(workers, key) == {401}
    assert workers.client.get("/health/ready").status_code == 200
    (workers.data / "keys.json").write_bytes(b"{")
    assert statuses(workers, key) == {503}
    assert workers.client.get("/health/live").status_code == 200
    ready = workers.client.get("/health/ready")
    assert (ready.status_code, ready.json()["reason"]) == (503, "the keys cannot be read; the log says why")


def test_a_service_does_not_start_over_damaged_keys_nor_on_a_network_when_all_have_gone(tmp_path: Path) -> None:
    def start(host: str = "0.0.0.0", *, insecure: bool = False) -> None:  # noqa: S104
        require_safe_address(Settings(data=str(tmp_path), host=host, insecure=insecure))

    refused = pytest.raises(SettingsError, match="actionlake keys create")
    start("127.0.0.1")
    start(insecure=True)
    with refused:
        start()
    file = KeyFile(StorePaths.of(tmp_path))
    file.create("old", ["submit"], now_us=1, expires_at_us=2)
    with refused:
        start()
    made = file.create("app", ["submit"], now_us=now_us())
    start()
    file.revoke(made.kept.id)
    with refused:
        start()
    file.path.write_bytes(b"{}")
    for host, insecure in (("127.0.0.1", False), ("0.0.0.0", True)):  # noqa: S104
        with pytest.raises(CorruptData, match=r"keys\.json"):
            start(host, insecure=insecure)
