"""What the demo tells, and the demo without a broker."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import streamapp
from streamapp.core.events import Outcome, Prediction
from streamapp.core.learning.learned import LearnedModel
from streamapp.core.settings import Settings
from streamapp.demo import CHANGE_AT, Told, now
from streamapp.modelsfile import load_models
from streamapp.recording import of_values
from streamapp.replay import replay
from streamapp.simulate import simulation
from streamapp.stage import CoreStage

EMPTY: dict[str, Any] = {"models": {}, "events": {}}


def summary(**model: Any) -> dict[str, Any]:
    groups = {
        "champion": {
            "outcomes": 10,
            "versions": {"v1": {"rows": 9, "loss": 0.05}, "learned-1": {"rows": 1, "loss": 0.02}},
        }
    }
    return {"models": {"shuttle": {"groups": groups, "signals": [], "retrain": [], "model_updates": [], **model}}}


SIGNAL = {
    "id": "s",
    "at": 1.0,
    "group": "champion",
    "kind": "drift",
    "severity": "act",
    "detector": "policy",
    "reference": 0.05,
    "value": 0.4,
}
REQUEST = {"id": "r", "at": 2.0, "group": "champion", "reason": "drift", "window": {"rows": 600}}
UPDATE = {
    "id": "u",
    "at": 3.0,
    "group": "champion",
    "version": "learned-1",
    "status": "accepted",
    "rows_learned": 900,
    "metrics": {"incumbent": 0.4, "candidate": 0.03},
}


def test_each_stage_of_the_story_has_words_of_its_own() -> None:
    told = [
        now(EMPTY, 1, "abrupt"),
        now(summary(), 5, "abrupt"),
        now(summary(), CHANGE_AT + 1, "abrupt"),
        now(summary(signals=[SIGNAL]), 14, "abrupt"),
        now(summary(signals=[SIGNAL], retrain=[REQUEST]), 16, "abrupt"),
        now(summary(signals=[SIGNAL], retrain=[REQUEST], model_updates=[UPDATE]), 20, "abrupt"),
    ]
    assert len(set(told)) == len(told)
    assert told[-1] == "champion answers with learned-1: loss 0.020, where the old one had 0.400."


def test_words_that_differ_in_numbers_only_are_not_told_again() -> None:
    told = Told()
    assert [told.is_new(words) for words in ("loss 0.1", "loss 0.25", "well", "loss 0.1")] == [True, False, True, True]


def test_news_are_told_once_and_in_order() -> None:
    told = Told()
    first = [str(line) for line in told.news(summary(retrain=[REQUEST], signals=[SIGNAL]))]
    assert first == [
        "drift (act) in champion: policy, loss 0.0500 → 0.4000",
        "retrain requested for champion: drift, 600 rows",
    ]
    assert list(told.news(summary(retrain=[REQUEST], signals=[SIGNAL]))) == []
    (update,) = told.news(summary(model_updates=[UPDATE]))
    assert str(update) == "learned-1 accepted for champion: loss 0.4000 → 0.0300, 900 rows learned"


def test_a_recorded_demo_replays_to_the_same_story() -> None:
    simulated = simulation("shuttle", "abrupt", at=15.0, rate=500.0, shares={"champion": 0.5, "challenger": 0.5})
    lines: dict[type, list[bytes]] = {Prediction: [], Outcome: []}
    for _, event in simulated.events(1.7e9, 12_000):
        lines[type(event)].append(msgspec.json.encode(event))
    settings = load_models(Path(streamapp.__file__).with_name("demo.toml"))
    pipeline = replay(
        of_values("predictions", lines[Prediction]), of_values("outcomes", lines[Outcome]), settings, chunk=125
    )
    acts = [signal for signal in pipeline.signals if signal.severity == "act"]
    assert {(signal.group, signal.kind) for signal in acts} == {("champion", "drift"), ("challenger", "drift")}
    assert all(1.7e9 + 15 < signal.at < 1.7e9 + 18 for signal in acts)
    assert {request.group for request in pipeline.requests} == {"champion", "challenger"}
    for update in pipeline.updates:
        assert update.status == "accepted"
        assert update.metrics.incumbent is not None
        assert update.metrics.candidate is not None
        assert update.metrics.candidate < update.metrics.incumbent / 2
        assert LearnedModel.load(pipeline.models[update.id]).task == "binary"
    assert len(pipeline.updates) == len(pipeline.requests) == 2
    assert pipeline.summary()["models"]["shuttle"]["model_updates"] == pipeline.updates


def test_without_a_broker_the_core_plays_in_this_process() -> None:
    stage = CoreStage(simulation("shuttle", "none", rate=500.0), Settings(), "it is not installed")
    assert "it is not installed" in stage.notes[0]
    stage.start()
    try:
        end = time.monotonic() + 30
        while not (models := stage.summary()["models"]) or not models["shuttle"]["groups"]["champion"]["outcomes"]:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        stage.stop()
    groups = models["shuttle"]["groups"]
    assert set(groups) == {"champion", "challenger"}
    assert groups["champion"]["metrics"]["brier"] == pytest.approx(0.05, abs=0.05)
