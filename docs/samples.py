"""Small streams that the pages' examples are taken from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from streamapp.commands.scored import lines
from streamapp.core.join import InputBatch, Joiner
from streamapp.core.settings import Settings
from streamapp.errors import DecodeError
from streamapp.recording import of_values
from streamapp.replay import replay
from streamapp.stream.codec import MAX_BYTES, MAX_CLASSES, decode_outcomes, decode_predictions

EXAMPLES = Path(__file__).parent / "examples"
_P = b'{"prediction_id": "7f3a", "model": "fraud", "ts": 1772366400, "prediction": true'
_O = b'{"prediction_id": "7f3a", "ts": 1772367600, "outcome": '
REASON_SAMPLES: dict[str, tuple[str, bytes]] = {
    "empty": ("predictions", b""),
    "malformed": ("predictions", b'{"prediction_id": "7f3a"'),
    "bad_encoding": ("predictions", b'{"prediction_id": "\xff"}'),
    "too_large": ("predictions", b" " * (MAX_BYTES + 1)),
    "too_deep": ("predictions", _P + b', "x": ' + b"[" * 10_000),
    "wrong_type": ("predictions", _P.replace(b'"7f3a"', b"73") + b"}"),
    "missing_field": ("predictions", b'{"prediction_id": "7f3a", "model": "fraud", "ts": 1772366400}'),
    "empty_id": ("predictions", _P.replace(b"7f3a", b"") + b"}"),
    "out_of_range": ("predictions", _P + b', "scores": 1.5}'),
    "not_finite": ("predictions", _P + b', "latency": NaN}'),
    "unknown_value": ("outcomes", _O + b'true, "source": "guessed"}'),
    "bad_time": ("predictions", _P.replace(b"1772366400", b'"yesterday"') + b"}"),
    "milliseconds": ("predictions", _P.replace(b"1772366400", b"1772366400000") + b"}"),
    "no_time_zone": ("predictions", _P.replace(b"1772366400", b'"2026-03-01T12:00:00"') + b"}"),
    "bad_sum": ("predictions", _P + b', "scores": {"cat": 0.5, "dog": 0.4}}'),
    "too_many_classes": (
        "predictions",
        _P + b', "scores": ' + msgspec.json.encode({str(i): 0 for i in range(MAX_CLASSES + 1)}) + b"}",
    ),
    "future": ("predictions", _P.replace(b"1772366400", b"1772366999") + b"}"),
    "before_prediction": ("outcomes", _O.replace(b"1772367600", b"1772360000") + b"false}"),
    "type_mismatch": ("outcomes", _O + b'"fraud"}'),
}
"""For each reason, a topic and a message that is rejected for it, sent after the prediction ``7f3a``."""
_SENT = 1772366400.0
_ARRIVES = {"predictions": _SENT, "outcomes": _SENT + 1200}


def example(name: str) -> str:
    """Return an event that streamapp published in a run of its demo, as JSON."""
    return (EXAMPLES / f"{name}.json").read_text(encoding="utf-8")


def rejection(topic: str, value: bytes) -> tuple[str, str]:
    """Return reason and error of the dead letter that a message becomes."""
    joiner = Joiner(0, Settings())
    first = [] if topic == "predictions" else [_P + b"}"]
    joiner.predictions(_batch(decode_predictions, [*first, *([value] if not first else [])], _SENT))
    joiner.outcomes(_batch(decode_outcomes, [value] if first else [], _ARRIVES["outcomes"]))
    joiner.advance(predictions=_ARRIVES[topic], outcomes=_ARRIVES[topic])
    (letter,) = joiner.take().dead_letters
    return letter.reason, letter.error


def error_text(topic: str, value: bytes) -> str:
    """Return the error of the dead letter that a message becomes."""
    return rejection(topic, value)[1]


def _batch(decode: Any, values: Sequence[bytes], at: float) -> InputBatch:
    return InputBatch(
        offsets=range(len(values)),
        timestamps=[at] * len(values),
        keys=[None] * len(values),
        values=values,
        events=decode(values),
    )


def _sample() -> tuple[list[bytes], list[bytes]]:
    scores = (0.93, 0.12, 0.35, 0.81, 0.07, 0.64, 0.22, 0.41)
    truths = (True, False, False, True, False, False, False)
    predictions = [
        {
            "prediction_id": f"p{i}",
            "model": "fraud",
            "group": "champion",
            "ts": _SENT + 60 * i,
            "scores": score,
            "version": "v1",
            "latency": 0.02,
        }
        for i, score in enumerate(scores)
    ]
    outcomes = [
        {"prediction_id": f"p{i}", "ts": _SENT + 60 * i + 150, "outcome": truth} for i, truth in enumerate(truths)
    ]
    return [msgspec.json.encode(each) for each in predictions], [msgspec.json.encode(each) for each in outcomes]


def summary_of_sample() -> Any:
    """Return the summary of eight predictions, rounded, since platforms differ in the last digit."""
    predictions, outcomes = _sample()
    pipeline = replay(of_values("predictions", predictions), of_values("outcomes", outcomes), Settings())
    return _rounded(msgspec.to_builtins(pipeline.summary()))


def scored_lines() -> list[dict[str, Any]]:
    """Return two rows as ``scored tail --json`` prints them."""
    predictions, outcomes = (values[:2] for values in _sample())
    joiner = Joiner(0, Settings())
    for give, values, decode in (
        (joiner.predictions, predictions, decode_predictions),
        (joiner.outcomes, outcomes, decode_outcomes),
    ):
        batch = _batch(decode, values, 0.0)
        batch.timestamps = [float(event.ts) for event in batch.events if not isinstance(event, DecodeError)]  # type: ignore[arg-type]
        give(batch)
    joiner.advance(predictions=_SENT + 3600, outcomes=_SENT + 3600)
    (rows,) = joiner.take().rows
    return [_rounded(line) for line in lines(rows, 0, 41)]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 6) if isinstance(value, float) else value
