"""The columns of a slice, one at a time: read from its files, put together, and in order before the next one is read.

What is decoded is gathered while it is in the processor's caches, which takes a third of the time that it takes later,
and beside the columns that are in order already only one is held as the files have it. What footers say is not read:
columns without values, and texts of which all rows have the same. Texts that many rows share stay in their
dictionaries until a batch is made, so that what is held is about as large as what the files' pages hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.data_files import DataFile
from storage.footer_memory import read_footer
from storage.schema import PARTITION_COLUMNS

# Texts of any length.
FREE_TEXT: Final = "properties"
_OWN_TEXTS: Final = ("user_id", "session_id", FREE_TEXT)
_INDEX: Final = pa.int32()
_SHARED_TEXT: Final = pa.dictionary(_INDEX, pa.string())


class TextsTooLong(Exception):
    """Texts that dictionaries hold once are more than may be held, in all rows that have them."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file, and what its footer says.

    Attributes:
        pages_bytes: of all pages of a column, decompressed.
        places: of the columns in the file.
        empty: columns that hold nothing but nulls.
        same: texts that all rows have.
        in_dictionaries: columns with values in dictionaries.
    """

    file: DataFile
    footer: pq.FileMetaData
    pages_bytes: Mapping[str, int]
    places: Mapping[str, int]
    empty: frozenset[str]
    same: Mapping[str, str]
    in_dictionaries: frozenset[str]

    @classmethod
    def of(cls, file: DataFile) -> FileContent:
        """Read the footer of *file*.

        Raises:
            OSError, pa.ArrowException: it cannot be read.
        """
        footer, schema = read_footer(file.path)
        names = schema.names
        are_texts = [one == pa.string() for one in schema.types]
        pages_bytes = dict.fromkeys(names, 0)
        filled: set[str] = set()
        in_dictionaries: set[str] = set()
        # None for a column whose rows differ, or may.
        same: dict[str, object] = {}
        for at in range(footer.num_row_groups):
            group = footer.row_group(at)
            for place, name in enumerate(names):
                chunk = group.column(place)
                pages_bytes[name] += chunk.total_uncompressed_size
                said = chunk.statistics
                nulls = said.null_count if said is not None and said.has_null_count else None
                if nulls is None or nulls < group.num_rows:
                    filled.add(name)
                    if chunk.has_dictionary_page:
                        in_dictionaries.add(name)
                # A bound that was cut is none that a row has, and the other one is then another.
                one = None
                if are_texts[place] and nulls == 0 and said.has_min_max and said.min == said.max:
                    one = said.min
                if same.setdefault(name, one) != one:
                    same[name] = None
        texts = {name: one for name, one in same.items() if isinstance(one, str)}
        places = {name: place for place, name in enumerate(names)}
        return cls(file, footer, pages_bytes, places, frozenset(names) - filled, texts, frozenset(in_dictionaries))

    def text_of(self, name: str) -> str | None:
        """The text that all rows have in the column; None if they differ, or may."""
        return self.file.type if name == "type" else self.same.get(name)


@dataclass(frozen=True, slots=True)
class SharedTexts:
    """Texts that rows share: of each row the place of its text."""

    places: pa.Array
    texts: pa.Array

    def take(self, order: pa.Array) -> SharedTexts:
        """Of the rows at *order*."""
        return SharedTexts(pc.take(self.places, order, boundscheck=False), self.texts)

    def whole(self, _: int) -> pa.Array:
        """The texts of all rows."""
        return pc.take(self.texts, self.places, boundscheck=False)


@dataclass(frozen=True, slots=True)
class Repeated:
    """One value that all rows have, or null; *block* has as many as a batch needs at the most."""

    block: pa.Array

    def take(self, _: pa.Array) -> Repeated:
        """Of other rows."""
        return self

    def whole(self, rows: int) -> pa.Array:
        """The values of all rows, which are so many: of a batch, the same bytes for each."""
        return self.block.slice(0, rows) if rows <= len(self.block) else pa.repeat(self.block[0], rows)


@dataclass(frozen=True, slots=True)
class Values:
    """A value of each row."""

    values: pa.Array

    def take(self, order: pa.Array) -> Values:
        """Of the rows at *order*."""
        return Values(pc.take(self.values, order, boundscheck=False))

    def whole(self, _: int) -> pa.Array:
        """The values of all rows."""
        return self.values


SliceColumn = SharedTexts | Repeated | Values


class SliceColumns:
    """The columns of some files, and of rows in memory behind them.

    Args:
        contents: the files.
        memory: rows that are in none of them, with the columns of *schema*.
        schema: the columns, as they leave.
        batch_rows: the largest batch that will be made.
        text_bytes_max: of all texts in `FREE_TEXT` that files have in dictionaries.
    """

    def __init__(
        self,
        contents: Sequence[FileContent],
        memory: pa.Table,
        schema: pa.Schema,
        *,
        batch_rows: int,
        text_bytes_max: int,
    ) -> None:
        self._contents = contents
        self._memory = memory
        self._schema = schema
        self._batch_rows = batch_rows
        self._text_bytes_max = text_bytes_max
        self.rows = sum(one.footer.num_rows for one in contents) + memory.num_rows
        in_dictionaries = frozenset(PARTITION_COLUMNS).union(*(one.in_dictionaries for one in contents))
        # Texts that no file has in a dictionary are no longer than the pages, and would cost a table of all of them.
        self._shared = frozenset(
            one.name
            for one in schema
            if one.type == pa.string() and one.name not in _OWN_TEXTS and one.name in in_dictionaries
        )

    def largest_first(self) -> list[str]:
        """The names of all columns, by what there is to be read of them."""
        return sorted(self._schema.names, key=lambda name: -sum(one.pages_bytes.get(name, 0) for one in self._contents))

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], SliceColumn]]:
        """Open the files, for one thread, which may then read any column by its name, in the order of the files.

        Raises:
            OSError, pa.ArrowException: a file cannot be read; also from reading.
            TextsTooLong: (from reading) texts in dictionaries are longer than may be.
        """
        with ExitStack() as stack:
            files = [
                stack.enter_context(
                    pq.ParquetFile(
                        one.file.path,
                        metadata=one.footer,
                        read_dictionary=sorted(self._read_as_dictionaries(one)),
                        page_checksum_verification=True,
                    )
                )
                for one in self._contents
            ]
            yield lambda name: self._column(files, name)

    def _read_as_dictionaries(self, content: FileContent) -> frozenset[str]:
        # How long texts are in all is seen before they are written out.
        own = content.in_dictionaries & {FREE_TEXT}
        return own | (self._shared - frozenset(PARTITION_COLUMNS))

    def _column(self, files: Sequence[pq.ParquetFile], name: str) -> SliceColumn:
        repeated = self._repeated(name)
        if repeated is not None:
            return repeated
        parts: list[pa.Array] = []
        left_bytes = self._text_bytes_max
        for file, content in zip(files, self._contents, strict=True):
            chunks = self._parts(file, content, name)
            if name == FREE_TEXT and name in content.in_dictionaries:
                left_bytes -= sum(map(_texts_bytes, chunks))
                if left_bytes < 0:
                    raise TextsTooLong
            parts += chunks
        data_type = self._schema.field(name).type
        if name not in self._shared:
            parts = [one.cast(data_type) for one in parts]
        parts += self._memory[name].cast(_SHARED_TEXT if name in self._shared else data_type).chunks
        return _shared_texts(parts) if name in self._shared else Values(_joined(parts, data_type))

    def _repeated(self, name: str) -> Repeated | None:
        """The column without being read, where the footers and folders say that all rows have the same."""
        data_type = self._schema.field(name).type
        values: set[object] = set()
        for one in self._contents:
            if name == "date":
                values.add(one.file.date)
            elif name in one.empty:
                values.add(None)
            else:
                text = one.text_of(name)
                if text is None or data_type != pa.string():
                    return None
                values.add(text)
        if len(values) > 1:
            return None
        if self._memory.num_rows:
            values.update(pc.unique(self._memory[name]).to_pylist())
        if len(values) != 1:
            return None
        (value,) = values
        return Repeated(pa.repeat(pa.scalar(value, data_type), min(self.rows, self._batch_rows)))

    def _parts(self, file: pq.ParquetFile, content: FileContent, name: str) -> list[pa.Array]:
        """What one file has of a column."""
        rows = content.footer.num_rows
        data_type = _SHARED_TEXT if name in self._shared else self._schema.field(name).type
        if name == "date":
            return [pa.repeat(pa.scalar(content.file.date, data_type), rows)]
        if name in content.empty:
            return [pa.nulls(rows, data_type)]
        text = content.text_of(name)
        if text is not None and name in self._shared:
            return [pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))]
        # What makes a table of it takes as long as three of the columns, for each one.
        read: list[pa.Array] = file.reader.read_column(content.places[name]).chunks
        return [one.cast(data_type) for one in read] if name in self._shared else read


def _texts_bytes(one: pa.Array) -> int:
    """What the texts take when they are written out."""
    if not pa.types.is_dictionary(one.type):
        return int(one.nbytes)
    lengths = pc.binary_length(one.dictionary)
    return pc.sum(pc.take(lengths, one.indices, boundscheck=False).cast(pa.int64())).as_py() or 0


def _joined(parts: list[pa.Array], data_type: pa.DataType) -> pa.Array:
    if len(parts) == 1:
        return parts[0]
    return pa.concat_arrays(parts) if parts else pa.array([], data_type)


def _shared_texts(parts: list[pa.DictionaryArray]) -> SharedTexts:
    """Put the dictionaries behind each other: to find out what they have in common would cost more than it saves."""
    places: list[pa.Array] = []
    texts: list[pa.Array] = []
    before = 0
    for one in parts:
        places.append(pc.add(one.indices, pa.scalar(before, _INDEX)) if before else one.indices)
        texts.append(one.dictionary)
        before += len(one.dictionary)
    return SharedTexts(_joined(places, _INDEX), _joined(texts, pa.string()))
