"""``scored tail`` says of each row what the contract lists."""

import json
from typing import Any

import msgspec

from streamapp.commands.scored import _text, lines
from streamapp.core.events import Tick
from streamapp.core.join import InputBatch, Joiner
from streamapp.core.settings import Settings
from streamapp.stream.codec import decode_outcomes, decode_predictions, decode_scored, encode_scored

FIELDS = [
    "scored_partition",
    "scored_offset",
    "row",
    "source_partition",
    "source_offset",
    "outcome_offset",
    "prediction_id_hash",
    "model",
    "group",
    "version",
    "series",
    "unit",
    "ts",
    "log_time",
    "outcome_ts",
    "outcome_log_time",
    "verdict",
    "prediction",
    "scores",
    "outcome",
    "source",
    "latency",
]
WHERE = {"scored_partition": 2, "scored_offset": 40}


def rows(predictions: list[dict[str, Any]], outcomes: list[dict[str, Any]], until: float) -> list[dict[str, Any]]:
    joiner = Joiner(3, Settings())
    for events, decode, hand_in in (
        (predictions, decode_predictions, joiner.predictions),
        (outcomes, decode_outcomes, joiner.outcomes),
    ):
        values = [json.dumps(event).encode() for event in events]
        hand_in(
            InputBatch(
                offsets=range(len(events)),
                timestamps=[event["ts"] for event in events],
                keys=[event["prediction_id"].encode() for event in events],
                values=values,
                events=decode(values),
            )
        )
    joiner.advance(predictions=until, outcomes=until)
    batches = [decode_scored(encode_scored(batch)) for batch in joiner.take().rows]
    return [json.loads(msgspec.json.encode(line)) for batch in batches for line in lines(batch, 2, 40)]


def test_a_joined_row_has_every_field() -> None:
    answer = {
        "prediction_id": "a",
        "model": "fraud",
        "group": "champion",
        "ts": 100.0,
        "prediction": True,
        "scores": 0.75,
        "version": "v1",
        "series": "s",
        "unit": "u",
        "latency": 0.01,
    }
    (row,) = rows([answer], [{"prediction_id": "a", "ts": 101.5, "outcome": False}], 102.0)
    assert [name for name in row if name != "loss"] == FIELDS
    assert row.pop("prediction_id_hash")
    assert row == {
        **WHERE,
        "row": 0,
        "source_partition": 3,
        "source_offset": 0,
        "outcome_offset": 0,
        "model": "fraud",
        "group": "champion",
        "version": "v1",
        "series": "s",
        "unit": "u",
        "ts": 100.0,
        "log_time": 100.0,
        "outcome_ts": 101.5,
        "outcome_log_time": 101.5,
        "verdict": "joined",
        "prediction": True,
        "scores": 0.75,
        "outcome": False,
        "loss": None,
        "source": "observed",
        "latency": 0.01,
    }


def test_what_a_row_has_not_is_null() -> None:
    (row,) = rows([{"prediction_id": "a", "model": "m", "ts": 100.0, "prediction": "red"}], [], 1e5)
    assert (row["verdict"], row["prediction"], row["group"]) == ("expired", "red", "default")
    for name in ("outcome_offset", "version", "series", "unit", "outcome_ts", "scores", "outcome", "source", "latency"):
        assert row[name] is None


def test_scores_by_class_come_back_as_an_object() -> None:
    scores = {"red": 0.25, "blue": 0.75}
    answers = [
        {"prediction_id": "a", "model": "m", "ts": 100.0, "scores": scores},
        {"prediction_id": "b", "model": "m", "ts": 100.0, "scores": {"red": 1.0}},
    ]
    found = rows(answers, [{"prediction_id": p, "ts": 100.5, "outcome": "red"} for p in "ab"], 101.0)
    assert [row["scores"] for row in found] == [scores, {"red": 1.0, "blue": 0.0}]
    assert [row["row"] for row in found] == [0, 1]


def test_ticks_are_shown_only_where_all_is_asked_for() -> None:
    tick = Tick(partition=1, log_time=5.0)
    assert list(lines(tick, 2, 40)) == []
    assert list(lines(tick, 2, 40, everything=True)) == [{**WHERE, "tick": {"partition": 1, "log_time": 5.0}}]


def test_a_line_of_text_holds_no_control_characters_of_names() -> None:
    line = {"scored_partition": 0, "scored_offset": 1, "row": 2, "ts": 0.0, "verdict": "joined", "scores": None}
    said = _text({**line, "model": "a\x1b[2J", "group": "b\nc", "prediction": "\x1b", "outcome": "d"})
    assert said == r"1970-01-01 00:00:00 0:1:2 a\x1b[2J/b\nc joined '\x1b' → 'd'"
