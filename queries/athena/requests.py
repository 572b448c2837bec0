"""The body of an operation, read with care: what is missing, of another type or out of bounds is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from queries.athena.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Request:
    """The JSON object of a request.

    Attributes:
        operation: the operation's name, for messages.
        payload: the object.
    """

    operation: str
    payload: Mapping[str, object]

    def only(self, *names: str) -> None:
        """Refuse members that the operation does not have.

        Raises:
            InvalidRequest: there is one.
        """
        unknown = sorted(set(self.payload) - set(names))
        if unknown:
            raise InvalidRequest(f"{self.operation} has no member {unknown[0]}")

    def text(self, name: str, *, characters_max: int = 262_144) -> str:
        """A string that must be there and must not be empty.

        Raises:
            InvalidRequest: it is not.
        """
        value = self.optional_text(name, characters_max=characters_max)
        if not value:
            raise InvalidRequest(f"{name} is required by {self.operation}")
        return value

    def optional_text(self, name: str, *, characters_max: int = 262_144) -> str | None:
        """A string that may be missing.

        Raises:
            InvalidRequest: it is something else, or too long.
        """
        value = self.payload.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise InvalidRequest(f"{name} must be a string")
        if len(value) > characters_max:
            raise InvalidRequest(f"{name} has {len(value)} characters; at most {characters_max} are allowed")
        return value

    def whole(self, name: str, *, least: int, most: int, default: int) -> int:
        """A whole number between two bounds, both included.

        Raises:
            InvalidRequest: it is none, or out of bounds.
        """
        value = self.payload.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidRequest(f"{name} must be a whole number between {least} and {most}")
        return value

    def texts(self, name: str, *, most: int) -> list[str]:
        """A list of strings, empty if it is missing.

        Raises:
            InvalidRequest: it is something else, or too long.
        """
        value = self.payload.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or len(value) > most:
            raise InvalidRequest(f"{name} must be a list of at most {most} strings")
        return value

    def part(self, name: str) -> Request:
        """An object inside this one, empty if it is missing.

        Raises:
            InvalidRequest: it is something else.
        """
        value = self.payload.get(name)
        if value is None:
            return Request(self.operation, {})
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"{name} must be an object")
        return Request(self.operation, value)
