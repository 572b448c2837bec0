"""Which kind of statement a text is: a query, SHOW and DESCRIBE, a prepared statement, or one that is refused.

Queries are read by the grammar; the few other statements are read here, token by token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from queries.athena.errors import MalformedQuery, UntranslatableError

_QUERY_STARTS: Final = ("SELECT", "WITH", "VALUES", "TABLE", "(")
_READ_ONLY: Final = "is refused: this service answers queries only"
_NEEDS_S3: Final = "is refused: it writes its result to Amazon S3, and this service keeps results itself"
_NOT_NEEDED: Final = "is refused: partitions are found without it"
_REFUSED: Final = {
    "UNLOAD": _NEEDS_S3,
    "CREATE": _READ_ONLY,
    "INSERT": _READ_ONLY,
    "UPDATE": _READ_ONLY,
    "DELETE": _READ_ONLY,
    "MERGE": _READ_ONLY,
    "TRUNCATE": _READ_ONLY,
    "DROP": _READ_ONLY,
    "ALTER": _READ_ONLY,
    "OPTIMIZE": _READ_ONLY,
    "VACUUM": _READ_ONLY,
    "GRANT": _READ_ONLY,
    "REVOKE": _READ_ONLY,
    "CALL": _READ_ONLY,
    "USE": "is refused: there is one database, default",
    "SET": _READ_ONLY,
    "RESET": _READ_ONLY,
    "START": _READ_ONLY,
    "COMMIT": _READ_ONLY,
    "ROLLBACK": _READ_ONLY,
    "MSCK": _NOT_NEEDED,
    "ANALYZE": _READ_ONLY,
    "USING": "is refused: external functions cannot be called",
}


_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)"""
    r"""|(?P<string>'(?:[^']|'')*')"""
    r"""|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)"""
    r"""|(?P<word>[^\W\d][\w$@:]*)"""
    r"""|(?P<number>\d[\w.]*)"""
    r"""|(?P<sign>.)""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    """A word, a string, or a sign; *kind* is the name of its group in the pattern."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """What a string or a quoted name says."""
        quote = self.text[0]
        return self.text[1:-1].replace(quote * 2, quote) if self.kind in ("string", "quoted") else self.text


def _tokens(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "sign" and match[0] in "'\"`":
            line = text.count("\n", 0, match.start()) + 1
            raise MalformedQuery(
                "a quotation does not end", line=line, column=match.start() - text.rfind("\n", 0, match.start())
            )
        if kind != "space":
            found.append(_Token(kind, match[0], match.start(), match.end()))
    return found


@dataclass(frozen=True, slots=True)
class Query:
    """A SELECT, WITH or VALUES."""

    text: str


@dataclass(frozen=True, slots=True)
class Explain:
    """EXPLAIN of a query; *analyze* runs it."""

    text: str
    analyze: bool


@dataclass(frozen=True, slots=True)
class Show:
    """SHOW or DESCRIBE.

    Attributes:
        what: `DATABASES`, `TABLES`, `VIEWS`, `COLUMNS`, `PARTITIONS`, `CREATE TABLE`, `CREATE VIEW`, `TBLPROPERTIES`,
            `FUNCTIONS` or `DESCRIBE`.
        path: the dotted name of the table or database it is about, if there is one.
        pattern: the pattern that names must match, or the property that is asked for.
    """

    what: str
    path: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Prepare:
    """PREPARE name FROM query."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Execute:
    """EXECUTE name USING parameters, each the text of a constant expression."""

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deallocate:
    """DEALLOCATE PREPARE name."""

    name: str


Statement = Query | Explain | Show | Prepare | Execute | Deallocate


def classify(text: str) -> Statement:
    """Which statement *text* is.

    Raises:
        MalformedQuery: it is none.
        UntranslatableError: it is one that this service refuses; the error names it.
    """
    tokens = _tokens(text)
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    if not tokens:
        raise MalformedQuery("the statement is empty")
    if any(token.kind == "sign" and token.text == ";" for token in tokens):
        raise MalformedQuery("Only one sql statement is allowed")
    return _Reader(text, tokens).statement()


class _Reader:
    def __init__(self, text: str, tokens: Sequence[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._place = 0

    def statement(self) -> Statement:
        first = self._next_word()
        if first in _QUERY_STARTS:
            return Query(self._text[: self._tokens[-1].end])
        if first == "EXPLAIN":
            return self._explain()
        if first in ("SHOW", "DESCRIBE", "DESC"):
            return self._show()
        if self._take("PREPARE"):
            name = self._name()
            self._expect("FROM")
            return Prepare(name, self._rest())
        if self._take("EXECUTE"):
            return self._execute()
        if self._take("DEALLOCATE", "PREPARE"):
            name = self._name()
            self._end()
            return Deallocate(name)
        if first in _REFUSED:
            raise self._refusal(first)
        raise self._mismatch("a query, SHOW, DESCRIBE, EXPLAIN, PREPARE, EXECUTE or DEALLOCATE")

    # Tokens.

    def _peek(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _next_word(self) -> str:
        """The next token in upper case if it is a word or a sign, else nothing."""
        token = self._peek()
        return token.text.upper() if token is not None and token.kind in ("word", "sign") else ""

    def _take(self, *words: str) -> bool:
        """Step over *words* if they are what comes next."""
        ahead = self._tokens[self._place : self._place + len(words)]
        if [t.text.upper() for t in ahead if t.kind in ("word", "sign")] != list(words):
            return False
        self._place += len(words)
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._mismatch(word)

    def _mismatch(self, expected: str) -> MalformedQuery:
        token = self._peek()
        if token is None:
            return MalformedQuery(f"mismatched input '<EOF>'. Expecting: {expected}")
        line = self._text.count("\n", 0, token.start) + 1
        column = token.start - self._text.rfind("\n", 0, token.start)
        return MalformedQuery(f"mismatched input '{token.text}'. Expecting: {expected}", line=line, column=column)

    def _name(self) -> str:
        token = self._peek()
        if token is None or token.kind not in ("word", "quoted"):
            raise self._mismatch("<identifier>")
        self._place += 1
        return token.value

    def _path(self) -> tuple[str, ...]:
        parts = [self._name()]
        while self._take("."):
            parts.append(self._name())
        return tuple(parts)

    def _string(self) -> str:
        token = self._peek()
        if token is None or token.kind != "string":
            raise self._mismatch("<string>")
        self._place += 1
        return token.value

    def _end(self) -> None:
        if self._peek() is not None:
            raise self._mismatch("<EOF>")

    def _rest(self) -> str:
        token = self._peek()
        if token is None:
            raise self._mismatch("a query")
        return self._text[token.start : self._tokens[-1].end]

    # Statements.

    def _refusal(self, first: str) -> UntranslatableError:
        words = [token.text.upper() for token in self._tokens if token.kind == "word"]
        if first == "CREATE" and "TABLE" in words[:3] and "SELECT" in words:
            return UntranslatableError("CREATE TABLE AS SELECT", _NEEDS_S3)
        construct = {"MSCK": "MSCK REPAIR TABLE", "CREATE": " ".join(words[:2])}.get(first, first)
        return UntranslatableError(construct, _REFUSED[first])

    def _explain(self) -> Explain:
        self._place += 1
        analyze = self._take("ANALYZE")
        if self._take("VERBOSE") or self._take("(", "TYPE") or self._take("(", "FORMAT"):
            raise UntranslatableError("EXPLAIN with options")
        if self._next_word() not in _QUERY_STARTS:
            raise self._mismatch("a query")
        return Explain(self._rest(), analyze)

    def _execute(self) -> Execute:
        name, parameters = self._name(), []
        if self._take("USING"):
            start, depth = self._place, 0
            while (token := self._peek()) is not None:
                depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
                if token.text == "," and depth == 0:
                    parameters.append(self._between(start))
                    start = self._place + 1
                self._place += 1
            parameters.append(self._between(start))
        self._end()
        return Execute(name, tuple(parameters))

    def _between(self, start: int) -> str:
        if start >= self._place:
            raise self._mismatch("<expression>")
        return self._text[self._tokens[start].start : self._tokens[self._place - 1].end]

    def _show(self) -> Show:
        if self._take("DESCRIBE", "INPUT") or self._take("DESCRIBE", "OUTPUT"):
            raise UntranslatableError("DESCRIBE INPUT and DESCRIBE OUTPUT")
        if self._take("DESCRIBE") or self._take("DESC"):
            if not self._take("EXTENDED"):
                self._take("FORMATTED")
            path = self._path()
            self._end()
            return Show("DESCRIBE", path)
        self._expect("SHOW")
        shown = self._shown()
        self._end()
        return shown

    def _shown(self) -> Show:  # noqa: PLR0911 (one return a statement reads best)
        if self._take("DATABASES") or self._take("SCHEMAS"):
            path = self._path() if self._take("FROM") or self._take("IN") else ()
            return Show("DATABASES", path, self._pattern())
        for what in ("TABLES", "VIEWS"):
            if self._take(what):
                path = self._path() if self._take("IN") or self._take("FROM") else ()
                return Show(what, path, self._pattern())
        if self._take("COLUMNS"):
            if not (self._take("FROM") or self._take("IN")):
                raise self._mismatch("FROM, IN")
            path = self._path()
            if self._take("FROM") or self._take("IN"):
                path = (*self._path(), *path)
            return Show("COLUMNS", path)
        if self._take("PARTITIONS"):
            return Show("PARTITIONS", self._path())
        for what in ("CREATE TABLE", "CREATE VIEW"):
            if self._take(*what.split()):
                return Show(what, self._path())
        if self._take("TBLPROPERTIES"):
            return Show("TBLPROPERTIES", self._path(), self._property())
        if self._take("FUNCTIONS"):
            return Show("FUNCTIONS")
        raise UntranslatableError(f"SHOW {self._next_word()}".rstrip())

    def _pattern(self) -> str | None:
        if self._take("LIKE"):
            return self._string()
        token = self._peek()
        return self._string() if token is not None and token.kind == "string" else None

    def _property(self) -> str | None:
        if not self._take("("):
            return None
        name = self._string()
        self._expect(")")
        return name
