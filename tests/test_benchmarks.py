"""The benchmarks run, and refuse a contestant that does less. Nothing here measures time."""

import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import staged
from benchmarks.contestants.sums import Group
from benchmarks.entry import ENTRIES
from benchmarks.measure import Refused, verify
from benchmarks.recording import Score, Shape, events, truth
from benchmarks.waiting import Waiting, pieces
from streamapp.stream.codec import decode_outcomes, decode_predictions
from tests.kafka import Given, Kafka

ROOT = Path(__file__).parent.parent
SHAPE = Shape(pairs=2500, models=3, groups=2)
NOW = 1_790_000_000.0
SCORE = Score(1000, 0.75, 0.2, 0.83, 0.5)


def read(shape: Shape) -> tuple[list[Any], list[Any]]:
    predictions: list[Any] = []
    outcomes: list[Any] = []
    for topic, rows in events(shape, NOW):
        if topic == "predictions":
            predictions += decode_predictions([message for _, message in rows])
        else:
            outcomes += decode_outcomes([message for _, message in rows])
    return predictions, outcomes


def test_the_truth_of_a_recording_is_what_its_events_say() -> None:
    predictions, outcomes = read(SHAPE)
    by_id = {outcome.prediction_id: outcome.outcome for outcome in outcomes}
    rows = defaultdict(list)
    for prediction in predictions:
        rows[prediction.model, prediction.group].append((prediction, by_id.pop(prediction.prediction_id)))
    assert not by_id
    expected = truth(SHAPE)
    assert rows.keys() == expected.keys()
    for key, pairs in rows.items():
        hits = sum(prediction.prediction == outcome for prediction, outcome in pairs)
        brier = sum((prediction.scores - outcome) ** 2 for prediction, outcome in pairs)
        assert expected[key].pairs == len(pairs)
        assert expected[key].accuracy == pytest.approx(hits / len(pairs))
        assert expected[key].brier == pytest.approx(brier / len(pairs))
        area = roc_auc_score([outcome for _, outcome in pairs], [prediction.scores for prediction, _ in pairs])
        assert expected[key].auc == pytest.approx(area)
        assert expected[key].persistence == pytest.approx(0.5, abs=0.01)


def test_outcomes_come_after_their_predictions_and_out_of_order() -> None:
    seen: dict[str, int] = {}
    order = []
    for topic, rows in events(SHAPE, NOW):
        for key, _ in rows:
            if topic == "predictions":
                seen[key.decode()] = len(seen)
            else:
                order.append(seen[key.decode()])
    assert sorted(order) == list(range(SHAPE.pairs))
    assert order != sorted(order)


def test_no_event_is_of_a_time_to_come() -> None:
    predictions, outcomes = read(Shape(pairs=20_000))
    assert max(event.ts for event in (*predictions, *outcomes)) <= NOW


def test_predictions_that_are_to_stay_pending_have_no_outcome() -> None:
    predictions, outcomes = read(replace(SHAPE, pending=700))
    assert len(predictions) == SHAPE.pairs + 700
    assert len(outcomes) == SHAPE.pairs


@pytest.mark.parametrize("every", [0, 1, 100])
@pytest.mark.parametrize("lag", [300, 10_000])
def test_one_prediction_in_so_many_waits_and_all_others_have_their_outcome(every: int, lag: int) -> None:
    what = Waiting(predictions=9001, every=every, lag=lag)
    waiting: dict[str, float] = {}
    outcomes = 0
    for topic, rows in pieces(what, NOW):
        messages = [message for _, message in rows]
        for event in decode_predictions(messages) if topic == "predictions" else decode_outcomes(messages):
            if topic == "predictions":
                waiting[event.prediction_id] = event.ts
            else:
                outcomes += 1
                assert 0 <= event.ts - waiting.pop(event.prediction_id) <= 1800
                assert event.ts < NOW
    assert len(waiting) == what.pending == (len(range(0, 9001, every)) if every else 0)
    assert outcomes == what.pairs == 9001 - what.pending


@pytest.mark.parametrize("size", [500, 5000])
def test_predictions_have_the_size_that_was_asked_for(size: int) -> None:
    sizes = [
        len(message)
        for topic, rows in events(Shape(pairs=50, message_size=size), NOW)
        for _, message in rows
        if topic == "predictions"
    ]
    assert all(abs(each - size) <= 20 for each in sizes)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {("fraud", "champion"): replace(SCORE, pairs=999)},
        {("fraud", "champion"): replace(SCORE, accuracy=0.751)},
        {("fraud", "champion"): replace(SCORE, brier=0.2001)},
        {("fraud", "champion"): replace(SCORE, auc=0.826)},
        {("fraud", "champion"): replace(SCORE, persistence=0.0)},
        {("fraud", "champion"): SCORE, ("fraud", "other"): Score(1, 1.0, 0.0, 0.5, 1.0)},
    ],
)
def test_a_contestant_that_found_something_else_is_refused(found: dict[tuple[str, str], Score]) -> None:
    expected = {("fraud", "champion"): SCORE}
    verify(expected, lambda: expected, within=0.0)
    near = {("fraud", "champion"): replace(SCORE, auc=0.832, persistence=0.45)}
    verify(expected, lambda: near, within=0.0)
    with pytest.raises(Refused, match="fraud/"):
        verify(expected, lambda: found, within=0.0)


def test_sums_taken_row_by_row_and_as_columns_are_the_same() -> None:
    predictions, outcomes = read(replace(SHAPE, models=1, groups=1))
    by_id = {outcome.prediction_id: outcome.outcome for outcome in outcomes}
    score = [prediction.scores for prediction in predictions]
    truths = [by_id[prediction.prediction_id] for prediction in predictions]
    hit = [p.prediction is t for p, t in zip(predictions, truths, strict=True)]
    truths[1500:] = [not value for value in truths[1500:]]  # so that there is something to find for ADWIN
    known = [False, *truths[:-1]]
    single, columns = Group(), Group()
    for row in zip(score, hit, truths, known, strict=True):
        single.add(*row)
    for start in range(0, len(score), 300):
        part = slice(start, start + 300)
        columns.add_columns(np.array(score[part]), np.array(hit[part]), np.array(truths[part]), np.array(known[part]))
    for name in ("pairs", "hits", "misses", "drifts"):
        assert getattr(single, name) == getattr(columns, name)
    assert single.brier == pytest.approx(columns.brier)
    assert single.auc() == columns.auc()
    assert single.drifts > 0
    assert single.brier == pytest.approx(np.square(np.array(score) - truths).sum())
    assert single.auc() == pytest.approx(roc_auc_score(truths, score), abs=0.002)


def test_every_stage_is_where_its_clock_is_put() -> None:
    for places in staged.HOOKS.values():
        for place in places:
            staged.find(place)


def benchmark(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.integration
def test_all_contestants_do_the_same_job(kafka: Kafka | Given) -> None:
    report = benchmark("throughput", "--broker", kafka.bootstrap, "--pairs", "3000", "--rounds", "1")
    present = {name for name, entry in ENTRIES.items() if entry.installed}
    assert {"streamapp", "bare", "faust"} <= present
    assert present <= report.keys()
    assert report["ratios"].keys() == present - {"streamapp"}
    assert report["same_job_ratios"].keys() == present - {"streamapp", "same_job"}


@pytest.mark.integration
def test_the_stages_of_a_worker_add_up_to_its_time(kafka: Kafka | Given) -> None:
    report = benchmark("stages", "--broker", kafka.bootstrap, "--pairs", "3000", "--rounds", "1")
    assert report["stages"].keys() == set(staged.STAGES)
    assert all(value >= 0 for name in staged.STAGES[:-1] for value in report["stages"][name])


@pytest.mark.integration
def test_cost_is_compared_once_every_worker_has_partitions_and_sees_the_pairs_at_one_moment(
    kafka: Kafka | Given,
) -> None:
    arguments = ("--broker", kafka.bootstrap, "--pairs", "3000", "--rounds", "1", "--only", "workers")
    report = benchmark("cost", *arguments)
    assert report["comparisons"]["workers"]["ratio"]["median"] > 0
