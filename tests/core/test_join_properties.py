from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamapp.core.join import Joiner, Limits
from streamapp.errors import DecodeError
from tests.core.joining import SETTINGS, Log, Run, observe, oracle, predict, restore, whole

END = 200.0
FEW_IDS = st.sampled_from(["a", "b", "c"])
MANY_IDS = st.integers(0, 30).map(str)
LABELS = st.sampled_from([True, True, True, "x", 1.0, None])


@st.composite
def logs(draw, models=("m", "m", "long", "assumed"), groups=("g", "g", "h")):
    """Two logs whose times are small whole numbers, so that every boundary is met often."""
    first, gap = draw(st.sampled_from([(0, 1), (65_530, 1), (7, 3)]))
    # Few ids meet in every way; many go through together, as columns, with some that do not between them.
    ids, most = draw(st.sampled_from([(FEW_IDS, 14), (MANY_IDS, 40)]))
    predictions, outcomes = [], []
    for records in (predictions, outcomes):
        now = draw(st.integers(0, 10))
        for _ in range(draw(st.integers(0, most))):
            now += draw(st.sampled_from([0, 0, 1, 2, 5, -1, 12]))
            ts = now + draw(st.sampled_from([0, 0, 0, -1, -2, -5, -6, 3, -15, 10, 301]))
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
        st.sampled_from(["predictions", "outcomes", "both", "take", "prove", "again", "crash", "deadline"]),
        st.integers(1, 5),
    ),
    max_size=25,
)


def drive(predictions, outcomes, steps, end=END, **options):
    """Feed a joiner as the steps say, then all that is left; return everything that came out."""
    joiner, run = Joiner(0, SETTINGS, **options), Run()
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
            joiner = restore(run, predictions, outcomes, **options)
            done = {
                "predictions": predictions.place(joiner.predictions_applied),
                "outcomes": outcomes.place(joiner.outcomes_applied),
            }
    joiner.advance(predictions=end, outcomes=end)
    run.add(joiner.take())
    return run, joiner


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
    run.add(joiner.take())
    run.add(joiner.take())  # what was remembered at the first is forgotten with the second
    state = joiner._state
    assert joiner.pending() == joiner.buffered() == joiner.waiting == 0
    assert not state.table.by_id
    assert state.table.live == 0
    assert not state.remembered.hashed
    assert not state.early.by_id
    assert state.deadlines.size == 0
    assert {key for key in run.entries if not key.startswith(b"names/")} == {b"meta"}


MANY = logs(models=("m", "n", "long", "other"), groups=("g", "h", "i", "other"))
FEW = Limits(groups=2, models=1)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MANY, STEPS)
def test_names_beyond_the_limits_become_other_in_order_of_their_first_accepted_prediction(both, steps):
    """Nothing else changes, whatever the order of reading and the restarts are."""
    unlimited, _ = drive(*both, [], end=1e9)
    models, groups = [], {}

    def counted(model, group):
        if model not in models and (model == "long" or model == "other" or len(models) < FEW.models):
            models.append(model)
        model = model if model in models else "other"
        if model == "other" and model not in models:
            models.append(model)
        taken = groups.setdefault(model, [])
        if group not in taken and (group == "other" or len(taken) < FEW.groups):
            taken.append(group)
        group = group if group in taken else "other"
        if group not in taken:
            taken.append(group)
        return model, group

    names = {row[0]: counted(*row[1:3]) for row in unlimited.all_rows()}
    expected = sorted((row[0], *names[row[0]], *row[3:]) for row in unlimited.all_rows())
    run, joiner = drive(*both, steps, end=1e9, limits=FEW)
    assert run.all_rows() == expected
    assert run.arrived == Counter(names.values())
    assert run.dead == unlimited.dead
    changed = [(row[1] != names[row[0]][0], row[2] != names[row[0]][1]) for row in unlimited.all_rows()]
    marks = joiner.totals["predictions"]
    assert (marks["other_model"], marks["other_group"]) == tuple(map(sum, zip(*changed, strict=True))) or not changed
    assert all(batch_model in models for batch_model in run.rows)
