"""Outcomes that come by the night, late, shuffled, with wrong clocks, on windows of days."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.core.join import Joiner
from streamapp.core.settings import ModelSettings, Seconds, Settings
from tests.core.joining import Log, Run, observe, oracle, predict, restore

HOUR = 3600.0
DAY = 24 * HOUR
WINDOW, GRACE = DAY, 2 * DAY
DAYS = Settings(defaults=ModelSettings(outcome_window=Seconds(WINDOW), grace=Seconds(GRACE)))
START = 1_772_323_200.0
"""A midnight."""
IN_2100 = 4_102_444_800.0
UPLOAD_AT = 2 * HOUR
WEEK = 7
END = START + 30 * DAY

STEPS = st.lists(
    st.tuples(st.sampled_from(["predictions", "outcomes", "take", "crash"]), st.integers(1, 12)), max_size=20
)


def read(predictions: Log, outcomes: Log, steps: list[tuple[str, int]], end: float = END) -> Run:
    """Feed a joiner as the steps say, restarting it where they say so, then all that is left."""
    joiner, run = Joiner(0, DAYS), Run()
    logs = {"predictions": predictions, "outcomes": outcomes}
    done = {"predictions": 0, "outcomes": 0}
    for name, count in [*steps, ("predictions", 10_000), ("outcomes", 10_000)]:
        if name in logs:
            getattr(joiner, name)(logs[name].batch(done[name], done[name] + count))
            done[name] = min(done[name] + count, len(logs[name].records))
        elif name == "take":
            run.add(joiner.take())
        elif run.entries:
            joiner = restore(run, predictions, outcomes, settings=DAYS)
            done = {
                "predictions": predictions.place(joiner.predictions_applied),
                "outcomes": outcomes.place(joiner.outcomes_applied),
            }
    joiner.advance(predictions=end, outcomes=end)
    run.add(joiner.take())
    return run


def agrees(run: Run, predictions: Log, outcomes: Log, end: float = END) -> None:
    rows, _, pending, dead = oracle(predictions, outcomes, end, DAYS)
    assert run.all_rows() == rows
    assert run.pending == pending
    assert sorted(letter[:3] for letter in run.dead) == sorted(dead.elements())


@st.composite
def weeks(draw):
    """A week of predictions as they come, its outcomes by the night, and what must become of each prediction."""
    made = sorted(draw(st.lists(st.integers(0, int(WEEK * DAY)), min_size=1, max_size=25)))
    predictions, uploads, expected = [], {}, {}
    for number, seconds in enumerate(made):
        ts = START + seconds
        predictions.append((ts + draw(st.integers(0, 60)), predict(str(number), ts)))
        expected[number] = "EXPIRED"
        if draw(st.integers(0, 9)) == 0:
            continue  # nobody ever says
        known = ts + draw(st.integers(0, int(26 * HOUR)))
        nights = 1 + draw(st.sampled_from([0, 0, 0, 1, 2]))
        upload = START + ((known - START) // DAY + nights) * DAY + UPLOAD_AT
        uploads.setdefault(upload, []).append(observe(str(number), known))
        if draw(st.integers(0, 9)) == 0:  # and the next night once more
            uploads.setdefault(upload + DAY, []).append(observe(str(number), known))
        if known <= ts + WINDOW and upload <= predictions[-1][0] + WINDOW + GRACE:
            expected[number] = "JOINED"
    outcomes = [(at, event) for at in sorted(uploads) for event in draw(st.permutations(uploads[at]))]
    return Log(predictions), Log(outcomes), expected


@settings(max_examples=150, deadline=None)
@given(weeks(), STEPS)
def test_a_nightly_upload_in_any_order_expires_nothing_that_it_holds(week, steps) -> None:
    predictions, outcomes, expected = week
    run = read(predictions, outcomes, steps)
    assert {row[0]: row[3] for row in run.all_rows()} == expected
    agrees(run, predictions, outcomes)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(30)), st.permutations(range(30)), STEPS)
def test_a_week_at_once_shuffled_on_both_sides_is_joined_whole(first, second, steps) -> None:
    """Whatever the times in the events are, waiting is counted from when they came."""
    predictions = Log([(START + 8 * DAY, predict(str(n), START + n * 5 * HOUR)) for n in first])
    outcomes = Log([(START + 9 * DAY, observe(str(n), START + n * 5 * HOUR + 20 * HOUR)) for n in second])
    run = read(predictions, outcomes, steps)
    assert [row[3] for row in run.all_rows()] == ["JOINED"] * 30


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.floats(0, 5 * DAY))
def test_what_is_overdue_expires_though_no_outcome_ever_comes_and_nothing_sooner(count, after) -> None:
    predictions, outcomes = Log([(START + n, predict(str(n), START + n)) for n in range(count)]), Log([])
    run = read(predictions, outcomes, [], end=START + after)
    overdue = [n for n in range(count) if START + n + WINDOW + GRACE < START + after]
    assert [row[0] for row in run.all_rows()] == overdue
    assert all(row[3] == "EXPIRED" for row in run.all_rows())


@st.composite
def skewed(draw):
    """Two logs of services whose clocks are off by up to an hour, with one event of the year 2100 in each."""
    logs = []
    for make in (predict, observe):
        now, records = START + draw(st.integers(0, 3 * 3600)), []
        for _ in range(draw(st.integers(1, 15))):
            now += draw(st.sampled_from([0, 60, 3600, 40_000]))
            skew = draw(st.sampled_from([-HOUR, 0, 0, HOUR]))
            records.append((float(now), make(draw(st.sampled_from("abcdef")), now + skew)))
        place = draw(st.integers(0, len(records)))
        at = records[place - 1][0] if place else START
        records.insert(place, (at, make(draw(st.sampled_from("abcdef")), IN_2100)))
        logs.append(Log(records))
    return logs


@settings(max_examples=150, deadline=None)
@given(skewed(), STEPS)
def test_wrong_clocks_and_an_event_of_the_year_2100_move_nothing(logs, steps) -> None:
    predictions, outcomes = logs
    run = read(predictions, outcomes, steps)
    agrees(run, predictions, outcomes)
    assert {letter[2] for letter in run.dead} >= {"future"}
