"""Bytes to events and back. One bad message never hides the others: its error takes its place."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from streamapp.core.events import NO_FEATURES, ModelUpdate, Outcome, Prediction, RetrainRequest, Signal
from streamapp.errors import DecodeError
from streamapp.stream.scored import decode_scored, encode_scored, split

__all__ = [
    "MAX_BYTES",
    "MAX_CLASSES",
    "REASONS",
    "decode_outcomes",
    "decode_predictions",
    "decode_retrain",
    "decode_scored",
    "decode_update",
    "encode_event",
    "encode_scored",
    "split",
]

REASONS = (
    "empty",  # no bytes at all, or a tombstone
    "malformed",  # not JSON
    "bad_encoding",  # not UTF-8
    "too_large",  # more than MAX_BYTES
    "too_deep",  # nested beyond what can be read
    "wrong_type",  # a value of another type than its field's
    "missing_field",  # a field, or one of several, that has to be there
    "empty_id",  # prediction_id is ""
    "out_of_range",  # a number or the length of a string
    "not_finite",  # NaN, Infinity, or beyond what a double holds
    "unknown_value",  # none of the words that the field allows
    "bad_time",  # neither seconds nor RFC 3339
    "milliseconds",  # a ts so large that it is not in seconds
    "no_time_zone",  # an RFC 3339 time without zone
    "bad_sum",  # scores over classes that do not sum to 1
    "too_many_classes",  # more than MAX_CLASSES
    "future",  # ts too far after the record's log time (the joiner's finding, like the next two)
    "before_prediction",  # an outcome from before its prediction
    "type_mismatch",  # an outcome of another type than its prediction
)
"""Why an event is rejected: all there is."""
MAX_BYTES = 1_000_000
"""Longest message; what follows from it must fit into a Kafka message of the default size."""
MAX_CLASSES = 1000
"""Most classes that ``scores`` may name."""
SUM_TOLERANCE = 1e-6
_TIME_END = 1e11

T = TypeVar("T", bound=Struct)

_prediction = msgspec.json.Decoder(Prediction).decode
_outcome = msgspec.json.Decoder(Outcome).decode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_OBJECT = ord("{")
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DecodeError)


def decode_predictions(values: Sequence[bytes | None]) -> list[Prediction | DecodeError]:
    """Return a prediction for each value, or the error that says why there is none; ``ts`` in seconds."""
    events: list[Prediction | DecodeError] = []
    rest = iter(values)
    value: bytes | None = None
    while True:
        # The loop goes on behind a bad value: setting up a try for each good one would cost more.
        try:
            for value in rest:
                if not value or len(value) > MAX_BYTES:
                    raise _size(value)
                event = _prediction(value)
                if not value.isascii():
                    value.decode()
                if event.ts.__class__ is not float:
                    force_setattr(event, "ts", _seconds(event.ts))
                if event.features and memoryview(event.features)[0] != _OBJECT:
                    force_setattr(event, "features", _no_features(event.features))
                scores = event.scores
                if scores.__class__ is dict:
                    _check_scores(scores)
                elif scores is None and event.prediction is None:
                    raise DecodeError("expected `prediction` or `scores`, got neither", reason="missing_field")
                events.append(event)
        except _ERRORS as error:
            events.append(_explain(error, value))
        else:
            return events


def decode_outcomes(values: Sequence[bytes | None]) -> list[Outcome | DecodeError]:
    """Return an outcome for each value, or the error that says why there is none; ``ts`` in seconds."""
    events: list[Outcome | DecodeError] = []
    rest = iter(values)
    value: bytes | None = None
    while True:
        try:
            for value in rest:
                if not value or len(value) > MAX_BYTES:
                    raise _size(value)
                event = _outcome(value)
                if not value.isascii():
                    value.decode()
                if event.ts.__class__ is not float:
                    force_setattr(event, "ts", _seconds(event.ts))
                if event.outcome is None and event.loss is None and event.status is None:
                    raise DecodeError("expected `outcome`, `loss` or `status`, got none", reason="missing_field")
                events.append(event)
        except _ERRORS as error:
            events.append(_explain(error, value))
        else:
            return events


def encode_event(event: Signal | RetrainRequest | ModelUpdate) -> bytes:
    """Return an event as JSON; numbers that are not finite become null."""
    return _encode(event)


def decode_retrain(data: bytes) -> RetrainRequest:
    """Return the retrain request in a message.

    Raises:
        DecodeError: There is none.
    """
    return _event(data, RetrainRequest)


def decode_update(data: bytes) -> ModelUpdate:
    """Return the model update in a message.

    Raises:
        DecodeError: There is none.
    """
    return _event(data, ModelUpdate)


def _event(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(error, data) from None


# What is wrong


def _size(value: bytes | None) -> DecodeError:
    if value:
        return DecodeError(f"expected at most {MAX_BYTES} bytes, got {len(value)}", reason="too_large")
    return DecodeError("expected a JSON object, got no bytes", reason="empty")


def _seconds(ts: Any) -> float:
    """Return a time in seconds; msgspec has seen to the zone."""
    seconds: float = ts.timestamp() if isinstance(ts, datetime) else float(ts)
    if not 0.0 <= seconds < _TIME_END:
        raise DecodeError(f"expected a time from 1970 on, got the year {ts.year} - at `$.ts`", reason="out_of_range")
    return seconds


def _no_features(features: Raw) -> Raw:
    if bytes(features) == b"null":
        return NO_FEATURES
    raise DecodeError(f"expected `object`, got `{_type(bytes(features))}` - at `$.features`", reason="wrong_type")


def _check_scores(scores: Any) -> None:
    if len(scores) > MAX_CLASSES:
        text = f"expected at most {MAX_CLASSES} classes, got {len(scores)} - at `$.scores`"
        raise DecodeError(text, reason="too_many_classes")
    total = sum(scores.values())
    if abs(total - 1.0) > SUM_TOLERANCE:
        text = f"expected probabilities that sum to 1 ± {SUM_TOLERANCE:g}, got {total:.9g} - at `$.scores`"
        raise DecodeError(text, reason="bad_sum")


def _explain(error: Exception, value: bytes | None) -> DecodeError:
    """Return an error that says where, what was found and what was expected, and nothing else of the message."""
    if isinstance(error, DecodeError):
        return error
    value = value or b""
    if isinstance(error, UnicodeDecodeError):
        return DecodeError(f"expected UTF-8, got {error.reason}", reason="bad_encoding")
    if isinstance(error, RecursionError):
        return DecodeError("expected a flat object, got one nested too deep", reason="too_deep")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return _malformed(text, value)
    at = _PATH.search(text)
    path = at.group(1) if at else "$"
    reason = next((reason for beginning, reason in _VALIDATION if text.startswith(beginning)), "")
    if not reason:
        reason = "wrong_type" if ", got `" in text else "out_of_range"
    text = text[0].lower() + text[1:]
    if reason == "no_time_zone":
        return DecodeError("expected a time with a zone, got one without: add Z - at `$.ts`", reason=reason)
    if reason == "bad_time":
        return DecodeError("expected seconds or an RFC 3339 time, got another string - at `$.ts`", reason=reason)
    if reason == "unknown_value":
        return DecodeError(f"expected one of the words that the field allows - at `{path}`", reason=reason)
    if reason == "out_of_range" and " of length " in text:
        empty = path == "$.prediction_id" and ">=" in text
        return DecodeError(text, reason="empty_id" if empty else reason)
    if reason in ("out_of_range", "not_finite"):
        found = _found(value, path)
        if path == "$.ts" and " < " in text:
            unit = "milliseconds" if len(found.split(".")[0]) < 15 else "microseconds or nanoseconds"
            return DecodeError(f"expected seconds, got {found}: looks like {unit} - at `$.ts`", reason="milliseconds")
        expected = "expected a finite `float`" if reason == "not_finite" else text.removesuffix(f" - at `{path}`")
        return DecodeError(f"{expected}{', got ' + found if found else ''} - at `{path}`", reason=reason)
    return DecodeError(text, reason=reason)


_PATH = re.compile(r" - at `([^`]*)`$")
_PLACE = re.compile(r"\(byte (\d+)\)")
_NUMBER = re.compile(rb"-?[0-9][-+.0-9eE]*")
_VALIDATION = (
    ("Object missing required field", "missing_field"),
    ("Expected `datetime` with a timezone", "no_time_zone"),
    ("Invalid RFC3339", "bad_time"),
    ("Invalid enum value", "unknown_value"),
    ("Number out of range", "not_finite"),
)
_TYPES = {b"[": "array", b'"': "str", b"t": "bool", b"f": "bool", b"n": "null", b"{": "object"}


def _malformed(text: str, value: bytes) -> DecodeError:
    place = _PLACE.search(text)
    if place:
        start = int(place.group(1))
        if value[start:].startswith((b"NaN", b"Infinity")) or value[start - 1 :].startswith(b"-Infinity"):
            return DecodeError(f"expected a finite number, got NaN or Infinity (byte {start})", reason="not_finite")
    if not value.strip():
        return DecodeError("expected a JSON object, got white space", reason="empty")
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return DecodeError(f"expected UTF-8, got {error.reason} (byte {error.start})", reason="bad_encoding")
    return DecodeError(f"expected a JSON object: {text}", reason="malformed")


def _found(value: bytes, path: str) -> str:
    """Return the number at a path of one step, shortened; empty where it is none."""
    if not path.startswith("$.") or not path[2:].isidentifier():
        return ""
    try:
        raw = bytes(_fields(value).get(path[2:], Raw()))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return raw[:40].decode() if _NUMBER.fullmatch(raw) else ""


def _type(raw: bytes) -> str:
    return _TYPES.get(raw[:1], "number")
