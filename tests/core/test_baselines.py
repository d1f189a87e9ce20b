"""Baselines against a slow oracle that looks at every earlier row for every row."""

import math
from collections import Counter
from dataclasses import fields, replace
from itertools import cycle
from statistics import median

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamapp.core.baselines import Baselines, plan
from streamapp.core.events import Names, Position
from streamapp.core.monitor import Monitor
from streamapp.core.monitoring import known as known_module
from streamapp.core.monitoring import series as series_module
from streamapp.core.monitoring.asked import Asked
from streamapp.core.monitoring.ids import Ids
from streamapp.core.monitoring.judging import Classes
from streamapp.core.monitoring.known import PAGE, Known
from streamapp.core.monitoring.series import Series
from streamapp.core.settings import ModelSettings, Settings
from streamapp.errors import ConfigError
from tests.core.rows import Row, batch, names


def summary(rows: list[Row], model: ModelSettings, sizes: tuple[int, ...] = (10**9,)) -> dict:
    """Return the groups of the one model after these rows, in batches of these sizes, over and over."""
    monitor = Monitor(0, Settings(defaults=model))
    start, offset = 0, 0
    while start < len(rows):
        size = sizes[offset % len(sizes)]
        monitor.apply(batch(rows[start : start + size]), Position(0, offset, 0.0))
        start, offset = start + size, offset + 1
    return monitor.summary()["fraud"]["groups"]


def known_to(rows: list[Row], place: int) -> list[Row]:
    """Return the rows whose outcomes the baselines of one row know, in order of log time."""
    seen, found = set(), []
    for other in rows[:place]:
        if other.outcome is None or other.id_hash in seen:
            continue
        seen.add(other.id_hash)
        if other.outcome_log_time < rows[place].log_time:
            found.append(other)
    return sorted(found, key=lambda row: row.outcome_log_time)


def mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def check(rows: list[Row], model: ModelSettings, answers, loss, sizes=(10**9,)) -> None:
    """Compare losses, rows and skill of every baseline with those of an oracle.

    Args:
        rows: All rows.
        model: Settings.
        answers: Name of each baseline to what it answers, from the rows known, and the row.
        loss: Summary names of losses to what an answer loses.
        sizes: Of batches.
    """
    groups = summary(rows, model, sizes)
    for group, found in groups.items():
        for name, answer in answers.items():
            answered = []
            for place, row in enumerate(rows):
                if row.group == group and row.outcome is not None:
                    past = known_to(rows, place)
                    value = answer(past, row)
                    if value is not None:
                        answered.append((row, value))
            entry = found["baselines"][name]
            assert entry["rows"] == len(answered), name
            for key, lost in loss.items():
                if key not in entry:
                    continue
                expected = mean([lost(value, row) for row, value in answered])
                assert entry[key] == (None if expected is None else pytest.approx(expected, abs=1e-9)), (name, key)


def streams(outcome, **fields):
    """Return rows with log times close together, so that ties, late outcomes and early outcomes are common."""
    times = st.integers(0, 12)
    row = st.fixed_dictionaries(
        {
            "outcome": outcome,
            "log": times,
            "delay": st.integers(-2, 8),
            "group": st.sampled_from(["a", "b"]),
            "id_hash": st.integers(1, 30),
            **fields,
        }
    )

    def build(parts: list[dict]) -> list[Row]:
        rows = []
        for place, part in enumerate(parts):
            part = dict(part)
            log = float(part.pop("log"))
            known = max(log + part.pop("delay"), 0.0)
            # An id has one outcome, however many groups answer it.
            same = next((row for row in rows if row.id_hash == part["id_hash"]), None)
            if same is not None:
                part["outcome"], known = same.outcome, same.outcome_log_time
                part["series"] = same.series
            rows.append(Row(ts=log, log_time=log, outcome_log_time=known, offset=place, **part))
        return rows

    return st.lists(row, min_size=1, max_size=40).map(build)


sizes = st.lists(st.integers(1, 15), min_size=1, max_size=4).map(tuple)


def frequent(values: list) -> object | None:
    return Counter(values).most_common(1)[0][0] if values else None


def by_series(past: list[Row], row: Row) -> list[Row]:
    return past if row.series is None else [other for other in past if other.series == row.series]


def back(past: list[Row], row: Row, places: int):
    found = by_series(past, row)
    return found[-places].outcome if len(found) >= places else None


BINARY = ModelSettings(
    loss="brier",
    detectors=(),
    baselines=(
        "prior",
        "majority",
        "persistence",
        {"seasonal": 1, "name": "one"},
        {"seasonal": 3},
        {"constant": 0.3, "name": "human"},
        {"constant": True, "name": "always"},
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    streams(st.booleans(), scores=st.floats(0, 1), series=st.sampled_from([None, None, "x", "y"])),
    sizes,
)
def test_baselines_of_two_classes_know_what_was_known_then(rows, sizes):
    def share(past, row):
        return mean([float(other.outcome) for other in past])

    answers = {
        "prior": share,
        "majority": lambda past, row: (sum(r.outcome for r in past) * 2 > len(past)) if past else None,
        "persistence": lambda past, row: back(past, row, 1),
        "one": lambda past, row: back(past, row, 1),
        "seasonal_3": lambda past, row: back(past, row, 3),
        "human": lambda past, row: 0.3,
        "always": lambda past, row: True,
    }
    loss = {
        "error": lambda p, row: float((p >= 0.5) != row.outcome),
        "brier": lambda p, row: (p - row.outcome) ** 2,
        "log_loss": lambda p, row: (
            -math.log(min(max(p if row.outcome else 1 - p, np.finfo(float).eps), 1 - np.finfo(float).eps))
        ),
    }
    check(rows, BINARY, answers, loss, sizes)


CLASSES = ModelSettings(
    detectors=(),
    baselines=("prior", "majority", "persistence", {"seasonal": 2}, {"constant": "c"}),
)


@settings(max_examples=60, deadline=None)
@given(streams(st.sampled_from("abcdefg"), prediction=st.sampled_from("abc")), sizes)
def test_baselines_of_several_classes_know_what_was_known_then(rows, sizes):
    order = list(dict.fromkeys(word for row in rows for word in (row.outcome, row.prediction)))

    def majority(past, row):
        counts = Counter(other.outcome for other in past)
        return max(order, key=lambda word: (counts[word], -order.index(word))) if past else None

    answers = {
        "prior": lambda past, row: Counter(other.outcome for other in past) or None,
        "majority": majority,
        "persistence": lambda past, row: back(past, row, 1),
        "seasonal_2": lambda past, row: back(past, row, 2),
        "constant": lambda past, row: "c",
    }

    def error(answer, row):
        if isinstance(answer, Counter):
            answer = max(order, key=lambda word: (answer[word], -order.index(word)))
        return float(answer != row.outcome)

    def brier(answer, row):
        n = answer.total()
        return sum((answer[word] / n - (word == row.outcome)) ** 2 for word in order)

    check(rows, CLASSES, answers, {"error": error, "brier": brier}, sizes)


NUMBERS = ModelSettings(
    detectors=(),
    baselines=("mean", "median", "persistence", {"seasonal": 4}, {"constant": 1}),
)


@settings(max_examples=60, deadline=None)
@given(
    streams(st.floats(-5, 5), prediction=st.floats(-5, 5), series=st.sampled_from([None, "x", "y"])),
    sizes,
)
def test_baselines_of_numbers_know_what_was_known_then(rows, sizes):
    answers = {
        "mean": lambda past, row: mean([other.outcome for other in past]),
        "median": lambda past, row: median([other.outcome for other in past]) if past else None,
        "persistence": lambda past, row: back(past, row, 1),
        "seasonal_4": lambda past, row: back(past, row, 4),
        "constant": lambda past, row: 1.0,
    }
    check(rows, NUMBERS, answers, {"mae": lambda answer, row: abs(answer - row.outcome)}, sizes)


@settings(max_examples=60, deadline=None)
@given(streams(st.booleans(), scores=st.floats(0, 1)), sizes)
def test_incumbent_is_the_mean_loss_of_the_control_group_known_then(rows, sizes):
    found = summary(rows, ModelSettings(control="a", detectors=()), sizes)
    theirs = []
    ours = []
    for place, row in enumerate(rows):
        if row.group == "b":
            past = [
                (other.scores - other.outcome) ** 2
                for other in rows[:place]
                if other.group == "a" and other.outcome_log_time < row.log_time
            ]
            if past:
                theirs.append(mean(past))
                ours.append((row.scores - row.outcome) ** 2)
    if {"a", "b"} <= found.keys():
        entry = found["b"]["baselines"]["incumbent"]
        assert entry["rows"] == len(theirs)
        assert entry["brier"] == (pytest.approx(mean(theirs), abs=1e-9) if theirs else None)
        skill = found["b"]["skill"]["incumbent"]
        assert skill == (pytest.approx(1 - mean(ours) / mean(theirs)) if theirs and mean(theirs) else None)
    assert "incumbent" not in found.get("a", {"baselines": {}})["baselines"]


def test_skill_compares_over_the_rows_where_the_baseline_answered():
    rows = [
        Row(outcome=True, scores=0.9, log_time=0.0, outcome_log_time=5.0, id_hash=1),
        Row(outcome=False, scores=0.2, log_time=6.0, outcome_log_time=9.0, id_hash=2),
        Row(outcome=True, scores=0.4, log_time=7.0, outcome_log_time=9.5, id_hash=3),
        Row(outcome=True, scores=0.8, log_time=9.2, outcome_log_time=9.9, id_hash=4),
    ]
    found = summary(rows, ModelSettings(detectors=()))["default"]
    assert found["baselines"]["prior"]["rows"] == 3
    assert found["baselines"]["prior"]["brier"] == pytest.approx((1 + 0 + 0.25) / 3)
    assert found["skill"]["prior"] == pytest.approx(1 - (0.04 + 0.36 + 0.04) / 1.25)
    # Persistence has no probability: errors against errors.
    assert found["baselines"]["persistence"] == {"error": pytest.approx(2 / 3), "rows": 3}
    assert found["skill"]["persistence"] == pytest.approx(1 - 1 / 2)


def test_skill_is_none_where_there_is_nothing_to_compare():
    found = summary([Row(outcome=True, scores=0.9)], ModelSettings(detectors=()))["default"]
    assert found["skill"] == {"prior": None, "majority": None, "persistence": None}
    assert found["baselines"]["prior"] == {"error": None, "brier": None, "log_loss": None, "rows": 0}


@pytest.mark.parametrize(
    ("spec", "task"),
    [
        ("mean", "binary"),
        ("prior", "regression"),
        ("guess", "binary"),
        ({"constant": "x"}, "regression"),
        ({}, "binary"),
    ],
)
def test_baselines_that_do_not_fit_the_task_are_refused(spec, task):
    with pytest.raises(ConfigError, match="baselines: expected"):
        plan(ModelSettings(baselines=(spec,)), task)


def asked(rows: list[Row], truth: list[float]) -> Asked:
    """Return rows as baselines take them, where every second one is the incumbent's."""
    own = np.arange(len(rows)) % 2 == 0
    return Asked(
        time=np.array([row.log_time for row in rows]),
        truth=np.array(truth),
        scored=np.array(truth),
        known=np.array([row.outcome_log_time for row in rows]),
        ids=np.array([row.id_hash for row in rows], np.uint64),
        series=names([row.series for row in rows]),
        incumbent=np.where(own, 0.25, np.nan),
        challenges=~own,
    )


def judged(baselines: Baselines, whole: Asked, sizes: tuple[int, ...]) -> np.ndarray:
    """Return what baselines lost on rows that come so many at a time, over and over."""
    found, start, turns = [], 0, cycle(sizes)
    while start < len(whole.time):
        cut = slice(start, start + next(turns))
        columns = {field.name: getattr(whole, field.name) for field in fields(Asked)}
        series = Names(code=whole.series.code[cut], words=whole.series.words)
        part = {name: column[cut] for name, column in columns.items() if name != "series"}
        found.append(baselines.judge(Asked(**part, series=series), Classes()))
        start = cut.stop
    return np.concatenate(found, axis=1)


@settings(max_examples=150, deadline=None)
@given(
    streams(st.sampled_from([0.0, 1.0, 2.0, 5.0]), series=st.sampled_from([None, "x", "x", "y", "z"])),
    sizes,
    st.integers(2, 8),
    st.integers(1, 3),
    st.sampled_from([-np.inf, 6.0]),
)
def test_how_rows_are_cut_changes_nothing_where_series_forget(rows, sizes, points, series, horizon):
    whole = asked(rows, [row.outcome for row in rows])
    chosen = ModelSettings(baselines=("mean", "median", "persistence", {"seasonal": 2}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series_module, "POINTS_MAX", points)
        patch.setattr(series_module, "SERIES_MAX", series)
        single, cut, once = (Baselines("regression", chosen) for _ in range(3))
        for each in (single, cut, once):
            each.trim(horizon)
        expected = judged(single, whole, (1,))
        np.testing.assert_array_equal(judged(cut, whole, sizes), expected)
        np.testing.assert_array_equal(judged(once, whole, (10**9,)), expected)
    assert cut.take() == once.take() == single.take()


@pytest.mark.parametrize("new", [1, 2, 40])
def test_a_new_class_finds_room_where_the_past_of_many_classes_is_full(monkeypatch, new):
    for name in ("CAPACITY", "CELLS", "PAGE"):
        monkeypatch.setattr(known_module, name, getattr(known_module, name) // 256)
    full, rng = known_module.CAPACITY, np.random.default_rng(8)
    code = np.concatenate((np.arange(full) % 16, 15 + np.arange(1, new + 1), rng.integers(0, 16 + new, full)))
    times = np.arange(len(code)) + rng.integers(-300, 300, len(code))
    rows = [
        Row(log_time=float(time), outcome_log_time=time + 5.0, id_hash=i + 1) for i, time in enumerate(times.tolist())
    ]
    whole = asked(rows, code.astype(float).tolist())
    chosen = ModelSettings(baselines=("prior", "majority", "persistence", {"seasonal": 3}))
    single, once = Baselines("multiclass", chosen), Baselines("multiclass", chosen)
    expected = judged(single, whole, (1,))
    np.testing.assert_array_equal(judged(once, whole, (10**9,)), expected)
    entries = once.take()
    assert entries == single.take()
    copy = Baselines("multiclass", chosen)
    copy.load(entries)
    later = asked(
        [replace(row, id_hash=row.id_hash + 10**6) for row in rows[-100:]], code[-100:].astype(float).tolist()
    )
    np.testing.assert_array_equal(judged(copy, later, (7,)), judged(single, later, (1,)))


@pytest.mark.parametrize("classes", [17, 33, 400])
def test_a_past_that_is_widened_knows_less_never_more(monkeypatch, classes):
    for name in ("CAPACITY", "CELLS", "PAGE"):
        monkeypatch.setattr(known_module, name, getattr(known_module, name) // 256)
    past, rng = Known(classes=16, reach=3), np.random.default_rng(9)
    times, values = rng.random(past.make_room()) * 100.0, rng.integers(0, 16, past.make_room()).astype(float)
    past.put(times, values)
    past.widen(classes)
    room = past.make_room()
    assert room > 0
    assert len(past) + room == max(known_module.CELLS // past.width, 4 * known_module.PAGE)
    past.put(np.array([10.0]), np.array([classes - 1.0]))  # late: it is known from the end of what was thinned on
    questions = np.linspace(0.0, 101.0, 500)
    for at, counts in zip(questions, past.sums(past.find(questions)), strict=True):
        exact = np.bincount(values[times < at].astype(int), minlength=past.width)
        exact[classes - 1] += at > 10.0
        assert (counts <= exact).all()
    np.testing.assert_array_equal(counts, exact)
    ordered = values[np.argsort(times)]
    assert [past.value(past.find(np.array([101.0])), back)[0] for back in (1, 2, 3)] == ordered[:-4:-1].tolist()


def restored(source: Known, entries: dict[str, bytes | None], **kind) -> Known:
    for key, data in source.take().items():
        if data is None:
            del entries[key]
        else:
            entries[key] = data
    copy = Known(**kind)
    copy.load(entries)
    return copy


@pytest.mark.parametrize("kind", [{"classes": 2}, {"median": True, "reach": 5}])
def test_restored_past_answers_as_the_one_that_was_stored(kind):
    rng = np.random.default_rng(3)
    past, entries = Known(**kind), {}
    for step in range(60):
        n = int(rng.integers(1, 400))
        times = step * 10.0 + rng.integers(-15, 15, n)
        values = rng.integers(0, 2, n).astype(float) if "classes" in kind else rng.normal(size=n)
        past.put(times, values, rng.integers(1, 2**60, n).astype(np.uint64))
        past.trim(step * 10.0 - 300.0)
        if step % 7 == 0:
            past_questions = np.arange(step * 10.0 - 250.0, step * 10.0 + 20.0)
            copy = restored(past, entries, **kind)
            for one in (past, copy):
                place = one.find(past_questions)
                answers = [one.sums(place), one.value(place), one.value(place, 3), one.ids]
                answers += [one.median(place)] if "median" in kind else []
                if one is past:
                    expected = answers
            for a, b in zip(expected, answers, strict=True):
                np.testing.assert_array_equal(a, b)
            past = copy
    if "classes" in kind:
        assert len(past) < 60 * 200 * 0.75


def test_trimming_changes_no_answer_that_can_still_be_asked_for():
    rng = np.random.default_rng(5)
    whole, trimmed = Known(median=True), Known(median=True)
    for step in range(300):
        times, values = step + rng.random(100), rng.normal(size=100)
        whole.put(times, values)
        trimmed.put(times, values)
        trimmed.trim(step - 20.0)
    assert len(trimmed) < len(whole)
    questions = np.linspace(280.0, 301.0, 50)
    for name in ("sums", "value", "median"):
        np.testing.assert_array_equal(
            getattr(whole, name)(whole.find(questions)), getattr(trimmed, name)(trimmed.find(questions))
        )


@given(st.lists(st.tuples(st.integers(1, 900), st.floats(0.0, 40.0)), min_size=1, max_size=15), st.integers(1, 40))
def test_what_would_be_trimmed_is_trimmed_and_nothing_else(steps, reach):
    past = Known(classes=2, reach=reach)
    time = 0.0
    for count, seconds in steps:
        past.put(time + np.linspace(0.0, seconds, count), np.zeros(count))
        time += seconds
        for horizon in (time - 30.0, time - 10.0, time):
            before, would = len(past), past.would_trim(horizon)
            # As it is told: what no question needs, in whole pages, once that is a page and a quarter of all.
            needless = int(np.count_nonzero(past._times[:before] < horizon)) - reach
            drop = max(needless, 0) // PAGE * PAGE
            assert would == (drop >= max(PAGE, before // 4))
            assert past.trim(horizon) == would
            assert len(past) == before - (drop if would else 0)


def test_median_is_over_the_newest_outcomes():
    rng = np.random.default_rng(6)
    values = rng.normal(size=known_module.MEDIAN_OF + 500)
    past = Known(median=True)
    past.put(np.arange(len(values), dtype=float), values)
    for end in (1, 2, 77, known_module.MEDIAN_OF, known_module.MEDIAN_OF + 250, len(values)):
        expected = np.median(values[max(0, end - known_module.MEDIAN_OF) : end])
        assert past.median(np.array([end]))[0] == expected
    # A late one: all medians after it are found anew.
    past.put(np.array([known_module.MEDIAN_OF + 100.5]), np.array([9.0]))
    values = np.insert(values, known_module.MEDIAN_OF + 101, 9.0)
    for end in (known_module.MEDIAN_OF + 50, known_module.MEDIAN_OF + 102, len(values)):
        expected = np.median(values[max(0, end - known_module.MEDIAN_OF) : end])
        assert past.median(np.array([end]))[0] == expected


def test_full_past_knows_less_never_more():
    rng = np.random.default_rng(7)
    past, times, values = Known(classes=1024), [], []
    for step in range(40):
        n = past.make_room() // 3 + 1
        new = step + rng.random(n) * 1.5
        code = rng.integers(0, 1024, n).astype(float)
        past.put(new, code)
        times.append(new)
        values.append(code)
    every, code = np.concatenate(times), np.concatenate(values)
    assert len(past) <= known_module.CELLS // 1024
    questions = np.sort(rng.random(200) * 41.0)
    answers = past.sums(past.find(questions))
    for at, counts in zip(questions, answers, strict=True):
        exact = np.bincount(code[every < at].astype(int), minlength=1024)
        assert (counts <= exact).all()
        if at > 39.5:
            assert counts.sum() > 0.9 * exact.sum()
    newest = past.sums(past.find(np.array([100.0])))[0]
    np.testing.assert_array_equal(newest, np.bincount(code.astype(int), minlength=1024))


def test_checkpoint_of_the_past_rewrites_only_pages_that_changed():
    past = Known(classes=2)
    past.put(np.arange(5 * PAGE, dtype=float), np.zeros(5 * PAGE))
    assert set(past.take()) == {"head", "0", "1", "2", "3", "4"}
    past.put(np.array([1e6]), np.zeros(1))
    assert set(past.take()) == {"head", "5"}
    past.put(np.array([4.5 * PAGE]), np.zeros(1))
    assert set(past.take()) == {"head", "4", "5"}
    assert past.trim(3.5 * PAGE)
    gone = past.take()
    assert {key for key, data in gone.items() if data is None} == {"0", "1", "2"}


@example([[0, 0xD6E8FEB86659FD93], [0, 5, 0], [0] * 40 + list(range(40))])
@given(st.lists(st.lists(st.integers(0, 60) | st.integers(0, 2**64 - 1), max_size=200), max_size=12))
def test_ids_are_new_once(batches):
    ids, seen = Ids(), set()
    for numbers in batches:
        new = []
        for number in numbers:
            new.append(number not in seen)
            seen.add(number)
        assert ids.add(np.array(numbers, np.uint64)).tolist() == new
        assert len(ids) == len(seen)


def test_ids_that_want_the_same_slot_are_told_apart():
    # All multiples of the inverse of the constant that mixes them begin at slot 0 or near it.
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    alike = np.array([(inverse * i) % 2**64 for i in range(1, 900)], np.uint64)
    ids = Ids(alike[:600])
    assert ids.add(alike).tolist() == [False] * 600 + [True] * 299
    assert len(ids) == 899


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 20), st.integers(0, 9)), max_size=60))
def test_series_have_pasts_of_their_own(points):
    series, entries = Series(3), {}
    for name, time, value in points:
        series.put(name, float(time), float(value), -1.0)
        entries.update({key: data for key, data in series.take().items() if data is not None})
    copy = Series(3)
    copy.load(entries)
    for name in "xyz":
        ordered = sorted(((time, value) for other, time, value in points if other == name), key=lambda point: point[0])
        for at in (0.0, 5.0, 5.5, 21.0):
            known = [value for time, value in ordered if time < at]
            for places in (1, 3):
                expected = known[-places] if len(known) >= places else None
                assert series.value(name, at, places) == copy.value(name, at, places) == expected


def test_series_keep_their_newest_points_however_old():
    series = Series(12)
    for month in range(500):
        series.put("x", month * 2.6e6, float(month), month * 2.6e6 - 3600.0)
    assert series.value("x", 1e12, 12) == 488.0
    assert sum(len(data) for data in series.take().values()) < 64 * 18 + 100


def test_rows_that_count_for_no_metric_count_for_no_baseline():
    rows = [Row(outcome=True, scores=0.9, log_time=float(i), outcome_log_time=i + 0.5, id_hash=i + 1) for i in range(4)]
    rows += [
        Row(outcome="odd", scores=0.9, log_time=9.0, id_hash=10),
        Row(outcome=True, scores=0.9, loss=0.5, log_time=9.0, id_hash=11),
        Row(outcome=True, log_time=9.0, id_hash=12),
    ]
    chosen = ModelSettings(detectors=(), baselines=("prior", {"constant": 0.25}, "persistence"))
    found = summary(rows, chosen)["default"]
    assert found["baselines"]["prior"] == {"error": 0.0, "brier": 0.0, "log_loss": pytest.approx(0.0), "rows": 3}
    assert {name: entry["rows"] for name, entry in found["baselines"].items()} == {
        "prior": 3,
        "constant": 4,
        "persistence": 3,
    }
    report = Monitor(0, Settings(defaults=ModelSettings(detectors=())))
    report.apply(batch(rows), Position(0, 0, 0.0))
    sums = report.report()[0].groups[0].baseline_losses
    assert {loss: rows for (name, loss), (_, rows) in sums.items() if name == "prior"} == {
        "error": 3,
        "brier": 3,
        "log": 3,
    }
