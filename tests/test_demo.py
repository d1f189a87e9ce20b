"""What the demo tells, and the demo without a broker."""

import time
from typing import Any

import pytest

from streamapp.core.settings import Settings
from streamapp.demo import CHANGE_AT, Told, now
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
