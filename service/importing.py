"""`actionlake import`: NDJSON files into a folder or a service, once, however often it is run.

A file is cut into chunks of whole lines at places that depend on its content alone. Each chunk is submitted with an
idempotency key made of the file's hash and the chunk's first line, so that running an import again, after a crash or
by mistake, adds nothing for as long as the keys are kept.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

import httpx
import msgspec
import zstandard

from service.submissions import NDJSON, answer_of
from storage.errors import Overloaded, StoreError
from storage.journal_records import Append, IdempotencyKey
from storage.store import Store
from storage.submission import InvalidSubmission, SubmissionParser

CHUNK_BYTES: Final = 1_000_000
CHUNK_LINES_MAX: Final = 2_000
_HASH_BLOCK_BYTES: Final = 1 << 20
_ATTEMPTS_MAX: Final = 10


class ImportFailed(Exception):
    """The import ended early; what was accepted so far is kept, and running it again goes on from there."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some whole lines of a file.

    Attributes:
        first_line: the number of the first line, from 1.
        body: the lines.
        key: the idempotency key to submit them with.
        source_bytes: how far the file as it lies on disk was read for it, for the progress bar.
    """

    first_line: int
    body: bytes
    key: str
    source_bytes: int


class Rejected(msgspec.Struct):
    """An entry of an answer's `rejected`."""

    code: str
    message: str
    index: int | None = None
    line: int | None = None


class Answer(msgspec.Struct):
    """The answer to one chunk."""

    accepted: int
    rejected: list[Rejected]


class Target(Protocol):
    """Where chunks go."""

    def submit(self, chunk: Chunk) -> Answer:
        """Submit a chunk and return the answer.

        Raises:
            ImportFailed: it was refused as a whole, or the target stays out of reach.
        """


class FolderTarget:
    """Submits into a store that this process has opened, and flushes it as a service would."""

    def __init__(self, store: Store, parser: SubmissionParser) -> None:
        self._store = store
        self._parser = parser

    def submit(self, chunk: Chunk) -> Answer:
        """Submit a chunk to the store."""
        try:
            parsed = self._parser.parse_ndjson(chunk.body, now_us=self._store.options.now_us())
        except InvalidSubmission as error:
            raise ImportFailed(f"line {chunk.first_line}: {error}") from error
        append = Append(
            parsed.submissions, parsed.rejections, answer_of(parsed), IdempotencyKey.of(chunk.key, chunk.body)
        )
        (outcome,) = self._patiently(lambda: self._store.append([append]))
        if isinstance(outcome, StoreError):
            raise ImportFailed(str(outcome)) from outcome
        return msgspec.json.decode(outcome, type=Answer)

    def _patiently(self, submit: Callable[[], list[bytes | StoreError]]) -> list[bytes | StoreError]:
        for _ in range(_ATTEMPTS_MAX):
            try:
                self._store.check_writable()
                return submit()
            except Overloaded as error:
                time.sleep(error.retry_after_s)
        raise ImportFailed("the store stays full")


class UrlTarget:
    """Submits to a service over HTTP, with a key if it asks for one; a full one is asked again when it says."""

    def __init__(self, client: httpx.Client, url: str, key: str | None = None) -> None:
        self._client = client
        self._authorization = {} if key is None else {"authorization": f"Bearer {key}"}
        self._url = url.rstrip("/") + "/api/submitlogs"

    def submit(self, chunk: Chunk) -> Answer:
        """Submit a chunk to the service."""
        headers = {"content-type": NDJSON, "idempotency-key": chunk.key, **self._authorization}
        last = "no answer"
        for attempt in range(_ATTEMPTS_MAX):
            try:
                response = self._client.post(self._url, content=chunk.body, headers=headers)
            except httpx.TransportError as error:
                # Whether it was kept is unknown; the key makes asking again safe.
                last = f"{type(error).__name__}: {error}"
                time.sleep(min(5.0, 0.2 * 2**attempt))
                continue
            if response.status_code == 200:
                return msgspec.json.decode(response.content, type=Answer)
            last = f"{response.status_code}: {response.text[:500]}"
            if response.status_code not in (429, 503, 507):
                break
            time.sleep(float(response.headers.get("retry-after", "1")))
        raise ImportFailed(f"line {chunk.first_line} was not taken: {last}")


def read_chunks(path: Path) -> Iterator[Chunk]:
    """Cut a file (`.gz` and `.zst` are decompressed) into chunks.

    Raises:
        ImportFailed: it is no regular file, or damaged.
    """
    if not path.is_file():
        # A pipe can be read once only: nothing would be left of it after its hash, and nothing imported, silently.
        raise ImportFailed(f"{path}: not a regular file; save what it gives into one first")
    digest = _sha256(path)
    lines: list[bytes] = []
    size = 0
    first = 1
    number = 0
    with _open_lines(path) as (stream, position):
        try:
            for number, line in enumerate(stream, start=1):
                lines.append(line)
                size += len(line)
                if size >= CHUNK_BYTES or len(lines) >= CHUNK_LINES_MAX:
                    yield Chunk(first, b"".join(lines), _key(digest, first), position())
                    lines, size, first = [], 0, number + 1
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise ImportFailed(f"{path}: damaged after line {number}: {error}") from error
        if lines and b"".join(lines).strip():
            yield Chunk(first, b"".join(lines), _key(digest, first), position())


def import_file(path: Path, target: Target, *, on_progress: Callable[[int], Any]) -> tuple[int, list[Rejected]]:
    """Submit a whole file; return how many actions were accepted, and what was rejected with the file's line numbers.

    Args:
        path: the file.
        target: where to.
        on_progress: called with the number of bytes of the file that are done.

    Raises:
        ImportFailed: it ended early.
    """
    accepted = 0
    rejected: list[Rejected] = []
    for chunk in read_chunks(path):
        answer = target.submit(chunk)
        accepted += answer.accepted
        for one in answer.rejected:
            one.line = chunk.first_line + (one.line or 1) - 1
            rejected.append(one)
        on_progress(chunk.source_bytes)
    return accepted, rejected


def _key(digest: str, first_line: int) -> str:
    return f"import-{digest}-{first_line}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _open_lines(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    with path.open("rb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw) as unzipped:
                yield io.BufferedReader(unzipped, _HASH_BLOCK_BYTES), raw.tell
        elif path.suffix == ".zst":
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
                yield io.BufferedReader(reader, _HASH_BLOCK_BYTES), raw.tell
        else:
            yield raw, raw.tell
