"""Which messages are events, decided slowly, by the plain ``json`` module: what the decoder is compared with."""

import json
import math
import re
from typing import Any, NamedTuple

LONGEST = 1_000_000
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


class Refused(Exception):
    """It is no event."""


class Number(NamedTuple):
    """A number as it was written."""

    token: str

    def real(self) -> float:
        value = float(self.token)
        need(math.isfinite(value))
        return value


class Members(list[tuple[str, Any]]):
    """An object, with names that come twice."""


def need(condition: object) -> None:
    if not condition:
        raise Refused


def prediction(value: bytes | None) -> dict[str, Any] | None:
    """Return the fields of a prediction, None for what is none."""
    try:
        fields = _fields(value, _PREDICTION, ("prediction_id", "model", "ts"))
        scores, answer = fields.get("scores"), fields.get("prediction")
        need(scores is not None or answer is not None)
        if isinstance(scores, dict):
            need(len(scores) <= 1000 and all(len(name) <= 256 for name in scores))
            need(abs(sum(scores.values()) - 1) <= 1e-6)
    except Refused:
        return None
    return fields


def outcome(value: bytes | None) -> dict[str, Any] | None:
    """Return the fields of an outcome, None for what is none."""
    try:
        fields = _fields(value, _OUTCOME, ("prediction_id", "ts"))
        need(any(fields.get(name) is not None for name in ("outcome", "loss", "status")))
    except Refused:
        return None
    return fields


def _fields(value: bytes | None, known: dict[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    need(value is not None and len(value) <= LONGEST)
    assert value is not None
    try:
        text = value.decode()
        found = json.loads(
            text, parse_int=Number, parse_float=Number, parse_constant=_constant, object_pairs_hook=Members
        )
    except (ValueError, RecursionError) as error:
        raise Refused from error
    need(isinstance(found, Members) and _sound(found))
    fields = {name: known[name](given) for name, given in found if name in known}
    need(all(name in fields for name in required))
    # Of a name that comes twice the last value counts, and only that is looked at more closely.
    need(0 <= fields["ts"] < 1e11)
    need(fields.get("features") is None or isinstance(fields["features"], Members))
    return fields


def _constant(_: str) -> None:
    raise Refused


def _sound(value: Any) -> bool:
    """Tell whether no string, wherever it is, has half of a pair of surrogates."""
    match value:
        case str():
            return not re.search("[\ud800-\udfff]", value)
        case Members():
            return all(_sound(name) and _sound(given) for name, given in value)
        case Number():
            return True
        case list():
            return all(map(_sound, value))
    return True


# Kinds of values


def _text(shortest: int, longest: int) -> Any:
    def check(given: Any) -> str:
        need(isinstance(given, str) and shortest <= len(given) <= longest)
        return str(given)

    return check


def _real(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Any:
    def check(given: Any) -> float:
        need(isinstance(given, Number))
        value: float = given.real()
        need(low <= value <= high and not (above and value == low))
        return value

    return check


def _or_null(check: Any) -> Any:
    return lambda given: None if given is None else check(given)


def _table(check: Any) -> Any:
    def all_of(given: Any) -> dict[str, Any]:
        need(isinstance(given, Members))
        return {name: check(value) for name, value in given}

    return all_of


def _label(given: Any) -> bool | str | float | None:
    if given is None or isinstance(given, bool):
        return given
    value: str | float = _real()(given) if isinstance(given, Number) else _text(0, 256)(given)
    return value


def _scores(given: Any) -> Any:
    return _table(_real(0, 1))(given) if isinstance(given, Members) else _real(0, 1)(given)


def _time(given: Any) -> float:
    if isinstance(given, Number):
        value = given.real()
        need(0 <= value < 1e11)
        return value
    need(isinstance(given, str))
    match = _TIME.fullmatch(given)
    need(match)
    assert match is not None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    zone = match.group(7)
    need(year >= 1 and 1 <= month <= 12 and 1 <= day <= _length(year, month))
    need(hour <= 23 and minute <= 59 and second <= 59)
    ahead = 0
    if zone not in "Zz":
        digits = zone[1:].replace(":", "")
        need(int(digits[:2]) <= 23 and int(digits[2:]) <= 59)
        ahead = (int(digits[:2]) * 60 + int(digits[2:])) * (60 if zone[0] == "+" else -60)
    fraction = re.search(r"\.\d+", given)
    days = (
        sum(366 if _leap(y) else 365 for y in range(1, year)) + sum(_length(year, m) for m in range(1, month)) + day - 1
    )
    seconds = (days - 719_162) * 86_400 + hour * 3600 + minute * 60 + second - ahead
    return seconds + (round(float("0" + fraction.group()), 6) if fraction else 0.0)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _length(year: int, month: int) -> int:
    return (31, 29 if _leap(year) else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def _word(*words: str) -> Any:
    def check(given: Any) -> str:
        need(given in words and isinstance(given, str))
        return str(given)

    return check


def _as_it_is(given: Any) -> Any:
    return given


def _whole(given: Any) -> int:
    need(isinstance(given, Number) and re.fullmatch(r"-?\d+", given.token))
    return int(given.token)


_WORD = _or_null(_text(0, 256))
_PREDICTION = {
    "prediction_id": _text(1, 1024),
    "model": _text(1, 256),
    "group": _text(1, 256),
    "ts": _time,
    "prediction": _label,
    "scores": _or_null(_scores),
    "features": _as_it_is,
    "version": _WORD,
    "latency": _or_null(_real(0)),
    "unit": _WORD,
    "propensity": _or_null(_real(0, 1, above=True)),
    "propensities": _or_null(_table(_real(0, 1))),
    "experiment": _WORD,
    "series": _WORD,
    "tags": _or_null(_table(_text(0, LONGEST))),
}
_OUTCOME = {
    "prediction_id": _text(1, 1024),
    "ts": _time,
    "outcome": _label,
    "loss": _or_null(_real(0, 1)),
    "source": _word("observed", "human", "assumed"),
    "status": _or_null(_word("never")),
    "revision": _whole,
}
