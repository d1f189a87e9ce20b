"""What is gone for long is forgotten, by log time alone; what is forgotten on purpose begins anew."""

import itertools
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.core.events import Tick
from streamapp.core.monitor import Monitor, keys_of, models_in
from streamapp.core.settings import ModelSettings, Settings
from tests.core.rows import Row, batch
from tests.core.test_monitor import QUICK, Log, arrivals, errors

SHORT = msgspec.structs.replace(QUICK, forget_after=100.0)


def rows(group: str, at: float, count: int = 1):
    return [Row(prediction=True, outcome=True, ts=at, id_hash=int(at) + i + 1, group=group) for i in range(count)]


def tick(log: Log, at: float):
    return log.apply(Tick(partition=0, log_time=at), at)


def groups(log: Log, model: str = "fraud") -> set[str]:
    return set(log.monitor.summary().get(model, {"groups": {}})["groups"])


def test_a_group_that_is_silent_for_longer_than_that_is_forgotten_and_the_others_stay():
    log = Log(SHORT)
    log.apply(arrivals({"old": 1}, log_time=0.0))
    log.apply(batch(rows("old", 0.0)))
    log.apply(batch(rows("new", 90.0)))
    log.commit()
    tick(log, 101.0)  # the old group's outcome came at 1
    assert groups(log) == {"old", "new"}
    tick(log, 101.5)
    assert groups(log) == {"new"}
    assert log.monitor.take_forgotten() == [("fraud", "old")]
    assert log.monitor.take_forgotten() == []
    gone = log.commit()
    assert gone[b"model/fraud/group/old"] is None
    assert b"model/fraud/group/new" in log.stored
    log.restart()
    assert groups(log) == {"new"}


def test_a_model_goes_with_its_last_group():
    log = Log(SHORT)
    log.apply(batch([*rows("a", 0.0), *rows("b", 50.0)]))
    log.apply(batch(rows("a", 0.0), model="other"))
    log.commit()
    tick(log, 300.0)
    assert log.monitor.summary() == {}
    assert log.monitor.take_forgotten() == [
        ("fraud", "a"),
        ("fraud", "b"),
        ("fraud", None),
        ("other", "a"),
        ("other", None),
    ]
    log.commit()
    assert set(log.stored) == {b"meta"}
    assert models_in(log.stored) == []


def test_a_group_whose_predictions_wait_for_their_outcome_is_not_forgotten():
    log = Log(SHORT)
    log.apply(arrivals({"a": 2}, log_time=0.0))
    log.apply(batch(rows("a", 0.0)))
    tick(log, 500.0)
    assert groups(log) == {"a"}
    log.apply(batch(rows("a", 500.0)))
    tick(log, 700.0)
    assert groups(log) == set()


def test_a_model_that_comes_back_is_a_new_one():
    log = Log(SHORT)
    log.apply(batch(errors([True] * 5)))
    tick(log, 200.0)
    log.apply(batch(errors([False], start=300)))
    assert log.group()["outcomes"] == 1
    assert log.group()["metrics"]["accuracy"] == 1.0


def test_a_model_that_comes_back_before_it_was_written_has_nothing_of_the_old_one_after_a_restart():
    log, steady = (Log(ModelSettings(detectors=(), forget_after=1000.0, task="regression")) for _ in range(2))

    def observe(outcome: float, at: float, series: str):
        for each in (log, steady):
            each.apply(batch([Row(prediction=1.0, outcome=outcome, ts=at, id_hash=int(at) + 1, series=series)]))

    observe(100.0, 0.0, "old")
    log.commit()
    for each in (log, steady):
        tick(each, 5000.0)
    observe(1.0, 5001.0, "new")
    log.commit()
    log.restart()
    observe(2.0, 5010.0, "old")  # nothing is known of it
    assert log.monitor.report() == steady.monitor.report()
    assert log.monitor.report()[0].groups[0].baseline_losses["persistence", "absolute"] == (0.0, 0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 160), st.sampled_from([None, "x", "y"]), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 29),
    st.integers(0, 3),
)
def test_forgetting_does_not_depend_on_restarts_or_on_what_was_written(steps, cut, budget):
    def play(restarts: bool):
        log, now = Log(SHORT), 0.0
        for number, (group, pause, series, written) in enumerate(steps):
            now += pause
            tick(log, now)
            found = [replace(row, outcome=number % 3 > 0, series=series) for row in rows(group, now)]
            log.apply(batch(found, model="ab"[number % 2]), now)
            if written:
                log.commit(budget * 3000)
            if restarts and number == cut:
                log.restart()
        log.commit(0)
        if restarts:
            log.restart()
        for model, series in itertools.product("ab", "xy"):  # what is known of each
            log.apply(batch([replace(row, series=series) for row in rows("a", now + 10.0)], model=model), now)
        return log.monitor.summary()

    assert play(True) == play(False)


# -- on purpose --------------------------------------------------------------------------------------------------------


def test_a_model_that_is_reset_begins_with_its_next_message_and_the_others_know_nothing_of_it():
    log, plain = Log(), Log()
    for each in (log, plain):
        each.apply(batch(errors([True] * 40), model="bad"))
        each.apply(batch(errors([True] * 40), model="good"))
        each.commit()
    before = set(log.stored)
    assert log.monitor.reset("bad")
    assert not log.monitor.reset("unknown")
    gone = log.commit(0)
    assert {key for key, data in gone.items() if data is None} == set(keys_of("bad", before))
    log.restart()
    for each in (log, plain):
        each.apply(batch(errors([False] * 3, start=50), model="bad"))
        each.apply(batch(errors([False] * 3, start=50), model="good"))
    assert log.group(model="bad")["outcomes"] == 3
    assert log.group(model="bad")["metrics"]["accuracy"] == 1.0
    assert log.group(model="good") == plain.group(model="good")


def test_predictions_that_wait_stay_counted_when_their_model_is_reset():
    log = Log()
    log.apply(arrivals({"a": 5, "b": 1}))
    log.apply(batch(rows("a", 1.0, 2)))
    log.apply(batch(rows("b", 1.0, 1)))
    log.commit()
    log.monitor.reset("fraud")
    log.commit(0)
    log.restart()
    assert groups(log) == {"a"}
    assert (log.group("a")["predictions"], log.group("a")["outcomes"], log.group("a")["pending"]) == (3, 0, 3)
    log.apply(batch(rows("a", 2.0, 3)))
    assert (log.group("a")["predictions"], log.group("a")["outcomes"], log.group("a")["pending"]) == (3, 3, 0)


def test_a_reset_model_that_was_behind_is_shown_what_it_had_not_seen_and_no_more():
    log = Log()
    log.apply(arrivals({"a": 4}))
    log.apply(batch(rows("a", 1.0)))
    log.commit()
    log.apply(batch(rows("a", 2.0)))
    log.apply(batch(rows("x", 2.0), model="other"))
    log.commit(0)
    log.monitor = Monitor.restore(3, log.settings, log.stored)
    log.monitor.reset("fraud")
    log.commit(0)
    log.restart()
    assert (log.group("a")["predictions"], log.group("a")["outcomes"], log.group("a")["pending"]) == (3, 1, 2)
    assert log.group("x", model="other")["outcomes"] == 1


def test_a_large_model_leaves_nothing_behind_when_it_is_reset():
    log = Log()
    log.apply(batch([Row(prediction=True, outcome=True, group=f"g{i}", id_hash=i + 1) for i in range(50)]))
    log.apply(batch(errors([True]), model="fraud/group"))
    log.commit()
    others = set(keys_of("fraud/group", log.stored))
    log.monitor.reset("fraud")
    log.commit(0)
    assert set(log.stored) == {b"meta", *others}
    log.restart()


def test_a_verdict_on_a_prediction_that_was_forgotten_counts_it():
    log = Log()
    log.apply(arrivals({"a": 1}))
    log.apply(batch(rows("a", 1.0, 3)))
    assert (log.group("a")["predictions"], log.group("a")["pending"]) == (3, 0)


def test_a_restart_in_the_middle_of_catching_up_changes_nothing():
    log = Log()
    for model in "ab":
        log.apply(batch(errors([True]), model=model))
    log.commit()
    for number, model in enumerate("bba"):
        log.apply(batch(errors([True], start=1 + number), model=model))
    assert b"model/b" in log.commit(1)  # it has waited longest, so `a` waits on
    log.apply(batch(errors([True], start=5), model="b"))
    log.commit(0)
    whole = log.monitor.summary()
    log.monitor = Monitor.restore(3, log.settings, log.stored)
    message, position = next(each for each in log.messages if each[1].offset >= log.monitor.applied)
    log.monitor.apply(message, position)  # `a` has further to go than `b`
    log.commit()
    log.restart()
    assert log.monitor.summary() == whole


@pytest.mark.parametrize("name", ["fraud", "fr/aud", "fr~1", "ü", "model/x", "%7E"])
def test_keys_are_told_by_the_model_that_they_belong_to(name: str):
    log = Log(ModelSettings(detectors=()))
    log.apply(batch(errors([True]), model=name))
    log.apply(batch(errors([True]), model=name + "x"))
    log.commit()
    assert set(models_in(log.stored)) == {name, name + "x"}
    own, others = keys_of(name, log.stored), keys_of(name + "x", log.stored)
    assert {*own, *others, b"meta"} == set(log.stored)
    rest = {key: data for key, data in log.stored.items() if key not in own}
    assert set(Monitor.restore(3, Settings(), rest).summary()) == {name + "x"}
