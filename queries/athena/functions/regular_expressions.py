r"""Java's regular expressions as RE2 reads them.

RE2 has no look-around and no back-references, and it reads a few things otherwise than Java without complaint:
`[a-z&&[^b]]`, nested classes, `\Z`. A pattern is therefore read first, and refused by name where RE2 would differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from queries.athena.errors import QueryError, UntranslatableError

_GROUP_START: Final = re.compile(r"\(\?(?:<([A-Za-z][A-Za-z0-9]*)>|(:|=|!|<=|<!|>)|([imsx-]+)(:|\)))")
_QUANTIFIER: Final = re.compile(r"[*+?]|\{(\d+)(?:,\d*)?\}")
_REPLACEMENT: Final = re.compile(r"\\(.)|\$(\d+|\{[A-Za-z][A-Za-z0-9]*\})|\$", re.DOTALL)
# Escapes that mean the same in both.
_SAME_ESCAPES: Final = frozenset("dDwWbBAztnrfaQEpPx")
_BLANK: Final = r"\t\x{a0}\x{1680}\x{180e}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000} "
# Those that RE2 reads otherwise, or not at all. For Java the vertical tab is white space.
_OTHER_IN_CLASS: Final = {
    "e": r"\x{1b}",
    "h": _BLANK,
    "s": r"\s\x{b}",
    "S": r"\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{10ffff}",
}
_OTHER_ESCAPES: Final = {
    **{letter: f"[{text}]" for letter, text in _OTHER_IN_CLASS.items()},
    "R": r"(?:\r\n|[\n\x{b}\f\r\x{85}\x{2028}\x{2029}])",
}


@dataclass(slots=True)
class _Group:
    """A capturing group: whether it can be left out of a match, and whether it can match nothing."""

    optional: bool = False
    may_be_empty: bool = False


@dataclass(slots=True)
class RegularExpression:
    """A pattern of Java's.

    Attributes:
        duckdb: the same pattern as DuckDB reads it.
        reaches_past_end: whether it has a `$` or `\\Z`, which in Java stands before a final line break too; RE2 can
            say that only by matching the line break as well.
    """

    duckdb: str = ""
    reaches_past_end: bool = False
    _groups: list[_Group] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, pattern: str) -> RegularExpression:
        """Read *pattern*.

        Raises:
            QueryError: it is not a regular expression.
            UntranslatableError: RE2 cannot match it, or would match otherwise.
        """
        reader = _Reader(pattern)
        text, _ = reader.alternatives(depth=0)
        if reader.place < len(pattern):
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"unmatched close parenthesis in {pattern!r}")
        return cls(text, reader.reaches_past_end, reader.groups, reader.names)

    def checked_group(self, group: int) -> int:
        """*group*, if the pattern has it.

        Raises:
            QueryError: it has not.
        """
        if not 0 <= group <= len(self._groups):
            count = len(self._groups)
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Pattern has {count} groups. Cannot access group {group}")
        return group

    def may_be_absent(self, group: int) -> bool:
        """Whether a match may leave *group* out, in which case it never matches an empty text.

        Raises:
            UntranslatableError: it may be left out and may be empty, which DuckDB does not tell apart.
        """
        if group == 0 or not self._groups[group - 1].optional:
            return False
        if self._groups[group - 1].may_be_empty:
            raise UntranslatableError(f"a regular expression whose group {group} may be left out or empty")
        return True

    def replacement(self, text: str) -> str:
        r"""A replacement of Java's, `$1` and `${name}`, as RE2's, `\1`.

        Raises:
            QueryError: it names a group that the pattern does not have.
        """

        def one(match: re.Match[str]) -> str:
            if match[1] is not None:
                return "\\\\" if match[1] == "\\" else match[1]
            if match[2] is None:
                raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Illegal replacement sequence: {text}")
            if match[2].startswith("{"):
                name = match[2][1:-1]
                if name not in self._names:
                    raise QueryError(
                        "INVALID_FUNCTION_ARGUMENT", f"Illegal replacement sequence: unknown group {{ {name} }}"
                    )
                return f"\\{self._names[name]}"
            digits = match[2]
            # Java takes as many digits as still name a group.
            used = next((n for n in range(len(digits), 0, -1) if int(digits[:n]) <= len(self._groups)), 0)
            if used == 0 or int(digits[:used]) > 9:
                raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Illegal replacement sequence: unknown group {digits}")
            return f"\\{digits[:used]}{digits[used:]}"

        return _REPLACEMENT.sub(one, text)


class _Reader:
    """A recursive descent over the pattern; each method returns RE2's text and whether it can match nothing."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.place = 0
        self.groups: list[_Group] = []
        self.names: dict[str, int] = {}
        self.reaches_past_end = False

    def alternatives(self, depth: int) -> tuple[str, bool]:
        first_group = len(self.groups)
        texts, empties = [], []
        while True:
            text, empty = self._sequence(depth)
            texts.append(text)
            empties.append(empty)
            if not self._take("|"):
                break
        if len(texts) > 1:
            for group in self.groups[first_group:]:
                group.optional = True
        return "|".join(texts), any(empties)

    def _sequence(self, depth: int) -> tuple[str, bool]:
        text, empty = "", True
        while self.place < len(self.pattern) and self.pattern[self.place] not in "|)":
            first_group = len(self.groups)
            atom, atom_empty = self._atom(depth)
            quantifier, least = self._quantifier()
            if least == 0:
                for group in self.groups[first_group:]:
                    group.optional = True
            text += atom + quantifier
            empty = empty and (atom_empty or least == 0)
        return text, empty

    def _quantifier(self) -> tuple[str, int]:
        match = _QUANTIFIER.match(self.pattern, self.place)
        if match is None:
            return "", 1
        self.place = match.end()
        text, least = match[0], 1 if match[0] == "+" else int(match[1] or 0)
        if self._take("+"):
            raise UntranslatableError("a possessive quantifier in a regular expression")
        return text + ("?" if self._take("?") else ""), least

    def _take(self, character: str) -> bool:
        if self.pattern.startswith(character, self.place):
            self.place += 1
            return True
        return False

    def _atom(self, depth: int) -> tuple[str, bool]:
        character = self.pattern[self.place]
        if character == "(":
            return self._group(depth)
        if character == "[":
            return self._class(), False
        if character == "\\":
            return self._escape(in_class=False)
        self.place += 1
        # A final line break may follow what Java's `$` matches.
        if character == "$":
            return ("$", True) if self._multiline() else self._end()
        return character, character == "^"

    def _end(self) -> tuple[str, bool]:
        self.reaches_past_end = True
        return r"(?:\n?\z)", True

    def _multiline(self) -> bool:
        return re.match(r"\(\?[a-z]*m", self.pattern) is not None

    def _group(self, depth: int) -> tuple[str, bool]:
        opening, number = "(", None
        match = _GROUP_START.match(self.pattern, self.place)
        if match is None:
            if self.pattern.startswith("(?", self.place):
                raise UntranslatableError(f"{self.pattern[self.place : self.place + 3]!r} in a regular expression")
            self.place += 1
            number = self._new_group()
        else:
            self.place = match.end()
            if match[1]:
                number = self._new_group()
                self.names[match[1]] = number
            elif match[2] == ":":
                opening = "(?:"
            elif match[2]:
                kind = {
                    "=": "lookahead",
                    "!": "lookahead",
                    "<=": "lookbehind",
                    "<!": "lookbehind",
                    ">": "an atomic group",
                }
                raise UntranslatableError(f"{kind[match[2]]} in a regular expression")
            elif "x" in match[3]:
                raise UntranslatableError("the flag x in a regular expression")
            else:
                opening = f"(?{match[3]}{match[4]}"
                if match[4] == ")":
                    return opening, True
        inner, empty = self.alternatives(depth + 1)
        if not self._take(")"):
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"unclosed group in {self.pattern!r}")
        if number is not None:
            self.groups[number - 1].may_be_empty = empty
        return f"{opening}{inner})", empty

    def _new_group(self) -> int:
        self.groups.append(_Group())
        return len(self.groups)

    def _class(self) -> str:
        start = self.place
        self.place += 1
        text = "[" + ("^" if self._take("^") else "")
        first = True
        while True:
            if self.place >= len(self.pattern):
                raise QueryError("INVALID_FUNCTION_ARGUMENT", f"unclosed character class near {self.pattern[start:]!r}")
            character = self.pattern[self.place]
            if character == "]" and not first:
                self.place += 1
                return text + "]"
            if character == "[":
                raise UntranslatableError("a character class inside another in a regular expression")
            if self.pattern.startswith("&&", self.place):
                raise UntranslatableError("an intersection of character classes in a regular expression")
            if character == "\\":
                text += self._escape(in_class=True)[0]
            else:
                text += "\\]" if character == "]" else character
                self.place += 1
            first = False

    def _escape(self, *, in_class: bool) -> tuple[str, bool]:
        rest = self.pattern[self.place + 1 :]
        if not rest:
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"end of pattern after a backslash in {self.pattern!r}")
        letter = rest[0]
        if letter == "u" and re.match(r"u[0-9A-Fa-f]{4}", rest):
            self.place += 6
            return rf"\x{{{rest[1:5]}}}", False
        if letter in "pP" or letter == "x":
            match = re.match(r"[pP](?:[A-Z]|\{[A-Za-z_]+\})|x(?:[0-9A-Fa-f]{2}|\{[0-9A-Fa-f]+\})", rest)
            if match is None:
                raise QueryError("INVALID_FUNCTION_ARGUMENT", f"invalid escape \\{rest[:3]} in {self.pattern!r}")
            self.place += 1 + match.end()
            return "\\" + match[0], False
        self.place += 2
        if letter.isdigit() and letter != "0":
            raise UntranslatableError("a back-reference in a regular expression")
        if letter == "Q":
            end = self.pattern.find(r"\E", self.place)
            literal = self.pattern[self.place : end if end >= 0 else None]
            self.place = end + 2 if end >= 0 else len(self.pattern)
            return f"(?:{re.escape(literal)})", not literal
        if letter == "Z" and not in_class:
            return self._end()
        other = (_OTHER_IN_CLASS if in_class else _OTHER_ESCAPES).get(letter)
        if other is not None:
            return other, False
        if letter.isalpha() and letter not in _SAME_ESCAPES:
            raise UntranslatableError(f"\\{letter} in a regular expression")
        return "\\" + letter, letter in "bBAz"
