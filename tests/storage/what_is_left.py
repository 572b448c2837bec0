"""Everything that is under a folder, taken apart as far as it goes, to search it for traces of a user."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def traces(folder: Path, text: str) -> list[str]:
    """Where below *folder* the text is found: in decoded Parquet files and their footers, log entries, raw bytes."""
    forms = {text.encode(), json.dumps(text)[1:-1].encode(), json.dumps(text, ensure_ascii=False)[1:-1].encode()}
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        # What goes while it is looked at, as a service at work removes its files, holds nothing.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found += [f"{place}: {where}" for where in _in_file(path, place, text, forms)]
    return found


def _in_file(path: Path, place: str, text: str, forms: set[bytes]) -> Iterator[str]:
    if any(form in place.encode() for form in forms) or any(form in path.read_bytes() for form in forms):
        yield "raw"
    if path.suffix == ".parquet":
        yield from _in_parquet(path, text)
    elif path.suffix == ".json" and path.parent.name == "_delta_log":
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        if any(text in value for value in _texts(entries)):
            yield "decoded"


def _in_parquet(path: Path, text: str) -> Iterator[str]:
    try:
        opened = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        # Part of a file, in which anything may be.
        yield "torn"
        return
    with opened as file:
        for name, column in zip(file.schema_arrow.names, file.read().columns, strict=True):
            if any(text in value for value in _texts(column.to_pylist())):
                yield f"column {name}"
        for group in range(file.num_row_groups):
            for number in range(file.metadata.num_columns):
                bounds = file.metadata.row_group(group).column(number).statistics
                if bounds is not None and bounds.has_min_max and text in f"{bounds.min!s} {bounds.max!s}":
                    yield f"statistics of row group {group}"
        for value in (file.metadata.metadata or {}).values():
            if text.encode() in value:
                yield "metadata"


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a value, those inside strings of JSON too."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
            if one[:1] in ("{", "[", '"'):
                try:
                    pending.append(json.loads(one))
                except ValueError:
                    continue
        elif isinstance(one, bytes):
            yield one.decode(errors="replace")
        elif isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            pending += one
        elif isinstance(one, pa.Scalar):
            pending.append(one.as_py())
