"""Detectors: when they speak, what they say, and that neither batches nor restarts change it."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift
from river.drift import binary

from streamapp.core.detection.loss_reference import LossReference
from streamapp.core.detection.sides import BETS
from streamapp.core.drift import DETECTORS, Alarm, Detector, EDetector, build, restore, update_each
from streamapp.core.events import Floats
from streamapp.core.settings import ModelSettings, Seconds
from streamapp.errors import CheckpointError, ConfigError

QUICK = ModelSettings(reference_rows=500, cycle=None, budget=1000)


def bernoulli(seed: int, *parts: tuple[int, float]) -> Floats:
    rng = np.random.default_rng(seed)
    return np.concatenate([(rng.random(count) < rate) * 1.0 for count, rate in parts])


def feed(detector: Detector, losses: Floats, cuts: list[int] | None = None) -> list[Alarm]:
    """Give the losses in batches that end at *cuts*; rows count from the first loss."""
    times = np.arange(float(len(losses)))
    ends = [*sorted({cut for cut in cuts or [] if cut < len(losses)}), len(losses)]
    alarms, start = [], 0
    for end in ends:
        for alarm in detector.update(losses[start:end], times[start:end]):
            fields = {name: getattr(alarm, name) for name in Alarm.__slots__}
            alarms.append(Alarm(**fields | {"row": alarm.row + start}))
        start = end
    return alarms


def state(detector: Detector) -> str:
    return detector.state


def plain(detector: Any, inputs: list[float]) -> list[int]:
    """Rows at which a bare River detector raises its flag."""
    found = []
    for row, value in enumerate(inputs):
        detector.update(value)
        if detector.drift_detected:
            found.append(row)
    return found


STREAM = bernoulli(7, (3000, 0.1), (2000, 0.35), (3000, 0.1))


@pytest.mark.parametrize(
    ("spec", "bare"),
    [
        ("adwin", drift.ADWIN()),
        ({"name": "adwin", "clock": 1, "delta": 0.05}, drift.ADWIN(clock=1, delta=0.05)),
        ("page_hinkley", drift.PageHinkley()),
        ({"name": "PageHinkley", "mode": "up", "threshold": 20}, drift.PageHinkley(mode="up", threshold=20)),
        ({"name": "kswin", "alpha": 0.05}, drift.KSWIN(seed=0, alpha=0.05)),
        ("ddm", binary.DDM()),
        ("eddm", binary.EDDM()),
        ("hddm-a", binary.HDDMA()),
        ("HDDM_W", binary.HDDMW()),
    ],
)
def test_wrapped_detector_alarms_where_the_bare_one_does(spec: Any, bare: Any) -> None:
    losses = STREAM[2000:4000] if isinstance(bare, drift.KSWIN) else STREAM  # 0.2 ms a row
    rows = [alarm.row for alarm in feed(build(spec, QUICK), losses, [1000, 1001, 4321])]
    assert rows == plain(bare, losses.tolist())
    assert rows


def test_adwin_rows_are_pinned_and_tell_direction_and_change() -> None:
    alarms = feed(build("adwin", QUICK), STREAM)
    assert [(alarm.row, alarm.direction) for alarm in alarms] == [(3103, "up"), (5087, "down")]
    rise, fall = alarms
    assert rise.before == pytest.approx(0.1, abs=0.02)
    assert rise.after == pytest.approx(0.35, abs=0.12)
    assert abs(rise.row + 1 - rise.rows - 3000) < 100
    assert fall.before > fall.after
    assert {alarm.severity for alarm in alarms} == {"warn"}


def test_fhddm_alarms_when_the_errors_rise_not_when_they_fall() -> None:
    rise = bernoulli(1, (2000, 0.1), (1000, 0.6))
    fall = bernoulli(1, (2000, 0.6), (1000, 0.1))
    alarms = feed(build("fhddm", QUICK), rise)
    assert alarms[0].row == plain(binary.FHDDM(), (1 - rise).tolist())[0]
    assert 2000 < alarms[0].row < 2100
    assert alarms[0].direction == "up"
    assert feed(build("fhddm", QUICK), fall) == []


@pytest.mark.parametrize(("loss", "error"), [(0.2499, 0), (0.25, 1), (0.8, 1)])
def test_binary_detector_takes_a_brier_loss_of_a_quarter_as_an_error(loss: float, error: int) -> None:
    base = bernoulli(2, (1000, 0.2), (500, 0.0))
    graded = np.where(np.arange(1500) < 1000, base, loss)
    bare = plain(binary.HDDMA(), [*base[:1000].tolist(), *[error] * 500])
    assert [alarm.row for alarm in feed(build("hddma", QUICK), graded)] == bare


def test_error_at_moves_what_counts_as_an_error() -> None:
    graded = np.where(bernoulli(3, (1000, 0.1), (1000, 0.6)) > 0, 0.1, 0.0)
    assert feed(build("hddma", QUICK), graded) == []
    assert feed(build({"name": "hddma", "error_at": 0.05}, QUICK), graded)


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_that_are_not_finite_are_skipped_and_rows_stay_right(name: str) -> None:
    losses = bernoulli(4, (1500, 0.1), (700, 0.7))
    dirty = np.full(2 * len(losses), math.nan)
    dirty[::4] = math.inf
    dirty[1::2] = losses
    clean = feed(build(name, QUICK), losses)
    assert [alarm.row for alarm in feed(build(name, QUICK), dirty)] == [2 * alarm.row + 1 for alarm in clean]


@pytest.mark.parametrize("name", DETECTORS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 9), cuts=st.lists(st.integers(1, 2400), max_size=30))
def test_how_rows_are_cut_into_batches_changes_nothing(name: str, seed: int, cuts: list[int]) -> None:
    scale = 4 if name == "kswin" else 1  # 0.2 ms a row
    losses = bernoulli(seed, (1200 // scale, 0.15), (600 // scale, 0.6), (600 // scale, 0.1))
    whole, parts = build(name, QUICK), build(name, QUICK)
    assert feed(whole, losses) == feed(parts, losses, cuts)
    assert (whole.score, whole.threshold, whole.state) == (parts.score, parts.threshold, parts.state)


@settings(max_examples=15, deadline=None)
@given(
    rates=st.lists(st.sampled_from([0.05, 0.2, 0.5]), min_size=2, max_size=5),
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    batch=st.sampled_from([None, 1, 5]),
)
def test_several_e_detectors_at_once_are_as_each_alone(rates: list[float], sizes: list[int], batch: int | None) -> None:
    streams = [bernoulli(place, (1000, rate), (1000, 0.9 - rate)) for place, rate in enumerate(rates)]
    together, alone = ([EDetector(QUICK, batch=batch) for _ in rates] for _ in range(2))
    starts = [0] * len(rates)
    for turn in range(40):
        # Each takes another number of rows, some none.
        ends = [start + sizes[(turn + place) % len(sizes)] for place, start in enumerate(starts)]
        losses = [stream[start:end] for stream, start, end in zip(streams, starts, ends, strict=True)]
        times = [np.arange(float(len(some))) for some in losses]
        expected = [one.update(some, at) for one, some, at in zip(alone, losses, times, strict=True)]
        assert update_each(together, losses, times, [some.tolist() for some in losses]) == expected
        starts = ends
    assert [one.snapshot() for one in together] == [one.snapshot() for one in alone]


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("cut", [0, 499, 1300, 1900])
def test_restoring_a_snapshot_changes_nothing(name: str, cut: int) -> None:
    losses = bernoulli(5, (1200, 0.15), (600, 0.6), (600, 0.1))
    straight = build(name, QUICK)
    first = feed(straight, losses[:cut])
    resumed = restore(name, QUICK, straight.snapshot())
    assert (resumed.score, resumed.state) == (straight.score, straight.state)
    assert feed(resumed, losses[cut:]) == feed(straight, losses[cut:])
    assert resumed.state == straight.state
    assert first == feed(build(name, QUICK), losses[:cut])


@pytest.mark.parametrize("name", DETECTORS)
def test_reset_detector_is_as_new(name: str) -> None:
    used = build(name, QUICK)
    feed(used, bernoulli(6, (1500, 0.3)))
    used.reset()
    losses = bernoulli(5, (1200, 0.15), (600, 0.6))
    assert feed(used, losses) == feed(build(name, QUICK), losses)


def test_detector_with_other_parameters_begins_anew() -> None:
    used = build("adwin", QUICK)
    feed(used, bernoulli(6, (1500, 0.3)))
    assert restore({"name": "adwin", "delta": 0.01}, QUICK, used.snapshot()).score == 0.0


def test_state_of_another_detector_is_refused() -> None:
    with pytest.raises(CheckpointError, match="adwin"):
        restore("adwin", QUICK, b"rubbish")
    with pytest.raises(CheckpointError, match="e-sr"):
        restore("e-sr", QUICK, build("ddm", QUICK).snapshot())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("adwinn", "expected one of adwin, .*got 'adwinn'"),
        ({"delta": 1}, "got None"),
        ("driftretrainingclassifier", "expected one of"),
        ({"name": "adwin", "dleta": 1}, "dleta"),
        ({"name": "adwin", "error_at": 0.5}, "binary"),
        ({"name": "e-sr", "batch": 0}, "batch"),
        ({"name": "e-sr", "budget": 1}, "budget"),
        ({"name": "kswin", "alpha": 2}, "Alpha"),
    ],
)
def test_wrong_detector_is_named(spec: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(spec, QUICK)


# e-SR


class Scalar:
    """The recursion as the paper has it, one loss at a time."""

    def __init__(self, bound: float, threshold: float) -> None:
        self.bound, self.threshold = bound, threshold
        self.statistics = [0.0] * len(BETS)
        self.heights = [1.0] * len(BETS)

    def update(self, loss: float) -> bool:
        for lane, bet in enumerate(BETS.tolist()):
            factor = 1.0 + bet / self.bound * (loss - self.bound)
            self.statistics[lane] = (self.statistics[lane] + 1.0) * factor
            self.heights[lane] = max(1.0, self.heights[lane]) * factor
        return self.score >= self.threshold and max(self.heights) >= 2.0

    @property
    def score(self) -> float:
        return sum(self.statistics) / len(self.statistics)


RARE = ModelSettings(reference_rows=500, cycle=None)


def watching(rate: float, config: ModelSettings = RARE, seed: int = 0) -> EDetector:
    detector = EDetector(config, batch=1)
    feed(detector, bernoulli(seed, (-(-config.reference_rows // 16) * 16, rate)))
    assert state(detector) == "watching"
    return detector


@pytest.mark.parametrize("budget", [1e3, 1e5, 1e9])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_esr_equals_the_scalar_recursion(rate: float, budget: float) -> None:
    detector = EDetector(QUICK, budget=budget, batch=1)
    for loss in bernoulli(0, (2000, rate)):
        detector.update(np.array([loss]), np.array([0.0]))
        if detector._normal is not None:
            break
    assert detector._normal is not None
    scalar = Scalar(detector._normal.upper, budget)
    rng, mean = np.random.default_rng(1), detector._normal.mean
    losses = [rng.beta(2 * level, 2 - 2 * level, count) for level, count in ((mean, 1500), (2.0 * mean, 3000))]
    for loss in np.concatenate(losses):
        alarms = detector.update(np.array([loss]), np.array([0.0]))
        if scalar.update(float(loss)):
            assert [(alarm.direction, alarm.row) for alarm in alarms] == [("up", 0)]
            assert alarms[0].statistic == pytest.approx(scalar.score, rel=1e-9)
            return
        assert alarms == []
        assert detector.score == pytest.approx(scalar.score, rel=1e-9)
    pytest.fail("the rise was not found")


def test_esr_finds_a_rise_and_its_beginning() -> None:
    detector = watching(0.1, ModelSettings(cycle=None, reference_rows=2000))
    [alarm] = feed(detector, bernoulli(11, (4000, 0.1), (600, 0.3)))
    assert (alarm.row, alarm.rows) == (4096, 102)
    assert alarm.direction == "up"
    assert alarm.severity == "act"
    assert alarm.threshold == 100_000
    assert alarm.statistic >= 100_000
    assert alarm.before == pytest.approx(0.1, abs=0.02)
    assert alarm.after == pytest.approx(0.3, abs=0.08)


def test_esr_says_once_that_the_loss_rose_and_stays_high() -> None:
    detector = watching(0.2)
    alarms = feed(detector, bernoulli(12, (5000, 0.5)))
    assert [alarm.direction for alarm in alarms] == ["up"]
    assert state(detector) == "watching"
    again = feed(detector, bernoulli(13, (3000, 0.2), (500, 0.5)))
    assert [alarm.direction for alarm in again] == ["down", "up"]
    assert again[0].severity == "warn"


def test_esr_watches_with_its_old_reference_while_it_collects_a_better_one() -> None:
    detector = watching(0.4)
    [down] = feed(detector, bernoulli(14, (400, 0.1)))
    assert down.direction == "down"
    assert state(detector) == "watching"
    [up] = feed(detector, bernoulli(15, (150, 0.9)))
    assert up.direction == "up"
    assert up.before == pytest.approx(0.4, abs=0.05)


def test_improvement_re_anchors_so_that_a_return_to_the_old_level_is_found() -> None:
    losses = bernoulli(16, (512, 0.4), (3000, 0.1), (1500, 0.3))
    directions = [alarm.direction for alarm in feed(EDetector(RARE), losses)]
    assert directions == ["down", "up"]


def test_constant_losses_never_alarm() -> None:
    for level in (0.0, 0.25, 1.0):
        assert feed(EDetector(QUICK), np.full(20_000, level)) == []


def test_reference_waits_for_a_whole_cycle() -> None:
    detector = EDetector(ModelSettings(reference_rows=500, cycle=Seconds(86400)))
    losses = bernoulli(17, (2000, 0.2))
    detector.update(losses, 40.0 * np.arange(2000.0))
    assert state(detector) == "collecting"
    detector.update(losses, 40.0 * np.arange(2000.0, 4000.0))
    assert state(detector) == "watching"


def test_reference_with_too_few_errors_is_insufficient_until_patience_ends() -> None:
    detector = EDetector(QUICK)
    feed(detector, np.zeros(1000))
    assert state(detector) == "insufficient"
    assert detector.score is None
    feed(detector, np.zeros(20 * 512))
    assert state(detector) == "watching"
    [alarm] = feed(detector, bernoulli(18, (500, 0.1)))
    assert alarm.direction == "up"
    assert alarm.evidence["reference"] == "sparse"


def test_correlated_losses_are_tested_in_batches_after_a_longer_reference() -> None:
    rng = random.Random(3)
    state, losses = False, []
    for _ in range(40_000):
        if rng.random() > 0.8:
            state = rng.random() < 0.2
        losses.append(float(state))
    detector = EDetector(ModelSettings(cycle=None))
    feed(detector, np.array(losses))
    assert detector._normal is not None
    assert detector._sides is not None
    assert detector._normal.rows > 10_000
    assert detector._sides.batch == 64
    assert detector.threshold == 100_000 / 64


def test_reference_bounds_the_worst_stretch_of_a_cycle() -> None:
    moments = np.arange(200_000.0)
    rate = 0.1 + 0.05 * np.sin(2 * np.pi * moments / 10_000)
    losses = np.where(np.random.default_rng(5).random(200_000) < rate, 1.0, 0.0)
    reference = LossReference(ModelSettings(reference_rows=10_000, cycle=None))
    start, normal = 0, None
    while normal is None:
        assert start < len(losses), "never finished"
        start += reference.take(losses[start:], moments[start:])
        normal = reference.normal()
    assert normal.upper > 0.14
    assert normal.lower < 0.06


def test_reference_remembers_no_more_for_more_rows() -> None:
    detector = EDetector(ModelSettings(cycle=Seconds(1e9)))
    sizes = []
    for _ in range(2):
        feed(detector, bernoulli(19, (100_000, 0.1)))
        sizes.append(len(detector.snapshot()))
    assert max(sizes) < 2000


def test_false_alarms_stay_within_the_budget() -> None:
    # 60 streams of 10 000 rows at a budget of 1000: 600 would be allowed.
    config = ModelSettings(reference_rows=2000, cycle=None, budget=1000)
    ups = 0
    for seed in range(60):
        alarms = feed(EDetector(config), bernoulli(seed, (12_000, 0.1)))
        ups += sum(alarm.direction == "up" for alarm in alarms)
    assert ups < 300
