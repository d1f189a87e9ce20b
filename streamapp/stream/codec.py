"""Bytes to events and back. One bad message never hides the others: its error takes its place."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar, cast

import msgspec
import numpy as np
from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from streamapp.core.events import NO_FEATURES, ModelUpdate, Outcome, Prediction, RetrainRequest, Signal
from streamapp.errors import DecodeError
from streamapp.stream.complaints import MAX_BYTES, REASONS, TYPES, UNREADABLE, explain
from streamapp.stream.scored import decode_scored, encode_scored, split

__all__ = [
    "MAX_BYTES",
    "MAX_CLASSES",
    "REASONS",
    "decode_outcome_lines",
    "decode_outcomes",
    "decode_prediction_lines",
    "decode_predictions",
    "decode_retrain",
    "decode_scored",
    "decode_update",
    "encode_event",
    "encode_scored",
    "split",
]

MAX_CLASSES = 1000
"""Most classes that ``scores`` may name."""
MAX_CLASS_NAME = 256
"""Characters of a class's name: every message of ``scored`` names the classes of all its rows."""
LONGEST_NAME = 1024
"""Characters of an id, a model or a group in a retrain request: they become names of files and headers."""
SUM_TOLERANCE = 1e-6
_TIME_END = 1e11

T = TypeVar("T", bound=Struct)

_prediction = msgspec.json.Decoder(Prediction).decode
_outcome = msgspec.json.Decoder(Outcome).decode
_prediction_lines = msgspec.json.Decoder(Prediction).decode_lines
_outcome_lines = msgspec.json.Decoder(Outcome).decode_lines
_encode = msgspec.json.Encoder().encode
_PREDICTION = Prediction(prediction_id="-", model="-", ts=0.0, scores=0.0, features=Raw(b"{}"))
"""Stands where no prediction could be read while the others are looked at; nothing is wrong with it."""
_OUTCOME = Outcome(prediction_id="-", ts=0.0, outcome=True)
_is_object = bytearray(b"{").__le__
"""Of JSON values: none begins with a greater byte than an object does."""

_FEED, _OPENS, _CLOSES = b"\n{}"

Problems = dict[int, DecodeError]
"""What is wrong, by place in the batch."""


def decode_predictions(values: Sequence[bytes | None]) -> list[Prediction | DecodeError]:
    """Return a prediction for each value, or the error that says why there is none; ``ts`` in seconds."""
    return _check_predictions(*_read(values, _prediction, _PREDICTION))


def decode_outcomes(values: Sequence[bytes | None]) -> list[Outcome | DecodeError]:
    """Return an outcome for each value, or the error that says why there is none; ``ts`` in seconds."""
    return _check_outcomes(*_read(values, _outcome, _OUTCOME))


def decode_prediction_lines(lines: bytes) -> list[Prediction | DecodeError] | None:
    """Return what :func:`decode_predictions` returns for each of some lines, each ended by a line feed, in one go.

    None: a line is blank or cannot be read as a prediction, and they have to be looked at one by one.
    """
    events = _read_lines(lines, _prediction_lines)
    return None if events is None else _check_predictions(events, {})


def decode_outcome_lines(lines: bytes) -> list[Outcome | DecodeError] | None:
    """Return what :func:`decode_outcomes` returns for each of some lines; as :func:`decode_prediction_lines`."""
    events = _read_lines(lines, _outcome_lines)
    return None if events is None else _check_outcomes(events, {})


def _check_predictions(events: list[Prediction], problems: Problems) -> list[Prediction | DecodeError]:
    # Each check looks at one column of the whole batch, and at single events only where the column has unusual ones.
    _set_seconds(events, problems)
    features = [event.features for event in events]
    if not all(map(_is_object, features)):
        for place in [place for place, given in enumerate(features) if given and not _is_object(given)]:
            _add(problems, place, _set_no_features(events[place]))
    scores = [event.scores for event in events]
    if not _are_numbers(scores):
        for place in [place for place, given in enumerate(scores) if given.__class__ is not float]:
            _add(problems, place, _bad_scores(events[place]))
    return _with(events, problems)


def _check_outcomes(events: list[Outcome], problems: Problems) -> list[Outcome | DecodeError]:
    _set_seconds(events, problems)
    outcomes = [event.outcome for event in events]
    if not _are_numbers(outcomes):
        for place in [place for place, given in enumerate(outcomes) if given is None]:
            event = events[place]
            if event.loss is None and event.status is None:
                _add(problems, place, _missing("`outcome`, `loss` or `status`"))
    return _with(events, problems)


def _read(values: Sequence[bytes | None], decode: Callable[[bytes], T], stand_in: T) -> tuple[list[T], Problems]:
    """Return an event for each value, *stand_in* where there is none, and why there is none."""
    texts, ascii_only = _readable(values)
    events: list[T] = []
    problems: Problems = {}
    decoded = map(decode, texts)
    while True:
        try:
            # What came before a bad value stays in the list, so this goes on behind it.
            events.extend(decoded)
        except UNREADABLE as error:
            problems[len(events)] = explain(error, values[len(events)])
            events.append(stand_in)
        else:
            break
    if not ascii_only:
        for place in [place for place, text in enumerate(texts) if not text.isascii()]:
            if place not in problems:
                try:
                    texts[place].decode()
                except UnicodeDecodeError as error:
                    problems[place] = explain(error, texts[place])
    return events, problems


def _read_lines(lines: bytes, decode: Callable[[bytes], list[T]]) -> list[T] | None:
    """Return an event for each line, None unless each holds one object and nothing else."""
    if not lines or len(lines) > MAX_BYTES:
        return None
    letters = np.frombuffer(lines, dtype=np.uint8)
    ends = np.flatnonzero(letters == _FEED)
    starts = np.concatenate(([0], ends[:-1] + 1))
    # If every line begins and ends as an object does, none goes on in the next: there a comma or colon would be.
    if not ((letters[starts] == _OPENS) & (letters[ends - 1] == _CLOSES)).all():
        return None
    try:
        if not lines.isascii():
            lines.decode()
        events = decode(lines)
    except UNREADABLE:
        return None
    return events if len(events) == len(ends) else None


def _readable(values: Sequence[bytes | None]) -> tuple[Sequence[bytes], bool]:
    """Return the values, empty where there is none or one that must not be read; and whether all are ASCII."""
    texts = cast("Sequence[bytes]", values)
    try:
        joined = b"".join(texts)
    except TypeError:  # there is a tombstone
        texts = [value or b"" for value in values]
        joined = b"".join(texts)
    if len(joined) > MAX_BYTES:
        texts = [text if len(text) <= MAX_BYTES else b"" for text in texts]
    return texts, joined.isascii()


def _are_numbers(column: Iterable[object]) -> bool:
    """Tell whether a column has no dict, string, time or None. Nothing asks more quickly than adding up."""
    try:
        sum(column)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _add(problems: Problems, place: int, problem: DecodeError | None) -> None:
    if problem is not None:
        problems.setdefault(place, problem)


def _with(events: list[T], problems: Problems) -> list[T | DecodeError]:
    found = cast("list[T | DecodeError]", events)
    for place, problem in problems.items():
        found[place] = problem
    return found


def encode_event(event: Signal | RetrainRequest | ModelUpdate) -> bytes:
    """Return an event as JSON; numbers that are not finite become null."""
    return _encode(event)


def decode_retrain(data: bytes) -> RetrainRequest:
    """Return the retrain request in a message.

    Raises:
        DecodeError: There is none.
    """
    request = _event(data, RetrainRequest)
    for name in ("id", "model", "group"):
        length = len(getattr(request, name))
        if not 0 < length <= LONGEST_NAME:
            text = f"expected `str` of length 1 to {LONGEST_NAME}, got {length} - at `$.{name}`"
            raise DecodeError(text, reason="out_of_range")
    if not 0.0 <= request.at < _TIME_END:
        raise DecodeError(f"expected seconds from 1970 to 5138, got {request.at!r} - at `$.at`", reason="out_of_range")
    return request


def decode_update(data: bytes) -> ModelUpdate:
    """Return the model update in a message.

    Raises:
        DecodeError: There is none.
    """
    return _event(data, ModelUpdate)


def _event(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise explain(error, data) from None


# What is wrong


def _missing(names: str) -> DecodeError:
    return DecodeError(f"expected {names}, got none of them", reason="missing_field")


def _set_seconds(events: Sequence[Prediction | Outcome], problems: Problems) -> None:
    """Make numbers of the times of fresh events; msgspec has seen to their zones."""
    times = [event.ts for event in events]
    if _are_numbers(times):
        return
    for place, ts in enumerate(times):
        if isinstance(ts, datetime):
            seconds = ts.timestamp()
            if 0.0 <= seconds < _TIME_END:
                force_setattr(events[place], "ts", seconds)
            else:
                text = "expected a time from 1970 to 5138, got another one - at `$.ts`"
                _add(problems, place, DecodeError(text, reason="out_of_range"))


def _set_no_features(event: Prediction) -> DecodeError | None:
    """Make features that are null as if they had been left out."""
    features = bytes(event.features)
    if features == b"null":
        force_setattr(event, "features", NO_FEATURES)
        return None
    found = TYPES.get(features[:1], "number")
    return DecodeError(f"expected `object`, got `{found}` - at `$.features`", reason="wrong_type")


def _bad_scores(event: Prediction) -> DecodeError | None:
    scores = event.scores
    if not isinstance(scores, dict):
        return _missing("`prediction` or `scores`") if event.prediction is None else None
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
