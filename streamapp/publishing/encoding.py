"""Events as a service has them at hand, to the messages that the joiner will accept."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from streamapp.core.events import Outcome, Prediction
from streamapp.errors import DecodeError
from streamapp.stream.codec import MAX_BYTES, decode_outcomes, decode_predictions

Event = Prediction | Outcome | Mapping[str, Any]
"""A mapping with a ``model`` is a prediction, any other an outcome."""

T = TypeVar("T")

_EVENTS = (Prediction, Outcome)
_NUMBERS = ("prediction", "scores", "latency", "propensity", "outcome", "loss")
_BYTES = (bytes, bytearray, memoryview)
_OBJECT = ord("{")
_UNREADABLE = (msgspec.DecodeError, RecursionError)


def encode(event: Event) -> tuple[bool, bytes, bytes]:
    """Return whether an event is a prediction, its key, and its message.

    Raises:
        DecodeError: The joiner would reject it.
        Exception: It cannot be written as JSON, or is nothing like an event.
    """
    given: Mapping[str, Any] | None = None if isinstance(event, _EVENTS) else event
    value = _encode(event if given is None or given.__class__ is dict else dict(given))
    is_prediction = isinstance(event, Prediction) if given is None else "model" in given
    try:
        decoded = _prediction(value) if is_prediction else _outcome(value)
    except DecodeError as error:
        raise _explained(error, event) from None
    prediction_id = getattr(event, "prediction_id", None) if given is None else given["prediction_id"]
    if prediction_id.__class__ is not str and isinstance(prediction_id, _BYTES):
        # The encoder writes base64, which no outcome from elsewhere would have.
        raise DecodeError("expected `str`, got `bytes` - at `$.prediction_id`", reason="wrong_type")
    if b"null" in value:
        # JSON has no NaN and no infinity: the encoder writes null.
        for name in _NUMBERS:
            was = _field(event, name)
            if was is not None and getattr(decoded, name, was) is None:
                raise _not_finite(name)
    return is_prediction, decoded.prediction_id.encode(), value


def as_bytes(event: Any) -> bytes:
    """Return what of an event can be written, empty where nothing can."""
    try:
        return _encode(event)
    except Exception:
        return b""


def _prediction(value: bytes) -> Prediction:
    """Return the prediction in a message: quickly if it is of the usual kind, else as the joiner does.

    Raises:
        DecodeError: There is none.
    """
    try:
        event = _decode_prediction(value)
    except _UNREADABLE:
        pass  # the codec says what is wrong
    else:
        features = event.features
        is_usual = event.ts.__class__ is float and event.scores.__class__ is float
        if is_usual and _is_plain(value) and (not features or memoryview(features)[0] == _OBJECT):
            return event
    return _sound(decode_predictions((value,))[0])


def _outcome(value: bytes) -> Outcome:
    """Return the outcome in a message; as for predictions.

    Raises:
        DecodeError: There is none.
    """
    try:
        event = _decode_outcome(value)
    except _UNREADABLE:
        pass
    else:
        if event.ts.__class__ is float and event.outcome is not None and _is_plain(value):
            return event
    return _sound(decode_outcomes((value,))[0])


def _is_plain(value: bytes) -> bool:
    return len(value) <= MAX_BYTES and value.isascii()


def _sound(event: T | DecodeError) -> T:
    if isinstance(event, DecodeError):
        raise event
    return event


def _explained(error: DecodeError, event: Event) -> DecodeError:
    """Return an error in words that fit what the service gave, which is not what the joiner reads."""
    for name in ("ts", *_NUMBERS):
        was = _field(event, name)
        # A Decimal is written as it is: JSON that has such a number cannot be read.
        if isinstance(was, Decimal) and not was.is_finite():
            return _not_finite(name)
    return error


def _not_finite(name: str) -> DecodeError:
    return DecodeError(f"expected a finite number - at `$.{name}`", reason="not_finite")


def _field(event: Event, name: str) -> Any:
    return getattr(event, name, None) if isinstance(event, _EVENTS) else event.get(name)


def _plain(value: Any) -> Any:
    """Return numpy's scalars as Python's, for the encoder."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"an event cannot hold a {type(value).__name__}")
    return item()


_encode = msgspec.json.Encoder(enc_hook=_plain, decimal_format="number").encode
_decode_prediction = msgspec.json.Decoder(Prediction).decode
_decode_outcome = msgspec.json.Decoder(Outcome).decode
