"""However many names producers make up, state, series and checkpoints stay bounded, and what overflows is counted."""

import gc
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from streamapp.core.events import Position
from streamapp.core.join import Joiner, Limits
from streamapp.core.learner import decode_features
from streamapp.core.learning.learned import INPUTS, LearnedModel
from streamapp.core.monitor import Monitor
from streamapp.core.settings import ModelSettings, Seconds, Settings
from streamapp.exposition import CAP, Exposition, Snapshot
from streamapp.stream.codec import decode_scored, encode_scored
from tests.hostile.generator import Sent
from tests.hostile.test_core import NOW, batch

NAMES = 100_000
STEP = 10_000
SETTINGS = Settings(defaults=ModelSettings(outcome_window=Seconds(10), grace=Seconds(5), remember=Seconds(2)))


def test_a_hundred_thousand_names_of_every_kind_stay_bounded_and_are_counted() -> None:
    """Each prediction has a model, a group, a version, a series, a feature and a tag that nobody else has."""
    joiner, monitor = Joiner(0, SETTINGS, partitions=1), Monitor(0, SETTINGS)
    exposition = Exposition(SETTINGS)
    counts: Counter[Any] = Counter()
    sizes: dict[str, dict[bytes, int]] = {"joiner": {}, "monitor": {}}
    offset, held = 0, []
    for start in range(0, NAMES, STEP):
        for topic, take in (("predictions", joiner.predictions), ("outcomes", joiner.outcomes)):
            take(
                batch(
                    [Sent(topic, f"p{n}".encode(), event(topic, n), "", "") for n in range(start, start + STEP)], start
                )
            )
        joiner.advance(predictions=NOW + (start + STEP) / 1000, outcomes=NOW + (start + STEP) / 1000)
        output = joiner.take()
        counts.update(output.counts)
        for message in (*output.arrivals, *output.rows):
            monitor.apply(decode_scored(encode_scored(message)), Position(0, offset, NOW + start / 1000))
            offset += 1
        for role, changes in (("joiner", output.state), ("monitor", monitor.take(1 << 40))):
            for key, value in changes.items():
                sizes[role].pop(key, None)
                if value is not None:
                    sizes[role][key] = len(value)
        held.append(resident())
    assert counts["predictions", "accepted"] == NAMES
    limits, overflown = Limits(), NAMES - Limits().models
    assert counts["predictions", "other_model"] == overflown
    assert counts["predictions", "other_group"] == overflown - limits.groups
    summary = monitor.summary()
    assert len(summary) == limits.models + 1
    assert len(summary["other"]["groups"]) == limits.groups + 1
    assert sum(group["outcomes"] for model in summary.values() for group in model["groups"].values()) == NAMES
    # The second half of the names adds next to nothing.
    half, whole = held[len(held) // 2], held[-1]
    assert whole - half < 60 << 20, [size >> 20 for size in held]
    assert sum(sizes["joiner"].values()) < 8 << 20
    assert sum(sizes["monitor"].values()) < 64 << 20
    events = {key: n for key, n in counts.items() if key[0] == "predictions"}
    exposition.publish(Snapshot(models=monitor.report(), events=events))
    page = generate_latest(exposition.registry).decode()
    models = {line.split('model="')[1].split('"')[0] for line in page.splitlines() if 'model="' in line}
    assert len(models) == CAP + 1
    told = {
        line.split('"')[1]: float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith("streamapp_label_overflow_total{")
    }
    assert told["model"] >= overflown + limits.models - CAP
    assert told["group"] >= overflown - limits.groups


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def event(topic: str, n: int) -> bytes:
    given: dict[str, Any] = {"prediction_id": f"p{n}", "ts": NOW}
    if topic == "outcomes":
        return json.dumps({**given, "outcome": n % 2 == 0}).encode()
    names = {"model": f"m{n}", "group": f"g{n}", "version": f"v{n}", "series": f"s{n}", "unit": f"u{n}"}
    return json.dumps({**given, **names, "scores": 0.5, "features": {f"f{n}": 1}, "tags": {f"t{n}": f"x{n}"}}).encode()


def test_a_model_learns_from_so_many_features_and_no_more() -> None:
    """Nobody else looks at the names of features today, and nobody at all at those of tags."""
    model = LearnedModel("binary", ModelSettings(), seed=1)
    for n in range(0, 20_000, 10):
        features = decode_features(json.dumps({f"f{n + k}": float(k) for k in range(9)} | {f"w{n}": f"x{n}"}).encode())
        model.learn(features, n % 20 == 0)
        model.predict(features)
    assert len(model.numbers) == len(model.words) == INPUTS
    assert model.left_out == 2000 * 10 - 2 * INPUTS
    assert len(model.estimator.weights) <= 2 * INPUTS
