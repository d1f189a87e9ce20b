from collections import Counter
from math import inf
from unittest.mock import patch

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamapp.core.join import Joiner, Limits
from streamapp.core.joining.state import ROW_BYTES
from streamapp.core.settings import Seconds, Settings
from streamapp.errors import DecodeError
from tests.core.joining import SETTINGS, SHORT, Log, Names, Run, observe, oracle, predict, restore, whole

END = 200.0
FEW_IDS = st.sampled_from(["a", "b", "c"])
MANY_IDS = st.integers(0, 30).map(str)
LABELS = st.sampled_from([True, True, True, "x", 1.0, None])


@st.composite
def logs(draw, models=("m", "m", "long", "assumed"), groups=("g", "g", "h"), pauses=(0, 0, 1, 2, 5, -1, 12), ahead=301):
    """Two logs whose times are small whole numbers, so that every boundary is met often."""
    first, gap = draw(st.sampled_from([(0, 1), (65_530, 1), (7, 3)]))
    # Few ids meet in every way; many go through together, as columns, with some that do not between them.
    ids, most = draw(st.sampled_from([(FEW_IDS, 14), (MANY_IDS, 40)]))
    predictions, outcomes = [], []
    for records in (predictions, outcomes):
        now = draw(st.integers(0, 10))
        for _ in range(draw(st.integers(0, most))):
            now += draw(st.sampled_from(pauses))
            ts = now + draw(st.sampled_from([0, 0, 0, -1, -2, -5, -6, 3, -15, 10, ahead]))
            if draw(st.integers(0, 19)) == 0:
                event = DecodeError("bad", reason="malformed")
            elif records is predictions:
                event = predict(
                    draw(ids),
                    max(ts, 0),
                    group=draw(st.sampled_from(groups)),
                    model=draw(st.sampled_from(models)),
                    prediction=draw(LABELS),
                    scores=0.5,
                )
            else:
                event = observe(
                    draw(ids),
                    max(ts, 0),
                    outcome=draw(LABELS),
                    loss=0.5,
                    revision=draw(st.sampled_from([0, 0, 0, 1, 2])),
                    status=draw(st.sampled_from([None, None, None, "never"])),
                )
            records.append((float(max(now, 0)), event))
    return Log(predictions, first, gap), Log(outcomes, first, gap)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["predictions", "outcomes", "both", "take", "prove", "again", "crash", "deadline", "room"]),
        st.integers(1, 5),
    ),
    max_size=25,
)


def drive(predictions, outcomes, steps, end=END, configured=SETTINGS, **options):
    """Feed a joiner as the steps say, then all that is left; return everything that came out."""
    with patch("streamapp.core.join.STEP", 2):
        return _drive(predictions, outcomes, steps, end, configured, **options)


def _drive(predictions, outcomes, steps, end, configured, **options):
    joiner, run, room = Joiner(0, configured, **options), Run(), inf
    logs = {"predictions": predictions, "outcomes": outcomes}
    done = {"predictions": 0, "outcomes": 0}
    times = {name: log.log_times() for name, log in logs.items()}
    for name, n in [*steps, ("predictions", 100), ("outcomes", 100)]:
        if name in logs or name == "both":
            for topic in logs if name == "both" else (name,):
                getattr(joiner, topic)(logs[topic].batch(done[topic], done[topic] + n))
                done[topic] = min(done[topic] + n, len(logs[topic].records))
        elif name == "take":
            run.add(joiner.take())
            if n > 2:  # else something may be handed in before what there was no room for is settled
                joiner.advance()
        elif name == "room":
            joiner.room = room = (n - 1) * ROW_BYTES or inf
        elif name in ("prove", "deadline"):
            # What may be claimed: a log time below that of everything unread.
            proofs = {
                topic: (times[topic][done[topic]] - 0.5 if done[topic] < len(times[topic]) else end - 150 + n)
                for topic in logs
            }
            now = joiner.deadline() if name == "deadline" else None
            if now is not None:
                proofs = {topic: min(now, proof) for topic, proof in proofs.items()}
            joiner.advance(**proofs)
        elif name == "again":
            for topic, log in logs.items():
                getattr(joiner, topic)(log.batch(max(done[topic] - n, 0), done[topic]))
        elif name == "crash" and run.entries:
            joiner = restore(run, predictions, outcomes, settings=configured, room=room, **options)
            done = {
                "predictions": predictions.place(joiner.predictions_applied),
                "outcomes": outcomes.place(joiner.outcomes_applied),
            }
    joiner.advance(predictions=end, outcomes=end)
    drain(joiner, run)
    return run, joiner


def drain(joiner, run):
    """Take until there has been room for everything."""
    run.add(joiner.take())
    while joiner.behind:
        joiner.advance()
        assert joiner.full or not joiner.behind
        run.add(joiner.take())


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(logs())
def test_a_slow_oracle_agrees_on_pairs_verdicts_and_counts(both):
    predictions, outcomes = both
    for end in (END, max([0.0, *predictions.log_times(), *outcomes.log_times()])):
        run, joiner = whole(predictions, outcomes, end)
        rows, counts, pending, dead = oracle(predictions, outcomes, end)
        assert run.all_rows() == rows
        totals = {(topic, s): n for topic, table in joiner.totals.items() for s, n in table.items() if n}
        assert totals == counts
        assert run.pending == pending
        assert sorted(letter[:3] for letter in run.dead) == sorted(dead.elements())


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(logs(), STEPS)
def test_order_of_reading_redelivery_and_restarts_change_nothing(both, steps):
    expected, joiner = whole(*both, END)
    run, other = drive(*both, steps)
    assert run.rows == expected.rows
    assert run.dead == expected.dead
    assert run.arrived == expected.arrived
    assert other.totals == joiner.totals
    assert (run.counts, run.rejected) == (expected.counts, expected.rejected)
    assert run.pending == expected.pending


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(logs(), STEPS, st.integers(0, 3))
def test_copies_in_the_checkpoint_stand_for_the_records_that_a_restore_need_not_read(both, steps, reread):
    expected, joiner = whole(*both, END)
    run, other = drive(*both, steps, limits=Limits(reread=reread))
    assert run.rows == expected.rows
    assert run.dead == expected.dead
    assert other.totals == joiner.totals
    assert run.pending == expected.pending


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(logs(), STEPS)
def test_when_every_window_grace_and_horizon_has_passed_nothing_is_left(both, steps):
    run, joiner = drive(*both, steps)
    joiner.advance(predictions=1e9, outcomes=1e9)
    drain(joiner, run)
    run.add(joiner.take())  # what was remembered at the first is forgotten with the second
    state = joiner._state
    assert joiner.pending() == joiner.buffered() == joiner.waiting == 0
    assert not state.table.by_id
    assert state.table.live == 0
    assert len(state.remembered) == 0
    assert not state.early.by_id
    assert state.deadlines.size == 0
    assert not state.roster.taken
    assert set(run.entries) == {b"meta"}


FEW = Limits(groups=2, models=1)
NAMED = msgspec.structs.replace(SHORT, forget_after=Seconds(1), groups={"i": 0.5})
FORGETFUL = Settings(
    defaults=msgspec.structs.replace(SHORT, forget_after=Seconds(1)),
    models={
        **{name: msgspec.structs.replace(s, forget_after=Seconds(600)) for name, s in SETTINGS.models.items()},
        "named": NAMED,
    },
)
"""What is silent for little more than the five minutes that a ts may lie ahead, or for ten, is forgotten."""
NAMES = {"models": ("m", "m", "n", "k", "long", "named", "other"), "groups": ("g", "h", "i", "j", "other")}
SHORTLY, LONG = logs(**NAMES), logs(**NAMES, pauses=(0, 1, -1, 20, 90, 130, 160, 200, 322, 341), ahead=299)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SHORTLY | LONG, STEPS, st.booleans(), st.sampled_from([FEW, Limits(groups=1, models=2, reread=0)]))
def test_names_beyond_the_limits_become_other_until_names_that_are_gone_make_room(both, steps, forgetful, limits):
    """As the oracle says, whatever the order of reading, the restarts, and the moments of taking are."""
    configured = FORGETFUL if forgetful else SETTINGS
    rows, counts, _, dead = oracle(*both, 1e9, configured, limits)
    run, joiner = drive(*both, steps, end=1e9, configured=configured, limits=limits)
    assert run.all_rows() == rows
    assert run.arrived == Counter(row[1:3] for row in rows)
    assert {(topic, s): n for topic, table in joiner.totals.items() for s, n in table.items() if n} == counts
    assert sorted(letter[:3] for letter in run.dead) == sorted(dead.elements())
    assert not run.pending
    assert not joiner._state.roster.taken
    assert not joiner._state.groups._by_model


BAD = DecodeError("bad", reason="malformed")
NAMES_IN_ANOTHER_ORDER = Log(
    [(0.0, BAD), (0.0, predict("a", 0, group="h")), (0.0, BAD)]
    + [(20.0, predict("a", 20, group=group)) for group in ("g", "h")]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example((NAMES_IN_ANOTHER_ORDER, Log([])), [], 0)
@given(LONG, STEPS, st.integers(0, 10_000))
def test_memory_and_checkpoint_hold_the_names_that_are_current_and_no_others(both, steps, beyond):
    predictions, outcomes = both
    now = max([0.0, *predictions.log_times(), *outcomes.log_times()]) + beyond
    expected = Names(FORGETFUL, FEW)
    rows, _, pending, _ = oracle(*both, now, FORGETFUL, FEW, names=expected)
    run, joiner = drive(*both, steps, end=now, configured=FORGETFUL, limits=FEW)
    assert run.all_rows() == rows
    assert run.pending == pending
    back = restore(run, predictions, outcomes, settings=FORGETFUL, limits=FEW)
    for each in (joiner, back):
        taken = each._state.roster.taken
        assert {(model, group) for model, groups in taken.items() for group in groups} == expected.taken(now)
        assert {model for model, last in expected.models.items() if expected.current(model, last, now)} == set(taken)
    assert sum(key.startswith(b"names/") for key in run.entries) == len(joiner._state.roster.taken)
    assert not back.take().state
