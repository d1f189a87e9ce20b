from math import inf, nextafter

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from pyroaring import BitMap

from streamapp.core.events import Kind
from streamapp.core.join import STEP, InputBatch, Joiner, Limits
from streamapp.core.joining.state import ROW_BYTES
from streamapp.core.settings import ModelSettings, Seconds, Settings
from streamapp.errors import CheckpointError, DecodeError
from tests.core.joining import SETTINGS, Log, Run, observe, predict, restore, rows_of, whole

# The window is 10 s, grace 5 s, remember 4 s (see joining.py), unless a test says otherwise.


def verdicts(predictions, outcomes, end=1000.0):
    """What became of each prediction by offset, and the counts of the outcomes."""
    run, joiner = whole(Log(predictions), Log(outcomes), end)
    found = {row[0]: (row[3], row[4]) for row in run.all_rows()}
    counts = {name: n for name, n in joiner.totals["outcomes"].items() if n and name != "read"}
    return found, counts


# (rule, predictions, outcomes, verdict and outcome's offset by prediction, counts of outcomes)
RULES = [
    (
        "an outcome joins its prediction",
        [(0, predict("a", 0))],
        [(1, observe("a", 1))],
        {0: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "the window includes its end",
        [(0, predict("a", 0))],
        [(10, observe("a", 10))],
        {0: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "an outcome from after the window is late, and its prediction expires",
        [(0, predict("a", 0))],
        [(11, observe("a", 10.5))],
        {0: ("EXPIRED", -1)},
        {"late": 1},
    ),
    (
        "an outcome may be as much earlier than its prediction as grace",
        [(5, predict("a", 5))],
        [(5, observe("a", 0))],
        {0: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "an outcome from long before its prediction is rejected, and the next one joins",
        [(6, predict("a", 6))],
        [(6, observe("a", 0)), (7, observe("a", 7))],
        {0: ("JOINED", 1)},
        {"rejected": 1, "accepted": 1},
    ),
    (
        "the second outcome that does not belong is a duplicate",
        [(6, predict("a", 6))],
        [(6, observe("a", 0)), (7, observe("a", 0)), (8, observe("a", 17))],
        {0: ("EXPIRED", -1)},
        {"rejected": 1, "duplicate": 2},
    ),
    (
        "an outcome delivered at the deadline joins",
        [(0, predict("a", 0))],
        [(15, observe("a", 10))],
        {0: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "an outcome delivered after the deadline is late",
        [(0, predict("a", 0))],
        [(15.5, observe("a", 10))],
        {0: ("EXPIRED", -1)},
        {"late": 1},
    ),
    (
        "an expired prediction is forgotten after a while, so that its outcome is unmatched",
        [(0, predict("a", 0))],
        [(19.5, observe("a", 10))],
        {0: ("EXPIRED", -1)},
        {"unmatched": 1},
    ),
    (
        "an expiry takes no other with it whose deadline is now",
        [(0, predict("a", 0)), (0.5, predict("b", 0.5))],
        [(15.5, observe("b", 10))],
        {0: ("EXPIRED", -1), 1: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "the deadline counts from when the prediction was delivered, if that was later",
        [(100, predict("a", 0))],
        [(115, observe("a", 10))],
        {0: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "the second outcome is a duplicate",
        [(0, predict("a", 0))],
        [(1, observe("a", 1)), (2, observe("a", 2))],
        {0: ("JOINED", 0)},
        {"accepted": 1, "duplicate": 1},
    ),
    (
        "a higher revision comes late, since corrections are off",
        [(0, predict("a", 0))],
        [(1, observe("a", 1)), (2, observe("a", 2, revision=1))],
        {0: ("JOINED", 0)},
        {"accepted": 1, "late": 1},
    ),
    (
        "an early outcome waits for its prediction",
        [(5, predict("a", 5))],
        [(1, observe("a", 1))],
        {0: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "an outcome is unmatched when its prediction comes after grace",
        [(6.5, predict("a", 1))],
        [(1, observe("a", 1))],
        {0: ("EXPIRED", -1)},
        {"unmatched": 1},
    ),
    (
        "of several early outcomes the first that belongs joins",
        [(5, predict("a", 5))],
        [(1, observe("a", 301)), (2, observe("a", 4)), (3, observe("a", 4))],
        {0: ("JOINED", 1)},
        {"rejected": 0, "late": 1, "accepted": 1, "duplicate": 1},
    ),
    (
        "of several outcomes without a prediction one is unmatched, the others are duplicates",
        [],
        [(1, observe("a", 1)), (2, observe("a", 1)), (3, observe("b", 1))],
        {},
        {"unmatched": 2, "duplicate": 1},
    ),
    (
        "the first prediction of an id and group wins",
        [(0, predict("a", 0)), (1, predict("a", 1, model="long"))],
        [(2, observe("a", 2))],
        {0: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "an outcome answers all groups of its id",
        [(0, predict("a", 0, group="g")), (1, predict("a", 1, group="h"))],
        [(2, observe("a", 2))],
        {0: ("JOINED", 0), 1: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "a shadow group that answers late joins the remembered outcome",
        [(0, predict("a", 0, group="g")), (6, predict("a", 1, group="h"))],
        [(2, observe("a", 2))],
        {0: ("JOINED", 0), 1: ("JOINED", 0)},
        {"accepted": 1},
    ),
    (
        "a shadow group that answers after that has no outcome",
        [(0, predict("a", 0, group="g")), (6.5, predict("a", 1, group="h"))],
        [(2, observe("a", 2))],
        {0: ("JOINED", 0), 1: ("EXPIRED", -1)},
        {"accepted": 1},
    ),
    (
        "an id may be used again when it is forgotten",
        [(0, predict("a", 0)), (6.5, predict("a", 6.5))],
        [(2, observe("a", 2)), (7, observe("a", 7))],
        {0: ("JOINED", 0), 1: ("JOINED", 1)},
        {"accepted": 2},
    ),
    (
        "a prediction that never gets an outcome is censored",
        [(0, predict("a", 0))],
        [(1, observe("a", 1, outcome=None, status="never"))],
        {0: ("CENSORED", 0)},
        {"accepted": 1},
    ),
    (
        "an outcome of another type is rejected, and its prediction waits on",
        [(0, predict("a", 0, prediction=True))],
        [(1, observe("a", 1, outcome="yes")), (2, observe("a", 2, outcome=1.0)), (3, observe("a", 3, outcome=False))],
        {0: ("JOINED", 2)},
        {"rejected": 2, "accepted": 1},
    ),
    (
        "where only a score was given, or only a loss came, any type fits",
        [(0, predict("a", 0, prediction=None, scores=0.5)), (0, predict("b", 0, prediction="x"))],
        [(1, observe("a", 1, outcome="yes")), (1, observe("b", 1, outcome=None, loss=0.5))],
        {0: ("JOINED", 0), 1: ("JOINED", 1)},
        {"accepted": 2},
    ),
    (
        "what lies too far in the future is rejected",
        [(0, predict("a", 301)), (1, predict("b", 301))],
        [(1, observe("b", 301.5))],
        {1: ("EXPIRED", -1)},
        {"rejected": 1},
    ),
]


@pytest.mark.parametrize(("rule", "predictions", "outcomes", "expected", "counts"), RULES, ids=[r[0] for r in RULES])
def test_rule(rule, predictions, outcomes, expected, counts):
    assert verdicts(predictions, outcomes) == (expected, {name: n for name, n in counts.items() if n})


def test_an_assumed_outcome_stands_for_the_one_that_never_came():
    run, joiner = whole(Log([(0, predict("a", 0, model="assumed"))]), Log([]), 100.0)
    assert run.all_rows() == [(0, "assumed", "g", "JOINED", -1, 0.0, 0.0, 6.0, 11.0, "False", "assumed")]
    assert joiner.totals["outcomes"]["accepted"] == 0


def test_prediction_expires_when_log_time_passes_its_deadline():
    joiner = Joiner(0, SETTINGS)
    joiner.predictions(Log([(0.0, predict("a", 0))]).batch(0, 1))
    joiner.advance(predictions=15.0, outcomes=15.0)
    assert joiner.deadline() == nextafter(15.0, inf)
    assert joiner.take().rows == ()
    assert joiner.pending() == 1
    joiner.advance(predictions=nextafter(15.0, inf), outcomes=nextafter(15.0, inf))
    [batch] = joiner.take().rows
    assert [row[3] for row in rows_of(batch)] == ["EXPIRED"]
    assert joiner.pending() == 0
    assert joiner.deadline() is None


def test_a_prediction_waits_until_outcomes_are_known_to_its_log_time():
    joiner = Joiner(0, SETTINGS)
    joiner.predictions(Log([(7.0, predict("a", 7))]).batch(0, 1))
    assert joiner.take().arrivals == ()
    assert (joiner.buffered(), joiner.deadline()) == (1, 7.0)
    joiner.advance(outcomes=7.0)
    [arrivals] = joiner.take().arrivals
    assert (arrivals.log_time, arrivals.groups[0].predictions, joiner.buffered()) == (7.0, 1, 0)


def test_an_outcome_waits_until_all_predictions_of_its_log_time_are_known():
    joiner = Joiner(0, SETTINGS)
    predictions = Log([(7.0, predict("a", 7)), (7.0, predict("b", 7))])
    joiner.outcomes(Log([(7.0, observe("b", 7))]).batch(0, 1))
    joiner.predictions(predictions.batch(0, 1))
    assert joiner.take().counts == {("predictions", "read"): 1, ("predictions", "accepted"): 1}
    joiner.predictions(predictions.batch(1, 2))
    assert joiner.take().rows == ()
    joiner.advance(predictions=7.0)
    assert [row[0] for row in rows_of(joiner.take().rows[0])] == [1]


def test_log_times_are_none_before_anything_is_known_and_never_fall():
    joiner = Joiner(0, SETTINGS)
    assert (joiner.predictions_log_time, joiner.outcomes_log_time, joiner.log_time) == (None, None, None)
    joiner.predictions(Log([(5.0, predict("a", 5)), (3.0, predict("b", 3))]).batch(0, 2))
    assert (joiner.predictions_log_time, joiner.log_time) == (5.0, None)
    joiner.advance(predictions=4.0, outcomes=4.0)
    assert (joiner.predictions_log_time, joiner.outcomes_log_time, joiner.log_time) == (5.0, 4.0, 4.0)


def test_rows_carry_everything_that_was_said():
    answer = predict(
        "a", 1, prediction="x", scores={"x": 0.75, "y": 0.25}, version="v", series="s", unit="u", latency=0.5
    )
    joiner = Joiner(3, SETTINGS)
    joiner.predictions(Log([(2.0, answer)], first=9).batch(0, 1))
    joiner.outcomes(Log([(4.0, observe("a", 3, outcome="y", loss=0.25, source="human"))], first=7).batch(0, 1))
    joiner.advance(predictions=5.0, outcomes=5.0)
    output = joiner.take()
    [batch] = output.rows
    assert (batch.model, batch.partition, batch.offset.tolist(), batch.outcome_offset.tolist()) == ("m", 3, [9], [7])
    assert (batch.group[0], batch.version[0], batch.series[0], batch.unit[0]) == ("g", "v", "s", "u")
    assert [batch.ts[0], batch.log_time[0], batch.outcome_ts[0], batch.outcome_log_time[0]] == [1.0, 2.0, 3.0, 4.0]
    assert (batch.prediction[0], batch.outcome[0], batch.outcome_source[0]) == ("x", "y", 1)
    assert (batch.classes, batch.probabilities.tolist()) == (("x", "y"), [[0.75, 0.25]])
    assert (batch.loss[0], batch.latency[0], np.isnan(batch.score[0])) == (0.25, 0.5, True)
    [arrivals] = output.arrivals
    assert (arrivals.model, arrivals.partition, arrivals.log_time) == ("m", 3, 2.0)
    [group] = arrivals.groups
    assert (group.group, group.predictions, group.latency_sum, group.scores) == ("g", 1, 0.5, {})
    assert sum(group.latency.values()) == 1


def test_arrivals_count_scores_in_sixty_four_bins():
    records = [(1.0, predict(str(i), 1, scores=score)) for i, score in enumerate([0.0, 0.5, 0.499, 1.0, 1.0])]
    run = Joiner(0, SETTINGS)
    run.predictions(Log(records).batch(0, 5))
    run.advance(predictions=2.0, outcomes=2.0)
    [arrivals] = run.take().arrivals
    assert arrivals.groups[0].scores == {0: 1, 31: 1, 32: 1, 63: 2}


def test_an_expired_row_has_no_outcome():
    joiner = Joiner(0, SETTINGS)
    joiner.predictions(Log([(0.0, predict("a", 0))]).batch(0, 1))
    joiner.advance(predictions=50.0, outcomes=50.0)
    [batch] = joiner.take().rows
    assert batch.outcome.kind.tolist() == [Kind.NONE]
    assert batch.outcome_offset.tolist() == [-1]
    assert np.isnan([batch.outcome_ts[0], batch.outcome_log_time[0], batch.loss[0]]).all()


def test_dead_letters_keep_the_bytes_and_say_what_was_expected():
    predictions = Log([(0.0, DecodeError("expected x", reason="malformed")), (6.0, predict("a", 6))])
    run, _ = whole(predictions, Log([(6.0, observe("a", 0)), (7.0, observe("b", 400))]), 100.0)
    values = [letter[3] for letter in run.dead]
    assert [letter[:3] for letter in run.dead] == [
        ("predictions", 0, "malformed"),
        ("outcomes", 0, "before_prediction"),
        ("outcomes", 1, "future"),
    ]
    assert values == [
        repr(predictions.records[0][1]).encode(),
        repr(observe("a", 0)).encode(),
        repr(observe("b", 400)).encode(),
    ]
    assert run.rejected == {
        ("predictions", "malformed"): 1,
        ("outcomes", "before_prediction"): 1,
        ("outcomes", "future"): 1,
    }


def test_a_key_that_belongs_elsewhere_is_counted_beside_accepted():
    ids = [f"id{i}" for i in range(40)]
    home = [i for i in ids if (murmur2(i.encode()) & 0x7FFFFFFF) % 4 == 2]
    predictions, outcomes = Log([(1.0, predict(i, 1)) for i in ids]), Log([(0.5, observe(i, 1)) for i in ids])
    joiner = Joiner(2, SETTINGS, partitions=4)
    keyless = outcomes.batch(0, len(ids))
    keyless.keys = [None, *keyless.keys[1:]]
    joiner.predictions(predictions.batch(0, len(ids)))
    joiner.outcomes(keyless)
    joiner.advance(predictions=5.0, outcomes=5.0)
    totals = joiner.totals
    assert totals["predictions"]["misplaced"] == len(ids) - len(home)
    assert totals["outcomes"]["misplaced"] == len(ids) - len(home) + (ids[0] in home)
    assert totals["outcomes"]["accepted"] == len(ids)
    rejected = joiner.take().counts.get(("predictions", "rejected"), 0)
    assert rejected == 0


def test_a_misplaced_outcome_that_waits_is_still_misplaced_after_a_restart():
    stray = next(f"id{i}" for i in range(9) if (murmur2(f"id{i}".encode()) & 0x7FFFFFFF) % 4 != 0)
    predictions, outcomes = Log([(3.0, predict(stray, 3))]), Log([(1.0, observe(stray, 1))])
    joiner, run = Joiner(0, SETTINGS, partitions=4), Run()
    joiner.outcomes(outcomes.batch(0, 1))
    joiner.advance(predictions=2.0, outcomes=2.0)
    run.add(joiner.take())
    joiner = restore(run, predictions, outcomes, partitions=4)
    joiner.predictions(predictions.batch(0, 1))
    joiner.advance(predictions=9.0, outcomes=9.0)
    assert joiner.totals["outcomes"]["misplaced"] == joiner.totals["outcomes"]["accepted"] == 1


# Restoring


def waiting_run(ids="abc"):
    predictions = Log([(1.0, predict(i, 1, group=i)) for i in ids], first=100)
    outcomes = Log([(1.0, observe("z", 1))], first=50)
    joiner, run = Joiner(0, SETTINGS), Run()
    joiner.start(predictions=100, outcomes=50)
    joiner.predictions(predictions.batch(0, len(ids)))
    joiner.outcomes(outcomes.batch(0, 1))
    joiner.advance(predictions=2.0, outcomes=2.0)
    run.add(joiner.take())
    return run, predictions, outcomes


def test_predictions_that_retention_removed_refuse_the_restore():
    run, predictions, outcomes = waiting_run()
    predictions.records, predictions.first = predictions.records[1:], 101
    with pytest.raises(CheckpointError, match=r"1 records .* partition 0 of predictions any more: offsets 100"):
        restore(run, predictions, outcomes)


def test_lost_predictions_get_that_verdict_where_it_is_allowed():
    run, predictions, outcomes = waiting_run()
    short = Log(predictions.records[2:], first=102)
    joiner = restore(run, short, outcomes, allow_lost=True)
    output = joiner.take()
    run.add(output)
    assert [row[:5] for row in run.all_rows()] == [(100, "m", "a", "LOST", -1), (101, "m", "b", "LOST", -1)]
    assert output.counts == {("predictions", "lost"): 2}
    assert joiner.pending() == 1
    assert restore(run, short, outcomes).pending() == 1


def test_outcomes_that_retention_removed_are_unmatched_and_lost():
    run, predictions, _ = waiting_run()
    with pytest.raises(CheckpointError, match="of outcomes any more: offsets 50"):
        restore(run, predictions, Log([], first=51))
    totals = restore(run, predictions, Log([], first=51), allow_lost=True).totals["outcomes"]
    assert (totals["unmatched"], totals["lost"], totals["waiting"]) == (1, 1, 0)


def test_records_that_were_read_but_not_settled_must_be_there_again():
    joiner, run = Joiner(0, SETTINGS), Run()
    predictions = Log([(1.0, predict("a", 1)), (2.0, predict("b", 2))])
    joiner.predictions(predictions.batch(0, 2))
    run.add(joiner.take())
    assert restore(run, predictions, Log([])).buffered() == 2
    with pytest.raises(CheckpointError, match="offsets 0 to 1 of predictions"):
        restore(run, Log(predictions.records[1:], first=1), Log([]))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (b"meta", None, "no 'meta'"),
        (b"meta", b"\x96\x03\x00", "cannot be read"),
        (b"meta", b"\x92\x63\x00", "format 99, expected one of 1, 2, 3, 4"),
        (b"pending/0", b"x", "not a page"),
        (b"pending/x", BitMap([1]).serialize(), "'pending/x' is not a page"),
        (b"pending/0", BitMap([1 << 16]).serialize(), "outside of its page"),
        (b"groups/0", None, "no entry 'groups/0'"),
        (b"groups/0", b"\xc1", "'groups/0' cannot be read"),
        (b"resolved/0", b"\xc1", "'resolved/0' cannot be read"),
        (b"resolved/x", b"\xc1", "not a number"),
        (b"waiting/0", None, "entries, expected"),
        (b"straggler/0", b"\xc1", "'straggler/0' cannot be read"),
    ],
)
def test_a_broken_checkpoint_is_refused_and_the_entry_named(key, value, text):
    entries = dict(waiting_run()[0].entries)
    entries.pop(key, None)
    if value is not None:
        entries[key] = value
    with pytest.raises(CheckpointError, match=text):
        Joiner.restore(0, SETTINGS, entries)


def test_a_checkpoint_of_another_partition_is_refused():
    with pytest.raises(CheckpointError, match="is of partition 0, expected 1"):
        Joiner.restore(1, SETTINGS, waiting_run()[0].entries)


def test_base_is_the_oldest_that_waits_and_follows_what_is_resolved():
    predictions = Log([(float(i), predict(f"p{i}", i)) for i in range(5000)], first=10)
    outcomes = Log([(i + 0.5, observe(f"p{i}", i)) for i in range(5000)])
    joiner, run = Joiner(0, SETTINGS), Run()
    joiner.start(predictions=10, outcomes=0)
    assert joiner.predictions_base == 10
    for start in range(0, 5000, 500):
        joiner.predictions(predictions.batch(start, start + 500))
        joiner.outcomes(outcomes.batch(start, start + 500))
        run.add(joiner.take())
        assert joiner.predictions_applied == 10 + start + 500
        assert 0 <= joiner.predictions_applied - joiner.predictions_base < 2048
        assert 0 <= joiner.outcomes_applied - joiner.outcomes_base < 2048
    assert run.counts["outcomes", "accepted"] == 5000 - 1


def test_a_restore_reads_no_more_than_a_few_records_for_each_that_waits():
    """Labels that never come are copied, with everything that was said; the copies go when they have ended."""
    joiner, run = Joiner(0, Settings(), limits=Limits(reread=2000)), Run()
    n, step = 60_000, 1000
    said = {"scores": {"x": 0.75, "y": 0.25}, "version": "v", "series": "s", "unit": "u", "latency": 0.5}
    answers = [predict(f"p{i}", i / 100, prediction="x", features=Raw(b'{"a":%d}' % i), **said) for i in range(n)]
    predictions = Log([(answer.ts, answer) for answer in answers])
    outcomes = Log([(i / 100, observe(f"p{i}", i / 100, outcome="y")) for i in range(n) if i % 50])
    for start in range(0, n, step):
        joiner.predictions(predictions.batch(start, start + step))
        joiner.outcomes(outcomes.batch(start, start + step))
        run.add(joiner.take())
    joiner.advance(predictions=600.0, outcomes=600.0)
    run.add(joiner.take())
    assert joiner.pending() == n // 50
    assert joiner.predictions_applied - joiner.predictions_base < 10_000
    copied = restore(run, predictions, outcomes, settings=Settings(), step=1000, limits=Limits(reread=2000))
    assert copied.pending() == joiner.pending()
    for again in (joiner, copied):
        again.outcomes(Log([(600.5, observe("p0", 1.0, outcome="y"))], first=10**6).batch(0, 1))
        again.advance(predictions=601.0, outcomes=601.0)
    output = joiner.take()
    run.add(output)
    [first], [second] = output.rows, copied.take().rows
    assert rows_of(first) == rows_of(second)
    assert (first.classes, first.probabilities.tolist()) == (second.classes, second.probabilities.tolist())
    for name in ("version", "series", "unit", "prediction", "latency", "id_hash", "features"):
        assert getattr(first, name)[0] == getattr(second, name)[0]
    assert (second.offset.tolist(), second.feature_bytes(0)) == ([0], b'{"a":0}')
    joiner.advance(predictions=1e6, outcomes=1e6)
    for _ in range(10):
        run.add(joiner.take())
    assert not [key for key in run.entries if key.startswith(b"straggler/")]


def test_what_is_read_and_not_settled_is_not_taken_for_copied():
    joiner, run = Joiner(0, SETTINGS, limits=Limits(reread=0)), Run()
    predictions = Log([(float(i), predict(f"p{i}", float(i), model="long")) for i in range(40)])
    outcomes = Log([(i + 0.5, observe(f"p{i}", float(i))) for i in range(8)])
    joiner.predictions(predictions.batch(0, 40))
    joiner.outcomes(outcomes.batch(0, 8))
    joiner.advance(outcomes=10.0)
    run.add(joiner.take())
    assert (joiner.pending(), joiner.buffered()) == (3, 29)
    joiner.advance(outcomes=39.0)
    run.add(joiner.take())
    assert restore(run, predictions, outcomes, limits=Limits(reread=0)).pending() == joiner.pending() > 20


def test_the_checkpoint_stays_small_whatever_went_through():
    joiner, run = Joiner(0, SETTINGS), Run()
    sizes = []
    for start in range(0, 40_000, 1000):
        predictions = Log([(i / 10, predict(f"p{i}", i / 10)) for i in range(start, start + 1000)], first=start)
        outcomes = Log([(i / 10, observe(f"p{i}", i / 10)) for i in range(start, start + 1000, 2)], first=start)
        joiner.predictions(predictions.batch(0, 1000))
        joiner.outcomes(outcomes.batch(0, 500))
        run.add(joiner.take())
        sizes.append(sum(map(len, run.entries.values())))
    assert max(sizes[10:]) < 2 * min(sizes[10:])
    # 15 s of pending predictions, 4 s of remembered ones: the memory is theirs alone.
    state = joiner._state
    assert joiner.pending() < 200
    assert len(state.table.by_id) < 3000
    assert state.table.live < 3000
    assert state.deadlines.size < 12_000


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(-20, 20)), max_size=20), st.lists(st.floats(0, 1e3), max_size=10)
)
def test_advancing_to_the_deadline_always_makes_progress(made, known):
    records = [(max(at, 0.0), predict(str(i), max(at + lag, 0))) for i, (at, lag) in enumerate(made)]
    joiner = Joiner(0, SETTINGS)
    joiner.predictions(Log(records).batch(0, 20))
    joiner.outcomes(Log([(at, observe(f"x{i}", at)) for i, at in enumerate(known)]).batch(0, 10))
    joiner.take()
    steps = 0
    while (now := joiner.deadline()) is not None:
        joiner.advance(predictions=now, outcomes=now)
        output = joiner.take()
        assert output.counts or output.rows
        steps += 1
    assert steps <= 2 * (len(made) + len(known))
    assert joiner.pending() == joiner.totals["outcomes"]["waiting"] == joiner.buffered() == 0


def test_many_predictions_of_one_deadline_expire_in_order_of_offset():
    both = ModelSettings(outcome_window=Seconds(0), grace=Seconds(0))
    joiner = Joiner(0, Settings(defaults=both))
    joiner.predictions(Log([(3.0, predict(str(i), 3)) for i in range(50)]).batch(0, 50))
    joiner.advance(predictions=3.5, outcomes=3.5)
    [batch] = joiner.take().rows
    assert batch.offset.tolist() == list(range(50))


WAITING = 20_000
PATIENT = Settings(defaults=ModelSettings(outcome_window=Seconds(600), grace=Seconds(5), remember=Seconds(4)))


def long_silent() -> tuple[Joiner, Run, Log]:
    """Return a joiner with many predictions of ten minutes that wait, its checkpoint, and their log."""
    log = Log([(i * 0.03, predict(str(i), i * 0.03)) for i in range(WAITING)])
    joiner, run = Joiner(0, PATIENT), Run()
    joiner.predictions(log.batch(0, WAITING))
    joiner.advance(outcomes=600.0)
    run.add(joiner.take())
    assert run.pending == {("m", "g"): WAITING}
    return joiner, run, log


@pytest.mark.parametrize("restarts", [False, True])
def test_what_a_long_silence_ends_at_once_comes_out_in_parts_of_the_size_there_is_room_for(restarts):
    joiner, run, log = long_silent()
    joiner.room = 2000 * ROW_BYTES
    joiner.advance(predictions=1e6, outcomes=1e6)
    clocks, parts = [], []
    while True:
        clocks.append(joiner.log_time)
        before = len(run.all_rows())
        run.add(joiner.take())
        parts.append(len(run.all_rows()) - before)
        if not joiner.behind:
            break
        # All of a log time or nothing: whoever is told of a clock may rely on it.
        assert [row[6] + 605 < clocks[-1] for row in run.rows["m"]] == [True] * sum(parts)
        if restarts:
            joiner = restore(run, log, Log([]), settings=PATIENT, step=5000, room=joiner.room)
        else:
            joiner.advance()
    assert sum(parts) == WAITING
    assert all(2000 <= part <= 2000 + STEP for part in parts[:-1])
    assert clocks == sorted(set(clocks))
    assert clocks[-1] == 1e6
    whole, expected, _ = long_silent()
    whole.advance(predictions=1e6, outcomes=1e6)
    expected.add(whole.take())
    assert run.rows == expected.rows
    assert joiner.totals == whole.totals


def test_what_there_is_no_room_for_keeps_its_place_before_what_comes_next():
    joiner, run, _ = long_silent()
    joiner.room = 2000 * ROW_BYTES
    joiner.advance(predictions=1e6, outcomes=1e6)
    joiner.predictions(Log([(1e6, predict("new", 1e6))], first=WAITING).batch(0, 1))
    joiner.outcomes(Log([(1e6, observe("new", 1e6)), (1e6 + 1, observe("0", 1e6))]).batch(0, 2))
    joiner.predictions(Log([(1e6 + 1, predict("0", 1e6))], first=WAITING + 1).batch(0, 1))
    joiner.advance(predictions=1e6 + 2)
    while joiner.behind:
        run.add(joiner.take())
        joiner.advance()
    run.add(joiner.take())
    assert [row[0] for row in run.rows["m"]] == [*range(WAITING), WAITING, WAITING + 1]
    assert run.rows["m"][-1][3] == "JOINED"


def test_what_is_resolved_leaves_no_trace_in_the_calendar():
    joiner = Joiner(0, Settings())
    for start in range(0, 60_000, 2000):
        joiner.predictions(
            Log([(i / 100, predict(str(i), i / 100)) for i in range(start, start + 2000)], first=start).batch(0, 2000)
        )
        joiner.outcomes(
            Log([(i / 100, observe(str(i), i / 100)) for i in range(start, start + 2000)], first=start).batch(0, 2000)
        )
        joiner.take()
    assert joiner._state.deadlines.size < 15_000


def test_an_event_of_the_wrong_topic_is_a_bug_and_stays_loud():
    joiner = Joiner(0, SETTINGS)
    joiner.advance(outcomes=9.0)
    with pytest.raises(TypeError, match="expected an event of this topic"):
        joiner.predictions(InputBatch([0], [1.0], [b"a"], [b""], [observe("a", 1)]))
