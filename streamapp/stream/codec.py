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
MAX_CLASS_NAME = 256
"""Characters of a class's name: every message of ``scored`` names the classes of all its rows."""
SUM_TOLERANCE = 1e-6
_TIME_END = 1e11

T = TypeVar("T", bound=Struct)

_prediction = msgspec.json.Decoder(Prediction).decode
_outcome = msgspec.json.Decoder(Outcome).decode
_encode = msgspec.json.Encoder().encode
_OBJECT = ord("{")
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_predictions(values: Sequence[bytes | None]) -> list[Prediction | DecodeError]:
    """Return a prediction for each value, or the error that says why there is none; ``ts`` in seconds."""
    events: list[Prediction | DecodeError] = []
    rest = iter(values)
    value: bytes | None = None
    while True:
        # The loop goes on behind a bad value: setting up a try for each good one would cost more. The one for outcomes
        # is its twin on purpose: a loop for both would call a function for each message.
        try:
            for value in rest:
                if not value or len(value) > MAX_BYTES:
                    events.append(_size(value))
                    continue
                event = _prediction(value)
                problem = None
                if not value.isascii():
                    value.decode()
                if event.ts.__class__ is not float:
                    problem = _set_seconds(event)
                if event.features and memoryview(event.features)[0] != _OBJECT:
                    problem = problem or _set_no_features(event)
                if event.scores.__class__ is dict:
                    problem = problem or _bad_scores(event.scores)
                elif event.scores is None and event.prediction is None:
                    problem = problem or _missing("`prediction` or `scores`")
                events.append(problem or event)
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
                    events.append(_size(value))
                    continue
                event = _outcome(value)
                problem = None
                if not value.isascii():
                    value.decode()
                if event.ts.__class__ is not float:
                    problem = _set_seconds(event)
                if event.outcome is None and event.loss is None and event.status is None:
                    problem = problem or _missing("`outcome`, `loss` or `status`")
                events.append(problem or event)
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
    except _ERRORS as error:
        raise _explain(error, data) from None


# What is wrong


def _size(value: bytes | None) -> DecodeError:
    if value:
        return DecodeError(f"expected at most {MAX_BYTES} bytes, got {len(value)}", reason="too_large")
    return DecodeError("expected a JSON object, got no bytes", reason="empty")


def _missing(names: str) -> DecodeError:
    return DecodeError(f"expected {names}, got none of them", reason="missing_field")


def _set_seconds(event: Prediction | Outcome) -> DecodeError | None:
    """Make the ts of a fresh event a number; msgspec has seen to the zone."""
    ts = event.ts
    seconds = ts.timestamp() if isinstance(ts, datetime) else float(ts)
    if 0.0 <= seconds < _TIME_END:
        force_setattr(event, "ts", seconds)
        return None
    return DecodeError("expected a time from 1970 on, got an earlier one - at `$.ts`", reason="out_of_range")


def _set_no_features(event: Prediction) -> DecodeError | None:
    """Make features that are null as if they had been left out."""
    features = bytes(event.features)
    if features == b"null":
        force_setattr(event, "features", NO_FEATURES)
        return None
    found = _TYPES.get(features[:1], "number")
    return DecodeError(f"expected `object`, got `{found}` - at `$.features`", reason="wrong_type")


def _bad_scores(scores: Any) -> DecodeError | None:
    if len(scores) > MAX_CLASSES:
        text = f"expected at most {MAX_CLASSES} classes, got {len(scores)} - at `$.scores`"
        return DecodeError(text, reason="too_many_classes")
    if scores and max(map(len, scores)) > MAX_CLASS_NAME:
        text = f"expected names of at most {MAX_CLASS_NAME} characters, got a longer one - at `$.scores`"
        return DecodeError(text, reason="out_of_range")
    total = sum(scores.values())
    if abs(total - 1.0) <= SUM_TOLERANCE:
        return None
    return DecodeError(f"expected probabilities that sum to 1 ± 1e-06, got {total!r} - at `$.scores`", reason="bad_sum")


def _explain(error: Exception, value: bytes | None) -> DecodeError:
    """Return an error that says where, what was found and what was expected, and nothing else of the message."""
    value = value or b""
    if isinstance(error, UnicodeDecodeError):
        return DecodeError(f"expected UTF-8, got {error.reason}", reason="bad_encoding")
    if isinstance(error, RecursionError):
        return DecodeError("expected a flat object, got one nested too deep", reason="too_deep")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return _malformed(text, value)
    reason, explanation = _KNOWN.get(text) or _translate(text)
    if reason in ("out_of_range", "not_finite", "milliseconds"):
        path = text[text.rfind("`", 0, -1) + 1 : -1]
        found = _found(value, path)
        if found:
            explanation = f"{explanation.removesuffix(f' - at `{path}`')}, got {found} - at `{path}`"
    return DecodeError(explanation, reason=reason)


_KNOWN: dict[str, tuple[str, str]] = {}
"""Reasons and explanations of msgspec's messages that do not depend on the event: few, and slow to work out."""
_KNOWN_SIZE = 256


def _translate(text: str) -> tuple[str, str]:
    """Return the reason for a message of msgspec, and the message in our words."""
    place = text.rfind(" - at `")
    at = text[place:] if place >= 0 else ""
    if text.startswith("Invalid enum value"):
        # Holds the value itself.
        return "unknown_value", f"expected one of the words that the field allows{at}"
    if text.startswith("Object missing required field"):
        reason, explanation = "missing_field", "o" + text[1:]
    elif text.startswith("Expected `datetime` with a timezone"):
        reason, explanation = "no_time_zone", f"expected a time with a zone, got one without: add Z{at}"
    elif text.startswith("Invalid RFC3339"):
        reason, explanation = "bad_time", f"expected seconds or an RFC 3339 time, got another string{at}"
    elif text.startswith("Number out of range"):
        reason, explanation = "not_finite", f"expected a finite `float`{at}"
    elif at == " - at `$.ts`" and " < " in text:
        reason, explanation = "milliseconds", f"expected seconds, not what looks like milliseconds{at}"
    elif ", got `" in text:
        reason, explanation = "wrong_type", "e" + text[1:]
    else:
        empty = at == " - at `$.prediction_id`" and " of length >= " in text
        reason, explanation = "empty_id" if empty else "out_of_range", "e" + text[1:]
    if len(_KNOWN) < _KNOWN_SIZE:
        _KNOWN[text] = reason, explanation
    return reason, explanation


_PLACE = re.compile(r"\(byte (\d+)\)")
_NUMBER = re.compile(rb"-?[0-9][-+.0-9eE]*")
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


class _Numbers(Struct, gc=False):
    """The fields of an event that are numbers within bounds, as they came."""

    ts: Raw = NO_FEATURES
    scores: Raw = NO_FEATURES
    latency: Raw = NO_FEATURES
    propensity: Raw = NO_FEATURES
    loss: Raw = NO_FEATURES
    prediction: Raw = NO_FEATURES
    outcome: Raw = NO_FEATURES


_numbers = msgspec.json.Decoder(_Numbers).decode


def _found(value: bytes, path: str) -> str:
    """Return the number at a path, shortened; empty where there is none, or none that we look for."""
    if path[2:] not in _Numbers.__struct_fields__:
        return ""
    try:
        raw = bytes(getattr(_numbers(value), path[2:]))
    except _ERRORS:
        return ""
    return raw[:40].decode() if _NUMBER.fullmatch(raw) else ""
