"""Good events with every kind of bad one between them, and what has to become of each.

What is sent follows from the seed and from the time that is handed in. Values are made with the plain ``json`` module,
or byte by byte.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

WINDOW = 1800.0
GRACE = 8.0
SETTINGS = f"""
[defaults]
outcome_window = "{WINDOW:g}s"
grace = "{GRACE:g}s"
remember = "60s"
cycle = "none"
"""
MODEL = "fraud"
GROUPS = ("champion", "challenger")
BEHIND = 200
"""Pairs by which outcomes come after their predictions."""
LARGEST = 990_000
"""Bytes of a record that the broker just takes."""
YEAR_2100 = 4_102_444_800

Draw = random.Random
Event = dict[str, Any]
Maker = Callable[[Draw, Event], bytes | None]


class Sent(NamedTuple):
    """One message."""

    topic: str
    """Without prefix."""
    key: bytes | None
    value: bytes | None
    kind: str
    """What is wrong with it; ``good`` for nothing."""
    fate: str
    """``accepted``, ``duplicate``, ``late``, ``unmatched``, or the reason of its dead letter."""

    @property
    def rejected(self) -> bool:
        """Whether it belongs on ``dead-letters``."""
        return self.fate not in ("accepted", "duplicate", "late", "unmatched")


def text(event: Event) -> bytes:
    """Return an event as JSON, without white space."""
    return json.dumps(event, separators=(",", ":")).encode()


def _raw(field: str, literal: bytes) -> Maker:
    """Return a maker of events that have *literal* where the value of a field belongs."""

    def make(_: Draw, event: Event) -> bytes:
        return text({**event, field: "@"}).replace(b'"@"', literal)

    return make


def _without(*fields: str) -> Maker:
    return lambda _, event: text({name: value for name, value in event.items() if name not in fields})


def _with(**changes: Any) -> Maker:
    return lambda _, event: text({**event, **changes})


def _cut(draw: Draw, event: Event) -> bytes:
    whole = text(event)
    return whole[: draw.randrange(1, len(whole))]


def _nested(draw: Draw, event: Event) -> bytes:
    field = draw.choice(("x", "features"))
    opening, closing = draw.choice(((b"[", b"]"), (b'{"a":', b"}")))
    depth = draw.randrange(3000, 20_000)
    return text({**event, "x": 0, field: "@"}).replace(b'"@"', opening * depth + b"1" + closing * depth)


def _scores(count: int, total: float) -> Maker:
    return lambda _, event: text({**event, "scores": {f"c{n}": total / count for n in range(count)}})


EVERYWHERE: dict[str, tuple[Maker, str]] = {
    "tombstone": (lambda _draw, _event: None, "empty"),
    "no bytes": (lambda _draw, _event: b"", "empty"),
    "white space": (lambda _draw, _event: b" \r\n\t ", "empty"),
    "truncated": (_cut, "malformed"),
    "two objects": (lambda _, event: text(event) * 2, "malformed"),
    "a byte behind": (lambda draw, event: text(event) + bytes([draw.choice(b"x}]\x00,")]), "malformed"),
    "byte order mark": (lambda _, event: b"\xef\xbb\xbf" + text(event), "malformed"),
    "utf-16": (lambda _, event: json.dumps(event).encode("utf-16-le"), "malformed"),
    "control byte in an id": (
        lambda _, event: text({**event, "prediction_id": "@"}).replace(b"@", b"a\x00b"),
        "malformed",
    ),
    "lone surrogate": (_raw("prediction_id", rb'"\ud800"'), "malformed"),
    "surrogates the wrong way": (_raw("prediction_id", rb'"\udc00\ud800"'), "malformed"),
    "trailing comma": (lambda _, event: text(event)[:-1] + b",}", "malformed"),
    "single quotes": (lambda _, event: text(event).replace(b'"', b"'"), "malformed"),
    "comment": (lambda _, event: b"/* x */" + text(event), "malformed"),
    "leading zero": (_raw("ts", b"01"), "malformed"),
    "no JSON": (lambda draw, _: b"<" + draw.randbytes(40).hex().encode(), "malformed"),
    "surrogate in UTF-8": (_raw("prediction_id", b'"\xed\xa0\x80"'), "bad_encoding"),
    "no UTF-8 in an id": (_raw("prediction_id", b'"\xff"'), "bad_encoding"),
    "no UTF-8 elsewhere": (_raw("x", b'"\xc0\x80"'), "bad_encoding"),
    "nested": (_nested, "too_deep"),
    "array": (lambda _, event: b"[" + text(event) + b"]", "wrong_type"),
    "string": (lambda _, event: json.dumps(json.dumps(event)).encode(), "wrong_type"),
    "number": (lambda draw, _: str(draw.random()).encode(), "wrong_type"),
    "null": (lambda _draw, _event: b"null", "wrong_type"),
    "id a number": (_with(prediction_id=7), "wrong_type"),
    "id null": (_with(prediction_id=None), "wrong_type"),
    "time a bool": (_with(ts=True), "wrong_type"),
    "time an object": (_with(ts={"seconds": 1}), "wrong_type"),
    "no id": (_without("prediction_id"), "missing_field"),
    "no time": (_without("ts"), "missing_field"),
    "nothing": (lambda _draw, _event: b"{}", "missing_field"),
    "empty id": (_with(prediction_id=""), "empty_id"),
    "long id": (_with(prediction_id="x" * 1025), "out_of_range"),
    "negative time": (_with(ts=-1.0), "out_of_range"),
    "time before 1970": (_with(ts="1969-12-31T23:59:59Z"), "out_of_range"),
    "time in the year 9999": (_with(ts="9999-12-31T23:59:59Z"), "out_of_range"),
    "milliseconds": (lambda _, event: text({**event, "ts": int(event["ts"] * 1000)}), "milliseconds"),
    "nanoseconds": (lambda _, event: text({**event, "ts": int(event["ts"] * 1e9)}), "milliseconds"),
    "NaN": (_with(ts=float("nan")), "not_finite"),
    "infinite": (_with(ts=float("inf")), "not_finite"),
    "minus infinite": (_with(ts=float("-inf")), "not_finite"),
    "huge exponent": (_raw("ts", b"1e999999999"), "not_finite"),
    "very many digits": (_raw("ts", b"9" * 5000), "not_finite"),
    "no zone": (_with(ts="2023-11-14T22:13:20"), "no_time_zone"),
    "no time at all": (_with(ts="yesterday"), "bad_time"),
    "the 61st second": (_with(ts="2016-12-31T23:59:61Z"), "bad_time"),
    "year 2100": (_with(ts=YEAR_2100), "future"),
    "an hour ahead": (lambda _, event: text({**event, "ts": event["ts"] + 7200}), "future"),
}
"""What is refused on both topics; those of ``future`` for any ts of about now."""

PREDICTIONS: dict[str, tuple[Maker, str]] = {
    "model a number": (_with(model=1), "wrong_type"),
    "answer an array": (_with(prediction=[True]), "wrong_type"),
    "score a string": (_with(scores="0.5"), "wrong_type"),
    "score a bool": (_with(scores=True), "wrong_type"),
    "features an array": (_with(features=[1]), "wrong_type"),
    "features a string": (_with(features="{}"), "wrong_type"),
    "features a number": (_with(features=1), "wrong_type"),
    "tag a number": (_with(tags={"a": 1}), "wrong_type"),
    "no model": (_without("model"), "missing_field"),
    "no answer": (_without("prediction", "scores"), "missing_field"),
    "empty model": (_with(model=""), "out_of_range"),
    "long model": (_with(model="m" * 257), "out_of_range"),
    "long group": (_with(group="g" * 10_000), "out_of_range"),
    "long unit": (_with(unit="\N{GRINNING FACE}" * 257), "out_of_range"),
    "score above 1": (_with(scores=1.0000001), "out_of_range"),
    "score below 0": (_with(scores=-5e-324), "out_of_range"),
    "negative latency": (_with(latency=-1), "out_of_range"),
    "propensity 0": (_with(propensity=0), "out_of_range"),
    "long class": (_with(scores={"x" * 257: 1.0}), "out_of_range"),
    "share above 1": (_with(scores={"a": 1.5, "b": -0.5}), "out_of_range"),
    "infinite latency": (_raw("latency", b"1e309"), "not_finite"),
    "NaN in features": (_with(features={"a": float("nan")}), "not_finite"),
    "scores that add up to 0.9": (_scores(3, 0.9), "bad_sum"),
    "no scores at all": (_with(scores={}), "bad_sum"),
    "too many classes": (_scores(1001, 1.0), "too_many_classes"),
    "no UTF-8 in features": (_raw("features", b'{"a":"\xff"}'), "bad_encoding"),
    "lone surrogate in features": (_raw("features", rb'{"a":"\ud800"}'), "malformed"),
    "features that do not end": (_raw("features", b'{"a":1'), "malformed"),
}
"""What is refused on ``predictions`` only."""

OUTCOMES: dict[str, tuple[Maker, str]] = {
    "outcome an object": (_with(outcome={}), "wrong_type"),
    "revision with a fraction": (_with(revision=1.5), "wrong_type"),
    "loss a string": (_with(loss="0"), "wrong_type"),
    "no outcome": (_without("outcome"), "missing_field"),
    "outcome null": (_with(outcome=None), "missing_field"),
    "long outcome": (_with(outcome="x" * 257), "out_of_range"),
    "loss above 1": (_with(loss=2), "out_of_range"),
    "unknown source": (_with(source="hearsay"), "unknown_value"),
    "unknown status": (_with(status="never ever"), "unknown_value"),
    "infinite loss": (_raw("loss", b"-1e400"), "not_finite"),
}
"""What is refused on ``outcomes`` only."""

HUGE: dict[str, tuple[Maker, str]] = {
    "an id of a megabyte": (_with(prediction_id="x" * (LARGEST - 1000)), "out_of_range"),
    "a megabyte that is never closed": (lambda _draw, _event: b'{"x":"' + b"y" * (LARGEST - 10), "malformed"),
    "a megabyte of brackets": (lambda _draw, _event: b"[" * LARGEST, "wrong_type"),
    "a megabyte of no UTF-8": (_raw("x", b'"' + b"\xff" * (LARGEST - 1000) + b'"'), "bad_encoding"),
    "a megabyte of time": (_with(ts="2" * (LARGEST - 1000)), "bad_time"),
    "more than the longest": (lambda _draw, _event: b" " * 1_000_001, "too_large"),
}
"""What is as large as the broker takes it."""

LARGE = {"nested", "very many digits", "too many classes", "long group", "long unit"}
"""What is many times as long as a good event, and drawn so much more rarely that the others are what is measured."""
LARGE_SHARE = 0.1


# What is odd, but good


def _spaced(_: Draw, event: Event) -> bytes:
    return b"\t" + json.dumps(event, indent=3).replace("\n", "\r\n").encode() + b"  \n"


def _escaped(_: Draw, event: Event) -> bytes:
    return text(event).replace(b'"prediction_id"', rb'"\u0070rediction_i\u0064"')


def _twice(_: Draw, event: Event) -> bytes:
    return b'{"prediction_id":"another","ts":0,' + text(event)[1:]


def _unknown(_: Draw, event: Event) -> bytes:
    return text({**event, "x": [[[{"a": [None, 1e-400, -0.0]}]]], "": 1, "y": "\x00\u2028\N{GRINNING FACE}", "id": "z"})


def _as_string(_: Draw, event: Event) -> bytes:
    # From a zone far away, with more digits than a second has.
    seconds = int(event["ts"])
    hours, rest = divmod(seconds + 13 * 3600 + 45 * 60, 3600)
    days, hour = divmod(hours, 24)
    year, month, day = _civil(days)
    written = f"{year:04}-{month:02}-{day:02}t{hour:02}:{rest // 60:02}:{rest % 60:02}.0000000000+13:45"
    return text({**event, "ts": written})


def _civil(days: int) -> tuple[int, int, int]:
    """Return the date of so many days after 1970-01-01, for this century."""
    year, left = 1970, days
    while left >= (length := 366 if year % 4 == 0 else 365):
        year, left = year + 1, left - length
    for month, length in enumerate((31, 29 if year % 4 == 0 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), 1):
        if left < length:
            return year, month, left + 1
        left -= length
    raise AssertionError(days)


ODD: dict[str, Maker] = {
    "white space": _spaced,
    "escaped names": _escaped,
    "names twice": _twice,
    "unknown fields": _unknown,
    "time as a string": _as_string,
    "nulls": lambda _, event: text({**event, "x": None, "features": None, "unit": None, "loss": None}),
    "features that nobody can learn from": _raw("features", rb'{"":[{}],"a":1e999,"a":"\u0000","b":{"c":1}}'),
    "minus zero": _with(scores=-0.0, loss=-0.0, latency=1e-400),
    "numbers at their ends": _with(latency=1.7976931348623157e308, propensity=5e-324, revision=10**40),
    "tags": lambda draw, event: text(
        {**event, "tags": {f"t{draw.random()}": "\x1b[31m<b>&"}, "unit": draw.random().hex()}
    ),
}
"""Events that look strange and are good all the same."""
IDS = ("a\x00b", "\n", " ", "\N{GRINNING FACE}", "'; DROP TABLE", "../../x", "\u202e", "x" * 900, "null", "\x7f")
"""What an id may have in it."""


class Generator:
    """Makes a stream.

    Args:
        pairs: Good predictions, each with its outcome.
        seed: Of all that is drawn.
        bad: Bad messages for each good one.
        odd: Share of the good ones that look strange.
        huge: Share of the bad ones that are as large as the broker takes.
        now: Seconds since the epoch that events are to be of: about when they will be sent.
        prefix: Of the ids.
    """

    def __init__(
        self,
        pairs: int,
        seed: int,
        *,
        bad: float,
        now: float,
        odd: float = 0.1,
        huge: float = 0.0,
        prefix: str = "",
    ) -> None:
        self._pairs, self._draw, self._now, self._prefix = pairs, Draw(seed), now, prefix
        self._bad, self._odd, self._huge = bad, odd, huge
        self._number = 0

    def __iter__(self) -> Iterator[Sent]:
        """Yield what is sent, in order."""
        waiting: list[tuple[Event, Event]] = []
        for _ in range(self._pairs):
            prediction, outcome = self._pair()
            yield self._good("predictions", prediction)
            waiting.append((prediction, outcome))
            if len(waiting) > BEHIND:
                yield from self._answer(*waiting.pop(self._draw.randrange(BEHIND // 2)))
            yield from self._wrong()
        for pair in waiting:
            yield from self._answer(*pair)
            yield from self._wrong()

    def _pair(self) -> tuple[Event, Event]:
        draw, self._number = self._draw, self._number + 1
        name = f"{self._prefix}{self._number:08d}"
        if draw.random() < self._odd:
            name += draw.choice(IDS)
        score = round(draw.random(), 4)
        prediction = {
            "prediction_id": name,
            "model": MODEL,
            "group": draw.choice(GROUPS),
            "ts": round(self._now - 60 * draw.random(), 3),
            "prediction": score >= 0.5,
            "scores": score,
            "version": "v1",
            "latency": round(0.001 + draw.random() / 50, 5),
            "features": {name: round(draw.gauss(0, 1), 4) for name in ("amount", "age", "hour")},
        }
        return prediction, {"prediction_id": name, "ts": prediction["ts"], "outcome": draw.random() < score}

    def _good(self, topic: str, event: Event) -> Sent:
        value, kind = text(event), "good"
        if self._draw.random() < self._odd:
            kind = self._draw.choice(list(ODD))
            value = ODD[kind](self._draw, event)
        return Sent(topic, event["prediction_id"].encode(), value, kind, "accepted")

    def _answer(self, prediction: Event, outcome: Event) -> Iterator[Sent]:
        """Yield a prediction's outcome, and lies about both around it."""
        key = outcome["prediction_id"].encode()

        def lie(topic: str, event: Event, kind: str, fate: str) -> Sent:
            return Sent(topic, key, text(event), kind, fate)

        lies_before = [
            lie("outcomes", {**outcome, "outcome": "yes"}, "outcome of another type", "type_mismatch"),
            lie("outcomes", {**outcome, "outcome": 1e308}, "outcome a number", "type_mismatch"),
            lie("outcomes", {**outcome, "ts": outcome["ts"] - 3600}, "before its prediction", "before_prediction"),
            lie("outcomes", {**outcome, "ts": 0}, "long before its prediction", "before_prediction"),
        ]
        lies_behind = [
            lie("predictions", {**prediction, "model": "another"}, "prediction again", "duplicate"),
            lie("outcomes", {**outcome, "outcome": not outcome["outcome"]}, "outcome again", "duplicate"),
        ]
        draw, often = self._draw, min(0.5, self._bad / 8)
        if draw.random() < often:
            yield draw.choice(lies_before)
        yield self._good("outcomes", outcome)
        if draw.random() < often:
            yield draw.choice(lies_behind)
        if draw.random() < often:
            name = f"{self._prefix}nobody-{self._number:08d}"
            nobody = {**outcome, "prediction_id": name}
            yield Sent("outcomes", name.encode(), text(nobody), "outcome of nothing", "unmatched")

    def _wrong(self) -> Iterator[Sent]:
        """Yield bad messages."""
        draw = self._draw
        wanted = self._bad * 2
        for _ in range(int(wanted) + (draw.random() < wanted % 1)):
            topic = draw.choice(("predictions", "outcomes"))
            pair = self._pair()
            event = pair[topic == "outcomes"]
            kinds = (
                HUGE if draw.random() < self._huge else {**EVERYWHERE, **(PREDICTIONS, OUTCOMES)[topic == "outcomes"]}
            )
            kind = draw.choice(list(kinds))
            while kind in LARGE and draw.random() > LARGE_SHARE:
                kind = draw.choice(list(kinds))
            make, reason = kinds[kind]
            key = draw.choice((event["prediction_id"].encode(), b"", None, b"\xff" * 20))
            yield Sent(topic, key, make(draw, event), kind, reason)
