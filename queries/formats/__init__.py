"""Rows as JSON, NDJSON, CSV, an Arrow IPC stream or Parquet, streamed in bounded memory."""

from queries.formats.byte_streams import ByteStream, Piece
from queries.formats.encoding import encode, encode_lines
from queries.formats.media_types import Format, NotAcceptable, UnknownFormat, negotiate
from queries.formats.portable import TooManyDigits, is_portable
from queries.formats.result_columns import distinct_names, sql_type_name

__all__ = [
    "ByteStream",
    "Format",
    "NotAcceptable",
    "Piece",
    "TooManyDigits",
    "UnknownFormat",
    "distinct_names",
    "encode",
    "encode_lines",
    "is_portable",
    "negotiate",
    "sql_type_name",
]
