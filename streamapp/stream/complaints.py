"""What is wrong with a message, in our words: where, what was found, what was expected, and nothing else of it."""

import re

import msgspec
from msgspec import Raw, Struct

from streamapp.core.events import NO_FEATURES
from streamapp.errors import DecodeError

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
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading a message may raise."""


def size(value: bytes | None) -> DecodeError:
    """Return what is wrong with a message that must not even be read: none, or too long."""
    if value:
        return DecodeError(f"expected at most {MAX_BYTES} bytes, got {len(value)}", reason="too_large")
    return DecodeError("expected a JSON object, got no bytes", reason="empty")


def explain(error: Exception, value: bytes | None) -> DecodeError:
    """Return an error that says where, what was found and what was expected, and nothing else of the message."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        reason, explanation, at, field = _KNOWN.get(text) or _translate(text)
        if field and value and (found := _found(value, field)):
            explanation = f"{explanation}, got {found}"
        return DecodeError(explanation + at, reason=reason)
    if not value or len(value) > MAX_BYTES:
        return size(value)
    if isinstance(error, UnicodeDecodeError):
        return DecodeError(f"expected UTF-8, got {error.reason}", reason="bad_encoding")
    if isinstance(error, RecursionError):
        return DecodeError("expected a flat object, got one nested too deep", reason="too_deep")
    return _malformed(str(error), value)


_KNOWN: dict[str, tuple[str, str, str, str]] = {}
"""What :func:`_translate` found for messages of msgspec that do not depend on the event: few, and slow to work out."""
_KNOWN_SIZE = 256


def _translate(text: str) -> tuple[str, str, str, str]:
    """Return the reason for a message of msgspec, the message in our words, where, and the field whose number helps."""
    place = text.rfind(" - at `")
    at = text[place:] if place >= 0 else ""
    if text.startswith("Invalid enum value"):
        # Holds the value itself.
        return "unknown_value", "expected one of the words that the field allows", at, ""
    text_before = text[:place] if place >= 0 else text
    if text.startswith("Object missing required field"):
        reason, explanation = "missing_field", "o" + text_before[1:]
    elif text.startswith("Expected `datetime` with a timezone"):
        reason, explanation = "no_time_zone", "expected a time with a zone, got one without: add Z"
    elif text.startswith("Invalid RFC3339"):
        reason, explanation = "bad_time", "expected seconds or an RFC 3339 time, got another string"
    elif text.startswith("Number out of range"):
        reason, explanation = "not_finite", "expected a finite `float`"
    elif at == " - at `$.ts`" and " < " in text:
        reason, explanation = "milliseconds", "expected seconds, not what looks like milliseconds"
    elif ", got `" in text:
        reason, explanation = "wrong_type", "e" + text_before[1:]
    else:
        empty = at == " - at `$.prediction_id`" and " of length >= " in text
        reason, explanation = "empty_id" if empty else "out_of_range", "e" + text_before[1:]
    field = at.removeprefix(" - at `$.").removesuffix("`")
    numeric = reason in ("out_of_range", "not_finite", "milliseconds") and field in _Numbers.__struct_fields__
    known = reason, explanation, at, field if numeric else ""
    if len(_KNOWN) < _KNOWN_SIZE:
        _KNOWN[text] = known
    return known


_PLACE = re.compile(r"\(byte (\d+)\)")
TYPES = {b"[": "array", b'"': "str", b"t": "bool", b"f": "bool", b"n": "null", b"{": "object"}


def _malformed(text: str, value: bytes) -> DecodeError:
    if "invalid character" in text and (place := _PLACE.search(text)):
        start = int(place.group(1))
        if value.startswith((b"NaN", b"Infinity"), start) or value.startswith(b"-Infinity", max(0, start - 1)):
            return DecodeError(f"expected a finite number, got NaN or Infinity (byte {start})", reason="not_finite")
    elif value.isspace():
        return DecodeError("expected a JSON object, got white space", reason="empty")
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return DecodeError(f"expected UTF-8, got {error.reason} (byte {error.start})", reason="bad_encoding")
    return DecodeError(f"expected a JSON object: {text}", reason="malformed")


class _Numbers(Struct, gc=False):
    """The fields of an event that are numbers within bounds, as they came."""

    ts: Raw = NO_FEATURES
    scores: Raw = NO_FEATURES
    latency: Raw = NO_FEATURES
    propensity: Raw = NO_FEATURES
    loss: Raw = NO_FEATURES
    prediction: Raw = NO_FEATURES
    outcome: Raw = NO_FEATURES
    revision: Raw = NO_FEATURES


_numbers = msgspec.json.Decoder(_Numbers).decode
_DIGITS = b"-0123456789"


def _found(value: bytes, field: str) -> str:
    """Return the number that a field holds, shortened; empty where it holds something else."""
    try:
        raw = bytes(getattr(_numbers(value), field))
    except UNREADABLE:  # behind what msgspec complained of
        return ""
    return raw[:40].decode() if raw and raw[0] in _DIGITS else ""
