"""What detectors are shown, and which row is said to have alarmed."""

import msgspec
import numpy as np

from streamapp.core.monitoring.watch import Watch
from streamapp.core.settings import ModelSettings

MANY = ModelSettings(reference_rows=2000, detectors=("adwin",))
NOISE = np.random.default_rng(5).normal(0, 0.1, 1200)
LOSSES = np.concatenate((np.full(600, 0.5), np.full(600, 5.5))) + NOISE


def fed(watch: Watch, losses, start: int = 0):
    return watch.feed(losses, np.full(len(losses), np.nan), np.arange(start, start + len(losses), dtype=float))


def reconfigured(watch: Watch, settings: ModelSettings) -> Watch:
    other = Watch("regression", "absolute", settings)
    other.load(watch.snapshot())
    return other


def test_what_was_held_back_alarms_at_the_row_that_brings_it_out():
    watch = Watch("regression", "absolute", msgspec.structs.replace(MANY, reference_rows=1205))
    assert fed(watch, LOSSES) == []
    found = fed(watch, LOSSES[-10:], 1200)
    assert found
    assert {finding.row for finding in found} == {4}
    assert 600 <= found[0].at < 1200


def test_what_was_held_back_comes_out_with_the_next_row_if_fewer_are_asked_for_now():
    watch = Watch("regression", "absolute", MANY)
    assert fed(watch, LOSSES) == []
    watch = reconfigured(watch, msgspec.structs.replace(MANY, reference_rows=500))
    assert fed(watch, LOSSES[:0]) == []
    assert fed(watch, np.full(3, np.nan)) == []
    found = fed(watch, LOSSES[-10:], 1200)
    assert found
    assert {finding.row for finding in found} == {0}
    assert 600 <= found[0].at < 1200
    assert watch.fed == 1210
