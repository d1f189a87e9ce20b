"""The oracle itself, on cases small enough to be worked out by hand."""

import json
import random
from typing import Any

from tests.faults.load import events
from tests.faults.oracle import USUAL, Raw, expected

START = 1_000.0
WINDOW, GRACE, REMEMBER = USUAL.window, USUAL.grace, USUAL.remember


def prediction(offset: int, at: float, key: str = "a", group: str = "g", **more: Any) -> tuple[int, float, bytes]:
    event = {"prediction_id": key, "model": "m", "group": group, "ts": at, "prediction": True, **more}
    return offset, at, json.dumps(event).encode()


def outcome(offset: int, at: float, key: str = "a", ts: float | None = None, **more: Any) -> tuple[int, float, bytes]:
    event = {"prediction_id": key, "ts": at if ts is None else ts, "outcome": True, **more}
    return offset, at, json.dumps(event).encode()


def verdicts(predictions: list[tuple[int, float, bytes]], outcomes: list[tuple[int, float, bytes]]) -> dict[int, str]:
    return {offset: row[9] for offset, row in expected(predictions, outcomes).rows.items()}


def test_outcome_within_the_window_joins() -> None:
    assert verdicts([prediction(0, START)], [outcome(0, START + WINDOW)]) == {0: "JOINED"}


def test_prediction_without_outcome_expires() -> None:
    assert verdicts([prediction(0, START)], []) == {0: "EXPIRED"}


def test_outcome_that_comes_after_the_deadline_does_not_join() -> None:
    late = START + WINDOW + GRACE + 0.001
    assert verdicts([prediction(0, START)], [outcome(0, late, ts=START)]) == {0: "EXPIRED"}
    assert verdicts([prediction(0, START)], [outcome(0, late - 0.001, ts=START)]) == {0: "JOINED"}


def test_outcome_whose_time_does_not_fit_leaves_the_prediction_waiting() -> None:
    outcomes = [outcome(0, START, ts=START + WINDOW + 1), outcome(1, START + 1)]
    assert expected([prediction(0, START)], outcomes).rows[0][10] == 1


def test_early_outcome_waits_for_the_grace_only() -> None:
    assert verdicts([prediction(0, START + GRACE)], [outcome(0, START)]) == {0: "JOINED"}
    assert verdicts([prediction(0, START + GRACE + 0.001)], [outcome(0, START)]) == {0: "EXPIRED"}


def test_repeated_prediction_counts_once_while_it_is_remembered() -> None:
    outcomes = [outcome(0, START)]
    again = prediction(1, START + REMEMBER)
    assert verdicts([prediction(0, START), again], outcomes) == {0: "JOINED"}
    assert verdicts([prediction(0, START), prediction(1, START + REMEMBER + 1)], outcomes) == {
        0: "JOINED",
        1: "EXPIRED",
    }


def test_groups_share_an_outcome() -> None:
    predictions = [prediction(0, START), prediction(1, START, group="h"), prediction(2, START + 2, group="late")]
    assert verdicts(predictions, [outcome(0, START + 1)]) == {0: "JOINED", 1: "JOINED", 2: "JOINED"}


def test_never_is_censored() -> None:
    assert verdicts([prediction(0, START)], [outcome(0, START, outcome=None, status="never")]) == {0: "CENSORED"}


def test_what_cannot_be_used_is_dead() -> None:
    predictions = [(0, START, b"{"), prediction(1, START), prediction(2, START, key="b", ts=START + 301)]
    outcomes = [outcome(0, START, outcome="yes"), outcome(1, START, ts=START - GRACE - 1)]
    found = expected(predictions, outcomes)
    assert set(found.dead) == {("predictions", 0), ("predictions", 2), ("outcomes", 0), ("outcomes", 1)}
    assert {offset: row[9] for offset, row in found.rows.items()} == {1: "EXPIRED"}


def test_stream_is_the_same_for_the_same_seed() -> None:
    assert list(events(500, 7)) == list(events(500, 7))
    assert list(events(500, 7)) != list(events(500, 8))


def test_predictions_of_the_stream_come_in_every_kind() -> None:
    at, draw = START, random.Random(0)
    logs: dict[str, list[Raw]] = {"predictions": [], "outcomes": []}
    for topic, _, event in events(3000, 3):
        at += draw.random() / 500
        value = event if isinstance(event, bytes) else json.dumps({**event, "ts": at + event["ts"]}).encode()
        logs[topic].append((len(logs[topic]), at, value))
    found = expected(logs["predictions"], logs["outcomes"])
    assert {row[9] for row in found.rows.values()} == {"JOINED", "EXPIRED", "CENSORED"}
    assert found.dead
    assert len(found.rows) == found.accepted.total()
