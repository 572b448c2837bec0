"""Bytes → accepted columns and rejected actions. The only place that parses JSON from clients; does no I/O.

A submission is `{"userId", "sessionId"?, "actions": [{"time", "type", "properties"?}]}`. Its envelope must be right,
otherwise nothing is kept (`InvalidSubmission`, `SubmissionTooLarge`). Its actions are judged one by one: those that
are wrong come back as `Rejection`, with a code and a reason, and the others are kept. Fields that are not named here
are ignored, and of a name given twice the last counts.

The common case, in which everything is right, is decoded in one pass and checked column by column. Whatever is
unusual is decoded once more action by action, by the same parser, to say what is wrong with which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from storage.columns import encode_columns
from storage.errors import InvalidInput
from storage.nesting import exceeds_depth
from storage.promotion import Promotion
from storage.schema import ActionSchema
from storage.surrogates import mark_lone_surrogates
from storage.times import parse_time, parse_times

REJECTION_CODES: Final = (
    "unknown_type",
    "bad_time",
    "time_out_of_range",
    "bad_properties",
    "too_large",
    "bad_action",
    "bad_envelope",
)

_NO_PROPERTIES: Final = msgspec.Raw(b"{}")
# A body has four levels of its own: the envelope, the list of actions, an action, its properties.
_LEVELS_BEFORE_NESTING: Final = 4
LEVELS_OF_PROPERTIES: Final = _LEVELS_BEFORE_NESTING - 1


class InvalidSubmission(InvalidInput):
    """The body is no submission; nothing of it is kept.

    Attributes:
        parameter: the field at fault (`userId`, `actions[3].time`), or None where it is the body as a whole.
    """

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class SubmissionTooLarge(InvalidSubmission):
    """The body exceeds a limit that holds for it as a whole; nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class SubmissionLimits:
    """What one submission may hold.

    Attributes:
        body_bytes_max: bytes of a body after decompression.
        actions_max: actions of a submission.
        properties_bytes_max: bytes of an action's properties text.
        id_bytes_max: bytes of userId and of sessionId in UTF-8.
        depth_max: levels of nesting in a body; the envelope is the first.
        time_ahead_us_max: how far ahead of the clock an action's time may lie.
        rejections_max: wrong actions and lines of one body. Each is kept as a dead letter and told, so that a body of
            nothing else, which needs three bytes for one, would take a thousand times its size, and everybody's time.
    """

    body_bytes_max: int = 10_000_000
    actions_max: int = 10_000
    properties_bytes_max: int = 65_536
    id_bytes_max: int = 256
    depth_max: int = 64
    time_ahead_us_max: int = 86_400_000_000
    rejections_max: int = 100_000


@dataclass(frozen=True, slots=True)
class Rejection:
    """One action, or one line, that is not kept.

    Attributes:
        index: the action's place in its submission, from 0; None where a whole line is rejected.
        line: the line of an NDJSON body, from 1; None for a JSON body.
        code: one of `REJECTION_CODES`.
        message: what is wrong, for a person.
        original: the JSON text as it was sent, for the dead letters.
        user_id, session_id: of its submission; None where the line is no submission.
    """

    index: int | None
    line: int | None
    code: str
    message: str
    original: bytes
    user_id: str | None
    session_id: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """The accepted actions of one submission, at least one, ready for the journal."""

    user_id: str
    session_id: str | None
    actions: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """What one request asks to keep: its submissions, and what of it is rejected."""

    submissions: tuple[Submission, ...]
    rejections: tuple[Rejection, ...]

    @property
    def accepted(self) -> int:
        """How many actions are accepted."""
        return sum(submission.actions for submission in self.submissions)


class Action(msgspec.Struct, gc=False):
    """An action as it is sent, its properties as they are written."""

    time: str
    type: str
    properties: msgspec.Raw = _NO_PROPERTIES


class Envelope(msgspec.Struct, gc=False):
    """A submission as it is sent."""

    userId: str
    actions: list[Action]
    sessionId: str | None = None


class _LooseEnvelope(msgspec.Struct, gc=False):
    userId: str
    actions: list[msgspec.Raw]
    sessionId: str | None = None


_decode_envelope: Final = msgspec.json.Decoder(Envelope).decode
_decode_loose_envelope: Final = msgspec.json.Decoder(_LooseEnvelope).decode
_decode_action_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


class Unusual(Exception):
    """The fast path met something that has to be looked at action by action."""


class _Columns(NamedTuple):
    """Actions of which every one is right, column by column.

    Attributes:
        raws: the properties of each, an object.
        properties: the same one after the other, each of the length that `lengths` says.
    """

    times_us: list[int]
    offsets: list[int]
    type_codes: list[int]
    lengths: list[int]
    properties: bytes
    raws: list[msgspec.Raw]


class _Rejected(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TypeCodes(dict[str, int]):
    """Type as it was sent, in whatever case → its index in the schema; unknown ones raise `Unusual`."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__({name: code for code, name in enumerate(names)})
        self._entries_max = len(names) * 64

    def __missing__(self, sent: str) -> int:
        # str.lower() maps a few letters beyond ASCII, such as the Kelvin sign, into it.
        code = self.get(sent.lower()) if sent.isascii() else None
        if code is None:
            raise Unusual
        if len(self) < self._entries_max:
            self[sent] = code
        return code


class SubmissionParser:
    """Parses bodies against one schema and one set of limits."""

    def __init__(self, schema: ActionSchema, limits: SubmissionLimits) -> None:
        self.schema = schema
        self.limits = limits
        self.type_names = tuple(schema.action_types)
        self.type_codes = TypeCodes(self.type_names)
        self.promotion = Promotion(schema)

    @property
    def levels_spare(self) -> int:
        """How many levels a body may have below its properties, which are a level of their own."""
        return self.limits.depth_max - _LEVELS_BEFORE_NESTING

    @property
    def body_bytes_max(self) -> int:
        """The largest body, after decompression."""
        return self.limits.body_bytes_max

    def parse_json(self, body: bytes, *, now_us: int) -> ParsedBody:
        """Parse one submission.

        Raises:
            SubmissionTooLarge: the body, its number of actions or an id exceeds its limit.
            InvalidSubmission: not strict UTF-8, not JSON, nested too deep, or the envelope is not right.
        """
        if len(body) > self.limits.body_bytes_max:
            raise SubmissionTooLarge(f"the body is larger than {self.limits.body_bytes_max} bytes")
        submission, rejections = self._parse_one(body, now_us=now_us, line=None)
        return ParsedBody((submission,) if submission else (), tuple(rejections))

    def parse_ndjson(self, body: bytes, *, now_us: int) -> ParsedBody:
        """Parse one submission a line; empty lines are passed over, and a wrong line does not touch the others.

        Raises:
            SubmissionTooLarge: the body as a whole exceeds its limit.
            InvalidSubmission: there is no line in it, or more in it is wrong than may be.
        """
        if len(body) > self.limits.body_bytes_max:
            raise SubmissionTooLarge(f"the body is larger than {self.limits.body_bytes_max} bytes")
        submissions: list[Submission] = []
        rejections: list[Rejection] = []
        lines = 0
        for number, line in enumerate(body.split(b"\n"), start=1):
            text = line.strip(b" \t\r")
            if not text:
                continue
            lines += 1
            try:
                submission, rejected = self._parse_one(text, now_us=now_us, line=number)
            except InvalidSubmission as error:
                code = "too_large" if isinstance(error, SubmissionTooLarge) else "bad_envelope"
                message = f"{error.parameter}: {error}" if error.parameter else str(error)
                submission, rejected = None, (Rejection(None, number, code, message, text, None, None),)
            if submission:
                submissions.append(submission)
            rejections.extend(rejected)
            if len(rejections) > self.limits.rejections_max:
                raise InvalidSubmission(
                    f"more than {self.limits.rejections_max} of its actions and lines are wrong, the first in line"
                    f" {rejections[0].line}: {rejections[0].message}"
                )
        if not lines:
            raise InvalidSubmission("the body holds no submission")
        return ParsedBody(tuple(submissions), tuple(rejections))

    def _parse_one(
        self, body: bytes, *, now_us: int, line: int | None
    ) -> tuple[Submission | None, Sequence[Rejection]]:
        if not body.isascii():
            try:
                body.decode("utf-8", "strict")
            except UnicodeDecodeError as error:
                raise InvalidSubmission(f"the body is not UTF-8: byte {error.start} is wrong") from error
        try:
            envelope = _decode_envelope(body)
            return self._columns_at_once(envelope, body, now_us), ()
        except (Unusual, msgspec.DecodeError):
            return self._action_by_action(body, now_us=now_us, line=line, marker=None)
        except RecursionError as error:
            raise self._too_deep(None) from error

    def usual_envelope(self, body: bytes) -> Envelope | None:
        """Decode a body of which nothing is unusual as a whole; None for any other, which `parse_json` judges.

        How deep it is nested is to be checked by `check_depth`.
        """
        try:
            if len(body) > self.limits.body_bytes_max or not (body.isascii() or body.decode("utf-8", "strict")):
                return None
            envelope = _decode_envelope(body)
            self._check_envelope(envelope.userId, envelope.sessionId, len(envelope.actions))
        except (UnicodeDecodeError, InvalidSubmission, msgspec.DecodeError, RecursionError):
            return None
        return envelope

    def _columns_at_once(self, envelope: Envelope, body: bytes, now_us: int) -> Submission:
        """Check and encode all actions, column by column; raises `Unusual` if any of them is not right."""
        self._check_envelope(envelope.userId, envelope.sessionId, len(envelope.actions))
        if not envelope.actions:
            raise Unusual
        self.check_depth(body, [action.properties for action in envelope.actions])
        return self._encode(envelope, self._columns(envelope.actions, now_us))

    def _columns(self, actions: Sequence[Action], now_us: int) -> _Columns:
        """Check actions column by column; raises `Unusual` if any of them is not right."""
        limits = self.limits
        raws = [action.properties for action in actions]
        lengths = [len(raw) for raw in raws]
        if not actions or max(lengths) > limits.properties_bytes_max:
            raise Unusual
        properties = b"".join(raws)
        type_codes = [self.type_codes[action.type] for action in actions]
        try:
            times_us, offsets = parse_times([action.time for action in actions])
        except ValueError as error:
            raise Unusual from error
        if min(times_us) < 0 or max(times_us) > now_us + limits.time_ahead_us_max:
            raise Unusual
        start = 0
        for length in lengths:
            if properties[start] != 0x7B:
                raise Unusual
            start += length
        return _Columns(times_us, offsets, type_codes, lengths, properties, raws)

    def _encode(self, envelope: Envelope | _LooseEnvelope, columns: _Columns) -> Submission:
        payload = encode_columns(
            times_us=columns.times_us,
            utc_offsets_minutes=columns.offsets,
            type_names=self.type_names,
            type_codes=columns.type_codes,
            properties_lengths=columns.lengths,
            properties=columns.properties,
            promoted=self.promotion.columns(columns.type_codes, columns.raws),
        )
        return Submission(envelope.userId, envelope.sessionId, len(columns.times_us), payload)

    def _action_by_action(
        self, body: bytes, *, now_us: int, line: int | None, marker: re.Pattern[bytes] | None
    ) -> tuple[Submission | None, list[Rejection]]:
        try:
            envelope = _decode_loose_envelope(body)
        except msgspec.ValidationError as error:
            raise _envelope_error(error) from error
        except msgspec.DecodeError as error:
            # The parser gives up on a lone surrogate escape, which is JSON by its grammar, though no text.
            marked, found = mark_lone_surrogates(body) if marker is None else (body, None)
            if found is None:
                raise InvalidSubmission(f"the body is not JSON: {error}") from error
            return self._action_by_action(marked, now_us=now_us, line=line, marker=found)
        except RecursionError as error:
            raise self._too_deep(None) from error
        if marker is not None:
            for name, text in (("userId", envelope.userId), ("sessionId", envelope.sessionId)):
                if text is not None and marker.search(text.encode()):
                    raise InvalidSubmission("holds a lone surrogate, which is no text", parameter=name)
        self._check_envelope(envelope.userId, envelope.sessionId, len(envelope.actions))
        self.check_depth(body, envelope.actions, levels_before=_LEVELS_BEFORE_NESTING - 2)
        kept: list[tuple[int, int, int, bytes]] = []
        rejections: list[Rejection] = []
        for index, raw in enumerate(envelope.actions):
            try:
                kept.append(self._judge(raw, now_us, marker))
            except _Rejected as rejected:
                original = bytes(raw) if marker is None else marker.sub(rb"\\\1", bytes(raw))
                rejections.append(
                    Rejection(index, line, rejected.code, str(rejected), original, envelope.userId, envelope.sessionId)
                )
        if not kept:
            return None, rejections
        times_us, offsets, type_codes, texts = (list(column) for column in zip(*kept, strict=True))
        raws = [msgspec.Raw(text) for text in texts]
        lengths = [len(text) for text in texts]
        columns = _Columns(times_us, offsets, type_codes, lengths, b"".join(texts), raws)
        return self._encode(envelope, columns), rejections

    def _judge(self, raw: msgspec.Raw, now_us: int, marker: re.Pattern[bytes] | None) -> tuple[int, int, int, bytes]:
        """Return time, offset, type code and properties text of one action, or raise `_Rejected`."""
        try:
            fields = _decode_action_fields(raw)
        except msgspec.ValidationError as error:
            raise _Rejected("bad_action", "an action is an object with time and type") from error
        properties = bytes(fields.get("properties", _NO_PROPERTIES))
        if properties == b"null":
            properties = bytes(_NO_PROPERTIES)
        if marker is not None and marker.search(raw):
            code = "bad_properties" if marker.search(properties) else "bad_action"
            raise _Rejected(code, "holds a lone surrogate, which is no text")
        if not properties.startswith(b"{"):
            raise _Rejected("bad_properties", "properties is not an object")
        if len(properties) > self.limits.properties_bytes_max:
            limit = self.limits.properties_bytes_max
            raise _Rejected("too_large", f"properties has {len(properties)} bytes; {limit} are allowed")
        type_code = self._judge_type(_text_field(fields, "type"))
        time_us, offset = self._judge_time(_text_field(fields, "time"), now_us)
        return time_us, offset, type_code, properties

    def _judge_type(self, sent: str) -> int:
        try:
            return self.type_codes[sent]
        except Unusual:
            known = ", ".join(self.type_names)
            shown = sent if len(sent) <= 64 else sent[:64] + "…"
            raise _Rejected("unknown_type", f"{shown!r} is not one of {known}") from None

    def _judge_time(self, sent: str, now_us: int) -> tuple[int, int]:
        try:
            time_us, offset = parse_time(sent)
        except ValueError as error:
            raise _Rejected("bad_time", str(error)) from error
        if time_us < 0:
            raise _Rejected("time_out_of_range", "times before 1970-01-01T00:00:00Z are not kept")
        if time_us > now_us + self.limits.time_ahead_us_max:
            hours = self.limits.time_ahead_us_max // 3_600_000_000
            raise _Rejected("time_out_of_range", f"the time is more than {hours} hours ahead of the server's clock")
        return time_us, offset

    def _check_envelope(self, user_id: str, session_id: str | None, actions: int) -> None:
        limits = self.limits
        if not user_id:
            raise InvalidSubmission("must not be empty", parameter="userId")
        for name, value in (("userId", user_id), ("sessionId", session_id)):
            if value is not None and len(value) * 4 > limits.id_bytes_max:
                size = len(value.encode())
                if size > limits.id_bytes_max:
                    message = f"has {size} bytes; {limits.id_bytes_max} are allowed"
                    raise SubmissionTooLarge(message, parameter=name)
        if actions > limits.actions_max:
            message = f"has {actions} actions; {limits.actions_max} are allowed"
            raise SubmissionTooLarge(message, parameter="actions")

    def check_depth(
        self, body: bytes, raws: Sequence[msgspec.Raw], *, levels_before: int = LEVELS_OF_PROPERTIES
    ) -> None:
        """Refuse a body nested deeper than allowed; *raws* are parts of it that begin below *levels_before* levels.

        Counting brackets bounds the depth from above, so that only what could be too deep is walked through. That
        *raws* are the properties of as many actions is what lets two brackets be expected for each.

        Raises:
            InvalidSubmission: it is nested too deep.
        """
        spare = self.levels_spare
        brackets = body.count(b"{") + body.count(b"[")
        expected = 2
        if levels_before == LEVELS_OF_PROPERTIES:
            expected += 2 * len(raws) - raws.count(_NO_PROPERTIES)
        if brackets <= expected + spare:
            return
        for index, raw in enumerate(raws):
            text = bytes(raw)
            inside = text.count(b"{") + text.count(b"[")
            brackets -= inside
            if inside > spare and exceeds_depth(text, self.limits.depth_max - levels_before):
                raise self._too_deep(index)
        if brackets > spare and exceeds_depth(body, self.limits.depth_max):
            raise self._too_deep(None)

    def _too_deep(self, index: int | None) -> InvalidSubmission:
        parameter = None if index is None else f"actions[{index}]"
        return InvalidSubmission(f"nested deeper than {self.limits.depth_max} levels", parameter=parameter)


def _text_field(fields: dict[str, msgspec.Raw], name: str) -> str:
    raw: Any = fields.get(name)
    if raw is None:
        raise _Rejected("bad_action" if name == "type" else "bad_time", f"{name} is missing")
    try:
        return _decode_text(raw)
    except msgspec.ValidationError as error:
        raise _Rejected("bad_action" if name == "type" else "bad_time", f"{name} is not a string") from error


def _envelope_error(error: msgspec.ValidationError) -> InvalidSubmission:
    """Name the field that msgspec's message names: ``... - at `$.userId` `` or ``missing required field `userId` ``."""
    text = str(error)
    found = re.search(r"required field `(\w+)`", text) or re.search(r"at `\$\.([\w.\[\]]+)`", text)
    if found:
        return InvalidSubmission(text.split(" - at ", maxsplit=1)[0], parameter=found.group(1))
    return InvalidSubmission(f"the body is not a submission: {text.split(' - at ', maxsplit=1)[0]}")
